"""Programs that only checks and fault tests need, from the ordinary registries, without root: `make tools`.

Go modules are pinned with their hashes in `deploy/tools/go.mod` and `go.sum`; Debian's packages are taken as the
distribution signs them and unpacked, not installed. What cannot be had on a machine is left out, and the tests that
need it say so.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".tools"

GO = {
    "helm": "helm.sh/helm/v3/cmd/helm",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
}
#: Program: its Debian package, and where it lies in it.
DEBIAN = {
    "promtool": ("prometheus", "usr/bin/promtool"),
    "prometheus": ("prometheus", "usr/bin/prometheus"),
    "redis-server": ("redis-server", "usr/bin/redis-server"),
    "bwrap": ("bubblewrap", "usr/bin/bwrap"),
}
#: What a package needs that a small machine may lack.
BESIDE = {"redis-server": ("redis-tools", "libjemalloc2", "liblzf1", "libatomic1")}


def find(name: str) -> str | None:
    """The program's path: what `make tools` fetched, or what the machine has."""
    fetched = FOLDER / "bin" / name
    return str(fetched) if fetched.exists() else shutil.which(name)


def need(name: str) -> str:
    """The program's path; the test is left out where it is not to be had, unless CI is, where it has to be."""
    path = find(name)
    if path is None:
        if os.environ.get("CI"):
            raise AssertionError(f"{name} is missing: make tools")
        pytest.skip(f"{name} is not on this machine: make tools")
    return path


def fetch() -> int:
    """Get all that is missing; says what could not be had, and is 1 then."""
    (FOLDER / "bin").mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    for name, package in GO.items():
        if find(name) is None and not _from_go(name, package):
            missing.append(f"{name} (needs go)")
    packages = {package: [n for n, (p, _) in DEBIAN.items() if p == package] for package, _ in DEBIAN.values()}
    for package, names in packages.items():
        if any(find(name) is None for name in names) and not _from_debian(package, names):
            missing.append(f"{', '.join(names)} (needs apt-get)")
    if missing:
        print(f"make tools: not to be had here: {'; '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


def _from_go(name: str, package: str) -> bool:
    go = shutil.which("go")
    if go is None:
        return False
    print(f"building {name} ...", file=sys.stderr)
    return _run([go, "build", "-mod=readonly", "-o", str(FOLDER / "bin" / name), package], ROOT / "deploy" / "tools")


def _from_debian(package: str, names: Sequence[str]) -> bool:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    print(f"fetching {package} ...", file=sys.stderr)
    state = FOLDER / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "packages"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"]
    apt += ["-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1"]
    if not any((state / "lists").glob("*Packages*")) and not _run([*apt, "update"], state):
        return False
    if not _run([*apt, "download", package, *BESIDE.get(package, ())], state / "packages"):
        return False
    for archive in (state / "packages").glob("*.deb"):
        if not _run(["dpkg-deb", "-x", str(archive), str(state / "root")], state):
            return False
    for name in names:
        libraries = ":".join(str(path) for path in (state / "root" / "usr" / "lib").glob("*-linux-gnu"))
        start = FOLDER / "bin" / name
        start.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {state / "root" / DEBIAN[name][1]} "$@"\n')
        start.chmod(0o755)
    return all(find(name) for name in names)


def _run(command: Sequence[str], folder: Path) -> bool:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print((done.stderr or done.stdout).strip()[-2000:], file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(fetch())
