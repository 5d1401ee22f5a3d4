"""`make speed`: every timing against its peer; rows with date, device and versions into docs/speed/*.csv.

Each module prints CSV and asserts that both sides say the same before it times them. SPEED_OUT
names another folder. Give module names to run only those.
"""

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
ALL = ("endpoint", "engine", "harvest", "ledger", "near", "packing", "scoring", "teacher", "teacher_engine", "training")


def device() -> str:
    """The processor's name and how many threads torch may use."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} x{os.cpu_count()}"


def main() -> None:
    out = Path(os.environ.get("SPEED_OUT", HERE.parent.parent / "docs/speed"))
    versions = f"torch {torch.__version__} transformers {transformers.__version__}"
    stamp = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d},{device()},{versions}"
    for name in sys.argv[1:] or ALL:
        # As a module: run as a script, teacher.py would find itself under the name of the package it times.
        command = [sys.executable, "-W", "ignore", "-m", f"tests.speed.{name}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        printed = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=HERE.parent.parent
        ).stdout
        # Libraries print into the same stream; a row is one more line of as many fields as the header.
        header, *others = [line for line in printed.splitlines() if re.match("[a-z]", line)]
        rows = [line for line in others if line.count(",") == header.count(",")]
        text = "\n".join([f"date,device,versions,{header}", *(f"{stamp},{row}" for row in rows)])
        (out / f"{name}.csv").write_text(text + "\n", encoding="utf-8")
        print(f"{out / name}.csv\n{text}", flush=True)


if __name__ == "__main__":
    main()
