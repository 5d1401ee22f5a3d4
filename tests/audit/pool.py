"""Audit of the pool: a thousand hostile rows among a hundred thousand good ones, through `distill judge`.

Answers and programs, mixed at random. Every good row must come back in its place with the verdict
it was made for, every hostile one with any verdict but `correct`; no process and no file is left.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.attacks import EXHAUSTIONS, FORGERIES
from tests.audit.finding import Finding
from tests.test_pool import HOSTILE

GOOD, BAD = 100_000, 1_000
PROGRAMS = 0.05
"""Share of programs among the good rows, and of hostile programs among the hostile ones."""
SEED = 20261124
CHECK = "def check(candidate):\n    assert candidate(2) == 4\n"


def report() -> Iterator[Finding]:
    """The lines of it."""
    rng = random.Random(SEED)
    rows = [good(number, rng) for number in range(GOOD)] + [hostile(number, rng) for number in range(1, BAD + 1)]
    rng.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "rows.jsonl", Path(folder) / "verdicts.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row, _ in rows), encoding="utf-8")
        begun = time.monotonic()
        command = [sys.executable, "-m", "cli.main", "judge", str(path), "--out", str(out), "--workers", "2"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds = time.monotonic() - begun
        verdicts = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        left = [each.name for each in Path(folder).iterdir() if each not in (path, out)]
    pairs = list(zip(rows, verdicts, strict=True))
    moved = sum(row["id"] != verdict["id"] for (row, _), verdict in pairs)
    misjudged = [row["id"] for (row, want), verdict in pairs if want and verdict["status"] != want]
    accepted = [row["id"] for (row, want), verdict in pairs if not want and verdict["status"] == "correct"]
    ends = Counter(verdict["status"] for (_, want), verdict in pairs if not want)
    said = f"{len(rows):,} rows, {BAD:,} of them hostile: {len(verdicts):,} verdicts in {seconds:.0f} s"
    yield Finding(f"{said}, {moved} out of place; hostile: {dict(ends)}", moved == 0)
    yield Finding(f"good rows misjudged: {misjudged[:20] or 'none'}", not misjudged)
    yield Finding(f"hostile rows accepted: {accepted[:20] or 'none'}", not accepted)
    yield Finding(f"left behind: {left or 'nothing'}", not left)
    yield from (Finding(f"  {line}") for line in printed.splitlines())


def good(number: int, rng: random.Random) -> tuple[dict[str, object], str]:
    """A row and the verdict it is made for."""
    right = rng.random() < 0.5
    want = "correct" if right else "wrong"
    if rng.random() < PROGRAMS:
        body = f"def f(x): return {2 if right else 3} * x  # {number}"
        return {"id": f"p{number}", "program": body, "entry_point": "f", "tests": CHECK}, want
    top, bottom = rng.randrange(-999, 999), rng.randrange(1, 99)
    said = f"\\frac{{{2 * (top if right else top + 1)}}}{{{2 * bottom}}}"
    text = rng.choice((f"so \\boxed{{{said}}}", f"<think> {top} </think> The answer is ${said}$.", f"#### {said}"))
    return {"id": f"a{number}", "gold": f"{top}/{bottom}", "prediction": text}, want


def hostile(number: int, rng: random.Random) -> tuple[dict[str, object], None]:
    """A row made to hang, bloat, crash or fool the judge."""
    if rng.random() < PROGRAMS:
        bodies = {**EXHAUSTIONS, **FORGERIES}
        name = rng.choice(sorted(bodies))
        indented = "".join(f"    {line}\n" for line in bodies[name].splitlines())
        body = bodies[name] if name in FORGERIES else f"def f(x):\n{indented}    return x"
        return {"id": f"h{number} {name}", "program": f"{body}\n# {number}", "entry_point": "f", "tests": CHECK}, None
    name = rng.choice(sorted(HOSTILE))
    text, other = HOSTILE[name], f"{HOSTILE[name]} + {number}"
    gold, said = rng.choice((("5", other), (text, other), (r"\sqrt{3+2\sqrt{2}}", other)))
    return {"id": f"h{number} {name}", "gold": gold, "prediction": f"\\boxed{{{said}}}"}, None


if __name__ == "__main__":
    for finding in report():
        print(finding.text)
