"""The rl stage on a toy model: what it learns from a reward, when it refuses, and what a kill costs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
from distill.records import Problem, Status, Trace, Verdict
from distill.runs import Report
from distill.train.curve import RlPoint
from distill.train.grpo_trainer import passes
from distill.train.rl import RlConfig, rl

QUIET = Progress("quiet")


@dataclass
class LengthJudge:
    """Right is what ends within `most` tokens; with 0, whatever has an even number of letters."""

    most: int = 0
    asked: int = 0

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            self.asked += 1
            short = trace.finish == "stop" and trace.completion_tokens <= self.most
            right = short if self.most else len(trace.text) % 2 == 0
            status: Status = "correct" if right else "wrong"
            yield Verdict(trace_id=trace.id, judge_version="length", status=status)


class Nobody:
    """Finds nothing right."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            yield Verdict(trace_id=trace.id, judge_version="nobody", status="wrong")


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
    toy = LlamaForCausalLM(config)
    with torch.no_grad():  # a random model hardly ever stops: start where stopping happens now and then
        toy.lm_head.weight[tokenizer.eos_token_id] *= 8
    toy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("problems")
    rows = [
        Problem(
            id=f"{split}-{level}-{number}",
            kind="answer",
            prompt=f"Mia has {number} coins . " * level,
            answer="1",
            source="stories",
            split=split,
            level=level,
        )
        for split in ("train", "test")
        for level in (1, 2)
        for number in range(10)
    ]
    write_jsonl(folder / "problems.jsonl", rows)
    return folder


FIELDS: dict[str, Any] = {"prompts_per_step": 4, "samples": 4, "max_tokens": 8, "probe": 16, "floor": 0.0}


def train(model: Path, problems: Path, out: Path, judge: Any, **fields: Any) -> Report:
    out.mkdir(exist_ok=True)
    config = RlConfig(model="model", problems="problems", **{**FIELDS, **fields})
    return rl(model, problems, out, config, loader=Folders(), judge=judge, seed=0, progress=QUIET)


def curve_of(out: Path) -> list[RlPoint]:
    return read_jsonl(out / "curve.jsonl", RlPoint)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_gap(first: Path, second: Path) -> float:
    left, right = weights(first), weights(second)
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_a_policy_learns_what_is_rewarded_and_says_so_level_by_level(
    model: Path, problems: Path, tmp_path: Path
) -> None:
    out = tmp_path / "policy.partial"
    report = train(model, problems, out, LengthJudge(most=3), steps=30, learning_rate=1e-3)
    curve = curve_of(out)
    assert [point.step for point in curve] == list(range(1, 31))
    assert report.counts["accuracy_last_tenth"] > report.counts["accuracy_before"] + 0.3
    assert all(set(point.by_level) == {"stories/level-1", "stories/level-2"} for point in curve)
    gaps = [point.kl_sampler_trainer for point in curve if point.kl_sampler_trainer is not None]
    assert len(gaps) > 5
    assert gaps == pytest.approx([0.0] * len(gaps), abs=1e-5)  # the engine speaks with the weights of every step
    assert curve[-1].tokens == report.tokens
    lineage = read_lineage(out)
    assert lineage is not None
    assert (lineage.name, lineage.stage) == ("policy", "rl")
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == []


def test_held_out_problems_are_never_asked(model: Path, problems: Path, tmp_path: Path) -> None:
    class Watching(LengthJudge):
        def prepare(self, problems: Iterable[Problem]) -> None:
            """Nothing to start."""

        def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
            seen = list(pairs)
            assert {problem.split for problem, _ in seen} == {"train"}
            return super().judge_many(seen)

    judge = Watching()
    train(model, problems, tmp_path / "out", judge, steps=1)
    assert judge.asked == 16 + 16


