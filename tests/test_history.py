"""Every trace's way through curate is written down, and said in words to whoever asks."""

import subprocess
import sys
from pathlib import Path

import pytest

from distill.curate.explain import find_fate, in_words
from distill.errors import UserError
from distill.recipe import is_path
from distill.runs import read_manifest
from tests.curate_world import LONG, World, problem

RECIPE = """
seed = 3
[curate]
traces = "{folder}/harvest"
problems = "{folder}/problems"
against = "{folder}/problems"
max_per_problem = 2
orders = ["length"]
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    assert is_path(str(folder))
    recipe = folder / "small.toml"
    recipe.write_text(RECIPE.format(folder=folder))
    command = [sys.executable, "-m", "cli.main", "curate", "--recipe", str(recipe), "--out", str(folder / "runs")]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, timeout=120)


def test_a_history_ends_with_the_step_that_dropped_the_trace_or_with_its_example(world: World) -> None:
    world.exam = [problem("exam", LONG, split="test")]
    kept = world.say("p1", "a")
    same = world.say("p1", "a\n")
    wrong = world.say("p1", "b", status="wrong")
    quoting = world.say("p2", f" {LONG}")
    over = world.say("p1", "c")
    world.curate(max_per_problem=1)
    fates = {fate.trace_id: fate for fate in world.fates()}
    assert {id: [step[:3] for step in fate.steps][-1] for id, fate in fates.items()} == {
        kept: ("at-most", "passed", None),
        same: ("distinct", "dropped", "duplicate"),
        wrong: ("verified", "dropped", "wrong"),
        quoting: ("clean", "dropped", "contaminated-trace"),
        over: ("at-most", "dropped", "over-quota"),
    }
    assert [step[0] for step in fates[kept].steps] == ["trainable", "verified", "distinct", "clean", "at-most"]
    assert fates[over].steps[-1][3:5] == (2, 1)
    (example,) = world.examples()
    assert [fate.example_id for fate in fates.values() if fate.kept] == [example.id]


def test_every_step_is_counted_in_the_manifest_mark(world: World) -> None:
    for sample in ({}, {"status": "wrong"}, {"status": "wrong", "text": "x"}, {"finish": "length"}):
        world.say(**sample)  # type: ignore[arg-type]
    steps = world.curate().marks["steps"]
    assert steps["trainable"] == {"before": 4, "after": 3, "reasons": {"unfinished": 1}}
    assert steps["verified"] == {"before": 3, "after": 1, "reasons": {"wrong": 2}}
    assert steps["clean"] == {"before": 1, "after": 1, "reasons": {}}


def test_the_command_line_curates_and_explains_in_words(world: World) -> None:
    kept, wrong = world.say("p1", "a"), world.say("p1", "b", status="wrong")
    world.write()
    ran = cli(world.folder)
    assert ran.returncode == 0, ran.stderr
    assert "verified               2 ->         1  wrong 1" in ran.stdout
    said = cli(world.folder, "--explain", wrong)
    assert said.stdout.splitlines() == [
        f"trace {wrong} of problem p1 in [curate]: not kept, verified dropped it (wrong)",
        "  trainable  passed: ends by itself, says something, answers no test problem",
        "  verified   dropped: wrong (value no answer, threshold 1); because",
    ]
    assert f"trace {kept} of problem p1 in [curate]: kept, as example " in cli(world.folder, "--explain", kept).stdout
    unknown = cli(world.folder, "--explain", "t0")
    assert unknown.returncode == 2
    assert unknown.stderr.strip().endswith("history.jsonl: no trace t0 (did you mean t01?)")
    assert len(unknown.stderr.strip().splitlines()) == 1
    assert read_manifest(world.folder / "runs/curate").report.counts["examples"] == 1


def test_a_step_that_was_not_run_is_named(world: World) -> None:
    world.write()
    with pytest.raises(UserError, match="not a complete run folder"):
        find_fate(world.folder / "harvest", "t00")


def test_words_of_a_foreign_answer_stay_on_one_line(world: World) -> None:
    odd = world.say("p1", status="wrong", extracted="1\n2")
    world.say("p2")
    world.curate()
    fate = next(fate for fate in world.fates() if fate.trace_id == odd)
    assert len(in_words(fate, "curate").splitlines()) == 3


def test_a_step_killed_at_any_instant_gives_the_same_bytes_when_it_is_run_again() -> None:
    command = [sys.executable, "-m", "tests.curate_kills", "4"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
