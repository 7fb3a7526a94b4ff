"""Too many requests: by address before anybody is authenticated, then by key and retailer."""

import math
import time
from collections import OrderedDict

from starlette.requests import Request

from relay.api.deps import Deps
from relay.errors import RateLimited, StoreUnavailable
from relay.store.limits import BURST_S, Allowance
from relay.store.retailers import OPERATOR, Caller

#: Addresses that a process remembers; the one that was seen longest ago is forgotten first.
_REMEMBERED = 10_000


class Addresses:
    """Requests a second of one peer address, in this process: a flood without a key costs Redis nothing."""

    def __init__(self, per_second: float) -> None:
        """0: no limit."""
        self._every = 1 / per_second if per_second else 0.0
        self._burst = max(self._every, BURST_S)
        self._tats: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str | None) -> None:
        """Count one request. Raises RateLimited."""
        if not self._every or address is None:
            return
        now = time.monotonic()
        tat = max(self._tats.pop(address, now), now) + self._every
        over = tat - self._burst - now
        self._tats[address] = tat if over <= 0 else tat - self._every
        if len(self._tats) > _REMEMBERED:
            self._tats.popitem(last=False)
        if over > 0:
            raise RateLimited("too many requests from this address", retry_after_s=over)


def peer(request: Request) -> str | None:
    """The address that the connection comes from; headers that claim another are not looked at."""
    return None if request.client is None else request.client.host


async def spend(deps: Deps, caller: Caller) -> dict[str, str]:
    """Count one request of a caller; the answer's rate-limit headers. Raises RateLimited. While Redis is away nobody is
    limited: the request will find out by itself."""
    try:
        found = await deps.limits.spend(caller.key_id, caller.retailer_id or OPERATOR)
    except StoreUnavailable:
        return {}
    if found is None:
        return {}
    if found.wait_s > 0:
        raise RateLimited("too many requests with this key, or of this retailer", retry_after_s=found.wait_s)
    return headers(found)


def headers(found: Allowance) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers)."""
    return {
        "ratelimit-policy": f'"api";q={found.burst};w={BURST_S}',
        "ratelimit": f'"api";r={found.left};t={math.ceil(found.reset_s)}',
    }
