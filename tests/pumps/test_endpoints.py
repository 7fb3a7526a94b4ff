"""An endpoint as a whole: circuit, pauses, limits, fairness, heartbeats, notices."""

import asyncio
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from relay.delivering import recorder
from relay.delivering.jobs import Limits
from relay.model.circuit import OPEN_AFTER, Health
from relay.model.orders import LaneId
from relay.model.retries import Schedule
from relay.store import keys
from relay.store.audit import AuditLog
from relay.store.backlog import Backlog
from tests.pumps.test_delivering import change, history, received, run
from tests.support.endpoint import LIMITS, Endpoint, broken, circuit_is, of, works
from tests.support.rig import Rig, eventually, open_rig


def test_a_failing_endpoint_opens_its_circuit_gets_one_probe_at_a_time_and_everything_afterwards(
    redis_url: str,
) -> None:
    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            for number in range(40):
                await history(rig, f"o-{number}", 2)
            rig.deliver(Schedule((0.2,)), LIMITS)
            await eventually(lambda: circuit_is(rig, subscription.id, "open"))
            before = len(endpoint.asked)
            assert before <= 16 + 5 + 2  # what was in flight, what followed the first to fail, and probes
            await eventually(lambda: len(endpoint.asked) >= before + 3)
            probes = endpoint.asked[before : before + 3]
            assert all(later - earlier >= 0.15 for earlier, later in pairwise(probes))

            endpoint.mood = works
            await eventually(rig.idle)
            assert all(received(rig, f"o-{n}") == [1, 2] for n in range(40))
            await eventually(lambda: circuit_is(rig, subscription.id, "closed"))
            await rig.stop()
            assert rig.receiver.gaps() == []
            assert await rig.balanced()

    run(main())


