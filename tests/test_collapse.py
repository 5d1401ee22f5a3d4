"""When a run of rl stops: each limit on curves written by hand, and a planted collapse in the stage itself."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distill.checkpoints import read_lineage
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.records import Problem, Trace, Verdict
from distill.train.collapse import Guard, GuardConfig
from distill.train.curve import RlLevel, RlPoint
from tests.test_rl import LengthJudge, largest_gap, model, problems, train

__all__ = ["model", "problems"]

WELL = {"accuracy": 0.5, "length": 30.0, "entropy": 0.1, "stuck": 1}


def level(**fields: Any) -> RlLevel:
    return RlLevel(completions=32, groups=4, **{**WELL, **fields})


def row(step: int, levels: Mapping[str, RlLevel], kl: float | None = 0.0) -> RlPoint:
    return RlPoint(
        step=step,
        tokens=1,
        reward=0.5,
        rewards={"accuracy": 0.5},
        accuracy=0.5,
        length=30.0,
        entropy=0.1,
        by_level=levels,
        zero_signal_groups=0,
        kl_sampler_trainer=kl,
        lr=1e-4,
        seconds=1.0,
    )


def watched(
    now: dict[str, Any], *, start: dict[str, Any] | None = None, kl: float = 0.0, **limits: float
) -> str | None:
    """What a guard says when one level of two goes from `start` to `now`."""
    before = {"a/level-1": level(**(start or {})), "b/level-1": level()}
    guard = Guard(GuardConfig(window=3, **limits), before, [])  # type: ignore[arg-type]
    said = guard.see(row(1, before))
    for step in range(2, 5):
        assert said is None
        said = guard.see(row(step, {"a/level-1": level(**now), "b/level-1": level()}, kl))
    return said


@pytest.mark.parametrize(
    ("start", "now", "key"),
    [
        pytest.param({"accuracy": 0.97}, {"accuracy": 0.12}, "accuracy_drop", id="a level is forgotten"),
        pytest.param({}, {"entropy": 0.001}, "entropy_least", id="it always says the same"),
        pytest.param({}, {"entropy": 1.5}, "entropy_most", id="it babbles"),
        pytest.param({}, {"length": 4.0}, "length_least", id="it answers without a thought"),
        pytest.param({}, {"length": 200.0}, "length_most", id="it rambles"),
    ],
)
def test_a_level_that_collapses_is_named_with_what_was_measured(
    start: dict[str, Any], now: dict[str, Any], key: str
) -> None:
    said = watched(now, start=start)
    assert said is not None
    assert said.startswith("a/level-1: ")
    assert "over steps 2 to 4" in said
    assert f"(guard.{key} = " in said
    assert watched(now, start=start, **{key: 0.0}) is None  # 0 switches it off


@pytest.mark.parametrize(
    ("start", "now"),
    [
        pytest.param({}, {}, id="nothing changes"),
        pytest.param({"accuracy": 0.8}, {"accuracy": 0.6}, id="a drop within the limit"),
        pytest.param({}, {"accuracy": 0.95, "entropy": 0.0001, "length": 5.0}, id="short and certain, and right"),
        pytest.param({}, {"accuracy": 0.7, "entropy": 0.001}, id="certain where it got better"),
        pytest.param({}, {"entropy": 0.02, "length": 60.0}, id="within every limit"),
    ],
)
def test_a_policy_that_is_well_goes_on(start: dict[str, Any], now: dict[str, Any]) -> None:
    assert watched(now, start=start) is None


def test_more_of_next_to_no_entropy_is_not_babble() -> None:
    """A cold start that is sure of itself has 0.001 nats a token, and eight times that when it learns: no collapse."""
    assert watched({"accuracy": 0.88, "entropy": 0.008}, start={"accuracy": 0.95, "entropy": 0.001}) is None
    assert watched({"accuracy": 0.88, "entropy": 0.2}, start={"accuracy": 0.95, "entropy": 0.001}) is not None


def test_a_drop_that_chance_explains_does_not_stop_a_run() -> None:
    few = RlLevel(completions=8, groups=1, accuracy=0.875, length=30.0, entropy=0.1, stuck=0)
    less = RlLevel(completions=8, groups=1, accuracy=0.5, length=30.0, entropy=0.1, stuck=0)
    guard = Guard(GuardConfig(window=1), {}, [row(1, {"a": few})])
    assert guard.see(row(2, {"a": less})) is None


def test_prompts_that_teach_nothing_stop_a_run_unless_they_are_right() -> None:
    stuck = {"a": level(accuracy=0.0, stuck=4)}
    fine = {"a": level(accuracy=1.0, stuck=0)}
    for levels, stops in ((stuck, True), (fine, False)):
        guard = Guard(GuardConfig(window=2), levels, [row(1, levels), row(2, levels)])
        said = guard.see(row(3, levels))
        assert (said is not None and "guard.stuck" in said) is stops


def test_a_sampler_with_other_weights_stops_a_run() -> None:
    said = watched({}, kl=0.5)
    assert said is not None
    assert "0.5 nats a token apart" in said
    assert "do not hold the same weights" in said


def test_half_way_to_a_limit_weights_are_no_longer_worth_keeping() -> None:
    def asked(accuracy: float) -> dict[str, RlLevel]:
        return {"a": level(accuracy=accuracy).model_copy(update={"groups": 32})}

    before = asked(0.9)
    guard = Guard(GuardConfig(window=2), before, [row(1, before)])
    assert guard.well
    assert guard.see(row(2, asked(0.7))) is None
    guard.see(row(3, asked(0.7)))
    assert not guard.well


def test_eight_samples_of_a_prompt_are_no_eight_prompts() -> None:
    """62% of ten prompts at the start and 26% of twenty later may be the same policy: the miniature was stopped so."""
    few = {"a": level(accuracy=0.62).model_copy(update={"completions": 80, "groups": 10})}
    fewer = {"a": level(accuracy=0.26).model_copy(update={"completions": 80, "groups": 10})}
    guard = Guard(GuardConfig(window=2), {}, [row(1, few)])
    assert [guard.see(row(step, fewer)) for step in (2, 3)] == [None, None]


class Turncoat(LengthJudge):
    """Rewards an even number of letters, and from some call on finds nothing right."""

    def __init__(self, calls: int) -> None:
        super().__init__(most=0)
        self.calls = calls

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        self.calls -= 1
        for verdict in super().judge_many(pairs):
            yield verdict if self.calls >= 0 else verdict.model_copy(update={"status": "wrong"})


def test_a_collapsed_run_stops_keeps_the_last_good_weights_and_says_so_again(
    model: Path, problems: Path, tmp_path: Path
) -> None:
    out = tmp_path / "policy.partial"
    fields: dict[str, Any] = {"steps": 40, "save_every": 2, "learning_rate": 1e-4}
    fields["guard"] = {"window": 4, "stuck": 0.0}
    with pytest.raises(UserError, match=r"step 1\d: .*guard\.accuracy_drop.*policy-step-\d+.*--from .*policy-good"):
        train(model, problems, out, Turncoat(calls=9), **fields)
    kept = tmp_path / "policy-good"
    lineage = read_lineage(kept)
    assert lineage is not None
    assert lineage.name in {f"policy-step-{step}" for step in (8, 10)}  # the judge turned at the probe and 8 steps
    stopped = read_jsonl(out / "curve.jsonl", RlPoint)[-1].step
    assert largest_gap(model, kept) > 0.0
    with pytest.raises(UserError, match=rf"step {stopped}: .*guard\.accuracy_drop"):
        train(model, problems, out, Turncoat(calls=1), **fields)
    report = train(kept, problems, tmp_path / "again", LengthJudge(most=6), steps=2)
    assert report.counts["steps"] == 2
