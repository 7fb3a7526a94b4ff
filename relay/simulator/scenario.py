"""What happens to an order over simulated time. Pure, and the same for the same (seed, order id).

    brand_new ── acknowledged ── picking ── staging ── delivering ── delivered
                                    └───◄──────┘  (one in six steps back)

Pickup orders have no `delivering`, and some orders are canceled instead.

A plan is a list of steps with their times in simulated seconds since the order's start, in order. The last one sets the
terminal status, and nothing follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from relay.simulator import catalog
from relay.simulator.steps import Step
from relay.simulator.world import DECISIONS, Order

Json = Any
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Visit:
    """One stay in a status, in simulated seconds from the order's start."""

    status: str
    enter: float
    leave: float


def draft(order_id: str, user_id: str | None, seed: int) -> Order:
    """A brand-new order: address, coordinates, notes, 6 to 20 items, no shopper, no chat."""
    rng = Random(f"{seed}:{order_id}:draft")
    handling = {"order_id": order_id, "status": "brand_new", **_place(rng)}
    if rng.random() < 0.7:
        handling["notes"] = rng.choice(catalog.NOTES)
    names = [name for name, _ in rng.sample(catalog.PRODUCTS, rng.randint(6, 20))]
    items = {f"{order_id}-i{n}": _item(f"{order_id}-i{n}", name, rng) for n, name in enumerate(names, 1)}
    return Order(order_id, user_id, handling, items)


def plan(order: Order, seed: int) -> list[Step]:
    """All steps of a drafted order's life, by time; the last one ends it."""
    rng = Random(f"{seed}:{order.order_id}:plan")
    visits, end = _visits(rng)
    writer = _Writer(order, rng, visits)
    writer.write()
    steps = [Step(visit.enter, "status", value=visit.status) for visit in visits[1:]]
    steps += [step for step in writer.steps if step.after < visits[-1].leave - 1]
    return [*sorted(steps, key=lambda step: step.after), Step(visits[-1].leave, "status", value=end)]


def staggered(index: int, orders: int, seed: int) -> float:
    """When the `index`-th of `orders` starts, in simulated seconds: within half an hour, never all at once."""
    gap = min(150.0, 30 * _MINUTE / max(orders, 1))
    return index * gap + Random(f"{seed}:{index}:start").uniform(0, gap / 2)


def suggestion(order: Order, item_id: str, rng: Random) -> dict[str, Json]:
    """A replacement that a shopper would offer for an item."""
    name = order.items[item_id].get("product_name")
    substitute = dict(catalog.PRODUCTS).get(str(name), f"Store Brand {name}")
    return _replacement(substitute, order.items[item_id].get("quantity", 1), rng)


def _visits(rng: Random) -> tuple[list[Visit], str]:
    """The stays in each status and the terminal status. A whole life lasts 95 to 225 simulated minutes."""
    pickup, canceled, back = rng.random() < 0.2, rng.random() < 0.08, rng.random() < 0.17
    total = rng.uniform(95, 225) * _MINUTE
    before = [("brand_new", rng.uniform(0.5, 3) * _MINUTE), ("acknowledged", rng.uniform(2, 7) * _MINUTE)]
    shares = [("picking", rng.uniform(0.4, 0.6))]
    if not canceled:
        shares.append(("staging", rng.uniform(0.12, 0.3)))
        if back:
            shares += [("picking", rng.uniform(0.06, 0.12)), ("staging", rng.uniform(0.06, 0.15))]
        if not pickup:
            shares.append(("delivering", rng.uniform(0.2, 0.4)))
    elif back:
        shares.append(("staging", rng.uniform(0.1, 0.3)))
    scale = (total - sum(length for _, length in before)) / sum(share for _, share in shares)
    visits, at = [], 0.0
    for status, length in [*before, *((status, share * scale) for status, share in shares)]:
        visits.append(Visit(status, at, at + length))
        at += length
    return visits, "canceled" if canceled else "delivered"


