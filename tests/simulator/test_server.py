"""The simulator as a process and under an ordinary client."""

import asyncio
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from relay.simulator.server import serve
from tests.simulator.support import TOKEN, poll_path, run, serving, still

PROGRAM = """
from relay.simulator.app import SimulatorConfig
from relay.simulator.server import run
run(SimulatorConfig(static_token="t"), "127.0.0.1", 0)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arguments", [["-c", PROGRAM], ["-m", "relay.simulator.static"]], ids=["simulator", "static"])
def test_a_process_says_its_address_serves_and_ends_on_a_signal(arguments: list[str], stop: signal.Signals) -> None:
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            match = re.search(r"listening on (http://127\.0\.0\.1:\d+)$", process.stdout.readline().strip())
            assert match is not None
            got = httpx.get(
                match[1] + poll_path("o-1", "items"), headers={"authorization": "Bearer t"}, trust_env=False
            )
            assert got.json()["items"]
            process.send_signal(stop)
            assert process.wait(10) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_connections_are_kept_and_polls_do_not_wait_for_each_other() -> None:
    simulator = still(faults=["latency:300ms:1:resource=messages"])

    async def scenario() -> None:
        async with serving(simulator) as (host, port), httpx.AsyncClient(trust_env=False) as client:
            client.base_url = httpx.URL(f"http://{host}:{port}")
            client.headers["authorization"] = f"Bearer {TOKEN}"
            slow = asyncio.create_task(client.get(poll_path("o-1", "messages")))
            for _ in range(5):
                assert (await client.get(poll_path("o-1", "items"))).status_code == 200
            assert not slow.done()
            assert (await slow).json() == {"messages": []}

    run(scenario())
    assert simulator.traffic.total == 6


def test_an_address_in_use_is_an_error_of_the_caller() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        with pytest.raises(OSError, match="in use"):
            run(serve(still().app, "127.0.0.1", taken.getsockname()[1], lambda port: None))
