"""What metrics are labelled with: closed sets all, which other modules count by as well."""

from relay.model.cadence import BOUNDS

PUMPS = ("poll", "deliver", "maintain")
#: The kinds of process. A worker has one pump, or with `relay worker all` the three.
ROLES = ("api", *PUMPS)
#: What an attempt may end in.
OUTCOMES = ("answered", "dns", "connect", "tls", "timeout", "reset", "protocol", "blocked", "internal_error")
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "none")
#: Which go together: only an answer has a status.
ENDINGS = (*((OUTCOMES[0], one) for one in STATUS_CLASSES[:-1]), *((one, STATUS_CLASSES[-1]) for one in OUTCOMES[1:]))
WAITING = ("ready", "held", "parked")
CREDENTIAL_STATES = ("ok", "slowed", "paused", "refused", "token_endpoint")
RESOURCES = ("handling", "items", "messages")
#: Those that are read in some stages only share a label: a dozen series each would not fit the budget.
BESIDE = {"location": "beside", "pickup": "beside"}
#: What a poll may end in. Rarer refusals begin with their first: a series for each would not fit the budget.
POLLED = ("unchanged", "changed", "stale", "late", "failed")
REFUSALS = ("unauthorized", "throttled", "server_error", "timeout", "network")
#: An order's stage (relay.model.cadence): before its first reading, by status, after its end, and what is unknown.
SEEN = (*BOUNDS, "over", "other")
STAGES = ("new", *SEEN)
#: Later than this (seconds), a poll is late.
LATE = 5
SLOWING = ("rate_limited", "unavailable")
REDIS_KINDS = ("command", "pipeline", "script")


def labelled(resource: str) -> str:
    """The resource as label."""
    return BESIDE.get(resource, resource)
