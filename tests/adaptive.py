"""Adaptive rounds against as many samples for everyone: which problems are verified, and for how many tokens.

`python -m tests.adaptive runs/adaptive runs/adaptive-s1` reads the steps `fixed` and
`adaptive` of recipe `adaptive`, one folder a seed, and prints one row a folder, then one a
family and level over all folders. Everything is counted from the ledgers. Exits with 1 when
a step verified a problem the other did not, or the rounds took over 60% of the tokens.
"""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from distill.harvest import TRACES, VERDICTS
from distill.ledger import read_ledger
from distill.records import Trace, Verdict
from distill.runs import read_manifest
from distill.selection import read_problems

ENOUGH = 4
BOUND = 0.6
"""Share of the tokens that the rounds may take."""


@dataclass(slots=True)
class Step:
    """One harvest, counted from its ledgers."""

    correct: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    seconds: float = 0.0

    def verified(self, enough: int = 1) -> set[str]:
        """Problems with so many correct traces."""
        return {problem for problem, count in self.correct.items() if count >= enough}


def read(folder: Path) -> Step:
    """Count a finished harvest of samples: the rounds of the recipe continue and check nothing."""
    right = {row.trace_id for row in read_ledger(folder / VERDICTS, Verdict) if row.status == "correct"}
    step = Step(seconds=read_manifest(folder).seconds)
    for trace in read_ledger(folder / TRACES, Trace):
        step.samples += 1
        step.tokens[trace.problem_id] += trace.completion_tokens
        step.correct[trace.problem_id] += trace.id in right
    return step


def main(folders: list[Path]) -> int:
    failed = False
    groups: dict[str, str] = {}
    both = {"fixed": Step(), "adaptive": Step()}
    print(f"{'':20} {'':9} {'samples':>8} {'tokens':>10} {'share':>6} {'>= 1':>6} {f'>= {ENOUGH}':>6} {'seconds':>8}")
    for number, folder in enumerate(folders):
        manifest = read_manifest(folder / "fixed")
        problems = read_problems(Path(next(ref.name for ref in manifest.inputs if ref.field == "problems")))
        steps = {name: read(folder / name) for name in both}
        fixed = steps["fixed"]
        for name, step in steps.items():
            share = step.tokens.total() / fixed.tokens.total()
            print(
                f"{folder.name:20} {name:9} {step.samples:8,} {step.tokens.total():10,} {share:6.1%} "
                f"{len(step.verified()):6,} {len(step.verified(ENOUGH)):6,} {step.seconds:8.0f}"
            )
            same = all(step.verified(enough) == fixed.verified(enough) for enough in (1, ENOUGH))
            failed |= not same or (name == "adaptive" and share > BOUND)
            for problem in problems:
                key = f"{number}/{problem.id}"
                groups[key] = f"{problem.source}/level-{problem.level}"
                if problem.id in step.tokens:
                    both[name].correct[key] = step.correct[problem.id]
                    both[name].tokens[key] = step.tokens[problem.id]
    print(f"\n{'':20} {'problems':>9} {'verified':>9} {'fixed tokens':>13} {'adaptive':>9} {'share':>6}")
    fixed, adaptive = both["fixed"], both["adaptive"]
    for group in sorted(set(groups.values())):
        mine = [key for key, name in groups.items() if name == group and key in fixed.tokens]
        spent, less = (sum(step.tokens[key] for key in mine) for step in (fixed, adaptive))
        verified = sum(adaptive.correct[key] > 0 for key in mine)
        print(f"{group:20} {len(mine):9,} {verified:9,} {spent:13,} {less:9,} {less / max(spent, 1):6.1%}")
    print("\nFAILED: not the same problems, or too many tokens" if failed else "\nthe same problems in every row")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
