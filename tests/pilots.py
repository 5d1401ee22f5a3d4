"""How often a pilot's interval holds the truth: many pilots of harvests whose totals are known.

`python -m tests.pilots FOLDER...` reads finished harvests and draws 2,000 pilots of each size from
their problems, as `distill plan --pilot` would. Two made-up harvests stand beside them: one whose
problems get 4, 8 or 16 samples of very unlike length, and one skewed beyond what a token limit
allows. Prints for every total how many intervals held it, and how wide they are beside it.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distill.harvest import TRACES
from distill.harvest.accounting import Billing, Spend
from distill.intervals import total_interval
from distill.ledger import read_ledger
from distill.records import Trace

PILOTS = 2000
SIZES = (10, 30, 100)


def totals(folder: Path) -> dict[str, list[float]]:
    """Samples and tokens of every problem of a harvest."""
    billing, spends = Billing(continues=True), defaultdict[str, Spend](Spend)
    for trace in read_ledger(folder / TRACES, Trace):
        spends[trace.problem_id] += billing.of(trace)
    return {
        "samples": [float(spend.traces) for spend in spends.values()],
        "tokens": [float(spend.completion) for spend in spends.values()],
        "prompt tokens": [spend.prompt for spend in spends.values()],
    }


def made_up(seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Harvests nobody ran, of 5,000 problems."""
    rng = np.random.default_rng(seed)
    samples = rng.choice([4.0, 4.0, 4.0, 8.0, 16.0, 16.0], 5000)
    rounds = samples * np.exp(rng.normal(3.0, 0.5, 5000))
    return {
        "made up, rounds": {"samples": samples.tolist(), "tokens": rounds.tolist()},
        "made up, extreme": {"tokens": np.exp(rng.normal(0.0, 1.2, 5000)).tolist()},
    }


def coverage(values: Sequence[float], size: int, pilots: int, seed: int = 0) -> tuple[float, float]:
    """Share of pilots whose interval holds the sum, and the median width of an interval beside the sum."""
    rng, truth = np.random.default_rng(seed), sum(values)
    held, widths = 0, []
    for _ in range(pilots):
        found = total_interval([values[place] for place in rng.choice(len(values), size, replace=False)], len(values))
        held += found.low - 1e-6 <= truth <= found.high + 1e-6
        widths.append((found.high - found.low) / truth)
    return held / pilots, float(np.median(widths))


def skewness(values: Sequence[float]) -> float:
    x = np.asarray(values)
    return float(((x - x.mean()) ** 3).mean() / x.std() ** 3) if x.std() else 0.0


def main(folders: Sequence[Path]) -> None:
    known: Mapping[str, dict[str, list[float]]] = {str(folder): totals(folder) for folder in folders} | made_up()
    print(f"{'harvest':<28} {'total':<14} {'problems':>8} {'skew':>5}  " + "  ".join(f"{f'n {n}':>14}" for n in SIZES))
    for name, table in known.items():
        for what, values in table.items():
            cells = []
            for size in SIZES:
                share, width = coverage(values, size, PILOTS)
                cells.append(f"{share:>6.1%} ±{width / 2:>6.1%}")
            shown = f"{name[-28:]:<28} {what:<14} {len(values):>8,} {skewness(values):>5.1f}  "
            print(shown + "  ".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