def test_a_model_below_the_floor_is_refused_with_what_was_measured(model: Path, problems: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.0% of the probe right \(0 of 16 samples.*floor is 5\.0%"):
        train(model, problems, tmp_path / "out", Nobody(), steps=1, floor=0.05)


def test_equal_rewards_teach_nothing(model: Path, problems: Path, tmp_path: Path) -> None:
    train(model, problems, tmp_path / "out", Nobody(), steps=2)
    assert [point.zero_signal_groups for point in curve_of(tmp_path / "out")] == [4, 4]
    assert largest_gap(model, tmp_path / "out") == 0.0


@pytest.mark.parametrize(
    ("tokens_per_pass", "whole_logits"), [(40, 2**24), (100_000, 0)], ids=["many passes", "fused head"]
)
def test_how_a_step_is_computed_does_not_change_it(
    tokens_per_pass: int,
    whole_logits: int,
    model: Path,
    problems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = {"steps": 2, "warmup_steps": 0, "temperature": 0.8}
    train(model, problems, tmp_path / "plain", LengthJudge(), **fields)
    monkeypatch.setattr("distill.train.lean.WHOLE_LOGITS", whole_logits)
    train(model, problems, tmp_path / "other", LengthJudge(), tokens_per_pass=tokens_per_pass, **fields)
    assert largest_gap(model, tmp_path / "plain") > 1e-4
    assert largest_gap(tmp_path / "plain", tmp_path / "other") < 1e-5


def test_a_kl_term_holds_the_policy_back(model: Path, problems: Path, tmp_path: Path) -> None:
    common = {"steps": 8, "learning_rate": 3e-3, "warmup_steps": 0, "judge": LengthJudge(most=3)}
    train(model, problems, tmp_path / "free", **common)
    train(model, problems, tmp_path / "held", beta=20.0, **common)
    free, held = (curve_of(tmp_path / name)[-1].accuracy for name in ("free", "held"))
    assert held < free


def test_passes_hold_every_completion_with_an_advantage_once_and_little_padding() -> None:
    torch.manual_seed(0)
    prompts, completions = torch.randint(1, 9, (40,)), torch.randint(1, 30, (40,))
    scored = {
        "prompt_ids": torch.arange(40)[:, None].expand(40, 8).clone(),
        "prompt_mask": (torch.arange(8) >= 8 - prompts[:, None]).long(),
        "completion_ids": torch.arange(40)[:, None].expand(40, 29).clone(),
        "completion_mask": (torch.arange(29) < completions[:, None]).long(),
        "advantages": torch.where(torch.arange(40) % 3 == 0, 0.0, 1.0),
        "num_items_in_batch": torch.tensor(7),
    }
    parts = list(passes(scored, 100))
    rows = [int(row) for part in parts for row in part["prompt_ids"][:, 0]]
    assert sorted(rows) == [row for row in range(40) if row % 3]
    for part in parts:
        rows_here = part["prompt_ids"][:, 0]
        assert part["prompt_mask"].sum(1).equal(prompts[rows_here])
        assert part["completion_mask"].sum(1).equal(completions[rows_here])
        assert part["prompt_mask"].shape[1] == prompts[rows_here].max()
        assert (part["prompt_mask"].numel() + part["completion_mask"].numel()) <= 100 or len(rows_here) == 1
        assert int(part["num_items_in_batch"]) == 7


class Failing(LengthJudge):
    """Breaks off at some call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        self.calls -= 1
        if self.calls < 0:
            raise InterruptedError
        return super().judge_many(pairs)


def test_several_updates_a_step_are_more_steps_and_resume_between_generations(
    model: Path, problems: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"steps": 4, "save_every": 2, "warmup_steps": 0, "updates": 2, "weights": "int8"}
    train(model, problems, tmp_path / "once", LengthJudge(), **{**fields, "updates": 1})
    train(model, problems, tmp_path / "whole", LengthJudge(), **fields)
    with pytest.raises(InterruptedError):
        train(model, problems, tmp_path / "broken", Failing(calls=4), **fields)  # the probe and three steps
    train(model, problems, tmp_path / "broken", LengthJudge(), **fields)
    assert largest_gap(tmp_path / "whole", tmp_path / "broken") == 0.0
    assert largest_gap(tmp_path / "whole", tmp_path / "once") > 1e-4
    assert len(curve_of(tmp_path / "broken")) == 4


def test_the_best_state_becomes_the_checkpoint(model: Path, problems: Path, tmp_path: Path) -> None:
    fields = {"steps": 5, "save_every": 1, "learning_rate": 0.05, "keep_last": 1}
    train(model, problems, tmp_path / "last", LengthJudge(), **fields)
    curve = curve_of(tmp_path / "last")
    best = max(curve, key=lambda row: row.reward)  # the first of equals
    assert best.step < 5, "the last step is the best: nothing to choose"
    kept = {"keep_best": "reward", "final": "best"}
    report = train(model, problems, tmp_path / "best", LengthJudge(), **fields, **kept)
    assert report.counts["final_step"] == best.step
    assert largest_gap(tmp_path / "best", tmp_path / "last") > 0
