"""The account in deploy/redis/acl.conf is enough for everything, and nothing in it is unused."""

import ast
import asyncio
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.api.routes import OPERATIONS
from relay.simulator.app import Simulator, SimulatorConfig
from relay.vault import generate_master_key
from tests.faults.test_redis_full import ADMIN, open_api_process
from tests.support.rig import eventually, open_rig
from tests.support.scenes import Scene
from tests.support.servers import GOOD, Server
from tests.support.tools import need
from tests.support.workers import Workers

pytestmark = pytest.mark.timeout(170)
ROOT = Path(__file__).parents[2]
PASSWORD = "of-this-test"
#: What redis-py and arq send by themselves.
CLIENTS = {
    "ping",
    "select",
    "watch",
    "unwatch",
    "multi",
    "exec",
    "psetex",
    "incrby",
    "expire",
    "dbsize",
    "info",
    "eval",
}
#: Answers of the API when all is well, or when there is nothing to do.
ANSWERED = (200, 201, 202, 204, 404, 409, 410, 422, 429, 502)


def _line() -> str:
    """The account with this test's password."""
    text = (ROOT / "deploy" / "redis" / "acl.conf").read_text()
    line = next(one for one in text.splitlines() if one.startswith("user "))
    return re.sub("#0{64}", "#" + hashlib.sha256(PASSWORD.encode()).hexdigest(), line)


def _allowed() -> set[str]:
    return {word[1:].partition("|")[0] for word in _line().split() if word.startswith("+")}


def _written(known: set[str]) -> set[str]:
    """Commands that the sources name."""
    found = set()
    for script in ROOT.glob("relay/store/scripts/*.lua"):
        found |= set(re.findall(r"redis\.p?call\('([A-Z]+)'", script.read_text()))
    for module in [*ROOT.glob("relay/**/*.py"), *ROOT.glob("workers/*.py")]:
        for node in ast.walk(ast.parse(module.read_text())):
            first: ast.expr | None = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0] if node.func.attr in ("run", "execute_command") else None
            elif isinstance(node, ast.List | ast.Tuple) and node.elts:
                first = node.elts[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.isupper():
                found.add(first.value)
    return {name.lower() for name in found} & known


async def _operate(scene: Scene, retailer_id: str, url: str) -> None:
    """Every operation of the API at least once, and the operator's commands."""
    async with open_api_process(scene.workers) as api:
        operator = {"authorization": f"Bearer {ADMIN}"}

        async def ask(method: str, path: str, body: Any = None, who: dict[str, str] = operator) -> Any:
            answer = await api.request(method, path, json=body, headers=who)
            assert answer.status_code in ANSWERED, (method, path, answer.status_code, answer.text)
            return answer.json() if answer.content else None

        key = await ask("POST", f"/v1/retailers/{retailer_id}/keys", {})
        mine = {"authorization": f"Bearer {key['key']}"}
        made = await ask("POST", "/v1/subscriptions", {"url": url}, mine | {"idempotency-key": "once"})
        event = next(iter((await ask("GET", "/v1/events", None, mine))["data"]))
        bodies: dict[str, Any] = {
            "registerOrder": {
                "order_id": "extra",
                "access_token": {"token": "t", "expires_at": "2100-01-01T00:00:00Z"},
            },
            "registerOrders": {"orders": [{"order_id": "more", "user_id": "u"}]},
            "updateOrder": {"metadata": {"a": "b"}},
            "createSubscription": {"url": url},
            "updateSubscription": {"description": "d"},
            "decideReplacement": {"status": "APPROVED"},
            "sendMessage": {"body": "hello"},
            "recoverSubscription": {"since": "2020-01-01T00:00:00Z", "only": "all"},
            "redeliverEvent": {"subscription_id": made["id"]},
            "createRetailer": {"name": "Other", "upstream": {"client_id": "c", "client_secret": "s", "budget": 5}},
            "createKey": {},
        }
        deletes = [one for one in OPERATIONS if one.method == "DELETE"]
        for operation in [*(one for one in OPERATIONS if one.method != "DELETE"), *deletes]:
            other = await ask("POST", "/v1/retailers", {"name": "Passing"}) if operation.method == "DELETE" else None
            names = {
                "order_id": next(iter(scene.rig.folds)) if operation.method == "GET" else "extra",
                "item_id": "i-1",
                "subscription_id": made["id"],
                "event_id": event["id"],
                "retailer_id": other["id"] if other else retailer_id,
                "key_id": "none",
                "recovery_id": "none",
                "job_id": "none",
            }
            path = operation.path.format(**names)
            query = "?purge=true" if operation.name == "stopOrder" else ""
            body = bodies.get(operation.name, {}) if operation.body is not None else None
            await ask(operation.method, path + query, body, operator if operation.scope == "operator" else mine)
    for command in (["keys", "reencrypt"], ["retailers", "list"], ["check"], ["audit"]):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "relay", *command],
            env=scene.workers.environment | {"RELAY_ADMIN_KEY": ADMIN},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        assert "NOPERM" not in done.stdout + done.stderr


def test_the_account_is_enough_and_nothing_in_it_is_unused(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "acl.conf").write_text(_line() + "\n")
        with Server(need("redis-server"), tmp_path / "redis", *GOOD, "--aclfile", str(tmp_path / "acl.conf")) as server:
            known = {str(name) for name in _listed(server.ask("COMMAND LIST"))}
            dangerous = {str(name) for name in _listed(server.ask("ACL", "CAT", "dangerous"))}
            assert _allowed() & dangerous == {"info"}
            assert "keys" not in _allowed()
            url = (
                server.url.replace("//", f"//relay:{PASSWORD}@") + "/1"
            )  # another database than the first needs SELECT
            simulator = Simulator(SimulatorConfig(orders=3, speed=900, seed=5, static_token="good-token"))
            master_keys = generate_master_key("scene")
            async with open_rig(url, simulator.app, master_keys=master_keys) as rig:
                workers = Workers(
                    url, master_keys, rig.upstream_url, tmp_path / "workers.log", api_rate="0", api_rate_retailer="0"
                )
                scene = Scene(rig, simulator, workers, None)  # type: ignore[arg-type]
                rig.receiver.fail_rate = 0.2
                try:
                    await rig.subscribe()
                    await rig.track(*simulator.world.orders)
                    worker = workers.start()
                    await eventually(lambda: len(rig.receipts) > 10, within=40)
                    await _operate(scene, rig.retailer_id, f"{rig.receiver_url}/second")
                    await eventually(scene.ended, within=60)
                    assert await asyncio.to_thread(workers.stop, worker) == 0
                finally:
                    await asyncio.to_thread(workers.close)
                assert server.ask("ACL", "LOG") == []
                assert "NOPERM" not in workers.logs.read_text()
            stats: Any = server.ask("INFO", "commandstats")
            used = {name.removeprefix("cmdstat_").partition("|")[0] for name in stats} - {"acl", "command", "auth"}

            assert used - _allowed() == set()
            assert _written(known) - _allowed() == set()
            assert _allowed() - (used | _written(known)) == set()
            assert _allowed() - _written(known) <= CLIENTS

    asyncio.run(main())


def _listed(answer: Any) -> list[Any]:
    return list(answer)
