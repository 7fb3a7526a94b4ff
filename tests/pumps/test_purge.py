"""Personal data goes when it is asked to, and by itself: out of state, log, lanes, attempts, dead letters, answers.

Everything personal in these tests holds the word `planted`; afterwards the whole store is searched for it.
"""

import asyncio
from dataclasses import replace
from typing import Any

from relay import tracking
from relay.model import lifecycle
from relay.model.orders import OrderId, OrderState, Reading, Resource, Tracking
from relay.model.retries import Schedule
from relay.store import keys
from relay.store.order_records import Commit, Registration, UserToken
from relay.store.retention import Retention
from relay.store.subscriptions import Subscription
from relay.store.tokens import StoredTokens
from tests.pumps.test_delivering import change, received, run
from tests.support.endpoint import LIMITS, circuit_is, of
from tests.support.orders import make_handling, make_item, make_message
from tests.support.rig import Rig, eventually, open_rig, serving
from tests.support.search import places
from tests.support.shop import open_shop

PERSON = {
    "shopper": {"name": "Planted Name", "phone_number": "555-planted"},
    "address": {"address_line_1": "Planted Street 7"},
    "coordinates": {"latitude": 1.5, "longitude": 2.5, "note": "planted"},
    "notes": "ring at planted",
}


async def told(rig: Rig, order_id: str, status: str) -> None:
    """One more change of an order, full of personal data."""
    state = await rig.orders.load_state(rig.retailer_id, OrderId(order_id))
    if state is None:
        registration = Registration(OrderId(order_id), "planted-user", UserToken("planted-token"), {"k": "planted"})
        await rig.orders.register(rig.retailer_id, [registration], credential="shared")
        state = await rig.state(order_id)
    at = max(state.read_at_ms.values(), default=0) + 1
    readings = [Reading(Resource.HANDLING, make_handling(status=status, **PERSON), at)]
    if not state.started:
        item, said = make_item(product_name="planted product"), make_message(body=f"planted words {status}")
        readings.append(Reading(Resource.ITEMS, {"items": [item]}, at))
        readings.append(Reading(Resource.MESSAGES, {"messages": [said]}, at))
    for reading in readings:
        state = await _commit(rig, state, reading)


async def _commit(rig: Rig, state: OrderState, reading: Reading) -> OrderState:
    step = lifecycle.observe(state, reading, now_ms=await rig.db.now_ms(), policy=lifecycle.Policy())
    assert step is not None
    assert await rig.orders.commit(Commit(state, step.state, step.events)) == "ok"
    return await rig.state(state.order_id)


def _personal(body: bytes) -> bytes:
    """What a careless receiver says back: the personal part of what it was sent."""
    at = body.lower().find(b"planted")
    return b"" if at < 0 else b"cannot take " + body[at:]


