import msgspec
import pytest

from relay.api import cursors
from relay.model.orders import RetailerId
from relay.store import keys
from tests.api.support import Relay, driven

URL = "https://shop.example.com/hooks"


def test_the_secret_is_shown_once_and_nothing_is_stored_in_the_clear(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        body = {"url": URL, "headers": {"Authorization": "Bearer s3cr3t"}}

        made = await relay.ask("POST", "/v1/subscriptions", body, key=key)
        one = made.json()
        got = await relay.ask("GET", f"/v1/subscriptions/{one['id']}", key=key)
        stored = b"".join(await relay.db.run("HVALS", keys.subscription(one["id"])))

        assert made.status_code == 201
        assert one["secret"].startswith("whsec_")
        assert made.headers["cache-control"] == "no-store"
        assert "secret" not in got.json()
        assert got.json()["headers"] == {"Authorization": "(hidden)"}
        assert b"s3cr3t" not in stored
        assert one["secret"].encode() not in stored

    driven(store_url, test)


def test_creating_makes_it_live_and_deleting_leaves_nothing(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        one = (await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)).json()["id"]
        live = await relay.db.run("SISMEMBER", keys.live(retailer_id), one)
        await relay.db.run("RPUSH", keys.lane(one, "o-1"), "1-0/1/1/1")
        await relay.db.run("ZADD", keys.lanes(one), 1, "o-1")

        deleted = await relay.ask("DELETE", f"/v1/subscriptions/{one}", key=key)
        left = [name async for name in relay.db.client.scan_iter(match=f"*{one}*")]
        again = await relay.ask("DELETE", f"/v1/subscriptions/{one}", key=key)

        assert live == 1
        assert (deleted.status_code, again.status_code) == (204, 404)
        assert left == []
        assert await relay.db.run("ZCARD", keys.READY) == 0
        assert await relay.db.run("SCARD", keys.live(retailer_id)) == 0

    driven(store_url, test)


def test_disabling_and_enabling(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        one = (await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)).json()["id"]
        path = f"/v1/subscriptions/{one}"

        off = (await relay.ask("PATCH", path, {"enabled": False}, key=key)).json()
        live_off = await relay.db.run("SCARD", keys.live(retailer_id))
        on = (await relay.ask("PATCH", path, {"enabled": True}, key=key)).json()
        live_on = await relay.db.run("SCARD", keys.live(retailer_id))

        assert (off["enabled"], off["disabled_reason"], live_off) == (False, "by_retailer", 0)
        assert (on["enabled"], on["disabled_reason"], live_on) == (True, None, 1)
        assert await relay.db.run("ZSCORE", keys.READY, one) is not None

    driven(store_url, test)


def test_an_owner_is_told_of_every_change(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        one = (await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)).json()["id"]
        await relay.db.run("HSET", keys.subscription(one), "owner", "pump-1")
        await relay.db.run("ZADD", keys.READY, 2**50, one)

        await relay.ask("PATCH", f"/v1/subscriptions/{one}", {"enabled": False}, key=key)

        assert await relay.db.run("LLEN", keys.bell("pump-1")) == 1
        assert await relay.db.run("PTTL", keys.bell("pump-1")) > 0
        assert await relay.db.run("HGET", keys.subscription(one), "rev") == b"2"

    driven(store_url, test)


def test_new_filters_hold_from_the_end_of_the_log(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        one = (await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)).json()["id"]
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key)
        await relay.ask("DELETE", "/v1/orders/o-1", key=key)
        last = await relay.deps.log.last_position(RetailerId(retailer_id))

        body = {"event_types": ["order.item_*"]}
        changed = await relay.ask("PATCH", f"/v1/subscriptions/{one}", body, key=key)
        epochs = msgspec.json.decode(await relay.db.run("HGET", keys.subscription(one), "filters"))

        assert changed.json()["event_types"] == ["order.item_*"]
        assert epochs == [["0-0", ["order.*"]], [last, ["order.item_*"]]]

    driven(store_url, test)


