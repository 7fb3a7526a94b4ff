"""Promise 3 where Redis lost its last moments: an order that is back in an earlier state goes on from there, with the
readings that upstream gives now, and comes to its end; whatever was on its way when that happened."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from relay.model.cadence import Cadence
from relay.model.events import Event
from relay.model.fold import Fold, Taken
from relay.model.lifecycle import BY_POLICY, Policy, Step, observe
from relay.model.orders import RESOURCES, JsonObject, OrderState, Reading, Resource, Tracking
from tests.support.orders import ORDER, RETAILER, make_handling, make_item, make_message

POLICY = Policy(Cadence(floor=0.1), confirm_after_ms=200, late_ms=300)
LEASE_MS, USUAL_MS = 1_000, 2_000
#: Readings after the last loss until an order has ended: a dozen are enough, of each resource four.
ENOUGH = 30

Truth = dict[Resource, JsonObject]
Action = tuple[str, int]


@dataclass(frozen=True)
class Store:
    """What Redis holds of an order and would lose together: the state with its fingerprints, the log, and the arms:
    those that wait by due time, those that are being read by lease, those to be read once more."""

    state: OrderState
    log: tuple[Event, ...] = ()
    prints: dict[Resource, str] = field(default_factory=dict)
    due: dict[Resource, int] = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0))
    claimed: dict[Resource, int] = field(default_factory=dict)
    again: frozenset[Resource] = frozenset()


@dataclass(frozen=True)
class Flight:
    """A request on its way: its lease, the bytes that are known already, and the answer."""

    reading: Reading
    lease: int
    known: str
    raw: str

    @property
    def resource(self) -> Resource:
        return self.reading.resource


class Relay:
    """The poll pump and its scripts, as far as one order and no clock are concerned."""

    def __init__(self, truths: list[Truth]) -> None:
        self.truths = truths
        self.now = 1
        self.versions = 0
        self.readings = 0
        self.store = Store(OrderState(RETAILER, ORDER, 0))
        self.past = [self.store]
        self.flights: list[Flight] = []
        self.writes: list[Callable[[], None]] = []

    # ── what happens ────────────────────────────────────────────────────────────────────────────────────────────

    def act(self, action: str, number: int) -> None:
        getattr(self, action)(number)
        if self.past[-1] is not self.store:
            self.past.append(self.store)

    def wait(self, number: int) -> None:
        """For a while, or until something is due."""
        moments = [*self.store.due.values(), *self.store.claimed.values()]
        self.now += 10 * number if number % 2 or not moments else max(1, min(moments) - self.now)

    def upstream(self, number: int) -> None:
        if len(self.truths) > 1:
            self.truths.pop(0)

    def begin(self, number: int) -> None:
        """Claim all that is due, or one of it."""
        for resource, ends in self.store.claimed.items():
            if ends <= self.now:
                self._put(resource, self.now, release=True)
        for resource, at in self.store.due.items():
            if at <= self.now and (number % 2 == 0 or resource.position == number % 3):
                self._claim(resource, spelling=number % 5 // 4)

    def land(self, number: int) -> None:
        """An answer is there, and what it means is decided. Equal bytes are not looked at."""
        if self.flights:
            self.writes.append(self._decided(self.flights.pop(number % len(self.flights))))

    def write(self, number: int) -> None:
        """Write down what was decided, maybe long ago."""
        if self.writes:
            self.writes.pop(number % len(self.writes))()

    def lose(self, number: int) -> None:
        """Redis is what it was at some moment; the worker has still in flight what it has."""
        self.store = self.past[number % len(self.past)]

    # ── the scripts ─────────────────────────────────────────────────────────────────────────────────────────────

    def _claim(self, resource: Resource, spelling: int) -> None:
        store = self.store
        self.readings += 1
        reading = Reading(resource, self.truths[0][resource], self.now)
        raw = json.dumps(reading.value, indent=spelling)
        self.flights.append(Flight(reading, self.now + LEASE_MS, store.prints.get(resource, ""), raw))
        due = {one: at for one, at in store.due.items() if one is not resource}
        self.store = replace(store, due=due, claimed={**store.claimed, resource: self.now + LEASE_MS})

    def _put(self, resource: Resource, at: int | None, *, release: bool) -> None:
        """Let an arm be due at `at`; with `release`, one that was being read by whoever asks for it."""
        store = self.store
        due = {one: then for one, then in store.due.items() if one is not resource}
        claimed, again = dict(store.claimed), store.again
        if at is None or release:
            claimed.pop(resource, None)
        if release and resource in again and at is not None:
            at, again = self.now, again - {resource}
        if at is not None:
            due[resource] = at
        self.store = replace(store, due=due, claimed=claimed, again=again)

    def _decided(self, flight: Flight) -> Callable[[], None]:
        state = self.store.state
        if flight.raw == flight.known:
            return lambda: self._settle(flight, self.store.prints.get(flight.resource, "") == flight.known)
        step = observe(state, flight.reading, now_ms=self.now, policy=POLICY)
        if step is None:
            return lambda: self._settle(flight, False)
        if step.quiet:
            return lambda: self._settle(flight, self.store.state.version == state.version, learnt=True)
        return lambda: self._commit(flight, step, state.version)

    def _settle(self, flight: Flight, holds: bool, *, learnt: bool = False) -> None:
        resource, state = flight.resource, self.store.state
        if holds and flight.reading.started_ms > state.read_at_ms.get(resource, 0):
            read_at = {**state.read_at_ms, resource: flight.reading.started_ms}
            prints = {**self.store.prints, resource: flight.raw} if learnt else self.store.prints
            self.store = replace(self.store, state=replace(state, read_at_ms=read_at), prints=prints)
        if self.store.claimed.get(resource) == flight.lease:
            self._put(resource, self.now + USUAL_MS if holds else self.now, release=True)

    def _commit(self, flight: Flight, step: Step, version: int) -> None:
        state, reading = self.store.state, flight.reading
        if state.version != version or state.read_at_ms.get(reading.resource, 0) > reading.started_ms:
            self._decided(flight)()
            return
        self.versions += 1
        prints = {**self.store.prints, reading.resource: flight.raw if step.settled else ""}
        read_at = {**state.read_at_ms, reading.resource: reading.started_ms}
        self.store = replace(
            self.store,
            state=replace(step.state, version=self.versions, read_at_ms=read_at),
            log=(*self.store.log, *step.events),
            prints={one: print_ for one, print_ in prints.items() if one not in step.forget},
        )
        for resource, delay in step.delays_ms.items():
            lease = self.store.claimed.get(resource)
            at = None if delay is None else self.now + (USUAL_MS if delay == BY_POLICY else delay)
            if resource is reading.resource and step.state.tracking is not Tracking.ENDED:
                if at is None or lease == flight.lease:
                    self._put(resource, at, release=True)
            elif lease is None or at is None:
                self._put(resource, at, release=False)
            elif delay == 0:
                self.store = replace(self.store, again=self.store.again | {resource})


# ── lives ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def lives(draw: Callable[..., Any]) -> list[Truth]:
    """What upstream shows of an order, one thing after the other: items come and go, messages are written, the status
    becomes terminal at last, and then the chat may expire."""
    truths = []
    statuses = draw(st.lists(st.sampled_from(["brand_new", "picking", "delivering"]), min_size=1, max_size=4))
    written = 0
    for status in [*statuses, draw(st.sampled_from(["delivered", "canceled"]))]:
        kept = draw(st.sets(st.sampled_from(["i-1", "i-2", "i-3"])))
        items = [make_item(one, status=draw(st.sampled_from(["pending", "found"]))) for one in sorted(kept)]
        written += draw(st.integers(0, 2))
        messages = [make_message(f"m-{number}") for number in range(written)]
        truths.append(_truth(status, items, {"messages": messages}))
    if draw(st.booleans()):
        truths.append({**truths[-1], Resource.MESSAGES: EXPIRED})
    return truths


def _truth(status: str, items: list[JsonObject], messages: JsonObject) -> Truth:
    handling = make_handling(status=status)
    return {Resource.HANDLING: handling, Resource.ITEMS: {"items": items}, Resource.MESSAGES: messages}


ACTIONS = st.tuples(
    st.sampled_from(["begin", "begin", "land", "land", "write", "write", "wait", "upstream", "lose"]),
    st.integers(0, 300),
)
SAID = {"messages": [make_message()]}
EXPIRED: JsonObject = {"messages": [], "metadata": {"is_expired": True}}
FOUND = [make_item(status="found")]
LANDED: list[Action] = [("land", 0), ("write", 0)] * 3
#: The order was read, then time went by until all three are due, and upstream moved on.
MOVED: list[Action] = [("begin", 0), *LANDED, ("wait", 301), ("upstream", 0)]

#: All three are being read when the status turns out to be terminal: what was read beside it confirms nothing.
TOGETHER = (
    [_truth("picking", [make_item()], {"messages": []}), _truth("delivered", FOUND, {"messages": []})],
    [*MOVED, ("begin", 0), *LANDED],
)
#: An answer that only spells differently what was committed, until that commit was lost.
SPELLING = (
    [_truth("picking", [make_item()], SAID), _truth("picking", FOUND, SAID), _truth("delivered", FOUND, SAID)],
    [*MOVED, ("begin", 0), *LANDED, ("wait", 301), ("begin", 4), *[("land", 0)] * 3, ("lose", 6), *[("write", 0)] * 3],
)
#: A commit that was decided on what was lost arrives after another one was made in the place of the lost one.
LINEAGE = (
    [
        _truth("picking", [make_item()], {"messages": []}),
        _truth("delivering", FOUND, SAID),
        _truth("canceled", [], SAID),
    ],
    [
        *MOVED,
        ("begin", 0),
        ("land", 0),
        ("write", 0),
        ("land", 0),
        ("lose", 5),
        ("land", 0),
        ("write", 1),
        ("write", 0),
    ],
)
#: The chat has expired before the status was seen that says why.
CHAT = (
    [_truth("picking", [make_item()], SAID), _truth("delivered", FOUND, EXPIRED)],
    [*MOVED, *[("begin", 5), ("land", 0), ("write", 0), ("wait", 301)] * 2],
)

ACTIONS = st.tuples(
    st.sampled_from(["begin", "begin", "land", "land", "write", "write", "wait", "upstream", "lose"]),
    st.integers(0, 300),
)


@given(lives(), st.lists(ACTIONS, max_size=60))
@example(*TOGETHER)
@example(*SPELLING)
@example(*LINEAGE)
@example(*CHAT)
def test_an_order_that_lost_its_last_moments_goes_on_and_ends(life: list[Truth], actions: list[Action]) -> None:
    relay = Relay(list(life))
    for action, number in actions:
        relay.act(action, number)
    while relay.flights or relay.writes:
        relay.act("land", 0)
        relay.act("write", 0)
    for _ in range(8):
        if relay.store.state.tracking is Tracking.ACTIVE:
            _poll(relay)
    _check(relay)  # also when nothing has happened for a while
    relay.truths = life[-1:]
    relay.readings = 0
    while relay.store.state.tracking is not Tracking.ENDED:
        assert relay.store.due or relay.store.claimed, "nothing is due any more, and the order has not ended"
        assert relay.readings < ENOUGH, relay.store.state
        _poll(relay)
    assert _check(relay).ended


def _poll(relay: Relay) -> None:
    """Wait until something is due, and poll it."""
    for action in ("wait", "begin", *["land", "write"] * len(RESOURCES)):
        relay.act(action, 4 if action == "begin" else 0)


def _check(relay: Relay) -> Fold:
    """What is stored is what upstream shows, and what the events tell."""
    state, truth = relay.store.state, relay.truths[0]
    assert state.snapshot.handling == truth[Resource.HANDLING]
    assert _by_id(state.snapshot.items, "items") == _by_id(truth[Resource.ITEMS], "items")
    if truth[Resource.MESSAGES] is not EXPIRED:
        assert _by_id(state.snapshot.messages, "messages") == _by_id(truth[Resource.MESSAGES], "messages")
    assert "order.message_removed" not in {event.type for event in relay.store.log}
    fold = Fold()
    assert {fold.take(json.loads(event.body)) for event in relay.store.log} == {Taken.FOLDED}
    assert fold.differences(state.snapshot) == []
    assert fold.sequence == state.sequence
    return fold


def _by_id(value: JsonObject | None, listed: str) -> dict[str, JsonObject]:
    return {entry["id"]: entry for entry in (value or {}).get(listed, [])}
