"""The receiver of docs/receiving.md, taken from the page and run against real deliveries."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.model.retries import Schedule
from tests.pumps.test_delivering import change, history, run
from tests.support.endpoint import LIMITS
from tests.support.rig import eventually, open_rig

PAGE = Path(__file__).parents[2] / "docs" / "receiving.md"


def inbox(secret: str, handle: Any) -> Any:
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "class Inbox" in code]
    assert len(code.splitlines()) < 45
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    return names["Inbox"](secret, handle)


def test_what_the_receiver_lost_shows_after_a_heartbeat_and_comes_again(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe(heartbeat_seconds=1)
            handled: list[str] = []
            box = inbox(rig.receiver.secrets[0].text, lambda event: handled.append(event["id"]))
            lose = {3, 7}

            def take(headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
                if int(headers.get("relay-sequence", 0)) in lose:
                    return 200, b""  # taken, and lost on the receiver's side
                return box.take(headers, body), b""

            rig.receiver.take = take  # type: ignore[method-assign]
            for number in range(3):
                await history(rig, f"o-{number}", 3)
            rig.deliver(Schedule((0.05,)), LIMITS)

            await eventually(lambda: box.missing == [3, 7])
            lose.clear()
            recoveries = rig.stores.recoveries
            await recoveries.begin(rig.retailer_id, subscription.id, since="0-0", until=None, only="all")
            await eventually(lambda: box.numbers >= set(range(1, 10)))
            await change(rig, "o-1", "one more")
            await eventually(lambda: 10 in box.numbers and box.missing == [])

            assert len(handled) == len(set(handled)) == 10

    run(main())


def test_snapshots_cover_what_they_stand_for(redis_url: str) -> None:
    async def main() -> None:
        async with open_rig(redis_url) as rig:
            subscription = await rig.subscribe(heartbeat_seconds=1, enabled=False)
            box = inbox(rig.receiver.secrets[0].text, lambda event: None)
            rig.receiver.take = lambda headers, body: (box.take(headers, body), b"")  # type: ignore[method-assign]
            for number in range(3):
                await history(rig, f"o-{number}", 4)
            known = await rig.subscriptions.get(rig.retailer_id, subscription.id)
            after = replace(known.configuration, enabled=True)
            await rig.subscriptions.amend(rig.retailer_id, known, after, backlog="latest")
            rig.deliver(Schedule((0.05,)), LIMITS)

            await eventually(lambda: box.numbers >= set(range(1, 13)))
            assert len(box.ids) == 3
            assert box.missing == []

    run(main())


def test_a_forgery_is_refused() -> None:
    box = inbox("whsec_" + "QUFB" * 11, lambda event: None)
    headers = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,é v1a,x"}

    assert box.take(headers, b"{}") == 401
