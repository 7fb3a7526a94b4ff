"""What a kept event and an idle subscription cost Redis, beyond the bytes of the event's body: `make bench-memory`."""

import asyncio
import os

from bench.stage import report
from relay.embedded import EmbeddedStore
from relay.model import lifecycle
from relay.model.keyring import Keyring
from relay.model.orders import OrderId, OrderState, Reading, Resource, RetailerId
from relay.model.signing import Secret
from relay.store import keys
from relay.store.log import Log
from relay.store.order_records import Commit, Registration, UserToken
from relay.store.orders import Orders
from relay.store.redis import Db, open_client
from relay.store.retailers import Retailers
from relay.store.subscriptions import Configuration, Subscriptions
from relay.vault import Vault, generate_master_key, parse_master_keys

#: Orders, and events of each; subscriptions of each retailer, and retailers.
ORDERS, EVENTS, SUBSCRIPTIONS, RETAILERS = 500, 20, 20, 50


async def _used(db: Db) -> int:
    return int((await db.run("INFO", "memory"))["used_memory"])


async def _event_overhead(db: Db, vault: Vault) -> tuple[float, float]:
    """(bytes an event beyond its body, bytes of a body)."""
    retailer = await Retailers(db, vault).create("Memory", upstream=None, budget=None, limits={})
    orders = Orders(db, vault)
    names = [OrderId(f"order-{number:06}") for number in range(ORDERS)]
    token = UserToken("token")
    await orders.register(retailer.id, [Registration(one, None, token) for one in names], credential="shared")
    policy = lifecycle.Policy()

    async def commit(state: OrderState, reading: Reading) -> None:
        step = lifecycle.observe(state, reading, now_ms=await db.now_ms(), policy=policy)
        assert step is not None
        assert await orders.commit(Commit(state, step.state, step.events)) == "ok"

    async def take(name: OrderId, resource: Resource, value: dict[str, object], at: int) -> None:
        state = await orders.load_state(retailer.id, name)
        assert state is not None
        await commit(state, Reading(resource, value, at))

    for name in names:
        await take(name, Resource.ITEMS, {"items": []}, 1)
        await take(name, Resource.MESSAGES, {"messages": []}, 1)
        await take(name, Resource.HANDLING, {"order_id": name, "status": "status-0"}, 1)
    before = await _used(db)
    for number in range(1, EVENTS + 1):
        for name in names:
            await take(name, Resource.HANDLING, {"order_id": name, "status": f"status-{number % 10}"}, number + 1)
    grown = await _used(db) - before
    bodies = [len(entry.body) for entry in await Log(db).after(retailer.id, "0-0", 10 * ORDERS * EVENTS)][ORDERS:]
    return (grown - sum(bodies)) / len(bodies), sum(bodies) / len(bodies)


async def _per_subscription(db: Db, vault: Vault) -> float:
    first, *owners = [
        await Retailers(db, vault).create(f"R{n}", upstream=None, budget=None, limits={}) for n in range(1 + RETAILERS)
    ]

    async def subscribe(owner: RetailerId, number: int) -> None:
        configuration = Configuration(url=f"https://hooks.example.com/{owner}/{number}")
        keyring = Keyring.new(Secret(os.urandom(32)))
        await Subscriptions(db, vault).create(owner, configuration, keyring=keyring, start=None)

    await subscribe(first.id, 0)  # what the first costs, such as the script's place in Redis, none after it does
    before = await _used(db)
    for owner in owners:
        for number in range(SUBSCRIPTIONS):
            await subscribe(owner.id, number)
    await db.run("DEL", keys.READY)  # as a deliver pump leaves it, which found that nothing waits
    return (await _used(db) - before) / (RETAILERS * SUBSCRIPTIONS)


async def _measure() -> tuple[float, float, float]:
    vault = Vault(parse_master_keys(generate_master_key("memory")))
    with EmbeddedStore() as store:
        db = Db(open_client(store.url))
        try:
            return *(await _event_overhead(db, vault)), await _per_subscription(db, vault)
        finally:
            await db.aclose()


def main() -> None:
    overhead, body, subscription = asyncio.run(_measure())
    rows = [
        ("bytes an event beyond its body", f"{overhead:9.0f}"),
        ("bytes of a body here", f"{body:9.0f}"),
        ("bytes an idle subscription", f"{subscription:9.0f}"),
    ]
    report(rows, {"bytes_per_event_beyond_body": round(overhead), "bytes_per_subscription": round(subscription)})


if __name__ == "__main__":
    main()
