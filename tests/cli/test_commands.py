"""The commands as a person types them: exit status 0, 1 or 2, help with an example, never a stack trace."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import jsonschema
import pytest

from relay import cli
from relay.cli.checking import of_upstream
from relay.errors import InvalidSettings
from relay.model.catalogue import EVENT_TYPES
from relay.settings import load
from relay.store import keys
from relay.store.redis import Db, open_client
from relay.vault import Vault, generate_master_key, parse_master_keys
from tests.support import acl
from tests.support.rig import Answer, Answers, eventually, open_rig, serving

COMMANDS = (
    *("demo", "up", "api", "worker", "simulator", "receive", "retailers", "keys", "audit", "check"),
    *(
        "healthcheck",
        "provision-demo",
        "openapi",
        "event-types",
        "orders",
        "subscriptions",
        "events",
        "deliveries",
        "trigger",
        "listen",
    ),
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No setting from outside, an empty working directory."""
    for name in list(os.environ):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])

    assert ended.value.code == 0
    assert f"example: relay {command}" in " ".join(capsys.readouterr().out.split())


def test_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["openapi"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert cli.main(["event-types", "--json"]) == 0
    types = json.loads(capsys.readouterr().out)
    assert cli.main(["event-types"]) == 0

    assert document["openapi"] == "3.1.0"
    assert set(document["webhooks"]) == set(EVENT_TYPES)
    for one in types:
        jsonschema.validate(one["sample"], one["schema"])
    assert "order.status_changed" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["retailers list", "keys list ret_x", "audit"])
def test_without_redis_a_command_says_so_with_status_2(
    command: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.split()) == 2
    assert "RELAY_REDIS_URL" in capsys.readouterr().err
    environment.setenv("RELAY_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")
    assert cli.main(command.split()) == 2

    message = capsys.readouterr().err
    assert "does not answer" in message
    assert "hunter2" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize("command", ["up --port x", "api", "worker poll", "worker --lease soon", "check --prot 1"])
