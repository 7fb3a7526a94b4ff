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

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from relay.model import events
from relay.model.cadence import Cadence, stage_of
from relay.model.causes import NO_DECISIONS, Decisions, attribute
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
#: What upstream may keep to itself for good, by the account's settings ("shopper information removal"): that it does
#: says nothing against the order.
REDACTABLE = frozenset({Resource.MESSAGES, Resource.LOCATION})
#: So many refusals in a row make one lasting.
LASTING = 2
#: Instead of a delay: the policy says when.
BY_POLICY = -1


@dataclass(frozen=True, slots=True)
class Policy:
    """When to look again, and how long refusals and terminal statuses are waited out (ms).

    `resources` are those that a first complete reading and the end need. `late_ms`: so long after the end the chat is
    read once more. `abandon_ms`: an order that is suspended for so long is given up. `location`: the shopper's
    location is read while the order is delivered.
    """

    cadence: Cadence = field(default_factory=Cadence)
    patience_ms: int = 120_000
    confirm_after_ms: int = 5_000
    late_ms: int = 0
    abandon_ms: int = 24 * 3_600_000
    resources: tuple[Resource, ...] = RESOURCES
    location: bool = False

    @property
    def status_in(self) -> Resource:
        """The resource that holds the status."""
        return Resource.DETAILS if Resource.DETAILS in self.resources else Resource.HANDLING


@dataclass(frozen=True, slots=True)
class Step:
    """A decision.

    The state to commit, the events it causes, and when arms are due again (None: never, BY_POLICY: as the policy
    says). `settled`: an equal answer may be taken for unchanged, so its fingerprint is stored. `forget`: resources
    whose stored fingerprints no longer hold. `quiet`: nothing but the answer's bytes and time differ, so no commit is
    needed. `recognised`: what the retailer had passed on and the events say.
    """

    state: OrderState
    events: tuple[Event, ...]
    delays_ms: Mapping[Resource, int | None]
    settled: bool = True
    forget: tuple[Resource, ...] = ()
    quiet: bool = False
    recognised: tuple[str, ...] = ()


def observe(
    state: OrderState, reading: Reading, *, now_ms: int, policy: Policy, decisions: Decisions = NO_DECISIONS
) -> Step | None:
    """What a good reading changes; None when it is stale: begun no later than the committed one, or after the end.
    `decisions` are what the retailer had passed on (relay.model.causes)."""
    resource = reading.resource
    if state.tracking is Tracking.ENDED or reading.started_ms <= state.read_at_ms.get(resource, 0):
        return None
    found = _compare(state, reading)
    changes, recognised = attribute(found.changes, decisions)
    after, written = _absorb(state, reading, replace(found, changes=changes), now_ms, policy)
    after = _follow_terminal(after, reading, policy)
    if _is_over(after, policy):
        after, ended = _end(after, after.snapshot.status or "ended", now_ms)
        return Step(after, (*written, ended), dict.fromkeys(Resource, None), recognised=recognised)
    settled = not after.missing.get(resource) and after.terminal_since_ms is None
    newly_terminal = after.terminal_since_ms is not None and state.terminal_since_ms is None
    delays = _delays(state, after, resource, policy)
    quiet = settled and not written and state.snapshot.get(resource) is not None and not state.missing.get(resource)
    quiet = quiet and state.started and state.terminal_since_ms is None and after.off == state.off
    return Step(after, written, delays, settled, policy.resources if newly_terminal else (), quiet, recognised)


def _absorb(
    state: OrderState, reading: Reading, found: Detection, now_ms: int, policy: Policy
) -> tuple[OrderState, tuple[Event, ...]]:
    """The state with the reading in it, and what that tells: resumed, started, or what changed."""
    resource = reading.resource
    written: list[Event] = []
    if state.tracking is Tracking.SUSPENDED:
        written.append(events.resumed(state, now_ms=now_ms, observed_ms=now_ms))
        state = replace(state, tracking=Tracking.ACTIVE, sequence=written[-1].sequence)
    after = replace(
        state,
        snapshot=state.snapshot.replace(resource, found.value),
        read_at_ms={**state.read_at_ms, resource: reading.started_ms},
        missing={**state.missing, resource: found.missing},
        off=state.off - {resource},
        trouble=None,
    )
    if not state.started:
        after, new = _start(after, now_ms, policy)
    else:
        new = events.build(state, found.changes, after.snapshot, now_ms=now_ms, observed_ms=now_ms)
        after = replace(after, sequence=state.sequence + len(new))
    return after, (*written, *new)


def _start(state: OrderState, now_ms: int, policy: Policy) -> tuple[OrderState, list[Event]]:
    """Announce the order once all that can be read of it was read."""
    if not all(state.snapshot.get(one) is not None or one in state.off for one in policy.resources):
        return state, []
    event = events.started(state, state.snapshot, now_ms=now_ms, observed_ms=now_ms)
    return replace(state, started=True, sequence=event.sequence), [event]


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


def _follow_terminal(state: OrderState, reading: Reading, policy: Policy) -> OrderState:
    if reading.resource is not policy.status_in:
        return state
    if state.snapshot.status not in TERMINAL_STATUSES:
        return replace(state, terminal_since_ms=None)
    return state if state.terminal_since_ms is not None else replace(state, terminal_since_ms=reading.started_ms)


def _is_over(state: OrderState, policy: Policy) -> bool:
    """Everything was read after the terminal status was first seen, status and chat once more late, and nothing awaits
    a second look."""
    since = state.terminal_since_ms
    if since is None or not state.started or any(state.missing.get(one) for one in Resource if one not in state.off):
        return False
    return all(_read_late_enough(state, since, resource, policy) for resource in policy.resources)


