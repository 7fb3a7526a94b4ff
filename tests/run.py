"""`make test`: the whole suite in two processes, with branch coverage of everything it starts."""

import os
import subprocess
import sys
from pathlib import Path

#: Percent of relay/ and workers/, with branches, below which the suite fails.
ENOUGH = 90


def main(arguments: list[str]) -> int:
    """Run pytest under coverage; with arguments only what they select, and without a coverage bar."""
    here = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "COVERAGE_PROCESS_START": str(here / "pyproject.toml"), "PYTHONUNBUFFERED": "1"}
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "erase"], cwd=here, env=environment, check=False)
    tests = subprocess.run(
        [*coverage, "run", "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *arguments],
        cwd=here,
        env=environment,
        check=False,
    )
    if tests.returncode != 0 or arguments:
        return tests.returncode
    subprocess.run([*coverage, "combine", "-q"], cwd=here, env=environment, check=True)
    report = subprocess.run([*coverage, "report", f"--fail-under={ENOUGH}"], cwd=here, env=environment, check=False)
    return report.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
