"""Test sends and challenges: the real path, marked, limited, and counted nowhere."""

from typing import Any

import jsonschema
import msgspec
import pytest
from standardwebhooks import Webhook

from relay.model.catalogue import EVENT_TYPES
from relay.store import keys
from relay.store.retailers import Retailers
from tests.pumps.test_delivering import change, run
from tests.support.endpoint import Endpoint, broken
from tests.support.rig import eventually
from tests.support.shop import Shop, open_shop


async def _subscribed(shop: Shop, path: str = "hook", **fields: Any) -> dict[str, Any]:
    made = await shop.ask("POST", "/v1/subscriptions", {"url": f"{shop.rig.upstream_url}/{path}", **fields})
    assert made.status_code == 201, made.text
    one: dict[str, Any] = made.json()
    return one


async def _unpause(shop: Shop) -> None:
    for name in await shop.rig.admin.run("KEYS", f"{keys.PREFIX}pause:*"):
        await shop.rig.db.run("DEL", name)


@pytest.mark.parametrize("payload", ["full", "thin"])
def test_a_sample_of_every_type_arrives_signed_and_of_its_schema(redis_url: str, payload: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(lambda body: (204, {}))
        async with open_shop(redis_url, endpoint) as shop:
            one = await _subscribed(shop, payload=payload)
            for kind in EVENT_TYPES.values():
                await _unpause(shop)
                answer = await shop.ask("POST", f"/v1/subscriptions/{one['id']}/test", {"event_type": kind.name})

                told = answer.json()
                assert (answer.status_code, told["event_type"]) == (200, kind.name)
                assert (told["attempt"]["status_code"], told["attempt"]["error"]) == (204, None)
                body, headers = endpoint.bodies[-1], endpoint.headers[-1]
                assert Webhook(one["secret"]).verify(body, headers)
                assert (headers["relay-test"], headers["webhook-id"]) == ("true", told["event_id"])
                assert "relay-sequence" not in headers
                if payload == "full":
                    jsonschema.validate(msgspec.json.decode(body), kind.schema)
                else:
                    assert not {"order", "item", "message", "items"} & set(msgspec.json.decode(body)["data"])

    run(main())


def test_a_test_counts_nowhere(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_shop(redis_url, endpoint) as shop:
            one = await _subscribed(shop)
            before = await shop.got(f"/v1/subscriptions/{one['id']}")
            for _ in range(8):
                await _unpause(shop)
                answer = await shop.ask("POST", f"/v1/subscriptions/{one['id']}/test", {})
                assert answer.json()["attempt"]["status_code"] == 500

            assert await shop.got(f"/v1/subscriptions/{one['id']}") == before
            assert await shop.got(f"/v1/subscriptions/{one['id']}/deliveries") == {"data": [], "next": None}
            assert (await shop.got("/v1/events"))["data"] == []
            assert await shop.rig.balanced()

    run(main())


def test_one_in_twenty_seconds_for_a_subscription_and_for_a_host_over_all_retailers(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Endpoint(lambda body: (200, {}))
        async with open_shop(redis_url, endpoint) as shop:
            one, neighbour = await _subscribed(shop), await _subscribed(shop, "other")
            stranger = await Retailers(shop.rig.db, shop.rig.vault).create("B", upstream=None, budget=None, limits={})
            assert stranger.id != shop.rig.retailer_id
            path = f"/v1/subscriptions/{one['id']}/test"

            first = await shop.ask("POST", path, {})
            again = await shop.ask("POST", path, {})
            same_host = await shop.ask("POST", f"/v1/subscriptions/{neighbour['id']}/test", {})
            challenge = await shop.ask("POST", f"/v1/subscriptions/{one['id']}/verify", {})
            unknown = await shop.ask("POST", path, {"event_type": "order.imagined"})

            assert [a.status_code for a in (first, again, same_host, challenge, unknown)] == [200, 429, 429, 429, 422]
            assert 1 <= int(again.headers["retry-after"]) <= 20
            assert unknown.json()["errors"][0]["pointer"] == "/event_type"
            assert len(endpoint.bodies) == 1
            assert all(
                str(shop.rig.retailer_id) not in raw.decode() for raw in await shop.rig.admin.run("KEYS", "*pause*")
            )

    run(main())


def test_the_guard_stands_before_a_test_too(redis_url: str) -> None:
    async def main() -> None:
        async with open_shop(redis_url) as shop:
            one = await _subscribed(shop)
            # As if its name had answered with a public address when it was registered.
            await shop.rig.db.run("HSET", keys.subscription(one["id"]), "url", "http://10.0.0.1/internal")

            answer = await shop.ask("POST", f"/v1/subscriptions/{one['id']}/test", {})

            attempt = answer.json()["attempt"]
            assert (attempt["outcome"], attempt["status_code"]) == ("blocked", None)

    run(main())


class Challenged:
    """An endpoint that answers a challenge as its owner would, or with something else."""

    def __init__(self) -> None:
        self.answers = True
        self.types: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        event = msgspec.json.decode((await receive())["body"])
        self.types.append(event["type"])
        text = b"ok"
        if event["type"] == "webhook.challenge" and self.answers:
            text = msgspec.json.encode({"challenge": event["data"]["challenge"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text})


def test_where_endpoints_are_verified_no_event_goes_to_one_that_did_not_answer(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Challenged()
        async with open_shop(redis_url, endpoint) as shop:
            rig = shop.rig
            await Retailers(rig.db, rig.vault).amend(
                rig.retailer_id, name=None, upstream=None, budget=None, limits=None, verify_endpoints=True
            )
            one = await _subscribed(shop)
            path = f"/v1/subscriptions/{one['id']}"
            assert (one["enabled"], one["disabled_reason"], one["verified"]) == (False, "unverified", False)
            enabled = await shop.ask("POST", f"{path}/enable", {})
            assert (enabled.status_code, enabled.json()["code"]) == (409, "endpoint_not_verified")
            rig.deliver()
            await change(rig, "o-1", "picking")

            endpoint.answers = False
            failed = (await shop.ask("POST", f"{path}/verify", {})).json()
            assert (failed["verified"], failed["subscription"]["enabled"]) == (False, False)
            assert failed["attempt"]["error"]
            endpoint.answers = True
            await _unpause(shop)
            passed = (await shop.ask("POST", f"{path}/verify", {})).json()
            assert (passed["verified"], passed["subscription"]["enabled"]) == (True, True)
            await eventually(lambda: "order.tracking_started" in endpoint.types)
            assert endpoint.types == ["webhook.challenge", "webhook.challenge", "order.tracking_started"]

            moved = (await shop.ask("PATCH", path, {"url": f"{rig.upstream_url}/elsewhere"})).json()
            assert (moved["enabled"], moved["disabled_reason"], moved["verified"]) == (False, "unverified", False)
            again = await shop.ask("PATCH", path, {"enabled": True})
            assert again.json()["code"] == "endpoint_not_verified"
            await change(rig, "o-1", "later")
            await _unpause(shop)
            assert (await shop.ask("POST", f"{path}/verify", {})).json()["verified"]
            await eventually(rig.idle)
            assert endpoint.types[-1] == "order.status_changed"
            assert await eventually(rig.balanced)

    run(main())


def test_elsewhere_a_challenge_only_marks_the_subscription(redis_url: str) -> None:
    async def main() -> None:
        endpoint = Challenged()
        async with open_shop(redis_url, endpoint) as shop:
            one = await _subscribed(shop, enabled=False)

            answer = (await shop.ask("POST", f"/v1/subscriptions/{one['id']}/verify", {})).json()

            assert answer["verified"]
            shown = answer["subscription"]
            assert (shown["verified"], shown["enabled"], shown["disabled_reason"]) == (True, False, "by_retailer")

    run(main())
