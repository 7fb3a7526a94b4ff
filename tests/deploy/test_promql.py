"""The reader of PromQL finds what an expression selects, and nothing else."""

import pytest

from tests.deploy.promql import labels_in, metrics_in


def test_metrics_are_told_from_functions_labels_and_words() -> None:
    expr = 'sum by (pod) (rate(a_total{x="b{c}", y=~"d"}[5m])) / on (pod) group_left (z) level:m:rate5m offset 1h > 2e3'
    assert metrics_in(expr) == {"a_total", "level:m:rate5m"}
    assert labels_in(expr) == {"": {"pod", "z"}, "a_total": {"x", "y"}}


def test_words_between_operands_are_no_metrics() -> None:
    assert metrics_in("time() - max(a) > 60 and on () (b == bool 1) or absent(up) unless c") == {"a", "b", "up", "c"}


def test_what_is_not_promql_is_refused() -> None:
    with pytest.raises(ValueError, match="not PromQL"):
        metrics_in("a ; b")
