"""Every test that docs/comparison.md names exists, and every claim names one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"`(tests/\S+\.py)::(test_\w+)`")


def test_every_row_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "comparison.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and not line.startswith(("|---", "| feature"))]
    named = [ROW.search(line) for line in rows]
    missing = [found[0] for found in named if found and f"def {found[2]}(" not in (ROOT / found[1]).read_text()]
    claims = [line for line, found in zip(rows, named, strict=True) if not found and not line.endswith("| no | |")]

    assert missing == []
    assert [line for line in claims if not re.match(r"\| (wish|mistake) ", line)] == []
    assert len(rows) > 55
