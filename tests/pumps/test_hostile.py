"""Hostile receivers through the pump: each harms its own deliveries only, is told apart, and the books balance."""

import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from relay.clock import Clock
from relay.guard import Guard, GuardedEngine
from relay.model.orders import SubscriptionId
from relay.model.retries import Schedule
from relay.model.targets import Allow
from tests.pumps.test_delivering import change, run
from tests.sender.test_hostile_answers import CASES
from tests.support.certificates import Authority
from tests.support.endpoint import LIMITS, Endpoint, broken
from tests.support.names import Names
from tests.support.peers import answering, peer
from tests.support.rig import Rig, eventually, open_rig

#: Long enough for the quick ones on a busy machine; the silent ones are waited for twice.
DEADLINE = 2.0
CHOSEN = (
    *("silence after accept", "headers at a byte a time", "headers without end", "a thousand headers"),
    *(
        "endless body",
        "10 GB announced",
        "a bomb",
        "junk",
        "a reset",
        "307 to http://169.254.169.254/latest/meta-data/",
    ),
)
#: As a peer says it that closes: kept, the connection could be used again the moment it goes.
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"


async def _tries(rig: Rig, subscription_id: str) -> list[tuple[str, int | None]]:
    """Kinds and statuses of all attempts of a subscription."""
    positions = [entry.position for entry in await rig.log.after(rig.retailer_id, "0-0", 100)]
    found = await rig.stores.attempts.of(subscription_id, positions)
    return [(one.outcome, one.status) for tries in found for one in tries]


def test_every_kind_of_hostility_at_once_harms_only_itself(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority.make(tmp_path)
        names = {f"{name}.example.com": [["127.0.0.2"]] for name in ("expired", "own", "other")}
        names["flip.example.com"] = [["127.0.0.2"], ["10.0.0.1"]]
        names["mixed.example.com"] = [["127.0.0.2", "10.0.0.1"]]
        certificates = {
            "expired": authority.context("expired.example.com", starts=-5),
            "own": authority.context("own.example.com", own=True),
            "other": authority.context("someone.example.com"),
        }
        expected: dict[SubscriptionId, set[tuple[str, int | None]]] = {}
        async with open_rig(redis_url) as rig, AsyncExitStack() as stack:
            # Names with a port of their own have to be exempt by name; the others only by what they resolve to.
            allow = Allow.parse(["127.0.0.0/8", *(f"{name}.example.com" for name in certificates)], http=True)
            engine = GuardedEngine(Guard(allow, Names(names)), deadline=DEADLINE, roots=[authority.pem])
            rig.engine, plain = engine, rig.engine  # type: ignore[assignment]
            stack.push_async_callback(plain.aclose)

            async def hostile(url: str, *outcomes: tuple[str, int | None]) -> None:
                made = await rig.subscribe(url=url)
                expected[made.id] = set(outcomes)

            for case in (case for case in CASES if case.name in CHOSEN):
                port = await stack.enter_async_context(peer(case.handle))
                await hostile(f"http://127.0.0.1:{port}/h", (case.kind, case.status))
            for name, context in certificates.items():
                port = await stack.enter_async_context(peer(answering(OK), context, host="127.0.0.2"))
                await hostile(f"https://{name}.example.com:{port}/h", ("tls", None))
            port = await stack.enter_async_context(peer(answering(OK), host="127.0.0.2"))
            await hostile(f"http://flip.example.com:{port}/h", ("answered", 200), ("blocked", None))
            await hostile(f"http://mixed.example.com:{port}/h", ("blocked", None))
            await hostile("http://nowhere.example.com/h", ("dns", None))
            healthy = await rig.subscribe()
            assert len(expected) == len(CHOSEN) + 6

            rig.deliver(Schedule((0.1, 3_600)), LIMITS)
            began = time.monotonic()
            for number in range(4):
                await change(rig, f"o-{number}", "one")
                await change(rig, f"o-{number}", "two")
            await eventually(lambda: len(rig.receipts) == 8, within=5)
            assert time.monotonic() - began < 5
            for subscription_id, outcomes in expected.items():
                await eventually(lambda: _tried(rig, subscription_id, outcomes))  # noqa: B023
                assert set(await _tries(rig, subscription_id)) == outcomes, subscription_id

            await rig.stop()
            accounts = {account.subscription_id: account for account in await rig.accounts()}
            assert accounts[healthy.id].delivered == 8
            assert all(accounts[one].dead == 0 and accounts[one].waiting >= 7 for one in expected)
            assert await rig.balanced()

    run(main())


async def _tried(rig: Rig, subscription_id: str, outcomes: set[tuple[str, int | None]]) -> bool:
    return set(await _tries(rig, subscription_id)) >= outcomes


@pytest.mark.parametrize("step_s", [-600, 600])
def test_a_clock_that_is_stepped_by_minutes_changes_nothing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """Everything falls due, and is signed, by Redis's time; this machine's may jump as it likes."""

    async def main() -> None:
        endpoint = Endpoint(broken)
        async with open_rig(redis_url, endpoint) as rig:
            await rig.subscribe(url=f"{rig.upstream_url}/hook")
            rig.deliver(Schedule((0.3, 3_600)), LIMITS)
            real = time.time
            await change(rig, "o-1", "before")
            await eventually(lambda: len(endpoint.asked) == 1)
            monkeypatch.setattr(time, "time", lambda: real() + step_s)
            await eventually(lambda: len(endpoint.asked) == 2)
            await change(rig, "o-2", "after")
            await eventually(lambda: len(endpoint.asked) == 3)
            await rig.stop()

            assert endpoint.asked[1] - endpoint.asked[0] >= 0.2
            for headers in endpoint.headers:
                assert abs(int(headers["webhook-timestamp"]) - real()) < 30
            assert len({headers["webhook-id"] for headers in endpoint.headers}) == 2
            assert await rig.balanced()

    run(main())


def test_the_clock_is_redis_s_from_the_first_anchor_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.anchor(5_000_000, time.monotonic())
    monkeypatch.setattr(time, "time", lambda: 0.0)

    assert 5_000_000 <= clock.now_ms() < 5_001_000


def test_an_answer_that_a_stall_held_up_does_not_set_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    clock.anchor(5_000_000, now)
    now += 0.4
    clock.anchor(5_000_150, now - 0.3)  # Redis said so at some time in the last 300 ms
    assert clock.now_ms() in (5_000_400, 5_000_401)
    now += 0.1
    clock.anchor(5_000_200, now - 0.001)  # a replica took over, whose clock is behind: believed at once
    assert clock.now_ms() in (5_000_200, 5_000_201, 5_000_202)
