"""Which token a request to upstream carries: the one that the retailer gave for the order, else one minted for it."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from relay.errors import SecretUnreadable
from relay.model.orders import OrderId, RetailerId
from relay.settings import Settings
from relay.store import keys
from relay.store.order_records import UserToken
from relay.store.orders import Orders
from relay.store.retailers import Retailers
from relay.upstream.interface import Access
from relay.upstream.tokens import Credential, TokenRefused, Tokens

#: Looks a credential up by its id; None when there is none.
CredentialSource = Callable[[str], Awaitable[Credential | None]]

#: Given tokens that are kept opened, one an order.
_KEPT = 50_000
#: How long a retailer's credential is kept opened (seconds): a new one is in use after that.
_CREDENTIAL_FOR = 15.0


class TokenHolder(Protocol):
    """What tells which token an order uses. `token_revision` is empty when the retailer gave none."""

    @property
    def retailer_id(self) -> RetailerId: ...
    @property
    def order_id(self) -> OrderId: ...
    @property
    def credential(self) -> str: ...
    @property
    def user_id(self) -> str | None: ...
    @property
    def token_revision(self) -> str: ...


class AccessRefused(Exception):
    """No token: `code` and `detail` tell why, for the order's trouble."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Given:
    """A token that the retailer gave, opened."""

    revision: str
    expires_ms: int | None
    access: Access


class TokenBroker:
    """One per process."""

    def __init__(self, orders: Orders, tokens: Tokens, credentials: CredentialSource) -> None:
        self._orders = orders
        self._tokens = tokens
        self._credentials = credentials
        self._given: dict[tuple[str, str], _Given] = {}
        #: Revisions of given tokens that upstream refused, where another may be minted.
        self._refused: dict[tuple[str, str], str] = {}

    def known(self, retailer_id: RetailerId, order_id: OrderId, revision: str) -> Access | None:
        """The order's given token of this revision, where it was opened before and is good; nobody is asked for it."""
        key = (retailer_id, order_id)
        given = self._given.get(key)
        if given is None or given.revision != revision or (self._refused and self._refused.get(key) == revision):
            return None
        return given.access if given.expires_ms is None or given.expires_ms > time.time() * 1000 else None

    async def access(self, holder: TokenHolder) -> Access:
        """The token for an order. Raises AccessRefused."""
        key = (holder.retailer_id, holder.order_id)
        if not holder.token_revision or self._refused.get(key) == holder.token_revision:
            return await self._minted(holder, None)
        given = self._given.get(key)
        if given is None or given.revision != holder.token_revision:
            token = await self._opened(holder)
            if len(self._given) >= _KEPT:
                self._given.clear()
            self._given[key] = _Given(holder.token_revision, token.expires_ms, Access(token.token))
        if (access := self.known(*key, holder.token_revision)) is not None:
            return access
        if await self._can_mint(holder):
            return await self._minted(holder, None)
        raise AccessRefused("unauthorized", "the access token that was given for the order has expired")

    async def renewed(self, holder: TokenHolder, refused: Access) -> Access | None:
        """After a 401: another token to try once; None when the refused one is the only one. A given token that is
        refused before its time gives way to minted ones, until another one is given."""
        key = (holder.retailer_id, holder.order_id)
        if not holder.token_revision or self._refused.get(key) == holder.token_revision:
            return await self._minted(holder, refused)
        if not await self._can_mint(holder):
            return None
        if len(self._refused) >= _KEPT:
            self._refused.clear()
        self._refused[key] = holder.token_revision
        return await self._minted(holder, None)

    async def _can_mint(self, holder: TokenHolder) -> bool:
        return holder.user_id is not None and await self._credentials(holder.credential) is not None

    async def _opened(self, holder: TokenHolder) -> UserToken:
        try:
            token = await self._orders.token(holder.retailer_id, holder.order_id)
        except SecretUnreadable as error:
            raise AccessRefused("token_unreadable", error.detail) from None
        if token is None:
            raise AccessRefused("no_token", "the order has no access token: give one, or a user id")
        return token

    async def _minted(self, holder: TokenHolder, refused: Access | None) -> Access:
        credential = await self._credentials(holder.credential)
        if credential is None or holder.user_id is None:
            raise AccessRefused("no_token", "give the order an access token, or a user id and upstream credentials")
        try:
            if refused is None:
                return await self._tokens.access(credential, holder.user_id)
            return await self._tokens.renewed(credential, holder.user_id, refused)
        except TokenRefused as error:
            raise AccessRefused(error.blame.value, error.detail) from None


def credential_source(settings: Settings, retailers: Retailers) -> CredentialSource:
    """Credentials by id: the deployment's from the settings, a retailer's own from the store, kept for a while."""
    kept: dict[str, tuple[float, Credential | None]] = {}

    async def find(credential_id: str) -> Credential | None:
        if credential_id == keys.SHARED_CREDENTIAL:
            if settings.upstream_client_id is None or settings.upstream_client_secret is None:
                return None
            return Credential(credential_id, settings.upstream_client_id, settings.upstream_client_secret)
        until, credential = kept.get(credential_id, (0.0, None))
        if until < time.monotonic():
            pair = await retailers.upstream_secret(RetailerId(credential_id))
            credential = Credential(credential_id, *pair) if pair is not None else None
            kept[credential_id] = (time.monotonic() + _CREDENTIAL_FOR, credential)
        return credential

    return find
