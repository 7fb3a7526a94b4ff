"""`make check-apiserver`: the shapes of the chart against a real kube-apiserver and etcd, on loopback, without kubelet.

What a schema cannot know, the server says: defaults, validation, the rules of foreign definitions (CEL), and the
restricted Pod Security Standard, enforced in the namespace. Each shape is rendered by the server (`--dry-run=server`),
installed, upgraded and uninstalled; each of its pods is offered to the server. Nothing runs: there is nobody to run it.

Building the server takes minutes of CPU and, the first time, some 100 modules; so this is no part of CI.
"""

import argparse
import base64
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.tools import CRDS, FOLDER, ROOT, definition, find
from tests.support.workers import unused_ports

VERSION = "v1.31.14"
CHART = ROOT / "helm" / "relay"
MODULE = ROOT / "deploy" / "tools" / "apiserver"
_STAMP = "k8s.io/component-base/version"


def build() -> Path:
    """The server, from its pinned module, stamped with its version: helm asks for it."""
    binary = FOLDER / "bin" / "kube-apiserver"
    if not binary.exists():
        print("building kube-apiserver ...", file=sys.stderr)
        major, minor, _ = VERSION.removeprefix("v").split(".")
        stamps = f"-s -w -X {_STAMP}.gitVersion={VERSION} -X {_STAMP}.gitMajor={major} -X {_STAMP}.gitMinor={minor}"
        command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-ldflags", stamps, "-o", str(binary)]
        subprocess.run([*command, "k8s.io/kubernetes/cmd/kube-apiserver"], cwd=MODULE, check=True)
    return binary


