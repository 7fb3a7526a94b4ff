"""Too many requests: exact over processes, told in headers, and never a reason to fail when Redis is away."""

import asyncio
from typing import Any

import httpx
import pytest

from relay.api.limits import Addresses
from relay.errors import RateLimited, StoreUnavailable
from relay.store.limits import Limits
from tests.api.support import ADMIN, Relay, driven

RATES: dict[str, Any] = {"RELAY_API_RATE": "5", "RELAY_API_RATE_RETAILER": "5"}


async def _ask(relay: Relay, key: str, times: int) -> list[httpx.Response]:
    return list(await asyncio.gather(*(relay.ask("GET", "/v1/orders", key=key) for _ in range(times))))


def test_a_burst_of_two_seconds_worth_goes_and_no_more(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answers = await _ask(relay, key, 30)

        good = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(good) + len(refused) == 30
        assert 10 <= len(good) <= 12  # what was asked while the burst refilled
        assert {answer.json()["code"] for answer in refused} == {"rate_limited"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert {answer.headers["ratelimit-policy"] for answer in good} == {'"api";q=10;w=2'}
        left = sorted(int(answer.headers["ratelimit"].split("r=")[1].split(";")[0]) for answer in good)
        assert left[0] == 0
        assert left[-1] == 9

    driven(store_url, test, **RATES)


def test_the_keys_of_a_retailer_share_its_rate_and_other_retailers_have_their_own(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        second = (await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", {}, key=ADMIN)).json()["key"]
        _, stranger = await relay.retailer()

        first = await _ask(relay, key, 12)
        then = await _ask(relay, second, 12)
        others = await _ask(relay, stranger, 9)

        assert sum(answer.status_code == 200 for answer in first) >= 10
        assert sum(answer.status_code == 200 for answer in then) <= 3
        assert {answer.status_code for answer in others} == {200}

    driven(store_url, test, **RATES, RELAY_API_RATE_IP="0")


def test_a_retailers_own_rate_comes_first(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer(limits={"api_rate": 1})

        few = await _ask(relay, key, 6)
        await relay.ask("PATCH", f"/v1/retailers/{retailer_id}", {"limits": {"api_rate": 0}}, key=ADMIN)
        many = await _ask(relay, key, 40)

        assert sum(answer.status_code == 200 for answer in few) in (2, 3)
        assert {answer.status_code for answer in many} == {200}
        assert "ratelimit" not in many[0].headers

    driven(store_url, test, RELAY_API_RATE="0", RELAY_API_RATE_RETAILER="5")


def test_the_rate_holds_over_processes(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        await relay.retailer()
        processes = [Limits(relay.db, per_key=50, per_retailer=10) for _ in range(4)]

        found = await asyncio.gather(*(one.spend(f"key_{n}", "ret_x") for one in processes for n in range(20)))

        allowed = [one for one in found if one is not None and one.wait_s == 0]
        assert 20 <= len(allowed) <= 22

    driven(store_url, test)


def test_an_address_is_limited_before_anybody_is_authenticated(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        transport = httpx.ASGITransport(relay.app, client=("203.0.113.9", 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
            trips = relay.db.trips
            answers = [await client.get("/v1/orders", headers={"authorization": "Bearer nothing"}) for _ in range(8)]

            assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 4
            assert relay.db.trips == trips  # a flood of nonsense costs Redis nothing
            assert (await client.get("/livez")).status_code == 200

    driven(store_url, test, RELAY_API_RATE_IP="2")


def test_addresses_are_apart_and_forgotten_in_time() -> None:
    addresses = Addresses(0.01)
    addresses.check("a")
    addresses.check("b")
    with pytest.raises(RateLimited) as refused:
        addresses.check("a")
    assert 0 < refused.value.retry_after_s <= 100
    for number in range(10_001):
        addresses.check(f"n-{number}")
    addresses.check("a")
    addresses.check(None)


def test_nobody_is_limited_while_redis_is_away(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        async def away(key_id: str, owner: str) -> None:
            raise StoreUnavailable("gone")

        _, key = await relay.retailer()
        relay.deps.limits.spend = away  # type: ignore[method-assign]

        assert {answer.status_code for answer in await _ask(relay, key, 20)} == {200}

    driven(store_url, test, **RATES)
