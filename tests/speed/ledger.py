"""Records a second the ledger acknowledges and reads back, by batch: 4 kB traces, one writer.

`python tests/speed/ledger.py [FOLDER]` writes into a fresh folder under FOLDER (default: the
current one, because /tmp may be memory) and prints CSV.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from distill.ledger import Ledger, read_ledger
from distill.records import Params, SamplerId, Trace

SECONDS = 3.0


def trace(number: int) -> Trace:
    """About 4 kB on disk."""
    return Trace(
        id=f"{number:016x}",
        problem_id=f"p{number // 4}",
        sampler=SamplerId(name="speed", revision="1"),
        params=Params(max_tokens=1000),
        sample_index=number % 4,
        reasoning="so 7 + 5 = 12 ; " * 120,
        answer="12",
        text="so 7 + 5 = 12 ; " * 120,
        finish="stop",
        prompt_tokens=20,
        completion_tokens=700,
    )


def rate(step: Callable[[int], object]) -> float:
    """Calls a second."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < SECONDS:
        step(count)
        count += 1
    return count / (time.monotonic() - begun)


def main(where: Path) -> None:
    """One row a batch size, then reading."""
    rows = [trace(number) for number in range(1000)]
    print("what,batch,records_per_second")
    with tempfile.TemporaryDirectory(dir=where) as folder:
        for batch in (1, 32, 128, 256):
            with Ledger(Path(folder) / str(batch), batch=batch) as ledger:
                print(f"write,{batch},{rate(lambda number, to=ledger: to.append(rows[number % 1000])):.0f}")
        begun = time.monotonic()
        count = sum(1 for _ in read_ledger(Path(folder) / "256", Trace))
        print(f"read,,{count / (time.monotonic() - begun):.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
