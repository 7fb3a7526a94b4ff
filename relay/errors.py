"""Every error of the relay, in one tree.

    RelayError                 has a stable `code`; its message says what to do
    ├── InvalidInput           somebody's input cannot be accepted (HTTP 422; exit status 2)
    │   └── InvalidSettings    a setting is missing, malformed or contradicts another
    ├── NotFound               no such thing for this retailer (HTTP 404)
    ├── Conflict               the thing exists already or is in another state (HTTP 409)
    ├── Unauthorized           no key, or one that is not known (HTTP 401)
    ├── Forbidden              the key lacks the scope (HTTP 403)
    ├── RateLimited            too many requests, or too much waits already (HTTP 429)
    ├── UpstreamRefused        the upstream answered a write with an error
    ├── StoreUnavailable       Redis cannot be reached or refuses to write (HTTP 503)
    └── SecretUnreadable       a stored secret opens with none of the master keys

What a *receiver* or the *upstream* answers to a poll or a delivery is no exception: it is an outcome, a value.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input.

    `pointer` is a JSON pointer (RFC 6901) into the body, or the name of a setting or query parameter.
    """

    pointer: str
    code: str
    detail: str


class RelayError(Exception):
    """Something the relay cannot do, with a stable code."""

    code = "internal_error"

    def __init__(self, detail: str, *, code: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.problems = tuple(problems)


class InvalidInput(RelayError):
    code = "invalid_input"


class InvalidSettings(InvalidInput):
    code = "invalid_settings"


class NotFound(RelayError):
    code = "not_found"


class Conflict(RelayError):
    code = "conflict"


class Gone(RelayError):
    """It was there and was erased."""

    code = "gone"


class Unauthorized(RelayError):
    code = "unauthorized"


class Forbidden(RelayError):
    code = "forbidden"


class RateLimited(RelayError):
    """Come again in `retry_after_s` seconds."""

    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after_s: float, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class UpstreamRefused(RelayError):
    """The upstream refused a write; `status` is its HTTP status, None when there was no answer. `retry_after_s` is what
    it asked for."""

    code = "upstream_refused"

    def __init__(
        self, detail: str, *, status: int | None, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.retry_after_s = retry_after_s


#: The code of what a full, or nearly full, Redis does not take.
STORE_FULL = "store_full"


class StoreUnavailable(RelayError):
    code = "store_unavailable"


class SecretUnreadable(RelayError):
    code = "secret_unreadable"
