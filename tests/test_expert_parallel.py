"""`sft` with `expert_parallel` under torchrun: the step of one process, one checkpoint, and an end when one dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from cli.loading import Folders
from cli.main import app
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.recipe import SHIPPED
from distill.train.curve import CURVE, SftPoint
from distill.train.sft_table import SftConfig
from teacher.config import preset
from teacher.loader import load_teacher
from teacher.model import DeepseekForCausalLM
from teacher.parallel.training import BUCKET, _buckets, split_experts
from tests.test_parallel import torchrun
from tests.test_sft import example

RECIPE = """
title = "Experts on two processes"
[teacher-init]
overrides = { initializer_range = 0.3, num_hidden_layers = 2, num_nextn_predict_layers = 1 }
[student-init]
spec = "mini-95k"
[teacher-coldstart]
stage = "sft"
data = "./examples.jsonl"
model = "teacher-init"
steps = 8
tokens_per_batch = 256
accumulation = 2
warmup_steps = 1
save_every = 2
log_every = 1
balance_loss = 0.1
bias_update = 0.03
mtp_loss = 0.3
allow_contaminated = true
[teacher]
stage = "rl"
model = "teacher-init"
problems = "./examples.jsonl"
steps = 1
max_tokens = 8
"""
STEP = ("sft", "--recipe", "./two.toml", "--step", "teacher-coldstart")
BOTH = ("--set", "teacher-coldstart.expert_parallel=2")
LINE = "rank 0: another process of this run is gone; start the same command again\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its inputs, and in `one` what one process makes of them."""
    folder = tmp_path_factory.mktemp("experts")
    (folder / "two.toml").write_text(RECIPE)
    write_jsonl(
        folder / "examples.jsonl",
        [example(number, f"<think> {'1 ' * (number % 7)}{number % 20} </think> {number % 20}") for number in range(60)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (("teacher-init", "--recipe", "./two.toml"), STEP):
            result = CliRunner().invoke(app, [*arguments, "--out", "one"])
            assert result.exit_code == 0, (result.output, result.exception)
    return folder


def begin(folder: Path, out: str) -> None:
    (folder / out).mkdir()
    (folder / out / "teacher-init").symlink_to(folder / "one" / "teacher-init")


@pytest.fixture(scope="module")
def two(folder: Path) -> subprocess.CompletedProcess[str]:
    """The same step on two processes, in `two`."""
    begin(folder, "two")
    return torchrun("-m", "cli.main", *STEP, "--out", "two", *BOTH, cwd=folder)


def curve(folder: Path, out: str) -> list[SftPoint]:
    lines = (folder / out / "teacher-coldstart" / CURVE).read_text().splitlines()
    return [SftPoint.model_validate_json(line) for line in lines]


def weights(folder: Path, out: str) -> dict[str, torch.Tensor]:
    return load_file(folder / out / "teacher-coldstart" / "model.safetensors")


def test_losses_and_loads_of_the_first_steps_are_those_of_one_process(
    folder: Path, two: subprocess.CompletedProcess[str]
) -> None:
    alone, shared = curve(folder, "one"), curve(folder, "two")
    assert [row.step for row in shared] == [row.step for row in alone] == list(range(1, 9))
    for mine, theirs in zip(shared[:5], alone[:5], strict=True):
        assert mine.tokens == theirs.tokens
        for key in ("loss", "balance_loss", "mtp_loss"):
            assert getattr(mine, key) == pytest.approx(getattr(theirs, key), rel=1e-5)
        assert mine.experts == theirs.experts, "loads are summed over the processes"


def test_the_checkpoint_is_that_of_one_process(folder: Path, two: subprocess.CompletedProcess[str]) -> None:
    start = load_file(folder / "one" / "teacher-init" / "model.safetensors")
    alone, shared = weights(folder, "one"), weights(folder, "two")
    assert shared.keys() == alone.keys()
    for name, tensor in alone.items():
        moved = (tensor - start[name]).abs().max()
        assert (shared[name] - tensor).abs().max() <= 0.01 * moved + 1e-7, name
    biases = [name for name in alone if name.endswith("e_score_correction_bias")]
    assert biases
    assert all(alone[name].abs().max() > 0 for name in biases)
    files = [sorted(path.name for path in (folder / out / "teacher-coldstart").iterdir()) for out in ("one", "two")]
    assert files[0] == files[1], "no state stays behind, nothing is written twice"
    assert load_teacher(folder / "two" / "teacher-coldstart").model.config.n_routed_experts == 8


def test_one_process_alone_speaks(two: subprocess.CompletedProcess[str]) -> None:
    assert two.stdout.count("8 steps, ") == 1
    assert two.stderr.count("expert parallel over 2 ranks by all_to_all") == 1
    assert two.stderr.count("experts backend grouped_mm: ") == 1


def ranks(folder: Path, out: str, port: int) -> list[subprocess.Popen[str]]:
    """Two processes without torchrun, which would end the others itself."""
    shared = {"PYTHONPATH": str(SHIPPED.parent.parent), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "cli.main", *STEP, "--out", out, *BOTH],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **shared, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]


def test_a_killed_process_ends_the_other_and_the_next_run_ends_in_the_same_bits(
    folder: Path, two: subprocess.CompletedProcess[str]
) -> None:
    begin(folder, "killed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    first, second = ranks(folder, "killed", port)
    try:
        states = folder / "killed" / "teacher-coldstart.partial" / "resume"
        until = time.monotonic() + 120
        while not (states / "step-4").is_dir() and time.monotonic() < until:
            time.sleep(0.01)
        second.send_signal(signal.SIGKILL)
        told = first.communicate(timeout=60)[1]
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == 2
    assert told.endswith(LINE), told
    assert "Traceback" not in told
    assert {path.name for path in (states / "step-4").iterdir()} == {"hashes.json", "rank-0", "rank-1"}
    torchrun("-m", "cli.main", *STEP, "--out", "killed", *BOTH, cwd=folder)
    whole, resumed = weights(folder, "two"), weights(folder, "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [row.loss for row in curve(folder, "two")] == [row.loss for row in curve(folder, "killed")]
    assert json.loads((folder / "killed" / "teacher-coldstart" / "manifest.json").read_text())["resumed"] == 1


@pytest.mark.parametrize(
    ("processes", "arguments", "complaint"),
    [
        pytest.param(
            1,
            (*STEP, *BOTH),
            "[teacher-coldstart] expert_parallel: needs 2 processes, this run has 1; start this step alone as "
            "`torchrun --nproc-per-node 2 -m cli.main STAGE --recipe R --step teacher-coldstart`",
            id="sft alone",
        ),
        pytest.param(
            2,
            STEP,
            "[teacher-coldstart] expert_parallel, data_parallel: need 1 processes, this run has 2",
            id="a table that says nothing of processes",
        ),
        pytest.param(
            2,
            ("rl", "--recipe", "./two.toml"),
            "[teacher] its stage runs in one process, this run has 2; start this step alone as `distill STAGE "
            "--recipe R --step teacher`, without torchrun",
            id="rl",
        ),
    ],
)
def test_a_wrong_number_of_processes_is_refused_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, processes: int, arguments: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(app, [*arguments, "--out", "one"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(complaint)


def test_a_student_has_no_experts_to_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    CliRunner().invoke(app, ["student-init", "--recipe", "./two.toml", "--out", "one"])
    with pytest.raises(UserError, match=r"is for teachers; model_type llama has no routed experts"):
        Folders().load(folder / "one" / "student-init", expert_parallel=2)


def test_experts_that_do_not_divide_are_named() -> None:
    with pytest.raises(UserError, match=r"expert_parallel 3: does not divide n_routed_experts \(8\)"):
        split_experts(DeepseekForCausalLM(preset("mini", num_hidden_layers=2)), 0, 3)


def test_a_batch_too_small_for_its_parts_is_refused() -> None:
    table: dict[str, Any] = {"data": "d", "model": "m", "steps": 1, "tokens_per_batch": 6}
    SftConfig(**table, accumulation=3, expert_parallel=2)
    with pytest.raises(ValueError, match="accumulation times the number of processes is larger than tokens_per_batch"):
        SftConfig(**table, accumulation=4, expert_parallel=2)


def test_gradients_travel_in_few_messages_of_one_dtype_and_none_is_left_out() -> None:
    sizes = [3, 5, BUCKET - 8, 1, BUCKET + 1, 2, 4]
    with torch.device("meta"):
        parameters = [nn.Parameter(torch.empty(size)) for size in sizes]
        parameters[5] = nn.Parameter(torch.empty(2, dtype=torch.bfloat16))
    found = [[weight.numel() for weight in bucket] for bucket in _buckets(parameters)]
    assert found == [[3, 5, BUCKET - 8], [1], [BUCKET + 1], [2], [4]]
