"""The connection's options, what INFO has to say, and what is refused at start."""

import asyncio
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from relay import metrics
from relay.embedded import EmbeddedStore
from relay.errors import STORE_FULL, InvalidSettings, StoreUnavailable
from relay.model.pressure import Pressure
from relay.queue import open_pool
from relay.store import keys
from relay.store.connecting import Security, open_client
from relay.store.redis import Db
from relay.store.server import Server, Work, admit, findings, parse, read
from relay.watching import Watch
from tests.support import acl
from tests.support.rig import eventually

SENTINEL = "redis+sentinel://app:p%40ss@s1:1,s2/main/3"


@pytest.fixture
def admin(redis_url: str) -> Iterator[redis.Redis]:
    """Changes the shared server's configuration; the fixture puts it back."""
    client = acl.admin(redis_url)
    yield client
    for name, value in {"maxmemory": "0", "maxmemory-policy": "noeviction", "appendonly": "yes"}.items():
        client.config_set(name, value)
    client.close()


def test_sentinel_options_are_effective() -> None:
    security = Security("ca.pem", "me.pem", "me.key", "watcher", "guarded")
    openers: list[Callable[[str], Any]] = [
        lambda url: open_client(url, security=security),
        lambda url: open_pool(url, "poll", security),
    ]
    for open_one in openers:
        pool: Any = open_one(SENTINEL).connection_pool
        options, asked = pool.connection_kwargs, pool.sentinel_manager.sentinels
        assert (options["username"], options["password"], options["db"]) == ("app", "p@ss", 3)
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (5.0, 2.0)
        assert options["health_check_interval"] == 15
        assert options["socket_keepalive"]
        assert options["retry_on_error"]
        assert options["retry"]._retries == 3
        assert [one.connection_pool.connection_kwargs["port"] for one in asked] == [1, 26379]
        for one in asked:
            its = one.connection_pool.connection_kwargs
            assert (its["username"], its["password"]) == ("watcher", "guarded")
            assert (its["socket_timeout"], its["socket_connect_timeout"]) == (1.0, 1.0)
            assert "ssl_ca_certs" not in its
        over_tls: Any = open_one("rediss" + SENTINEL.removeprefix("redis")).connection_pool
        for its in [over_tls.connection_kwargs] + [
            one.connection_pool.connection_kwargs for one in over_tls.sentinel_manager.sentinels
        ]:
            assert (its["ssl_ca_certs"], its["ssl_certfile"], its["ssl_keyfile"]) == ("ca.pem", "me.pem", "me.key")
            assert (its["ssl_cert_reqs"], its["ssl_check_hostname"]) == ("required", True)


def test_tls_options_of_a_plain_url_and_no_secret_in_a_repr() -> None:
    security = Security("ca.pem", None, "me.key", "watcher", "guarded")
    options = open_client("rediss://:pw@host:1/0", security=security).connection_pool.connection_kwargs

    assert (options["ssl_ca_certs"], options["ssl_check_hostname"]) == ("ca.pem", True)
    assert "guarded" not in repr(security)
    for url in ("redis+sentinel://s1", "redis+sentinel://s1:x/main", "redis://h/x?socket_timeout=y"):
        with pytest.raises(InvalidSettings):
            open_client(url)


def test_a_good_redis_is_admitted(redis_url: str) -> None:
    async def main() -> None:
        db = Db(open_client(redis_url))
        assert await admit(db, unsafe=False) == []
        server = await read(db)
        await db.aclose()
        assert server.policy_ok
        assert server.persistence_ok
        assert server.memory_used > 100_000
        assert server.clients > 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [("maxmemory-policy", "allkeys-lru", "redis_evicts"), ("appendonly", "no", "redis_not_persistent")],
)
def test_a_redis_that_loses_promises_is_refused(
    redis_url: str, admin: redis.Redis, name: str, value: str, code: str
) -> None:
    async def main() -> None:
        db = Db(open_client(redis_url))
        try:
            with pytest.raises(InvalidSettings, match="RELAY_REDIS_UNSAFE") as refused:
                await admit(db, unsafe=False)
            assert refused.value.code == code
            assert [problem.code for problem in refused.value.problems] == [code]
            assert await admit(db, unsafe=True) == [code]
        finally:
            await db.aclose()

    admin.config_set(name, value)
    asyncio.run(main())


def test_the_slowest_command_of_a_while() -> None:
    before = Work(9, 0.1, {"get": (10, 1_000), "evalsha": (5, 5_000), "set": (7, 7_000_000)})
    after = Work(20, 0.2, {"get": (12, 1_400), "evalsha": (6, 8_000), "set": (7, 7_000_000), "zadd": (1, 50)})

    assert after.slowest_since(before) == {"script": 0.003, "command": 0.0002}
    assert after.slowest_since(after) == {"script": 0.0, "command": 0.0}
    assert Work(1, 0.0, {"get": (1, 30)}).slowest_since(before) == {"script": 0.0, "command": 0.00003}  # restarted


def test_a_cluster_is_refused_whatever_is_allowed() -> None:
    with EmbeddedStore() as store, redis.Redis.from_url(store.url) as client:
        info: Any = client.info()
    found = {code: ok for code, ok, _ in findings(parse({**info, "cluster_enabled": 1}))}
    old = {code: ok for code, ok, _ in findings(parse({**info, "redis_version": "6.2.14"}))}

    assert found == {"redis_cluster": False, "redis_version": True, "redis_evicts": True, "redis_not_persistent": True}
    assert not old["redis_version"]


