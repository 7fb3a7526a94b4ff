"""SIGTERM may come at any moment, also while a process has just begun."""

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("kind", ["poll", "deliver", "maintain", "all"])
def test_a_worker_that_is_told_to_stop_as_soon_as_it_runs_stops(redis_url: str, master_keys: str, kind: str) -> None:
    given = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    given |= {"RELAY_REDIS_URL": redis_url, "RELAY_MASTER_KEYS": master_keys, "RELAY_METRICS_PORT": "0"}
    process = subprocess.Popen([sys.executable, "-m", "workers", kind], env=given, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert any("worker.started" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)

        _, rest = process.communicate(timeout=40)
        assert process.returncode == 0, rest
        assert "worker.stopped" in rest
    finally:
        process.kill()
        process.communicate()
