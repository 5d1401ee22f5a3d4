"""The logits stage: what is stored is what the teacher says, whole or absent, and asked for once."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.loading import Folders
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.prompts import Chat
from distill.records import SamplerId
from distill.runs import Report
from distill.sampling.protocols import TokenScores
from distill.sampling.teacher_forcing import score_many
from distill.train import sidecar
from distill.train.divergences import Told
from distill.train.logits import LogitsConfig, keep, logits
from distill.train.sidecar import LOGITS, Scored, Sidecar, Writer
from tests.toy_models import toy_example, toy_examples, toy_model

QUIET = Progress("quiet")
ROOT = Path(__file__).parent.parent


@dataclasses.dataclass
class Reader:
    """A sampler that only scores, and may be cut off."""

    model: Any
    most: int = 10**9
    asked: int = 0
    identity = SamplerId(name="toy", revision="1")

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        for ids in sequences:
            self.asked += 1
            if self.asked > self.most:
                raise KeyboardInterrupt
            yield next(score_many(self.model, [ids], top_k))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_model(tmp_path_factory.mktemp("teacher"), seed=1, sharp=4.0)


def store(data: Path, teacher: Path, out: Path, *, most: int = 10**9, context: int = 64, **fields: Any) -> Report:
    out.mkdir(exist_ok=True)
    loaded = Folders().load(teacher)
    reader = Reader(loaded.model, most)
    config = LogitsConfig(data="d", model="m", **fields)
    chat = Chat(loaded.tokenizer)
    return logits(data, out, config, sampler=reader, chat=chat, context=context, progress=QUIET)  # type: ignore[arg-type]


def test_what_is_stored_is_what_the_teacher_says_at_the_loss_positions(teacher: Path, tmp_path: Path) -> None:
    data = toy_examples(tmp_path, 6)
    report = store(data, teacher, tmp_path / "out", top_k=9)
    loaded, found = Folders().load(teacher), Sidecar(tmp_path / "out" / LOGITS)
    for number in range(6):
        ids, mask = Chat(loaded.tokenizer).training_ids(toy_example(number).messages)
        assert found.row(f"e{number}") == (ids, [bool(loss) for loss in mask])
        told = found.told([f"e{number}"])
        with torch.no_grad():
            said = loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        said = said[[at - 1 for at, loss in enumerate(mask) if loss]]
        top = said.topk(9)
        assert torch.equal(told.ids_NK, top.indices)
        torch.testing.assert_close(told.logprobs_NK, top.values, rtol=2**-11, atol=1e-6)
        torch.testing.assert_close(told.tail_N, 1 - top.values.exp().sum(-1), rtol=2**-11, atol=1e-6)
    assert report.counts["positions"] == sum(
        sum(Chat(loaded.tokenizer).training_ids(toy_example(n).messages)[1]) for n in range(6)
    )
    stored = sum(path.stat().st_size for path in (tmp_path / "out" / LOGITS).glob("*.safetensors"))
    assert report.counts["bytes"] == stored


def test_with_a_mass_no_more_tokens_are_kept_than_it_takes(teacher: Path, tmp_path: Path) -> None:
    data = toy_examples(tmp_path, 6)
    whole = store(data, teacher, tmp_path / "whole", top_k=32)
    slim = store(data, teacher, tmp_path / "slim", top_k=32, mass=0.9)
    assert slim.counts["bytes"] < whole.counts["bytes"]
    names = [f"e{number}" for number in range(6)]
    more, less = (Sidecar(tmp_path / name / LOGITS).told(names) for name in ("whole", "slim"))
    for position in range(len(less.tail_N)):
        kept = int(less.logprobs_NK[position].isfinite().sum())
        assert torch.equal(less.logprobs_NK[position, :kept], more.logprobs_NK[position, :kept])
        masses = more.logprobs_NK[position].exp().cumsum(0)
        assert masses[kept - 1] >= 0.9 - 1e-3 or kept == 32
        assert kept == 1 or masses[kept - 2] < 0.9 + 1e-3
        assert float(less.tail_N[position]) == pytest.approx(1 - float(masses[kept - 1]), abs=2e-3)


def test_a_cut_off_run_is_continued_and_ends_with_the_same_bytes(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sidecar, "SHARD_POSITIONS", 60)
    data = toy_examples(tmp_path)
    store(data, teacher, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        store(data, teacher, tmp_path / "cut", most=17)
    before = {path.name for path in (tmp_path / "cut" / LOGITS).glob("*.safetensors")}
    assert 0 < len(before) < 9
    (tmp_path / "cut" / LOGITS / "0007.safetensors.tmp").write_bytes(b"half a shard")
    (tmp_path / "cut" / LOGITS / "SHA256SUMS").unlink(missing_ok=True)  # a kill may fall before it is written
    asked = Reader(None)
    monkeypatch.setattr(Reader, "score_many", counting(asked))
    store(data, teacher, tmp_path / "cut")
    assert asked.asked <= 40 - 2 * len(before)
    for path in sorted((tmp_path / "straight" / LOGITS).glob("[!v]*")):
        assert path.read_bytes() == (tmp_path / "cut" / LOGITS / path.name).read_bytes()


def counting(asked: Reader) -> Any:
    """`score_many`, counted elsewhere too."""
    original = Reader.score_many

    def score(self: Reader, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        for found in original(self, sequences, top_k):
            asked.asked += 1
            yield found

    return score


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_shard_that_is_not_what_was_written_is_named(harm: str, teacher: Path, tmp_path: Path) -> None:
    store(toy_examples(tmp_path, 6), teacher, tmp_path / "out")
    shard = tmp_path / "out" / LOGITS / "0000.safetensors"
    if harm == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"0000\.safetensors: missing or changed"):
        Sidecar(tmp_path / "out" / LOGITS)


@pytest.mark.parametrize(("largest", "bytes_kept"), [(65_535, 4), (151_935, 5)], ids=["narrow", "Qwen's"])
def test_ids_of_small_and_large_vocabularies_come_back(largest: int, bytes_kept: int, tmp_path: Path) -> None:
    ids = torch.tensor([[largest, 5, 0], [65_535, largest - 1, 1]])
    told = Told(ids, torch.tensor([[-0.1, -3.0, -math.inf], [-1.0, -2.0, -3.0]]), torch.tensor([0.01, 0.5]))
    writer = Writer(tmp_path / LOGITS, {"a": 0, "b": largest})
    writer.add(Scored("e", [1, largest, 2], [False, True, True], told))
    writer.flush()
    found = Sidecar(tmp_path / LOGITS).told(["e"])
    kept = told.logprobs_NK.isfinite()
    assert torch.equal(found.ids_NK[kept], ids[kept])
    torch.testing.assert_close(found.logprobs_NK, told.logprobs_NK, rtol=2**-11, atol=0)
    arrays = sidecar._pack([Scored("e", [1], [True], told)], wide=largest > 65_535)
    per_token = sum(arrays[name].element_size() for name in ("ids", "ids_high", "logprobs") if name in arrays)
    assert per_token == bytes_kept


def test_padding_rows_of_the_teacher_are_tail(tmp_path: Path) -> None:
    """A model may have more rows than its tokenizer has tokens."""
    size = len(Folders().load(toy_model(tmp_path / "t", seed=2)).tokenizer)
    wide = toy_model(tmp_path / "wide", seed=2, vocab_size=size + 40)
    store(toy_examples(tmp_path, 4), wide, tmp_path / "out", top_k=size)
    told = Sidecar(tmp_path / "out" / LOGITS).told(["e0", "e1"])
    assert int(told.ids_NK.max()) < size
    assert (told.logprobs_NK.exp().sum(-1) + told.tail_N).tolist() == pytest.approx([1.0] * len(told.tail_N), abs=2e-3)
    assert float(told.tail_N.min()) > 0.05


def test_a_row_beyond_the_teachers_context_is_refused_by_name(teacher: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "examples.jsonl", [toy_example(0), toy_example(1, "1 " * 30)])
    with pytest.raises(UserError, match=r"example e1: \d+ tokens, the teacher takes 30; leave it out with max_tokens"):
        store(tmp_path / "examples.jsonl", teacher, tmp_path / "out", context=30)


def test_two_examples_of_one_name_are_refused(teacher: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "examples.jsonl", [toy_example(0), toy_example(0)])
    with pytest.raises(UserError, match="two examples are named 'e0'"):
        store(tmp_path / "examples.jsonl", teacher, tmp_path / "out")


def test_a_broken_teacher_is_named_before_anything_is_stored() -> None:
    scores = TokenScores(torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[0.0], [math.nan]]))
    with pytest.raises(UserError, match=r"here: a log-probability is not a finite number"):
        keep(scores, [False, True, True], 5, 1.0, "here")


def test_a_teacher_that_says_padding_is_refused() -> None:
    scores = TokenScores(torch.zeros(1), torch.tensor([[7]]), torch.tensor([[-0.1]]))
    with pytest.raises(UserError, match="likeliest tokens are padding"):
        keep(scores, [False, True], 5, 1.0, "here")


def test_a_run_killed_amid_a_shard_ends_with_the_bytes_of_an_uninterrupted_one(teacher: Path, tmp_path: Path) -> None:
    """Killed before a shard is synced, and between examples."""
    data = toy_examples(tmp_path)
    instants = [*(f"sync:{number}" for number in range(2)), "step:9", "step:1"]
    jobs = [
        {
            "stage": "logits",
            "inputs": [str(data), str(teacher)],
            "fields": {},
            "out": str(tmp_path / how),
            "instants": at,
        }
        for how, at in (("straight", []), ("killed", instants))
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SHARD_POSITIONS": "60"}
    command = [sys.executable, str(ROOT / "tests/training_kills.py"), str(tmp_path / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    straight, killed = (
        {path.name: path.read_bytes() for path in (tmp_path / how / LOGITS).iterdir()} for how in ("straight", "killed")
    )
    assert len(straight) > 8
    assert straight == killed