class Echo:
    """An endpoint that answers 500 with what it was sent, until it is mended; then the rig's receiver."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.mended = False
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.asked += 1
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, text = 500, _personal(body)
        if self.mended:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            status, text = self.rig.receiver.take(headers, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text})


async def purge(rig: Rig, order_id: str) -> None:
    await tracking.purge(rig.orders, rig.retailer_id, OrderId(order_id), now_ms=await rig.db.now_ms())


def test_nothing_of_a_purged_order_is_left_anywhere(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            echo = Echo(rig)
            async with serving(echo) as failing:
                healthy = await rig.subscribe()
                parked = await rig.subscribe(url=f"{failing}/parked")
                alone = await rig.subscribe(url=f"{failing}/alone", ordering="none")
                disabled = await rig.subscribe(url=f"{failing}/disabled", enabled=False)
                rig.deliver(Schedule((0.05, 1.0)), LIMITS)
                for number in range(3):
                    await told(rig, "o-1", f"status-{number}")
                    await change(rig, "o-2", f"status-{number}")
                await eventually(lambda: len(rig.receipts) == 6)
                await eventually(lambda: _parked(rig, parked, 2))
                await eventually(lambda: circuit_is(rig, alone.id, "open"))
                await StoredTokens(rig.db, rig.vault).put("shared", "planted-user", b"planted-minted", ttl_s=900)

                kept = await places(rig.admin, "planted")
                assert {key.split(":")[3] for key in kept} >= {"log", "order", "att"}
                await purge(rig, "o-1")

                assert await places(rig.admin, "planted") == []
                assert await rig.db.run("EXISTS", keys.token("shared", "planted-user")) == 0
                echo.mended = True
                for one in (parked, alone, disabled):
                    known = await of(rig, one.id)
                    after = replace(known.configuration, url=f"{failing}/mended/{one.id}", enabled=True)
                    await rig.subscriptions.amend(rig.retailer_id, known, after)
                await eventually(rig.idle)

                assert await eventually(rig.balanced)
                assert await places(rig.admin, "planted") == []
                assert received(rig, "o-1") == [1, 2, 3, 4]
                last = rig.receipts[-1].event if "o-1" in str(rig.receipts[-1].event) else None
                ends = [r.event for r in rig.receipts if r.event["type"] == "order.tracking_ended"]
                assert [(end["data"]["reason"], end["data"]["order"]) for end in ends] == [("purged", None)]
                assert last is None or last == ends[0]
                assert received(rig, "o-2") == [1, 2, 3]
                accounts = {account.subscription_id: account for account in await rig.accounts()}
                # Three were purged before they arrived: left out, and counted.
                assert accounts[disabled.id].skipped == 3
                assert accounts[disabled.id].delivered == 4
                assert accounts[healthy.id].skipped == 0

    run(main())


async def _parked(rig: Rig, subscription: Subscription, attempts: int) -> bool:
    found = await rig.db.run("HVALS", keys.attempts(subscription.id, f"{await rig.db.now_ms()}-0"))
    return len(found) >= 2 and min(value.count(b"\n") for value in found) >= attempts


def test_an_event_that_is_on_its_way_while_its_order_is_purged_leaves_nothing_behind(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            asked, go_on = asyncio.Event(), asyncio.Event()

            async def slow(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] != "http":
                    return
                body = (await receive()).get("body", b"")
                asked.set()
                await go_on.wait()
                await send({"type": "http.response.start", "status": 500, "headers": []})
                await send({"type": "http.response.body", "body": _personal(body)})

            async with serving(slow) as url:
                subscription = await rig.subscribe(url=f"{url}/slow")
                rig.deliver(Schedule((0.05, 0.05)), LIMITS)
                for number in range(4):
                    await told(rig, "o-1", f"status-{number}")
                await asked.wait()
                await purge(rig, "o-1")
                go_on.set()

                await eventually(lambda: _settled(rig, subscription))
                assert await places(rig.admin, "planted") == []
                assert await eventually(rig.balanced)

    run(main())


async def _settled(rig: Rig, subscription: Subscription) -> bool:
    """Only the event that tells of the purge still waits."""
    (account,) = await rig.accounts()
    return account.skipped == 4 and account.waiting == 1


def test_folded_snapshots_and_dead_letters_go_too(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            echo = Echo(rig)
            async with serving(echo) as failing:
                folded = await rig.subscribe(url=f"{failing}/folded", enabled=False, backlog="latest")
                for number in range(3):
                    await told(rig, "o-1", f"status-{number}")
                known = await of(rig, folded.id)
                after = replace(known.configuration, enabled=True)
                await rig.subscriptions.amend(rig.retailer_id, known, after, backlog="latest")
                rig.deliver(Schedule((0.05, 0.05, 0.05), give_up_after=1.0), LIMITS)
                await eventually(lambda: rig.db.run("EXISTS", keys.fold(folded.id, "o-1")))
                await eventually(lambda: echo.asked >= 2)

                await purge(rig, "o-1")

                assert await eventually(lambda: _nothing(rig))
                await told(rig, "o-3", "one")
                await eventually(lambda: rig.db.run("ZCARD", keys.dead(folded.id)))
                await purge(rig, "o-3")
                assert await eventually(lambda: _nothing(rig))
                assert await rig.db.run("EXISTS", keys.fold(folded.id, "o-1")) == 0
                assert await eventually(rig.balanced)

    run(main())


async def _nothing(rig: Rig) -> bool:
    return await places(rig.admin, "planted") == []


def test_the_api_says_gone_and_forgets_its_answers(redis_url: str) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            rig, once = shop.rig, {"idempotency-key": "k-1"}
            subscription = await rig.subscribe()
            body = {"order_id": "o-1", "metadata": {"k": "planted"}, "access_token": {"token": "planted"}}
            assert (await shop.ask("POST", "/v1/orders", body, **once)).status_code == 201
            await told(rig, "o-1", "picking")
            first = (await shop.got("/v1/events"))["data"][0]["id"]

            answer = await shop.ask("DELETE", "/v1/orders/o-1?purge=true")

            assert answer.json() == {"order_id": "o-1", "tracking": "ended", "purged": True}
            assert await rig.admin.run("KEYS", f"{keys.PREFIX}idem:*") == []
            assert await _nothing(rig)
            got = await shop.ask("GET", f"/v1/events/{first}")
            again = await shop.ask("POST", f"/v1/events/{first}/redeliver", {"subscription_id": subscription.id})
            tried = await shop.ask("GET", f"/v1/events/{first}/deliveries")
            assert [a.status_code for a in (got, again, tried)] == [410, 410, 410]
            assert got.json()["code"] == "gone"
            assert [event["type"] for event in (await shop.got("/v1/events"))["data"]] == ["order.tracking_ended"]
            assert (await shop.ask("GET", "/v1/orders/o-1")).status_code == 404
            assert (await shop.ask("DELETE", "/v1/orders/never?purge=true")).status_code == 404
            # Tracked anew it is another order: numbered from one, under other ids.
            assert (await shop.ask("POST", "/v1/orders", body, **once)).status_code == 201
            await told(rig, "o-1", "picking")
            fresh = (await shop.got("/v1/events?order_id=o-1"))["data"][-1]
            assert fresh["data"]["sequence"] == 1
            assert fresh["id"] != first

    run(main())


def test_an_order_whose_state_retention_took_can_still_be_purged(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            await told(rig, "o-1", "picking")
            await rig.orders.erase(rig.retailer_id, OrderId("o-1"))
            assert await places(rig.admin, "planted")

            await purge(rig, "o-1")

            assert await _nothing(rig)

    run(main())


def test_retention_alone_leaves_nothing_and_counts_what_was_never_read(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            disabled = await rig.subscribe(enabled=False)
            reader = await rig.subscribe()
            rig.deliver()
            await told(rig, "o-1", "one")
            await told(rig, "o-1", "two")
            state = await rig.state("o-1")
            assert await rig.orders.commit(Commit(state, replace(state, tracking=Tracking.ENDED))) == "ok"
            await eventually(lambda: len(rig.receipts) == 2)
            await eventually(lambda: _read_all(rig, reader))
            await rig.stop()
            await change(rig, "o-2", "young")
            keep_from = (await rig.log.after(rig.retailer_id, "0-0", 10))[-1].position

            await Retention(rig.db, rig.log).trim(rig.retailer_id, keep_from)
            await rig.orders.erase(rig.retailer_id, OrderId("o-1"))

            # Attempts expire by themselves and hold nothing here: the receiver took everything in silence.
            assert await _nothing(rig)
            accounts = {account.subscription_id: account for account in await rig.accounts()}
            assert (accounts[disabled.id].dead, accounts[disabled.id].unread) == (2, 1)
            assert await rig.balanced()
            known = await of(rig, disabled.id)
            await rig.subscriptions.amend(rig.retailer_id, known, replace(known.configuration, enabled=True))
            rig.receiver.sequences.clear()
            rig.deliver()
            await eventually(rig.idle)
            # The events that retention took keep their numbers: the next one is the third.
            assert 3 in rig.receiver.sequences
            assert await eventually(rig.balanced)

    run(main())


async def _read_all(rig: Rig, subscription: Subscription) -> bool:
    return bool((await of(rig, subscription.id)).sequence == 2)
