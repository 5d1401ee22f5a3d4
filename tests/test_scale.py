"""`sft` on two gloo processes, replicated or under ZeRO: the steps of one process, resumable, refused by name."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from cli.main import app
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.train.curve import CURVE, SftPoint
from distill.train.replicas import FOREIGN, Replicas
from distill.train.zero import STALE, check_builds, read_zero, zero_names
from tests.test_sft import example

RECIPE = """
title = "Two processes"
[student-init]
spec = "mini-95k"
[teacher-init]
overrides = { initializer_range = 0.3, num_hidden_layers = 2, num_nextn_predict_layers = 1 }
[student]
stage = "sft"
data = "./examples.jsonl"
model = "student-init"
optimizer = "adamw"
steps = 8
tokens_per_batch = 256
accumulation = 2
warmup_steps = 1
save_every = 2
log_every = 1
allow_contaminated = true
[teacher]
stage = "sft"
data = "./examples.jsonl"
model = "teacher-init"
steps = 5
tokens_per_batch = 256
accumulation = 2
warmup_steps = 1
save_every = 0
log_every = 1
balance_loss = 0.1
bias_update = 0.03
allow_contaminated = true
"""


def slow(name: str | None) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


STEP = ("sft", "--recipe", "./two.toml", "--step")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its inputs, and in `one` what one process makes of them."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "two.toml").write_text(RECIPE)
    write_jsonl(
        folder / "examples.jsonl",
        [example(number, f"<think> {'1 ' * (number % 7)}{number % 20} </think> {number % 20}") for number in range(60)],
    )
    inits = [("student-init", "--recipe", "./two.toml"), ("teacher-init", "--recipe", "./two.toml")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (*inits, (*STEP, "student"), (*STEP, "teacher")):
            result = CliRunner().invoke(app, [*arguments, "--out", "one"])
            assert result.exit_code == 0, (result.output, result.exception)
    return folder


def command(folder: Path, out: str, step: str, *flags: str) -> list[str]:
    (folder / out).mkdir(exist_ok=True)
    for init in ("student-init", "teacher-init"):
        if not (folder / out / init).exists():
            (folder / out / init).symlink_to(folder / "one" / init)
    return [sys.executable, "-m", "cli.main", *STEP, step, "--out", out, "--nproc", "2", *flags]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def two(folder: Path, out: str, step: str, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = command(folder, out, step, *flags)
    done = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def curve(folder: Path, out: str, step: str) -> list[SftPoint]:
    return [SftPoint.model_validate_json(line) for line in (folder / out / step / CURVE).read_text().splitlines()]


def weights(folder: Path, out: str, step: str) -> dict[str, torch.Tensor]:
    return load_file(folder / out / step / "model.safetensors")


def assert_alike(folder: Path, out: str, step: str) -> None:
    """Losses of every step to 1e-4, and weights to 1% of what training moved them."""
    mine, theirs = curve(folder, out, step), curve(folder, "one", step)
    assert [point.step for point in mine] == [point.step for point in theirs]
    for point, other in zip(mine, theirs, strict=True):
        assert point.loss == pytest.approx(other.loss, rel=1e-4)
    begun = load_file(folder / "one" / f"{step}-init" / "model.safetensors")
    ended, made = weights(folder, "one", step), weights(folder, out, step)
    assert made.keys() == ended.keys()
    for name, tensor in made.items():
        moved = (ended[name] - begun[name]).norm()
        assert (tensor - ended[name]).norm() <= 0.01 * moved + 1e-7, name


@pytest.mark.parametrize(
    "zero", [None, "zero2", "zero3", *(slow(name) for name in ("zero1", "zero2-offload", "zero3-offload"))]
)
def test_two_processes_take_the_steps_of_one(folder: Path, zero: str | None) -> None:
    out = zero or "replicas"
    done = two(folder, out, "student", *(("--deepspeed", zero) if zero else ()))
    assert "8 steps" in done.stdout
    assert "Warning" not in done.stderr, done.stderr
    assert_alike(folder, out, "student")
    assert not (folder / out / "student" / "resume").exists()
    model = AutoModelForCausalLM.from_pretrained(folder / out / "student", local_files_only=True)
    assert sum(weight.numel() for weight in model.parameters()) == 94_528


def test_a_teachers_loads_are_those_of_both_processes(folder: Path) -> None:
    two(folder, "replicated-teacher", "teacher")
    assert_alike(folder, "replicated-teacher", "teacher")
    for mine, other in zip(
        curve(folder, "replicated-teacher", "teacher"), curve(folder, "one", "teacher"), strict=True
    ):
        assert mine.experts is not None
        assert other.experts is not None
        assert mine.experts.max_violation == pytest.approx(other.experts.max_violation, rel=1e-4)
        assert mine.balance_loss == pytest.approx(other.balance_loss, rel=1e-4)


@pytest.mark.parametrize("zero", [slow(None), "zero3"])
def test_a_killed_run_ends_in_the_bits_of_one_that_was_not(folder: Path, zero: str | None) -> None:
    out, flags = f"killed-{zero}", ("--deepspeed", zero) if zero else ()
    line = command(folder, out, "student", *flags)
    process = subprocess.Popen(line, cwd=folder, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL)
    state = folder / out / "student.partial" / "resume" / "step-4"
    deadline = time.monotonic() + 120
    while not state.is_dir():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    two(folder, out, "student", *flags)
    whole = zero or "replicas"
    if not (folder / whole / "student").is_dir():
        two(folder, whole, "student", *flags)
    ended, resumed = weights(folder, whole, "student"), weights(folder, out, "student")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in ended.items())


def test_a_refusal_comes_once_and_before_any_process(folder: Path) -> None:
    done = two(folder, "refused", "teacher", "--deepspeed", "zero2", code=2)
    assert done.stderr.count("muon needs them whole") == 1


@pytest.mark.parametrize(
    ("key", "says"),
    [("zero4", "no such configuration \\(did you mean zero3"), ("mine.json", "no such configuration")],
)
def test_an_unknown_configuration_is_refused_with_those_there_are(key: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        read_zero(key, bf16=False)
    assert all(name in str(refusal.value) for name in zero_names())


def test_a_configuration_may_not_say_what_the_recipe_says(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}))
    with pytest.raises(UserError, match="key optimizer: the recipe's table decides this"):
        read_zero(str(path), bf16=False)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_zero(str(path), bf16=False)


def test_bfloat16_is_autocast_over_float32_weights() -> None:
    assert read_zero("zero3", bf16=True)["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "torch_autocast" not in read_zero("zero3", bf16=False)


def test_the_lock_of_a_killed_build_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    check_builds()
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    check_builds()  # somebody may be building
    os.utime(lock, (time.time() - STALE - 60,) * 2)
    with pytest.raises(UserError, match=r"killed 11 minutes ago.*Remove the folder .*deepspeed_shm_comm"):
        check_builds()


@pytest.mark.parametrize("name", FOREIGN)
def test_a_wrapper_chosen_behind_the_recipe_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(UserError, match=f"{name}=true"):
        Replicas(None)


def test_another_wrapper_than_the_one_asked_for_is_refused() -> None:
    replicas = Replicas.__new__(Replicas)
    replicas.zero, replicas.rank, replicas.world = {"zero_optimization": {"stage": 3}}, 0, 2
    with pytest.raises(UserError, match="was to be wrapped in DeepSpeedEngine and is in Linear"):
        replicas.check_wrapper(torch.nn.Linear(1, 1))
