"""What the simulator counts: requests by when they came, whenever it got round to them."""

import asyncio
import sys
import time

import pytest

from relay.simulator.app import Simulator, SimulatorConfig
from relay.simulator.traffic import Traffic
from tests.simulator.support import poll_path, run, serving


def test_the_fullest_second_is_found_whatever_the_order_of_the_times() -> None:
    traffic = Traffic()
    for at in (3.0, 0.0, 0.5, 2.4, 0.9, 1.0, 1.3):
        traffic.arrived(at)

    assert traffic.max_in_a_second == 4  # 0.5 to 1.3; what comes exactly a second later is the next one's
    assert traffic.total == 7


def test_a_token_is_a_request_as_well() -> None:
    traffic = Traffic()
    traffic.arrived(1.0)
    traffic.counted(1.5)

    assert (traffic.total, traffic.max_in_a_second) == (1, 2)


def test_counting_goes_on_when_there_are_very_many() -> None:
    traffic = Traffic()
    for number in range(50_000):
        traffic.arrived(number / 500)
    for number in range(700):
        traffic.arrived(95 + number / 1_000)

    assert traffic.max_in_a_second == 1_200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when data came")
def test_a_stall_of_the_simulator_makes_no_burst_of_requests_that_came_one_by_one() -> None:
    simulator = Simulator(SimulatorConfig(orders=1, static_token="t", speed=0.001))
    request = f"GET {poll_path('o-1', 'items')} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t\r\n\r\n".encode()

    async def scenario() -> None:
        async with serving(simulator) as (host, port):
            streams = [await asyncio.open_connection(host, port) for _ in range(4)]
            for _, writer in streams:  # 0.6 s apart, while nobody looks
                writer.write(request)
                time.sleep(0.6)  # noqa: ASYNC251  the loop is to stand still
            for reader, writer in streams:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()

    run(scenario())
    assert simulator.traffic.total == 4
    assert simulator.traffic.max_in_a_second == 2
