"""Budgets and what upstream does to them: promise 6, shares, gates, pauses; real store and sockets, one event loop."""

import asyncio
import gzip
import itertools
import json
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from relay.model.cadence import Cadence
from relay.model.lifecycle import Policy
from relay.model.orders import OrderId, RetailerId
from relay.polling.outlook import look
from relay.polling.pump import Limits
from relay.simulator.traffic import Traffic, held_up
from relay.store import keys
from relay.store.order_records import Registration, UserToken
from tests.support.budget import held
from tests.support.rig import POLICY, Answer, Answers, Rig, eventually, open_rig

pytestmark = pytest.mark.timeout(150)

#: Intervals as in production but a hundred times as fast.
FAST = Policy(Cadence(scale=0.01, floor=0.02), patience_ms=150, confirm_after_ms=30)


class Crowd(Answers):
    """Answers for any order, and notes when it was asked for what."""

    def __init__(self) -> None:
        super().__init__(Answer({"status": "picking"}))
        self.times: list[tuple[float, str]] = []
        self.traffic = Traffic()
        self.refusing: Answer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            at = self.traffic.arrived(time.time(), held_up(scope))
            self.times.append((at, scope["path"].split("/")[4]))
            if self.refusing is not None:
                self.misbehaviour = dict.fromkeys(("handling", "items", "messages"), self.refusing)
            else:
                self.misbehaviour = {}
        await super().__call__(scope, receive, send)

    def last_second(self) -> int:
        now = time.time()
        return sum(at > now - 1.0 for at, _ in self.times[-1_000:])

    def count_anew(self) -> float:
        self.traffic = Traffic()
        return time.time()

    def rate(self, since: float, until: float) -> float:
        return sum(since <= at < until for at, _ in self.times) / (until - since)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 140))


async def track(rig: Rig, count: int, *, retailer: str | None = None, prefix: str = "o") -> list[str]:
    names = [f"{prefix}-{number}" for number in range(count)]
    wanted = [Registration(OrderId(name), None, UserToken("good-token")) for name in names]
    for start in range(0, count, 2_000):
        await rig.orders.register(
            RetailerId(retailer or rig.retailer_id), wanted[start : start + 2_000], credential="shared"
        )
    return names


async def let_pass(seconds: float) -> tuple[float, float]:
    """A stretch of polling to be looked at afterwards: its begin and end."""
    began = time.time()
    await asyncio.sleep(seconds)
    return began, time.time()


def test_the_budget_is_spent_and_never_exceeded_by_two_pumps(redis_url: str) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", 100)
            await track(rig, 100)
            rig.poll(FAST)
            rig.poll(FAST)
            await eventually(lambda: len(upstream.times) > 450)  # all first readings are over
            await eventually(lambda: upstream.last_second() >= 90)
            await let_pass(3.0)

            held(rig.engine, upstream.traffic, 100)

    run(main())


@pytest.mark.parametrize("rate", [0.5, 5.0])
def test_a_budget_of_few_requests_is_spent_too(redis_url: str, rate: float) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", rate)
            await track(rig, 10)
            rig.poll(FAST)
            await eventually(lambda: len(upstream.times) >= 3)

            gaps = [b - a for (a, _), (b, _) in itertools.pairwise(upstream.times)]
            assert min(gaps) >= 0.8 / rate

    run(main())


def test_a_budget_cut_by_ten_while_running_holds_at_once(redis_url: str) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", 200)
            await track(rig, 60)
            rig.poll(FAST)
            await eventually(lambda: len(upstream.times) > 300)
            await rig.arms.set_rate("shared", 20)
            await let_pass(0.2)  # what was granted before the cut may still set out: the horizon of 100 ms
            cut = upstream.count_anew()
            await let_pass(3.0)

            held(rig.engine, upstream.traffic, 20, since=cut)
            outlook = await look(rig.arms, FAST, "shared")
            assert outlook.load.rate == 20
            assert outlook.forecast.mean_delay_s > 0
            await rig.arms.set_rate("shared", 200)
            await eventually(lambda: upstream.last_second() >= 150)
            held(rig.engine, upstream.traffic, 200)

    run(main())


