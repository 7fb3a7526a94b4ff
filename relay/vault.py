"""Secrets at rest: AES-256-GCM under master keys, each record bound to the place where it is stored.

A record is one version byte, the length of the key's id, the id, a 12-byte random nonce, and the ciphertext with its
tag. The place (retailer, object, field) is associated data: a record moved elsewhere does not open.
"""

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.errors import InvalidInput, SecretUnreadable

_VERSION = 1
_NONCE = 12
_KEY = 32


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One master key. The first of a list encrypts, all of them decrypt."""

    id: str
    key: bytes = field(repr=False)


def parse_master_keys(text: str) -> tuple[MasterKey, ...]:
    """`id:base64[,id:base64...]`, each of 32 bytes. Raises InvalidInput that never repeats a key."""
    parsed: list[MasterKey] = []
    for number, part in enumerate(text.split(","), start=1):
        id_, separator, encoded = part.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not separator or not id_ or len(id_) > 64 or len(key) != _KEY:
            raise InvalidInput(
                f"master key {number}: write id:base64 of {_KEY} bytes (`relay keys master` makes one)",
                code="invalid_master_key",
            )
        if any(known.id == id_ for known in parsed):
            raise InvalidInput(f"master key {number}: the id {id_!r} stands twice", code="invalid_master_key")
        parsed.append(MasterKey(id_, key))
    return tuple(parsed)


def generate_master_key(id_: str) -> str:
    """A fresh key in the form that RELAY_MASTER_KEYS takes."""
    return f"{id_}:{base64.b64encode(os.urandom(_KEY)).decode()}"


class Vault:
    """Seals and opens small records. `first` is the id of the key that seals."""

    def __init__(self, master_keys: Sequence[MasterKey]) -> None:
        if not master_keys:
            raise InvalidInput("no master key: set RELAY_MASTER_KEYS", code="invalid_master_key")
        self.first = master_keys[0].id
        self._ciphers = {master.id: AESGCM(master.key) for master in master_keys}

    def seal(self, plain: bytes, *, context: str) -> bytes:
        """Encrypt for one place, named by `context`."""
        id_ = self.first.encode()
        nonce = os.urandom(_NONCE)
        sealed = self._ciphers[self.first].encrypt(nonce, plain, context.encode())
        return bytes([_VERSION, len(id_)]) + id_ + nonce + sealed

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt. Raises SecretUnreadable when the key is not among ours, or the record was altered or moved."""
        id_ = self.key_id(sealed)
        cipher = self._ciphers.get(id_)
        if cipher is None:
            raise SecretUnreadable(f"sealed with master key {id_!r}, which RELAY_MASTER_KEYS does not hold")
        start = 2 + len(id_.encode())
        try:
            return cipher.decrypt(sealed[start : start + _NONCE], sealed[start + _NONCE :], context.encode())
        except (InvalidTag, ValueError):
            raise SecretUnreadable(f"does not open with master key {id_!r}: altered, moved, or another key") from None

    @staticmethod
    def key_id(sealed: bytes) -> str:
        """The id of the key that sealed a record."""
        if len(sealed) < 2 + _NONCE or sealed[0] != _VERSION:
            raise SecretUnreadable("not a sealed record of a known version")
        return sealed[2 : 2 + sealed[1]].decode("utf-8", "replace")
