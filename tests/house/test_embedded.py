"""The embedded store: persistent, exclusive, without orphans."""

import subprocess
import sys
from pathlib import Path

import pytest
import redis

from relay.embedded import EmbeddedStore
from relay.errors import StoreUnavailable


def client(store: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(store.url)


@pytest.mark.parametrize("kill", [False, True])
def test_what_was_written_survives_a_restart(tmp_path: Path, kill: bool) -> None:
    with EmbeddedStore(tmp_path) as store:
        with client(store) as one:
            one.set("key", "value")
            assert one.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        store.restart(kill=kill)
        with client(store) as one:
            assert one.get("key") == b"value"
    with EmbeddedStore(tmp_path) as store, client(store) as one:
        assert one.get("key") == b"value"


def test_a_folder_has_one_user(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path), pytest.raises(StoreUnavailable, match="in use"):
        EmbeddedStore(tmp_path).start()


def test_a_temporary_store_leaves_nothing() -> None:
    with EmbeddedStore() as store:
        folder = store.folder
        assert folder.exists()

    assert not folder.exists()


def test_a_server_whose_parent_was_killed_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import os, sys, redis\nfrom pathlib import Path\nfrom relay.embedded import EmbeddedStore\n"
        f"store = EmbeddedStore(Path({str(tmp_path)!r})); store.start()\n"
        "redis.Redis.from_url(store.url).set('key', 'orphaned'); print(store.pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert dead.returncode == -9

    with EmbeddedStore(tmp_path) as store, client(store) as one:
        assert one.get("key") == b"orphaned"
        assert str(store.pid) != dead.stdout.strip()


def test_what_it_keeps_is_for_its_user_only(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "store") as store:
        with client(store) as one:
            one.set("order", "somebody's address")
        kept = [path for path in store.folder.rglob("*") if "aof" in path.name or path.is_dir()]
        assert kept
        assert {path.stat().st_mode & 0o077 for path in (store.folder, *kept)} == {0}
