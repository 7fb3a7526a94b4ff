"""Which event types a subscription asks for: exact names, or a prefix that ends in `.` or `_` and a star."""

from collections.abc import Sequence

from relay.errors import InvalidInput, Problem
from relay.model.catalogue import EVENT_TYPES


class Filter:
    """Patterns as given; `*` is everything but `webhook.*`, which goes to the subscription it concerns in any case."""

    __slots__ = ("_known", "patterns")

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self._known: dict[str, bool] = {}

    def matches(self, event_type: str) -> bool:
        known = self._known.get(event_type)
        if known is None:
            known = self._known[event_type] = any(_matches(pattern, event_type) for pattern in self.patterns)
        return known

    @classmethod
    def parse(cls, patterns: Sequence[str], pointer: str = "/event_types") -> "Filter":
        """Raises InvalidInput (`unknown_event_type`) for a pattern that no event type of the catalogue matches."""
        problems = []
        for index, pattern in enumerate(patterns):
            well_formed = "*" not in pattern or pattern == "*" or pattern.endswith((".*", "_*"))
            if not well_formed or not any(_matches(pattern, name) for name in EVENT_TYPES):
                detail = f"{pattern!r} matches no event type; see GET /v1/event-types"
                problems.append(Problem(f"{pointer}/{index}", "unknown_event_type", detail))
        if not patterns:
            problems.append(Problem(pointer, "unknown_event_type", "name at least one event type, such as order.*"))
        if problems:
            raise InvalidInput(problems[0].detail, code="unknown_event_type", problems=problems)
        return cls(tuple(patterns))


def _matches(pattern: str, event_type: str) -> bool:
    if pattern == "*":
        return not event_type.startswith("webhook.")
    if pattern.endswith("*"):
        return pattern.count("*") == 1 and event_type.startswith(pattern[:-1])
    return pattern == event_type
