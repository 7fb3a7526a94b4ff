"""Endpoints that fail, hang, reset and recover on a server of their own, and remember what they were sent."""

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from relay.model.signing import Secret, verify


@dataclass
class Taken:
    """What one endpoint answered 2xx to, in order: (order, sequence, webhook-id, relay-sequence), repeats too."""

    rows: list[tuple[str, int, str, int]] = field(default_factory=list)

    @property
    def repeats(self) -> int:
        return len(self.rows) - len({row[2] for row in self.rows})

    def problems(self) -> list[str]:
        """What breaks a promise: disorder within an order, one event with two numbers, one number for two events,
        a hole."""
        found: list[str] = []
        last: dict[str, int] = {}
        numbers: dict[str, int] = {}
        for order, sequence, id_, number in self.rows:
            if id_ in numbers:
                if numbers[id_] != number:
                    found.append(f"{id_} was {numbers[id_]}, then {number}")
                continue
            if number in numbers.values():
                found.append(f"{number} stands for two events")
            numbers[id_] = number
            if sequence != last.get(order, 0) + 1:
                found.append(f"{order}: {sequence} came after {last.get(order, 0)}")
            last[order] = max(sequence, last.get(order, 0))
        holes = set(range(1, len(numbers) + 1)) - set(numbers.values())
        return found + [f"nothing came as {number}" for number in sorted(holes)]


class Moody:
    """An ASGI app; the first part of the path names the endpoint, whose mood is ok, fail, hang, reset or mixed."""

    def __init__(self, dice: random.Random) -> None:
        self.moods: dict[str, str] = {}
        self.taken: dict[str, Taken] = defaultdict(Taken)
        self.secrets: dict[str, Secret] = {}
        self.asked = 0
        self._dice = dice

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        name = scope["path"].split("/")[1]
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked += 1
        mood = self.moods.get(name, "ok")
        if mood == "mixed":
            mood = self._dice.choice(["ok", "ok", "fail", "hang", "reset"])
        if mood == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if mood == "reset":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            return  # and the connection is closed before the body came
        if mood == "ok":
            self._take(name, scope["headers"], body)
        status = 200 if mood == "ok" else 500
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _take(self, name: str, raw_headers: Any, body: bytes) -> None:
        headers = {key.decode(): value.decode() for key, value in raw_headers}
        verify(headers, body, [self.secrets[name]], now_s=int(time.time()))
        data = msgspec.json.decode(body)["data"]
        row = (data["order_id"], data["sequence"], headers["webhook-id"], int(headers["relay-sequence"]))
        self.taken[name].rows.append(row)

    def mend(self) -> None:
        self.moods = dict.fromkeys(self.moods, "ok")


async def nap(dice: random.Random, least: float, most: float) -> None:
    """A fault at a random moment."""
    await asyncio.sleep(dice.uniform(least, most))
