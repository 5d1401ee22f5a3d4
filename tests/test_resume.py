"""Training killed with SIGKILL: whatever the instant, the end is that of an uninterrupted run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from distill.jsonl import write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.records import Example, Message, Problem
from distill.train.resume import Keep, States
from teacher.config import preset
from teacher.model import DeepseekForCausalLM

KILLS = Path(__file__).parent / "training_kills.py"
SFT: dict[str, Any] = {
    "steps": 12,
    "tokens_per_batch": 128,
    "accumulation": 2,
    "log_every": 2,
    "save_every": 3,
    "allow_contaminated": True,
}
RL: dict[str, Any] = {
    "steps": 6,
    "save_every": 2,
    "prompts_per_step": 4,
    "samples": 4,
    "max_tokens": 8,
    "probe": 4,
    "floor": 0.0,
}
KD: dict[str, Any] = {**SFT, "ce_weight": 0.5}
ON_POLICY: dict[str, Any] = {
    "steps": 6,
    "save_every": 2,
    "on_policy": 0.7,
    "prompts_per_step": 6,
    "max_tokens": 8,
    "probe": 4,
    "compatible": 0.0,
    "tokens_per_batch": 64,
    "judged": True,
    "allow_contaminated": True,
}
LORA: dict[str, Any] = {
    **SFT,
    "optimizer": "adamw",
    "held_out": 8,
    "lora": {"rank": 4, "dropout": 0.1, "base": "nf4"},
}
GUARDED: dict[str, Any] = {
    **SFT,
    "held_out": 8,
    "guard": {"problems": "p", "off_target": "p", "n": 8, "max_tokens": 8, "rows": 8, "every": 4},
}
EXPERTS: dict[str, Any] = {**SFT, "bias_update": 0.03, "balance_loss": 0.1, "mtp_loss": 0.3}
RUNS: dict[str, tuple[str, tuple[str, str], dict[str, Any]]] = {
    "sft": ("sft", ("examples.jsonl", "model"), SFT),
    "guarded": ("sft", ("examples.jsonl", "model", "exam.jsonl"), GUARDED),
    "lora": ("sft", ("examples.jsonl", "model"), LORA),
    "experts": ("sft", ("examples.jsonl", "teacher"), EXPERTS),
    "rl": ("rl", ("model", "problems.jsonl"), RL),
    "kd": ("kd", ("logits", "model"), KD),
    "on-policy": ("on-policy", ("model", "teacher", "problems.jsonl", "examples.jsonl"), ON_POLICY),
}
"""Stage, inputs and table of each run; `experts` carries correction biases and further tokens through a kill."""
INSTANTS = {
    # Steps and syncs are counted anew in each attempt. A state syncs the curve, five files, the folder, its manifest,
    # the folder again, its parent.
    "sft": ("step:5", "sync:8", "step:3"),
    "guarded": ("step:2", "step:5"),
    "lora": ("step:7",),
    "experts": ("step:5", "sync:8"),
    "rl": ("step:4", "sync:3"),
    "kd": ("step:5", "sync:3"),
    "on-policy": ("step:3", "sync:2", "step:2"),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every run was made twice: `<run>-killed` and `<run>-straight`."""
    base = tmp_path_factory.mktemp("killed")
    write_inputs(base)
    told = {"stage": "logits", "inputs": [str(base / "examples.jsonl"), str(base / "teacher")], "instants": ()}
    jobs = [{**told, "out": str(base / "logits"), "fields": {}}]
    jobs += [
        {
            "stage": stage,
            "inputs": [str(base / name) for name in inputs],
            "out": str(base / f"{run}-{how}"),
            "fields": fields,
            "instants": INSTANTS[run] if how == "killed" else (),
        }
        for run, (stage, inputs, fields) in RUNS.items()
        for how in ("straight", "killed")
    ]
    (base / "jobs.json").write_text(json.dumps(jobs))
    root = KILLS.parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(KILLS), str(base / "jobs.json")]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return base


@pytest.mark.parametrize("run", RUNS)
def test_killed_training_ends_bit_for_bit_like_an_uninterrupted_run(run: str, ended: Path) -> None:
    model = next(name for name in RUNS[run][1] if name in ("model", "teacher"))
    start, straight, killed = (
        load_file(ended / name / "model.safetensors") for name in (model, f"{run}-straight", f"{run}-killed")
    )
    moved = {name for name in start if not torch.equal(start[name], straight[name])}
    assert run != "experts" or any("e_score_correction_bias" in name for name in moved), "no bias was moved"
    assert moved, "nothing was learned"
    assert all(torch.equal(straight[name], killed[name]) for name in straight)


@pytest.mark.parametrize("run", RUNS)
def test_the_curve_of_a_killed_run_has_no_gap_and_no_row_twice(run: str, ended: Path) -> None:
    steps = [
        [json.loads(line)["step"] for line in (ended / f"{run}-{how}" / "curve.jsonl").read_text().splitlines()]
        for how in ("straight", "killed")
    ]
    assert steps[0] == steps[1]


def test_a_killed_guard_finds_what_an_uninterrupted_one_finds(ended: Path) -> None:
    straight, killed = (ended / f"guarded-{how}" for how in ("straight", "killed"))
    assert (straight / "guard.json").read_bytes() == (killed / "guard.json").read_bytes()
    columns = ("loss", "loss_reasoning", "loss_answer", "held_out_loss", "held_out_accuracy")
    seen = []
    for out in (straight, killed):
        rows = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
        seen.append([[row.get(name) for name in columns] for row in rows])
    assert seen[0] == seen[1]
    assert sum(row[-1] is not None for row in seen[0]) == 3