def test_one_url_once_also_by_way_of_a_change(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)
        other = (await relay.ask("POST", "/v1/subscriptions", {"url": f"{URL}/2"}, key=key)).json()["id"]

        again = await relay.ask("POST", "/v1/subscriptions", {"url": "https://SHOP.example.com:443/hooks"}, key=key)
        moved = await relay.ask("PATCH", f"/v1/subscriptions/{other}", {"url": URL}, key=key)
        stayed = await relay.ask("PATCH", f"/v1/subscriptions/{other}", {"url": f"{URL}/2"}, key=key)

        assert (again.status_code, again.json()["code"]) == (409, "duplicate_url")
        assert (moved.status_code, moved.json()["code"]) == (409, "duplicate_url")
        assert stayed.status_code == 200

    driven(store_url, test)


def test_a_retailer_has_a_limit_and_pages_through_all(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        made = []
        for number in range(50):
            answer = await relay.ask("POST", "/v1/subscriptions", {"url": f"{URL}/{number}"}, key=key)
            made.append(answer.json()["id"])

        refused = await relay.ask("POST", "/v1/subscriptions", {"url": f"{URL}/50"}, key=key)
        first = (await relay.ask("GET", "/v1/subscriptions?limit=30", key=key)).json()
        rest = (await relay.ask("GET", f"/v1/subscriptions?limit=30&after={first['next']}", key=key)).json()

        assert (refused.status_code, refused.json()["code"]) == (409, "too_many_subscriptions")
        assert sorted(one["id"] for one in first["data"] + rest["data"]) == sorted(made)
        assert rest["next"] is None

    driven(store_url, test)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("event_types", ["order.nothing"], "unknown_event_type"),
        ("event_types", [], "invalid_value"),
        ("payload", "half", "invalid_value"),
        ("max_in_flight", 0, "invalid_value"),
        ("rate_limit", -1, "invalid_value"),
        ("heartbeat_seconds", 1, "invalid_value"),
        ("secret", "whsec_c2hvcnQ=", None),
        ("secret", "whpk_" + "A" * 44, None),
        ("start", "yesterday", "invalid_cursor"),
        ("start", cursors.encode("event", "9000000000000-0"), "invalid_cursor"),
        ("nonsense", 1, "unknown_field"),
        ("url", "http://shop.example.com/h", "url_not_https"),
    ],
)
def test_what_a_subscription_may_not_say(store_url: str, field: str, value: object, code: str | None) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answer = await relay.ask("POST", "/v1/subscriptions", {"url": URL, field: value}, key=key)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith(f"/{field}")
        assert code is None or answer.json()["code"] == code

    driven(store_url, test)


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "v"} for name in ("Host", "content-length", "Transfer-Encoding", "Expect", "Cookie", "User-Agent")),
        *({name: "v"} for name in ("Proxy-Authorization", "X-Forwarded-For", "webhook-id", "ce-id", "relay-sequence")),
        *({name: "v"} for name in ("Metadata-Flavor", "X-aws-ec2-metadata-token", "X-Amz-Date", "Connection", "Via")),
        *({"X-Shop": value} for value in ("a\r\nb", "a\x00", "é", "x" * 4097)),
        *({name: "v"} for name in ("", "a b", "a:b", "é")),
        {"X-Shop": "1", "x-shop": "2"},
        {f"x-{n}": "v" for n in range(11)},
    ],
    ids=lambda headers: repr(headers)[:30],
)
def test_headers_that_cannot_be_set(store_url: str, headers: dict[str, str]) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answer = await relay.ask("POST", "/v1/subscriptions", {"url": URL, "headers": headers}, key=key)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith("/headers")

    driven(store_url, test)


def test_another_retailers_subscription_is_missing(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        _, foreign = await relay.retailer()
        one = (await relay.ask("POST", "/v1/subscriptions", {"url": URL}, key=key)).json()["id"]

        got = await relay.ask("GET", f"/v1/subscriptions/{one}", key=foreign)
        changed = await relay.ask("PATCH", f"/v1/subscriptions/{one}", {"enabled": False}, key=foreign)
        deleted = await relay.ask("DELETE", f"/v1/subscriptions/{one}", key=foreign)
        missing = await relay.ask("GET", "/v1/subscriptions/sub_none", key=foreign)

        assert [a.status_code for a in (got, changed, deleted, missing)] == [404] * 4
        assert got.json()["detail"] == missing.json()["detail"]
        assert (await relay.ask("GET", f"/v1/subscriptions/{one}", key=key)).json()["enabled"] is True

    driven(store_url, test)
