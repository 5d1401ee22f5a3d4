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

from distill.errors import UserError
from distill.judge import JUDGE_VERSION
from tests.audit import answers, mutation, pool, programs

BROKEN = ("NOT EXPLAINED", "ACCEPTED", "accepted: ", "misjudged: ", "got through", "SURVIVED", "slow: 1", "differs: Human")


def lines(data: Path) -> Iterator[str]:
    """Every line of every part, as it comes."""
    yield f"{datetime.now(UTC):%Y-%m-%d}, judge {JUDGE_VERSION}, Python {platform.python_version()}, {os.cpu_count()} cores"
    for title, part in (
        ("answers", lambda: answers.report(data)),
        ("programs and walls", lambda: programs.report(data)),
        ("pool", pool.report),
        ("mutation", mutation.report),
    ):
        yield f"\n{title}"
        yield from part()


def main() -> None:
    """Print it all."""
    name = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DISTILL_DATA", "data")
    data = Path(name)
    if not data.is_dir():
        raise UserError(f"{data}: no folder of benchmark files; set DISTILL_DATA or give it as the argument")
    broken = []
    for line in lines(data):
        print(line, flush=True)
        broken += [line] if any(mark in line for mark in BROKEN) else []
    if broken:
        print(f"\n{len(broken)} claims do not hold", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
