"""Trace files: JSON lines, gzipped or plain, first the world, then an order a line (`bench/traces.py` writes them)."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from relay.model.orders import RESOURCES

_NAMES = frozenset(resource.value for resource in RESOURCES)
_GZIP = b"\x1f\x8b"


class World(msgspec.Struct):
    """The first line. Times are seconds from 0 to `horizon_s`."""

    format: int
    horizon_s: float
    orders: int | None = None


class Life(msgspec.Struct):
    """An order: when it entered its stages and when which resource changed, times rising."""

    order_id: str
    retailer: str
    start: float
    stages: list[tuple[float, str]]
    changes: list[tuple[float, str]]


T = TypeVar("T", World, Life)


class BadTrace(Exception):
    """A trace file that cannot be used; the text says where and why."""


def read(path: Path) -> tuple[World, list[Life]]:
    """The world and its orders. Raises BadTrace."""
    lines = _lines(path)
    world = _decoded(path, next(lines, (1, b"")), World)
    lives = [_decoded(path, line, Life, world.horizon_s) for line in lines]
    if world.orders not in (None, len(lives)):
        raise BadTrace(f"{path}: {len(lives)} orders where the first line says {world.orders}; the file may be cut")
    if not any(at > world.horizon_s / 2 for life in lives for at, _ in life.changes):
        raise BadTrace(f"{path}: no change in the second half of the time, which is the half that is scored")
    return world, lives


def _decoded(path: Path, line: tuple[int, bytes], shape: type[T], *given: float) -> T:
    number, raw = line
    try:
        if not raw.strip():
            raise ValueError("the file is empty")
        value = msgspec.json.decode(raw, type=shape)
        _check(value, *given)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadTrace(f"{path}, line {number}: {error}") from None
    return value


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except OSError as error:
        raise BadTrace(f"{path}: {error.strerror or error}") from None
    except (EOFError, zlib.error):
        raise BadTrace(f"{path}: damaged gzip; the file may be cut") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() or number == 1:
            yield number, line


def _check(value: World | Life, horizon: float = 0.0) -> None:
    if isinstance(value, Life):
        _check_life(value, horizon)
        return
    _check_world(value)


def _check_world(world: World) -> None:
    if world.format != 1:
        raise ValueError(f"format {world.format}; this reads format 1")
    if not world.horizon_s > 0:
        raise ValueError("horizon_s must be above 0")


def _check_life(life: Life, horizon: float) -> None:
    if not life.stages:
        raise ValueError(f"{life.order_id}: stages must not be empty")
    for name, times in (("stages", life.stages), ("changes", life.changes)):
        if not _rising([at for at, _ in times]):
            raise ValueError(f"{life.order_id}: {name} must be sorted by time")
    for at, resource in life.changes:
        if resource not in _NAMES:
            raise ValueError(f"{life.order_id}: resource {resource!r} is none of {', '.join(sorted(_NAMES))}")
        if not 0 < at <= horizon:
            raise ValueError(f"{life.order_id}: a change at {at}, which is not within 0 to {horizon}")


def _rising(times: Sequence[float]) -> bool:
    return all(before <= after for before, after in pairwise(times))
