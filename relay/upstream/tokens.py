"""User tokens: minted with the documented grant, shared between processes, renewed early, never stampeded.

`POST /v2/oauth/token` with grant `fulfillment_user_assertion` and an `assertion` that is the Base64 of
`{"user_id": ...}` gives a token that sees that user's orders only, for 24 hours (upstream facts, "Tokens").
"""

import asyncio
import base64
import time
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import msgspec

from relay.upstream.interface import Access

#: A token is renewed when this share of its life is over.
RENEW_AT = 0.8
#: After a refused or failed mint the same user is not tried again for this long (seconds).
BACK_OFF = 5.0


@dataclass(frozen=True, slots=True)
class Credential:
    """A retailer's (or the deployment's) application at the upstream."""

    id: str
    client_id: str
    client_secret: str = field(repr=False)


class TokenRefused(Exception):
    """No token was given: `status` is upstream's, None when it did not answer."""

    def __init__(self, detail: str, status: int | None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


class TokenCache(Protocol):
    """Keeps minted tokens for other processes. Values are secrets."""

    async def get(self, credential_id: str, user_id: str) -> bytes | None: ...

    async def put(self, credential_id: str, user_id: str, value: bytes, *, ttl_s: int) -> None: ...

    async def drop(self, credential_id: str, user_id: str) -> None: ...


class _Minted(msgspec.Struct):
    access_token: str
    expires_in: float = 86_400


class _Kept(msgspec.Struct):
    token: str
    renew_at: float


class Tokens:
    """One per process. All methods may be called concurrently."""

    def __init__(self, http: httpx.AsyncClient, cache: TokenCache) -> None:
        self._http = http
        self._cache = cache
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._minting: dict[tuple[str, str], asyncio.Task[_Kept]] = {}
        self._refused: dict[tuple[str, str], tuple[float, TokenRefused]] = {}

    async def access(self, credential: Credential, user_id: str) -> Access:
        """A token that is good for a while yet. Raises TokenRefused."""
        key = (credential.id, user_id)
        kept = self._kept.get(key)
        if kept is None or kept.renew_at <= time.time():
            kept = await self._mint_once(credential, user_id)
        return Access(kept.token)

    async def renewed(self, credential: Credential, user_id: str, refused: Access) -> Access:
        """After a 401: another token than the refused one, minted at most once for it. Raises TokenRefused."""
        key = (credential.id, user_id)
        kept = self._kept.get(key)
        if kept is None or kept.token == refused.token:
            self._kept.pop(key, None)
            await self._cache.drop(credential.id, user_id)
            kept = await self._mint_once(credential, user_id)
        return Access(kept.token)

    async def _mint_once(self, credential: Credential, user_id: str) -> _Kept:
        key = (credential.id, user_id)
        until, error = self._refused.get(key, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise error
        task = self._minting.get(key)
        if task is None:
            task = self._minting[key] = asyncio.create_task(self._mint(credential, user_id))
            task.add_done_callback(lambda done: self._minting.pop(key, None))
        try:
            kept = await asyncio.shield(task)
        except TokenRefused as refusal:
            self._refused[key] = (time.monotonic() + BACK_OFF, refusal)
            raise
        self._refused.pop(key, None)
        self._kept[key] = kept
        return kept

    async def _mint(self, credential: Credential, user_id: str) -> _Kept:
        stored = await self._cache.get(credential.id, user_id)
        if stored is not None:
            kept = msgspec.json.decode(stored, type=_Kept)
            if kept.renew_at > time.time():
                return kept
        assertion = base64.b64encode(msgspec.json.encode({"user_id": user_id})).decode()
        request = {
            "client_id": credential.client_id,
            "client_secret": credential.client_secret,
            "grant_type": "fulfillment_user_assertion",
            "scope": "connect:post_checkout",
            "assertion": assertion,
        }
        try:
            response = await self._http.post("/v2/oauth/token", json=request)
        except httpx.TransportError as error:
            raise TokenRefused(f"the token endpoint does not answer: {type(error).__name__}", None) from None
        if response.status_code != 200:
            raise TokenRefused(f"the token endpoint answered {response.status_code}", response.status_code)
        try:
            minted = msgspec.json.decode(response.content, type=_Minted)
        except msgspec.DecodeError:
            raise TokenRefused("the token endpoint's answer holds no token", 200) from None
        kept = _Kept(minted.access_token, time.time() + RENEW_AT * minted.expires_in)
        await self._cache.put(credential.id, user_id, msgspec.json.encode(kept), ttl_s=max(1, int(minted.expires_in)))
        return kept