def test_mistakes_in_settings_are_status_2(
    command: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main(command.split())
    except SystemExit as ended:  # argparse's own
        status = int(ended.code or 0)

    assert status == 2
    assert "Traceback" not in capsys.readouterr().err


def test_provisioning_and_audit(
    environment: pytest.MonkeyPatch, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("RELAY_REDIS_URL", redis_url)
    environment.setenv("RELAY_MASTER_KEYS", generate_master_key("k"))
    assert cli.main(["retailers", "create", "Corner Shop", "--client-id", "c", "--client-secret", "s3cret"]) == 0
    retailer = capsys.readouterr().out.strip()
    assert cli.main(["retailers", "list", "--json"]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == [retailer]
    assert cli.main(["keys", "create", retailer, "--scopes", "orders:read", "--expires-in", "1h"]) == 0
    key = capsys.readouterr().out.strip()
    assert key.startswith("rly_rt_")
    assert cli.main(["keys", "list", retailer]) == 0
    listed = capsys.readouterr().out
    assert key[-4:] in listed
    assert key not in listed
    assert cli.main(["keys", "revoke", retailer, listed.split()[0]]) == 0
    assert cli.main(["keys", "create", "operator"]) == 0
    assert capsys.readouterr().out.startswith("rly_op_")
    assert cli.main(["keys", "create", retailer, "--scopes", "everything"]) == 2
    assert cli.main(["keys", "create", retailer, "--expires-in", "later"]) == 2
    assert cli.main(["keys", "list", "ret_none"]) == 2
    assert cli.main(["retailers", "create"]) == 2
    assert cli.main(["audit"]) == 0
    assert "the ledger balances" in capsys.readouterr().out
    assert cli.main(["retailers", "delete", retailer]) == 0


def test_an_unbalanced_ledger_is_status_1(
    environment: pytest.MonkeyPatch, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def unbalance() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe()
            await rig.track("o-1")
            rig.poll()
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 1)
            await eventually(rig.idle)
            await rig.stop()
            await rig.db.run("HINCRBY", f"relay:1:{{0}}:sub:{subscription.id}", "delivered", 1)

    asyncio.run(unbalance())
    environment.setenv("RELAY_REDIS_URL", redis_url)

    assert cli.main(["audit"]) == 1
    assert "OFF" in capsys.readouterr().out
    assert cli.main(["audit", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["balanced"] is False


def test_check_finds_what_a_deployment_lacks(
    environment: pytest.MonkeyPatch, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("RELAY_UPSTREAM_URL", "http://127.0.0.1:1")
    assert cli.main(["check"]) == 1
    first = capsys.readouterr().out
    assert "RELAY_MASTER_KEYS is not set" in first
    assert "does not answer" in first
    environment.setenv("RELAY_REDIS_URL", redis_url)
    assert cli.main(["check", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]

    assert [True, "append-only persistence is on (appendonly yes), or a restart loses events"] in findings


def test_check_finds_what_would_stop_a_process(
    environment: pytest.MonkeyPatch, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def checked() -> dict[str, bool]:
        assert cli.main(["check", "--json"]) == 1  # upstream is away, if nothing else
        return {text: ok for ok, text in json.loads(capsys.readouterr().out)["findings"]}

    async def tell(*commands: tuple[str | bytes | int, ...]) -> None:
        db = Db(open_client(acl.admin_url(redis_url)))
        for command in commands:
            await db.run(*command)
        await db.aclose()

    environment.setenv("RELAY_UPSTREAM_URL", "http://127.0.0.1:1")
    environment.setenv("RELAY_REDIS_URL", redis_url)
    environment.setenv("RELAY_MASTER_KEYS", generate_master_key("mine"))
    asyncio.run(tell(("CONFIG", "SET", "maxmemory", "100mb")))
    found = checked()
    assert found["RELAY_MASTER_KEYS is the first for what is stored"]
    assert found["Redis takes a write"]
    assert found["maxmemory is set (docs/operations.md, Memory)"]
    other = Vault(parse_master_keys(generate_master_key("other")))
    asyncio.run(tell(("SET", keys.KNOWN, other.seal(b"relay", context=keys.KNOWN)), ("CONFIG", "SET", "maxmemory", 0)))
    wrong = [text for text, ok in checked().items() if not ok]
    assert any("RELAY_MASTER_KEYS does not fit this store" in text and "'other'" in text for text in wrong)
    assert any(text.startswith("maxmemory is not set") for text in wrong)
    asyncio.run(tell(("HSET", keys.LAYOUT, "format", 99, "by", "9.9"), ("CONFIG", "SET", "min-replicas-to-write", 1)))
    try:
        wrong = [text for text, ok in checked().items() if not ok]
    finally:
        asyncio.run(tell(("CONFIG", "SET", "min-replicas-to-write", 0), ("DEL", keys.LAYOUT, keys.KNOWN)))
    assert any("written by relay 9.9 in format 99" in text for text in wrong)
    assert any(text.startswith("Redis takes no write") and "NOREPLICAS" in text for text in wrong)


@pytest.mark.parametrize(("status", "well"), [(401, True), (404, False), (200, False), (503, False)])
def test_check_tells_the_api_from_something_else(status: int, well: bool) -> None:
    upstream = Answers(Answer({}, status=status))

    async def main() -> None:
        async with serving(upstream) as url:
            ok, text = await of_upstream(load({"RELAY_UPSTREAM_URL": f"{url}/"}))
        assert ok is well
        assert str(status) in text
        assert [path for _, path, _ in upstream.asked] == ["/v2/post_checkout/orders/relay-check/handling"]

    asyncio.run(main())


def test_master_keys_are_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "master", "k7"]) == 0
    assert capsys.readouterr().out.startswith("k7:")


@pytest.mark.timeout(170)
@pytest.mark.parametrize(
    ("receiver_fails", "faults"),
    [
        ("0", ()),
        ("0.1", ("500:0.05", "cut:0.03", "401:0.02", "reset:0.02", "malformed:0.02", "unknown:0.3", "reorder:0.3")),
    ],
    ids=["calm", "faults"],
)
def test_the_demo_proves_itself(receiver_fails: str, faults: tuple[str, ...], tmp_path: Path) -> None:
    arguments = ["--orders", "4", "--fail", receiver_fails, *(f"--fault={fault}" for fault in faults)]
    done = subprocess.run(
        [sys.executable, "-m", "relay", "demo", "--once", "--json", "--speed", "900", "--seed", "11", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    score = json.loads(done.stdout.splitlines()[-1])
    assert score["events"] == score["delivered"] == score["verified"]
    # An answer that a fault kept from arriving may have shown what was gone again in the next one.
    unseen = score["changes"] + 2 * score["orders"] - score["events"]
    assert 0 <= unseen <= (3 if faults else 0)
    assert (score["lost"], score["out_of_order"], score["untold"]) == (0, 0, 0)
    assert "detected" in done.stderr
    assert "verified" in done.stderr


@pytest.mark.timeout(120)
def test_up_works_without_any_setting_and_keeps_its_data(tmp_path: Path, unused_port: int) -> None:

    def up() -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        command = [sys.executable, "-m", "relay", "up", "--port", str(unused_port), "--metrics-port", "0"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    async def ready() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"http://127.0.0.1:{unused_port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def ask(method: str, path: str, **options: object) -> httpx.Response:
        admin = (tmp_path / "relay-data" / "admin_key.secret").read_text()
        headers = {"authorization": f"Bearer {admin}"}
        url = f"http://127.0.0.1:{unused_port}{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, **options)  # type: ignore[arg-type]

    first = up()
    try:
        asyncio.run(eventually(ready, within=30))
        made = ask("POST", "/v1/retailers", json={"name": "Kept"})
        assert made.status_code == 201
        assert (tmp_path / "relay-data" / "admin_key.secret").stat().st_mode & 0o077 == 0
    finally:
        first.terminate()
        assert first.wait(timeout=25) == 0
    second = up()
    try:
        asyncio.run(eventually(ready, within=30))
        assert [one["name"] for one in ask("GET", "/v1/retailers").json()["data"]] == ["Kept"]
    finally:
        second.terminate()
        second.wait(timeout=25)


def test_the_store_is_told_by_its_url() -> None:

    sentinel = open_client("redis+sentinel://user:pw@127.0.0.1:1,127.0.0.2:2/main/3")
    assert sentinel.connection_pool.connection_kwargs["db"] == 3
    secure = open_client("rediss://example.com:6380/0")
    assert secure.connection_pool.connection_kwargs["ssl_check_hostname"] is True
    for url in ("redis+sentinel://", "redis+sentinel://h:x/main", "redis://h:port"):
        with pytest.raises(InvalidSettings):
            Db(open_client(url))


@pytest.mark.timeout(60)
def test_a_port_that_is_taken_is_said_and_ends_the_command(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "relay", "up", "--port", port, "--metrics-port", "0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=50
        )

    assert done.returncode == 2
    assert "cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr
