"""How long a change was on its way here, as a metric: from upstream's own time where it tells one that can be believed,
and as the bound that the interval gives otherwise."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from tests.support.readings import Since
from tests.support.rig import Answer, Answers, Rig, eventually, open_rig

pytestmark = pytest.mark.timeout(60)


async def _has(rig: Rig, type_: str) -> bool:
    return type_ in {event["type"] for event in await rig.events()}


def _seen(rise: Callable[[str], float]) -> float:
    return rise("detection_delay_seconds_count") + rise("detection_bound_seconds_count")


def _message(id_: str, off_s: float) -> dict[str, Any]:
    at = datetime.fromtimestamp(time.time() + off_s, UTC).isoformat()
    return {"id": id_, "sender": "shopper", "body": "Hello", "created_at": at}


def test_the_delay_of_a_message_is_measured_and_that_of_an_item_bounded(redis_url: str) -> None:
    async def main() -> None:
        upstream = Answers()
        async with open_rig(redis_url, upstream) as rig:
            await rig.track("o-1")
            rig.poll()
            await eventually(rig.events)
            since = Since()
            rise = partial(since.rise, stage="picking")
            said: list[dict[str, Any]] = []
            while not rise("detection_delay_seconds_count"):
                # The time of one that is written while it is being read lies after that reading's start: said again.
                said.append(_message(f"m-{len(said)}", 0.0))
                upstream.messages = Answer({"messages": list(said)})
                await eventually(lambda: _seen(rise) == len(said))
            assert rise("detection_delay_seconds_count") == 1
            assert 0 <= rise("detection_delay_seconds_sum") < 15

            upstream.items = Answer({"items": [{"id": "i-1", "quantity": 1, "status": "found"}]})
            await eventually(lambda: _seen(rise) == len(said) + 1)
            assert rise("detection_delay_seconds_count") == 1

    asyncio.run(main())


@pytest.mark.parametrize("off_s", [-600.0, 600.0])
def test_a_time_by_a_clock_that_is_off_is_not_believed(redis_url: str, off_s: float) -> None:
    async def main() -> None:
        upstream = Answers()
        async with open_rig(redis_url, upstream) as rig:
            await rig.track("o-1")
            rig.poll()
            await eventually(rig.events)
            since = Since()
            upstream.messages = Answer({"messages": [_message("m-1", off_s)]})
            await eventually(lambda: _has(rig, "order.message_created"))
            await eventually(lambda: since.rise("detection_bound_seconds_count", stage="picking") == 1)
            assert since.rise("detection_delay_seconds_count", stage="picking") == 0
            assert since.rise("detection_bound_seconds_sum", stage="picking") < 15

    asyncio.run(main())
