"""The guard stands in the worker's way out and in the API's way in: these fail when it is taken away."""

import asyncio
from typing import Any

import pytest

from relay.guard import GuardedEngine
from relay.model.targets import Allow
from relay.settings import Settings
from tests.api.support import Relay, driven
from tests.support.names import Names
from tests.support.rig import Rig, eventually, open_rig
from workers.context import Process, open_process


async def detect(rig: Rig) -> None:
    """Let an order have events, as in real life."""
    await rig.track("o-1")
    rig.poll()
    await eventually(rig.events)
    await rig.stop()


async def until(process: Process, condition: Any) -> None:
    """Run the process's own deliver pump until the condition holds."""
    stopping = False
    pump = asyncio.create_task(process.deliver_pump().run(lambda: stopping))
    try:
        await eventually(condition)
    finally:
        stopping = True
        await pump


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433"])
def test_a_row_that_names_the_inside_is_never_sent_to(redis_url: str, master_keys: str, host: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url, master_keys=master_keys) as rig:
            settings = Settings(
                redis_url=redis_url, master_keys=master_keys, allow_http_targets=True, retry_schedule=(0.05,), lease=2
            )
            # Stored past the API, as a row of an earlier release would be.
            url = rig.receiver_url.replace("127.0.0.1", host) + "/hook"
            made = await rig.subscribe(url=url)
            await detect(rig)

            async def told() -> Any:
                return (await rig.subscriptions.get(rig.retailer_id, made.id)).last_error

            async with open_process(settings) as process:
                await until(process, told)
            error = await told()
            assert (error["outcome"], error["status"]) == ("blocked", None)
            assert "127.0.0.1" not in error["detail"]
            assert (rig.receipts, rig.receiver.counters.refused) == ([], 0)

            if host == "2130706433":
                return
            exempt = Settings(
                redis_url=redis_url,
                master_keys=master_keys,
                allow_http_targets=True,
                target_allow=("127.0.0.0/8", "::1"),
                retry_schedule=(0.05,),
                lease=2,
            )
            async with open_process(exempt) as process:
                await until(process, lambda: len(rig.receipts) >= 1)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_worker_and_the_proxy_mode_go_through_the_guard(redis_url: str, master_keys: str) -> None:
    async def main() -> None:
        for proxy in (None, "http://127.0.0.1:9"):
            settings = Settings(
                redis_url=redis_url,
                master_keys=master_keys,
                allow_http_targets=True,
                target_allow=("127.0.0.1/32",),
                upstream_url="https://upstream.example.com",
                egress_proxy=proxy,
                delivery_timeout=1.0,
            )
            async with open_process(settings) as process:
                assert isinstance(process.delivery_engine, GuardedEngine)
                for url in ("http://127.0.0.2/", "http://[::ffff:127.0.0.1]/", "https://upstream.example.com/"):
                    answer = await process.delivery_engine.send("POST", url, {}, b"{}", limit=1)
                    assert answer.failure == "blocked", (proxy, url, answer)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answers", "status", "code"),
    [
        ([["93.184.216.34", "2606:4700:4700::1111"]], 201, None),
        ([["93.184.216.34", "10.0.0.1"]], 422, "url_not_public"),
        ([["169.254.169.254"]], 422, "url_not_public"),
        ([["::ffff:93.184.216.34"]], 422, "url_not_public"),
        ([["168.63.129.16"]], 422, "url_not_public"),
        ([[]], 201, None),
        (None, 201, None),  # NXDOMAIN
    ],
    ids=["public", "mixed", "metadata", "mapped", "a cloud's", "no address", "unknown"],
)
def test_registration_looks_at_what_the_host_resolves_to(
    redis_url: str, answers: list[list[str]] | None, status: int, code: str | None
) -> None:
    names = Names({"new.example.com": answers} if answers is not None else {})

    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        made = await relay.ask("POST", "/v1/subscriptions", {"url": "https://new.example.com/h"}, key=key)
        first = len(names.asked)
        old = await relay.ask("POST", "/v1/subscriptions", {"url": "https://old.example.com/h"}, key=key)
        path = f"/v1/subscriptions/{old.json()['id']}"
        asked = len(names.asked)
        described = await relay.ask("PATCH", path, {"description": "x"}, key=key)
        untouched = len(names.asked)
        moved = await relay.ask("PATCH", path, {"url": "https://new.example.com/i"}, key=key)

        assert (made.status_code, moved.status_code) == (status, 200 if status == 201 else status)
        assert (first, untouched - asked, len(names.asked) - untouched) == (1, 0, 1)
        assert described.status_code == 200
        for refused in (made, moved) if code is not None else ():
            assert refused.json()["code"] == code
            assert [(e["pointer"], e["code"]) for e in refused.json()["errors"]] == [("/url", code)]
            assert not any(text in refused.text for text in ("10.0.0.1", "169.254", "168.63"))

    driven(redis_url, test, resolver=names)


def test_registration_refuses_our_own_hosts(redis_url: str) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        made = await relay.ask("POST", "/v1/subscriptions", {"url": "https://Relay.example.com./v1/x"}, key=key)

        assert (made.status_code, made.json()["code"]) == (422, "url_not_allowed")

    driven(redis_url, test, allow=Allow.parse([], http=False, forbidden_hosts=["relay.example.com"]))


@pytest.mark.parametrize("url", [None, 1, [], {}, True, ""], ids=repr)
def test_a_url_is_a_string_with_something_in_it(redis_url: str, url: Any) -> None:
    async def test(relay: Relay) -> None:
        _, key = await relay.retailer()
        made = await relay.ask("POST", "/v1/subscriptions", {"url": url}, key=key)

        assert made.status_code == 422
        assert [error["pointer"] for error in made.json()["errors"]] == ["/url"]

    driven(redis_url, test)
