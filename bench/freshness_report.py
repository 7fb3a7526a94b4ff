"""The polling policy beside its rivals, in several worlds and under several budgets, into `docs/`.

`make bench-freshness` runs it; `TRACES=FILE` adds a trace of one's own. Worlds are generated (`bench.traces`), with
seeds on which nothing was tuned.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench import traces
from bench.freshness import POLICIES, Score, run
from bench.plot import bars

#: Seeds of the generated worlds, and budgets in requests a second.
SEEDS, BUDGETS = (11,), (50.0, 150.0, 400.0)
DRAWN = ("fixed", "table", "oracle", "relay_cold", "relay")


def measure(path: Path, budgets: tuple[float, ...]) -> dict[float, dict[str, Score]]:
    with ProcessPoolExecutor() as pool:
        futures = {(b, name): pool.submit(run, path, b, name) for b in budgets for name in POLICIES}
        return {b: {name: futures[b, name].result() for name in POLICIES} for b in budgets}


def table(found: dict[str, dict[float, dict[str, Score]]]) -> str:
    lines = ["| world | budget | policy | mean (s) | p95 (s) | missed states | mean, x oracle |"]
    lines.append("|---|---|---|---|---|---|---|")
    for world, by_budget in found.items():
        for budget, scores in by_budget.items():
            for name in POLICIES:
                one, oracle = scores[name], scores["oracle"]
                cells = f"{one.mean:.2f} | {one.p95:.2f} | {one.missed:.4f} | {one.mean / oracle.mean:.2f}"
                lines.append(f"| {world} | {budget:.0f}/s | {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.freshness_report", description=__doc__)
    parser.add_argument("--traces", type=Path, default=None, help="a trace file besides")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    found: dict[str, dict[float, dict[str, Score]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            path = Path(folder) / f"{seed}.jsonl.gz"
            traces.write(path, seed, 6.0, 5.0)
            found[f"seed {seed}"] = measure(path, BUDGETS)
    if options.traces is not None:
        found[options.traces.name.partition(".")[0]] = measure(options.traces, BUDGETS)
    groups = {
        f"{world}, {budget:.0f} requests a second": {name: scores[name].mean for name in DRAWN}
        for world, by_budget in found.items()
        for budget, scores in by_budget.items()
    }
    (options.docs / "freshness.svg").write_text(bars("Mean detection delay at equal budget", "s", groups, DRAWN))
    text = table(found)
    (options.docs / "freshness.md").write_text(_PREFACE + text + "\n")
    print(text)
    ratios = [scores["relay"].mean / scores["oracle"].mean for by in found.values() for scores in by.values()]
    cold = [scores["relay_cold"].mean / scores["oracle"].mean for by in found.values() for scores in by.values()]
    tails = [scores["relay"].p95 / scores["table"].p95 for by in found.values() for scores in by.values()]
    result = {
        "relay_to_oracle": round(max(ratios), 3),
        "relay_cold_to_oracle": round(max(cold), 3),
        "p95_to_table": round(max(tails), 3),
        "max_requests_to_budget": max(
            score.most / budget for by in found.values() for budget, scores in by.items() for score in scores.values()
        ),
    }
    print(json.dumps(result), flush=True)


_PREFACE = """# How soon changes are noticed

Written by `make bench-freshness`. All policies poll the same orders under the same token bucket and learn of them only
from their own polls; what is fitted is fitted on the first half of six hours, and all are scored on the second.
`oracle` is told the true mean hazard of each (stage, resource) and follows the square-root rule; `relay_cold` forgets
everything when the scored half begins. The worlds are synthetic (`bench/traces.py`), and the numbers in them are
assumptions.

![mean detection delay](freshness.svg)

"""


if __name__ == "__main__":
    main()
