"""How a rank's process ends: with what it was told, its exit functions run, and nothing of Python taken down."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys
from cli.ranks import end

class Last:
    def __del__(self):
        print("taken down")

last = Last()
atexit.register(lambda: print("exit functions ran"))
print("work done")
end({code})
"""


@pytest.mark.parametrize(("code", "left"), [("None", 0), ("0", 0), ("2", 2), ("'refused'", 1)])
def test_a_rank_ends_without_taking_python_down(code: str, left: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(code=code)], capture_output=True, text=True)
    assert done.returncode == left
    assert done.stdout.splitlines() == ["work done", "exit functions ran"]
