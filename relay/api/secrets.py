"""Signing secrets: shown only here and once at creation, rotated with an overlap."""

from contextlib import suppress

from relay.api.deps import Call, Reply
from relay.api.views import LiveSecretView, PublicKeyView, SecretView
from relay.errors import Conflict, InvalidInput, Problem
from relay.model.events import rfc3339
from relay.model.keyring import Keyring
from relay.model.signing import Secret, SigningKey
from relay.store.subscriptions import Changed

_NO_STORE = {"cache-control": "no-store"}
#: How often a change is tried again that met another one.
TRIES = 5


async def get(call: Call) -> Reply:
    known = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    return Reply(200, _view(known.keyring, await call.deps.db.now_ms()), headers=_NO_STORE)


async def rotate(call: Call) -> Reply:
    await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
    secret = await chosen(call, call.body.secret)
    now_ms = await call.deps.db.now_ms()
    for _ in range(TRIES):
        known = await call.deps.subscriptions.get(call.retailer_id, call.path("subscription_id"))
        signing = None if known.keyring.signing is None else SigningKey.new()
        keyring = known.keyring.rotated(secret, signing, now_ms=now_ms, overlap_ms=call.body.overlap_seconds * 1000)
        with suppress(Changed):
            await call.deps.subscriptions.amend(call.retailer_id, known, known.configuration, keyring=keyring)
            return Reply(200, _view(keyring, now_ms), headers=_NO_STORE)
    raise contended()


async def chosen(call: Call, text: str | None) -> Secret:
    """The secret that the retailer gave, or a new one. Raises InvalidInput for a malformed one and for one that a
    subscription has already: a key of two endpoints would let a message to one pass for a message to the other."""
    if text is None:
        return Secret.new()
    try:
        secret = Secret.parse(text)
    except InvalidInput as error:
        raise _refused(error.code, error.detail) from None
    for other in await call.deps.subscriptions.all(call.retailer_id):
        if other.keyring.holds(secret):
            raise _refused("secret_in_use", f"subscription {other.id} has this secret: each needs its own")
    return secret


def contended() -> Conflict:
    return Conflict("others keep changing this subscription; try again", code="changed_meanwhile")


def _refused(code: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, code=code, problems=[Problem("/secret", code, detail)])


def _view(keyring: Keyring, now_ms: int) -> SecretView:
    live = keyring.secrets(now_ms)
    return SecretView(
        secret=live[0][0].text,
        secrets=[LiveSecretView(secret.text, _moment(until_ms)) for secret, until_ms in live],
        public_keys=[PublicKeyView(k.public_text, _moment(until_ms)) for k, until_ms in keyring.signing_keys(now_ms)],
    )


def _moment(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
