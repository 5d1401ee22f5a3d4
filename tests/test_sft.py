"""The sft stage on toy models: what it refuses, what it learns, and what a kill costs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from cli.loading import Folders
from distill.checkpoints import read_lineage
from distill.errors import UserError
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import Example, Message
from distill.runs import Manifest, Report
from distill.train.curve import SftPoint
from distill.train.rows import IGNORED, read_rows
from distill.train.sft import sft
from distill.train.sft_table import SftConfig

QUIET = Progress("quiet")


def example(number: int, answer: str, order: int | None = None) -> Example:
    question = Message(role="user", content=f"Mia has {number % 20} coins .")
    return Example(
        id=f"e{number}",
        problem_id=f"p{number}",
        trace_id=None,
        messages=(question, Message(role="assistant", content=answer)),
        order=number if order is None else order,
    )


EXAMPLES = [example(number, f"<think> {number % 20} </think> {number % 20}") for number in range(60)]


def manifest(marks: dict[str, Any]) -> Manifest:
    return Manifest(
        step="examples",
        stage="curate",
        stage_version="1",
        fingerprint="0123456789abcdef",
        seed=0,
        config={},
        inputs=(),
        versions={},
        git_commit=None,
        device="cpu",
        started="2025-01-01T00:00:00Z",
        seconds=1.0,
        resumed=0,
        report=Report(marks=marks),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = mini_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "examples"
    folder.mkdir()
    write_jsonl(folder / "examples.jsonl", EXAMPLES)
    (folder / "manifest.json").write_text(manifest({"decontaminated": "by-construction"}).model_dump_json())
    return folder


def settings(**fields: Any) -> SftConfig:
    return SftConfig(data="examples", model="model", **{"steps": 8, "tokens_per_batch": 128, "log_every": 2, **fields})


def train(data: Path, model: Path, out: Path, **fields: Any) -> Report:
    out.mkdir(exist_ok=True)
    return sft(data, model, out, settings(**fields), loader=Folders(), seed=0, progress=QUIET)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_loss_covers_the_assistant_turn_and_its_end_alone(data: Path) -> None:
    chat = Chat(mini_tokenizer())
    rows = read_rows(data, chat, 1000, 64, "refuse")
    learned = [token for token in rows.labels[3] if token != IGNORED]
    assert chat.tokenizer.decode(learned) == "<think> 3 </think> 3 <|end|>"
    assert len(rows.labels[3]) == len(rows.token_ids[3])


def test_rows_come_in_curriculum_order(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, [example(1, "1 1 1", order=2), example(2, "2", order=0), example(3, "3 3", order=1)])
    assert read_rows(path, Chat(mini_tokenizer()), 1000, 64, "refuse").lengths == sorted([9, 10, 11])


def test_a_run_learns_and_leaves_a_checkpoint_and_nothing_else(data: Path, model: Path, tmp_path: Path) -> None:
    report = train(data, model, tmp_path / "student.partial", steps=40, save_every=15, warmup_steps=2)
    out = tmp_path / "student.partial"
    curve = read_jsonl(out / "curve.jsonl", SftPoint)
    assert [row.step for row in curve] == sorted({*range(2, 41, 2), 15}), "a row goes with every state"
    assert curve[-1].loss < 0.5 * curve[0].loss
    assert curve[-1].tokens == report.tokens
    assert not (out / "resume").exists()
    lineage = read_lineage(out)
    assert lineage is not None
    assert (lineage.name, lineage.stage, lineage.data) == ("student", "sft", "0123456789abcdef")
    reloaded = Folders().load(out)
    assert len(reloaded.tokenizer) == len(mini_tokenizer())


def test_the_parent_is_kept_in_the_lineage(data: Path, model: Path, tmp_path: Path) -> None:
    train(data, model, tmp_path / "first", steps=1)
    train(data, tmp_path / "first", tmp_path / "second", steps=1)
    lineage = read_lineage(tmp_path / "second")
    assert lineage is not None
    assert lineage.parent == read_lineage(tmp_path / "first")


@pytest.mark.parametrize(
    ("rows", "fields", "complaint"),
    [
        pytest.param([], {}, "no examples to train on", id="empty file"),
        pytest.param(
            [EXAMPLES[0], example(1, "1 " * 30)],
            {"max_length": 30},
            r"examples.jsonl:2: example e1: 38 tokens, max_length is 30",
            id="too long",
        ),
        pytest.param([example(1, "1 " * 30)], {"max_length": 30, "on_long": "drop"}, "all 1 examples", id="none left"),
        pytest.param(
            [Example(id="q", problem_id="p", trace_id=None, messages=EXAMPLES[0].messages[:1], order=0)],
            {},
            r"examples.jsonl:1: example q: no token carries loss",
            id="no assistant turn",
        ),
    ],
)
def test_rows_that_would_be_wasted_are_refused(
    rows: list[Example], fields: dict[str, Any], complaint: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, rows)
    with pytest.raises(UserError, match=complaint):
        train(path, model, tmp_path / "out", allow_contaminated=True, **fields)


def test_long_rows_are_dropped_whole_and_counted(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, [*EXAMPLES[:5], example(9, "1 " * 30)])
    report = train(path, model, tmp_path / "out", allow_contaminated=True, max_length=30, on_long="drop", steps=1)
    assert (report.counts["examples"], report.counts["dropped"]) == (5, 1)


def test_a_turn_that_never_ends_is_refused(data: Path) -> None:
    tokenizer = mini_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        " <|end|>{% endgeneration %}", "{% endgeneration %} <|end|>"
    )
    with pytest.raises(UserError, match="expected the end-of-turn token"):
        read_rows(data, Chat(tokenizer), 1000, 64, "refuse")


def test_a_tokenizer_of_another_model_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match="outside the model's vocabulary of 20"):
        read_rows(data, Chat(mini_tokenizer()), 20, 64, "refuse")


@pytest.mark.parametrize(
    "marks", [None, {}, {"decontaminated": "unchecked"}], ids=["no manifest", "no mark", "told not to check"]
)
def test_data_nobody_decontaminated_is_refused_unless_insisted(
    marks: dict[str, Any] | None, data: Path, model: Path, tmp_path: Path
) -> None:
    if marks is None:
        (data / "manifest.json").unlink()
    else:
        (data / "manifest.json").write_text(manifest(marks).model_dump_json())
    with pytest.raises(UserError, match="allow_contaminated"):
        train(data, model, tmp_path / "out")
    assert train(data, model, tmp_path / "out", allow_contaminated=True, steps=1).counts["steps"] == 1


@pytest.mark.parametrize("fields", [{}, {"steps": 5, "tokens": 5}], ids=["no budget", "two budgets"])
def test_exactly_one_budget_is_given(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of steps and tokens"):
        SftConfig(data="a", model="b", **fields)


def test_a_token_budget_decides_the_steps(data: Path, model: Path, tmp_path: Path) -> None:
    report = train(data, model, tmp_path / "out", steps=None, tokens=700)
    assert 700 <= report.tokens < 700 + 128
    assert 6 <= report.counts["steps"] <= 8


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        pytest.param(["<think> 3 </think> 3"] * 2, {"accumulation": 2}, id="in two parts"),
        pytest.param(["<think> 3 </think> 3", "4 4"], {"packing": True}, id="packed"),
        pytest.param(
            ["<think> 3 </think> 3", "4 4"], {"gradient_checkpointing": True}, id="activations computed again"
        ),
    ],
)
def test_another_way_through_the_same_rows_trains_alike(
    rows: list[str], fields: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "examples.jsonl"
    write_jsonl(path, [example(7, row) for row in rows])
    common = {"allow_contaminated": True, "steps": 3, "tokens_per_batch": 28, "warmup_steps": 0, "log_every": 1}
    losses = []
    for name, changes in (("plain", {}), ("other", fields)):
        train(path, model, tmp_path / name, **common, **changes)
        losses.append([row.loss for row in read_jsonl(tmp_path / name / "curve.jsonl", SftPoint)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_the_fused_head_for_large_vocabularies_gives_the_same_losses(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for limit in (2**24, 0):
        monkeypatch.setattr("distill.train.lean.WHOLE_LOGITS", limit)
        train(data, model, tmp_path / str(limit), steps=3, log_every=1, accumulation=2)
        losses.append([row.loss for row in read_jsonl(tmp_path / str(limit) / "curve.jsonl", SftPoint)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_bfloat16_products_leave_float32_weights_and_about_the_same_loss(
    data: Path, model: Path, tmp_path: Path
) -> None:
    losses = []
    for bf16 in (False, True):
        train(data, model, tmp_path / str(bf16), steps=2, log_every=1, bf16=bf16)
        losses.append([row.loss for row in read_jsonl(tmp_path / str(bf16) / "curve.jsonl", SftPoint)])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {tensor.dtype for tensor in weights(tmp_path / "True").values()} == {torch.float32}


def test_a_blown_up_loss_stops_the_run_by_name(data: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d+: loss is (nan|inf)"):
        train(data, model, tmp_path / "out", learning_rate=1e30, muon_learning_rate=1e30, clip_norm=0.0, steps=20)


def test_a_kill_after_the_last_save_does_not_train_again(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = train(data, model, out)
    before = weights(out)
    (out / "resume").mkdir()
    assert train(data, model, out) == report
    assert not (out / "resume").exists()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(out).items())


def test_the_best_state_becomes_the_checkpoint(data: Path, model: Path, tmp_path: Path) -> None:
    # A rate this high makes the held-out loss worse after a few steps; decay is left out so that it stays so.
    fields = {"held_out": 9, "save_every": 2, "learning_rate": 0.1, "muon_learning_rate": 0.5, "decay_share": 0.0}
    train(data, model, tmp_path / "last", warmup_steps=0, **fields)
    curve = read_jsonl(tmp_path / "last" / "curve.jsonl", SftPoint)
    best = min(curve, key=lambda row: row.held_out_loss or 0.0)
    assert best.step < 8, "the last step is the best: nothing to choose"
    report = train(
        data, model, tmp_path / "best", warmup_steps=0, keep_best="held_out_loss", keep_last=1, final="best", **fields
    )
    assert report.counts["final_step"] == best.step
    assert any(line.startswith(f"weights of step {best.step} of 8: held_out_loss") for line in report.lines)
    train(
        data, tmp_path / "best", tmp_path / "again", steps=1, held_out=9, learning_rate=1e-12, muon_learning_rate=1e-12
    )
    after = read_jsonl(tmp_path / "again" / "curve.jsonl", SftPoint)[-1].held_out_loss
    assert after == pytest.approx(best.held_out_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"final": "best"}, "needs keep_best"),
        ({"keep_best": "held_out_loss"}, "set held_out"),
        ({"keep_best": "loss", "save_every": 0}, "set save_every above 0"),
        ({"keep_best": "reward"}, "'loss' or 'held_out_loss'"),
    ],
)
def test_a_best_that_cannot_be_found_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(**fields)


def test_a_row_of_the_curve_goes_with_every_state(data: Path, model: Path, tmp_path: Path) -> None:
    train(data, model, tmp_path / "out", save_every=3, log_every=4)
    assert [row.step for row in read_jsonl(tmp_path / "out" / "curve.jsonl", SftPoint)] == [3, 4, 6, 8]
