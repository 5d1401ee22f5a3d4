"""The on-policy stage on toy models: what a corrected student learns, when it is refused, and how steps are made."""

import dataclasses
from collections.abc import Iterable, Iterator
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
from distill.records import Problem, Status, Trace, Verdict
from distill.runs import Report
from distill.sampling.engine import EngineSampler
from distill.train.curve import OnPolicyPoint
from distill.train.on_policy import Taught, on_policy
from distill.train.on_policy_table import OnPolicyConfig
from distill.train.rows import IGNORED
from distill.train.turns import Turn, corrected, passes
from tests.toy_models import toy_examples, toy_model, toy_problems

QUIET = Progress("quiet")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-policy")
    toy_model(folder / "student", seed=0, stops=8.0)
    toy_model(folder / "teacher", seed=1, sharp=3.0, stops=3.0)
    toy_examples(folder)
    toy_problems(folder)
    return folder


class Even:
    """Calls completions of an even number of letters right."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            status: Status = "correct" if len(trace.text) % 2 == 0 else "wrong"
            yield Verdict(trace_id=trace.id, judge_version="even", status=status)


def config_of(**fields: Any) -> OnPolicyConfig:
    common = {"steps": 4, "max_tokens": 8, "prompts_per_step": 12, "probe": 12, "compatible": 0.0, "top_k": 1000}
    where = {} if "problems" in fields or "data" in fields else {"problems": "problems"}
    return OnPolicyConfig(model="student", **{"teacher": "teacher", **where, **common, **fields})


def taught(folder: Path, *, context: int = 64) -> Taught:
    loaded = Folders().load(folder)
    sampler = EngineSampler(loaded, Folders().decoder(loaded.model), name="teacher", slots=1, capacity=1)
    return Taught(sampler, sampler.chat, context)


def train(base: Path, out: Path, *, teacher: Taught | None = None, judge: Any = None, **fields: Any) -> Report:
    out.mkdir()
    config = config_of(allow_contaminated=True, **fields)
    return on_policy(
        base / "student",
        out,
        config,
        problems=base / "problems.jsonl" if config.problems else None,
        data=base / "examples.jsonl" if config.data else None,
        teacher=teacher or taught(base / "teacher"),
        loader=Folders(),
        judge=judge,
        seed=0,
        progress=QUIET,
    )


def curve_of(out: Path) -> list[OnPolicyPoint]:
    return read_jsonl(out / "curve.jsonl", OnPolicyPoint)


def largest_gap(first: Path, second: Path) -> float:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("kind", ["reverse-kl", "sampled-reverse-kl"])
def test_a_student_comes_nearer_to_its_teacher_on_its_own_turns(kind: str, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.partial"
    report = train(base, out, steps=40, learning_rate=3e-3, objective={"kind": kind}, judge=Even(), prompts_per_step=20)
    curve = curve_of(out)
    assert [point.step for point in curve] == list(range(1, 41))
    assert {point.source for point in curve} == {"rollouts"}
    before, after = (sum(point.agreement.divergence for point in part) / 5 for part in (curve[:5], curve[-5:]))
    assert after < (0.7 if kind == "reverse-kl" else 0.85) * before  # the sampled estimate is noisy
    assert curve[-1].agreement.student_mass >= curve[0].agreement.student_mass
    gaps = [point.kl_sampler_trainer for point in curve if point.kl_sampler_trainer is not None]
    assert gaps == pytest.approx([0.0] * 40, abs=1e-5)  # the engine speaks with the weights of every step
    assert all(set(point.by_level or ()) == {"stories/level-1", "stories/level-2"} for point in curve)
    assert report.tokens == curve[-1].tokens
    assert "accuracy_last_tenth" in report.counts
    lineage = read_lineage(out)
    assert lineage is not None
    assert (lineage.name, lineage.stage) == ("student", "on-policy")
    assert not (out / "resume").exists()


def test_what_is_learned_from_is_the_teachers_whole_distribution(base: Path) -> None:
    """A turn's word on every position is what the teacher, called by itself, says after the student's tokens."""
    teacher, chat = taught(base / "teacher"), Chat(Folders().load(base / "student").tokenizer)
    prompt = chat.tokenizer.encode("<|user|> Mia has 3 coins . <|assistant|>", add_special_tokens=False)
    said = [9, 17, 30, chat.end_id]
    rows = [([*prompt, *said], [*[IGNORED] * len(prompt), *said])]
    (turn,) = corrected(rows, teacher.sampler, 1000, len(chat.tokenizer), "here")
    model = AutoModelForCausalLM.from_pretrained(base / "teacher").eval()
    with torch.no_grad():
        logp = model(torch.tensor([rows[0][0]])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    assert turn.positions == len(said)
    torch.testing.assert_close(turn.said_N, logp[range(len(said)), said], rtol=1e-4, atol=1e-5)
    whole = torch.empty_like(logp).scatter_(-1, turn.told.ids_NK, turn.told.logprobs_NK)
    torch.testing.assert_close(whole, logp, rtol=1e-4, atol=1e-4)


def test_the_first_loss_is_the_reverse_kl_over_whole_vocabularies(base: Path, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    class Watching(EngineSampler):
        def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[Any]:
            rows = list(sequences)
            seen.append(rows)  # type: ignore[arg-type]
            return super().score_many(rows, top_k)

    loaded = Folders().load(base / "teacher")
    sampler = Watching(loaded, Folders().decoder(loaded.model), name="teacher", slots=1, capacity=1)
    train(base, tmp_path / "out", teacher=Taught(sampler, sampler.chat, 64), steps=1)
    student, teacher = (AutoModelForCausalLM.from_pretrained(base / name).eval() for name in ("student", "teacher"))
    prompt = len(sampler.chat.tokenizer.encode("<|user|> Mia has 3 coins . <|assistant|>", add_special_tokens=False))
    total, count = 0.0, 0
    for ids in seen[1]:  # the probe came first
        with torch.no_grad():
            q, p = (m(torch.tensor([ids])).logits[0].log_softmax(-1)[prompt - 1 : -1] for m in (student, teacher))  # type: ignore[list-item]
        total += float(F.kl_div(p, q, reduction="sum", log_target=True))
        count += len(q)
    assert curve_of(tmp_path / "out")[0].loss == pytest.approx(total / count, rel=1e-4)


def test_a_share_of_the_steps_takes_rows_of_data(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out", steps=6, on_policy=0.34, problems="p", data="d", tokens_per_batch=100)
    curve = curve_of(tmp_path / "out")
    assert [point.source for point in curve] == ["data", "data", "rollouts", "data", "data", "rollouts"]
    assert [point.length is None for point in curve] == [True, True, False, True, True, False]


def test_the_best_state_becomes_the_checkpoint(base: Path, tmp_path: Path) -> None:
    fields = {"steps": 5, "save_every": 2, "learning_rate": 3.0, "clip_norm": 0.0, "warmup_steps": 0, "keep_last": 1}
    train(base, tmp_path / "last", **fields)
    saved = [point for point in curve_of(tmp_path / "last") if point.step in (2, 4, 5)]
    best = min(saved, key=lambda point: point.loss)
    assert best.step < 5, "the last step is the best: nothing to choose"
    report = train(base, tmp_path / "best", keep_best="loss", final="best", **fields)
    assert report.counts["final_step"] == best.step
    assert largest_gap(tmp_path / "best", tmp_path / "last") > 0


def test_the_prompts_of_a_data_set_can_be_asked(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "out", data="d", steps=2)
    curve = curve_of(tmp_path / "out")
    assert {point.source for point in curve} == {"rollouts"}
    assert all(point.accuracy is None for point in curve)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_how_a_step_is_cut_into_passes_does_not_change_it(optimizer: str, base: Path, tmp_path: Path) -> None:
    common = {"steps": 2, "warmup_steps": 0, "learning_rate": 1e-3, "optimizer": optimizer}
    train(base, tmp_path / "plain", **common)
    train(base, tmp_path / "cut", tokens_per_pass=40, gradient_checkpointing=True, **common)
    assert largest_gap(base / "student", tmp_path / "plain") > 1e-4
    assert largest_gap(tmp_path / "plain", tmp_path / "cut") < 1e-5


def test_the_best_state_can_become_the_checkpoint(base: Path, tmp_path: Path) -> None:
    common = {"steps": 6, "save_every": 2, "keep_best": "accuracy", "judged": True, "learning_rate": 3e-3}
    report = train(base, tmp_path / "best", judge=Even(), final="best", **common)
    accuracies = {point.step: point.accuracy for point in curve_of(tmp_path / "best") if point.step % 2 == 0}
    best = max(accuracies, key=lambda step: (accuracies[step], -step))
    assert report.counts["final_step"] == best
    train(base, tmp_path / "last", judge=Even(), **common)
    assert (largest_gap(tmp_path / "best", tmp_path / "last") == 0.0) is (best == 6)


def test_passes_hold_every_turn_once_within_the_budget() -> None:
    told: Any = None
    turns = [Turn([0] * length, [], told, torch.zeros(1)) for length in (3, 9, 4, 30, 5, 5)]
    parts = passes(turns, 12)
    assert sorted(len(turn.token_ids) for part in parts for turn in part) == [3, 4, 5, 5, 9, 30]
    assert all(len(part) == 1 or max(len(turn.token_ids) for turn in part) * len(part) <= 12 for part in parts)


def test_a_student_that_thinks_otherwise_is_refused_with_what_was_measured(base: Path, tmp_path: Path) -> None:
    complaint = (
        r"on 12 of its own turns .* have \d+\.\d% of the student's mass.*expected 99\.0% of each.*with sft first"
    )
    with pytest.raises(UserError, match=complaint):
        train(base, tmp_path / "out", compatible=0.99, top_k=4)
    assert not (tmp_path / "out" / "curve.jsonl").exists()


def test_a_teacher_with_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    teacher = taught(base / "teacher")

    class Renamed:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tokenizer, name)

        def get_vocab(self) -> dict[str, int]:
            return {
                f"{token}'" if number == 20 else token: number for token, number in self.tokenizer.get_vocab().items()
            }

    other = dataclasses.replace(teacher, chat=Chat(Renamed(teacher.chat.tokenizer)))
    with pytest.raises(UserError, match=r"teacher teacher: token 20 is .* choose such a student"):
        train(base, tmp_path / "out", teacher=other)


def test_turns_beyond_the_teachers_context_are_refused_before_the_first(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes 12 tokens; the longest prompt with max_tokens = 8.*lower max_tokens"):
        train(base, tmp_path / "out", teacher=taught(base / "teacher", context=12))


SERVER = {"url": "http://host/v1", "model": "m", "revision": "1"}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"endpoint": SERVER, "tokenizer": "t", "context": 9}, "teacher and endpoint: give exactly one"),
        ({"teacher": None, "endpoint": SERVER, "tokenizer": "t"}, "context: needed with endpoint"),
        ({"teacher": None, "endpoint": SERVER, "context": 9}, "tokenizer: needed with endpoint"),
        ({"problems": None}, "problems and data: give one of them"),
        ({"on_policy": 0.5}, "the other steps take rows of data"),
        ({"data": "d", "problems": None, "judged": True}, "prompts of data have no answer"),
        ({"keep_best": "accuracy"}, "needs it at every step"),
        ({"data": "d", "on_policy": 0.5, "objective": {"kind": "sampled-reverse-kl"}}, "needs on_policy = 1"),
    ],
)
def test_tables_that_could_not_be_meant_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        config_of(**fields)