@dataclass(slots=True)
class _Writer:
    """Fills an order's visits with what happens in them."""

    order: Order
    rng: Random
    visits: Sequence[Visit]
    steps: list[Step] = field(default_factory=list)
    shopper: str = ""
    talkative: float = 0.0
    added: int = 0

    def write(self) -> None:
        self.shopper = self.rng.choice(catalog.SHOPPERS)
        self.talkative = self.rng.betavariate(1.2, 1.6)
        early = self.visits[0].leave, self.visits[1].leave
        self._people(*early)
        removed = self._early_items(*early)
        picking = [visit for visit in self.visits if visit.status == "picking"]
        self._shop(picking[0], [item_id for item_id in self.order.items if item_id not in removed])
        for again in picking[1:]:
            self._recheck(again, removed)
        self._edits(early[0])
        for visit in self.visits:
            if visit.status == "delivering":
                self._drive(visit)
        if self.visits[-1].status == "staging":
            self._say(self._within(self.visits[-1], 0.2, 0.6), "shopper", catalog.PICKUP_READY)

    def _do(self, at: float, verb: str, subject: str = "", value: Json = None) -> None:
        self.steps.append(Step(at, verb, subject, value))

    def _within(self, visit: Visit, low: float, high: float) -> float:
        return visit.enter + (visit.leave - visit.enter) * self.rng.uniform(low, high)

    def _say(self, at: float, sender: str, sentences: Sequence[str], **names: str) -> None:
        self._do(at, "say", sender, self.rng.choice(sentences).format(shopper=self.shopper, **names))

    def _converse(self, at: float, turns: Sequence[tuple[str, str]]) -> None:
        for sender, body in turns:
            self._do(at, "say", sender, body)
            at += self.rng.uniform(8, 75)

    def _people(self, acknowledged: float, picking: float) -> None:
        assigned = self.rng.uniform(acknowledged, picking)
        self._do(assigned, "handling", value={"shopper": self._person(self.shopper)})
        if self.rng.random() < 0.12:
            self.shopper = self.rng.choice([name for name in catalog.SHOPPERS if name != self.shopper])
            changed = self.rng.uniform(assigned, picking)
            if self.rng.random() < 0.4:
                self._do((assigned + changed) / 2, "handling", value={"shopper": None})
            self._do(changed, "handling", value={"shopper": self._person(self.shopper)})

    def _person(self, name: str) -> dict[str, Json]:
        return {"name": name, "phone_number": f"(***) ***-{self.rng.randint(0, 9999):04d}"}

    def _early_items(self, acknowledged: float, picking: float) -> frozenset[str]:
        """Items are added and removed only before the shopping begins. Those removed never return."""
        for _ in range(self.rng.choice((0, 0, 0, 1, 1, 2))):
            self.added += 1
            item_id = f"{self.order.order_id}-a{self.added}"
            name, _substitute = self.rng.choice(catalog.PRODUCTS)
            self._do(self.rng.uniform(acknowledged, picking), "add", item_id, _item(item_id, name, self.rng))
        removed = self.rng.sample(list(self.order.items), self.rng.choice((0, 0, 0, 1)))
        for item_id in removed:
            self._do(self.rng.uniform(acknowledged, picking), "remove", item_id)
        return frozenset(removed)

    def _shop(self, visit: Visit, item_ids: list[str]) -> None:
        self._say(visit.enter + self.rng.uniform(5, 60), "shopper", catalog.GREETINGS)
        targets = [*item_ids, *(f"{self.order.order_id}-a{n}" for n in range(1, self.added + 1))]
        self.rng.shuffle(targets)
        for at, item_id in zip(self._walk(visit, len(targets)), targets, strict=True):
            self._pick(at, item_id)
        for _ in range(self._count(3)):
            self._converse(self._within(visit, 0.05, 0.9), self.rng.choice(catalog.CHATTER))

    def _walk(self, visit: Visit, stops: int) -> list[float]:
        """Bursts of seconds at a shelf between walks of minutes, over the first 80 % of the visit."""
        gaps = [
            self.rng.uniform(5, 25) if self.rng.random() < 0.45 else self.rng.uniform(60, 300) for _ in range(stops)
        ]
        scale = 0.8 * (visit.leave - visit.enter) / sum(gaps)
        times, at = [], visit.enter
        for gap in gaps:
            at += gap * min(scale, 3.0)
            times.append(at)
        return times

    def _pick(self, at: float, item_id: str) -> None:
        fate = self.rng.random()
        if fate < 0.68:
            self._do(at, "item", item_id, {"status": "found"})
        elif fate < 0.76:
            self._do(at, "item", item_id, {"status": "found", "quantity": self.rng.randint(1, 3)})
        elif fate < 0.90:
            self._replace(at, item_id)
        else:
            self._do(at, "item", item_id, {"status": "not_found"})
            later = at + self.rng.uniform(20, 400)
            if self.rng.random() < 0.3:
                self._do(later, "item", item_id, {"status": "found"})
            else:
                self._say(later - 5, "shopper", catalog.SOLD_OUT, product=self._name(item_id))
                self._do(later, "item", item_id, {"status": "refunded"})

    def _replace(self, at: float, item_id: str) -> None:
        """A suggestion, sometimes changed or withdrawn, then the customer's word, or silence."""
        product = self._name(item_id)
        substitute = dict(catalog.PRODUCTS).get(product, f"Store Brand {product}")
        self._do(at, "suggest", item_id, _replacement(substitute, self.rng.randint(1, 2), self.rng))
        self._say(at + self.rng.uniform(3, 30), "shopper", catalog.OFFERS, product=product, substitute=substitute)
        at += self.rng.uniform(30, 120)
        fate = self.rng.random()
        if fate < 0.10:
            self._do(at, "withdraw", item_id)
            self._do(at + self.rng.uniform(2, 20), "item", item_id, {"status": "found"})
            return
        if fate < 0.28:
            substitute = f"Store Brand {product}"
            self._do(at, "suggest", item_id, _replacement(substitute, 1, self.rng))
            at += self.rng.uniform(20, 60)
        word = self.rng.random()
        if word < 0.75:
            decided = at + self.rng.uniform(10, 420)
            decision = DECISIONS[0] if word < 0.5 else DECISIONS[1]
            self._do(decided, "decide", item_id, decision)
            if self.rng.random() < self.talkative:
                sentences = catalog.APPROVALS if decision == DECISIONS[0] else catalog.REJECTIONS
                self._say(decided + self.rng.uniform(2, 20), "customer", sentences, substitute=substitute)

    def _recheck(self, visit: Visit, removed: frozenset[str]) -> None:
        """Why the order went back to picking: an item or two are looked at again."""
        left = [item_id for item_id in self.order.items if item_id not in removed]
        for item_id in self.rng.sample(left, min(2, len(left))):
            status = self.rng.choice(("found", "not_found", "refunded", "pending"))
            self._do(self._within(visit, 0.1, 0.9), "item", item_id, {"status": status})

    def _edits(self, first: float) -> None:
        last = self.visits[-1].leave
        if self.rng.random() < 0.35:
            self._do(self.rng.uniform(first, last), "handling", value={"notes": self.rng.choice(catalog.NOTES)})
        if self.rng.random() < 0.08:
            self._do(self.rng.uniform(first, last), "handling", value={"notes": None})
        if self.rng.random() < 0.10:
            self._do(self.rng.uniform(first, last / 2), "handling", value=_place(self.rng))
        if self.rng.random() < 0.12:
            spot = {key: self.order.handling["coordinates"][key] + self.rng.uniform(-1, 1) / 1000 for key in _POINT}
            self._do(self.rng.uniform(first, last), "handling", value={"coordinates": _rounded(spot)})

    def _drive(self, visit: Visit) -> None:
        self._say(visit.enter + self.rng.uniform(5, 90), "shopper", catalog.ON_THE_WAY)
        for _ in range(self._count(2)):
            self._converse(self._within(visit, 0.1, 0.8), self.rng.choice(catalog.DRIVING))
        if self.rng.random() < 0.6:
            self._say(visit.leave - self.rng.uniform(10, 90), "shopper", catalog.ARRIVALS)

    def _count(self, most: int) -> int:
        return sum(self.rng.random() < self.talkative for _ in range(most))

    def _name(self, item_id: str) -> str:
        item = self.order.items.get(item_id)
        added = (step.value for step in self.steps if step.verb == "add" and step.subject == item_id)
        return str((item or next(added))["product_name"])


_POINT = ("latitude", "longitude")


def _rounded(point: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in point.items()}


def _place(rng: Random) -> dict[str, Json]:
    street, city, state, postal_code, latitude, longitude = rng.choice(catalog.PLACES)
    address = {"address_line_1": f"{rng.randint(2, 2400)} {street}", "city": city, "state": state}
    if rng.random() < 0.4:
        address["address_line_2"] = f"Apt {rng.randint(1, 40)}"
    point = {"latitude": latitude + rng.uniform(-0.02, 0.02), "longitude": longitude + rng.uniform(-0.02, 0.02)}
    return {"address": {**address, "postal_code": postal_code}, "coordinates": _rounded(point)}


def _item(item_id: str, name: str, rng: Random) -> dict[str, Json]:
    quantity = rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 6))
    return {"id": item_id, "product_name": name, "quantity": quantity, "status": "pending"}


def _replacement(name: str, quantity: int, rng: Random) -> dict[str, Json]:
    return {"product_name": name, "product_id": f"prd_{rng.randrange(10**8):08d}", "quantity": quantity}
