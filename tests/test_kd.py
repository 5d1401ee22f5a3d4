"""The kd stage on toy models: what it learns, that its loss is the one stated, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cli.loading import Folders
from distill.checkpoints import read_lineage
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.runs import Report
from distill.sampling.engine import EngineSampler
from distill.train.checked import check
from distill.train.curve import SftPoint
from distill.train.kd import Distillation, KdConfig, kd
from distill.train.logits import LogitsConfig, logits
from distill.train.rows import read_rows
from distill.train.tokens import check_same_tokens
from teacher.config import preset
from teacher.model import DeepseekForCausalLM
from tests.toy_models import toy_examples, toy_model

QUIET = Progress("quiet")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student, a teacher of more vocabulary rows, and what it says of 40 examples."""
    folder = tmp_path_factory.mktemp("kd")
    toy_model(folder / "student", seed=0)
    rows = json.loads((folder / "student/config.json").read_text())["vocab_size"]
    teacher = toy_model(folder / "teacher", seed=1, sharp=6.0, vocab_size=rows + 32)
    loaded = Folders().load(teacher)
    sampler = EngineSampler(loaded, Folders().decoder(loaded.model), name="teacher", slots=1, capacity=1)
    (folder / "logits").mkdir()
    config = LogitsConfig(data="d", model="m", top_k=rows + 32)
    data = toy_examples(folder)
    logits(data, folder / "logits", config, sampler=sampler, chat=sampler.chat, context=64, progress=QUIET)
    return folder


def config_of(**fields: Any) -> KdConfig:
    common = {"steps": 8, "tokens_per_batch": 128, "log_every": 1, "allow_contaminated": True}
    return KdConfig(data="logits", model="student", **{**common, **fields})


def train(base: Path, out: Path, *, student: str = "student", **fields: Any) -> Report:
    out.mkdir()
    loader = Folders()
    return kd(base / "logits", base / student, out, config_of(**fields), loader=loader, seed=0, progress=QUIET)


def curve_of(out: Path) -> list[SftPoint]:
    return read_jsonl(out / "curve.jsonl", SftPoint)


def largest_gap(first: Path, second: Path) -> float:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_a_student_comes_nearer_to_its_teacher(base: Path, tmp_path: Path) -> None:
    report = train(base, tmp_path / "out.partial", steps=60, warmup_steps=2)
    curve = curve_of(tmp_path / "out.partial")
    agreements = [point.agreement for point in curve]
    assert agreements[0] is not None
    assert agreements[-1] is not None
    assert agreements[-1].divergence < 0.6 * agreements[0].divergence
    assert agreements[-1].overlap > agreements[0].overlap
    assert report.counts["divergence"] == round(agreements[-1].divergence, 4)
    lineage = read_lineage(tmp_path / "out.partial")
    assert lineage is not None
    assert (lineage.name, lineage.stage) == ("out", "kd")


def test_its_preflight_refuses_what_the_run_would_and_takes_no_step(base: Path) -> None:
    loader, config = Folders(), config_of()
    lesson = Distillation(base / "logits", config)
    found = check(base / "logits", base / "student", config, loader=loader, seed=0, lesson=lesson).findings
    assert found.recorded["loss"].startswith("on ")
    lesson.sidecar.vocabulary = {"another": 0}
    with pytest.raises(UserError, match=r"logits: .*another"):
        check(base / "logits", base / "student", config, loader=loader, seed=0, lesson=lesson)


