"""User tokens: minted with the documented grant, shared between processes, renewed early, never stampeded.

`POST /v2/oauth/token` with grant `fulfillment_user_assertion` and an `assertion` that is the Base64 of
`{"user_id": ...}` gives a token that sees that user's orders only, for 24 hours (upstream facts, "Tokens").
"""

import asyncio
import base64
import enum
import time
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import msgspec
import structlog

from relay import metrics
from relay.upstream.interface import Access

#: A token is renewed when this share of its life is over; while that fails, the old one serves until it is near its
#: end (seconds). One that does not live long serves until it is to be renewed.
RENEW_AT, NEAR_END = 0.8, 30.0
#: After a refused or failed mint the same user is not tried again for this long (seconds).
BACK_OFF = 5.0
#: For how long no token is minted for anybody after upstream refused the credential, and when its endpoint fails: at
#: first, and at most (seconds).
PAUSES = {"credential_refused": (5.0, 300.0), "token_endpoint": (1.0, 30.0)}
#: Tokens that are kept in memory; further ones are in the cache.
_KEPT = 50_000
#: How long a mint waits for its turn in the credential's budget (seconds): it is a request like any other.
_PATIENCE = 5.0
#: How long another process's mint is waited for, and how often it is looked for (seconds).
_WAIT, _LOOK = _PATIENCE + 3.0, 0.05
#: How long who mints may keep the others out (seconds): waiting for turns and for the answer; they wait less.
_MINTING = 3 * _PATIENCE + 20.0
#: Errors of the token endpoint that are about the application (RFC 6749, section 5.2, and upstream facts, "Tokens").
_ABOUT_THE_CREDENTIAL = frozenset({"invalid_client", "unauthorized_client", "query_params_forbidden", "invalid_scope"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A retailer's (or the deployment's) application at the upstream."""

    id: str
    client_id: str
    client_secret: str = field(repr=False)


class Blame(enum.StrEnum):
    """Whose fault it is that no token was given: the application's, the user's, the endpoint's, or nobody's: the
    credential pauses, or has spent its budget."""

    CREDENTIAL = "credential_refused"
    USER = "unauthorized"
    ENDPOINT = "token_endpoint"
    BUSY = "throttled"


class TokenRefused(Exception):
    """No token was given: `status` is upstream's, None when it did not answer."""

    def __init__(self, detail: str, status: int | None, blame: Blame) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.blame = blame


class TokenCache(Protocol):
    """Keeps what processes share: minted tokens, which are secrets, pauses, and the credential's budget."""

    async def get(self, credential_id: str, user_id: str) -> bytes | None: ...

    async def put(self, credential_id: str, user_id: str, value: bytes, *, ttl_s: int) -> None: ...

    async def drop(self, credential_id: str, user_id: str) -> None: ...

    async def lock(self, credential_id: str, user_id: str, *, ttl_s: float) -> bool:
        """False while another process mints for this user."""
        ...

    async def unlock(self, credential_id: str, user_id: str) -> None: ...

    async def turn(self, credential_id: str, *, within_s: float) -> bool:
        """Spend a request of the credential's budget and wait until it may be sent; False when it may not in time."""
        ...

    async def pause(self, credential_id: str, seconds: float, why: str) -> None:
        """No token of this credential is to be had for so long: orders that need one wait, and cost no requests."""
        ...

    async def resume(self, credential_id: str) -> None: ...


class _Minted(msgspec.Struct):
    access_token: str
    expires_in: float = 86_400


class _Kept(msgspec.Struct):
    token: str
    renew_at: float
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Pause:
    until: float
    seconds: float
    error: TokenRefused


class Tokens:
    """One per process. All methods may be called concurrently."""

    def __init__(self, http: httpx.AsyncClient, cache: TokenCache) -> None:
        self._http = http
        self._cache = cache
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._minting: dict[tuple[str, str], asyncio.Task[_Kept]] = {}
        self._refused: dict[tuple[str, str], tuple[float, TokenRefused]] = {}
        self._pauses: dict[str, _Pause] = {}
        self._log = structlog.get_logger("relay.tokens")

    async def access(self, credential: Credential, user_id: str) -> Access:
        """A token that is good for a while yet. Raises TokenRefused."""
        key = (credential.id, user_id)
        kept = self._kept.get(key)
        now = time.time()
        if kept is None or max(kept.renew_at, kept.expires_at - NEAR_END) <= now:
            kept = await self._mint_once(credential, user_id, None)
        elif kept.renew_at <= now and not self._backs_off(key):
            self._start(credential, user_id, None)  # the old one serves in the meantime
        return Access(kept.token)

    async def renewed(self, credential: Credential, user_id: str, refused: Access) -> Access:
        """After a 401: another token than the refused one, minted at most once for it. Raises TokenRefused."""
        key = (credential.id, user_id)
        kept = self._kept.get(key)
        if kept is None or kept.token == refused.token:
            self._kept.pop(key, None)
            kept = await self._mint_once(credential, user_id, refused.token)
        return Access(kept.token)

    def _backs_off(self, key: tuple[str, str]) -> TokenRefused | None:
        """Why this user is not tried at the moment: it was refused, or its credential was."""
        until, error = self._refused.get(key, (0.0, None))
        return error if time.monotonic() < until else None

    async def _pause(self, credential_id: str, error: TokenRefused) -> None:
        """No more mints for a while, twice as long each time; the failures of one while are one."""
        least, most = PAUSES[error.blame.value]
        known, now = self._pauses.get(credential_id), time.monotonic()
        if known is not None and now < known.until:
            return
        seconds = min(most, max(least, 2 * known.seconds)) if known is not None else least
        self._pauses[credential_id] = _Pause(now + seconds, seconds, error)
        self._log.error(
            "credential.paused", credential=credential_id, why=error.blame.value, detail=error.detail, seconds=seconds
        )
        await self._cache.pause(credential_id, seconds, error.blame.value)

    async def _resume(self, credential_id: str) -> None:
        if self._pauses.pop(credential_id, None) is not None:
            self._log.info("credential.accepted", credential=credential_id)
            await self._cache.resume(credential_id)

    async def _mint_once(self, credential: Credential, user_id: str, refused: str | None) -> _Kept:
        error = self._backs_off((credential.id, user_id))
        if error is not None:
            raise error
        return await asyncio.shield(self._start(credential, user_id, refused))

    def _start(self, credential: Credential, user_id: str, refused: str | None) -> "asyncio.Task[_Kept]":
        """The one mint of this user that is under way."""
        key = (credential.id, user_id)
        task = self._minting.get(key)
        if task is None:
            task = self._minting[key] = asyncio.create_task(self._find(credential, user_id, refused))
            task.add_done_callback(lambda done: self._minted(key, done))
        return task

    def _minted(self, key: tuple[str, str], done: "asyncio.Task[_Kept]") -> None:
        self._minting.pop(key, None)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._refused.pop(key, None)
            self._kept[key] = done.result()
        elif isinstance(error, TokenRefused):
            if len(self._refused) >= _KEPT:
                self._refused.clear()
            self._refused[key] = (time.monotonic() + BACK_OFF, error)

    async def _find(self, credential: Credential, user_id: str, refused: str | None) -> _Kept:
        """A token from the cache, or a new one; other processes wait for it."""
        deadline = time.monotonic() + _WAIT
        while True:
            stored = await self._cache.get(credential.id, user_id)
            if stored is not None:
                kept = msgspec.json.decode(stored, type=_Kept)
                if kept.renew_at > time.time() and kept.token != refused:
                    return kept
            if await self._cache.lock(credential.id, user_id, ttl_s=_MINTING) or time.monotonic() > deadline:
                break
            await asyncio.sleep(_LOOK)
        try:
            pause = self._pauses.get(credential.id)
            if pause is not None and time.monotonic() < pause.until:
                raise pause.error
            kept = await self._counted(credential, user_id)
            await self._resume(credential.id)
            ttl_s = max(1, int(kept.expires_at - time.time()))
            await self._cache.put(credential.id, user_id, msgspec.json.encode(kept), ttl_s=ttl_s)
        except TokenRefused as error:
            if refused is not None:
                await self._cache.drop(credential.id, user_id)
            if error.blame.value in PAUSES:
                await self._pause(credential.id, error)
            raise
        finally:
            await self._cache.unlock(credential.id, user_id)
        return kept

    async def _counted(self, credential: Credential, user_id: str) -> _Kept:
        try:
            kept = await self._mint(credential, user_id)
        except TokenRefused as error:
            metrics.mints.labels(error.blame.value).inc()
            raise
        metrics.mints.labels("minted").inc()
        return kept

    async def _mint(self, credential: Credential, user_id: str) -> _Kept:
        if not await self._cache.turn(credential.id, within_s=_PATIENCE):
            raise TokenRefused("upstream asked for a pause, or its budget is spent", None, Blame.BUSY)
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
            detail = f"the token endpoint does not answer: {type(error).__name__}"
            raise TokenRefused(detail, None, Blame.ENDPOINT) from None
        if response.status_code != 200:
            blame = _blame(response.status_code, response.content)
            raise TokenRefused(f"the token endpoint answered {response.status_code}", response.status_code, blame)
        try:
            minted = msgspec.json.decode(response.content, type=_Minted)
        except msgspec.DecodeError:
            raise TokenRefused("the token endpoint's answer holds no token", 200, Blame.ENDPOINT) from None
        now = time.time()
        return _Kept(minted.access_token, now + RENEW_AT * minted.expires_in, now + minted.expires_in)


def _blame(status: int, raw: bytes) -> Blame:
    """By the code of the answer (OAuth form) before its status."""
    try:
        code = msgspec.json.decode(raw, type=dict[str, object]).get("error")
    except msgspec.DecodeError:
        code = None
    if code in _ABOUT_THE_CREDENTIAL or status in (401, 403):
        return Blame.CREDENTIAL
    return Blame.USER if status in (400, 404, 422) else Blame.ENDPOINT
