"""The house: what must stand at the top level, and what no file may hold."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines()]


def test_the_readme_shows_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "make demo" in readme
    assert "make test" in readme
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_no_lock_file_names_an_address() -> None:
    for name in ("requirements.txt", "requirements-build.txt", "requirements-dev.txt"):
        assert "http" not in re.sub(r"httpcore|httpx|httptools|(proto|exporter)-http", "", (ROOT / name).read_text())
    for lock in (ROOT / "tests" / "node").glob("*/package-lock.json"):
        assert '"resolved"' not in lock.read_text()


def test_modules_stay_small_enough_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked()
        if path.suffix == ".py" and path.parts[len(ROOT.parts)] in ("relay", "workers")
        if (lines := len(path.read_text().splitlines())) > 400
    }

    assert long == {}


def test_every_metric_has_a_help_text_and_the_prefix() -> None:
    from relay.metrics import registry

    families = list(registry.collect())
    assert len(families) > 15
    assert all(family.name.startswith("relay_") and family.documentation for family in families)
