"""What plan says of training is what a person would compute, and what autograd keeps."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from cli.main import app
from distill.plan import EngineShape, Hardware
from distill.train.adapters import adapt
from distill.train.estimate import (
    TFLOPS,
    UTILIZATION,
    WIDE,
    Rollout,
    TrainEstimate,
    TrainShape,
    estimate_scoring,
    estimate_training,
    rollout_of,
    table,
)
from distill.train.kd import KdConfig
from distill.train.logits import LogitsConfig
from distill.train.on_policy_table import OnPolicyConfig
from distill.train.optimizers import make_optimizer
from distill.train.rl import RlConfig
from distill.train.schedule import TrainConfig
from distill.train.sft_table import SftConfig
from students.shapes import train_shape as student_shape
from students.specs import find_spec, model_config
from teacher.config import preset
from teacher.model import DeepseekForCausalLM
from teacher.parallel.shapes import train_shape

HARDWARE = Hardware(gpus=2, gpu_gb=1, bandwidth_tbs=2)
TOY = TrainShape(
    what="toy",
    matrices=10**6,
    expert_matrices=4 * 10**6,
    rest=10**5,
    multiplied=10**6,
    further=5 * 10**5,
    vocabulary=100,
    layer_values=(1000, 3000),
    width=100,
)


def sft(**fields: Any) -> SftConfig:
    return SftConfig(data="d", model="m", **{"steps": 10, "tokens_per_batch": 1000, **fields})


def rl(**fields: Any) -> RlConfig:
    return RlConfig(model="m", problems="p", steps=10, max_tokens=100, **fields)


def on_policy(**fields: Any) -> OnPolicyConfig:
    common = {"steps": 10, "max_tokens": 100, "prompts_per_step": 30, "samples": 2}
    return OnPolicyConfig(model="m", teacher="t", problems="p", **{**common, **fields})


def row(config: TrainConfig, **given: Any) -> TrainEstimate:
    assumed = {"tflops": 1e-6, "utilization": 0.5, "prompt_tokens": 20, **given}
    return estimate_training("step", "sft", config, TOY, HARDWARE, **assumed)


def test_the_utilization_is_what_v3s_published_hours_imply() -> None:
    """14.8 trillion tokens, 37 billion active weights, 2.788 million hours on GPUs of 989 TFLOP/s in bfloat16."""
    reached = 14.8e12 * 6 * 37e9 / (2.788e6 * 3600)
    assert reached == pytest.approx(327e12, rel=0.002)
    assert pytest.approx(reached / (TFLOPS * 1e12), abs=0.005) == UTILIZATION


def test_v3s_own_shape_gives_its_hours_back() -> None:
    shape = train_shape(preset("v3"), "V3")
    further = shape.multiplied + shape.further
    hours = [14.8e12 * 6 * active / (TFLOPS * 1e12 * UTILIZATION * 3600) for active in (shape.multiplied, further)]
    assert hours == pytest.approx([2.77e6, 2.89e6], rel=0.002)
    assert shape.multiplied == 36_625_603_584
    assert shape.parameters == 671_026_404_352 + 11_610_067_968


@pytest.mark.parametrize(
    ("fields", "tokens", "flops"),
    [
        pytest.param({}, 10_000, 6e10, id="full batches"),
        pytest.param({"steps": None, "tokens": 2500}, 2500, 1.5e10, id="a budget of tokens"),
        pytest.param({"gradient_checkpointing": True}, 10_000, 8e10, id="a second forward"),
        pytest.param({"mtp_loss": 0.1}, 10_000, 9e10, id="further tokens"),
    ],
)
def test_operations_are_those_of_a_pocket_calculator(fields: dict[str, Any], tokens: int, flops: float) -> None:
    found = row(sft(**fields), price=3.0)
    assert (found.tokens, found.flops) == (tokens, flops)
    assert found.hours == pytest.approx(flops / 0.5e6 / 3600)
    assert found.cost == pytest.approx(3 * found.hours)


def test_processes_share_experts_and_rows_and_are_all_paid_for() -> None:
    one, two = row(sft(optimizer="adamw"), price=1.0), row(sft(optimizer="adamw", expert_parallel=2), price=1.0)
    assert two.gpus_used == 2
    assert two.weight_gb == pytest.approx((10**6 + 2 * 10**6 + 10**5) * 4 / 1e9)
    assert two.optimizer_gb == 2 * two.weight_gb
    assert two.activation_gb == pytest.approx(one.activation_gb / 2)
    assert (two.hours * 2, two.cost) == pytest.approx((one.hours, one.cost))
    assert not row(sft(expert_parallel=4, tokens_per_batch=4000)).fits, "there are two"


def test_rl_samples_what_it_trains_on_and_holds_a_second_model_to_stay_near() -> None:
    rollout = Rollout(seconds=7200, engine_bytes=10**8)
    found = estimate_training(
        "step", "rl", rl(), TOY, HARDWARE, tflops=1e-6, utilization=0.5, prompt_tokens=20, rollout=rollout
    )
    assert found.tokens == 10 * 32 * 8 * 120
    assert found.sampling_hours == 2
    assert found.hours == pytest.approx(2 + found.flops / 0.5e6 / 3600)
    assert found.beside_gb == pytest.approx(0.1)
    held = row(rl(beta=0.1))
    assert held.flops == pytest.approx(found.flops * 8 / 6)
    assert held.beside_gb == held.weight_gb
    assert row(rl(weights="int8")).flops == pytest.approx(found.flops * 8 / 6), "what the trainer thought before"
    assert row(rl(updates=2)).flops == pytest.approx(found.flops * 14 / 6)


def test_rollouts_take_turns_where_the_cache_is_small() -> None:
    engine = EngineShape(
        what="toy",
        gpus=1,
        weight_bytes=5_100_000 * WIDE + 1000,
        always_bytes=10**6,
        expert_bytes=0,
        experts=0,
        chosen=0,
        expert_layers=0,
        cache_bytes_per_token=1000,
        prefill_bytes_per_token=0,
        row_bytes=0,
        scratch_bytes=0,
        positions=1000,
    )
    found = rollout_of(rl(cache_gb=100 * 120 * 1000 / 1e9), TOY, engine, HARDWARE, 20)  # room for 100 of 256 rows
    assert found.seconds == pytest.approx(10 * 3 * 100 * (10**6 + 100 * 70 * 1000) / 2e12)
    assert found.engine_bytes == 100 * 120 * 1000 + 1000


STUDENT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def made(kind: str, layers: int) -> tuple[Any, TrainShape]:
    """A model of some layers and its shape."""
    if kind.startswith("teacher"):
        keys = {"teacher dense": {"first_k_dense_replace": 9}, "teacher latent": {"q_lora_rank": 24}}.get(kind, {})
        config = preset("mini", num_hidden_layers=layers, **{"first_k_dense_replace": 0, **keys})
        return DeepseekForCausalLM(config), train_shape(config, kind)
    config = AutoConfig.for_model(kind, num_hidden_layers=layers, tie_word_embeddings=kind == "qwen3", **STUDENT)
    return AutoModelForCausalLM.from_config(config), student_shape(config, kind)


KINDS = ["teacher", "teacher dense", "teacher latent", "llama", "qwen3"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_optimizer_states_are_counted_exactly(kind: str) -> None:
    model, shape = made(kind, 2)
    assert sum(weight.numel() for weight in model.parameters()) == shape.parameters
    for optimizer in ("muon", "adamw"):
        config = sft(optimizer=optimizer)
        stepper = make_optimizer(model, config)
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        stepper.step()
        held = sum(value.nbytes for state in stepper.state.values() for value in state.values() if value.ndim)
        found = estimate_training("s", "sft", config, shape, HARDWARE, tflops=1, utilization=1, prompt_tokens=1)
        assert found.optimizer_gb * 1e9 == pytest.approx(held)


def kept(model: Any, ids: torch.Tensor) -> int:
    """Bytes autograd keeps of a pass beside the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.train()(input_ids=ids)
    assert output.logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_no_less_than_autograd_keeps_and_little_more(kind: str, bf16: bool) -> None:
    ids = torch.randint(60, (8, 64))
    grown = []
    for layers in (2, 4):  # the difference is two layers, without embedding, head and loss
        model, shape = made(kind, layers)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            held = kept(model, ids)
        said = estimate_training(
            "s",
            "sft",
            sft(tokens_per_batch=ids.numel(), bf16=bf16),
            shape,
            HARDWARE,
            tflops=1,
            utilization=1,
            prompt_tokens=1,
        )
        grown.append((held, said.activation_gb * 1e9))
    held, said_bytes = (grown[1][which] - grown[0][which] for which in (0, 1))
    assert held <= said_bytes <= 1.6 * held if bf16 else held <= said_bytes <= 1.25 * held