def test_a_wave_of_orders_starves_neither_the_old_ones_nor_another_retailer(redis_url: str) -> None:
    """50,000 orders at once, on a budget that takes them minutes to read."""

    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", 100)
            small, old = await track(rig, 5, retailer="ret_small", prefix="s"), await track(rig, 20)
            rig.poll(FAST)
            await eventually(lambda: len(upstream.times) > 200, within=30)
            await rig.stop()  # registering takes a while; the old ones were planned before it, and fall due in it
            await track(rig, 50_000, prefix="wave")
            began = time.time()
            rig.poll(FAST)

            def all_go_on() -> bool:
                asked = Counter(order for at, order in upstream.times if at >= began)
                waves = sum(count for order, count in asked.items() if order.startswith("wave"))
                return waves > 50 and min(sum(asked[one] for one in names) for names in (old, small)) > 15

            # To read all of the wave first would take 25 minutes.
            await eventually(all_go_on, within=90)
            held(rig.engine, upstream.traffic, 100)
            outlook = await look(rig.arms, FAST, "shared")
            assert not outlook.forecast.feasible
            assert outlook.orders == 50_025

    run(main())


@pytest.mark.parametrize("headers", [{}, {"retry-after": "1"}], ids=["plain", "retry-after"])
def test_429_slows_the_whole_credential_down_and_all_recovers(redis_url: str, headers: dict[str, str]) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:

            def all_show(status: str) -> Callable[[], Awaitable[bool]]:
                async def shown() -> bool:
                    states = [await rig.state(f"o-{number}") for number in range(50)]
                    return all(state.snapshot.status == status for state in states)

                return shown

            await rig.arms.set_rate("shared", 100)
            await track(rig, 50)
            rig.poll(FAST)
            # Asked is not committed: each order must have been seen before its picture is compared.
            await eventually(all_show("picking"))
            await eventually(lambda: len(upstream.times) > 250)
            upstream.refusing = Answer(status=429, headers=headers)
            window = await let_pass(4.0)
            refused = upstream.rate(*window)
            upstream.refusing = None
            upstream.handling = Answer({"status": "staging"})
            await eventually(all_show("staging"), within=30)
            assert refused < 60
            if headers:
                assert refused < 30  # a pause of a second after each look

    run(main())


def test_latency_that_rises_tenfold_lowers_the_concurrency_and_breaks_nothing(redis_url: str) -> None:
    async def main() -> None:
        upstream = Crowd()
        upstream.items = Answer({"items": []}, delay_s=0.02)
        async with open_rig(redis_url, upstream) as rig:
            await track(rig, 60)
            pump = rig.poll(FAST)
            await eventually(lambda: pump.tally["unchanged"] > 1_000)
            high = pump.concurrency.limit
            for name in ("handling", "items", "messages"):
                setattr(upstream, name, Answer(getattr(upstream, name).value, delay_s=0.4))
            await eventually(lambda: pump.concurrency.limit < high)
            unchanged = pump.tally["unchanged"]
            await eventually(lambda: pump.tally["unchanged"] > unchanged + 100)
            assert pump.tally["timeout"] == 0

    run(main())


def test_an_upstream_that_is_slow_is_asked_as_much_at_once_as_it_may_be(redis_url: str) -> None:
    """The budget needs 19 requests in flight of the 20 that there may be: places are filled as they become free."""

    async def main() -> None:
        upstream, flying, most = Crowd(), 0, 0

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.5)
            flying -= 1
            await upstream(scope, receive, send)

        async with open_rig(redis_url, slow) as rig:
            await rig.arms.set_rate("shared", 40)
            await track(rig, 60)
            pump = rig.poll(POLICY, Limits(concurrency=20, lease_ms=5_000))
            pump.concurrency.limit = 20.0
            await eventually(lambda: most >= 17, within=30)

    run(main())


