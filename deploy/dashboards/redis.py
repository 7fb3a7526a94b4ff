"""Redis: whether it may be relied on, how full it is, and how fast it answers."""

from deploy.dashboards.panels import (
    BAD,
    CALM,
    GOOD,
    GREY,
    WARN,
    Board,
    Query,
    most,
    quantile,
    rate,
    series,
    stat,
    total,
    where,
)

_YES = [{"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}]


def redis() -> Board:
    """Promises first, then saturation, then round trips."""
    board = Board(
        "relay-redis", "Relay / Redis", "Whether Redis may be relied on, how full it is, and how fast it answers."
    )

    def worst(metric: str) -> str:
        return f"min ({metric}{{{where()}}})"

    def risen(metric: str) -> str:
        """What Redis counts itself, a second: read every five seconds, so over a minute; a restart is no fall."""
        return f"clamp_min (max (deriv({metric}{{{where()}}}[1m])), 0)"

    sure = [(None, BAD), (1, GOOD)]
    none = [(None, GOOD), (1, BAD)]
    board.row("Promises")
    board.line(
        4,
        stat(
            "Reachable",
            "From every process.",
            "short",
            worst("relay_redis_up"),
            steps=sure,
            mappings=_YES,
            runbook="RelayRedisUnreachable",
        ),
        stat(
            "Policy right",
            "noeviction and append-only persistence.",
            "short",
            worst("relay_redis_policy_ok"),
            steps=sure,
            mappings=_YES,
            runbook="RelayRedisPolicyWrong",
        ),
        stat(
            "Files written",
            "The last writes of its files went well.",
            "short",
            worst("relay_redis_persistence_ok"),
            steps=sure,
            mappings=_YES,
            runbook="RelayRedisPersistenceFailing",
        ),
        stat(
            "Keys evicted",
            "Since its start. Each is a broken promise.",
            "short",
            most("relay_redis_evicted_keys"),
            steps=none,
            runbook="RelayRedisEvicting",
        ),
        stat(
            "Replica links down",
            "Replicas that the primary lost.",
            "short",
            most("relay_redis_replica_links_down"),
            steps=none,
            runbook="RelayRedisReplicationBroken",
        ),
        stat(
            "Shedding",
            "1: polling and the API's writes pause, deliveries drain.",
            "short",
            most("relay_shedding"),
            steps=none,
            runbook="RelayRedisMemoryCritical",
        ),
    )
    board.row("Saturation")
    board.line(
        8,
        series(
            "Memory, of maxmemory",
            "Warning above 75 %, critical and shedding above 90 % (dashed).",
            "percentunit",
            Query(most("relay_redis_memory_ratio"), "used"),
            maximum=1,
            steps=[(None, "transparent"), (0.75, WARN), (0.9, BAD)],
            colours={"used": CALM},
            runbook="RelayRedisMemoryHigh",
        ),
        series(
            "Memory",
            "Used for data, and maxmemory (0: none is set).",
            "bytes",
            Query(most("relay_redis_memory_bytes"), "used"),
            Query(most("relay_redis_memory_limit_bytes"), "maxmemory"),
            colours={"used": CALM, "maxmemory": GREY},
        ),
        series(
            "Events in logs",
            "Kept for retention; most of the memory is theirs.",
            "short",
            Query(most("relay_log_events"), "events"),
            colours={"events": CALM},
        ),
    )
    board.row("Round trips")
    board.line(
        8,
        series(
            "Round trips",
            "By kind.",
            "ops",
            Query(rate("relay_redis_round_trips_total", "kind"), "{{kind}}"),
            stacked=True,
        ),
        series(
            "Duration, p99",
            "Of a round trip, by kind.",
            "s",
            Query(quantile(0.99, "relay_redis_command_duration_seconds", "kind"), "{{kind}}"),
        ),
        series(
            "Errors",
            "Commands that failed, by kind.",
            "ops",
            Query(rate("relay_redis_errors_total", "kind"), "{{kind}}"),
            stacked=True,
            runbook="RelayRedisUnreachable",
        ),
    )
    board.row("Redis itself")
    board.line(
        8,
        series(
            "Commands",
            "What it carries out a second, those inside scripts included.",
            "ops",
            Query(risen("relay_redis_commands"), "commands"),
            colours={"commands": CALM},
        ),
        series(
            "Its core",
            "Share of time for which its main thread works. There is one core to it; near 1, cells are the way on.",
            "percentunit",
            Query(risen("relay_redis_cpu_seconds"), "busy"),
            maximum=1,
            steps=[(None, "transparent"), (0.8, WARN)],
            colours={"busy": CALM},
        ),
        series(
            "Slow commands",
            "Mean time in Redis of a script, and of the slowest of the other commands, between two samples.",
            "s",
            Query(most("relay_redis_slowest_command_seconds", "kind"), "{{kind}}"),
        ),
    )
    board.row("Connections")
    board.line(
        8,
        series("Connections", "All that Redis has.", "short", Query(most("relay_redis_connected_clients"), "clients")),
        series(
            "Pools",
            "Busy connections of all processes, and what they may open.",
            "short",
            Query(total("relay_redis_pool_in_use"), "busy"),
            Query(total("relay_redis_pool_max"), "at most"),
            colours={"busy": CALM, "at most": GREY},
        ),
        series(
            "Connections refused",
            "Since its start.",
            "short",
            Query(most("relay_redis_rejected_connections"), "refused"),
            runbook="RelayRedisRejectedConnections",
        ),
    )
    return board