class Server:
    """A running server and what is needed to talk to it."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.folder = folder
        self._token = token

    def connect(self) -> None:
        """Once its certificate is written."""
        authority = str(self.folder / "apiserver.crt")
        headers = {"authorization": f"Bearer {self._token}"}
        context = ssl.create_default_context(cafile=authority)
        self.client = httpx.Client(base_url=self.url, headers=headers, verify=context, timeout=30, trust_env=False)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": authority}}],
            "users": [{"name": "u", "user": {"token": self._token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        (self.folder / "kubeconfig").write_text(json.dumps(config))

    def post(self, path: str, body: Any, **query: str) -> Any:
        """Create an object. Raises with the server's own words."""
        answer = self.client.post(path, json=body, params=query)
        if answer.status_code not in (200, 201):
            raise RuntimeError(f"{path}: {answer.json().get('message', answer.text)}")
        return answer.json()

    def helm(self, *arguments: str) -> str:
        helm = find("helm")
        assert helm is not None, "make tools"
        environment = os.environ | {"KUBECONFIG": str(self.folder / "kubeconfig"), "HOME": str(self.folder)}
        done = subprocess.run([helm, *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"helm {arguments[0]}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as child:
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()


def wait(seconds: float, what: str, done: Any, *children: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until or any(child.poll() is not None for child in children):
            raise RuntimeError(f"{what}: not within {seconds:.0f} s, or ended")
        time.sleep(0.2)


@contextmanager
def running() -> Iterator[Server]:
    """etcd and the server, with a key for accounts and an operator's token that live as long as they do."""
    etcd = shutil.which("etcd")
    if etcd is None:
        raise SystemExit("etcd is missing: apt-get install etcd-server")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-apiserver-")))
        port, client, peer = unused_ports(3)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "accounts.key").write_bytes(key)
        token = base64.urlsafe_b64encode(os.urandom(24)).decode()
        (folder / "tokens.csv").write_text(f'{token},operator,operator,"system:masters"\n')
        (folder / "tokens.csv").chmod(0o600)
        store = f"http://127.0.0.1:{client}"
        etcd_flags = ["--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"]
        etcd_flags += ["--listen-client-urls", store, "--advertise-client-urls", store]
        etcd_flags += ["--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster"]
        etcd_flags += [f"default=http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
        database = stack.enter_context(process([etcd, *etcd_flags], folder / "etcd.log"))
        flags = [f"--etcd-servers={store}", f"--cert-dir={folder}", f"--secure-port={port}"]
        flags += ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.0.0.0/24"]
        flags += [f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC"]
        flags += ["--service-account-issuer=https://kubernetes.default.svc"]
        flags += [f"--service-account-key-file={folder / 'accounts.key'}"]
        flags += [f"--service-account-signing-key-file={folder / 'accounts.key'}"]
        api = stack.enter_context(process([str(build()), *flags], folder / "apiserver.log"))
        server = Server(folder, port, token)
        try:
            wait(60, "certificate", (folder / "apiserver.crt").exists, api, database)
            server.connect()
            wait(120, "kube-apiserver", lambda: _ready(server), api, database)
            yield server
        except BaseException:
            print((folder / "apiserver.log").read_text()[-3000:], file=sys.stderr)
            raise


def _ready(server: Server) -> bool:
    try:
        return server.client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def define(server: Server) -> None:
    """The kinds of KEDA, Gateway API and the Prometheus operator."""
    for kind in CRDS:
        crd = yaml.load(definition(kind).read_text(), yaml.CSafeLoader)
        server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        for version in crd["spec"]["versions"]:
            path = f"/apis/{group}/{version['name']}/{plural}"
            if version["served"]:
                wait(30, kind, lambda path=path: server.client.get(path).status_code == 200)


def prove(server: Server, shape: Path) -> str:
    """A shape, from nothing to nothing, in a namespace that admits restricted pods only."""
    name = "shape-" + shape.name.removesuffix("-values.yaml")
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    server.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    for account in (
        "default",
        "shared",
    ):  # the first a controller would make, the second existing-secret-values.yaml names
        server.post(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": account}})
    _refuses_open_pods(server, name)
    where = ("-n", name, "-f", str(shape))
    server.helm("install", "r", str(CHART), *where, "--dry-run=server")
    server.helm("install", "r", str(CHART), *where)
    manifest = (
        server.helm("get", "manifest", "r", "-n", name) + "\n---\n" + server.helm("get", "hooks", "r", "-n", name)
    )
    found = [one for one in yaml.load_all(manifest, yaml.CSafeLoader) if one]
    offered = 0
    for one in found:
        pod = one if one["kind"] == "Pod" else one.get("spec", {}).get("template")
        if pod is not None:
            metadata = {"name": one["metadata"]["name"], "labels": pod["metadata"]["labels"]}
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _mounted(pod["spec"])}
            server.post(f"/api/v1/namespaces/{name}/pods", body, dryRun="All", fieldValidation="Strict")
            offered += 1
    server.helm("upgrade", "r", str(CHART), *where, "--set", "settings.RELAY_LOG_LEVEL=warning,maintain.replicas=3")
    server.helm("rollback", "r", "1", "-n", name)
    server.helm("uninstall", "r", "-n", name)
    left = [kind for kind in ("services", "configmaps", "secrets") if _left(server, name, kind)]
    if left:
        raise RuntimeError(f"{name}: uninstalling left {', '.join(left)}")
    return f"{name}: {len(found)} objects, {offered} pods admitted, installed, upgraded, rolled back, uninstalled"


def _refuses_open_pods(server: Server, namespace: str) -> None:
    """That the namespace admits the chart's pods says something only if it would not admit any."""
    body = {"metadata": {"name": "open"}, "spec": {"containers": [{"name": "open", "image": "open"}]}}
    answer = server.client.post(f"/api/v1/namespaces/{namespace}/pods", json=body, params={"dryRun": "All"})
    if answer.status_code != 403 or "restricted" not in answer.text:
        raise RuntimeError(f"{namespace}: a pod without any restriction was not refused: {answer.text}")


def _mounted(spec: dict[str, Any]) -> dict[str, Any]:
    """A StatefulSet's pod with the volume that its controller would add."""
    named = {volume["name"] for volume in spec["volumes"]}
    mounts = [mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]]
    claims = [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in mounts if one not in named]
    return spec | {"volumes": [*spec["volumes"], *claims]}


def _left(server: Server, namespace: str, kind: str) -> bool:
    items = server.client.get(f"/api/v1/namespaces/{namespace}/{kind}").json()["items"]
    return any(one["metadata"]["name"] != "kube-root-ca.crt" for one in items)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make check-apiserver", description=__doc__)
    parser.add_argument("shapes", nargs="*", help="names of files in helm/relay/ci; all of them when none is named")
    wanted = parser.parse_args().shapes
    shapes = [
        path for path in sorted((CHART / "ci").iterdir()) if not wanted or path.name.split("-values")[0] in wanted
    ]
    with running() as server:
        print(f"kube-apiserver {server.client.get('/version').json()['gitVersion']}")
        define(server)
        for shape in shapes:
            print(prove(server, shape), flush=True)


if __name__ == "__main__":
    main()
