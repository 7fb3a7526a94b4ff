"""Tokens and credentials under a running pump: revoked, mended, the endpoint down; and what the API says of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from relay.access import TokenBroker
from relay.engine import EngineTransport
from relay.model.orders import OrderId, Tracking
from relay.polling.outlook import look
from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.faults import parse
from relay.simulator.tokens import Tokens as SimulatedTokens
from relay.store.order_records import Registration, UserToken
from relay.store.tokens import StoredTokens
from relay.upstream import tokens as tokens_module
from relay.upstream.tokens import Blame, Credential, TokenRefused, Tokens
from relay.vault import Vault
from tests.support.budget import held
from tests.support.rig import POLICY, Rig, eventually, open_rig

pytestmark = pytest.mark.timeout(90)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


class Keys:
    """The credential as it stands: a test changes its secret."""

    def __init__(self) -> None:
        self.secret = "sim-secret"

    async def find(self, credential_id: str) -> Credential | None:
        return Credential(credential_id, "sim-client", self.secret)


def minting(rig: Rig) -> httpx.AsyncClient:
    """The way to the token endpoint, as in production."""
    return httpx.AsyncClient(transport=EngineTransport(rig.engine), base_url=rig.upstream_url, trust_env=False)


@asynccontextmanager
async def polling(rig: Rig, keys: Keys, users: int) -> AsyncIterator[Any]:
    """A pump over orders whose tokens are minted."""
    async with minting(rig) as http:
        tokens = Tokens(http, StoredTokens(rig.db, rig.vault))
        wanted = [Registration(OrderId(f"o-{n + 1}"), f"user-{n + 1}") for n in range(users)]
        await rig.orders.register(rig.retailer_id, wanted, credential="shared")
        pump = rig.poll(POLICY, broker=TokenBroker(rig.orders, tokens, keys.find))
        try:
            yield pump
        finally:
            await rig.stop()


async def started(rig: Rig, count: int) -> bool:
    return len([event for event in await rig.events() if event["type"] == "order.tracking_started"]) == count


async def suspended(rig: Rig) -> int:
    return len([event for event in await rig.events() if event["type"] == "order.tracking_suspended"])


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "PAUSES", {"credential_refused": (0.3, 1.0), "token_endpoint": (0.2, 0.5)})
    monkeypatch.setattr(tokens_module, "BACK_OFF", 0.2)


@pytest.mark.usefixtures("short_pauses")
def test_a_revoked_credential_pauses_itself_and_not_each_order(redis_url: str) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=8, speed=0.001))
        async with open_rig(redis_url, simulator.app) as rig:
            keys = Keys()
            async with polling(rig, keys, 8) as pump:
                await eventually(lambda: started(rig, 8))
                keys.secret = "revoked"
                simulator.tokens.expire()

                async def refused() -> bool:
                    load = (await look(rig.arms, POLICY, "shared")).load
                    return load.why == "credential_refused" and load.mint_ms > await rig.db.now_ms()

                await eventually(refused)
                # While it is paused, arms wait and ask nothing, and mints are few.
                asked, minted = simulator.traffic.total, pump.tally["credential_refused"]
                await eventually(lambda: pump.tally["credential_refused"] > minted, within=20)
                assert simulator.traffic.total - asked < 8 * 3 + 10
                assert await suspended(rig) == 0
                keys.secret = "sim-secret"

                async def accepted() -> bool:
                    load = (await look(rig.arms, POLICY, "shared")).load
                    unchanged = pump.tally["unchanged"]
                    return load.why == "" and unchanged > 0

                await eventually(accepted, within=20)
                count = pump.tally["unchanged"]
                await eventually(lambda: pump.tally["unchanged"] > count + 24, within=20)
                states = [await rig.state(f"o-{n + 1}") for n in range(8)]
                assert {state.tracking for state in states} == {Tracking.ACTIVE}

    run(main())


@pytest.mark.usefixtures("short_pauses")
def test_a_token_endpoint_that_is_down_stops_only_who_has_no_token(redis_url: str) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=4, speed=0.001))
        async with open_rig(redis_url, simulator.app) as rig, polling(rig, Keys(), 2) as pump:
            await eventually(lambda: started(rig, 2))
            simulator.faults.add(parse("503:1:resource=token"), simulator.clock.now().wall)
            late = [Registration(OrderId(f"o-{n}"), f"user-{n}") for n in (3, 4)]
            await rig.orders.register(rig.retailer_id, late, credential="shared")
            await eventually(lambda: pump.tally["token_endpoint"] > 0)
            count = pump.tally["unchanged"]
            await eventually(lambda: pump.tally["unchanged"] > count + 20)  # those with tokens go on
            assert await started(rig, 2)
            simulator.faults.clear()
            await eventually(lambda: started(rig, 4), within=20)
            assert await suspended(rig) == 0

    run(main())


def test_one_renewal_on_401_and_it_is_paid_for(redis_url: str) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=1, speed=0.001))
        async with open_rig(redis_url, simulator.app) as rig, polling(rig, Keys(), 1) as pump:
            await eventually(lambda: started(rig, 1))
            before = pump.tally["unauthorized"]
            simulator.tokens.expire()
            count = pump.tally["unchanged"]
            await eventually(lambda: pump.tally["unchanged"] > count + 10)
            polls = sum(pump.tally.values())
            assert 1 <= pump.tally["unauthorized"] - before <= 3  # each of three arms may have been in flight
            await rig.stop()
            assert abs(simulator.traffic.total - sum(pump.tally.values())) <= 1
            assert polls > 10
            assert await suspended(rig) == 0

    run(main())


def test_tokens_of_a_wave_of_users_are_paid_from_the_budget(redis_url: str) -> None:
    """Each order has a user of its own, whose token is minted first: that is a request of the credential as well."""

    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=60, speed=0.001))
        async with open_rig(redis_url, simulator.app) as rig:
            await rig.arms.set_rate("shared", 60)
            async with polling(rig, Keys(), 60):
                await eventually(lambda: started(rig, 60), within=40)
            assert len(simulator.world.orders) == 60
            assert simulator.traffic.max_in_a_second > 30
            held(rig.engine, simulator.traffic, 60)

    run(main())


def test_no_token_is_minted_while_the_credential_pauses(redis_url: str, vault: Vault) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=1, speed=0.001))
        async with open_rig(redis_url, simulator.app) as rig, minting(rig) as http:
            await rig.arms.set_rate("shared", 60)
            await rig.arms.throttle("shared", 30.0)
            tokens = Tokens(http, StoredTokens(rig.db, vault))
            with pytest.raises(TokenRefused) as refused:
                await tokens.access(Credential("shared", "sim-client", "sim-secret"), "ada")
            assert refused.value.blame is Blame.BUSY
            assert simulator.traffic.max_in_a_second == 0

    run(main())


def test_a_given_token_that_is_refused_before_its_time_gives_way_to_minted_ones(redis_url: str) -> None:
    async def main() -> None:
        simulator = Simulator(SimulatorConfig(orders=2, speed=0.001, static_token="given"))
        async with open_rig(redis_url, simulator.app) as rig, polling(rig, Keys(), 0) as pump:
            both = [("o-1", "user-1"), ("o-2", None)]
            wanted = [Registration(OrderId(order), user, UserToken("given")) for order, user in both]
            await rig.orders.register(rig.retailer_id, wanted, credential="shared")
            await eventually(lambda: started(rig, 2))
            simulator.tokens = SimulatedTokens("sim-client", "sim-secret", 3600)

            await eventually(lambda: suspended(rig))  # the one without a user has no other token
            refused = pump.tally["unauthorized"]
            count = pump.tally["unchanged"]
            await eventually(lambda: pump.tally["unchanged"] > count + 20)
            assert pump.tally["unauthorized"] - refused < 20
            assert (await rig.state("o-1")).tracking is Tracking.ACTIVE
            assert (await rig.state("o-2")).tracking is Tracking.SUSPENDED
            simulator.tokens = SimulatedTokens("sim-client", "sim-secret", 3600, "fresh")
            fresh = UserToken("fresh")
            await rig.orders.amend(rig.retailer_id, OrderId("o-2"), access_token=fresh, metadata=None)
            await rig.orders.refresh(rig.retailer_id, OrderId("o-2"))

            async def resumed() -> bool:
                return (await rig.state("o-2")).tracking is Tracking.ACTIVE

            await eventually(resumed)

    run(main())


class Minter:
    """A token endpoint whose tokens live for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.minted = 0
        self.down = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.minted += not self.down
        body = b'{"access_token": "t-%d", "expires_in": %d}' % (self.minted, self.seconds)
        await send({"type": "http.response.start", "status": 503 if self.down else 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def test_a_token_is_renewed_early_while_the_old_one_serves(
    redis_url: str, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        credential, minter, real = Credential("shared", "client", "secret"), Minter(3_600), time.time
        async with open_rig(redis_url, minter) as rig, minting(rig) as http:
            tokens = Tokens(http, StoredTokens(rig.db, vault))
            assert (await tokens.access(credential, "ada")).token == "t-1"
            monkeypatch.setattr(time, "time", lambda: real() + 3_000)
            minter.down = True
            assert (await tokens.access(credential, "ada")).token == "t-1"  # nobody waits for the new one
            minter.down = False
            monkeypatch.setattr(tokens_module.Tokens, "_backs_off", lambda self, key: None)
            monkeypatch.setattr(tokens_module, "PAUSES", dict.fromkeys(tokens_module.PAUSES, (0.0, 0.0)))

            async def renewed() -> bool:
                return (await tokens.access(credential, "ada")).token == "t-2"

            await eventually(renewed)
            assert minter.minted == 2

    run(main())


def test_tokens_that_do_not_live_long_are_not_minted_for_each_request(redis_url: str, vault: Vault) -> None:
    async def main() -> None:
        minter = Minter(20)
        async with open_rig(redis_url, minter) as rig, minting(rig) as http:
            tokens = Tokens(http, StoredTokens(rig.db, vault))
            for _ in range(10):
                await tokens.access(Credential("shared", "client", "secret"), "ada")
            assert minter.minted == 1

    run(main())
