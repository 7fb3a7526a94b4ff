"""Workers and runtime: slots, rings, leases, the event loop, memory."""

from deploy.dashboards.panels import BAD, GOOD, WARN, Board, Query, most, quantile, rate, series, stat, total, where


def _per_process(metric: str) -> str:
    return f"topk(5, max by (instance) ({metric}{{{where()}}}))"


def _replicas(metric: str) -> str:
    """Of the components' deployments, in the namespaces where the relay is."""
    deployments = f'{metric}{{deployment=~".+-(api|poll|deliver|maintain)"}}'
    return f"max by (deployment) ({deployments} and on (namespace) relay_build_info{{{where()}}})"


def workers() -> Board:
    """Utilisation, saturation and errors of what works."""
    board = Board(
        "relay-workers", "Relay / Workers", "Slots, rings, leases, the event loop and memory of the processes."
    )
    heartbeat = f"time() - min by (pump) (relay_worker_heartbeat_timestamp_seconds{{{where()}}})"
    increase = 'sum (increase({}{{job=~"$job", instance=~"$instance"}}[15m]))'
    board.row("Now")
    board.line(
        4,
        stat(
            "Processes up",
            "Reached by the last scrape.",
            "short",
            total("up"),
            steps=[(None, BAD), (1, GOOD)],
            runbook="RelayNoWorkers",
        ),
        stat(
            "Oldest heartbeat",
            "Since the loop of the slowest worker last turned; alert above 60 s.",
            "s",
            f"max ({heartbeat})",
            steps=[(None, GOOD), (30, WARN), (60, BAD)],
            runbook="RelayWorkerHeartbeatStale",
        ),
        stat(
            "Leases lost, 15 min",
            "Writes refused because somebody else holds the lease.",
            "short",
            increase.format("relay_leases_lost_total"),
            decimals=0,
            steps=[(None, GOOD), (3, WARN)],
            runbook="RelayLeasesLost",
        ),
        stat(
            "Swept, 15 min",
            "Work that no ring announced and the sweep found.",
            "short",
            increase.format("relay_sweep_rung_total"),
            decimals=0,
        ),
        stat(
            "Rings expired, 15 min",
            "Rings that arq dropped before they ran.",
            "short",
            increase.format("relay_arq_jobs_expired_total"),
            decimals=0,
            steps=[(None, GOOD), (1, WARN)],
            runbook="RelayArqJobsExpired",
        ),
        stat("Draining", "Processes that finish what is in flight before they end.", "short", total("relay_draining")),
    )
    board.row("Pumps")
    board.line(
        8,
        series(
            "Slots busy of those wanted",
            "Full for long while events are ready: scale out.",
            "percentunit",
            Query(f"{total('relay_pump_slots_busy', 'pump')} / {most('relay_pump_slots', 'pump')}", "{{pump}}"),
            steps=[(None, "transparent"), (0.9, WARN)],
            runbook="RelayWorkersSaturated",
        ),
        series(
            "Slices ended",
            "By outcome.",
            "ops",
            Query(rate("relay_pump_slices_total", "pump, outcome"), "{{pump}} {{outcome}}"),
            stacked=True,
        ),
        series(
            "Ring to start, p95",
            "From a wake-up to the start of its pump.",
            "s",
            Query(quantile(0.95, "relay_pump_wait_seconds", "pump"), "{{pump}}"),
        ),
    )
    board.line(
        8,
        series(
            "Rings",
            "Wake-ups sent through arq, by result.",
            "ops",
            Query(rate("relay_rings_total", "pump, result"), "{{pump}} {{result}}"),
        ),
        series(
            "arq jobs",
            "By queue and state; a worker looks at the first ones only, of which half may run.",
            "short",
            Query(most("relay_arq_jobs", "queue, state"), "{{queue}} {{state}}"),
            runbook="RelayReadLimitNear",
        ),
        series(
            "Heartbeat age",
            "Since arq's loop last turned, the slowest process of each pump.",
            "s",
            Query(heartbeat, "{{pump}}"),
            steps=[(None, "transparent"), (60, BAD)],
            runbook="RelayWorkerHeartbeatStale",
        ),
    )
    board.row("Faults")
    board.line(
        8,
        series(
            "Worker restarts",
            "By the supervisor, by reason.",
            "ops",
            Query(rate("relay_worker_restarts_total", "pump, reason"), "{{pump}} {{reason}}"),
            runbook="RelayWorkerRestarting",
        ),
        series(
            "Commits",
            "Of changed orders, by result. A conflict is another pump that was first.",
            "ops",
            Query(rate("relay_commits_total", "result"), "{{result}}"),
            stacked=True,
        ),
        series(
            "Log lines",
            "Warnings and worse a second.",
            "ops",
            Query(rate("relay_log_lines_total", "level", 'level=~"warning|error|critical"'), "{{level}}"),
            stacked=True,
            colours={"warning": WARN, "error": BAD},
        ),
    )
    board.row("Runtime")
    board.line(
        8,
        series(
            "Event loop lag, p99",
            "How late a timer fires; alert above 0.5 s (dashed).",
            "s",
            Query(f"topk(5, {quantile(0.99, 'relay_event_loop_lag_seconds', 'instance')})", "{{instance}}"),
            steps=[(None, "transparent"), (0.5, BAD)],
            runbook="RelayEventLoopLag",
        ),
        series(
            "Resident memory",
            "The five largest processes.",
            "bytes",
            Query(_per_process("process_resident_memory_bytes"), "{{instance}}"),
        ),
        series(
            "Processor",
            "Cores used by the five busiest processes.",
            "short",
            Query(f"topk(5, {rate('process_cpu_seconds_total', 'instance')})", "{{instance}}"),
        ),
    )
    files = f"process_open_fds{{{where()}}} / process_max_fds{{{where()}}}"
    board.line(
        8,
        series(
            "Garbage collection",
            "Collections a second, by generation; those of generation 2 take longest.",
            "ops",
            Query(rate("python_gc_collections_total", "generation"), "generation {{generation}}"),
        ),
        series(
            "Open files",
            "Of those that a process may have open, the five nearest to it.",
            "percentunit",
            Query(f"topk(5, max by (instance) ({files}))", "{{instance}}"),
            maximum=1,
        ),
        series(
            "Replicas",
            "Wanted and ready, as kube-state-metrics tells of the deployments beside the relay's processes.",
            "short",
            Query(_replicas("kube_deployment_spec_replicas"), "{{deployment}} wanted"),
            Query(_replicas("kube_deployment_status_replicas_ready"), "{{deployment}} ready"),
            runbook="RelayWorkersSaturated",
        ),
    )
    return board
