"""The table of metrics in docs/operations.md: `python -m tests.support.metrics_table` writes it."""

import re
from pathlib import Path

import relay.metrics  # noqa: F401  # which declares them
from relay import labels
from relay.declaring import DECLARED

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
_HEAD = ["| metric | type | labels | meaning | set by |", "|---|---|---|---|---|"]
_TABLE = re.compile(r"(?m)^\| metric \| type .*\n(?:\|.*\n)+")


def rows() -> list[str]:
    """The table as it must be."""
    found = list(_HEAD)
    for one in DECLARED:
        by = "all" if set(one.by) == set(labels.ROLES) else "workers" if one.by == labels.PUMPS else ", ".join(one.by)
        names = ", ".join(f"`{label}`" for label in one.labels)
        found.append(f"| `{one.name}` | {one.kind} | {names} | {one.text} | {by} |")
    return found


def written() -> list[str]:
    """The table as it stands in the documentation."""
    table = _TABLE.search(PAGE.read_text())
    return [] if table is None else table[0].rstrip("\n").split("\n")


def main() -> None:
    text = PAGE.read_text()
    assert _TABLE.search(text), "the page has no table of metrics"
    PAGE.write_text(_TABLE.sub(lambda _: "\n".join(rows()) + "\n", text))


if __name__ == "__main__":
    main()
