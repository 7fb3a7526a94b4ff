"""The commands of a retailer's engineer against a running API, as a person types them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relay.cli.remote import moment
from relay.errors import InvalidInput
from relay.model.signing import Secret
from tests.pumps.test_delivering import change
from tests.support.rig import Rig, eventually
from tests.support.shop import open_shop


class Shell:
    """Types commands and gives back (exit status, standard output, standard error)."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        def call() -> tuple[int, str, str]:
            done = subprocess.run(
                [sys.executable, "-m", "relay", *arguments],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            return done.returncode, done.stdout, done.stderr

        return await asyncio.to_thread(call)

    async def document(self, *arguments: str) -> Any:
        status, out, err = await self(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)


@asynccontextmanager
async def shop(redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[Rig, Shell]]:
    """A rig with an API in front of it, and a shell that knows both."""
    async with open_shop(redis_url) as opened:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        environment |= {"RELAY_API_URL": opened.url, "RELAY_API_KEY": opened.key, "XDG_CONFIG_HOME": str(tmp_path)}
        yield opened.rig, Shell(environment)


def run(main: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(main(), 90))


def test_a_day_of_a_retailers_engineer(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(redis_url, tmp_path) as (rig, shell):
            (made,) = await shell.document("subscriptions", "create", f"{rig.receiver_url}/hook")
            rig.receiver.secrets.append(Secret.parse(made["secret"]))
            await shell.document("orders", "track", "o-1", "--token", "t-1")
            listed, _ = await asyncio.gather(shell("subscriptions", "list"), shell.document("orders", "list"))
            assert made["id"] in listed[1]

            rig.deliver()
            await change(rig, "o-1", "picking")
            await change(rig, "o-1", "staging")
            await eventually(lambda: len(rig.receipts) == 2)
            events = await shell.document("events", "list", "--order-id", "o-1")
            assert [one["id"] for one in events] == [one.event["id"] for one in rig.receipts]
            deliveries = await shell.document("deliveries", "list", made["id"], "--status", "delivered")
            assert {one["event_id"] for one in deliveries} == {one["id"] for one in events}

            redelivered, recovered = await asyncio.gather(
                shell("deliveries", "redeliver", events[0]["id"], "--subscription", made["id"]),
                shell("deliveries", "recover", made["id"], "--since", "1h", "--only", "all"),
            )
            assert (redelivered[0], recovered[0]) == (0, 0), redelivered[2] + recovered[2]
            await eventually(lambda: rig.receiver.counters.duplicates >= 2)

            tested = await shell("trigger", "order.replacement_suggested")
            assert tested[0] == 0, tested[2]
            assert "answered 200" in tested[1]
            (rotated,) = await shell.document("subscriptions", "rotate", made["id"], "--overlap", "0s")
            assert rotated["secret"] != made["secret"]
            assert len(rotated["secrets"]) == 1

    run(main)


def test_no_is_one_and_a_mistake_is_two(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(redis_url, tmp_path) as (_, shell):
            answers = await asyncio.gather(
                shell("orders", "show", "unknown"),
                shell("orders", "show"),
                shell("deliveries", "recover", "sub_x", "--since", "yesterday"),
                shell("orders", "list", "--api-url", "http://127.0.0.1:9"),
                shell("trigger", "webhook.test"),
            )
            assert [status for status, _, _ in answers] == [1, 2, 2, 2, 2]
            assert [err.count("\n") for _, _, err in answers] == [1] * 5
            assert "not_found" in answers[0][2]
            shell.environment.pop("RELAY_API_KEY")
            status, _, err = await shell("orders", "list")
            assert (status, "RELAY_API_KEY" in err) == (2, True)

    run(main)


def test_listen_posts_the_log_to_a_local_url_signed_and_in_order(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(redis_url, tmp_path) as (rig, shell):
            _, printed, _ = await shell("listen", "--print-secret")
            again = await shell("listen", "--print-secret")
            assert again[1] == printed
            rig.receiver.secrets.append(Secret.parse(printed.strip()))
            for status in ("picking", "staging", "delivering"):
                await change(rig, "o-1", status)

            done, out, err = await shell(
                "listen", "--forward-to", f"{rig.receiver_url}/x", "--since", "1h", "--count", "3", "--json"
            )

            assert done == 0, err
            assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["200"] * 3
            assert [one.body for one in rig.receipts] == [
                entry.body for entry in await rig.log.after(rig.retailer_id, "0-0", 9)
            ]
            assert rig.receiver.counters.refused == 0
            filtered = await shell("listen", "--since", "1h", "--events", "order.status_changed", "--count", "1")
            assert "order.status_changed" in filtered[1]
            refused = await shell("listen", "--forward-to", "https://shop.example.com/h")
            assert (refused[0], "--allow-remote" in refused[2]) == (2, True)

    run(main)


def test_moments() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    assert moment("2h", now) == "2026-11-23T10:00:00.000+00:00"
    assert moment("2026-11-23T10:00:00Z") == "2026-11-23T10:00:00.000+00:00"
    for text in ("yesterday", "2026-11-23T10:00:00", ""):
        with pytest.raises(InvalidInput):
            moment(text)
