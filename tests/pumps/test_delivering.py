"""The deliver pump on a real store and real sockets: promises 3, 4 and 7."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from relay.model import lifecycle
from relay.model.orders import OrderId, Reading, Resource
from relay.model.retries import Schedule
from relay.store.order_records import Commit
from tests.support.orders import make_handling
from tests.support.rig import Rig, eventually, open_rig


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 45))


async def change(rig: Rig, order_id: str, status: str) -> None:
    """Commit one more status of an order, as the poll pump would."""
    for _ in range(20):
        state = await rig.orders.load_state(rig.retailer_id, OrderId(order_id))
        if state is None:
            await rig.track(order_id)
            continue
        at = max(state.read_at_ms.values(), default=0) + 1
        if not state.started:
            for resource in (Resource.ITEMS, Resource.MESSAGES):
                value: dict[str, Any] = {resource.value: []}
                state = await _commit(rig, state, Reading(resource, value, at))
        await _commit(rig, state, Reading(Resource.HANDLING, make_handling(status=status), at))
        return


async def _commit(rig: Rig, state: Any, reading: Reading) -> Any:
    step = lifecycle.observe(state, reading, now_ms=await rig.db.now_ms(), policy=lifecycle.Policy())
    assert step is not None
    assert await rig.orders.commit(Commit(state, step.state, step.events)) == "ok"
    return await rig.state(state.order_id)


async def history(rig: Rig, order_id: str, length: int) -> None:
    """An order whose events are numbered 1 to `length`."""
    for number in range(length):
        await change(rig, order_id, f"status-{number}")


def received(rig: Rig, order_id: str) -> list[int]:
    return [r.event["data"]["sequence"] for r in rig.receipts if r.event["data"].get("order_id") == order_id]


def test_events_arrive_signed_in_order_and_numbered_without_a_gap(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe()
            rig.deliver()
            for order_id in ("o-1", "o-2", "o-3"):
                await history(rig, order_id, 5)
            await eventually(lambda: len(rig.receipts) == 15)
            await rig.stop()

            assert all(received(rig, order_id) == [1, 2, 3, 4, 5] for order_id in ("o-1", "o-2", "o-3"))
            assert rig.receiver.sequences == set(range(1, 16))
            assert rig.receiver.counters.refused == 0
            bodies = {entry.event_id: entry.body for entry in await rig.log.after(rig.retailer_id, "0-0", 100)}
            assert all(bodies[receipt.event["id"]] == receipt.body for receipt in rig.receipts)
            (account,) = await rig.accounts()
            assert (account.matched, account.delivered, account.waiting) == (15, 15, 0)
            assert await rig.balanced()

    run(main())


@pytest.mark.parametrize("fail_rate", [0.2, 0.6])
def test_a_failing_receiver_gets_everything_in_order_in_the_end(redis_url: str, fail_rate: float) -> None:
    async def main() -> None:
        async with open_rig(redis_url, fail_rate=fail_rate) as rig:
            await rig.subscribe()
            rig.deliver(Schedule((0.02,)))
            for number in range(12):
                for order_id in ("o-1", "o-2", "o-3", "o-4"):
                    await change(rig, order_id, f"status-{number}")
            await eventually(lambda: len(rig.receipts) == 48, within=30)
            await eventually(rig.idle)
            await rig.stop()

            assert all(received(rig, f"o-{n}") == list(range(1, 13)) for n in range(1, 5))
            assert rig.receiver.counters.out_of_order == 0
            assert rig.receiver.gaps() == []
            assert any(receipt.attempt > 1 for receipt in rig.receipts)
            assert await rig.balanced()

    run(main())


class Selective:
    """A receiver in front of the rig's that refuses, hangs or resets for chosen orders."""

    def __init__(self, behaviour: str, orders: set[str]) -> None:
        self.behaviour = behaviour
        self.orders = orders
        self.inner: Any = None
        self.refused = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"")
        if any(f'"order_id":"{order}"'.encode() in body for order in self.orders):
            self.refused += 1
            await self._misbehave(send)
            return

        async def again() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        await self.inner(scope, again, send)

    async def _misbehave(self, send: Any) -> None:
        if self.behaviour == "hangs":
            await asyncio.sleep(30)
        if self.behaviour == "never ends":
            await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"10000000000")]})
            for _ in range(10_000):  # 10 GB are promised; what a receiver that reads them all would be sent is 600 MB
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0)
            return
        status = {"410": 410, "redirects": 302}.get(self.behaviour, 500)
        headers = [(b"location", b"http://127.0.0.1:1/"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("behaviour", ["500", "hangs", "never ends", "redirects"])
def test_a_failing_order_never_delays_another(redis_url: str, behaviour: str) -> None:
    async def main() -> None:
        front = Selective(behaviour, {"o-bad"})
        async with open_rig(redis_url, front, deadline=0.4) as rig:
            front.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook")
            rig.deliver(Schedule((0.05,)))
            await history(rig, "o-bad", 3)
            await history(rig, "o-good", 5)
            await eventually(lambda: received(rig, "o-good") == [1, 2, 3, 4, 5])
            await eventually(lambda: front.refused >= 2)
            assert received(rig, "o-bad") == []
            await change(rig, "o-bad", "while parked")

            front.orders = set()
            await eventually(lambda: received(rig, "o-bad") == [1, 2, 3, 4])
            await eventually(rig.idle)
            await rig.stop()
            assert await rig.balanced()
            assert rig.receiver.gaps() == []

    run(main())


def test_410_disables_and_nothing_is_lost(redis_url: str) -> None:
    async def main() -> None:
        front = Selective("410", {"o-1"})
        async with open_rig(redis_url, front) as rig:
            front.inner = rig.receiver
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            rig.deliver()
            await history(rig, "o-1", 2)

            async def disabled() -> bool:
                found = await rig.subscriptions.get(rig.retailer_id, subscription.id)
                return not found.configuration.enabled and found.disabled_reason == "gone"

            await eventually(disabled)
            await history(rig, "o-2", 2)
            assert rig.receipts == []
            await eventually(rig.balanced)

            front.orders = set()
            known = await rig.subscriptions.get(rig.retailer_id, subscription.id)
            await rig.subscriptions.amend(rig.retailer_id, known, replace(known.configuration, enabled=True))
            await eventually(lambda: received(rig, "o-1") == [1, 2] and received(rig, "o-2") == [1, 2])
            await eventually(rig.idle)
            await rig.stop()
            assert await rig.balanced()

    run(main())


def test_exhausted_retries_are_dead_letters_and_the_lane_goes_on(redis_url: str) -> None:
    async def main() -> None:
        front = Selective("500", {"o-1"})
        async with open_rig(redis_url, front) as rig:
            front.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook")
            rig.deliver(Schedule((0.02,), give_up_after=0.3))
            await history(rig, "o-1", 3)

            async def buried() -> bool:
                (account,) = await rig.accounts()
                return account.dead == 3 and account.waiting == 0

            await eventually(buried)
            front.orders = set()
            await change(rig, "o-1", "alive")
            await eventually(lambda: received(rig, "o-1") == [4])
            await eventually(rig.idle)
            await rig.stop()
            assert await rig.balanced()

    run(main())


def test_filters_thin_payloads_and_own_headers(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await rig.subscribe(event_types=("order.status_changed",), payload="thin")
            rig.deliver()
            await history(rig, "o-1", 3)
            await eventually(lambda: len(rig.receipts) == 2)
            await eventually(rig.idle)
            await rig.stop()

            assert received(rig, "o-1") == [2, 3]
            assert [receipt.sequence for receipt in rig.receipts] == [1, 2]
            assert rig.receipts[0].event["data"]["changes"] == ["status"]
            assert "order" not in rig.receipts[0].event["data"]
            assert await rig.balanced()

    run(main())


def test_new_filters_hold_from_now_on_and_numbers_stay_contiguous(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe(event_types=("order.tracking_started",))
            await history(rig, "o-1", 3)
            wider = replace(subscription.configuration, event_types=("order.*",))
            await rig.subscriptions.amend(rig.retailer_id, subscription, wider)
            await history(rig, "o-2", 3)
            rig.deliver()
            await eventually(lambda: len(rig.receipts) == 4)
            await eventually(rig.idle)
            await rig.stop()

            assert (received(rig, "o-1"), received(rig, "o-2")) == ([1], [1, 2, 3])
            assert sorted(rig.receiver.sequences) == [1, 2, 3, 4]
            assert await rig.balanced()

    run(main())


def test_many_pumps_share_many_subscriptions_without_repeating(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            for _ in range(10):
                await rig.subscribe()
            for _ in range(3):
                rig.deliver()
            for number in range(6):
                for order_id in ("o-1", "o-2"):
                    await change(rig, order_id, f"status-{number}")
            await eventually(lambda: rig.receiver.counters.verified >= 120)
            await eventually(rig.idle)
            await rig.stop()

            assert rig.receiver.counters.verified == 120
            assert await rig.balanced()

    run(main())


def test_a_stopping_pump_finishes_what_is_in_flight_and_releases(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url, delay_s=0.2) as rig:
            await rig.subscribe()
            rig.deliver()
            await history(rig, "o-1", 2)
            await eventually(lambda: rig.receiver.counters.received >= 1)
            await rig.stop()
            assert rig.receiver.counters.verified == rig.receiver.counters.received
            assert await rig.balanced()

            rig.deliver()  # takes over at once: the lease was given back
            await eventually(lambda: received(rig, "o-1") == [1, 2], within=1.5)
            await eventually(rig.idle)
            assert rig.receiver.counters.duplicates == 0

    run(main())


def test_a_receiver_that_refuses_gets_everything_at_the_address_it_has_now(redis_url: str, unused_port: int) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe(url=f"http://127.0.0.1:{unused_port}/nobody")
            rig.deliver()
            await history(rig, "o-1", 3)

            async def refused() -> bool:
                found = await rig.subscriptions.get(rig.retailer_id, subscription.id)
                return found.last_error is not None and found.last_error["outcome"] == "connect"

            await eventually(refused)
            assert rig.receipts == []
            mended = replace(subscription.configuration, url=f"{rig.receiver_url}/mended")
            await rig.subscriptions.amend(rig.retailer_id, subscription, mended)
            await eventually(lambda: received(rig, "o-1") == [1, 2, 3])
            await eventually(rig.idle)
            await rig.stop()
            assert await rig.balanced()

    run(main())


def test_without_ordering_an_event_waits_for_no_other_of_its_order(redis_url: str) -> None:
    async def main() -> None:
        front = Selective("500", set())
        front.inner = None

        class FailsTheFirst:
            """Refuses an order's first event for a while, takes everything else."""

            refusing = True

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                front.orders = {"o-1"} if self.refusing else set()
                await front(scope, receive, send)

        gate = FailsTheFirst()
        async with open_rig(redis_url, gate) as rig:
            front.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook", ordering="none")
            rig.deliver(Schedule((1.0, 0.05)))
            await history(rig, "o-1", 1)
            await eventually(lambda: front.refused >= 1)
            gate.refusing = False
            await change(rig, "o-1", "second")
            await eventually(lambda: received(rig, "o-1") == [2])
            await eventually(lambda: received(rig, "o-1") == [2, 1])
            await eventually(rig.idle)
            await rig.stop()

            assert rig.receiver.gaps() == []
            assert await rig.balanced()

    run(main())


def test_no_more_posts_at_a_time_than_the_subscription_allows(redis_url: str) -> None:
    async def main() -> None:
        most = running = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal most, running
            if scope["type"] != "http":
                return
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with open_rig(redis_url, app) as rig:
            await rig.subscribe(url=f"{rig.upstream_url}/hook", max_in_flight=3)
            for number in range(20):
                await history(rig, f"o-{number}", 1)
            rig.deliver()
            await eventually(rig.idle)
            await rig.stop()

            assert most == 3
            assert await rig.balanced()

    run(main())
