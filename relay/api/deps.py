"""What the API needs of a process, and what a handler needs of a request."""

from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from relay.actions import Actions
from relay.errors import NotFound
from relay.guard import Guard
from relay.model.orders import RetailerId
from relay.model.pressure import Pressure
from relay.sender import Sender
from relay.settings import Settings
from relay.store.arms import Arms
from relay.store.audit import AuditLog
from relay.store.deliveries import Deliveries
from relay.store.history import History
from relay.store.idempotency import Idempotency
from relay.store.limits import Limits
from relay.store.log import Log
from relay.store.orders import Orders
from relay.store.pauses import Pauses
from relay.store.recoveries import Recoveries
from relay.store.redis import Db
from relay.store.retailers import Caller, Retailers
from relay.store.subscriptions import Subscriptions
from relay.tracing import OFF, Tracing


@dataclass(frozen=True, slots=True)
class Deps:
    """One per process, built in `main`."""

    settings: Settings
    db: Db
    orders: Orders
    arms: Arms
    log: Log
    subscriptions: Subscriptions
    retailers: Retailers
    idempotency: Idempotency
    actions: Actions
    guard: Guard
    sender: Sender
    deliveries: Deliveries
    recoveries: Recoveries
    history: History
    pauses: Pauses
    audit: AuditLog
    limits: Limits
    pressure: Pressure = field(default_factory=Pressure)
    tracing: Tracing = OFF


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request: who calls, with which path and query parameters, and the validated body. `notes` are
    what a handler wants the audit log to say besides."""

    deps: Deps
    caller: Caller
    request: Request
    body: Any
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def retailer_id(self) -> RetailerId:
        """The caller's retailer; an operator has none, and finds none of these things."""
        if self.caller.retailer_id is None:
            raise NotFound("not found")
        return self.caller.retailer_id

    def path(self, name: str) -> str:
        return str(self.request.path_params[name])


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: a value to encode, or `raw` JSON bytes."""

    status: int = 200
    value: Any = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
