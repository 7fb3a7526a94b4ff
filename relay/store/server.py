"""What Redis says of itself by INFO, and whether promises can be kept on it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from relay.errors import InvalidSettings, Problem
from relay.store.redis import Db

#: Commands and their options are those of this version.
OLDEST = (7, 0)
_SCRIPTS = frozenset({"eval", "evalsha"})
_REPLICA = re.compile(r"slave\d+")


@dataclass(frozen=True, slots=True)
class Server:
    """One reading. `memory_used` is what Redis holds against `memory_limit` (0: none)."""

    version: str
    cluster: bool
    policy: str
    append_only: bool
    persistence_ok: bool
    evicted: int
    rejected: int
    clients: int
    memory_used: int
    memory_limit: int
    primary: bool
    primary_link_up: bool
    replicas_online: int

    @property
    def policy_ok(self) -> bool:
        return self.policy == "noeviction" and self.append_only

    @property
    def memory_ratio(self) -> float:
        return self.memory_used / self.memory_limit if self.memory_limit else 0.0


def parse(info: Mapping[str, Any]) -> Server:
    """INFO as redis-py reads it. What a managed service leaves out counts as not good."""
    writes = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    replicas = [one for name, one in info.items() if _REPLICA.fullmatch(name) and isinstance(one, Mapping)]
    return Server(
        version=str(info.get("redis_version", "0")),
        cluster=bool(int(info.get("cluster_enabled", 0))),
        policy=str(info.get("maxmemory_policy", "unknown")),
        append_only=bool(int(info.get("aof_enabled", 0))),
        persistence_ok=all(info.get(name, "ok") == "ok" for name in writes),
        evicted=int(info.get("evicted_keys", 0)),
        rejected=int(info.get("rejected_connections", 0)),
        clients=int(info.get("connected_clients", 0)),
        memory_used=max(0, int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))),
        memory_limit=int(info.get("maxmemory", 0)),
        primary=info.get("role", "master") == "master",
        primary_link_up=info.get("master_link_status", "up") == "up",
        replicas_online=sum(one.get("state") == "online" for one in replicas),
    )


async def read(db: Db) -> Server:
    """Raises InvalidSettings when the account may not ask, StoreUnavailable when Redis is away."""
    try:
        return parse(await db.run("INFO"))
    except ResponseError as error:
        raise InvalidSettings(f"Redis refuses INFO, by which it is checked: {error}", code="redis_unsafe") from None


@dataclass(frozen=True, slots=True)
class Work:
    """What Redis has done since its start: how many commands, for how long its main thread worked (seconds), and of
    each command how often it ran and how long that took (microseconds)."""

    commands: int
    cpu_s: float
    times: Mapping[str, tuple[int, int]]

    def slowest_since(self, before: "Work") -> dict[str, float]:
        """Mean time (seconds) of a script, and of the slowest other command, since then; 0 where nothing ran."""
        slowest = {"script": 0.0, "command": 0.0}
        for name, (calls, took) in self.times.items():
            calls_before, took_before = before.times.get(name, (0, 0))
            if calls < calls_before:  # it was restarted
                calls_before = took_before = 0
            kind = "script" if name in _SCRIPTS else "command"
            if calls > calls_before:
                slowest[kind] = max(slowest[kind], (took - took_before) / (calls - calls_before) / 1e6)
        return slowest


async def read_work(db: Db) -> Work:
    """Raises StoreUnavailable."""
    stats, cpu, commands = await db.run_many([["INFO", "stats"], ["INFO", "cpu"], ["INFO", "commandstats"]])
    main = [cpu.get(f"used_cpu_{part}_main_thread", cpu.get(f"used_cpu_{part}", 0)) for part in ("user", "sys")]
    times = {
        name.removeprefix("cmdstat_"): (int(one["calls"]), int(one["usec"]))
        for name, one in commands.items()
        if isinstance(one, Mapping)
    }
    return Work(int(stats.get("total_commands_processed", 0)), sum(map(float, main)), times)


def findings(server: Server) -> list[tuple[str, bool, str]]:
    """(code, whether it is as it must be, in words)."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", server.version)[:2])
    return [
        (
            "redis_cluster",
            not server.cluster,
            "Redis is no cluster: arq's transactions span slots; past one Redis, split into cells",
        ),
        ("redis_version", numbers >= OLDEST, f"Redis is 7.0 or newer ({server.version})"),
        (
            "redis_evicts",
            server.policy == "noeviction",
            f"maxmemory-policy is noeviction ({server.policy}): any other deletes what was promised",
        ),
        (
            "redis_not_persistent",
            server.append_only,
            "append-only persistence is on (appendonly yes), or a restart loses events",
        ),
    ]


async def admit(db: Db, *, unsafe: bool) -> list[str]:
    """The codes of what is wrong and was accepted by RELAY_REDIS_UNSAFE.

    Raises InvalidSettings for what is wrong and was not; a cluster, and a Redis without the commands, never works.
    """
    try:
        wrong = [Problem(code, code, f"not so: {text}") for code, ok, text in findings(await read(db)) if not ok]
    except InvalidSettings as error:
        wrong = [Problem("redis_unsafe", error.code, error.detail)]
    fatal = [one for one in wrong if one.code in ("redis_cluster", "redis_version")]
    refused = fatal or ([] if unsafe else wrong)
    if refused:
        listed = "\n".join(f"  {one.code}: {one.detail}" for one in refused)
        hint = (
            ""
            if fatal
            else "\nRELAY_REDIS_UNSAFE=1 runs all the same (a managed service that does not say, or a trial)"
        )
        raise InvalidSettings(f"this Redis cannot be used:\n{listed}{hint}", code=refused[0].code, problems=refused)
    return [one.code for one in wrong]