def test_an_open_circuit_outlives_the_worker(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            for number in range(8):
                await history(rig, f"o-{number}", 1)
            rig.deliver(Schedule((30.0,)), LIMITS)
            await eventually(lambda: circuit_is(rig, subscription.id, "open"))
            await rig.stop()
            known = len(endpoint.asked)
            rig.deliver(Schedule((30.0,)), LIMITS)
            await history(rig, "o-new", 1)  # an event does not wake an endpoint that is on hold
            hold = int(await rig.db.run("HGET", keys.subscription(subscription.id), "hold"))
            ready = int(await rig.db.run("ZSCORE", keys.READY, subscription.id))
            assert ready == hold > await rig.db.now_ms() + 10_000
            assert len(endpoint.asked) == known

            endpoint.mood = works
            mended = replace((await of(rig, subscription.id)).configuration, url=f"{rig.upstream_url}/mended")
            await rig.subscriptions.amend(rig.retailer_id, await of(rig, subscription.id), mended)
            await eventually(rig.idle)  # the new address was tried at once
            await rig.stop()
            assert await rig.balanced()

    run(main())


@pytest.mark.parametrize("status", [500, 410])
def test_an_answer_of_the_url_before_says_nothing_of_the_new_one(redis_url: str, status: int) -> None:
    """The retailer moves a failing endpoint while the relay probes it: the late answer neither holds up nor disables
    what is sent to the new URL."""

    async def main() -> None:
        asked, go_on = asyncio.Event(), asyncio.Event()
        failed: set[bytes] = set()

        async def old(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                return
            probing = len(failed) == OPEN_AFTER  # one lane an order, one event an order, one post at a time
            if probing:
                asked.set()
                await go_on.wait()
            failed.add(dict(scope["headers"])[b"webhook-id"])
            await send({"type": "http.response.start", "status": status if probing else 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async with open_rig(redis_url, old) as rig:
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook", max_in_flight=1)
            for number in range(6):
                await history(rig, f"o-{number}", 1)
            rig.deliver(Schedule((0.05, 3_600.0)), LIMITS)
            await asked.wait()
            known = await of(rig, subscription.id)
            mended = replace(known.configuration, url=f"{rig.receiver_url}/mended")
            await rig.subscriptions.amend(rig.retailer_id, known, mended)
            # Known to the runner: what it wrote of the endpoint is of the new one.
            await eventually(lambda: _held_until(rig, subscription.id, 0))
            go_on.set()
            await eventually(rig.idle)
            assert (await of(rig, subscription.id)).configuration.enabled
            await eventually(lambda: circuit_is(rig, subscription.id, "closed"))
            await rig.stop()
            assert await rig.balanced()

    run(main())


def test_failures_of_the_url_before_count_no_more(redis_url: str) -> None:
    """An endpoint has been failing for days when the retailer moves it. What the pump that owns it has in memory says
    nothing of the new URL either, which fails from now on; that it works in the end is told as ever."""

    async def main() -> None:
        endpoint = Endpoint(lambda body: (500, {}) if b'"order.' in body else None)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            ill = await rig.subscribe(url=f"{rig.upstream_url}/ill")
            await rig.subscribe(event_types=("subscription.*",))
            for number in range(6):
                await history(rig, f"o-{number}", 1)
            days_ago = await rig.db.now_ms() - 4 * 24 * 3_600_000
            failing = Health(lanes=(LaneId("o-0"), LaneId("o-1")), since_ms=days_ago, told=True)
            await rig.db.run("HSET", keys.subscription(ill.id), "health", msgspec.json.encode(failing))
            rig.deliver(Schedule((0.05,)), LIMITS)
            await eventually(lambda: circuit_is(rig, ill.id, "open"))
            known = await of(rig, ill.id)
            assert known.failing_since_ms == days_ago

            moved_ms = await rig.db.now_ms()
            elsewhere = replace(known.configuration, url=f"{rig.upstream_url}/worse")
            moved = await rig.subscriptions.amend(rig.retailer_id, known, elsewhere)
            assert (moved.failing_since_ms, moved.circuit) == (None, "open")

            async def fails_again() -> bool:
                since = (await of(rig, ill.id)).failing_since_ms
                assert since is None or since >= moved_ms
                return since is not None

            await eventually(fails_again)
            endpoint.mood = works
            await eventually(lambda: any(one.event["type"] == "subscription.recovered" for one in rig.receipts))
            await eventually(rig.idle)
            await rig.stop()
            told = [one.event for one in rig.receipts if one.event["type"].startswith("subscription.")]
            assert [(one["type"], one["data"]["url"].rpartition("/")[2]) for one in told] == [
                ("subscription.recovered", "worse")
            ]
            assert await rig.balanced()

    run(main())


async def _held_until(rig: Rig, subscription_id: str, ms: int) -> bool:
    return int(await rig.db.run("HGET", keys.subscription(subscription_id), "hold") or -1) == ms


@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_that_asks_for_a_pause_gets_it(redis_url: str, status: int) -> None:
    async def main() -> None:
        endpoint = Endpoint(works)
        asked = 0

        def mood(body: bytes) -> tuple[int, dict[str, str]] | None:
            nonlocal asked
            asked += 1
            return (status, {"retry-after": "1"}) if asked == 1 else None

        endpoint.mood = mood
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook", max_in_flight=1)
            for number in range(5):
                await history(rig, f"o-{number}", 1)
            rig.deliver(Schedule((0.01,)), LIMITS)
            await eventually(rig.idle)
            await rig.stop()
            assert endpoint.asked[1] - endpoint.asked[0] >= 0.99
            assert await rig.balanced()

    run(main())


def test_the_rate_limit_holds_over_workers(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(works)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook", rate_limit=20.0)
            for number in range(30):
                await history(rig, f"o-{number}", 1)
            for wanted in (8, 16, 24):  # one after the other: each takes over with what the last one spent
                rig.deliver(None, LIMITS)
                await eventually(partial(_asked, endpoint, wanted))
                await rig.stop()
            at = endpoint.asked
            assert len(at) >= 24
            assert all(later - earlier >= 19 / 20 - 0.05 for earlier, later in zip(at, at[20:], strict=False))
            assert at[-1] - at[0] >= (len(at) - 1) / 20 - 0.05

    run(main())


def test_ten_thousand_waiting_events_delay_nobody_else(redis_url: str) -> None:
    """Fairness by count, not by clock: while the crowd is served, the other's event is among the next few dozen."""

    async def main() -> None:
        order: list[str] = []
        endpoint = Endpoint(works)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                order.append(scope["path"])
            await endpoint(scope, receive, send)

        async with open_rig(redis_url, app) as rig:
            endpoint.mood = lambda body: (204, {})
            await rig.subscribe(url=f"{rig.upstream_url}/crowd", event_types=("order.*",), ordering="none")
            await _flood(rig, 10_000)
            quiet = await rig.subscribe(url=f"{rig.upstream_url}/quiet", event_types=("order.tracking_started",))
            await rig.db.run("HSET", keys.subscription(quiet.id), "pos", await rig.log.last_position(rig.retailer_id))
            rig.deliver(None, LIMITS, concurrency=64)
            await eventually(lambda: len(order) >= 500)
            before = len(order)
            await history(rig, "o-quiet", 1)
            await eventually(lambda: "/quiet" in order, within=20)
            assert order.index("/quiet") - before < 2_000
            assert len(order) < 10_000

    run(main())


def _asked(endpoint: Endpoint, times: int) -> bool:
    return len(endpoint.asked) >= times


async def _flood(rig: Rig, count: int) -> None:
    """Copies of one real event, as cheaply as Redis takes them."""
    await history(rig, "o-crowd", 1)
    (entry,) = await rig.log.after(rig.retailer_id, "0-0", 1)
    for start in range(0, count, 1000):
        commands: list[list[Any]] = []
        for number in range(start, start + 1000):
            fields = ["i", f"evt_{number}", "t", "order.updated", "o", f"x-{number}", "q", 1, "b", entry.body]
            commands.append(["XADD", keys.log(rig.retailer_id), "*", *fields])
        await rig.db.run_many(commands)


def test_an_order_that_hangs_at_a_slice_s_end_keeps_no_other_waiting(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who hands over sends new events while a post of before hangs, or one that was sent meanwhile, leaves to the next
    owner what has failed before, and gives back when those have ended. Until then the next owner posts nothing."""
    monkeypatch.setattr("relay.delivering.runner.HANGING", 0.0)

    async def main() -> None:
        hangs, go_on, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        later, go_on_later = asyncio.Event(), asyncio.Event()
        endpoint = Endpoint(lambda body: (500, {}) if b'"order_id":"o-bad"' in body and not go_on.is_set() else None)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                body = (await receive())["body"]
                if b'"order_id":"o-hangs"' in body and not go_on.is_set():
                    hangs.set()
                    await go_on.wait()
                if b'"order_id":"o-later"' in body and not go_on_later.is_set():
                    later.set()
                    await go_on_later.wait()

                async def again() -> Any:
                    return {"type": "http.request", "body": body, "more_body": False}

                await endpoint(scope, again, send)

        async with open_rig(redis_url, app, deadline=60.0) as rig:
            endpoint.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook")
            await history(rig, "o-hangs", 2)
            await history(rig, "o-bad", 1)
            limits = replace(LIMITS, drain_s=70.0)
            first = rig.deliver(Schedule((0.05,)), limits, slice_over=over.is_set)
            await hangs.wait()
            ((runner, _),) = first._runners.values()
            over.set()
            await eventually(lambda: runner._flights.awaited and len(runner._flights) == 1)
            before = len(endpoint.asked)
            assert before > 0  # o-bad's, which is due again all the time
            rig.deliver(Schedule((0.05,)), limits)
            for number in range(3):
                await change(rig, "o-new", f"status-{number}")
                await eventually(lambda: len(received(rig, "o-new")) == number + 1)  # noqa: B023
            assert len(endpoint.asked) == before + 3
            await change(rig, "o-later", "status")
            await later.wait()
            go_on.set()
            await eventually(lambda: received(rig, "o-hangs")[:1] == [1])
            await change(rig, "o-new", "status-3")
            await eventually(lambda: len(received(rig, "o-new")) == 4)
            assert not rig.running[0].done()

            go_on_later.set()
            await rig.running[0]
            await eventually(rig.idle)
            assert received(rig, "o-new") == [1, 2, 3, 4]
            assert received(rig, "o-later") == [1]
            assert received(rig, "o-hangs") == [1, 2]
            assert received(rig, "o-bad") == [1]
            assert rig.receiver.counters.duplicates == 0
            await rig.stop()
            assert await rig.balanced()

    run(main())


def test_heartbeats_carry_the_high_water_mark(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(lambda body: (500, {}) if b'"order_id":"o-bad"' in body else None)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook", heartbeat_seconds=1)
            await history(rig, "o-1", 2)
            await history(rig, "o-bad", 1)
            await history(rig, "o-2", 1)
            rig.deliver(Schedule((5.0,)), LIMITS)
            await eventually(lambda: len(received(rig, "o-1")) == 2 and len(received(rig, "o-2")) == 1)

            def beats() -> list[dict[str, Any]]:
                return [r.event["data"] for r in rig.receipts if r.event["type"] == "webhook.heartbeat"]

            seen = len(beats())
            await eventually(lambda: len(beats()) >= seen + 2)
            await rig.stop()
            assert beats()[-1]["last_sequence"] == 4
            assert beats()[-1]["oldest_waiting_sequence"] == 3
            assert 0 in rig.receiver.sequences  # no relay-sequence: a heartbeat takes no number

    run(main())


def test_a_heartbeat_knows_what_failed_a_moment_ago(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event whose failure is not yet written down waits all the same: nobody may hold it for lost."""
    monkeypatch.setattr(recorder, "GATHER", 2.5)

    async def main() -> None:
        endpoint = Endpoint(lambda body: (500, {}) if b'"order_id":"o-bad"' in body else None)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            await rig.subscribe(url=f"{rig.upstream_url}/hook", heartbeat_seconds=1)
            await history(rig, "o-bad", 1)
            rig.deliver(Schedule((30.0,)), Limits(lease_ms=20_000, drain_s=2.0))
            await eventually(lambda: len(rig.receipts) >= 2)
            await rig.stop()
            assert [r.event["type"] for r in rig.receipts[:2]] == ["webhook.heartbeat"] * 2
            assert [r.event["data"]["oldest_waiting_sequence"] for r in rig.receipts[:2]] == [1, 1]

    run(main())


def test_the_other_subscriptions_hear_of_failing_disabled_and_recovered(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(lambda body: (500, {}) if b'"order.' in body else None)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            ill = await rig.subscribe(url=f"{rig.upstream_url}/ill?token=hush")
            await rig.subscribe(event_types=("subscription.*",))
            for number in range(6):
                await history(rig, f"o-{number}", 1)
            rig.deliver(Schedule((0.05,)), replace(LIMITS, disable_after_s=1.5))

            def heard() -> list[str]:
                return [receipt.event["type"] for receipt in rig.receipts]

            await eventually(lambda: "subscription.disabled" in heard())
            assert heard() == ["subscription.failing", "subscription.disabled"]
            found = await of(rig, ill.id)
            assert (found.configuration.enabled, found.disabled_reason) == (False, "failing")
            assert await rig.balanced()
            data = rig.receipts[-1].event["data"]
            assert (data["reason"], data["subscription_id"]) == ("failing", ill.id)
            assert data["last_error"]["status_code"] == 500
            assert "hush" not in str(data)
            (record,), _ = await AuditLog(rig.db).page(rig.retailer_id, before=None, limit=9, action=None)
            told = record.action
            assert (told.name, told.actor, told.object_id) == ("subscription.disabled", "relay", ill.id)
            assert told.details == {"reason": "failing"}
            summary = await Backlog(rig.db).summary()
            assert (summary.enabled, summary.disabled, summary.imbalance) == (1, 1, 0)
            assert (summary.circuits["closed"], summary.parked_lanes) == (1, 6)
            assert sum(one.events for one in summary.waiting.values()) >= 6

            async def none_ready() -> bool:  # it is disabled, and the other has everything, once that is written
                return (await Backlog(rig.db).summary()).waiting["ready"].events == 0

            await eventually(none_ready)

            endpoint.mood = works
            again = replace(found.configuration, enabled=True)
            await rig.subscriptions.amend(rig.retailer_id, found, again)
            await eventually(lambda: "subscription.recovered" in heard())
            await eventually(rig.idle)
            await rig.stop()
            assert heard().count("subscription.recovered") == 1
            assert await rig.balanced()

    run(main())


def test_what_became_of_each_event_is_kept(redis_url: str) -> None:
    async def main() -> None:
        fails = 2

        def mood(body: bytes) -> tuple[int, dict[str, str]] | None:
            nonlocal fails
            fails -= 1
            return (500, {}) if fails >= 0 else None

        endpoint = Endpoint(mood)
        async with open_rig(redis_url, endpoint) as rig:
            endpoint.inner = rig.receiver
            subscription = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            await history(rig, "o-1", 1)
            rig.deliver(Schedule((0.02,)))
            await eventually(rig.idle)
            await rig.stop()
            (entry,) = await rig.log.after(rig.retailer_id, "0-0", 10)
            (tries,) = await rig.stores.attempts.of(subscription.id, [entry.position])
            assert [(one.number, one.status, one.verdict) for one in tries] == [
                (1, 500, "retry"),
                (2, 500, "retry"),
                (3, 200, "delivered"),
            ]
            assert {one.sequence for one in tries} == {1}
            raw = await rig.db.run("HGET", keys.attempts(subscription.id, entry.position), entry.position)
            assert len(msgspec.json.decode(raw.splitlines()[-1])) == 7
            assert await rig.db.run("PTTL", keys.attempts(subscription.id, entry.position)) > 0

    run(main())
