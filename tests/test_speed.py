"""The speed commands start, and the GPU machine's runs its whole path in the interpreter, at toy size."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_gpu_command_checks_the_kernel_at_toy_size() -> None:
    command = [sys.executable, "-m", "tests.speed.gpu", "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok  D,F,E,K") == 2


def test_every_timing_finds_the_rooms_it_times() -> None:
    """Run as scripts they did not: teacher.py was then itself the module `teacher`."""
    code = (
        "import importlib\n"
        "from tests.speed.__main__ import ALL\n"
        "for name in ALL: importlib.import_module(f'tests.speed.{name}')"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
