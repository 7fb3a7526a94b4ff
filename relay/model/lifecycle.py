"""What a reading, or a refusal, means for an order: the decisions of the poll pump, as pure functions.

                    first complete reading              terminal status read again,
                    (tracking_started)                  and items and chat after it
    registered ──────────────────────────▶ active ─────────────────────────────────▶ ended
                                            │  ▲  a                                     ▲
          refused for longer than patience  │  │  a good reading (tracking_resumed)     │ the retailer stops it
                     (tracking_suspended)   ▼  │                                        │ (tracking_ended)
                                          suspended ────────────────────────────────────┘

a: a terminal status that goes back makes the order an ordinary active one again: statuses are not monotonic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from relay.model import events
from relay.model.cadence import Cadence
from relay.model.changes import Detection, detect, order_changes
from relay.model.events import Event
from relay.model.orders import (
    RESOURCES,
    TERMINAL_STATUSES,
    OrderState,
    Reading,
    Resource,
    Snapshot,
    Tracking,
    Trouble,
)

#: Refusals that suspend tracking when they last: upstream will not show this order.
SUSPENDING = frozenset({"unauthorized", "forbidden", "not_found"})


@dataclass(frozen=True, slots=True)
class Policy:
    """When to look again, and how long refusals and terminal statuses are waited out (ms)."""

    cadence: Cadence = field(default_factory=Cadence)
    patience_ms: int = 120_000
    confirm_after_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class Step:
    """A decision.

    The state to commit, the events it causes, and when arms are due again (None: never). `settled`: an equal answer
    may be taken for unchanged, so its fingerprint is stored. `forget`: resources whose stored fingerprints no longer
    hold. `quiet`: nothing but the answer's bytes and time differ, so no commit is needed.
    """

    state: OrderState
    events: tuple[Event, ...]
    delays_ms: Mapping[Resource, int | None]
    settled: bool = True
    forget: tuple[Resource, ...] = ()
    quiet: bool = False


def observe(
    state: OrderState, reading: Reading, *, now_ms: int, policy: Policy, random: Callable[[], float]
) -> Step | None:
    """What a good reading changes; None when it is stale: begun no later than the committed one, or after the end."""
    resource = reading.resource
    if state.tracking is Tracking.ENDED or reading.started_ms <= state.read_at_ms.get(resource, 0):
        return None
    after, written = _absorb(state, reading, now_ms)
    after = _follow_terminal(after, reading)
    if _is_over(after):
        after, ended = _end(after, after.snapshot.status or "ended", now_ms)
        return Step(after, (*written, ended), dict.fromkeys(RESOURCES, None))
    settled = not after.missing.get(resource) and after.terminal_since_ms is None
    newly_terminal = after.terminal_since_ms is not None and state.terminal_since_ms is None
    delays = _delays(state, after, resource, policy, random)
    quiet = settled and not written and state.snapshot.get(resource) is not None and not state.missing.get(resource)
    quiet = quiet and state.started and state.terminal_since_ms is None
    return Step(after, written, delays, settled, RESOURCES if newly_terminal else (), quiet)


def _absorb(state: OrderState, reading: Reading, now_ms: int) -> tuple[OrderState, tuple[Event, ...]]:
    """The state with the reading in it, and what that tells: resumed, started, or what changed."""
    resource = reading.resource
    written: list[Event] = []
    if state.tracking is Tracking.SUSPENDED:
        written.append(events.resumed(state, now_ms=now_ms, observed_ms=now_ms))
        state = replace(state, tracking=Tracking.ACTIVE, sequence=written[-1].sequence)
    found = _compare(state, reading)
    snapshot = state.snapshot.replace(resource, found.value)
    if state.started:
        new = events.build(state, found.changes, snapshot, now_ms=now_ms, observed_ms=now_ms)
    elif snapshot.complete:
        new = [events.started(state, snapshot, now_ms=now_ms, observed_ms=now_ms)]
    else:
        new = []
    written += new
    after = replace(
        state,
        snapshot=snapshot,
        started=state.started or snapshot.complete,
        sequence=state.sequence + len(new),
        read_at_ms={**state.read_at_ms, resource: reading.started_ms},
        missing={**state.missing, resource: found.missing},
        trouble=None,
    )
    return after, tuple(written)


def _compare(state: OrderState, reading: Reading) -> Detection:
    """What the reading changes. A resource that is first read after the start is compared with nothing."""
    resource, snapshot = reading.resource, state.snapshot
    stored = snapshot.get(resource)
    if not state.started and stored is None:
        return Detection((), reading.value, frozenset())
    if resource in (Resource.ITEMS, Resource.MESSAGES):
        awaited = state.missing.get(resource, frozenset())
        return detect(stored or {}, reading, awaited, chat_may_expire=state.terminal_since_ms is not None)
    after = snapshot.replace(resource, reading.value)
    return Detection(order_changes(snapshot.order or {}, after.order or {}, resource), reading.value, frozenset())


def _follow_terminal(state: OrderState, reading: Reading) -> OrderState:
    if reading.resource is not Resource.HANDLING:
        return state
    if state.snapshot.status not in TERMINAL_STATUSES:
        return replace(state, terminal_since_ms=None)
    return state if state.terminal_since_ms is not None else replace(state, terminal_since_ms=reading.started_ms)


def _is_over(state: OrderState) -> bool:
    """All three resources were read after the terminal status was first seen, and nothing awaits a second look."""
    since = state.terminal_since_ms
    if since is None or not state.started or any(state.missing.values()):
        return False
    return all(state.read_at_ms.get(resource, 0) > since for resource in RESOURCES)


def _end(state: OrderState, reason: str, now_ms: int) -> tuple[OrderState, Event]:
    event = events.ended(state, state.snapshot, reason, now_ms=now_ms, observed_ms=now_ms)
    return replace(state, tracking=Tracking.ENDED, sequence=event.sequence, trouble=None), event


def _delays(
    before: OrderState, after: OrderState, resource: Resource, policy: Policy, random: Callable[[], float]
) -> dict[Resource, int | None]:
    """When arms are due again: this one by its stage, sooner for a second look; all of them when the stage moved."""
    cadence, status = policy.cadence, after.snapshot.status
    if not after.started:
        return {resource: None}  # once is enough until the others were read: nothing is told before
    if after.terminal_since_ms is not None:
        if before.terminal_since_ms is None:
            return dict.fromkeys(RESOURCES, policy.confirm_after_ms)
        return {resource: cadence.again_ms() if after.missing.get(resource) else policy.confirm_after_ms}
    delays: dict[Resource, int | None] = {resource: cadence.interval_ms(status, resource, random)}
    if after.missing.get(resource):
        delays[resource] = cadence.again_ms()
    if not before.started or status != before.snapshot.status:
        for other in RESOURCES:
            if other is not resource:
                delays[other] = 0
    return delays


def refuse(state: OrderState, code: str, detail: str, trouble: Trouble, *, now_ms: int, policy: Policy) -> Step | None:
    """What a lasting refusal changes: after `patience_ms` of being refused, tracking is suspended, with an event.

    None while there is patience left, and for faults that say nothing about the order (time-outs, 5xx, nonsense).
    """
    if code not in SUSPENDING or state.tracking is not Tracking.ACTIVE:
        return None
    if now_ms - trouble.since_ms < policy.patience_ms:
        return None
    event = events.suspended(state, code, detail, now_ms=now_ms, observed_ms=now_ms)
    return Step(replace(state, tracking=Tracking.SUSPENDED, sequence=event.sequence), (event,), {}, forget=RESOURCES)


def troubled(previous: Trouble | None, code: str, detail: str, *, now_ms: int) -> Trouble:
    """The trouble of an arm after one more refusal: counted on while the code stays the same."""
    if previous is None or previous.code != code:
        return Trouble(code, detail, now_ms, 1)
    return replace(previous, detail=detail, count=previous.count + 1)


def purge(state: OrderState, *, now_ms: int) -> Step | None:
    """End tracking because the retailer has the order erased: the event tells of it and shows nothing of the order."""
    return stop(replace(state, snapshot=Snapshot(), metadata={}), "purged", now_ms=now_ms)


def stop(state: OrderState, reason: str, *, now_ms: int) -> Step | None:
    """End tracking because the retailer said so; None when it has ended already."""
    if state.tracking is Tracking.ENDED:
        return None
    after, event = _end(state, reason, now_ms)
    return Step(after, (event,), dict.fromkeys(RESOURCES, None))
