"""When the changes that a reading shows happened, as far as it tells. Pure."""

from datetime import datetime

from relay.model.orders import Json, Reading, Resource


def happened(reading: Reading, count: int, since_ms: int) -> tuple[list[int], list[int]]:
    """The times (ms, rising) of `count` changes between the reading before, `since_ms`, and this one; and of these the
    ones that upstream told. Messages say when they were written (ChatMessage.created_at); nothing else has a time, and
    is taken to be spread evenly. A time outside of that stretch, by a clock that is off, is not believed."""
    told: list[int] = []
    until_ms = reading.started_ms
    if reading.resource is Resource.MESSAGES:
        listed = reading.value.get("messages")
        entries = listed if isinstance(listed, list) else []
        times = [milliseconds(entry.get("created_at")) for entry in entries if isinstance(entry, dict)]
        told = sorted(at for at in times if at is not None and since_ms < at <= until_ms)[:count]
    left = count - len(told)
    spread = [since_ms + round((n + 0.5) * (until_ms - since_ms) / left) for n in range(left)]
    return sorted(told + spread), told


def milliseconds(value: Json) -> int | None:
    """A date-time as upstream writes it, in milliseconds since the epoch; None for anything else. Without an offset it
    is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return round((moment if moment.tzinfo else datetime.fromisoformat(value + "+00:00")).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