def rows(*arguments: str) -> dict[str, TrainEstimate]:
    result = CliRunner().invoke(app, ["plan", "--json", "--gpus", "8", "--gpu-gb", "141", *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {each["step"]: TrainEstimate.model_validate(each) for each in found if "flops" in each}


def test_every_training_step_of_a_recipe_has_a_row() -> None:
    found = rows("--recipe", "mini", "--prompt-tokens", "80", "--price", "2")
    assert list(found) == ["teacher-coldstart", "teacher", "student", "student-raw", "student-answers-only"]
    assert found["teacher-coldstart"].tokens == 700 * 2048
    assert found["teacher"].sampling_hours > 0
    assert all(each.fits and each.cost is not None for each in found.values())


def test_a_table_of_training_says_what_it_assumes() -> None:
    arguments = ["plan", "--recipe", "r1-671b", "--gpus", "8", "--gpu-gb", "80", "--step", "student"]
    text = CliRunner().invoke(app, arguments).stdout
    assert "33% of 989 TFLOP/s" in text
    assert "attention is not in it" in text
    line = next(line for line in text.splitlines() if line.startswith("student "))
    assert "200,000,000" in line
    assert line.split()[-1] == "no", "16 bytes a weight and the activations of 16,384 tokens are more than 76 GB"


def test_a_larger_share_of_the_peak_takes_less_time() -> None:
    arguments = ("--recipe", "r1-671b", "--step", "student")
    slow, fast = rows(*arguments)["student"], rows(*arguments, "--utilization", "0.66", "--tflops", "494.5")["student"]
    assert fast.hours == pytest.approx(slow.hours)
    assert rows(*arguments, "--utilization", "0.66")["student"].hours == pytest.approx(slow.hours / 2)


def test_learning_from_stored_logits_costs_what_sft_costs() -> None:
    kd = KdConfig(data="d", model="m", steps=10, tokens_per_batch=1000)
    assert row(kd).flops == row(sft()).flops
    assert row(kd).total_gb == row(sft()).total_gb


def test_a_student_on_its_own_turns_pays_for_its_teacher_too() -> None:
    teacher = replace(TOY, multiplied=7 * 10**6, matrices=10**8)
    alone, corrected = row(on_policy()), row(on_policy(), teacher=teacher)
    assert alone.tokens == corrected.tokens == 10 * 60 * (20 + 100)
    assert corrected.flops - alone.flops == alone.tokens * 2 * 7 * 10**6
    assert corrected.beside_gb * 1e9 == teacher.parameters * 4
    halved = row(on_policy(dtype="bfloat16"), teacher=teacher)
    assert halved.beside_gb * 2 == corrected.beside_gb
    shape = EngineShape("m", 1, 10**7, 10**7, 0, 0, 0, 0, 100, 0, 0, 0, 1000)
    assert rollout_of(on_policy(), TOY, shape, HARDWARE, 20) == rollout_of(
        rl(prompts_per_step=30, samples=2), TOY, shape, HARDWARE, 20
    )


def test_a_teacher_that_only_reads_has_neither_gradients_nor_moments() -> None:
    asked = {"tflops": 1e-6, "utilization": 0.5}
    found = estimate_scoring("s", LogitsConfig(data="d", model="m"), TOY, HARDWARE, **asked, price=2.0)
    assert found.flops == 10**6 * 2 * TOY.multiplied
    assert found.weight_gb * 1e9 == TOY.parameters * 4
    assert found.gradient_gb == found.optimizer_gb == found.beside_gb == 0
    assert found.cost == found.hours * 2.0
    narrow = estimate_scoring("s", LogitsConfig(data="d", model="m", dtype="bfloat16"), TOY, HARDWARE, **asked)
    assert narrow.weight_gb * 2 == found.weight_gb


@pytest.mark.parametrize("base", ["full", "int8", "nf4"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_adapters_weigh_what_a_real_model_with_them_does(base: str, optimizer: str) -> None:
    spec = model_config(find_spec("mini-95k", {}), 192, end_id=0, pad_id=None)
    model = AutoModelForCausalLM.from_config(spec)
    config = sft(lora={"rank": 8, "base": base}, optimizer=optimizer)
    shape = student_shape(spec, "mini-95k")
    found = estimate_training("s", "sft", config, shape, HARDWARE, tflops=1, utilization=1, prompt_tokens=0)
    assert config.lora is not None
    adapters = adapt(model, config.lora, seed=0, device="cpu")
    assert found.adapters == adapters.trained
    # int8 has a scale a row besides, which is left out.
    assert found.weight_gb * 1e9 == pytest.approx(adapters.base_bytes + 4 * adapters.trained, rel=0.03)
    assert found.gradient_gb * 1e9 == 4 * adapters.trained
    assert found.optimizer_gb * 1e9 == pytest.approx(4 * adapters.trained * (1 if optimizer == "muon" else 2))


def test_chosen_targets_alone_weigh() -> None:
    spec = model_config(find_spec("mini-95k", {}), 192, end_id=0, pad_id=None)
    config = sft(lora={"rank": 8, "targets": ["q_proj"]})
    found = estimate_training(
        "s", "sft", config, student_shape(spec, "m"), HARDWARE, tflops=1, utilization=1, prompt_tokens=0
    )
    assert found.adapters == 2 * 8 * (64 + 64)


def test_the_longest_row_a_table_allows_is_told() -> None:
    short, long = row(sft(max_length=1000)), row(sft(max_length=32_768))
    assert (short.longest, short.longest_gb) == (None, None)
    assert long.total_gb == short.total_gb
    assert long.longest_gb == pytest.approx(long.total_gb + 31_768 * (4000 * 4 + 100 * 3 * 4) / 1e9)
    told = [line for line in table([short, long], HARDWARE, tflops=1, utilization=1) if "max_length" in line]
    assert told == [
        f"  - a row of [step] may have max_length = 32,768 tokens: then {long.longest_gb:.3g} GB, which fits"
    ]
