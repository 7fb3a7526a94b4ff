"""`relay provision-demo` against a running API and a running simulator."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay import cli
from relay.cli.provisioning import NAME
from relay.model.signing import Secret
from relay.simulator.app import Simulator, SimulatorConfig
from tests.support.shop import Shop, open_shop

OPERATOR = "an operator's key of this test"
SECRET = "whsec_dGhpcyBvbmUgc2lnbnMgb25seSBpbiB0aGUgZGVtbyE="


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELAY_API_KEY", OPERATOR)
    return monkeypatch


@asynccontextmanager
async def opened(redis_url: str, environment: pytest.MonkeyPatch, orders: int = 3) -> AsyncIterator[Shop]:
    """A shop whose upstream is a simulator."""
    app = Simulator(SimulatorConfig(orders, speed=600)).app
    async with open_shop(redis_url, app, RELAY_ADMIN_KEY=OPERATOR) as shop:
        environment.setenv("RELAY_API_URL", shop.url)
        yield shop


async def provision(shop: Shop, *words: str) -> int:
    flags = ["--simulator", shop.rig.upstream_url, "--receiver-url", f"{shop.rig.receiver_url}/hooks"]
    return await asyncio.to_thread(cli.main, ["provision-demo", *flags, *words])


async def retailers(shop: Shop) -> list[str]:
    answer = await shop.client.get("/v1/retailers", headers={"authorization": f"Bearer {OPERATOR}"})
    return [one["id"] for one in answer.json()["data"] if one["name"] == NAME]


async def as_retailer(shop: Shop, key: str, path: str) -> Any:
    answer = await shop.client.get(path, headers={"authorization": f"Bearer {key}"})
    return answer.json()["data"]


def test_every_order_is_tracked_and_the_receiver_is_posted_to_under_the_secret(
    redis_url: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with opened(redis_url, environment) as shop:
            assert await provision(shop, "--secret", SECRET) == 0
            key = capsys.readouterr().out.rpartition("its key: ")[2].strip()
            orders = await shop.client.get(f"{shop.rig.upstream_url}/_sim/orders")
            (subscription,) = await as_retailer(shop, key, "/v1/subscriptions")
            shop.rig.receiver.secrets = [Secret.parse(SECRET)]
            headers = {"authorization": f"Bearer {key}"}
            await shop.client.post(f"/v1/subscriptions/{subscription['id']}/test", headers=headers, json={})

            tracked = {one["order_id"] for one in await as_retailer(shop, key, "/v1/orders")}
            assert tracked == {one["order_id"] for one in orders.json()["orders"]}
            assert len(tracked) == 3
            assert (shop.rig.receiver.counters.verified, shop.rig.receiver.counters.refused) == (1, 0)

    asyncio.run(main())


def test_again_is_from_the_beginning_and_leaves_nothing_double(
    redis_url: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with opened(redis_url, environment) as shop:
            assert await provision(shop) == 0
            (first,) = await retailers(shop)
            assert "its secret: whsec_" in capsys.readouterr().out
            assert await provision(shop) == 0
            (second,) = await retailers(shop)
            key = capsys.readouterr().out.rpartition("its key: ")[2].strip()

            assert first != second
            assert len(await as_retailer(shop, key, "/v1/orders")) == 3
            assert len(await as_retailer(shop, key, "/v1/subscriptions")) == 1

    asyncio.run(main())


def test_without_a_simulator_nothing_is_made(
    redis_url: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with opened(redis_url, environment) as shop:
            assert await asyncio.to_thread(cli.main, ["provision-demo", "--simulator", "http://127.0.0.1:1"]) == 1
            assert await retailers(shop) == []

    asyncio.run(main())
    assert "no simulator answers" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["provision-demo", "probe delivery --receiver-port 0"])
def test_without_a_key_the_operators_is_asked_for(
    command: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.delenv("RELAY_API_KEY")

    assert cli.main(command.split()) == 2
    said = capsys.readouterr().err
    assert "the operator's key" in said
    assert "RELAY_API_KEY" in said
    assert "retailer" not in said


def test_with_a_retailers_key_it_says_whose_is_needed(
    redis_url: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with opened(redis_url, environment) as shop:
            assert await provision(shop) == 0
            environment.setenv("RELAY_API_KEY", capsys.readouterr().out.rpartition("its key: ")[2].strip())
            assert await provision(shop) == 1

    asyncio.run(main())
    assert capsys.readouterr().err == "relay provision-demo: only an operator's key may do this (operator_only)\n"
