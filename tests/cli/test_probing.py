"""`relay probe`, as `helm test` runs it: against a real API, with a real receiver."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.cli import main, probing
from tests.cli.test_remote import Shell, run
from tests.support.shop import Shop, open_shop

ADMIN = "the operator's key, long enough"


@asynccontextmanager
async def deployment(redis_url: str, tmp_path: Path, **settings: str) -> AsyncIterator[tuple[Shop, Shell]]:
    """An API, and a shell that has the operator's key."""
    async with open_shop(redis_url, RELAY_ADMIN_KEY=ADMIN, **settings) as opened:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        environment |= {"RELAY_API_URL": opened.url, "RELAY_API_KEY": ADMIN, "XDG_CONFIG_HOME": str(tmp_path)}
        yield opened, Shell(environment)


async def retailers(opened: Shop) -> list[str]:
    answer = await opened.client.get("/v1/retailers", headers={"authorization": f"Bearer {ADMIN}"})
    assert answer.status_code == 200
    return [one["name"] for one in answer.json()["data"]]


def test_ready(redis_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with deployment(redis_url, tmp_path) as (opened, shell):
            assert await shell("probe", "ready") == (0, f"{opened.url} is ready\n", "")

    run(story)


def test_not_ready_is_no(unused_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(probing, "READY_WITHIN", 2.0)

    assert main(["probe", "ready", "--api-url", f"http://127.0.0.1:{unused_port}"]) == 1
    assert capsys.readouterr().err == f"relay probe: http://127.0.0.1:{unused_port} is not ready: ConnectError\n"


def test_a_delivery_is_made_and_verified_and_leaves_nothing(redis_url: str, tmp_path: Path, unused_port: int) -> None:
    async def story() -> None:
        async with deployment(redis_url, tmp_path) as (opened, shell):
            before = await retailers(opened)
            receiver = ("--receiver-port", str(unused_port), "--receiver-url", f"http://127.0.0.1:{unused_port}/")

            assert await shell("probe", "delivery", *receiver) == (0, "delivered and verified\n", "")
            assert await retailers(opened) == before

    run(story)


def test_what_does_not_arrive_is_no_and_leaves_nothing(redis_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with deployment(redis_url, tmp_path) as (opened, shell):
            before = await retailers(opened)
            nobody = socket.create_server(("127.0.0.1", 0))
            elsewhere = nobody.getsockname()[1]
            nobody.close()
            receiver = ("--receiver-port", "0", "--receiver-url", f"http://127.0.0.1:{elsewhere}/")
            status, out, err = await shell("probe", "delivery", *receiver)

            assert (status, out) == (1, ""), err
            assert err.startswith("relay probe: nothing verified arrived: {")
            assert await retailers(opened) == before

    run(story)


def test_a_target_that_the_guard_refuses_is_no_and_leaves_nothing(redis_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with deployment(redis_url, tmp_path, RELAY_TARGET_ALLOW="192.0.2.0/24") as (opened, shell):
            before = await retailers(opened)
            receiver = ("--receiver-port", "0", "--receiver-url", "http://127.0.0.1:9/")
            status, out, err = await shell("probe", "delivery", *receiver)

            assert (status, out) == (1, ""), err
            assert err == "relay probe: name a host; addresses are not accepted (url_ip_literal)\n"
            assert await retailers(opened) == before

    run(story)


def test_a_port_that_is_taken_is_said() -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            status, _, err = await Shell(dict(os.environ))("probe", "delivery", "--receiver-port", port)

        assert status == 2
        assert "Traceback" not in err
        assert f"cannot listen on 127.0.0.1:{port}" in err

    asyncio.run(story())
