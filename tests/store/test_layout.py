"""Which formats of stored data meet which releases."""

import asyncio

import pytest

from relay.errors import InvalidSettings
from relay.store import keys, layout
from relay.store.redis import Db, open_client
from relay.store.subscriptions import Configuration


def _agree(redis_url: str, stored: int | None, reads: tuple[int, int], writes: int) -> int:
    """A process that reads and writes these formats meets a store of that format."""

    async def main() -> int:
        db = Db(open_client(redis_url))
        try:
            if stored is not None:
                await db.run("HSET", keys.LAYOUT, "format", stored, "by", "9.9.9")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(layout, "WRITES", writes)
                patch.setattr(layout, "OLDEST_READ", reads[0])
                patch.setattr(layout, "NEWEST_READ", reads[1])
                assert await layout.agree(db) == await layout.agree(db)
            return int(await db.run("HGET", keys.LAYOUT, "format"))
        finally:
            await db.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("stored", "reads", "writes", "after"),
    [
        (None, (1, 1), 1, 1),  # a new store, or one from before the record
        (1, (1, 2), 1, 1),  # reads the next format already, does not write it yet
        (1, (1, 2), 2, 2),  # the release after that
        (2, (1, 2), 1, 2),  # the step back: what it cannot write it can read
        (None, (1, 2), 2, 2),
    ],
)
def test_neighbouring_releases_share_a_store(
    redis_url: str, stored: int | None, reads: tuple[int, int], writes: int, after: int
) -> None:
    assert _agree(redis_url, stored, reads, writes) == after


@pytest.mark.parametrize(
    ("stored", "reads", "code"), [(2, (1, 1), "store_newer"), (1, (2, 3), "store_older"), (None, (2, 2), "store_older")]
)
def test_a_format_that_cannot_be_read_is_refused_and_left_alone(
    redis_url: str, stored: int | None, reads: tuple[int, int], code: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        _agree(redis_url, stored, reads, reads[1])
    assert refused.value.code == code


def test_a_subscription_keeps_only_what_was_chosen() -> None:
    """Its record is held in memory many times, and read by the release before, which knows the same defaults."""
    plain = Configuration("https://hooks.example.com/relay")
    chosen = Configuration(
        *("https://hooks.example.com/relay", ("order.*",), "stock"),
        payload="thin",
        ordering="none",
        backlog="latest",
        max_in_flight=4,
        rate_limit=2.5,
        heartbeat_seconds=60,
        headers={"authorization": "planted"},
    )

    assert plain.document() == {"url": plain.url}
    assert Configuration(headers=chosen.headers, **chosen.document()) == chosen
    assert len(chosen.document()) == 8