def test_adapters_come_nearer_too_and_held_out_rows_are_not_asked_for(base: Path, tmp_path: Path) -> None:
    fields = {"lora": {"rank": 4, "base": "int8"}, "held_out": 6, "save_every": 10}
    report = train(base, tmp_path / "out", steps=20, warmup_steps=2, **fields)
    first, last = curve_of(tmp_path / "out")[0], curve_of(tmp_path / "out")[-1]
    assert first.agreement is not None
    assert last.agreement is not None
    assert last.agreement.divergence < 0.8 * first.agreement.divergence
    assert last.held_out_loss == pytest.approx(report.counts["loss_as_trained"], abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "ce_weight"),
    [
        ({"kind": "forward-kl"}, 0.5),
        ({"kind": "reverse-kl", "temperature": 2.0}, 0.0),
        ({"kind": "jsd", "beta": 0.4}, 0.2),
    ],
    ids=["forward", "reverse, tempered", "jsd"],
)
def test_the_loss_is_the_stated_one_over_whole_vocabularies(
    fields: dict[str, Any], ce_weight: float, base: Path, tmp_path: Path
) -> None:
    """The teacher's 32 padding rows are one outcome, together with the student's tokens it does not know: none."""
    weights = {"ce_weight": ce_weight, "kd_weight": 0.7}
    rows = read_rows(base / "logits", Chat(Folders().load(base / "student").tokenizer), 1000, 64, "refuse")
    once = sum(rows.lengths)  # a step of every row once
    train(base, tmp_path / "out", steps=1, objective=fields, tokens_per_batch=once, **weights)
    student, teacher = (AutoModelForCausalLM.from_pretrained(base / name).eval() for name in ("student", "teacher"))
    size, apart, entropy, count = student.config.vocab_size, 0.0, 0.0, 0
    temperature = fields.get("temperature", 1.0)
    for ids, labels in zip(rows.token_ids, rows.labels, strict=True):
        with torch.no_grad():
            q = student(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            p = teacher(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)[:, :size].log_softmax(-1)
        loss = torch.tensor(labels[1:]) >= 0
        entropy += float(F.cross_entropy(q[loss], torch.tensor(labels[1:])[loss], reduction="sum"))
        p, q = (side[loss].div(temperature).log_softmax(-1) for side in (p, q))
        apart += float(_reference(p, q, fields)) * temperature**2
        count += int(loss.sum())
    found = curve_of(tmp_path / "out")[0]
    assert found.agreement is not None
    assert found.agreement.cross_entropy == pytest.approx(entropy / count, rel=1e-5)
    # Beside fp16, renormalizing above leaves out the teacher's padding, which the student has no part in.
    assert found.agreement.divergence == pytest.approx(apart / count, rel=0.02)
    assert found.loss == pytest.approx(
        0.7 * found.agreement.divergence + ce_weight * found.agreement.cross_entropy, rel=1e-5
    )


def _reference(p: torch.Tensor, q: torch.Tensor, fields: dict[str, Any]) -> torch.Tensor:
    def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return F.kl_div(second, first, reduction="sum", log_target=True)

    if fields["kind"] == "forward-kl":
        return kl(p, q)
    if fields["kind"] == "reverse-kl":
        return kl(q, p)
    middle = (fields["beta"] * p.exp() + (1 - fields["beta"]) * q.exp()).log()
    return fields["beta"] * kl(p, middle) + (1 - fields["beta"]) * kl(q, middle)


@pytest.mark.parametrize(
    ("fields", "whole_logits"),
    [({"packing": True}, 2**24), ({"accumulation": 3}, 2**24), ({}, 1)],
    ids=["packed", "in parts", "one row of logits at a time"],
)
def test_how_a_step_is_computed_does_not_change_it(
    fields: dict[str, Any], whole_logits: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = {"steps": 2, "warmup_steps": 0, "ce_weight": 0.3, "optimizer": "adamw"}
    train(base, tmp_path / "plain", **common)
    monkeypatch.setattr("distill.train.positions.WHOLE_LOGITS", whole_logits)
    train(base, tmp_path / "other", **common, **fields)
    assert largest_gap(base / "student", tmp_path / "plain") > 1e-3
    assert largest_gap(tmp_path / "plain", tmp_path / "other") < 2e-5


def test_a_student_with_another_tokenizer_is_refused_token_by_token(base: Path, tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "student", seed=0)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    swapped = json.loads(text)
    words = swapped["model"]["vocab"]
    words["Mia"], words["coins"] = words["coins"], words["Mia"]
    (folder / "tokenizer.json").write_text(json.dumps(swapped), encoding="utf-8")
    (tmp_path / "logits").symlink_to(base / "logits")
    with pytest.raises(UserError, match=r"token \d+ is '(Mia|coins)' to the teacher and '(Mia|coins)' to the student"):
        train(tmp_path, tmp_path / "out")


def test_a_student_with_another_template_is_refused_at_the_first_row(base: Path, tmp_path: Path) -> None:
    folder = toy_model(tmp_path / "student", seed=0)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("<|user|> ", "<|user|> <|user|> "))
    (tmp_path / "logits").symlink_to(base / "logits")
    with pytest.raises(UserError, match=r"example e0: token 1 is \d+ to the teacher and \d+ to the student"):
        train(tmp_path, tmp_path / "out")


def test_data_without_a_teachers_word_is_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "logits").mkdir()
    (tmp_path / "student").symlink_to(base / "student")
    with pytest.raises(UserError, match="expected the run folder of a logits step"):
        train(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("teacher", "student", "complaint"),
    [
        ({"a": 0, "b": 1}, {"a": 0, "c": 1}, "token 1 is 'b' to the teacher and 'c' to the student"),
        ({"a": 0, "b": 5}, {"a": 0, "b": 7}, "token 'b' is 5 to the teacher and 7 to the student"),
    ],
    ids=["one id, two tokens", "one token, two ids"],
)
def test_vocabularies_that_differ_are_refused(teacher: dict[str, int], student: dict[str, int], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_same_tokens(teacher, student, "here")


def test_tokens_only_one_side_has_are_let_be() -> None:
    check_same_tokens({"a": 0, "b": 1, "<tool>": 9}, {"a": 0, "b": 1, "<think>": 2}, "here")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"expert_parallel": 2}, "kd trains in one process"),
        ({"data_parallel": 2}, "kd trains in one process"),
        ({"objective": {"kind": "sampled-reverse-kl"}}, "use it in on-policy"),
        ({"kd_weight": 0.0}, "without the divergence this is sft"),
    ],
)
def test_tables_that_could_not_be_meant_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config_of(**fields)


def test_a_mixture_of_experts_is_a_student_like_any_other(base: Path, tmp_path: Path) -> None:
    """Its own losses stand beside the divergence, and its curve tells the load of its experts."""
    tokenizer = Folders().load(base / "student").tokenizer
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    DeepseekForCausalLM(preset("mini", **shape, **ends)).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    (tmp_path / "logits").symlink_to(base / "logits")
    train(tmp_path, tmp_path / "out", steps=3, balance_loss=0.1, mtp_loss=0.3)
    last = curve_of(tmp_path / "out")[-1]
    assert last.agreement is not None
    assert last.loss == pytest.approx(last.agreement.divergence, rel=1e-4)
    assert last.balance_loss is not None
    assert last.mtp_loss is not None
    assert last.experts is not None


def test_adapters_learn_from_a_teacher_with_rows_held_out(base: Path, tmp_path: Path) -> None:
    """What is held out moves the rows that are left; each must keep its own teacher's word."""
    fields = {"steps": 30, "held_out": 8, "lora": {"rank": 4}, "optimizer": "adamw", "learning_rate": 1e-2}
    report = train(base, tmp_path / "out", **fields)
    agreements = [point.agreement for point in curve_of(tmp_path / "out")]
    assert agreements[0] is not None
    assert agreements[-1] is not None
    assert agreements[-1].divergence < 0.9 * agreements[0].divergence
    assert report.counts["examples"] == 32
