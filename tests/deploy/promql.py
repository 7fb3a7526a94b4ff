"""Which metrics and labels a PromQL expression reads: for the checks of rules and dashboards."""

import re

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)|(?P<range>\[[^\]]*\])"""
    r"""|(?P<duration>\d+(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*)|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<name>\$?[A-Za-z_:][A-Za-z0-9_:]*)|(?P<op>=~|!~|!=|==|<=|>=|[-+*/%^<>=(){},@$])|(?P<space>\s+)"""
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
#: Aggregations may have their grouping before the parenthesis: `sum by (x) (y)`.
_AGGREGATIONS = {
    *("sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values"),
    *("bottomk", "topk", "quantile"),
}
#: Names that are no series.
_PLAIN = _WORDS | _AGGREGATIONS


def _tokens(expr: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(expr):
        match = _TOKEN.match(expr, at)
        if match is None:
            raise ValueError(f"not PromQL at {at}: {expr[at : at + 20]!r}")
        at = match.end()
        if match.lastgroup not in ("space", "comment"):
            found.append((str(match.lastgroup), match.group()))
    return found


def _labels_to(tokens: list[tuple[str, str]], start: int, closing: str) -> tuple[list[str], int]:
    """Names up to the closing bracket, and where that is."""
    names: list[str] = []
    at = start
    while tokens[at][1] != closing or tokens[at][0] != "op":
        if tokens[at][0] == "name":
            names.append(tokens[at][1])
        at += 1
    return names, at


def _read(expr: str) -> tuple[set[str], dict[str, set[str]]]:
    tokens = [*_tokens(expr), ("end", ""), ("end", "")]
    metrics: set[str] = set()
    labels: dict[str, set[str]] = {}
    last, at = "", 0
    while tokens[at][0] != "end":
        kind, text = tokens[at]
        following = tokens[at + 1][1]
        if kind == "name" and text.lower() in _GROUPING and text not in metrics:
            if following == "(":
                names, at = _labels_to(tokens, at + 2, ")")
                labels.setdefault("", set()).update(names)
        elif kind == "op" and text == "{":
            names, at = _labels_to(tokens, at + 1, "}")
            labels.setdefault(last, set()).update(names)
        elif kind == "name" and not text.startswith("$") and following != "(" and text.lower() not in _PLAIN:
            metrics.add(text)
            last = text
        at += 1
    return metrics, labels


def metrics_in(expr: str) -> set[str]:
    """Names of the series that the expression selects."""
    return _read(expr)[0]


def labels_in(expr: str) -> dict[str, set[str]]:
    """Labels matched on, by metric; those of `by`, `on` and the like under the empty name."""
    return _read(expr)[1]
