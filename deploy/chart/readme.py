"""The chart's README: prose from deploy/chart/README.in.md, values from the comments of values.yaml."""

import json
from pathlib import Path

from deploy.chart.values import Value

PROSE = Path(__file__).with_name("README.in.md")
MARK = "<!-- values -->"


def readme(values: Value) -> str:
    """The whole text. Its first line says where to edit."""
    rows = "\n".join(_row(leaf) for leaf in values.leaves())
    table = f"| value | default | what it is |\n|---|---|---|\n{rows}"
    note = "<!-- Written by `make chart-readme` from values.yaml and deploy/chart/README.in.md: edit those. -->"
    return f"{note}\n\n{PROSE.read_text().replace(MARK, table)}"


def _row(leaf: Value) -> str:
    default = json.dumps(leaf.default, ensure_ascii=False)
    return f"| `{leaf.name}` | `{default}` | {leaf.comment.replace('|', chr(92) + '|')} |"
