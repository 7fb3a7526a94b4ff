"""Standard Webhooks 1.0.0: `v1` is HMAC-SHA256 over `id.timestamp.body` under a `whsec_` key; `v1a` is Ed25519."""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from relay.errors import InvalidInput

PREFIX = "whsec_"
SIGNING_PREFIX = "whsk_"
#: Key length in bytes (Standard Webhooks 1.0.0, "Symmetric").
SHORTEST_KEY, LONGEST_KEY = 24, 64
#: How far a timestamp may lie from now, past or future, in seconds: what the official libraries allow.
TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class Secret:
    """A signing secret. `key` is what HMAC uses: the base64 part of `whsec_...`, decoded."""

    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str, pointer: str = "/secret") -> "Secret":
        """Raises InvalidInput (`invalid_secret`) with the mistake named."""
        if not text.startswith(PREFIX):
            raise _invalid("a secret begins with whsec_; public keys, Ed25519 keys and `v1,` prefixes are none")
        try:
            encoded = text.removeprefix(PREFIX)
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise _invalid("what follows whsec_ is not base64") from None
        if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
            raise _invalid(f"a secret has {SHORTEST_KEY} to {LONGEST_KEY} bytes; this one has {len(key)}")
        if len(set(key)) == 1:
            raise _invalid("a secret of one repeated byte is no secret")
        return cls(key)

    @classmethod
    def new(cls) -> "Secret":
        """256 random bits."""
        return cls(os.urandom(32))

    @property
    def text(self) -> str:
        """The form that is shown to a retailer and pasted into a receiver."""
        return PREFIX + base64.b64encode(self.key).decode()

    def same(self, other: "Secret") -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(self.key, other.key)

    def sign(self, event_id: str, timestamp_s: int, body: bytes) -> str:
        """One entry of the signature header: `v1,` and the base64 of the HMAC."""
        return sign(event_id, timestamp_s, body, self)


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput(detail, code="invalid_secret")


def sign(event_id: str, timestamp_s: int, body: bytes, secret: Secret) -> str:
    """One entry of the signature header: `v1,` and the base64 of the HMAC."""
    content = f"{event_id}.{timestamp_s}.".encode() + body
    return "v1," + binascii.b2a_base64(hmac.digest(secret.key, content, hashlib.sha256), newline=False).decode()


def signed_headers(
    event_id: str, timestamp_s: int, body: bytes, keys: "Sequence[Secret | SigningKey]"
) -> dict[str, str]:
    """The three headers of an attempt, with one signature a live key, joined by single spaces."""
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": " ".join([key.sign(event_id, timestamp_s, body) for key in keys]),
    }


class VerificationFailed(ValueError):
    """The message is not what was signed, not for this receiver, or not of now; the message says which."""


def verify(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[Secret], *, now_s: int, tolerance_s: int = TOLERANCE_S
) -> str:
    """Check a received message (header names in lower case) and return its id. Raises VerificationFailed."""
    id_, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (id_ and timestamp and signatures):
        raise VerificationFailed("webhook-id, webhook-timestamp or webhook-signature is missing")
    if not (timestamp.isascii() and timestamp.isdigit()):
        raise VerificationFailed("webhook-timestamp is no number of seconds")
    if abs(now_s - int(timestamp)) > tolerance_s:
        raise VerificationFailed(f"webhook-timestamp is more than {tolerance_s} s away from this clock")
    expected = [sign(id_, int(timestamp), body, secret).encode() for secret in secrets]
    given = [entry.encode("utf-8", "replace") for entry in signatures.split(" ") if entry.startswith("v1,")]
    if not any(hmac.compare_digest(a, b) for a in expected for b in given):
        raise VerificationFailed("no signature matches: wrong secret, or the body was changed")
    return id_


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key of the asymmetric scheme `v1a`: shown as `whsk_` and the base64 of seed and public key."""

    seed: bytes = field(repr=False)
    _private: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Making the key from its seed costs more than a signature.
        object.__setattr__(self, "_private", Ed25519PrivateKey.from_private_bytes(self.seed))

    @classmethod
    def new(cls) -> "SigningKey":
        """256 random bits."""
        return cls(os.urandom(32))

    @classmethod
    def parse(cls, text: str) -> "SigningKey":
        """Raises InvalidInput (`invalid_secret`), also when the public half does not belong to the seed."""
        try:
            raw = base64.b64decode(text.removeprefix(SIGNING_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if not text.startswith(SIGNING_PREFIX) or len(raw) != 64:
            raise _invalid("an Ed25519 key is whsk_ and the base64 of 64 bytes: seed, then public key")
        key = cls(raw[:32])
        if key.public_bytes != raw[32:]:
            raise _invalid("the public half of this Ed25519 key does not belong to its seed")
        return key

    @property
    def public_bytes(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    @property
    def text(self) -> str:
        """The form that is stored; it is never shown."""
        return SIGNING_PREFIX + base64.b64encode(self.seed + self.public_bytes).decode()

    @property
    def public_text(self) -> str:
        """What a receiver needs; publish it in the API, never in a message."""
        return "whpk_" + base64.b64encode(self.public_bytes).decode()

    def sign(self, event_id: str, timestamp_s: int, body: bytes) -> str:
        """One entry of the signature header, beside the `v1` ones: `v1a,` and the base64 of the signature."""
        content = f"{event_id}.{timestamp_s}.".encode() + body
        return "v1a," + base64.b64encode(self._private.sign(content)).decode()


def parse_key(text: str) -> Secret | SigningKey:
    """Either kind, by its prefix. Raises InvalidInput (`invalid_secret`)."""
    return SigningKey.parse(text) if text.startswith(SIGNING_PREFIX) else Secret.parse(text)
