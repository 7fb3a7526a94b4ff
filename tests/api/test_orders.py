import pytest

from relay.errors import UpstreamRefused
from relay.store import keys
from tests.api.support import ADMIN, Relay, driven


def test_registering_tracks_once(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        body = {"order_id": "o-1", "user_id": "u", "access_token": {"token": "t0k"}, "metadata": {"shop": "7"}}

        first = await relay.ask("POST", "/v1/orders", body, key=key)
        second = await relay.ask("POST", "/v1/orders", {**body, "metadata": {"shop": "8"}}, key=key)

        assert (first.status_code, second.status_code) == (201, 200)
        assert second.json()["metadata"] == {"shop": "7"}
        assert first.json()["tracking"] == "active"
        assert first.json()["order"] is None
        assert first.json()["next_due_at"].endswith("Z")
        assert "t0k" not in first.text

    driven(store_url, test)


def test_bulk_answers_for_each_and_lists_page_through_them(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-3"}, key=key)
        orders = [{"order_id": f"o-{n}"} for n in range(7)]

        answer = await relay.ask("POST", "/v1/orders/bulk", {"orders": orders}, key=key)
        seen: list[str] = []
        query: str | None = "?limit=3"
        while query is not None:
            page = (await relay.ask("GET", f"/v1/orders{query}", key=key)).json()
            seen += [order["order_id"] for order in page["data"]]
            query = None if page["next"] is None else f"?limit=3&after={page['next']}"

        statuses = [one["status"] for one in answer.json()["data"]]
        assert statuses == ["created"] * 3 + ["exists"] + ["created"] * 3
        assert sorted(seen) == sorted(order["order_id"] for order in orders)

    driven(store_url, test)


def test_one_bad_registration_is_pointed_at(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answer = await relay.ask("POST", "/v1/orders/bulk", {"orders": [{"order_id": "a"}, {"order_id": ""}]}, key=key)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/orders/1/order_id"

    driven(store_url, test)


@pytest.mark.parametrize("order_id", ["", "a b", ".", "..", "a\n", "x" * 256, 7, None])
def test_order_ids_that_are_refused(store_url: str, order_id: object) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()

        answer = await relay.ask("POST", "/v1/orders", {"order_id": order_id}, key=key)

        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/order_id"

    driven(store_url, test)


def test_stopping_ends_with_an_event_and_purging_erases(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key)

        stopped = await relay.ask("DELETE", "/v1/orders/o-1", key=key)
        state = (await relay.ask("GET", "/v1/orders/o-1", key=key)).json()
        events = (await relay.ask("GET", "/v1/events?order_id=o-1", key=key)).json()["data"]
        again = await relay.ask("POST", "/v1/orders/o-1/refresh", key=key)
        purged = await relay.ask("DELETE", "/v1/orders/o-1?purge=true", key=key)
        gone = await relay.ask("GET", "/v1/orders/o-1", key=key)

        assert stopped.status_code == 202
        assert state["tracking"] == "ended"
        assert [event["type"] for event in events] == ["order.tracking_ended"]
        assert (again.status_code, again.json()["code"]) == (409, "tracking_ended")
        assert (purged.status_code, gone.status_code) == (202, 404)

    driven(store_url, test)


def test_patch_replaces_metadata(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1", "metadata": {"a": "1"}}, key=key)

        body = {"metadata": {"b": "2"}, "access_token": {"token": "n", "expires_at": "2099-01-01T00:00:00Z"}}
        answer = await relay.ask("PATCH", "/v1/orders/o-1", body, key=key)
        old = {"access_token": {"token": "n", "expires_at": "2001-01-01T00:00:00Z"}}
        expired = await relay.ask("PATCH", "/v1/orders/o-1", old, key=key)

        assert answer.json()["metadata"] == {"b": "2"}
        assert expired.json()["code"] == "token_expired"

    driven(store_url, test)


def test_decisions_and_messages_are_passed_on(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key)
        path = "/v1/orders/o-1/items/i-9/replacement"

        decided = await relay.ask("PUT", path, {"status": "APPROVED"}, key=key)
        said = await relay.ask("POST", "/v1/orders/o-1/messages", {"body": "x" * 1000}, key=key)
        too_long = await relay.ask("POST", "/v1/orders/o-1/messages", {"body": "x" * 1001}, key=key)
        maybe = await relay.ask("PUT", path, {"status": "MAYBE"}, key=key)

        assert decided.json() == {"id": "i-9", "replacement_status": "APPROVED"}
        assert said.status_code == 200
        assert (too_long.status_code, maybe.status_code) == (422, 422)
        assert [call[0] for call in relay.actions.passed] == [retailer_id, retailer_id]

    driven(store_url, test)


def test_decisions_are_checked_and_say_who_decided(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key)
        path = "/v1/orders/o-1/items/i-9/replacement"
        good = {"status": "REJECTED", "alternative_item": {"upc": "012", "count": 2.0}}
        bad: list[dict[str, object]] = [
            {"status": "APPROVED", "alternative_item": {"upc": "012", "count": 2}},
            {"status": "REJECTED", "alternative_item": {"upc": "012"}},
            {"status": "REJECTED", "alternative_item": {"upc": "012", "rrc": "1", "count": 2}},
            {"status": "REJECTED", "alternative_item": {"upc": "012", "count": 0}},
        ]

        assert (await relay.ask("PUT", path, good, key=key)).status_code == 200
        assert relay.actions.passed[-1][3:] == ("REJECTED", "upc", "count")
        assert {(await relay.ask("PUT", path, one, key=key)).status_code for one in bad} == {422}
        blank = await relay.ask("POST", "/v1/orders/o-1/messages", {"body": " \n"}, key=key)
        assert (blank.status_code, blank.json()["code"]) == (422, "blank")
        (cause,) = relay.actions.causes
        assert cause.key_id.startswith("key_")
        assert cause.request_id.startswith("req_")
        log = (await relay.ask("GET", "/v1/audit-log", key=key)).json()["data"]
        assert "replacement.decided" in {row["action"] for row in log}

    driven(store_url, test)


def test_polling_tells_whether_the_budget_is_enough_before_anyone_notices(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        retailer_id, key = await relay.retailer()
        quiet = (await relay.ask("GET", "/v1/polling", key=key)).json()
        await relay.deps.arms.set_rate("shared", 1.0)
        orders = [{"order_id": f"o-{number}"} for number in range(200)]
        await relay.ask("POST", "/v1/orders/bulk", {"orders": orders}, key=key)
        much = (await relay.ask("GET", "/v1/polling", key=key)).json()
        operators = await relay.ask("GET", f"/v1/retailers/{retailer_id}/polling", key=ADMIN)
        await relay.deps.arms.throttle("shared", 60.0)
        await relay.db.run("HSET", keys.budget("shared"), "mint", 2**45, "why", "credential_refused")
        refused = (await relay.ask("GET", "/v1/polling", key=key)).json()

        assert quiet == {
            "budget": None,
            "budget_needed": 0,
            "budget_sufficient": True,
            "expected_delay_seconds": 0,
            "orders": 0,
            "stages": {},
            "paused_until": None,
            "credential": "accepted",
        }
        assert (much["budget"], much["orders"], much["budget_sufficient"]) == (1, 200, False)
        assert much["budget_needed"] == 5  # 600 arms of unknown stage, each at least every two minutes
        assert much["expected_delay_seconds"] == 300
        assert operators.json() == much
        assert refused["paused_until"] is not None
        assert refused["credential"] == "credential_refused"

    driven(store_url, test)


@pytest.mark.parametrize(("theirs", "ours"), [(400, 400), (401, 409), (404, 404), (500, 502), (None, 502)])
def test_refusals_of_upstream_are_told_apart(store_url: str, theirs: int | None, ours: int) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        relay.actions.refusal = UpstreamRefused("no", status=theirs)

        answer = await relay.ask("POST", "/v1/orders/o-1/messages", {"body": "hi"}, key=key)

        assert answer.status_code == ours

    driven(store_url, test)


def test_another_retailers_order_is_missing(store_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        _, foreign = await relay.retailer()
        await relay.ask("POST", "/v1/orders", {"order_id": "o-1"}, key=key)

        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/refresh"),
            ("GET", "/items"),
            ("GET", "/messages"),
        ]:
            theirs = await relay.ask(method, f"/v1/orders/o-1{path}", key=foreign)
            missing = await relay.ask(method, f"/v1/orders/o-2{path}", key=foreign)

            assert theirs.status_code == missing.status_code == 404
            assert theirs.json()["detail"] == missing.json()["detail"]
        assert (await relay.ask("GET", "/v1/orders", key=foreign)).json()["data"] == []
        assert (await relay.ask("GET", "/v1/orders/o-1", key=ADMIN)).status_code == 403

    driven(store_url, test)