def _read_late_enough(state: OrderState, since: int, resource: Resource, policy: Policy) -> bool:
    if resource in state.off:
        return True
    late = policy.late_ms if resource in (policy.status_in, Resource.MESSAGES) else 0
    read_at = state.read_at_ms.get(resource, 0)
    return read_at > since and read_at >= since + late


def _end(state: OrderState, reason: str, now_ms: int) -> tuple[OrderState, Event]:
    event = events.ended(state, state.snapshot, reason, now_ms=now_ms, observed_ms=now_ms)
    return replace(state, tracking=Tracking.ENDED, sequence=event.sequence, trouble=None), event


def _delays(before: OrderState, after: OrderState, resource: Resource, policy: Policy) -> dict[Resource, int | None]:
    """When arms are due again: this one by the policy, sooner for a second look; the others when the stage moved."""
    if not after.started:
        return {resource: None}  # once is enough until the others were read: nothing is told before
    if after.terminal_since_ms is not None:
        return _terminal_delays(before, after, resource, policy)
    delays: dict[Resource, int | None] = {resource: BY_POLICY}
    if not before.started:
        delays = dict.fromkeys(policy.resources, BY_POLICY)
    elif after.snapshot.status != before.snapshot.status:
        delays = {**dict.fromkeys(policy.resources, 0), resource: BY_POLICY}
    if not before.started or after.snapshot.status != before.snapshot.status:
        delays |= _beside(after, policy)
    if after.missing.get(resource):
        delays[resource] = policy.cadence.again_ms()
    return delays


def _beside(state: OrderState, policy: Policy) -> dict[Resource, int | None]:
    """What is read in some stages only: the location while the shopper drives, how to pick up before that is done."""
    if Resource.DETAILS not in policy.resources:
        return {}
    delivering = policy.location and state.snapshot.status == "delivering"
    pickup = (state.snapshot.details or {}).get("fulfillment_type") == "pickup"
    return {Resource.LOCATION: 0 if delivering else None, Resource.PICKUP: 0 if pickup else None}


def _terminal_delays(
    before: OrderState, after: OrderState, resource: Resource, policy: Policy
) -> dict[Resource, int | None]:
    since = after.terminal_since_ms or 0
    confirm_ms = max(policy.confirm_after_ms, policy.cadence.again_ms())
    if before.terminal_since_ms is None or not before.started:
        beside = dict.fromkeys((Resource.LOCATION, Resource.PICKUP), None)
        return {**beside, **dict.fromkeys(policy.resources, confirm_ms)}
    if after.missing.get(resource):
        return {resource: policy.cadence.again_ms()}
    if resource not in policy.resources:
        return {resource: None}
    if resource not in (policy.status_in, Resource.MESSAGES):
        # What was on its way when the terminal status was committed began before it, and confirms nothing.
        return {resource: None if _read_late_enough(after, since, resource, policy) else confirm_ms}
    # The late look, or one more when others are still being confirmed: the longer that takes, the rarer.
    read_at = after.read_at_ms[resource]
    most_ms = round(policy.cadence.bounds(resource, stage_of(after.snapshot.status))[1] * 1000)
    return {resource: max(confirm_ms, since + policy.late_ms - read_at, min((read_at - since) // 2, most_ms))}


def refuse(
    state: OrderState, resource: Resource, code: str, detail: str, trouble: Trouble, *, now_ms: int, policy: Policy
) -> Step | None:
    """What a lasting refusal changes. After `patience_ms` of being refused, tracking is suspended, with an event; after
    `abandon_ms` it ends. What upstream keeps to itself is switched off instead.

    None while there is patience left, and for faults that say nothing about the order (time-outs, 5xx, nonsense).
    """
    if code not in SUSPENDING or state.tracking is Tracking.ENDED:
        return None
    if code == "forbidden" and resource in REDACTABLE:
        return _switch_off(state, resource, now_ms, policy) if trouble.count >= LASTING else None
    lasts = now_ms - trouble.since_ms
    if state.tracking is Tracking.SUSPENDED:
        if lasts < policy.abandon_ms:
            return None
        after, event = _end(state, code, now_ms)
        return Step(after, (event,), dict.fromkeys(Resource, None))
    if lasts < policy.patience_ms:
        return None
    if state.terminal_since_ms is not None and code == "not_found":
        # It ended, and upstream has put it away before all of it was confirmed.
        after, event = _end(state, state.snapshot.status or "ended", now_ms)
        return Step(after, (event,), dict.fromkeys(Resource, None))
    event = events.suspended(state, code, detail, now_ms=now_ms, observed_ms=now_ms)
    after = replace(state, tracking=Tracking.SUSPENDED, sequence=event.sequence)
    return Step(after, (event,), {}, forget=policy.resources)


def _switch_off(state: OrderState, resource: Resource, now_ms: int, policy: Policy) -> Step | None:
    if resource in state.off:
        return None
    after = replace(state, off=state.off | {resource})
    written: list[Event] = []
    delays: dict[Resource, int | None] = {}
    if not state.started:
        after, written = _start(after, now_ms, policy)
        if after.started:
            delays = {**dict.fromkeys(policy.resources, BY_POLICY), **_beside(after, policy)}
    if _is_over(after, policy):
        after, event = _end(after, after.snapshot.status or "ended", now_ms)
        return Step(after, (*written, event), dict.fromkeys(Resource, None))
    delays.pop(resource, None)
    return Step(after, tuple(written), delays)


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
    return Step(after, (event,), dict.fromkeys(Resource, None))
