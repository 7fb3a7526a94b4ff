"""What the relay needs of an upstream, whatever dialect it speaks."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from relay.model.orders import JsonObject, OrderId, Resource


@dataclass(frozen=True, slots=True)
class Access:
    """A user's bearer token."""

    token: str = field(repr=False)


class Refusal(enum.StrEnum):
    """Why an upstream answer is no reading. None of these ever changes a snapshot."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    NETWORK = "network"
    MALFORMED = "malformed"
    NONSENSE = "nonsense"


class Fetched(msgspec.Struct, frozen=True):
    """One answer, not yet parsed. `raw` is the whole body, decoded, empty on a refusal; `detail` names no person.

    `validator` is what a later request may be conditional on: an entity tag, or `@` and a date (RFC 9110, section 8.8).
    `fingerprint` tells bodies apart. `unmodified`: nothing changed since the reading that was told of: upstream said so
    (304), or the body is the same; then `raw` and `fingerprint` are empty.
    """

    resource: Resource
    status: int | None
    raw: bytes
    refusal: Refusal | None = None
    detail: str = ""
    retry_after_s: float | None = None
    duration_ms: float = 0.0
    validator: str = ""
    unmodified: bool = False
    fingerprint: str = ""

    def __repr__(self) -> str:
        """Without the body: it may hold personal data."""
        return f"Fetched({self.resource.value}, {self.status}, {len(self.raw)} bytes, {self.refusal}, {self.detail!r})"


class UnusableAnswer(Exception):
    """A body that came with status 200 and is no state: malformed, or JSON of the wrong shape."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail


class Dialect(Protocol):
    """How an upstream spells paths, bodies and answers. `resources` are those it has, `required` those that make a
    first complete reading; `headers` go with every request."""

    @property
    def resources(self) -> tuple[Resource, ...]: ...
    @property
    def required(self) -> tuple[Resource, ...]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    def path(self, order_id: OrderId, resource: Resource) -> str: ...

    def replacement_path(self, order_id: OrderId, item_id: str) -> str: ...

    def replacement_body(self, status: str, alternative: JsonObject | None) -> JsonObject:
        """Raises InvalidInput for what cannot be said."""
        ...

    def message_body(self, body: str) -> JsonObject: ...

    def parse(self, resource: Resource, raw: bytes, *, order_id: OrderId) -> JsonObject:
        """The answer in the specification's names, with nothing dropped. Raises UnusableAnswer."""
        ...

    def written(self, value: JsonObject) -> JsonObject:
        """The answer to a write that was accepted."""
        ...

    def refusal(self, status: int, raw: bytes, writing: Resource) -> tuple[str, str]:
        """A short text and a stable code for a write (of items or messages) that was refused."""
        ...


class Upstream(Protocol):
    """The operations that the relay needs."""

    async def fetch(
        self, access: Access, order_id: OrderId, resource: Resource, *, validator: str = "", known: str = ""
    ) -> Fetched:
        """Read one resource, if it changed since the answer with that validator, or with `known` as its fingerprint.
        Never raises for what upstream or the network does."""
        ...

    def parse(self, resource: Resource, raw: bytes, *, order_id: OrderId) -> JsonObject:
        """The answer as a value with nothing dropped. Raises UnusableAnswer."""
        ...

    def check_decision(self, status: str, alternative: JsonObject | None) -> None:
        """Raises InvalidInput for what this upstream cannot be told."""
        ...

    async def decide_replacement(
        self, access: Access, order_id: OrderId, item_id: str, status: str, alternative: JsonObject | None = None
    ) -> JsonObject:
        """Pass on APPROVED or REJECTED, with something else to get instead. Raises UpstreamRefused; never repeated on
        our own account."""
        ...

    async def send_message(self, access: Access, order_id: OrderId, body: str) -> JsonObject:
        """Send a chat message as the customer. Raises UpstreamRefused; never repeated on our own account."""
        ...
