"""The Dockerfile without an engine: read, built step by step in a sandbox, and run as a container would be.

Dockerfile ── steps() ──▶ build(): COPY and RUN of the first stage      Image ── run(), start() ──▶ process 1 as
                          on this machine's interpreter, in bubblewrap   nobody, read-only root, /tmp, no shell
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.tools import ROOT

#: What stands for a shell on most machines; a container of the relay has to do without.
SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/busybox")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: `word` in capitals, `text` with its lines joined, and the number of its stage from 0."""

    word: str
    text: str
    stage: int

    @property
    def array(self) -> list[str] | None:
        """The words of an instruction in exec form; None in shell form."""
        start = self.text.find("[")
        if start < 0 or not self.text.endswith("]"):
            return None
        words: list[str] = json.loads(self.text[start:])
        return words


def steps(path: Path = ROOT / "Dockerfile") -> list[Step]:
    """All instructions; stage -1 before the first FROM."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Step] = []
    stage = -1
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, text = line.strip().partition(" ")
        stage += word.upper() == "FROM"
        found.append(Step(word.upper(), " ".join(text.split()), stage))
    return found


def environment(stage: int) -> dict[str, str]:
    """What ENV sets in a stage; `$PATH` stays in it."""
    pairs = [shlex.split(step.text) for step in steps() if step.word == "ENV" and step.stage == stage]
    return dict(pair.split("=", 1) for words in pairs for pair in words)


def _root(*, without: Sequence[str] = ()) -> list[str]:
    """This machine's root, read-only, entry by entry, so that others can lie beside."""
    arguments: list[str] = []
    for entry in sorted(Path("/").iterdir()):
        if entry.name in ("dev", "proc", "tmp", "opt", *without):
            continue
        arguments += ["--symlink", os.readlink(entry), str(entry)] if entry.is_symlink() else _read(entry, entry)
    for entry in sorted(Path("/opt").iterdir()) if Path("/opt").is_dir() else []:
        arguments += _read(entry, entry)
    return [*arguments, "--dev", "/dev", "--proc", "/proc"]


def _read(source: Path, target: Path | str) -> list[str]:
    return ["--ro-bind", str(source), str(target)]


def _outside() -> dict[str, str]:
    """This process's environment without what is about the relay or about tests."""
    dropped = ("RELAY_", "PYTHON", "COVERAGE", "COV_", "PYTEST", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def build(bwrap: str, folder: Path) -> None:
    """The first stage, in `folder`: its COPY and RUN lines, with this environment's interpreter for the base's."""
    for name in ("build", "relay", "builder", "tmp"):
        (folder / name).mkdir(parents=True)
    sandbox = [bwrap, *_root(), "--bind", str(folder / "tmp"), "/tmp", "--bind", str(folder / "build"), "/build"]
    sandbox += ["--bind", str(folder / "relay"), "/opt/relay", "--bind", str(folder / "builder"), "/opt/builder"]
    # The environment's interpreter, or, where the tree lies in /tmp and is hidden, the one that it was made from.
    here = Path(sys.executable)
    path = f"{here.parent}:{here.resolve().parent}:/usr/local/bin:/usr/bin:/bin"
    variables = {**_outside(), **environment(0), "PATH": path}
    for step in steps():
        if step.stage != 0:
            continue
        if step.word == "COPY":
            *sources, target = step.text.split()
            for source in sources:
                _copy(ROOT / source, folder / "build" / target)
        elif step.word == "RUN":
            command = [*sandbox, "--chdir", "/build", "--die-with-parent", "/bin/sh", "-ec", step.text]
            done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


def _copy(source: Path, target: Path) -> None:
    """As COPY does, of what .dockerignore lets through."""
    assert f"!{source.name}" in (ROOT / ".dockerignore").read_text().splitlines(), f"{source.name} is not sent"
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


class Process:
    """Process 1 of a container."""

    def __init__(self, popen: "subprocess.Popen[bytes]", pid: int, log: Path) -> None:
        self._popen = popen
        self._pid = pid
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def status(self) -> int | None:
        return self._popen.poll()

    def stop(self, within: float = 60.0) -> int:
        """The STOPSIGNAL, as the engine sends it; the exit status."""
        [step] = [step for step in steps() if step.word == "STOPSIGNAL"]
        os.kill(self._pid, signal.Signals[step.text])
        return self._popen.wait(timeout=within)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._popen.kill()
        self._popen.wait(timeout=10)


class Image:
    """What the first stage made, run as the second says: its user, environment and entry, nothing writable but /tmp."""

    def __init__(self, bwrap: str, folder: Path, tmp: Path, mounts: Mapping[str, Path]) -> None:
        self.tmp = tmp
        [user] = [step.text for step in steps() if step.word == "USER"]
        uid, _, gid = user.partition(":")
        self._sandbox = [bwrap, *_root(), *_read(folder / "relay", "/opt/relay"), "--bind", str(tmp), "/tmp"]
        for target, source in mounts.items():
            self._sandbox += _read(source, target)
        shells = {os.path.realpath(path) for path in SHELLS if os.path.exists(path)}
        self._sandbox += [argument for path in sorted(shells) for argument in _read(Path("/dev/null"), path)]
        self._sandbox += ["--remount-ro", "/", "--unshare-user", "--uid", uid, "--gid", gid, "--cap-drop", "ALL"]
        self._sandbox += ["--unshare-pid", "--as-pid-1", "--die-with-parent", "--chdir", "/", "--clearenv"]
        [entry] = [step.array for step in steps() if step.word == "ENTRYPOINT"]
        assert entry is not None
        self._entry = entry

    def run(
        self, *words: str, entry: Sequence[str] | None = None, **settings: str
    ) -> "subprocess.CompletedProcess[str]":
        """One command to its end, such as `--help`."""
        command = [*self._sandbox, *self._variables(settings), *(self._entry if entry is None else entry), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def start(self, log: Path, *words: str, **settings: str) -> Process:
        """A process that stays."""
        reading, writing = os.pipe()
        command = [*self._sandbox, "--info-fd", str(writing), *self._variables(settings), *self._entry, *words]
        with log.open("ab") as out:
            popen = subprocess.Popen(command, stdout=out, stderr=out, pass_fds=[writing])
        os.close(writing)
        with os.fdopen(reading) as info:
            text = info.read()
        assert text, log.read_text()
        return Process(popen, json.loads(text)["child-pid"], log)

    def _variables(self, settings: Mapping[str, str]) -> list[str]:
        given = {name: value.replace("$PATH", "/usr/bin:/bin") for name, value in environment(1).items()}
        given |= {f"RELAY_{name.upper()}": value for name, value in settings.items()}
        return [word for name, value in given.items() for word in ("--setenv", name, value)]
