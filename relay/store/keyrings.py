"""A subscription's keyring at rest: sealed, and bound to the subscription that it belongs to."""

import msgspec

from relay.model.keyring import Keyring
from relay.vault import Vault


def seal_keyring(vault: Vault, retailer_id: str, subscription_id: str, keyring: Keyring) -> bytes:
    return vault.seal(msgspec.json.encode(keyring.rows()), context=_context(retailer_id, subscription_id))


def open_keyring(vault: Vault, retailer_id: str, subscription_id: str, sealed: bytes) -> Keyring:
    """Raises SecretUnreadable."""
    return Keyring.parse(msgspec.json.decode(vault.open(sealed, context=_context(retailer_id, subscription_id))))


def _context(retailer_id: str, subscription_id: str) -> str:
    return f"{retailer_id}/{subscription_id}/secrets"
