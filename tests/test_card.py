"""The card tells what the data are made of, and the folder opens as a data set."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from distill.curate.bars import bars
from tests.curate_world import LONG, World, problem


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_datasets_opens_the_folder_as_it_is(world: World, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for number in range(5):
        world.say("p2", f"ünï {number}", status="wrong" if number == 3 else "correct")
    world.curate(orders=("length",))
    loaded = datasets.load_dataset(str(world.folder / "out"), cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.to_list() == [row.model_dump(mode="json") for row in world.examples()]


def test_matches_are_counted_by_where_and_how(world: World) -> None:
    world.exam = [problem("exam", LONG, split="test")]
    world.problems[1] = problem("p2", LONG)
    for text in ("", f" {LONG}", f" {LONG} and {LONG}"):
        world.say("p1", text)
    world.say("p2", "any")
    world.say("p2", "other")
    world.curate()
    card = (world.folder / "out/card.md").read_text()
    assert "| 13-gram in a trace | 3 |" in card
    assert "| same in a prompt | 1 |" in card


def test_counts_of_the_card_do_not_depend_on_which_trace_came_first(world: World) -> None:
    for status in ("wrong", "unparsed", "correct"):
        world.say("p1", status, status=status)
    world.curate()
    again = World(world.folder / "again")
    again.folder.mkdir()
    again.samples = world.samples[::-1]
    again.curate()
    for name in ("card.md", "lengths.svg", "levels.svg", "README.md"):
        assert (world.folder / "out" / name).read_bytes() == (again.folder / "out" / name).read_bytes(), name


def test_names_from_elsewhere_make_no_table_link_or_tag_of_their_own(world: World) -> None:
    name = "a|b\n| <b>*x* [y](z) `"
    world.problems[1] = world.problems[1].model_copy(update={"source": name})
    world.source = {"name": name, "licence": "MIT|x", "url": "javascript:alert(1)"}
    world.say("p2", "any")
    world.curate()
    card = (world.folder / "out/card.md").read_text()
    assert f"| {ESCAPED} |  | MIT\\|x | allows-training |  | 1 | javascript:alert(1) |" in card
    assert f"| {ESCAPED} | 2 | 1 | 1 |" in card


ESCAPED = r"a\|b \| \<b>\*x\* \[y](z) \`"


def test_bars_are_as_long_as_their_counts_and_names_cannot_break_out(world: World) -> None:
    drawn = ET.fromstring(bars("<t>", [("</svg><script>\x1b", 3), ("b", 1), ("none", 0)]))
    widths = [float(rect.attrib["width"]) for rect in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == [360.0, 120.0, 0.0]
    assert "script" not in {element.tag.rpartition("}")[2] for element in drawn.iter()}


def test_bars_beyond_the_fortieth_are_summed_up() -> None:
    drawn = bars("t", [(f"level {number}", 2) for number in range(50)])
    assert "10 more" in drawn
    assert ">20<" in drawn
