"""What became of events, as the API tells it of what a real pump did at a real endpoint."""

import asyncio
from typing import Any

import pytest

from relay.model.retries import Schedule
from relay.store import keys
from relay.store.recoveries import MOST_OUTSTANDING
from tests.pumps.test_delivering import change, history, run
from tests.support.endpoint import LIMITS, Endpoint, broken, circuit_is, works
from tests.support.rig import eventually
from tests.support.shop import Shop, open_shop

PAST = "2020-01-01T00:00:00Z"


async def _all(shop: Shop, path: str, query: str = "", limit: int = 100) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = await shop.got(f"{path}?limit={limit}{query}{after}")
        found += page["data"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def _picky(body: bytes) -> tuple[int, dict[str, str]] | None:
    """Fails for orders whose ids begin with `bad`."""
    return (503, {"retry-after": "3600"}) if b"bad-now" in body else ((500, {}) if b'"order_id":"bad' in body else None)


def test_every_status_is_told_with_its_attempts(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(_picky)
        async with open_shop(redis_url, endpoint) as shop:
            rig, endpoint.inner = shop.rig, shop.rig.receiver
            one = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            path = f"/v1/subscriptions/{one.id}/deliveries"
            await history(rig, "good", 2)
            await history(rig, "bad", 2)
            rig.deliver(Schedule((0.05, 3_600)), LIMITS)
            await eventually(lambda: len(endpoint.asked) >= 4)
            await eventually(lambda: _lengths(shop, path, 2))
            await rig.stop()
            await change(rig, "good", "not yet read")

            told = await _all(shop, path)

            assert [(d["order_id"], d["status"], len(d["attempts"])) for d in told] == [
                ("good", "waiting", 0),
                ("bad", "waiting", 0),
                ("bad", "retrying", 2),
                ("good", "delivered", 1),
                ("good", "delivered", 1),
            ]
            assert [d["sequence"] for d in told] == [5, 4, 3, 2, 1]
            retrying = told[2]
            assert retrying["next_attempt_at"] > retrying["attempts"][-1]["at"]
            assert {a["status_code"] for a in retrying["attempts"]} == {500}
            assert (told[4]["attempts"][0]["outcome"], told[4]["attempts"][0]["error"]) == ("answered", None)
            shown = {r.event["id"]: r.sequence for r in rig.receipts}
            assert {d["event_id"]: d["sequence"] for d in told[3:]} == shown
            for status in ("waiting", "retrying", "delivered", "dead", "skipped"):
                assert await _all(shop, path, f"&status={status}") == [d for d in told if d["status"] == status]
            assert await _all(shop, path, "&order_id=bad") == told[1:3]
            assert await _all(shop, path, "&event_type=order.tracking_*") == [told[2], told[4]]
            refused = await shop.ask("GET", f"{path}?status=lost")
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid_status")
            of_event = await shop.got(f"/v1/events/{retrying['event_id']}/deliveries")
            assert of_event["data"] == [retrying]

    run(main())


async def _lengths(shop: Shop, path: str, attempts: int) -> bool:
    told = (await shop.got(path))["data"]
    return len(told) == 4 and any(len(d["attempts"]) == attempts for d in told)


def test_pages_have_no_holes_and_no_repeats(redis_url: str) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            one = await shop.rig.subscribe(event_types=("order.status_changed",))
            for number in range(60):
                await history(shop.rig, f"o-{number}", 5)

            path = f"/v1/subscriptions/{one.id}/deliveries"
            told = await _all(shop, path, limit=7)

            log = [e.event_id for e in await shop.rig.log.after(shop.rig.retailer_id, "0-0", 1_000)]
            types = [e.type for e in await shop.rig.log.after(shop.rig.retailer_id, "0-0", 1_000)]
            wanted = [id_ for id_, kind in zip(log, types, strict=True) if kind == "order.status_changed"]
            assert [d["event_id"] for d in told] == wanted[::-1]
            assert len(told) == 240
            assert [d["sequence"] for d in told] == list(range(240, 0, -1))

    run(main())


def test_dead_letters_are_listed_counted_and_recovered_from_anywhere(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_shop(redis_url, endpoint) as shop:
            rig, endpoint.inner = shop.rig, shop.rig.receiver
            one = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            await history(rig, "o-1", 3)
            rig.deliver(Schedule((0.02,), give_up_after=0.1), LIMITS)
            base = f"/v1/subscriptions/{one.id}"
            await eventually(lambda: _dead(shop, base, 3))
            dead = await _all(shop, f"{base}/deliveries", "&status=dead")
            assert (await shop.got(f"{base}/stats"))["dead"] == 3
            endpoint.mood = works

            begun = await shop.ask("POST", f"{base}/recover", {"since": PAST})
            assert begun.status_code == 202
            job = begun.json()
            await eventually(lambda: _ended(shop, base, job["id"]))

            await eventually(lambda: len(rig.receipts) == 3)
            assert [r.event["id"] for r in rig.receipts] == [d["event_id"] for d in dead[::-1]]
            assert all(r.replay for r in rig.receipts)
            assert [r.sequence for r in rig.receipts] == [1, 2, 3]
            done = await shop.got(f"{base}/recoveries/{job['id']}")
            assert (done["looked_at"], done["resent"], done["skipped"], done["progress"]) == (3, 3, 0, 1.0)
            assert [j["id"] for j in (await shop.got(f"{base}/recoveries"))["data"]] == [job["id"]]
            await eventually(lambda: _dead(shop, base, 0))
            assert {d["status"] for d in await _all(shop, f"{base}/deliveries")} == {"delivered"}
            await eventually(rig.balanced)

    run(main())


async def _dead(shop: Shop, base: str, count: int) -> bool:
    return bool((await shop.got(base))["dead"] == count)


async def _ended(shop: Shop, base: str, job: str) -> bool:
    return bool((await shop.got(f"{base}/recoveries/{job}"))["status"] == "done")


def test_a_recovery_is_asked_for_in_a_range_and_one_at_a_time(redis_url: str) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            one = await shop.rig.subscribe()
            path = f"/v1/subscriptions/{one.id}/recover"
            await history(shop.rig, "o-1", 2)

            future = await shop.ask("POST", path, {"since": "2999-01-01T00:00:00Z"})
            inverted = await shop.ask("POST", path, {"since": PAST, "until": PAST})
            naive = await shop.ask("POST", path, {"since": "2026-01-01T00:00:00"})
            unknown = await shop.ask("POST", "/v1/subscriptions/sub_none/recover", {"since": PAST})
            first = await shop.ask("POST", path, {"since": PAST, "only": "all"})
            second = await shop.ask("POST", path, {"since": PAST})

            assert [a.status_code for a in (future, inverted, naive, unknown)] == [422, 422, 422, 404]
            pointers = [a.json()["errors"][0]["pointer"] for a in (future, inverted, naive)]
            assert pointers == ["/since", "/until", "/since"]
            assert (first.status_code, second.status_code) == (202, 409)
            assert second.json()["code"] == "recovery_running"
            assert first.json()["id"] in second.json()["detail"]
            await shop.ask("POST", f"/v1/subscriptions/{one.id}/disable", {})
            assert (await shop.ask("POST", path, {"since": PAST})).json()["code"] in (
                "subscription_disabled",
                "recovery_running",
            )

    run(main())


def test_one_event_is_sent_again_under_the_same_id_also_while_its_order_waits(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(works)
        async with open_shop(redis_url, endpoint) as shop:
            rig, endpoint.inner = shop.rig, shop.rig.receiver
            one = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            await history(rig, "o-1", 1)
            rig.deliver(Schedule((3_600,)), LIMITS)
            await eventually(lambda: len(rig.receipts) == 1)
            first = rig.receipts[0]
            endpoint.mood = lambda body: (500, {}) if b'"sequence":2' in body else None
            await change(rig, "o-1", "this one fails")
            await eventually(lambda: rig.db.run("ZCARD", keys.lanes(one.id)))

            body = {"subscription_id": one.id}
            answer = await shop.ask("POST", f"/v1/events/{first.event['id']}/redeliver", body)

            assert (answer.status_code, answer.json()["sequence"]) == (202, 1)
            await eventually(lambda: rig.receiver.counters.duplicates == 1)
            assert endpoint.headers[-1]["relay-replay"] == "true"
            assert endpoint.headers[-1]["webhook-id"] == first.event["id"]
            assert endpoint.headers[-1]["relay-sequence"] == "1"
            assert endpoint.bodies[-1] == first.body
            await eventually(rig.balanced)

    run(main())


def test_what_cannot_be_sent_again(redis_url: str) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            one = await shop.rig.subscribe()
            await history(shop.rig, "o-1", 1)
            event = (await shop.got("/v1/events"))["data"][0]["id"]
            path, body = f"/v1/events/{event}/redeliver", {"subscription_id": one.id}

            foreign = await shop.ask("POST", path, {"subscription_id": "sub_other"})
            missing = await shop.ask("POST", "/v1/events/evt_none/redeliver", body)
            await shop.rig.db.run("HSET", keys.subscription(one.id), "replaying", MOST_OUTSTANDING)
            busy = await shop.ask("POST", path, body)
            await shop.rig.db.run("HSET", keys.subscription(one.id), "replaying", 0)
            once = await shop.ask("POST", path, body, **{"idempotency-key": "k"})
            again = await shop.ask("POST", path, body, **{"idempotency-key": "k"})
            waiting = await shop.rig.db.run("HGET", keys.subscription(one.id), "replaying")
            await shop.ask("POST", f"/v1/subscriptions/{one.id}/disable", {})
            disabled = await shop.ask("POST", path, body)

            assert [a.status_code for a in (foreign, missing, busy, disabled)] == [404, 404, 429, 409]
            assert int(busy.headers["retry-after"]) >= 1
            assert disabled.json()["code"] == "subscription_disabled"
            assert (once.status_code, again.status_code, again.headers["idempotency-replayed"]) == (202, 202, "true")
            assert int(waiting) == 1

    run(main())


@pytest.mark.parametrize(("backlog", "statuses"), [("skip", {"skipped"}), ("latest", {"skipped", "delivered"})])
def test_what_was_left_out_on_enabling_is_told(redis_url: str, backlog: str, statuses: set[str]) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            one = await shop.rig.subscribe(enabled=False)
            await history(shop.rig, "o-1", 4)
            base = f"/v1/subscriptions/{one.id}"

            enabled = await shop.ask("POST", f"{base}/enable", {"backlog": backlog})
            assert (enabled.status_code, enabled.json()["enabled"]) == (200, True)
            shop.rig.deliver()
            await eventually(shop.rig.idle)
            await shop.rig.stop()

            told = await _all(shop, f"{base}/deliveries")
            assert {d["status"] for d in told} == statuses
            if backlog == "latest":
                assert [d["sequence"] for d in told] == [4, 3, 2, 1]
                (snapshot,) = [r.event for r in shop.rig.receipts]
                assert snapshot["data"]["stands_for"] == {"first": 1, "last": 4}
                assert {d["replaced_by"] for d in told if d["status"] == "skipped"} == {snapshot["id"]}
            assert await shop.rig.balanced()

    run(main())


def test_statistics(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(works)
        async with open_shop(redis_url, endpoint) as shop:
            rig, endpoint.inner = shop.rig, shop.rig.receiver
            one = await rig.subscribe(url=f"{rig.upstream_url}/hook")
            path = f"/v1/subscriptions/{one.id}/stats"
            empty = await shop.got(path)
            assert (empty["waiting"], empty["success_ratio"], empty["attempt_ms"]) == (0, None, None)

            rig.deliver(Schedule((0.02, 3_600)), LIMITS)
            for number in range(6):
                await history(rig, f"o-{number}", 1)
            await eventually(lambda: len(rig.receipts) == 6)
            endpoint.mood = broken
            for number in range(6):
                await change(rig, f"o-{number}", "later")
            await eventually(lambda: circuit_is(rig, one.id, "open"))
            await rig.stop()
            told = await shop.got(path)

            assert (told["waiting"], told["waiting_exact"], told["delivered"], told["dead"]) == (6, True, 6, 0)
            assert told["oldest_waiting_age_seconds"] > 0
            assert 0 < told["success_ratio"] < 1
            assert told["attempts"] > 6
            assert 0 < told["attempt_ms"]["p50"] <= told["attempt_ms"]["p99"]
            assert 0 < told["delivery_ms"]["p50"] <= told["delivery_ms"]["p99"]
            assert told["circuit"] in ("open", "half_open")
            assert told["last_error"]["status"] == 500
            assert told["failing_since"] is not None

    run(main())


def test_recoveries_of_everything_are_paced_and_leave_fresh_events_alone(redis_url: str) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            rig = shop.rig
            one = await rig.subscribe()
            for number in range(10):
                await history(rig, f"o-{number}", 3)
            pump_limits = LIMITS
            rig.deliver(Schedule((0.05,)), pump_limits)
            await eventually(rig.idle)

            begun = await shop.ask("POST", f"/v1/subscriptions/{one.id}/recover", {"since": PAST, "only": "all"})
            await asyncio.gather(*(change(rig, f"o-{number}", "fresh") for number in range(10)))
            await eventually(lambda: _ended(shop, f"/v1/subscriptions/{one.id}", begun.json()["id"]))
            await eventually(rig.idle)

            await eventually(lambda: rig.receiver.counters.duplicates >= 30)
            assert rig.receiver.counters.out_of_order == 0
            assert rig.receiver.gaps() == []
            assert await eventually(rig.balanced)

    run(main())
