"""Bearer tokens: POST /v2/oauth/token issues them for one user each; a token sees only its user's orders."""

import binascii
import secrets
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.errors import InvalidInput, Unauthorized

Json = Any
GRANT_TYPE = "fulfillment_user_assertion"
SCOPE = "connect:post_checkout"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token stands for. `user_id` None sees every order. `expires_at` is wall time in Unix seconds."""

    client_id: str
    user_id: str | None
    expires_at: float

    def sees(self, owner: str | None) -> bool:
        return owner is None or self.user_id is None or owner == self.user_id


class Tokens:
    """Issued tokens of one client credential. `static` is a token that sees every order and never expires."""

    def __init__(self, client_id: str, client_secret: str, lifetime: float, static: str | None = None) -> None:
        self._client_id = client_id
        self._client_secret = client_secret
        self._lifetime = lifetime
        self._static = {static: Grant(client_id, None, float("inf"))} if static else {}
        self._grants: dict[str, Grant] = dict(self._static)

    def issue(self, request: Json, now: float) -> dict[str, Json]:
        """The token endpoint's answer; Unauthorized for a wrong credential, InvalidInput for anything else wrong."""
        if not isinstance(request, Mapping):
            raise InvalidInput("the body must be a JSON object", code="invalid_request")
        given = (str(request.get("client_id")), str(request.get("client_secret")))
        if given != (self._client_id, self._client_secret):
            raise Unauthorized("client_id and client_secret are not known", code="invalid_client")
        if request.get("grant_type") != GRANT_TYPE:
            raise InvalidInput(f"grant_type must be {GRANT_TYPE}", code="unsupported_grant_type")
        scope = request.get("scope", SCOPE)
        if not isinstance(scope, str) or SCOPE not in scope.split(","):
            raise InvalidInput(f"scope must hold {SCOPE}", code="invalid_scope")
        token = secrets.token_urlsafe(24)
        self._grants[token] = Grant(self._client_id, _user(request.get("assertion")), now + self._lifetime)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(self._lifetime),
            "scope": scope,
            "created_at": int(now),
        }

    def grant(self, authorization: bytes, now: float) -> Grant | None:
        """The live grant behind an Authorization header's value, or None."""
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        grant = self._grants.get(token.strip())
        return grant if grant and now < grant.expires_at and scheme.lower() == "bearer" else None

    def expire(self) -> int:
        """Forget every issued token; how many there were."""
        issued = len(self._grants) - len(self._static)
        self._grants = dict(self._static)
        return issued


def _user(assertion: Json) -> str:
    try:
        claim = msgspec.json.decode(b64decode(str(assertion), validate=True))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        claim = None
    user_id = claim.get("user_id") if isinstance(claim, dict) else None
    if not isinstance(user_id, str) or not user_id:
        raise InvalidInput('assertion must be the Base64 of {"user_id": "..."}', code="invalid_grant")
    return user_id
