"""The receiving side of the suite: answers as a test says, and keeps what came, byte for byte."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; header names in lower case, `at` by the monotonic clock."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found

    @property
    def order_id(self) -> str:
        return str(self.event["data"].get("order_id"))


Answer = tuple[int, dict[str, str]]
OK: Answer = (200, {})


class Receiver:
    """An ASGI app. `moods[path]` answers a request; None hangs; a path without one answers 200."""

    def __init__(self) -> None:
        self.moods: dict[str, Callable[[Request], Answer | None]] = {}
        self.came: dict[str, list[Request]] = defaultdict(list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        request = Request(scope["method"], scope["path"], headers, body, time.monotonic())
        self.came[request.path].append(request)
        mood = self.moods.get(request.path)
        answer = OK if mood is None else mood(request)
        if answer is None:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        status, extra = answer
        raw = [(name.encode(), value.encode()) for name, value in {"content-length": "0", **extra}.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b""})
