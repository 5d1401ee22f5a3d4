"""What docs/lora.md claims of states: `make training-kills`; of one run: `python -m tests.training_audit rl`.

For `sft`, `sft` on adapters over a 4-bit base, and `rl`, each on a toy: one run straight through, then one killed with
SIGKILL before everything that happens to a file while a state and the checkpoint are written, one with each file they
wrote cut in half besides, one at each of 20 random steps, and one for each way to damage the newest state that was
left behind. Each is continued to its end and compared with the straight one: every bit of the weights, every row of
the curve but its seconds. Prints a row a run and exits with 1 where anything differs.
"""

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cli.libraries import prepare
from distill.train.resume import FOLDER, PARTIAL
from tests.test_resume import LORA, RL, SFT, write_inputs
from tests.training_kills import attempt, die_at, watch

STEPS, SAVE_EVERY, RANDOM = 21, 3, 20
AMID = f"step-{2 * SAVE_EVERY}"
"""The state whose writing is cut everywhere: the second, so that there is one to go back to."""
COMMON = {"steps": STEPS, "save_every": SAVE_EVERY, "keep_last": 2}
RUNS: dict[str, tuple[str, tuple[str, str], dict[str, Any]]] = {
    "sft": ("sft", ("examples.jsonl", "model"), {**SFT, "keep_best": "held_out_loss", "held_out": 8}),
    "lora": ("sft", ("examples.jsonl", "model"), LORA),
    # The toy's dropout parts trainer from sampler, which the guard would stop within its window.
    "rl": ("rl", ("model", "problems.jsonl"), {**RL, "keep_best": "reward", "guard": {"window": STEPS + 1}}),
}
DAMAGES = ("byte", "missing", "truncated", "surplus")


def main() -> None:
    prepare()
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        write_inputs(base)
        for run in sys.argv[1:] or RUNS:
            stage, inputs, fields = RUNS[run]
            job = {"stage": stage, "inputs": [str(base / found) for found in inputs], "fields": {**fields, **COMMON}}
            began = time.monotonic()
            events = _straight(job, base / "straight", base / "events.json")
            for kind, instants in _instants(events):
                wrong += _tell(run, kind, [_same_after(job, base, instant) for instant in instants])
            wrong += _tell(run, "damaged states", [_same_after(job, base, None, damage) for damage in DAMAGES])
            print(f"{run:<5} {time.monotonic() - began:.0f} s", flush=True)
            shutil.rmtree(base / "straight")
    sys.exit(int(wrong > 0))


def _tell(run: str, kind: str, same: list[bool]) -> int:
    """Print a row; how many differ."""
    print(f"{run:<5} {kind:<34} {sum(same):>3} of {len(same):>3} end bit for bit like the straight run", flush=True)
    return len(same) - sum(same)


def _straight(job: dict[str, Any], out: Path, record: Path) -> list[tuple[str, str]]:
    """Run a job to its end; everything that happened to files, in order."""

    def note(event: str, path: Path) -> None:
        with record.open("a") as file:
            file.write(json.dumps([event, str(path)]) + "\n")

    record.unlink(missing_ok=True)
    status = attempt({**job, "out": str(out)}, lambda: watch(out, note))
    assert status == 0, f"the straight run ended with status {status}"
    return [(event, path) for event, path in map(json.loads, record.read_text().splitlines())]


def _instants(events: list[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """What is cut: kinds of runs with an instant each."""
    ours = [place for place, (_, path) in enumerate(events) if AMID in path]
    amid = range(ours[0], ours[-1] + 1)
    last = max(place for place, (event, path) in enumerate(events) if event == "os.rename" and f"/{FOLDER}/" in path)
    final = range(last + 1, len(events))
    written = [place + 1 for part in (amid, final) for place in part if events[place][0] == "written"]
    yield "file boundaries of a state", [f"event:{place}" for place in amid]
    yield "file boundaries of the checkpoint", [f"event:{place}" for place in final]
    yield "halves of files", [f"torn:{place}" for place in written]
    yield "random steps", [f"step:{step}" for step in random.Random(0).sample(range(1, STEPS), RANDOM)]


def _same_after(job: dict[str, Any], base: Path, instant: str | None, damage: str = "") -> bool:
    """Whether a run that was killed, or lost a part of its newest state, ends like the straight one."""
    out = base / "killed"
    again = {**job, "out": str(out)}
    stop = instant or f"step:{3 * SAVE_EVERY + 1}"
    assert attempt(again, lambda: die_at(stop, out)) == signal.SIGKILL, f"{stop}: not reached"
    if damage:
        states = [path for path in (out / FOLDER).iterdir() if path.suffix != PARTIAL]
        assert len(states) > 1, "one to damage, one to go back to"
        _damage(max(states, key=lambda path: int(path.name.removeprefix("step-"))), damage)
    ended = attempt(again, lambda: None) == 0
    same = ended and _ends(out) == _ends(base / "straight")
    if not same:
        print(f"{job['stage']} {instant or damage}: {'differs' if ended else 'did not end'}")
    shutil.rmtree(out)
    return same


def _damage(state: Path, how: str) -> None:
    target = state / "weights.pt"
    content = bytearray(target.read_bytes())
    if how == "byte":
        content[len(content) // 2] ^= 1
        target.write_bytes(content)
    elif how == "missing":
        target.unlink()
    elif how == "truncated":
        target.write_bytes(content[:-1])
    else:
        (state / "rng_state_1.pth").write_bytes(content)


def _ends(out: Path) -> list[Any]:
    """Weights by their bits, the curve without seconds, names of the files."""
    weights = {name: tensor.numpy().tobytes() for name, tensor in load_file(out / "model.safetensors").items()}
    rows = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    curve = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return [weights, curve, sorted(str(path.relative_to(out)) for path in out.rglob("*"))]


if __name__ == "__main__":
    main()
