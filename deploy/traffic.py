"""What keeps a stack busy: new orders, decisions, messages, events asked for again, and an endpoint that is gone."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

#: How long a simulated order lasts (simulated seconds), about.
ORDER_LASTS = 5400.0
#: Turns of the loop between two of what happens more rarely.
RARELY = 5


class Traffic:
    """Retailers and their customers. `pause`: seconds from one turn to the next; each brings an order, if one can be
    had, so that as many as began are under way. A request that fails is nobody's concern here: the next one comes."""

    def __init__(self, api: httpx.AsyncClient, simulator: httpx.AsyncClient, *, pause: float, again: str, gone: str):
        """`again`, `gone`: the subscriptions that are sent events again, and enabled again after their 410."""
        self._api = api
        self._simulator = simulator
        self._pause = pause
        self._again = again
        self._gone = gone
        self._orders: deque[str] = deque(maxlen=50)
        self._cursor = "now"

    async def run(self) -> None:
        """Until cancelled."""
        turn = 0
        while True:
            with suppress(httpx.HTTPError):
                await self._turn(turn)
            turn += 1
            await asyncio.sleep(self._pause)

    async def _turn(self, turn: int) -> None:
        await self._new_order()
        events = await self._events()
        for event in events:
            if event["type"] == "order.replacement_suggested":
                await self._decide(event["data"])
        if turn % RARELY == 0 and self._orders:
            message = {"body": "Please ring the bell."}
            await self._api.post(f"/v1/orders/{random.choice(self._orders)}/messages", json=message)
        if turn % RARELY == 1 and events:
            await self._api.post(f"/v1/events/{events[-1]['id']}/redeliver", json={"subscription_id": self._again})
        if turn % RARELY == 2:
            await self._api.post(f"/v1/subscriptions/{self._gone}/enable", json={"backlog": "skip"})

    async def _new_order(self) -> None:
        made = await self._simulator.post("/_sim/orders", json={"user_id": "user-1"})
        if made.status_code == 201:
            order_id = made.json()["order_id"]
            await self._api.post("/v1/orders", json={"order_id": order_id, "user_id": "user-1"})
            self._orders.append(order_id)

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
