"""Tracing in real processes: what is loaded when it is off and sent when it is on, what is said when it cannot be."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.rig import eventually, open_rig, serving
from tests.support.traces import Collector
from tests.support.workers import Workers, unused_ports

#: Runs a process's own main, and says in the end what of OpenTelemetry it has loaded.
LOADED = """
import sys
from {module} import main
status = main({arguments!r})
print(status, sorted(name for name in sys.modules if name.partition(".")[0] == "opentelemetry")[:3])
"""


def environment(redis_url: str, master_keys: str, **settings: str) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "OTEL_"))}
    given |= {"RELAY_REDIS_URL": redis_url, "RELAY_MASTER_KEYS": master_keys, "RELAY_METRICS_PORT": "0"}
    return given | {f"RELAY_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def started(module: str, arguments: list[str], given: dict[str, str], said: str) -> Iterator[subprocess.Popen[str]]:
    """A process with these settings, once it has written a log line."""
    code = LOADED.format(module=module, arguments=arguments)
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if said in line:
                break
        assert lines, "it wrote nothing"
        assert said in lines[-1], lines
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("tracing", ["0", "1"])
@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [("workers.__main__", ["all"], "worker.started"), ("relay.cli", ["api"], "api.started")],
    ids=["worker", "api"],
)
def test_nothing_of_opentelemetry_is_loaded_unless_asked_for(
    redis_url: str, master_keys: str, tracing: str, module: str, arguments: list[str], said: str
) -> None:
    (port,) = unused_ports(1)
    given = environment(redis_url, master_keys, port=str(port), tracing=tracing, admin_key="a" * 24)
    given["OTEL_TRACES_SAMPLER"] = "always_off"  # nobody listens
    with started(module, arguments, given, said) as process:
        if module == "relay.cli":
            answer = httpx.get(f"http://127.0.0.1:{port}/v1/retailers", headers={"authorization": "Bearer " + "a" * 24})
            assert answer.status_code == 200
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)

    status, _, loaded = out.strip().partition(" ")
    assert status == "0", errors
    assert (loaded == "[]") is (tracing == "0"), loaded


@pytest.mark.parametrize("command", ["worker poll", "api", "up"])
def test_without_the_extra_a_process_says_what_to_install(
    master_keys: str, command: str, tmp_path: Path, unused_port: int
) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("")  # comes before the real one, and holds nothing
    # Nobody is there: it is said before anything is waited for.
    given = environment(f"redis://127.0.0.1:{unused_port}/0", master_keys, tracing="1", admin_key="a" * 24)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    ended = subprocess.run(
        [sys.executable, "-m", "relay", *command.split()],
        env=given | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )

    assert ended.returncode == 2, ended.stderr
    assert "pip install 'post-checkout-relay[tracing]'" in ended.stderr
    assert "Traceback" not in ended.stderr

    checked = subprocess.run(
        [sys.executable, "-m", "relay", "check", "--json"],
        env=given | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    (wrong,) = [text for ok, text in json.loads(checked.stdout)["findings"] if not ok and "RELAY_TRACING" in text]
    assert "pip install 'post-checkout-relay[tracing]'" in wrong


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000")],
)
def test_settings_of_the_exporter_that_cannot_be_used(redis_url: str, master_keys: str, name: str, value: str) -> None:
    given = environment(redis_url, master_keys, tracing="1") | {name: value}
    ended = subprocess.run(
        [sys.executable, "-m", "workers", "poll"], env=given, capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 2, ended.stderr
    assert "OTEL_" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_trace_reaches_the_collector_from_two_processes(redis_url: str, master_keys: str, tmp_path: Path) -> None:
    async def main() -> None:
        collector = Collector()
        async with open_rig(redis_url, master_keys=master_keys) as rig, serving(collector) as url:
            workers = Workers(redis_url, master_keys, rig.upstream_url, tmp_path / "workers.log", tracing="1")
            workers.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
            try:
                await rig.subscribe()
                await rig.track("o-1")
                processes = []
                for kind in ("poll", "deliver"):
                    workers.environment["OTEL_SERVICE_NAME"] = f"relay-{kind}"
                    processes.append(workers.start(kind))
                await eventually(lambda: rig.receipts, 40)
                # The last spans leave when the process ends, long before their minute is over.
                for process in processes:
                    assert await asyncio.to_thread(workers.stop, process, 30) == 0
            finally:
                await asyncio.to_thread(workers.close)

            (attempt,) = [span for service, span in collector.spans if service == "relay-deliver"]
            (poll,) = [s for _, s in collector.spans if s.name == "poll" and s.span_id == attempt.parent_span_id]
            trace = sorted((who, s.name) for who, s in collector.spans if s.trace_id == poll.trace_id)
            assert trace[0] == ("relay-deliver", "attempt")
            assert {name for who, name in trace if who == "relay-poll"} == {"poll", "fetch", "detect", "commit"}

    asyncio.run(asyncio.wait_for(main(), 85))


def test_a_collector_that_is_away_stops_nobody(redis_url: str, master_keys: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rig(redis_url, master_keys=master_keys) as rig:
            workers = Workers(redis_url, master_keys, rig.upstream_url, tmp_path / "workers.log", tracing="1")
            (port,) = unused_ports(1)
            workers.environment |= {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            }
            try:
                await rig.subscribe()
                await rig.track("o-1")
                process = workers.start()
                await eventually(lambda: rig.receipts, 40)
                assert await asyncio.to_thread(workers.stop, process, 40) == 0
            finally:
                await asyncio.to_thread(workers.close)

    asyncio.run(asyncio.wait_for(main(), 85))
