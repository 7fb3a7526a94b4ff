"""`relay healthcheck`: what a container engine runs every few seconds."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relay import cli
from tests.support.rig import serving
from tests.support.workers import unused_ports


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing set, and nothing listening on either port."""
    for name in list(os.environ):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for name, port in zip(("RELAY_PORT", "RELAY_METRICS_PORT"), unused_ports(2), strict=True):
        monkeypatch.setenv(name, str(port))
    return monkeypatch


def _process(livez: int, readyz: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = {"/livez": livez, "/readyz": readyz}[scope["path"]]
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(
    ("variable", "process"), [("RELAY_PORT", "api"), ("RELAY_METRICS_PORT", "worker")], ids=["api", "worker"]
)
@pytest.mark.parametrize(
    ("livez", "readyz", "flags", "expected"),
    [(200, 200, [], 0), (200, 503, [], 0), (200, 503, ["--ready"], 1), (503, 503, [], 1), (200, 200, ["--ready"], 0)],
    ids=["alive", "unready", "unready, asked", "stuck", "ready, asked"],
)
def test_the_status_is_the_answer_of_the_own_port(
    environment: pytest.MonkeyPatch,
    variable: str,
    process: str,
    livez: int,
    readyz: int,
    flags: list[str],
    expected: int,
) -> None:
    async def ask() -> tuple[int, int]:
        async with serving(_process(livez, readyz)) as url:
            environment.setenv(variable, url.rpartition(":")[2])
            named = await asyncio.to_thread(cli.main, ["healthcheck", process, *flags])
            found = await asyncio.to_thread(cli.main, ["healthcheck", *flags])
            return named, found

    assert asyncio.run(ask()) == (expected, expected)


def test_with_both_ports_open_both_have_to_be_well(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask() -> list[int]:
        async with serving(_process(200, 200)) as well, serving(_process(503, 503)) as ill:
            environment.setenv("RELAY_PORT", well.rpartition(":")[2])
            environment.setenv("RELAY_METRICS_PORT", ill.rpartition(":")[2])
            return [await asyncio.to_thread(cli.main, ["healthcheck", *words]) for words in ([], ["api"], ["worker"])]

    assert asyncio.run(ask()) == [1, 0, 1]
    assert "worker /livez: 503" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["api"], ["worker", "--ready"]], ids=["any", "api", "worker"])
def test_nothing_listening_is_unhealthy(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert cli.main(["healthcheck", *words]) == 1
    assert "nothing listens" in capsys.readouterr().err


def test_a_worker_without_a_port_is_unhealthy(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RELAY_METRICS_PORT", "0")

    assert cli.main(["healthcheck", "worker"]) == 1


def test_settings_that_cannot_be_read_are_unhealthy_not_a_mistake_in_use(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("RELAY_PORT", "eighty")

    assert cli.main(["healthcheck"]) == 1
    assert "RELAY_PORT" in capsys.readouterr().err


def test_an_answer_that_is_no_http_is_unhealthy(environment: pytest.MonkeyPatch) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    async def ask() -> int:
        async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
            environment.setenv("RELAY_PORT", str(server.sockets[0].getsockname()[1]))
            return await asyncio.to_thread(cli.main, ["healthcheck", "api"])

    assert asyncio.run(ask()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", ""], ids=["everywhere", "loopback", "unset"])
def test_it_asks_where_the_process_listens(environment: pytest.MonkeyPatch, host: str) -> None:
    async def ask() -> int:
        async with serving(_process(200, 200)) as url:
            environment.setenv("RELAY_HOST", host)
            environment.setenv("RELAY_PORT", url.rpartition(":")[2])
            return await asyncio.to_thread(cli.main, ["healthcheck", "api"])

    assert asyncio.run(ask()) == 0


def test_of_other_processes_only_the_port_is_asked(environment: pytest.MonkeyPatch) -> None:
    """`relay simulator` and `relay receive` have no endpoint of health."""

    async def ask() -> tuple[int, int]:
        async with serving(_process(503, 503)) as url:
            port = url.rpartition(":")[2]
            open_ = await asyncio.to_thread(cli.main, ["healthcheck", "--port", port])
        return open_, await asyncio.to_thread(cli.main, ["healthcheck", "--port", port])

    assert asyncio.run(ask()) == (0, 1)


def test_it_loads_none_of_the_heavy_parts() -> None:
    """It runs every few seconds in every container."""
    program = (
        "import sys; from relay import cli; assert cli.main(['healthcheck']) == 1;"
        "heavy = {'httpx', 'starlette', 'pyreqwest', 'relay.store', 'relay.demo'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    api, worker = unused_ports(2)
    environment |= {"RELAY_PORT": str(api), "RELAY_METRICS_PORT": str(worker)}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
