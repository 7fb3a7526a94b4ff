"""Programs that only checks and fault tests need, from the ordinary registries, without root: `make tools`.

Go modules are pinned with their hashes in `deploy/tools` and `deploy/tools/policy` (programs) and `deploy/tools/crds`
(definitions of objects of other controllers, as those publish them); Debian's packages are taken as the distribution
signs them and unpacked, not installed. What cannot be had on a machine is left out, and the tests that
need it say so.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / ".tools"

#: Program: the module's folder that pins it, and its package. kube-score wants older libraries than helm does.
GO = {
    "helm": ("deploy/tools", "helm.sh/helm/v3/cmd/helm"),
    "kubeconform": ("deploy/tools", "github.com/yannh/kubeconform/cmd/kubeconform"),
    "kube-score": ("deploy/tools/policy", "github.com/zegl/kube-score/cmd/kube-score"),
}
#: Program: its Debian package, and where it lies in it.
DEBIAN = {
    "promtool": ("prometheus", "usr/bin/promtool"),
    "prometheus": ("prometheus", "usr/bin/prometheus"),
    "redis-server": ("redis-server", "usr/bin/redis-server"),
    "bwrap": ("bubblewrap", "usr/bin/bwrap"),
}
#: File of a shared library: its Debian package.
LIBRARIES = {"libfaketimeMT.so.1": "libfaketime"}
#: Kind: the module that defines it, and the file in there.
CRDS = {
    "ScaledObject": ("github.com/kedacore/keda/v2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    "HTTPRoute": ("sigs.k8s.io/gateway-api", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
} | {
    kind: (
        "github.com/prometheus-operator/prometheus-operator",
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind.lower()}s.yaml",
    )
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
}
#: What a package needs that a small machine may lack.
BESIDE = {"redis-server": ("redis-tools", "libjemalloc2", "liblzf1", "libatomic1")}


def find(name: str) -> str | None:
    """The program's path: the one that TOOL_<NAME> names, what `make tools` fetched, or what the machine has."""
    fetched = Path(os.environ.get(f"TOOL_{name.upper()}") or FOLDER / "bin" / name)
    return str(fetched) if fetched.exists() else shutil.which(name)


def need(name: str) -> str:
    """The program's path; the test is left out where it is not to be had, unless CI is, where it has to be."""
    path = find(name)
    if path is None:
        if os.environ.get("CI"):
            raise AssertionError(f"{name} is missing: make tools")
        pytest.skip(f"{name} is not on this machine: make tools")
    return path


def find_library(name: str) -> Path | None:
    """As `find`, for a library to be loaded before others."""
    places = (FOLDER / "apt" / "root" / "usr" / "lib", Path("/usr/lib"))
    return next((path for place in places for path in place.glob(f"*/faketime/{name}")), None)


def need_library(name: str) -> str:
    """The library's path; where it is not to be had, as with programs."""
    path = find_library(name)
    if path is None:
        if os.environ.get("CI"):
            raise AssertionError(f"{name} is missing: make tools")
        pytest.skip(f"{name} is not on this machine: make tools")
    return str(path)


def definition(kind: str) -> Path:
    """Where the definition of a foreign kind of object lies; as with programs, the test is left out without it."""
    path = FOLDER / "crds" / f"{kind}.yaml"
    if not path.exists():
        if os.environ.get("CI"):
            raise AssertionError(f"the definition of {kind} is missing: make tools")
        pytest.skip(f"the definition of {kind} is not on this machine: make tools")
    return path


def fetch() -> int:
    """Get all that is missing; says what could not be had, and is 1 then."""
    (FOLDER / "bin").mkdir(parents=True, exist_ok=True)
    missing: list[str] = []
    for name, (folder, package) in GO.items():
        if find(name) is None and not _from_go(name, package, ROOT / folder):
            missing.append(f"{name} (needs go)")
    if not all((FOLDER / "crds" / f"{kind}.yaml").exists() for kind in CRDS) and not _definitions():
        missing.append("definitions of objects (needs go)")
    packages = {package: [n for n, (p, _) in DEBIAN.items() if p == package] for package, _ in DEBIAN.values()}
    for package, names in packages.items():
        if any(find(name) is None for name in names) and not _from_debian(package, names):
            missing.append(f"{', '.join(names)} (needs apt-get)")
    for library, package in LIBRARIES.items():
        if find_library(library) is None and not (_from_debian(package, ()) and find_library(library)):
            missing.append(f"{library} (needs apt-get)")
    if missing:
        print(f"make tools: not to be had here: {'; '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


def _from_go(name: str, package: str, folder: Path) -> bool:
    go = shutil.which("go")
    if go is None:
        return False
    print(f"building {name} ...", file=sys.stderr)
    return _run([go, "build", "-mod=readonly", "-o", str(FOLDER / "bin" / name), package], folder)


def _definitions() -> bool:
    go = shutil.which("go")
    if go is None:
        return False
    print("fetching definitions of objects ...", file=sys.stderr)
    pinned = ROOT / "deploy" / "tools" / "crds"
    folders: dict[str, Path] = {}
    (FOLDER / "crds").mkdir(exist_ok=True)
    for kind, (module, file) in CRDS.items():
        if module not in folders:
            version = re.search(rf"^\s*{re.escape(module)} (\S+)$", (pinned / "go.mod").read_text(), re.MULTILINE)
            assert version is not None
            command = [go, "mod", "download", "-json", f"{module}@{version[1]}"]
            done = subprocess.run(command, cwd=pinned, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print((done.stderr or done.stdout).strip()[-2000:], file=sys.stderr)
                return False
            folders[module] = Path(json.loads(done.stdout)["Dir"])
        (FOLDER / "crds" / f"{kind}.yaml").write_bytes((folders[module] / file).read_bytes())
    return True


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
