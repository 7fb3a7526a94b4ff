"""Sets of whole numbers as short text: `3,5-7`. Pure."""

from collections.abc import Iterable


def compressed(numbers: Iterable[int]) -> str:
    """Rising, without repeats; runs of two or more as `first-last`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][-1] == number - 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def expanded(text: str) -> list[int]:
    """The numbers again. Raises ValueError for anything that `compressed` does not write."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
