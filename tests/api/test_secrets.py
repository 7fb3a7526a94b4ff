"""Reveal and rotation over HTTP, and what a receiver then gets."""

import asyncio

import pytest
from standardwebhooks import Webhook

from relay.model.signing import Secret, SigningKey
from relay.store import keys
from relay.store.deliveries import Deliveries
from relay.vault import Vault, parse_master_keys
from tests.api.support import ADMIN, MASTER, Relay, driven

URL = "https://shop.example.com/hooks"


async def _subscribed(relay: Relay, key: str, **fields: object) -> dict[str, str]:
    made = await relay.ask("POST", "/v1/subscriptions", {"url": URL, **fields}, key=key)
    assert made.status_code == 201, made.text
    one: dict[str, str] = made.json()
    return one


def test_the_secret_is_shown_on_its_own_path_only_and_never_kept_by_anyone(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)

        shown = await relay.ask("GET", f"/v1/subscriptions/{one['id']}/secret", key=key)

        assert shown.json() == {
            "secret": one["secret"],
            "secrets": [{"secret": one["secret"], "until": None}],
            "public_keys": [],
        }
        assert shown.headers["cache-control"] == "no-store"

    driven(store_url, test)


def test_it_takes_the_scope_and_the_owner(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        _, stranger = await relay.retailer()
        one = await _subscribed(relay, key)
        path = f"/v1/subscriptions/{one['id']}/secret"
        weak = await relay.ask(
            "POST", f"/v1/retailers/{retailer_id}/keys", {"scopes": ["subscriptions:read"]}, key=ADMIN
        )

        refused = await relay.ask("GET", path, key=weak.json()["key"])
        no_rotation = await relay.ask("POST", f"{path}/rotate", {}, key=weak.json()["key"])
        missing = await relay.ask("GET", path, key=stranger)
        no_stranger = await relay.ask("POST", f"{path}/rotate", {}, key=stranger)

        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
        assert no_rotation.status_code == 403
        assert (missing.status_code, no_stranger.status_code) == (404, 404)
        assert (await relay.ask("GET", path, key=key)).json()["secret"] == one["secret"]

    driven(store_url, test)


def test_rotation_overlaps_for_a_day_by_default(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)
        path = f"/v1/subscriptions/{one['id']}/secret"
        before_ms = await relay.db.now_ms()

        rotated = await relay.ask("POST", f"{path}/rotate", {}, key=key)

        body = rotated.json()
        assert rotated.headers["cache-control"] == "no-store"
        assert [entry["secret"] for entry in body["secrets"]] == [body["secret"], one["secret"]]
        assert body["secret"] != one["secret"]
        assert (await relay.ask("GET", path, key=key)).json() == body
        deliveries = Deliveries(relay.db, Vault(parse_master_keys(MASTER)))
        target = await deliveries.target(one["id"])  # type: ignore[arg-type]
        assert target is not None
        assert len(target.keyring.live(before_ms + 86_400_000 - 1)) == 2
        assert len(target.keyring.live(before_ms + 86_400_000 + 60_000)) == 1

    driven(store_url, test)


def test_an_overlap_of_zero_and_a_given_secret(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one, given = await _subscribed(relay, key), Secret.new().text

        path = f"/v1/subscriptions/{one['id']}/secret/rotate"
        body = (await relay.ask("POST", path, {"overlap_seconds": 0, "secret": given}, key=key)).json()

        assert body["secrets"] == [{"secret": given, "until": None}]

    driven(store_url, test)


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"overlap_seconds": -1}, "invalid_value", "/overlap_seconds"),
        ({"overlap_seconds": 604_801}, "invalid_value", "/overlap_seconds"),
        ({"overlap_seconds": "1d"}, "invalid_value", "/overlap_seconds"),
        ({"secret": "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "invalid_secret", "/secret"),
        ({"secret": "whsec_c2hvcnQ="}, "invalid_secret", "/secret"),
        ({"until": 5}, "unknown_field", "/until"),
    ],
)
def test_bad_rotations_are_refused_and_change_nothing(
    store_url: str, body: dict[str, object], code: str, pointer: str
) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)
        path = f"/v1/subscriptions/{one['id']}/secret"

        refused = await relay.ask("POST", f"{path}/rotate", body, key=key)

        assert refused.status_code == 422
        assert [(e["pointer"], e["code"]) for e in refused.json()["errors"]] == [(pointer, code)]
        assert (await relay.ask("GET", path, key=key)).json()["secret"] == one["secret"]

    driven(store_url, test)