@pytest.mark.parametrize("run", RUNS)
def test_nothing_of_the_states_stays_in_the_final_folder(run: str, ended: Path) -> None:
    straight, killed = ({path.name for path in (ended / f"{run}-{how}").iterdir()} for how in ("straight", "killed"))
    assert straight == killed
    assert "resume" not in killed


def write(states: States, step: int, name: str, *, metric: float | None = None, dies: bool = False) -> None:
    with states.write(step, metric) as folder:
        (folder / name).write_text(name)
        if dies:
            raise KeyboardInterrupt


def test_only_whole_states_are_found_and_two_are_kept(tmp_path: Path) -> None:
    states = States(tmp_path)
    for step in (3, 20, 100):
        write(states, step, f"weights-{step}")
    with pytest.raises(KeyboardInterrupt):
        write(states, 200, "weights-200", dies=True)
    assert states.newest() == (100, states.folder / "step-100")
    assert sorted(path.name for path in states.folder.iterdir()) == ["step-100", "step-20", "step-200.partial"]


def test_a_leftover_of_a_killed_write_does_not_get_into_the_next(tmp_path: Path) -> None:
    states = States(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write(states, 5, "half", dies=True)
    write(states, 5, "whole")
    assert {path.name for path in (states.folder / "step-5").iterdir()} == {"whole", "hashes.json"}


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit": (lambda folder: flip(folder / "weights-20"), "weights-20 is damaged: its hash is not the one written"),
    "cut": (lambda folder: (folder / "weights-20").write_text("weigh"), "weights-20 has 5 bytes, 10 were written"),
    "a file": (lambda folder: (folder / "weights-20").unlink(), "weights-20 is missing"),
    "the manifest": (lambda folder: (folder / "hashes.json").unlink(), "hashes.json is missing"),
    "half of it": (lambda folder: (folder / "hashes.json").write_text("{"), "hashes.json is damaged"),
    "more": (lambda folder: (folder / "rank-1.pt").write_text("x"), "rank-1.pt was not written by the training"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_named_and_the_one_before_it_taken(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, complaint = DAMAGES[name]
    states = States(tmp_path)
    for step in (3, 20):
        write(states, step, f"weights-{step}")
    damage(states.folder / "step-20")
    assert states.newest() == (3, states.folder / "step-3")
    assert caplog.messages == [f"{states.folder / 'step-20'}: not used: {complaint}"]
    write(states, 10, "weights-10")
    assert states.newest() == (10, states.folder / "step-10"), "the damaged one is not counted among the newest"
    assert (states.folder / "step-3").is_dir()
    write(states, 20, "weights-20")
    assert states.newest() == (20, states.folder / "step-20")


@pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("accuracy", 3)], ids=["lowest", "highest"])
def test_the_best_state_stays_however_old_it_is(metric: str, best: int, tmp_path: Path) -> None:
    states = States(tmp_path, keep=Keep(last=1, metric=metric))
    for step, value in ((1, 0.5), (2, 0.2), (3, 0.7), (4, 0.2), (5, 0.3), (6, 0.7)):
        write(states, step, "weights", metric=value)
    assert sorted(path.name for path in states.folder.iterdir()) == [f"step-{best}", "step-6"]
    assert states.best() == (best, states.folder / f"step-{best}")
    flip(states.folder / f"step-{best}" / "weights")
    assert states.best() == (6, states.folder / "step-6")


def test_a_kill_between_two_deletions_leaves_no_half_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = States(tmp_path, keep=Keep(last=1))
    write(states, 1, "weights")
    with monkeypatch.context() as patch:
        patch.setattr("distill.train.resume.shutil.rmtree", lambda path, ignore_errors=False: None)
        write(states, 2, "weights")  # as if killed before the old one was deleted
    assert [path.name for path in states._whole().values()] == ["step-2"]


def write_inputs(base: Path) -> None:
    tokenizer = mini_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        attention_dropout=0.1,  # so that a resumed run must find the random numbers where they were
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(base / "model")
    tokenizer.save_pretrained(base / "model")
    routed = preset(
        "mini",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_nextn_predict_layers=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    DeepseekForCausalLM(routed).save_pretrained(base / "teacher")
    tokenizer.save_pretrained(base / "teacher")
    examples = [
        Example(
            id=f"e{number}",
            problem_id=f"p{number}",
            trace_id=None,
            messages=(
                Message(role="user", content=f"Mia has {number % 20} coins ."),
                Message(role="assistant", content=f"<think> {number % 20} </think> {number % 20}"),
            ),
            order=number,
        )
        for number in range(60)
    ]
    problems = [
        Problem(
            id=f"p{number}",
            kind="answer",
            prompt=f"{number} coins ?",
            answer="1",
            source="stories",
            split="train",
            level=number % 2,
        )
        for number in range(12)
    ]
    write_jsonl(base / "examples.jsonl", examples)
    write_jsonl(base / "problems.jsonl", problems)
    exam = [problem.model_copy(update={"id": f"q{problem.id}", "split": "test"}) for problem in problems]
    write_jsonl(base / "exam.jsonl", exam)
