"""Steps over the whole set, gates and measures, as a curate step runs them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cli.stages import REGISTRY
from distill.curate import CurateConfig, looking, steps
from distill.errors import UserError
from distill.progress import Progress
from distill.recipe import load_recipe, run_step
from distill.runs import read_manifest
from tests.curate_world import World, problem

ASKED = "A farmer has 12 cows and buys 7 more of them at the market on Monday morning. How many cows has he now?"
SAID = " we add the twelve cows he had before and the seven he bought at the market and get nineteen cows in all"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_traces_of_a_problem_that_repeats_another_are_dropped_with_its_id(world: World) -> None:
    world.problems[:2] = [
        problem("p1", ASKED),
        problem("p2", ASKED.replace("on Monday morning", "on a Monday morning")),
    ]
    kept, again = world.say("p1", "a"), world.say("p2", "b")
    other = world.say("p3", "c")
    report = world.curate(near_prompts={})
    assert (world.kept(), world.dropped()) == ([kept, other], {again: "near-prompt"})
    assert world.fates()[1].steps[-1][:4] == ("near-prompts", "dropped", "near-prompt", "p1")
    assert report.marks["steps"]["near-prompts"]["reasons"] == {"near-prompt": 1}


def test_a_trace_that_repeats_one_of_its_own_problem_is_dropped_and_one_of_another_is_not(world: World) -> None:
    first, again = world.say("p1", SAID), world.say("p1", f"{SAID} .")
    elsewhere = world.say("p2", SAID)
    world.curate(near_solutions={})
    assert (world.kept(), world.dropped()) == ([first, elsewhere], {again: "near-solution"})


def test_nothing_depends_on_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.curate import Inputs, curate

    for number in range(12):
        mail = " or asks jane.miller@mail.org" * (number % 5 == 4)
        world.say(f"p{number % 3 + 1}", f"{SAID} {'and so on' if number % 2 else 'and'}{mail}")
    world.curate(near_solutions={}, content={})
    assert set(world.dropped().values()) == {"duplicate", "near-solution", "personal-email"}
    monkeypatch.setattr(steps, "ALONE", 1)
    monkeypatch.setattr(looking, "ALONE", 0)
    monkeypatch.setattr(looking, "BATCH_TEXTS", 2)
    out = world.folder / "two"
    out.mkdir()
    named = {"traces": "harvest", "problems": "problems", "against": "problems"}
    config = CurateConfig.model_validate({**named, "near_solutions": {}})
    inputs = Inputs([world.folder / "harvest"], [world.folder / "problems"], [world.folder / "problems"])
    curate(inputs, out, config, seed=0, progress=Progress("quiet"), workers=2)
    for name in ("examples.jsonl", "history.jsonl", "card.md"):
        assert (out / name).read_bytes() == (world.folder / "out" / name).read_bytes(), name


def test_sources_whose_terms_forbid_training_are_refused_until_told_twice(world: World) -> None:
    world.terms = "forbids-training"
    world.say()
    with pytest.raises(UserError, match="source oracle: forbids-training"):
        world.curate()
    report = world.curate(terms="accept", accept_terms=("oracle",))
    assert report.marks["sources"][0]["terms"] == "forbids-training"
    assert "forbids-training, accepted in the recipe" in (world.folder / "out/card.md").read_text()


def test_what_nobody_measured_comes_last_in_the_order_of_losses(world: World) -> None:
    ids = [world.say(text=str(number)) for number in range(3)]
    world.measure("student", **{ids[0]: 2.0, ids[2]: 1.0})
    world.curate(measures=("student",), order="loss")
    assert world.kept() == [ids[2], ids[0], ids[1]]


def test_a_set_nobody_checked_has_to_be_asked_for_twice_and_says_so(world: World) -> None:
    world.say()
    with pytest.raises(ValidationError, match="accept_unchecked"):
        world.curate(decontaminate="none")
    report = world.curate(decontaminate="none", accept_unchecked=True, against=())
    assert report.marks["decontaminated"] == "unchecked"
    assert "clean" not in report.marks["steps"]
    assert "nobody compared these examples" in (world.folder / "out/card.md").read_text()


def test_other_numbers_are_flagged_in_history_and_matches_and_dropped_on_demand(world: World) -> None:
    asked = "A farmer has 12 cows and buys 7 more, how many now?"
    world.exam = [problem("exam", asked, split="test").model_copy(update={"source": "farms"})]  # no family of ours
    world.problems[0] = problem("p1", asked.replace("12", "13"))
    variant, other = world.say("p1"), world.say("p2")
    report = world.curate()
    assert set(world.kept()) == {variant, other}
    assert report.marks["decontaminated"]["flagged"] == 1
    assert [(match.how, match.drops) for match in world.matches()] == [("numbers-changed", False)]
    assert world.fates()[0].steps[-1][:3] == ("clean", "flagged", "contaminated-prompt")
    world.curate(numbers_changed="drop")
    assert world.dropped() == {variant: "contaminated-prompt"}


RECIPE = """
[curate]
traces = "{folder}/harvest"
problems = "{folder}/problems"
against = "{folder}/problems"
content = "off"
order = "level"
orders = ["length"]
near_solutions = {{ threshold = 0.8 }}
"""


def test_the_manifest_is_enough_to_make_the_same_bytes_again(world: World) -> None:
    for number in range(9):
        world.say(f"p{number % 3 + 1}", str(number))
    world.write()
    path = world.folder / "r.toml"
    path.write_text(RECIPE.format(folder=world.folder))
    quiet = Progress("quiet")
    run_step(load_recipe(path, REGISTRY, ["seed=5"]), "curate", world.folder, Path("data"), quiet)
    made = read_manifest(world.folder / "curate")
    path.write_text("[curate]\n")
    sets = [f"curate.{key}={_toml(value)}" for key, value in made.config.items() if value not in (None, [])]
    again = load_recipe(path, REGISTRY, [f"seed={made.seed}", *sets])
    manifest, _ = run_step(again, "curate", world.folder / "again", Path("data"), quiet)
    assert manifest.fingerprint == made.fingerprint
    for found in sorted((world.folder / "curate").iterdir()):
        if found.name != "manifest.json":
            assert found.read_bytes() == (world.folder / "again/curate" / found.name).read_bytes(), found.name


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (
            "content = {language = {least = 2}}",
            "content.language.least: Input should be less than or equal to 1, got 2",
        ),
        ('content = {langage = "off"}', "content.langage: unknown key"),
        (
            'decontaminate = "exact"',
            "against: expected at least one step or file of held-out problems, or `benchmarks`",
        ),
    ],
)
def test_a_wrong_key_of_a_curate_table_is_one_line(table: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'[curate]\ntraces = "harvest"\nproblems = "problems"\n{table}\n')
    with pytest.raises(UserError) as error:
        load_recipe(path, REGISTRY)
    assert str(error.value) == f"{path}: [curate] {complaint}"
