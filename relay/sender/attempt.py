"""One attempt: sign, POST, and say what the wire said. Deciding what it means is `relay.model.retries`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay import __version__
from relay.engine import Answer, Engine
from relay.model.retries import Outcome
from relay.model.signing import Secret, SigningKey, signed_headers

#: Bytes of a receiver's answer that are read at most: enough for a sentence of explanation.
ANSWER_LIMIT = 4096
#: Characters of it that are kept.
SNIPPET = 200

USER_AGENT = f"post-checkout-relay/{__version__}"


@dataclass(frozen=True, slots=True)
class Message:
    """An event on its way to one subscription. `sequence` is the relay-sequence, 0 for what has none (tests,
    heartbeats, and what is sent again although it was never the subscription's); `attempt` counts from 1; `stands_for`
    are the relay-sequences that a snapshot replaces, as `3,5-7`; `test` marks what never happened; `traceparent` is
    for a receiver that traces."""

    event_id: str
    body: bytes = field(repr=False)
    sequence: int
    attempt: int
    replay: bool = False
    stands_for: str = ""
    test: bool = False
    traceparent: str = ""


class Sender:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def post(
        self, url: str, message: Message, *, keys: Sequence[Secret | SigningKey], headers: Mapping[str, str], now_s: int
    ) -> Outcome:
        """POST the message, signed as of `now_s` (Unix seconds) with every live key. Never raises for the peer."""
        return outcome_of(await self.ask(url, message, keys=keys, headers=headers, now_s=now_s))

    async def ask(
        self, url: str, message: Message, *, keys: Sequence[Secret | SigningKey], headers: Mapping[str, str], now_s: int
    ) -> Answer:
        """As `post`, for whom the receiver's answer itself matters."""
        all_headers = {
            **headers,
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            "accept-encoding": "identity",
            "relay-attempt": str(message.attempt),
            **signed_headers(message.event_id, now_s, message.body, keys),
        }
        if message.sequence:
            all_headers["relay-sequence"] = str(message.sequence)
        if message.stands_for:
            all_headers["relay-stands-for"] = message.stands_for
        if message.replay:
            all_headers["relay-replay"] = "true"
        if message.test:
            all_headers["relay-test"] = "true"
        if message.traceparent:  # a header of that name that the retailer chose gives way, however it is spelt
            all_headers = {name: value for name, value in all_headers.items() if name.lower() != "traceparent"}
            all_headers["traceparent"] = message.traceparent
        return await self._engine.send("POST", url, all_headers, message.body, limit=ANSWER_LIMIT)


def outcome_of(answer: Answer) -> Outcome:
    """What the wire said, with a short, harmless piece of a failing receiver's answer."""
    if answer.status is None:
        kind = answer.failure.value if answer.failure is not None else "protocol"
        return Outcome(kind=kind, status=None, retry_after=None, detail=answer.detail, duration_ms=answer.duration_ms)
    detail = "" if answer.status < 300 else snippet(answer.body)
    return Outcome(
        kind="answered",
        status=answer.status,
        retry_after=answer.headers.get("retry-after"),
        detail=detail,
        duration_ms=answer.duration_ms,
    )


def snippet(body: bytes) -> str:
    """At most 200 printable characters: what a receiver answers is never rendered, and never trusted."""
    text = body[: SNIPPET * 4].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text)[:SNIPPET].strip()
