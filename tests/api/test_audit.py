"""Who did what: one entry a deed, readable by its owner only, and never a secret in it."""

import asyncio
from typing import Any

import pytest

from relay import cli
from relay.store import keys
from relay.store.audit import Action, AuditLog
from relay.store.retailers import OPERATOR
from tests.api.support import ADMIN, Relay, driven

URL = "https://shop.example.com/hooks"


async def _log(relay: Relay, key: str, query: str = "") -> list[dict[str, Any]]:
    answer = await relay.ask("GET", f"/v1/audit-log{query}", key=key)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_a_subscriptions_life_is_told_with_both_urls_and_no_secret(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        headers = {"Authorization": "Bearer header-s3cr3t"}
        made = await relay.ask(
            "POST", "/v1/subscriptions", {"url": f"{URL}?token=query-s3cr3t", "headers": headers}, key=key
        )
        one, secret = made.json()["id"], made.json()["secret"]
        path = f"/v1/subscriptions/{one}"
        await relay.ask(
            "PATCH", path, {"url": f"{URL}/new?token=query-s3cr3t"}, key=key, headers={"x-request-id": "r-7"}
        )
        await relay.ask("POST", f"{path}/disable", {}, key=key)
        await relay.ask("POST", f"{path}/enable", {}, key=key)
        await relay.ask("GET", f"{path}/secret", key=key)
        rotated = await relay.ask("POST", f"{path}/secret/rotate", {}, key=key)
        await relay.ask("POST", f"{path}/recover", {"since": "2026-01-01T00:00:00Z"}, key=key)
        await relay.ask("DELETE", path, key=key)
        await relay.ask("GET", path, key=key)

        log = await _log(relay, key)

        assert [entry["action"] for entry in reversed(log)] == [
            *("retailer.created", "key.created", "subscription.created", "subscription.updated"),
            *("subscription.disabled", "subscription.enabled", "secret.read", "secret.rotated"),
            *("recovery.started", "subscription.deleted"),
        ]
        updated = next(entry for entry in log if entry["action"] == "subscription.updated")
        assert updated["details"] == {"changed": "url", "old_url": URL, "url": f"{URL}/new"}
        assert (updated["object_id"], updated["outcome"], updated["request_id"]) == (one, "ok", "r-7")
        assert updated["key_id"].startswith("key_")
        assert {entry["object_id"] for entry in log[:8]} == {one}
        stored = str(await relay.db.run("XRANGE", keys.audit(retailer_id), "-", "+"))
        for hidden in (secret, rotated.json()["secret"], "s3cr3t", key):
            assert hidden not in stored

    driven(store_url, test)


def test_refusals_are_told_too(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        weak = await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", {"scopes": ["orders:read"]}, key=ADMIN)
        await relay.ask("POST", "/v1/subscriptions", {"url": "https://169.254.169.254/latest"}, key=key)
        await relay.ask("POST", "/v1/subscriptions", {"url": "https://user:planted-password@[::1"}, key=key)
        await relay.ask("GET", "/v1/subscriptions", key=weak.json()["key"])
        await relay.ask("POST", "/v1/retailers", {"name": "Mine"}, key=key)
        await relay.ask("GET", "/v1/orders/none", key=key)

        log = await _log(relay, key)

        assert [(entry["action"], entry["outcome"]) for entry in log[:4]] == [
            ("authorization.denied", "operator_only"),
            ("authorization.denied", "missing_scope"),
            ("subscription.created", "url_malformed"),
            ("subscription.created", "url_ip_literal"),
        ]
        assert log[3]["details"]["url"] == "https://169.254.169.254/latest"
        assert log[1]["object_id"] == "listSubscriptions"
        assert log[1]["key_id"] == weak.json()["id"]
        assert "planted-password" not in str(log)

    driven(store_url, test)


def test_a_retailer_reads_its_own_part_and_an_operator_all(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        mine, key = await relay.retailer()
        _, stranger = await relay.retailer()
        await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)
        await relay.ask("PATCH", "/v1/retailers/ret_unknown", {"name": "x"}, key=ADMIN)

        theirs = await _log(relay, stranger)
        peeked = await relay.ask("GET", f"/v1/audit-log?retailer_id={mine}", key=stranger)
        by_operator = await _log(relay, ADMIN, f"?retailer_id={mine}")
        operators = await _log(relay, ADMIN)

        assert {entry["action"] for entry in theirs} == {"retailer.created", "key.created"}
        assert peeked.status_code == 422
        assert by_operator == await _log(relay, key)
        assert by_operator[0]["action"] == "subscription.created"
        assert [(e["action"], e["outcome"], e["object_id"]) for e in operators] == [
            ("retailer.updated", "not_found", "ret_unknown")
        ]
        assert await relay.db.run("EXISTS", keys.audit("ret_unknown")) == 0

    driven(store_url, test)


def test_pages_and_filters(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        audit = AuditLog(relay.db)
        for number in range(25):
            await audit.write(retailer_id, Action("even" if number % 2 == 0 else "odd", "key_x", str(number)))

        seen, query = [], "?limit=4&action=even"
        while True:
            page = (await relay.ask("GET", f"/v1/audit-log{query}", key=key)).json()
            seen += [int(entry["object_id"]) for entry in page["data"]]
            if page["next"] is None:
                break
            query = f"?limit=4&action=even&after={page['next']}"

        assert seen == list(range(24, -1, -2))

    driven(store_url, test)


def test_a_repeated_post_is_one_deed(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        for _ in range(2):
            await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key, headers={"idempotency-key": "k"})

        created = [entry for entry in await _log(relay, key) if entry["action"] == "subscription.created"]

        assert len(created) == 1

    driven(store_url, test)


def test_retention_trims_and_a_flood_is_bounded(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.store.audit.MOST", 200)

    async def test(relay: Relay) -> None:
        retailer_id, _ = await relay.retailer()
        audit = AuditLog(relay.db)
        for _ in range(1_000):
            await audit.write(retailer_id, Action("a", "k"))
        length = await relay.db.run("XLEN", keys.audit(retailer_id))
        found, _ = await audit.page(retailer_id, before=None, limit=3, action=None)

        await audit.trim(retailer_id, found[1].position)

        assert length < 400
        assert await relay.db.run("XLEN", keys.audit(retailer_id)) == 2

    driven(store_url, test)


def test_what_cannot_be_written_down_fails_no_request(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        from relay.errors import StoreUnavailable

        async def broken(owner: str, action: Action) -> None:
            raise StoreUnavailable("full")

        _, key = await relay.retailer()
        relay.deps.audit.write = broken  # type: ignore[method-assign]

        assert (await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)).status_code == 201

    driven(store_url, test)


def test_the_command_line_is_written_down(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_REDIS_URL", store_url)

    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        assert await asyncio.to_thread(cli.main, ["keys", "create", retailer_id, "--json"]) == 0
        assert await asyncio.to_thread(cli.main, ["keys", "create", OPERATOR]) == 0

        assert [(e["action"], e["key_id"]) for e in (await _log(relay, key))[:1]] == [("key.created", "command-line")]
        assert [e["action"] for e in await _log(relay, ADMIN)] == ["key.created"]

    driven(store_url, test)