def test_a_secret_belongs_to_one_subscription(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)
        other = await _subscribed(relay, key, url=f"{URL}/2")

        again = await relay.ask("POST", "/v1/subscriptions", {"url": f"{URL}/3", "secret": one["secret"]}, key=key)
        path = f"/v1/subscriptions/{other['id']}/secret/rotate"
        taken = await relay.ask("POST", path, {"secret": one["secret"]}, key=key)
        own = await relay.ask("POST", path, {"secret": other["secret"]}, key=key)

        assert [answer.status_code for answer in (again, taken, own)] == [422, 422, 422]
        assert {answer.json()["code"] for answer in (again, taken, own)} == {"secret_in_use"}

    driven(store_url, test)


def test_ten_live_secrets_are_enough(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)
        path = f"/v1/subscriptions/{one['id']}/secret/rotate"

        answers = [(await relay.ask("POST", path, {}, key=key)) for _ in range(10)]

        assert [answer.status_code for answer in answers] == [200] * 9 + [409]
        assert answers[-1].json()["code"] == "too_many_secrets"
        assert (await relay.ask("POST", path, {"overlap_seconds": 0}, key=key)).status_code == 200

    driven(store_url, test)


def test_rotations_at_the_same_time_all_count(store_url: str) -> None:
    """Each is a compare-and-set: none takes the other's new secret away."""

    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)
        path = f"/v1/subscriptions/{one['id']}/secret"

        answers = await asyncio.gather(*(relay.ask("POST", f"{path}/rotate", {}, key=key) for _ in range(3)))

        assert [answer.status_code for answer in answers] == [200] * 3
        live = {entry["secret"] for entry in (await relay.ask("GET", path, key=key)).json()["secrets"]}
        assert live == {one["secret"], *(answer.json()["secret"] for answer in answers)}

    driven(store_url, test)


def test_an_owner_hears_of_a_rotation(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key)
        await relay.db.run("HSET", keys.subscription(one["id"]), "owner", "pump-1")
        await relay.db.run("ZADD", keys.READY, 2**50, one["id"])
        before = await relay.db.run("HGET", keys.subscription(one["id"]), "rev")

        await relay.ask("POST", f"/v1/subscriptions/{one['id']}/secret/rotate", {}, key=key)

        assert await relay.db.run("HGET", keys.subscription(one["id"]), "rev") != before
        assert await relay.db.run("LLEN", keys.bell("pump-1")) == 1

    driven(store_url, test)


def test_ed25519_on_request_at_creation_and_later(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = await _subscribed(relay, key, ed25519=True)
        path = f"/v1/subscriptions/{one['id']}"

        first = (await relay.ask("GET", path, key=key)).json()
        rotated = (await relay.ask("POST", f"{path}/secret/rotate", {}, key=key)).json()
        second = (await relay.ask("GET", path, key=key)).json()
        off = (await relay.ask("PATCH", path, {"ed25519": False}, key=key)).json()
        on = (await relay.ask("PATCH", path, {"ed25519": True}, key=key)).json()
        same = (await relay.ask("PATCH", path, {"ed25519": True, "description": "x"}, key=key)).json()

        assert first["public_key"].startswith("whpk_")
        assert "whsk_" not in str(first) + str(rotated)
        assert [entry["public_key"] for entry in rotated["public_keys"]] == [second["public_key"], first["public_key"]]
        assert (off["ed25519"], off["public_key"]) == (False, None)
        assert on["ed25519"]
        assert on["public_key"] not in (first["public_key"], second["public_key"])
        assert same["public_key"] == on["public_key"]
        stored = b"".join(await relay.db.run("HVALS", keys.subscription(one["id"])))
        assert b"whsk_" not in stored

    driven(store_url, test)


def test_the_official_library_verifies_during_an_overlap_with_ed25519_beside() -> None:
    from relay.model.keyring import Keyring
    from relay.model.signing import signed_headers

    old, new = Secret.new(), Secret.new()
    ring = Keyring.new(old, SigningKey.new()).rotated(new, SigningKey.new(), now_ms=0, overlap_ms=1_000)
    import time

    body = '{"type":"order.message_created","data":{"text":"grün, 12345678901234567890"}}'.encode()
    headers = signed_headers("evt_1", int(time.time()), body, ring.live(0))

    for secret in (old, new):
        assert Webhook(secret.text).verify(body, headers)
