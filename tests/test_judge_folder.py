"""Stored traces are judged again without being sampled again, and no stage ever reads half of the new verdicts."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cli.stages import REGISTRY, judge_again
from distill.errors import UserError
from distill.harvest import TRACES, VERDICTS
from distill.jsonl import write_jsonl
from distill.judge import Judge
from distill.judge import folder as module
from distill.judge import judge as judging
from distill.ledger import read_ledger
from distill.problems.families import family
from distill.problems.stage import draw
from distill.progress import Progress
from distill.recipe import Recipe, load_recipe, run_step
from distill.records import Problem, Trace, Verdict
from distill.runs import read_manifest
from distill.traces.verify import Checked, verify

QUIET = Progress("quiet")
RECIPE = """
[harvest]
problems = "./problems.jsonl"
sampler = "oracle"
error_rate = 0.5
max_tokens = 120
samples = 4
{more}
"""


class Stopping(Judge):
    """Interrupted after so many verdicts."""

    def __init__(self, after: int) -> None:
        super().__init__(workers=1)
        self.after = after

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:  # type: ignore[override]
        for count, verdict in enumerate(super().judge_many(pairs)):
            if count == self.after:
                raise KeyboardInterrupt
            yield verdict


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe file and its problems, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rows = draw(family("stories"), 2, "train", 10, seed=0).problems
    write_jsonl(tmp_path / "problems.jsonl", rows)
    return tmp_path


def recipe(world: Path, more: str = "") -> Recipe:
    path = world / "r.toml"
    path.write_text(RECIPE.format(more=more))
    return load_recipe(path, REGISTRY)


def walk(world: Path, more: str = "") -> bool:
    _, ran = run_step(recipe(world, more), "harvest", world / "out", world, QUIET)
    return ran


def again(world: Path, *statuses: str, judge: Judge | None = None) -> dict[str, int | float]:
    with judge or Judge(workers=1) as asked:
        return judge_again(world / "out" / "harvest", asked, world, QUIET, again=statuses).counts


def verdicts(world: Path, kind: str = VERDICTS) -> list[Verdict]:
    return list(read_ledger(world / "out" / "harvest" / kind, Verdict))


def newer(monkeypatch: pytest.MonkeyPatch, *, odd: bool = False) -> None:
    """A judge of the next version; an odd one calls every wrong answer undecided."""
    for place in (module, judging):
        monkeypatch.setattr(place, "JUDGE_VERSION", "next")
    for name in ("harvest", "import"):
        stage = REGISTRY[name]
        monkeypatch.setitem(REGISTRY, name, stage.__class__(**{
            **{key: getattr(stage, key) for key in stage.__slots__}, "version": "1 judge next"
        }))  # fmt: skip
    if odd:
        whole = judging._Case.verdict

        def verdict(self: judging._Case) -> Verdict:
            said = whole(self)
            return said.model_copy(update={"status": "undecided"}) if said.status == "wrong" else said

        monkeypatch.setattr(judging._Case, "verdict", verdict)


def no_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(self: object, requests: object) -> None:
        raise AssertionError("nothing may be sampled")

    monkeypatch.setattr("distill.sampling.oracle.OracleSampler.sample", sample)


def test_a_newer_judge_draws_every_verdict_anew_and_samples_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert walk(world)
    old, before = verdicts(world), read_manifest(world / "out" / "harvest")
    newer(monkeypatch, odd=True)
    no_sampling(monkeypatch)
    counts = again(world)
    wrong = sum(verdict.status == "wrong" for verdict in old)
    assert 0 < wrong < 40
    assert (counts["judged"], counts["changed"], counts["undecided"]) == (40, wrong, wrong)
    assert verdicts(world, "verdicts-1") == old
    assert [row.trace_id for row in verdicts(world)] == [row.trace_id for row in old]
    assert {row.judge_version for row in verdicts(world)} == {"next"}
    after = read_manifest(world / "out" / "harvest")
    assert after.report.counts["undecided"] == wrong
    assert "wrong" not in after.report.counts
    assert (after.stage_version, after.report.counts["traces"]) == ("1 judge next", 40)
    assert after.content not in (before.content, after.fingerprint), "later steps must run again"
    assert list(verify(world / "out" / "harvest", Checked(), QUIET)) == []
    assert not walk(world), "the recipe knows the step as done"
    assert again(world)["judged"] == 0


def test_a_recipe_walked_under_a_newer_judge_judges_instead_of_sampling(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk(world)
    newer(monkeypatch)
    no_sampling(monkeypatch)
    assert walk(world)
    assert {row.judge_version for row in verdicts(world)} == {"next"}
    with pytest.raises(AssertionError, match="nothing may be sampled"):
        walk(world, "seed = 1")  # that is another harvest, whatever the judge


def test_deferred_verdicts_are_drawn_later(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(world, "defer_verdicts = true")
    assert verdicts(world) == []
    no_sampling(monkeypatch)
    assert again(world)["judged"] == 40
    assert {row.trace_id for row in verdicts(world)} == {
        row.id for row in read_ledger(world / "out" / "harvest" / TRACES, Trace)
    }
    assert not (world / "out" / "harvest" / "verdicts-1").exists(), "there was nothing to keep"
    assert not walk(world, "defer_verdicts = true")


def test_chosen_verdicts_are_drawn_anew_and_the_others_carried_over(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk(world)
    old = {row.trace_id: row for row in verdicts(world)}
    monkeypatch.setattr(judging, "JUDGE_VERSION", "probe")  # stamps what is drawn now
    wrong = sum(row.status == "wrong" for row in old.values())
    assert again(world, "wrong")["judged"] == wrong
    for row in verdicts(world):
        assert row == (old[row.trace_id] if old[row.trace_id].status == "correct" else row)
        assert (row.judge_version == "probe") == (row.status == "wrong")


@pytest.mark.parametrize("after", [0, 1, 17, 39])
def test_an_interrupted_judging_changes_nothing_and_goes_on(
    world: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    walk(world)
    old = verdicts(world)
    newer(monkeypatch, odd=True)
    with pytest.raises(KeyboardInterrupt):
        again(world, judge=Stopping(after))
    assert verdicts(world) == old
    begun: Counter[str] = Counter()
    whole = Judge._begin

    def begin(self: Judge, problem: Problem, said: Trace) -> object:
        begun[said.id] += 1
        return whole(self, problem, said)

    monkeypatch.setattr(Judge, "_begin", begin)
    counts = again(world)
    assert begun.total() == 40 - after, "verdicts that are staged are not drawn again"
    assert counts["changed"] == sum(row.status == "wrong" for row in old)
    assert [row.trace_id for row in verdicts(world)] == [row.trace_id for row in old]


@pytest.mark.parametrize("step", range(6))
def test_a_kill_between_any_two_steps_of_the_change_is_mended(
    world: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    walk(world)
    old = verdicts(world)
    newer(monkeypatch, odd=True)
    steps = 0

    def counted(whole):  # type: ignore[no-untyped-def]
        def call(*words: object, **named: object) -> object:
            nonlocal steps
            if "verdicts" in str(words) or ".judging" in str(words) or "manifest" in str(words):
                steps += 1
                if steps == step + 1:
                    raise KeyboardInterrupt
            return whole(*words, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", counted(os.rename))
        patch.setattr(module, "write_durably", counted(module.write_durably))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            again(world)
    again(world)
    assert {row.judge_version for row in verdicts(world)} == {"next"}
    assert verdicts(world, "verdicts-1") == old
    assert read_manifest(world / "out" / "harvest").report.counts["undecided"] > 0
    assert sorted(path.name for path in (world / "out" / "harvest").iterdir() if path.name[0] != ".") == [
        "clock",
        "manifest.json",
        "traces",
        "verdicts",
        "verdicts-1",
    ]
    assert not walk(world)


def test_what_is_no_finished_harvest_is_refused(world: Path) -> None:
    walk(world)
    folder = world / "out" / "harvest"
    with pytest.raises(UserError, match=r"--again rong: unknown \(did you mean wrong\?\)"):
        again(world, "rong")
    (world / "problems.jsonl").unlink()
    with pytest.raises(UserError, match=r"problems\.jsonl: no such file"):
        again(world, "all")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"stage": "bench"}))
    with pytest.raises(UserError, match="is of stage bench, whose scores were counted from its verdicts"):
        again(world, "all")
