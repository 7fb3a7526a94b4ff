"""What keeps a stack busy: new orders, decisions, messages, events asked for again, and an endpoint that is gone."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from relay.simulator.world import TERMINAL

#: Turns of the loop between two of what happens more rarely.
RARELY, SELDOM = 5, 30
#: Of so many orders under way, one goes on in each turn.
STRIDE = 50


class Traffic:
    """Shoppers, retailers and their customers, a turn a second, in real time: what the simulated shopper says has the
    time at which it was said. A request that fails is nobody's concern here: the next turn comes."""

    def __init__(
        self, api: httpx.AsyncClient, simulator: httpx.AsyncClient, orders: Sequence[str], *, again: str, gone: str
    ) -> None:
        """`orders`: those under way, of which none is missed for long. `again`, `gone`: the subscriptions that are
        sent events again, and enabled again after their 410."""
        self._api = api
        self._simulator = simulator
        self._orders = list(orders)
        self._count = len(orders)
        self._again = again
        self._gone = gone
        self._cursor = "now"
        self._asked = ""

    async def run(self) -> None:
        """Until cancelled."""
        turn = 0
        while True:
            with suppress(httpx.HTTPError, ValueError):  # ValueError: an answer that is no JSON
                await self._turn(turn)
            turn += 1
            await asyncio.sleep(1)

    async def _turn(self, turn: int) -> None:
        if len(self._orders) < self._count:
            await self._new_order()
        for _ in range(max(1, self._count // STRIDE)):
            await self._go_on()
        events = await self._events()
        for event in events:
            if event["type"] == "order.replacement_suggested" and event["data"]["order_id"] == self._asked:
                await self._decide(event["data"])
        if turn % RARELY == 0:
            message = {"body": "Please ring the bell."}
            await self._api.post(f"/v1/orders/{random.choice(self._orders)}/messages", json=message)
        if turn % RARELY == 1 and events:
            await self._api.post(f"/v1/events/{events[-1]['id']}/redeliver", json={"subscription_id": self._again})
        if turn % RARELY == 2:
            self._asked = random.choice(self._orders)
            await self._simulator.post(f"/_sim/orders/{self._asked}/suggest")
        if turn % SELDOM == 3:
            await self._api.post(f"/v1/subscriptions/{self._gone}/enable", json={"backlog": "skip"})
        if turn % (4 * SELDOM) == 8:
            await self._simulator.post("/_sim/faults", json={"fault": "429:1:count=1"})

    async def _new_order(self) -> None:
        made = await self._simulator.post("/_sim/orders", json={"user_id": "user-1"})
        if made.status_code == 201:
            order_id = made.json()["order_id"]
            await self._api.post("/v1/orders", json={"order_id": order_id, "user_id": "user-1"})
            self._orders.append(order_id)

    async def _go_on(self) -> None:
        """One shopper says something, another one goes on with everything up to the next status."""
        said = {"sender": "shopper", "body": "There is a queue, but I am nearly done."}
        await self._simulator.post(f"/_sim/orders/{random.choice(self._orders)}/messages", json=said)
        order_id = random.choice(self._orders)
        answer = await self._simulator.post(f"/_sim/orders/{order_id}/advance")
        if answer.status_code == 200 and answer.json().get("status") in TERMINAL and len(self._orders) > 1:
            self._orders.remove(order_id)

    async def _events(self) -> list[dict[str, Any]]:
        answer = await self._api.get("/v1/events", params={"after": self._cursor, "limit": 100})
        if answer.status_code != 200:
            return []
        page: dict[str, Any] = answer.json()
        self._cursor = page["resume"]
        found: list[dict[str, Any]] = page["data"]
        return found

    async def _decide(self, data: dict[str, Any]) -> None:
        decision = {"status": random.choice(("APPROVED", "REJECTED"))}
        await self._api.put(f"/v1/orders/{data['order_id']}/items/{data['item']['id']}/replacement", json=decision)


@asynccontextmanager
async def gone_endpoint(port: int) -> AsyncIterator[None]:
    """An endpoint on this port that answers everything with 410."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
