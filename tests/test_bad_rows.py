"""Rows nobody should learn from are dropped by name, end to end, and none of them stops the step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.curate.history import Fate
from distill.jsonl import read_jsonl
from distill.records import Trace
from tests.curate_world import World, problem

RECIPE = """
[curate]
traces = "{folder}/harvest"
problems = "{folder}/problems"
against = "{folder}/problems"
keep = "all"
"""
PROSE = "We add the two numbers one after the other, and then we look at the sum again to be sure of it. "
TWO = (
    "A farmer has twelve cows and buys seven more at the market, how many cows has he got now? "
    "Ein Bauer hat zwölf Kühe und kauft sieben weitere auf dem Markt, wie viele Kühe hat er jetzt insgesamt?"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harvest of one good row and many bad ones, curated by the command line."""
    world = World(tmp_path_factory.mktemp("bad"))
    world.problems = [problem("p1", "How much is three plus four?"), problem("p2", TWO)]
    said = {
        "good": {"reasoning": PROSE, "answer": "The sum is 7."},
        "broken-think-block": {"reasoning": f"{PROSE} </think> <think>", "answer": "The sum is 7."},
        "never-closed": {"reasoning": None, "answer": None},
        "replacement-character": {"reasoning": PROSE, "answer": "The sum is \ud83d 7."},
        "empty-answer": {"reasoning": PROSE, "answer": " . "},
        "too-many-characters": {"reasoning": PROSE * (5_000_000 // len(PROSE)), "answer": "The sum is 7."},
        "prompt-in-two-languages": {"reasoning": PROSE, "answer": "He has 19 cows."},
        "repetition": {"reasoning": "Wait, let me think again about it. " * 300, "answer": "The sum is 7."},
    }
    for name, parts in said.items():
        id = world.say("p2" if name == "prompt-in-two-languages" else "p1", **parts)  # type: ignore[arg-type]
        trace, verdict = world.samples[-1]
        fields = {**trace.model_dump(), "id": name, "reasoning": parts["reasoning"]}
        if name == "never-closed":
            fields["text"] = f"<think> {PROSE}"
        assert verdict is not None
        world.samples[-1] = Trace.model_validate(fields), verdict.model_copy(update={"trace_id": name})
        assert id != name
    world.write()
    recipe = world.folder / "bad.toml"
    recipe.write_text(RECIPE.format(folder=world.folder))
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "curate",
        "--recipe",
        str(recipe),
        "--out",
        str(world.folder),
        "--json",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert json.loads(ran.stdout)["report"]["counts"]["examples"] == 1
    return world.folder / "curate"


def test_every_bad_row_has_its_reason_and_the_good_one_none(folder: Path) -> None:
    fates = {fate.trace_id: fate for fate in read_jsonl(folder / "history.jsonl", Fate)}
    assert fates.pop("good").kept
    never = fates.pop("never-closed")
    assert {name: fate.steps[-1][2] for name, fate in fates.items()} == {name: name for name in fates}
    assert never.steps[-1][2] == "broken-think-block"
    assert all(fate.steps[-1][3] is not None for fate in fates.values())


def test_no_history_line_carries_the_text_it_dropped(folder: Path) -> None:
    assert max(map(len, (folder / "history.jsonl").read_text().splitlines())) < 1000