def test_what_upstream_refuses_is_not_asked_again_before_its_time(redis_url: str) -> None:
    """Also where budget is left, and whatever its interval was: others are then read early, but not this."""

    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await rig.arms.set_rate("shared", 50)
            await track(rig, 5)
            rig.poll(Policy(Cadence(scale=0.1, floor=0.1)))
            await eventually(lambda: len(upstream.asked) > 30)
            upstream.items = Answer({}, status=500)

            async def troubled() -> bool:
                found = [await rig.admin.run("HEXISTS", keys.order(rig.retailer_id, f"o-{n}"), "bi") for n in range(5)]
                return all(found)

            await eventually(troubled)
            long_ago = await rig.db.now_ms() - 1_200_000
            trouble = json.dumps({"code": "server_error", "detail": "500", "since": long_ago, "count": 12})
            for number in range(5):  # as if it had failed for twenty minutes: the next try is in six seconds
                key = keys.order(rig.retailer_id, f"o-{number}")
                await rig.admin.run("HSET", key, "wi", long_ago, "bi", trouble)

            def asked(what: str) -> int:
                return sum(what in path for _, path, _ in upstream.asked[began:])

            began = len(upstream.asked)
            await eventually(lambda: asked("/items") >= 5)
            began = len(upstream.asked)
            await eventually(lambda: asked("/handling") >= 60, within=60)
            assert asked("/items") <= 12, asked("/items")

    run(main())


def test_a_refresh_joins_the_request_that_is_in_flight_and_looks_again_after_it(redis_url: str) -> None:
    async def main() -> None:
        upstream = Crowd()
        async with open_rig(redis_url, upstream) as rig:
            await track(rig, 1)
            rig.poll(POLICY)
            await eventually(rig.events)
            upstream.items = Answer({"items": []}, delay_s=0.3)
            began = len(upstream.asked)
            await eventually(lambda: any("/items" in path for _, path, _ in upstream.asked[began:]))
            asked = sum("/items" in path for _, path, _ in upstream.asked)
            for _ in range(5):
                assert await rig.orders.refresh(rig.retailer_id, OrderId("o-0"))
            assert await rig.db.run("SCARD", f"{keys.PREFIX}again:shared/{rig.retailer_id}") >= 1
            assert sum("/items" in path for _, path, _ in upstream.asked) == asked  # none beside it
            await eventually(lambda: sum("/items" in path for _, path, _ in upstream.asked) > asked)

    run(main())


def test_an_answer_that_did_not_change_may_say_so_with_304_and_may_be_compressed(redis_url: str) -> None:
    async def main() -> None:
        upstream = Validating()
        async with open_rig(redis_url, upstream) as rig:
            await track(rig, 1)
            pump = rig.poll(POLICY)
            await eventually(lambda: upstream.unmodified["items"] > 3 and upstream.unmodified["handling"] > 3)
            assert pump.tally["unchanged"] > 6
            upstream.items = Answer({"items": [{"id": "i-1", "quantity": 1, "status": "found"}]})
            await eventually(lambda: _types(rig, "order.item_status_changed"))
            upstream.broken = True
            await eventually(lambda: pump.tally["malformed"] > 0)
            assert (await rig.state("o-0")).snapshot.items == upstream.items.value

    run(main())


async def _types(rig: Rig, name: str) -> bool:
    return name in {event["type"] for event in await rig.events()}


class Validating(Crowd):
    """Offers entity tags and dates, answers 304 to them, and compresses."""

    def __init__(self) -> None:
        super().__init__()
        self.unmodified: Counter[str] = Counter()
        self.broken = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        resource = scope["path"].rsplit("/", 1)[1]
        headers = dict(scope["headers"])
        body = json.dumps(getattr(self, resource).value).encode()
        tag = b'"%x"' % zlib.crc32(body)
        dated = resource == "handling"
        asked = headers.get(b"if-modified-since" if dated else b"if-none-match")
        assert b"gzip" in headers[b"accept-encoding"]
        offered = (b"last-modified", b"Tue, 24 Nov 2026 12:00:00 GMT") if dated else (b"etag", tag)
        if asked == offered[1] and not self.broken:
            self.unmodified[resource] += 1
            await send({"type": "http.response.start", "status": 304, "headers": [offered]})
            await send({"type": "http.response.body", "body": b""})
            return
        packed = gzip.compress(body) if not self.broken else gzip.compress(body)[:-9]
        sent = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip"), offered]
        await send({"type": "http.response.start", "status": 200, "headers": sent})
        await send({"type": "http.response.body", "body": packed})
