"""Loss by class of token: what counts as thought, and that the classes add up to the loss however it is computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cli.loading import Folders
from distill.jsonl import read_jsonl, write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import CHATML, Chat
from distill.records import Example, Message
from distill.train.classes import LossByClass
from distill.train.curve import SftPoint
from distill.train.rows import IGNORED, read_rows
from distill.train.sft import sft
from distill.train.sft_table import SftConfig
from tests.toy_models import toy_model

SAID = ["<think> 3 </think> 4", "5 5", "<think> 6 6 6 </think> 7", "<think> 8 </think> 9 9 9 9"]


def write(path: Path, said: list[str]) -> Path:
    asked = Message(role="user", content="Mia has 3 coins .")
    rows = [
        Example(
            id=f"e{number}",
            problem_id=f"p{number}",
            trace_id=None,
            messages=(asked, Message(role="assistant", content=text)),
            order=number,
        )
        for number, text in enumerate(said)
    ]
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model(tmp_path_factory.mktemp("toys") / "model", seed=0)


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer that spells `</think>` letter by letter."""
    signs = sorted(set("abcdefghijklmnopqrstuvwxyzM0123456789<>/ .\n"))
    vocabulary = {sign: number for number, sign in enumerate(["<|im_start|>", "<|im_end|>", *signs])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<|im_start|>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize("spelled", [False, True], ids=["one token", "spelled out"])
def test_a_thought_ends_with_its_closing_tag(spelled: bool, tmp_path: Path) -> None:
    tokenizer = letters() if spelled else mini_tokenizer()
    rows = read_rows(write(tmp_path / "examples.jsonl", SAID), Chat(tokenizer), 1000, 200, "refuse")
    for said, ids, labels, (first, past) in zip(SAID, rows.token_ids, rows.labels, rows.thoughts, strict=True):
        thought = tokenizer.decode(ids[first:past])
        assert thought.replace(" ", "") == said.partition("</think>")[0].replace(" ", "") + "</think>" or past == 0
        assert (past == 0) == ("<think>" not in said)
        assert all(label == IGNORED for label in labels[:first])


def test_packed_rows_count_as_they_do_side_by_side() -> None:
    torch.manual_seed(0)
    labels_BT = torch.tensor([[IGNORED, 1, 1, 1, 1], [IGNORED, IGNORED, 1, 1, IGNORED]])
    losses_BT = torch.rand(2, 5) * (labels_BT != IGNORED)
    padded, packed = LossByClass(), LossByClass()
    thoughts_R2 = torch.tensor([[1, 3], [2, 3]])
    padded.add(losses_BT[:, 1:], labels_BT, thoughts_R2, None)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    packed.add(
        torch.cat([losses_BT[0], losses_BT[1, :4]])[None, 1:],
        torch.cat([labels_BT[0], labels_BT[1, :4]])[None],
        thoughts_R2,
        positions,
    )
    found = padded.take(None)
    assert found == pytest.approx(packed.take(None))
    assert found["loss_reasoning"] == pytest.approx(float((losses_BT[0, 1:3].sum() + losses_BT[1, 2]) / 3))
    assert found["loss_answer"] == pytest.approx(float((losses_BT[0, 3:].sum() + losses_BT[1, 3]) / 3))


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        pytest.param({}, 2**24, id="whole logits"),
        pytest.param({}, 0, id="fused head"),
        pytest.param({"accumulation": 2}, 2**24, id="in two parts"),
        pytest.param({"packing": True}, 2**24, id="packed"),
    ],
)
def test_the_classes_make_up_the_loss(
    fields: dict[str, Any], whole: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.train.lean.WHOLE_LOGITS", whole)
    path = write(tmp_path / "examples.jsonl", SAID)
    rows = read_rows(path, Chat(mini_tokenizer()), 1000, 64, "refuse")
    counts = {"loss_reasoning": 0, "loss_answer": 0}
    for labels, (first, past) in zip(rows.labels, rows.thoughts, strict=True):
        for place, label in enumerate(labels):
            counts["loss_reasoning" if first <= place < past else "loss_answer"] += label != IGNORED
    common: dict[str, Any] = {
        "steps": 2,
        "tokens_per_batch": sum(rows.lengths),
        "log_every": 1,
        "allow_contaminated": True,
    }
    config = SftConfig(data="d", model="m", **common, **fields)
    out = tmp_path / "out"
    out.mkdir()
    sft(path, model, out, config, loader=Folders(), seed=0, progress=Progress("quiet"))
    for row in read_jsonl(out / "curve.jsonl", SftPoint):
        assert row.loss_reasoning is not None
        assert row.loss_answer is not None
        total = row.loss_reasoning * counts["loss_reasoning"] + row.loss_answer * counts["loss_answer"]
        assert total / sum(counts.values()) == pytest.approx(row.loss, rel=1e-5)
        assert row.loss_reasoning != pytest.approx(row.loss_answer, rel=1e-3)


def test_answers_alone_have_no_loss_of_reasoning(model: Path, tmp_path: Path) -> None:
    path, out = write(tmp_path / "examples.jsonl", ["5 5", "4"]), tmp_path / "out"
    out.mkdir()
    config = SftConfig(data="d", model="m", steps=1, allow_contaminated=True)
    sft(path, model, out, config, loader=Folders(), seed=0, progress=Progress("quiet"))
    (row,) = read_jsonl(out / "curve.jsonl", SftPoint)
    assert row.loss_reasoning is None
    assert row.loss_answer == pytest.approx(row.loss, rel=1e-6)
