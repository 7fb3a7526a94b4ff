"""Which token a poll uses: the one that the retailer gave for the order, else one minted for its user."""

from collections.abc import Awaitable, Callable

from relay.errors import SecretUnreadable
from relay.polling.pump import AccessRefused
from relay.store.orders import ClaimedArm, Orders
from relay.upstream.interface import Access
from relay.upstream.tokens import Credential, TokenRefused, Tokens

#: Looks a credential up by its id; None when there is none.
CredentialSource = Callable[[str], Awaitable[Credential | None]]

#: Given tokens that are kept opened, one an order.
_KEPT = 50_000


class TokenBroker:
    """Implements `AccessSource` for the pump, and gives the same tokens to the retailer's own writes."""

    def __init__(self, orders: Orders, tokens: Tokens, credentials: CredentialSource) -> None:
        self._orders = orders
        self._tokens = tokens
        self._credentials = credentials
        self._given: dict[tuple[str, str], tuple[str, Access]] = {}

    async def access(self, arm: ClaimedArm) -> Access:
        if not arm.token_revision:
            return await self._minted(arm, None)
        key = (arm.retailer_id, arm.order_id)
        revision, access = self._given.get(key, ("", None))
        if access is None or revision != arm.token_revision:
            access = await self._opened(arm)
            if len(self._given) >= _KEPT:
                self._given.clear()
            self._given[key] = (arm.token_revision, access)
        return access

    async def renewed(self, arm: ClaimedArm, refused: Access) -> Access | None:
        return None if arm.token_revision else await self._minted(arm, refused)

    async def _opened(self, arm: ClaimedArm) -> Access:
        try:
            token = await self._orders.token(arm.retailer_id, arm.order_id)
        except SecretUnreadable as error:
            raise AccessRefused("token_unreadable", error.detail) from None
        if token is None:
            raise AccessRefused("no_token", "the order has no access token: give one, or a user id")
        return Access(token.token)

    async def _minted(self, arm: ClaimedArm, refused: Access | None) -> Access:
        credential = await self._credentials(arm.credential)
        if credential is None or arm.user_id is None:
            raise AccessRefused("no_token", "give the order an access token, or a user id and upstream credentials")
        try:
            if refused is None:
                return await self._tokens.access(credential, arm.user_id)
            return await self._tokens.renewed(credential, arm.user_id, refused)
        except TokenRefused as error:
            code = "unauthorized" if error.status in (400, 401, 403) else "token_endpoint"
            raise AccessRefused(code, error.detail) from None