def test_what_a_managed_service_leaves_out_is_not_good() -> None:
    server = parse({"redis_version": "7.2"})

    assert not server.policy_ok
    assert {code for code, ok, _ in findings(server) if not ok} == {"redis_evicts", "redis_not_persistent"}


def _server(**info: object) -> Server:
    return parse({"redis_version": "7.0", "maxmemory_policy": "noeviction", "aof_enabled": 1, **info})


def test_shedding_begins_at_nine_tenths_and_ends_below_seventeen_twentieths() -> None:
    pressure, seen = Pressure(), []
    watch = Watch(Db(open_client("redis://127.0.0.1:1")), pressure)
    for percent in (50, 89, 90, 100, 88, 85, 84, 89):
        watch.take(_server(used_memory=percent * 1000 + 7, mem_not_counted_for_evict=7, maxmemory=100_000))
        seen.append(pressure.shedding)

    assert seen == [False, False, True, True, True, True, False, False]
    pressure.refused()
    assert pressure.shedding


def test_the_gauges_say_what_redis_says() -> None:
    watch = Watch(Db(open_client("redis://127.0.0.1:1")), Pressure())
    two = {"slave0": {"state": "online"}, "slave1": {"state": "online"}}
    watch.take(_server(**two))
    assert _value("relay_redis_replica_links_down") == 0
    watch.take(
        _server(
            slave0={"state": "online"},
            slave1={"state": "wait_bgsave"},
            aof_last_write_status="err",
            evicted_keys=3,
            rejected_connections=4,
            connected_clients=5,
            used_memory=95,
            maxmemory=100,
        )
    )

    expected = {
        "redis_policy_ok": 1,
        "redis_persistence_ok": 0,
        "redis_evicted_keys": 3,
        "redis_rejected_connections": 4,
        "redis_replica_links_down": 1,
        "redis_memory_ratio": 0.95,
        "redis_memory_bytes": 95,
        "redis_memory_limit_bytes": 100,
        "redis_connected_clients": 5,
        "shedding": 1,
    }
    assert {name: _value(f"relay_{name}") for name in expected} == expected
    watch.take(_server(role="slave", master_link_status="down"))
    assert _value("relay_redis_replica_links_down") == 1
    assert _value("relay_shedding") == 0


def _value(name: str) -> float | None:
    return metrics.registry.get_sample_value(name)


def test_the_watch_reads_until_it_is_stopped_and_outlasts_a_redis_that_is_away(redis_url: str) -> None:
    async def main() -> None:
        pressure = Pressure(shedding=True)
        away, db = Db(open_client("unix:///nowhere/valkey.sock")), Db(open_client(redis_url))
        lost, good = Watch(away, pressure), Watch(db, pressure)
        losing = asyncio.create_task(lost.run(0.01))
        await eventually(lambda: away.trips > 1)
        assert pressure.shedding
        watching = asyncio.create_task(good.run(0.01))
        await eventually(lambda: not pressure.shedding)
        lost.stop()
        good.stop()
        await asyncio.gather(losing, watching)
        await db.aclose()
        await away.aclose()

    asyncio.run(main())


def test_a_full_redis_has_a_code_of_its_own(redis_url: str, admin: redis.Redis) -> None:
    async def main() -> None:
        db = Db(open_client(redis_url))
        try:
            with pytest.raises(StoreUnavailable) as refused:
                await db.run("SET", f"{keys.PREFIX}scratch", "1")
            assert refused.value.code == STORE_FULL
            assert await db.run("GET", f"{keys.PREFIX}scratch") is None
        finally:
            await db.aclose()

    admin.config_set("maxmemory", "1mb")
    admin.config_set("maxmemory", "1000")
    asyncio.run(main())


def test_a_refusal_in_a_pipeline_is_one_and_tells_nothing_of_its_command(redis_url: str) -> None:
    async def main() -> None:
        db = Db(open_client(acl.admin_url(redis_url)))
        await db.run("SET", "text", "x")
        await db.run("CONFIG", "SET", "min-replicas-to-write", 1)
        try:
            for broken in ([["SET", "a", "the 'secret', (of) one"]], [["PING"], ["SET", "a", "b"]]):
                with pytest.raises(StoreUnavailable, match=r"^Redis refuses to write: NOREPLICAS"):
                    await db.run_many(broken)
        finally:
            await db.run("CONFIG", "SET", "min-replicas-to-write", 0)
        with pytest.raises(redis.ResponseError, match=r"^WRONGTYPE") as wrong:
            await db.run_many([["HSET", "text", "name", "a secret of pipeline caused error: 'x'"]])
        assert "Command #" not in "".join(traceback.format_exception(wrong.value))
        await db.run("DEL", "text")
        await db.aclose()

    asyncio.run(main())


def test_a_connection_to_a_demoted_primary_ends(redis_url: str, unused_port: int) -> None:
    """The client does not keep what points at a replica: the address may have moved behind its name."""

    async def main() -> None:
        with EmbeddedStore() as store:
            admin = redis.Redis.from_url(store.url)
            admin.config_set("port", str(unused_port))
            db = Db(open_client(f"redis://127.0.0.1:{unused_port}"))
            await db.run("SET", "a", "1")
            first = await db.run("CLIENT", "ID")
            admin.replicaof("127.0.0.1", "1")
            with pytest.raises(StoreUnavailable):
                await db.run("SET", "a", "2")
            with pytest.raises(redis.ReadOnlyError):
                admin.set("a", "2")
            admin.replicaof("NO", "ONE")
            await db.run("SET", "a", "3")
            assert await db.run("CLIENT", "ID") > first
            await db.aclose()
            admin.close()

    asyncio.run(main())
