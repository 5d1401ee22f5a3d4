"""What sft and rl make of a model's experts and further tokens: options, refusals, loads in the curve."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from cli.loading import Folders
from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.records import Example, Message, Problem
from distill.runs import Report
from distill.train.auxiliary import expert_load
from distill.train.curve import RlPoint, SftPoint
from distill.train.rl import RlConfig, rl
from distill.train.sft import sft
from distill.train.sft_table import SftConfig
from teacher.config import preset
from teacher.model import DeepseekForCausalLM
from tests.training_kills import EvenJudge

QUIET = Progress("quiet")
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "kv_lora_rank": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "initializer_range": 0.1,
    "rope_parameters": None,
}  # fmt: skip


def write_model(folder: Path, name: str = "mini", **keys: Any) -> Path:
    tokenizer = mini_tokenizer()
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = DeepseekForCausalLM(preset(name, **{**SHAPE, **ids, "pad_token_id": tokenizer.pad_token_id, **keys}))
    for buffer in model.buffers():
        buffer.copy_(torch.tensor([2.0, 2.0, 0, 0, 0, 0, 0, 0]))  # nearly all tokens go to experts 0 and 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("teacher"), num_nextn_predict_layers=1)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("student"), mini_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, bos_token_id=None, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    said = [f"<think> {number % 20} </think> {number % 20}" for number in range(60)]
    questions = [f"Mia has {number % 20} coins ." for number in range(60)]
    turns = [
        (Message(role="user", content=asked), Message(role="assistant", content=answer))
        for asked, answer in zip(questions, said, strict=True)
    ]
    rows = [
        Example(id=f"e{place}", problem_id=f"p{place}", trace_id=None, messages=messages, order=place)
        for place, messages in enumerate(turns)
    ]
    write_jsonl(path, rows)
    return path


def train(data: Path, model: Path, out: Path, **fields: Any) -> Report:
    out.mkdir()
    settings = {"steps": 6, "tokens_per_batch": 128, "log_every": 2, "save_every": 0, "allow_contaminated": True}
    config = SftConfig(data="examples", model="model", **{**settings, **fields})
    return sft(data, model, out, config, loader=Folders(), seed=0, progress=QUIET)


def curve(out: Path) -> list[SftPoint]:
    return read_jsonl(out / "curve.jsonl", SftPoint)


def changed(before: Path, after: Path) -> set[str]:
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {name for name in old if not torch.equal(old[name], new[name])}


def violation(row: SftPoint) -> float:
    assert row.experts is not None
    return row.experts.max_violation


def test_an_unbalanced_router_becomes_balanced_by_the_bias(data: Path, teacher: Path, tmp_path: Path) -> None:
    common = {"steps": 60, "tokens_per_batch": 512, "learning_rate": 1e-4, "muon_learning_rate": 1e-4}
    train(data, teacher, tmp_path / "plain", **common)
    report = train(data, teacher, tmp_path / "steered", bias_update=0.05, **common)
    left, right = curve(tmp_path / "plain"), curve(tmp_path / "steered")
    assert violation(left[0]) > 2.5
    assert violation(left[-1]) > 2.5
    assert violation(right[-1]) < 1.0
    assert left[-1].experts is not None
    assert right[-1].experts is not None
    assert left[-1].experts.dead > 0.2
    assert right[-1].experts.dead == 0.0
    assert report.counts["max_violation"] == pytest.approx(violation(right[-1]), abs=1e-4)
    assert report.lines[-1].startswith("experts: max violation 0.")


def test_the_balance_loss_evens_out_the_router_of_a_v2_teacher(data: Path, tmp_path: Path) -> None:
    routing = {"n_routed_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}
    model = write_model(tmp_path / "v2", "v2-lite", **routing)
    common = {"steps": 40, "tokens_per_batch": 512, "warmup_steps": 0}
    train(data, model, tmp_path / "plain", **common)
    train(data, model, tmp_path / "even", balance_loss=1.0, **common)
    plain, even = curve(tmp_path / "plain")[-1], curve(tmp_path / "even")[-1]
    assert violation(even) < 0.6 * violation(plain)
    assert plain.balance_loss is None
    assert even.balance_loss == pytest.approx(1.0, abs=0.1)  # one layer with experts: 1 is even


def test_the_curve_tells_the_load_of_every_expert(data: Path, teacher: Path, tmp_path: Path) -> None:
    train(data, teacher, tmp_path / "out")
    for row in curve(tmp_path / "out"):
        assert row.experts is not None
        assert list(row.experts.by_layer) == ["1"]
        load = row.experts.by_layer["1"]
        assert sum(load) == pytest.approx(8, abs=0.01)
        assert row.experts.max_violation == pytest.approx(max(load) - 1, abs=1e-3)
        assert row.mtp_loss is row.balance_loss is None


def test_load_in_numbers() -> None:
    load = expert_load({3: torch.tensor([6, 0, 2, 0]), 4: torch.tensor([2, 2, 2, 2])})
    assert load is not None
    assert (load.max_violation, load.dead) == (1.0, 0.25)
    assert load.by_layer == {"3": (3.0, 0.0, 1.0, 0.0), "4": (1.0, 1.0, 1.0, 1.0)}
    assert expert_load({3: torch.tensor([0, 0])}) is None


def test_further_tokens_are_learned_when_asked_for_and_left_alone_otherwise(
    data: Path, teacher: Path, tmp_path: Path
) -> None:
    train(data, teacher, tmp_path / "off")
    assert not any("layers.2.e" in name and "embed" not in name for name in changed(teacher, tmp_path / "off"))
    train(data, teacher, tmp_path / "on", steps=40, mtp_loss=0.3, warmup_steps=0)
    learned = changed(teacher, tmp_path / "on")
    assert "model.layers.2.eh_proj.weight" in learned
    assert "model.layers.2.shared_head.norm.weight" in learned
    rows = curve(tmp_path / "on")
    assert rows[0].mtp_loss is not None
    assert rows[-1].mtp_loss is not None
    assert rows[-1].mtp_loss < 0.7 * rows[0].mtp_loss


def test_loss_in_the_curve_is_the_next_tokens_alone(data: Path, teacher: Path, tmp_path: Path) -> None:
    common = {"steps": 2, "log_every": 1, "warmup_steps": 0}
    train(data, teacher, tmp_path / "plain", **common)
    train(data, teacher, tmp_path / "all", balance_loss=0.5, mtp_loss=0.3, bias_update=0.01, **common)
    assert curve(tmp_path / "all")[0].loss == pytest.approx(curve(tmp_path / "plain")[0].loss, abs=1e-5)


@pytest.mark.parametrize("changes", [{"accumulation": 3}, {"packing": True}, {"gradient_checkpointing": True}], ids=str)
def test_another_way_through_a_step_has_the_same_extras(
    changes: dict[str, Any], data: Path, teacher: Path, tmp_path: Path
) -> None:
    extras = {"balance_loss": 0.5, "mtp_loss": 0.3, "bias_update": 0.01}
    common = {"steps": 3, "log_every": 1, "warmup_steps": 0, "optimizer": "adamw", "learning_rate": 1e-3, **extras}
    train(data, teacher, tmp_path / "plain", **common)
    train(data, teacher, tmp_path / "other", **common, **changes)
    for plain, other in zip(curve(tmp_path / "plain"), curve(tmp_path / "other"), strict=True):
        assert other.loss == pytest.approx(plain.loss, rel=1e-4)
        assert other.balance_loss == pytest.approx(plain.balance_loss, rel=1e-4)
        assert other.mtp_loss == pytest.approx(plain.mtp_loss, rel=1e-4)
        assert other.experts == plain.experts
    biases = [
        load_file(tmp_path / name / "model.safetensors")["model.layers.1.mlp.gate.e_score_correction_bias"]
        for name in ("plain", "other")
    ]
    assert torch.equal(*biases)


def test_rl_moves_the_bias_and_tells_the_load(teacher: Path, tmp_path: Path) -> None:
    problems = [
        Problem(id=f"p{n}", kind="answer", prompt=f"{n} coins ?", answer="1", source="stories", split="train", level=1)
        for n in range(8)
    ]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    fields: dict[str, Any] = {"prompts_per_step": 4, "samples": 4, "max_tokens": 8, "probe": 4, "floor": 0.0}
    config = RlConfig(
        model="m", problems="p", steps=3, save_every=0, bias_update=0.05, balance_loss=0.1, tokens_per_pass=64, **fields
    )
    (tmp_path / "out").mkdir()
    report = rl(
        teacher,
        tmp_path / "problems.jsonl",
        tmp_path / "out",
        config,
        loader=Folders(),
        judge=EvenJudge(),
        seed=0,
        progress=QUIET,
    )
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in changed(teacher, tmp_path / "out")
    rows = [row for row in read_jsonl(tmp_path / "out" / "curve.jsonl", RlPoint) if row.experts is not None]
    assert rows
    assert all(row.balance_loss is not None and row.balance_loss >= 1.0 for row in rows)
    assert "max_violation" in report.counts
    assert report.lines[-1].startswith("experts: ")


@pytest.mark.parametrize(
    ("which", "fields", "complaint"),
    [
        ("student", {"balance_loss": 1e-4}, r"balance_loss = 0.0001, but this model has no routed experts; expected 0"),
        ("student", {"bias_update": 1e-3}, r"bias_update = 0.001, but this model has no routed experts"),
        ("student", {"mtp_loss": 0.3}, r"mtp_loss = 0.3, but this model has no module for further tokens"),
        ("student", {"attention_backend": "sdpa"}, r"attention_backend = 'sdpa' is a teacher's choice"),
        ("v2", {"bias_update": 1e-3}, r"this model has no bias in its routers \(use balance_loss\)"),
        ("v2", {"mtp_loss": 0.3}, r"no module for further tokens"),
        ("teacher", {"attention_backend": "flash"}, r"attention_backend flash: unknown; there are reference, sdpa"),
        ("teacher", {"experts_backend": "loop"}, r"experts_backend loop: unknown"),
    ],
    ids=str,
)
def test_what_a_model_has_not_is_refused_before_the_first_step(
    which: str, fields: dict[str, Any], complaint: str, data: Path, teacher: Path, student: Path, tmp_path: Path
) -> None:
    model = {"teacher": teacher, "student": student}.get(which) or write_model(tmp_path / "v2", "v2-lite")
    with pytest.raises(UserError, match=complaint):
        train(data, model, tmp_path / "out", **fields)
    assert not (tmp_path / "out" / "curve.jsonl").exists()


def test_backends_of_the_table_reach_the_model(data: Path, teacher: Path, tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        train(data, teacher, tmp_path / "out", attention_backend="reference", experts_backend="reference", steps=1)
    assert "attention backend reference: " in caplog.text
    assert "experts backend reference: " in caplog.text


def test_a_teacher_trains_in_bfloat16_about_as_in_float32(data: Path, teacher: Path, tmp_path: Path) -> None:
    losses = []
    for bf16 in (False, True):
        out = tmp_path / str(bf16)
        train(data, teacher, out, bf16=bf16, gradient_checkpointing=bf16, steps=2, log_every=1, warmup_steps=0)
        losses.append([row.loss for row in read_jsonl(out / "curve.jsonl", SftPoint)])
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
