"""The GPU machine's command runs its whole path here, in the interpreter, at toy size."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_gpu_command_checks_the_kernel_at_toy_size() -> None:
    command = [sys.executable, "-m", "tests.speed.gpu", "--toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok  D,F,E,K") == 2
