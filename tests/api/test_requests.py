"""What holds for every request: keys, bodies, idempotency, cursors, problems."""

import msgspec
import pytest

from relay.api import cursors
from relay.errors import StoreUnavailable
from relay.store import keys
from relay.store.retailers import well_formed
from tests.api.support import ADMIN, Relay, driven


def test_every_bad_key_gets_the_same_answer(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        issued = (await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", {}, key=ADMIN)).json()
        revoked = await relay.ask("DELETE", f"/v1/retailers/{retailer_id}/keys/{issued['id']}", key=ADMIN)
        typo = key[:-1] + ("a" if key[-1] != "a" else "b")

        answers = [await relay.ask("GET", "/v1/orders", key=bad) for bad in (typo, issued["key"], "rly_rt_x", "x")]
        answers.append(await relay.ask("GET", "/v1/orders", headers={"authorization": b"Bearer \xff\xfe"}))

        assert revoked.status_code == 204
        assert {(a.status_code, a.json()["detail"]) for a in answers} == {(401, "no such key")}
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert (await relay.ask("GET", "/v1/orders")).status_code == 401
        assert (await relay.ask("GET", "/v1/orders", key=key)).status_code == 200

    driven(store_url, test)


def test_a_mistyped_key_is_refused_without_a_look_up(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        before = relay.db.trips

        await relay.ask("GET", "/v1/orders", key=key[:-1] + ("a" if key[-1] != "a" else "b"))

        assert well_formed(key)
        assert relay.db.trips == before

    driven(store_url, test)


def test_keys_are_stored_as_hashes_and_expire(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        names = [name async for name in relay.db.client.scan_iter()]
        listed = await relay.ask("GET", f"/v1/retailers/{retailer_id}/keys", key=ADMIN)
        body = {"expires_at": "2099-01-01T00:00:00Z", "scopes": ["orders:read"]}
        short = (await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", body, key=ADMIN)).json()
        name = next(iter({n async for n in relay.db.client.scan_iter(match="*:key:*")} - set(names)))

        assert key not in listed.text
        assert not any(key.encode() in name for name in names)
        assert short["scopes"] == ["orders:read"]
        assert await relay.db.run("PTTL", name) > 0
        await relay.db.run("PEXPIRE", name, 0)
        assert (await relay.ask("GET", "/v1/orders", key=short["key"])).status_code == 401

    driven(store_url, test)


def test_scopes_and_kinds(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        body = {"scopes": ["orders:read"]}
        reader = (await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", body, key=ADMIN)).json()["key"]

        read = await relay.ask("GET", "/v1/orders", key=reader)
        write = await relay.ask("POST", "/v1/orders", {"order_id": "o"}, key=reader)
        provision = await relay.ask("GET", "/v1/retailers", key=key)
        operator = await relay.ask("GET", "/v1/orders", key=ADMIN)
        unknown = await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", {"scopes": ["all"]}, key=ADMIN)

        assert read.status_code == 200
        assert (write.status_code, write.json()["code"]) == (403, "missing_scope")
        assert (provision.status_code, provision.json()["code"]) == (403, "operator_only")
        assert (operator.status_code, operator.json()["code"]) == (403, "retailer_only")
        assert unknown.json()["errors"][0]["pointer"] == "/scopes"

    driven(store_url, test)


def test_retailers_hide_their_secret_and_bring_their_budget(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        upstream = {"client_id": "cid", "client_secret": "very-s3cret", "budget": 12.5}
        retailer_id, _ = await relay.retailer(upstream=upstream)

        shown = await relay.ask("GET", f"/v1/retailers/{retailer_id}", key=ADMIN)
        stored = b"".join(await relay.db.run("HVALS", keys.retailer(retailer_id)))
        retailer = await relay.deps.retailers.get(retailer_id)

        assert shown.json()["upstream"] == {"client_id": "cid", "budget": 12.5}
        assert b"very-s3cret" not in stored
        assert retailer.credential == retailer_id
        assert await relay.db.run("HGET", keys.budget(retailer_id), "rate") == b"12.5"
        assert await relay.deps.retailers.upstream_secret(retailer.id) == ("cid", "very-s3cret")
        assert (await relay.ask("DELETE", f"/v1/retailers/{retailer_id}", key=ADMIN)).status_code == 204
        assert (await relay.ask("GET", f"/v1/retailers/{retailer_id}", key=ADMIN)).status_code == 404

    driven(store_url, test)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b"\xef\xbb\xbf{}", 400),
        (b'{"order_id": "\xff"}', 400),
        (b'{"order_id": "\\ud800"}', 400),
        (b'{"order_id": "a", "order_id": "b"}', 400),
        (b'{"order_id": NaN}', 400),
        (b'{"order_id": 1e999}', 422),
        (b'{"order_id": ' + b"9" * 5000 + b"}", 400),
        (b'{"metadata": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400),
        (b"[]", 422),
        (b"null", 422),
        (b"", 422),
        (b'{"order_id": "a", "more": 1}', 422),
        (b'{"order_id": "' + b"a" * 70_000 + b'"}', 413),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bodies_that_are_refused(store_url: str, raw: bytes, status: int) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        headers = {"content-type": "application/json"}

        answer = await relay.ask("POST", "/v1/orders", key=key, content=raw, headers=headers)

        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"

    driven(store_url, test)


def test_types_and_encodings_that_are_refused(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        body = {"order_id": "o-1"}

        text = await relay.ask("POST", "/v1/orders", body, key=key, headers={"content-type": "text/plain"})
        squeezed = await relay.ask("POST", "/v1/orders", body, key=key, headers={"content-encoding": "gzip"})
        charset = await relay.ask(
            "POST", "/v1/orders", body, key=key, headers={"content-type": "Application/JSON; charset=utf-8"}
        )

        assert [a.status_code for a in (text, squeezed, charset)] == [415, 415, 201]

    driven(store_url, test)


def test_numbers_beyond_64_bits_are_no_failure_of_ours(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        answer = await relay.ask(
            "POST", "/v1/retailers", key=ADMIN, **_raw(b'{"name":"x","limits":{"a":1' + b"0" * 40 + b"}}")
        )

        assert answer.status_code == 422

    driven(store_url, test)


def _raw(body: bytes) -> dict[str, object]:
    return {"content": body, "headers": {"content-type": "application/json"}}


def test_a_repeated_post_is_answered_and_not_done_again(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        headers = {"idempotency-key": "once"}
        body = {"url": "https://shop.example.com/h"}

        first = await relay.ask("POST", "/v1/subscriptions", body, key=key, headers=headers)
        second = await relay.ask("POST", "/v1/subscriptions", body, key=key, headers=headers)
        other = await relay.ask(
            "POST", "/v1/subscriptions", {"url": "https://b.example.com/"}, key=key, headers=headers
        )
        elsewhere = await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key, headers=headers)
        stored = [await relay.db.run("GET", name) async for name in relay.db.client.scan_iter(match="*:idem:*")]

        assert second.content == first.content
        assert second.headers["idempotency-replayed"] == "true"
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert elsewhere.status_code == 201
        assert not any(first.json()["secret"].encode() in answer for answer in stored)

    driven(store_url, test)


def test_an_idempotency_key_is_its_callers_own(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        second = (await relay.ask("POST", f"/v1/retailers/{retailer_id}/keys", {}, key=ADMIN)).json()["key"]
        headers = {"idempotency-key": "once"}
        body = {"url": "https://shop.example.com/h"}
        await relay.ask("POST", "/v1/subscriptions", body, key=key, headers=headers)

        answer = await relay.ask("POST", "/v1/subscriptions", body, key=second, headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (409, "duplicate_url")

    driven(store_url, test)


def test_a_running_request_holds_its_key_and_a_failed_one_frees_it(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        key_id = (await relay.deps.retailers.authenticate(key)).key_id
        body = {"order_id": "o-1"}
        raw = msgspec.json.encode(body)
        await relay.deps.idempotency.begin(key_id, "POST", "/v1/orders", "k", raw)

        running = await relay.ask("POST", "/v1/orders", body, key=key, headers={"idempotency-key": "k"})
        await relay.deps.idempotency.forget(key_id, "POST", "/v1/orders", "k")
        after = await relay.ask("POST", "/v1/orders", body, key=key, headers={"idempotency-key": "k"})

        assert (running.status_code, running.json()["code"]) == (409, "request_in_progress")
        assert after.status_code == 201

    driven(store_url, test)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/orders?after=nonsense",
        "/v1/events?after=" + str(cursors.encode("order", "1/o")),
        "/v1/orders?after=" + str(cursors.encode("order", "²/o")),
        "/v1/events?after=" + str(cursors.encode("event", f"{2**64}-0")),
        "/v1/events?after=" + str(cursors.encode("event", "1-" + "9" * 30)),
        "/v1/orders?after=" + str(cursors.encode("order", "9" * 5000 + "/o")),
        "/v1/subscriptions?after=" + str(cursors.encode("subscription", "sub_gone")),
    ],
    ids=lambda path: path[:50],
)
def test_altered_cursors(store_url: str, path: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answer = await relay.ask("GET", path, key=key)

        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")

    driven(store_url, test)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1e1", "²", "9" * 5000])
def test_limits_that_are_refused(store_url: str, limit: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answer = await relay.ask("GET", "/v1/orders", key=key, params={"limit": limit})

        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "limit")

    driven(store_url, test)


def test_request_ids_go_round(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        given = await relay.ask("GET", "/v1/orders", headers={"x-request-id": "abc-1"})
        forged = await relay.ask("GET", "/v1/orders", headers={"x-request-id": "a b\x7f"})

        assert given.headers["x-request-id"] == given.json()["request_id"] == "abc-1"
        assert forged.headers["x-request-id"].startswith("req_")

    driven(store_url, test)


def test_unknown_paths_and_methods_are_problems(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        missing = await relay.ask("GET", "/v1/nothing")
        method = await relay.ask("PUT", "/v1/orders")

        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
        assert method.headers["allow"] == "GET, HEAD, POST"

    driven(store_url, test)


def test_without_a_store_the_api_says_so_and_stays_ready(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        ready = await relay.client.get("/readyz")

        async def away(*_: object) -> None:
            raise StoreUnavailable("secret host is down")

        monkeypatch.setattr(type(relay.db), "run", away)
        answer = await relay.ask("GET", "/v1/orders", key=key)
        still = await relay.client.get("/readyz")

        assert (ready.status_code, still.status_code) == (200, 200)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "secret host" not in answer.text

    driven(store_url, test)


def test_probes_metrics_and_documents(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        metrics = await relay.client.get("/metrics")
        document = (await relay.client.get("/openapi.json")).json()
        types = (await relay.ask("GET", "/v1/event-types", key=key)).json()["data"]

        assert (await relay.client.get("/livez")).status_code == 200
        assert 'relay_http_requests_total{method="POST",route="/v1/retailers",status_class="2xx"}' in metrics.text
        assert document["openapi"] == "3.1.0"
        assert set(document["webhooks"]) == {kind["name"] for kind in types}

    driven(store_url, test)
