"""`make judge-audit`: everything the judge claims, measured now; `docs/judge.md` holds the figures of one such run.

Takes the folder of benchmark files as its argument, or DISTILL_DATA. Exit code 1 when a claim
does not hold: a disagreement nobody explained, an accept, an escape, a row lost, a survivor.
"""

import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from distill.judge import JUDGE_VERSION
from tests.audit import answers, mutation, pool, programs
from tests.audit.finding import Finding


def findings(data: Path) -> Iterator[Finding]:
    """Every line of every part, as it comes."""
    where = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    yield Finding(f"{datetime.now(UTC):%Y-%m-%d}, judge {JUDGE_VERSION}, {where}")
    yield Finding("\nanswers")
    yield from answers.report(data)
    yield Finding("\nprograms and walls")
    yield from programs.report(data)
    yield Finding("\npool")
    yield from pool.report()
    yield Finding("\nmutation")
    yield from mutation.report()


def main() -> None:
    """Print it all."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DISTILL_DATA", "data"))
    if not data.is_dir():
        sys.exit(f"{data}: no folder of benchmark files; set DISTILL_DATA or give it as the argument")
    broken = 0
    for finding in findings(data):
        print(finding.text if finding.holds else f"{finding.text}   <-- DOES NOT HOLD", flush=True)
        broken += not finding.holds
    if broken:
        sys.exit(f"\n{broken} claims do not hold")


if __name__ == "__main__":
    main()
