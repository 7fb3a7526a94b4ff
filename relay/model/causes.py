"""Whose doing a change is: matching what was detected with what a retailer had passed on. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from relay.model.changes import Cause, Change
from relay.model.orders import Json

#: By name: what was sent (a status, or a message's text), the id that upstream gave it if it is known, and who did it.
#: A decision about a replacement is named `replacement/<item>`, a message `message/<anything>`.
Decisions = Mapping[str, tuple[str, str | None, Cause]]
NO_DECISIONS: Decisions = {}

_DECIDED = {"order.replacement_approved": "APPROVED", "order.replacement_rejected": "REJECTED"}


def attribute(changes: Sequence[Change], decisions: Decisions) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """The changes with their causes, and which decisions were recognised."""
    left = dict(decisions)
    used: list[str] = []
    made = []
    for change in changes:
        name = _find(change, left)
        if name is not None:
            change = replace(change, cause=left.pop(name)[2])
            used.append(name)
        made.append(change)
    return tuple(made), tuple(used)


def _find(change: Change, decisions: Decisions) -> str | None:
    if change.type in _DECIDED:
        name = f"replacement/{change.key}"
        return name if name in decisions and decisions[name][0] == _DECIDED[change.type] else None
    if change.type != "order.message_created":
        return None
    messages = [(name, one) for name, one in decisions.items() if name.startswith("message/")]
    for name, (_, id_, _) in messages:
        if id_ is not None and id_ == change.key:
            return name
    for name, (body, id_, _) in messages:
        # Whether the write arrived was never told: the customer's message with these words is it.
        if id_ is None and _says(change.value, body):
            return name
    return None


def _says(message: Mapping[str, Json], body: str) -> bool:
    return message.get("sender") == "customer" and message.get("body") == body
