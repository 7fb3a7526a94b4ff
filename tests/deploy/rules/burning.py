"""Error budgets that burn: what each row of the table of burn rates must do, for each objective.

A row has a long and a short window, the allowed rate's multiple above which it fires, and how long that must hold.
Minutes; every row is looked at before the next slower one has waited long enough, so that it fires alone.
"""

from collections.abc import Callable
from typing import NamedTuple


class Piece(NamedTuple):
    """So many minutes with so many bad and good events in each."""

    minutes: int
    bad: float
    good: float


class Row(NamedTuple):
    window: str
    factor: float
    long: int
    short: int
    waits: int
    #: A sample and an evaluation every so many minutes: two in the short window at the least, and days stay cheap.
    step: int


ROWS = (
    Row("1h", 14.4, 60, 5, 2, 1),
    Row("6h", 6, 360, 30, 15, 1),
    Row("1d", 3, 1440, 120, 60, 10),
    Row("3d", 1, 4320, 360, 180, 10),
)


#: By budget: events that the long window must hold, so that a single bad one does not fire.
FLOORS = {
    0.001: {"1h": 100, "6h": 200, "1d": 400, "3d": 1500},
    0.005: {"1h": 50, "6h": 50, "1d": 100, "3d": 300},
    0.01: {"1h": 50, "6h": 50, "1d": 50, "3d": 150},
}


class Scene(NamedTuple):
    """Pieces, and the windows that fire at their end. `anew`: counters begin at 0 in each piece, as a new process's."""

    pieces: list[Piece]
    fire: tuple[str, ...]
    anew: bool = False


#: A scene and the minutes between samples, as series.
Series = Callable[[Scene, int], dict[str, str]]


def _counter(scene: Scene, step: int, rate: Callable[[Piece], float]) -> str:
    """A counter that rises so in each piece, a value every `step` minutes."""
    parts, value = [], 0.0
    for one in scene.pieces:
        samples = one.minutes // step
        value = 0.0 if scene.anew else value
        parts.append(f"{value:.6f}+{rate(one) * step:.6f}x{samples - 1}")
        value += rate(one) * step * samples
    return " ".join(parts)


def _by_label(bad: str, good: str) -> Series:
    return lambda scene, step: {
        bad: _counter(scene, step, lambda p: p.bad),
        good: _counter(scene, step, lambda p: p.good),
    }


def _by_bucket(name: str, le: str) -> Series:
    return lambda scene, step: {
        f'{name}_bucket{{namespace="n", le="{le}"}}': _counter(scene, step, lambda p: p.good),
        f'{name}_count{{namespace="n"}}': _counter(scene, step, lambda p: p.bad + p.good),
    }


def _within_a_day(scene: Scene, step: int) -> dict[str, str]:
    """Good ones are delivered; bad ones were first attempted after a day."""
    first, day = "relay_detected_to_first_attempt_seconds", 'namespace="n", le="86400.0"'
    good = _counter(scene, step, lambda p: p.good)
    return {
        f'{first}_count{{namespace="n"}}': _counter(scene, step, lambda p: p.bad + p.good),
        f"{first}_bucket{{{day}}}": good,
        f"relay_detected_to_delivered_seconds_bucket{{{day}}}": good,
    }


class Objective(NamedTuple):
    """`budget`: the share that may be bad."""

    alert: str
    name: str
    budget: float
    series: Series


_HTTP = 'relay_http_requests_total{namespace="n", status_class="%s"}'
_ATTEMPTS = 'relay_attempts_total{namespace="n", outcome="%s"}'

OBJECTIVES = (
    Objective("RelayApiErrorBudgetBurn", "api", 0.001, _by_label(_HTTP % "5xx", _HTTP % "2xx")),
    Objective(
        "RelayPromptDeliveryBudgetBurn", "prompt", 0.01, _by_bucket("relay_detected_to_first_attempt_seconds", "1.0")
    ),
    Objective("RelayPollingBudgetBurn", "polling", 0.01, _by_bucket("relay_poll_lateness_seconds", "5.0")),
    Objective(
        "RelayEngineErrorBudgetBurn", "engine", 0.001, _by_label(_ATTEMPTS % "internal_error", _ATTEMPTS % "answered")
    ),
    Objective("RelayDeliveryBudgetBurn", "delivery", 0.005, _within_a_day),
)


def _rate(minutes: int, factor: float, budget: float, events: float = 10_000) -> Piece:
    bad = factor * budget * events
    return Piece(minutes, round(bad, 6), round(events - bad, 6))


def firing(objective: Objective, row: Row) -> Scene:
    """A little more than the row allows, since the beginning: it fires, alone."""
    return Scene([_rate(row.waits + 10 * row.step, 1.05 * row.factor, objective.budget)], (row.window,))


def just_below(objective: Objective, row: Row) -> Scene:
    return Scene([_rate(row.waits + 10 * row.step, 0.95 * row.factor, objective.budget)], ())


def spike(objective: Objective, row: Row) -> Scene:
    """Twice the row's rate for the short window and as long as the row waits, after a good long one: silent, because
    over the long window it is a quarter of the rate."""
    good, bad = _rate(row.long, 0, objective.budget), _rate(row.short + row.waits, 2 * row.factor, objective.budget)
    return Scene([good, bad], ())


#: By row: how fast it burned (slower than the quicker row fires), for how long, and the slower row that still fires.
_BURNED = {"1h": (40, 30, ("6h",)), "6h": (13.9, 40, ("1d",)), "1d": (5.9, 200, ("3d",)), "3d": (2.9, 240, ())}


def recovery(objective: Objective, row: Row) -> Scene:
    """Good again for the short window: the row is silent although its long window still burns."""
    factor, minutes, still = _BURNED[row.window]
    bad = _rate(minutes, factor, objective.budget)
    return Scene([bad, _rate(row.short + 2 * row.step, 0, objective.budget)], still)


def churn(objective: Objective, row: Row) -> Scene:
    """New processes again and again: counters that begin at 0 are no failures."""
    piece = _rate(5 * row.step, 0.9 * row.factor, objective.budget)
    return Scene([piece] * ((row.waits + 10 * row.step) // (5 * row.step)), (), anew=True)


def small(objective: Objective, row: Row) -> Scene:
    """It burns, but there are fewer events than the floor."""
    return _few(objective, row, 0.9, ())


def just_enough(objective: Objective, row: Row) -> Scene:
    return _few(objective, row, 1.1, (row.window,))


def _few(objective: Objective, row: Row, share: float, fire: tuple[str, ...]) -> Scene:
    """Such a share of the floor: nearly all at once, so that it is held for as long as the row waits."""
    burst, rest = 5 * row.step, row.waits + 7 * row.step
    floor, factor = FLOORS[objective.budget][row.window], 1.05 * row.factor
    first = _rate(burst, factor, objective.budget, (share - 0.05) * floor / burst)
    return Scene([first, _rate(rest, factor, objective.budget, 0.05 * floor / rest)], fire)


SCENES = (firing, just_below, spike, recovery, churn, small, just_enough)
