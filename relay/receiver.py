"""A receiver that verifies: what a retailer's endpoint has to do, and a witness for demo and tests."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from relay.model.orders import JsonObject
from relay.model.signing import Secret, VerificationFailed, verify

#: Bodies above this are refused: the relay's own limit is 64 KiB.
LARGEST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Receipt:
    """One verified webhook. `first` is False for an id that was received before; `latency_ms` counts from the event's
    own timestamp."""

    event: JsonObject
    body: bytes = field(repr=False)
    sequence: int
    attempt: int
    replay: bool
    at: float
    first: bool
    in_order: bool

    @property
    def latency_ms(self) -> float:
        return (self.at - datetime.fromisoformat(self.event["timestamp"]).timestamp()) * 1000


@dataclass(slots=True)
class Counters:
    received: int = 0
    verified: int = 0
    refused: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    failed_on_purpose: int = 0


class Receiver:
    """An ASGI app. It remembers ids, so that a repeat is recognised, and the last sequence of each order.

    `fail_rate` of the requests are answered with 500, before anything is looked at; `delay_s` delays every answer.
    """

    def __init__(
        self,
        secrets: Sequence[Secret],
        *,
        fail_rate: float = 0.0,
        delay_s: float = 0.0,
        on_receipt: Callable[[Receipt], None] | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.secrets = list(secrets)
        self.fail_rate = fail_rate
        self.delay_s = delay_s
        self.on_receipt = on_receipt
        self.counters = Counters()
        self.sequences: set[int] = set()
        self._dice = dice
        self._seen: set[str] = set()
        self._last: dict[str, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > LARGEST:
                await _answer(send, 413, b"too large")
                return
            if not message.get("more_body"):
                break
        status, text = self.take(dict(_decoded(scope["headers"])), bytes(body))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await _answer(send, status, text)

    def take(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Verify and remember one request; the status and text to answer with."""
        self.counters.received += 1
        if self.fail_rate and self._dice() < self.fail_rate:
            self.counters.failed_on_purpose += 1
            return 500, b"failing on purpose"
        try:
            id_ = verify(headers, body, self.secrets, now_s=int(time.time()))
        except VerificationFailed as error:
            self.counters.refused += 1
            return 401, str(error).encode()
        self.counters.verified += 1
        first = id_ not in self._seen
        self._seen.add(id_)
        self.counters.duplicates += not first
        event = msgspec.json.decode(body)
        in_order = not first or self._is_next(event)
        self.counters.out_of_order += not in_order
        sequence = int(headers.get("relay-sequence", "0"))
        self.sequences.add(sequence)
        if self.on_receipt is not None:
            self.on_receipt(
                Receipt(
                    event,
                    body,
                    sequence,
                    int(headers.get("relay-attempt", "1")),
                    headers.get("relay-replay") == "true",
                    time.time(),
                    first,
                    in_order,
                )
            )
        return 200, b""

    def _is_next(self, event: JsonObject) -> bool:
        """Whether no later event of the same order came before this one."""
        order_id, sequence = event["data"].get("order_id"), event["data"].get("sequence")
        if not isinstance(order_id, str) or not isinstance(sequence, int):
            return True
        last = self._last.get(order_id, 0)
        self._last[order_id] = max(last, sequence)
        return sequence > last

    def gaps(self) -> list[int]:
        """Relay-sequences below the highest received one that never came."""
        highest = max(self.sequences, default=0)
        return sorted(set(range(1, highest + 1)) - self.sequences)


def in_words(event: JsonObject) -> str:
    """What an event says, for people: `status: acknowledged → picking`."""
    data = event.get("data", {})
    changes = data.get("changes")
    subject = data.get("item") or data.get("message") or {}
    about = subject.get("product_name") or ""
    if event["type"] == "order.message_created":
        return f"{subject.get('sender')}: {subject.get('body')}"
    if "reason" in data:
        return str(data["reason"])
    if event["type"] in ("order.tracking_started", "order.item_added", "order.item_removed"):
        return about or f"{(data.get('order') or {}).get('status')}, {len(data.get('items') or [])} items"
    if not isinstance(changes, dict):
        return ", ".join(changes) if isinstance(changes, list) else ""
    names = list({**changes["before"], **changes["after"]})
    parts = [
        f"{name}: {_short(changes['before'].get(name))} → {_short(changes['after'].get(name))}" for name in names[:2]
    ]
    return f"{about} " * bool(about) + "; ".join(parts)


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        value = value.get("product_name") or value.get("name") or ", ".join(str(v) for v in value.values())
    return str(value)[:40]


def _decoded(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


async def _answer(send: Any, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
