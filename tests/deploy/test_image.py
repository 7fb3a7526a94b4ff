"""The image: what the Dockerfile says, and what it makes, built and run in a sandbox instead of an engine."""

import fcntl
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay import __version__
from relay.vault import generate_master_key
from tests.deploy.dockerfile import Image, Process, build, environment, steps
from tests.support.tools import ROOT, need
from tests.support.workers import unused_ports

#: The first test that needs the image builds it, which fetches some 40 MB.
pytestmark = pytest.mark.timeout(300)

#: Megabytes of the environment in the image, bytecode and tracing included: 57 when this was written.
LARGEST = 64


def _texts(word: str, stage: int) -> list[str]:
    return [step.text for step in steps() if step.word == word and step.stage == stage]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_is_an_argument_with_a_full_version() -> None:
    arguments = dict(text.split("=", 1) for text in _texts("ARG", -1))
    bases = [step.text.split()[0] for step in steps() if step.word == "FROM"]

    assert len(bases) == 2
    for base in bases:
        name = base.removeprefix("${").removesuffix("}")
        assert base == f"${{{name}}}"
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z-]+|[a-z/]+(:[\w.-]+)?@sha256:[0-9a-f]{64}", arguments[name])
    builder, runtime = (arguments[name].replace("-slim", "") for name in ("BUILD_BASE", "RUNTIME_BASE"))
    assert builder == runtime, "they share the interpreter and Debian's release"


def test_the_last_stage_runs_nothing_while_it_is_built_and_needs_no_shell() -> None:
    last = [step for step in steps() if step.stage == 1]

    assert [step for step in last if step.word in ("RUN", "SHELL", "ADD")] == []
    for word in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        assert [step.array is not None for step in last if step.word == word] == [True]
    assert [text for text in _texts("COPY", 1) if "--from=build" not in text] == []


def test_the_user_is_a_number_and_not_root() -> None:
    [user] = _texts("USER", 1)

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_labels_stop_signal_and_environment() -> None:
    [labels] = _texts("LABEL", 1)
    [signal] = _texts("STOPSIGNAL", 1)

    assert signal == "SIGTERM"
    for name in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert environment(1).items() >= {
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONSAFEPATH", "1"),
    }


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The first stage's result; built once for all test processes."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder = shared / "image"
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            need("strip")
            build(need("bwrap"), folder)
            (folder / "done").touch()
    return folder


@pytest.fixture
def image(built: Path, tmp_path: Path, redis_url: str) -> Image:
    """A container's surroundings: a store at /store, an own /tmp."""
    (tmp_path / "tmp").mkdir()
    return Image(need("bwrap"), built, tmp_path / "tmp", {"/store": Path(urlsplit(redis_url).path).parent})


@pytest.fixture
def settings(redis_url: str) -> dict[str, str]:
    api, worker = unused_ports(2)
    return {
        "redis_url": urlsplit(redis_url)._replace(path=f"/store/{Path(redis_url).name}").geturl(),
        "master_keys": generate_master_key("image"),
        "upstream_url": "http://127.0.0.1:1",
        "port": str(api),
        "metrics_port": str(worker),
    }


def test_the_sandbox_is_as_tight_as_it_says(image: Image) -> None:
    """Or the tests below would prove nothing."""
    program = """if True:
        import os, subprocess
        print(os.getuid(), os.getgid(), os.getpid())
        for path in ("/here", "/opt/relay/here", "/usr/here", "/var/tmp/here"):
            try:
                open(path, "w")
                print("written", path)
            except OSError:
                pass
        try:
            subprocess.run(["/bin/sh", "-c", "true"])
            print("a shell")
        except OSError:
            pass
        open("/tmp/here", "w")
    """
    done = image.run("-c", program, entry=["/opt/relay/bin/python"])

    assert (done.stdout, done.stderr) == ("65532 65532 1\n", "")
    assert [path.name for path in image.tmp.iterdir()] == ["here"]


def test_the_commands_are_there_and_no_installer_is(image: Image, built: Path) -> None:
    helped, version = image.run("--help"), image.run("--version")

    assert helped.returncode == 0
    assert all(word in helped.stdout for word in ("api", "worker", "healthcheck", "simulator", "receive"))
    assert version.stdout == f"relay {__version__}\n"
    packages = {path.name for path in (built / "relay").glob("lib/python*/site-packages/*")}
    assert {"relay", "workers"} <= packages
    assert packages.isdisjoint({"pip", "setuptools", "uv", "hatchling", "tests", "bench"})


def test_tracing_can_be_switched_on(image: Image, settings: dict[str, str]) -> None:
    checked = image.run("check", "--json", **settings | {"tracing": "1"})

    findings = json.loads(checked.stdout)["findings"]
    assert [ok for ok, text in findings if "RELAY_TRACING" in text] == [True]


def test_libraries_bring_no_symbols_for_debuggers(built: Path) -> None:
    """That they can be loaded all the same is shown by the processes below."""
    libraries = sorted(str(path) for path in (built / "relay").rglob("*.so"))
    sections = subprocess.run(
        [need("readelf"), "--section-headers", "--wide", *libraries], capture_output=True, text=True, check=True
    ).stdout

    assert len(libraries) >= 5
    assert sections.count(".dynsym") >= len(libraries)
    assert [name for name in (".symtab", ".debug_info") if name in sections] == []


@pytest.mark.parametrize(
    ("words", "process"), [(("api",), "api"), (("worker", "all"), "worker")], ids=["api", "worker"]
)
def test_a_process_lives_on_a_read_only_root_as_nobody(
    image: Image, settings: dict[str, str], tmp_path: Path, words: tuple[str, ...], process: str
) -> None:
    """As process 1, by the image's own health check, until the stop signal; nothing is left in the one place where
    something could be written."""
    [check] = [step.array for step in steps() if step.word == "HEALTHCHECK"]
    assert check is not None
    assert image.run(*check[1:], entry=check[:1], **settings).returncode == 1
    with image.start(tmp_path / "log", *words, **settings) as running:
        _wait(running, lambda: image.run("healthcheck", process, "--ready", **settings).returncode == 0)

        assert image.run(*check[1:], entry=check[:1], **settings).returncode == 0
        assert running.stop() == 0
    assert "Traceback" not in running.log
    assert "Read-only file system" not in running.log
    assert list(image.tmp.iterdir()) == []


def _wait(running: Process, condition: Callable[[], bool], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert running.status is None, running.log
        assert time.monotonic() < deadline, running.log


def test_its_size(built: Path) -> None:
    files = [path for path in (built / "relay").rglob("*") if path.is_file() and not path.is_symlink()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"environment in the image: {megabytes:.1f} MB, {len(files)} files")

    assert 20 < megabytes < LARGEST
