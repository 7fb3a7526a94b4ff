"""What real processes show: everything they declare, nothing else, few series, and nobody's names."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.declaring import DECLARED
from relay.embedded import EmbeddedStore
from relay.model.keyring import Keyring
from relay.model.orders import OrderId
from relay.model.signing import Secret
from relay.simulator.app import Simulator, SimulatorConfig
from relay.store.order_records import Registration, UserToken
from relay.store.orders import Orders
from relay.store.retailers import Retailers
from relay.store.subscriptions import Configuration
from relay.upstream.connect import Connect
from relay.upstream.specification import Specification
from relay.vault import generate_master_key
from tests.support.readings import Scrape, scrape
from tests.support.rig import Rig, eventually, open_rig
from tests.support.workers import Workers, unused_ports

RETAILERS = 500
REQUIRED = {"specification": Specification.required, "connect": Connect.required}
ADMIN = "an-operators-key-of-the-tests"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 280))


async def people(rig: Rig, orders: Sequence[str], dialect: str) -> list[str]:
    """Many retailers, each with an order and a subscription."""
    retailers = Retailers(rig.db, rig.vault)
    store = Orders(rig.db, rig.vault, REQUIRED[dialect])
    ids: list[str] = []
    secret = Secret(os.urandom(32))
    rig.receiver.secrets.append(secret)
    for number in range(RETAILERS):
        made = await retailers.create(f"Shop {number}", upstream=None, budget=None, limits={})
        url = f"{rig.receiver_url}/hook-{number}"
        await rig.subscriptions.create(made.id, Configuration(url=url), keyring=Keyring.new(secret), start="0-0")
        wanted = Registration(OrderId(orders[number]), None, UserToken("good-token"))
        await store.register(made.id, [wanted], credential="shared")
        ids.append(made.id)
    return ids


def api(workers: Workers, port: int) -> subprocess.Popen[bytes]:
    environment = workers.environment | {"RELAY_ADMIN_KEY": ADMIN, "RELAY_PORT": str(port)}
    with workers.logs.open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "relay", "api"], env=environment, stderr=log)
    workers.running.append(process)
    return process


async def until(port: int, name: str, least: float, **labels: str) -> Scrape:
    """A scrape in which a metric has come up to something."""

    async def there() -> Scrape | None:
        await asyncio.sleep(0.2)
        try:
            found = await scrape(port)
        except httpx.TransportError:
            return None
        return found if found.value(name, **labels) >= least else None

    found: Scrape = await eventually(there, within=120)
    return found


def check(found: Scrape, role: str, most: int, names: list[str]) -> None:
    declared = {one.name for one in DECLARED if role in one.by}
    relays = {name for name in found.families if name.startswith("relay_")}
    assert relays <= declared
    unset = {one.name for one in DECLARED if one.labels and not one.known.get(role)}  # labelled, begin with their first
    assert declared - relays - unset == set()
    assert found.series <= most, f"{role}: {found.series} series"
    assert found.value("process_resident_memory_bytes") > 0
    assert found.value("relay_build_info", component=role) == 1
    assert found.value("relay_config_info") == 1
    assert found.value("relay_redis_up") == 1
    assert [name for name in names if name in found.text] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dialect", ["specification", "connect"])
def test_five_hundred_retailers_leave_no_trace_in_the_series(tmp_path: Path, dialect: str) -> None:
    """The live dialect has twice as many resources, and here the canary is on beside it: as much as there can be."""

    async def main() -> None:
        config = SimulatorConfig(orders=RETAILERS, speed=600, static_token="good-token", dialect=dialect)
        simulator = Simulator(config)
        master_keys = generate_master_key("scene")
        with EmbeddedStore(tmp_path / "store") as store:
            async with open_rig(store.url, simulator.app, master_keys=master_keys) as rig:
                at = dict(zip(("poll", "deliver", "maintain", "api", "canary"), unused_ports(5), strict=True))
                settings = {"poll_scale": "0.02", "poll_floor": "1s", "upstream_budget": "200"}
                settings |= {"upstream_dialect": dialect, "canary_every": "2s", "canary_port": str(at.pop("canary"))}
                settings |= {"canary": "1", "upstream_location": "1"} if dialect == "connect" else {}
                workers = Workers(store.url, master_keys, rig.upstream_url, tmp_path / "workers.log", **settings)
                orders = list(simulator.world.orders)
                retailers = await people(rig, orders, dialect)
                names = [*retailers, *orders, rig.receiver_url, "hook-", "sub_", "evt_", ADMIN]
                try:
                    api(workers, at["api"])
                    await until(at["api"], "relay_redis_up", 1)
                    for kind in ("poll", "deliver", "maintain"):
                        workers.start(kind, metrics_port=str(at[kind]))
                    await until(at["poll"], "relay_events_committed_total", RETAILERS)
                    await until(at["deliver"], "relay_verdicts_total", RETAILERS, verdict="delivered")
                    await until(at["maintain"], "relay_subscriptions", RETAILERS, state="enabled")
                    backlog = await until(at["maintain"], "relay_log_events", RETAILERS)
                    assert backlog.value("relay_ledger_imbalance") == 0
                    assert backlog.value("relay_budget_requests_per_second") == 200
                    assert backlog.value("relay_backlog_sample_errors_total") == 0
                    if dialect == "connect":
                        await until(at["maintain"], "relay_canary_last_success_timestamp_seconds", 1)
                    await _knock(at["api"], retailers)
                    for role, port in at.items():
                        check(await scrape(port), role, 600 if role == "api" else 300, names)
                    polling = await scrape(at["poll"])
                    assert polling.value("relay_budget_exceeded_total") == 0
                    assert polling.value("relay_pump_slots", pump="poll") == 2
                    assert polling.value("relay_pump_wait_seconds_count") >= 1
                    assert polling.value("relay_worker_heartbeat_timestamp_seconds") > 1_700_000_000
                    assert polling.value("relay_log_lines_total", level="info") >= RETAILERS
                finally:
                    await asyncio.to_thread(workers.close)

    run(main())


async def _knock(port: int, retailers: list[str]) -> None:
    """Ask for what is there and what is not, of every retailer."""
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        for one in retailers[:50]:
            await client.get(f"/v1/retailers/{one}", headers=headers)
            await client.get(f"/v1/orders/{one}")
            await client.request("ODD", f"/{one}")
