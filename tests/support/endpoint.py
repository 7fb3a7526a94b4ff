"""Endpoints that misbehave, in front of the rig's receiver."""

import time
from collections.abc import Callable
from typing import Any

from relay.delivering.jobs import Limits
from tests.support.rig import Rig


class Endpoint:
    """In front of the rig's receiver: answers as `mood` says for a request's body, or passes it on (None)."""

    def __init__(self, mood: Callable[[bytes], tuple[int, dict[str, str]] | None]) -> None:
        self.mood = mood
        self.inner: Any = None
        self.asked: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive()).get("body", b"")
        self.asked.append(time.monotonic())
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.bodies.append(body)
        answer = self.mood(body)
        if answer is None:

            async def again() -> Any:
                return {"type": "http.request", "body": body, "more_body": False}

            await self.inner(scope, again, send)
            return
        status, headers = answer
        listed = [(name.encode(), value.encode()) for name, value in {**headers, "content-length": "0"}.items()]
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": b""})


def broken(body: bytes) -> tuple[int, dict[str, str]]:
    return 500, {}


def works(body: bytes) -> None:
    return None


LIMITS = Limits(lease_ms=2_000, drain_s=2.0)


async def of(rig: Rig, subscription_id: str) -> Any:
    return await rig.subscriptions.get(rig.retailer_id, subscription_id)


async def circuit_is(rig: Rig, subscription_id: str, state: str) -> bool:
    return bool((await of(rig, subscription_id)).circuit == state)
