"""A pilot predicts what its harvest takes: with intervals that hold, from the traces the harvest would have."""

import json
from pathlib import Path

import pytest

from cli.main import STOPPED
from distill.harvest import HarvestConfig
from distill.harvest.estimate import FEWEST, Range, Rate, at_most, draw_pilot, from_pilot
from distill.harvest.prices import Price
from distill.intervals import total_interval
from distill.ledger import read_ledger
from distill.problems.families import family
from distill.problems.stage import draw
from distill.records import Problem, Trace
from distill.runs import read_manifest
from distill.selection import read_problems
from tests.pilots import coverage, made_up
from tests.test_cli import complaint, distill

NOBODY = Rate({}, None, "", 0, {})
RECIPE = """
[problems.families.stories]
levels = [1, 2, 3, 4]
train = 60
test = 5
[traces]
stage = "harvest"
problems = "problems"
sampler = "oracle"
error_rate = 0.4
max_tokens = 100
[traces.rounds]
samples = [2, 2, 4]
until_verified = 2
[more]
stage = "harvest"
problems = "problems"
model = "nobody"
max_tokens = 100
[nobody]
stage = "teacher-init"
preset = "mini"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    return path


def stories(count: int) -> list[Problem]:
    return draw(family("stories"), 2, "train", count, seed=0).problems


def planned(recipe: Path, *arguments: object) -> dict[str, dict[str, object]]:
    done = distill("plan", "--recipe", recipe, "--out", recipe.parent / "runs", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {row["step"]: row for row in map(json.loads, done.stdout.splitlines())}


def ids(folder: Path) -> set[tuple[str, str]]:
    return {(trace.id, trace.text) for trace in read_ledger(folder / "traces", Trace)}


@pytest.mark.parametrize("what", ["samples", "tokens"])
def test_intervals_of_skewed_totals_hold(what: str) -> None:
    """Student's own interval holds 87% of these token totals with ten problems."""
    values = made_up()["made up, rounds"][what]
    for size in (10, 100):
        share, _ = coverage(values, size, 400)
        assert 0.91 <= share <= 0.99


def test_a_total_of_all_problems_is_exact_and_of_equal_ones_certain() -> None:
    assert total_interval([1.0, 2.0, 6.0], 3).low == total_interval([1.0, 2.0, 6.0], 3).high == 9.0
    same = total_interval([4.0] * 10, 100)
    assert (same.low, same.value, same.high) == (400.0, 400.0, 400.0)


def test_a_total_is_never_below_what_was_seen() -> None:
    assert total_interval([0.0] * 11 + [100.0], 13).low >= 100.0


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 3.0], [float("nan"), 1.0], [1.0]])
def test_a_total_of_impossible_values_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"1 to 2 finite values|two problems or more"):
        total_interval(values, 2)


def test_a_larger_pilot_contains_a_smaller_one_and_its_seed_decides() -> None:
    problems = stories(200)
    small, large = draw_pilot(problems, 0.2, 0), draw_pilot(problems, 0.5, 0)
    assert (len(small), len(large)) == (40, 100)
    assert {p.id for p in small} < {p.id for p in large}
    assert small != draw_pilot(problems, 0.2, 1)
    assert len(draw_pilot(problems, 0.01, 0)) == FEWEST
    assert draw_pilot(problems[:7], 0.01, 0) == problems[:7]


def test_the_pilots_traces_are_those_of_the_harvest_and_its_interval_holds(recipe: Path) -> None:
    rows = planned(recipe, "--step", "traces", "--pilot", "0.2")
    out = recipe.parent / "runs"
    pilot = out / "traces.pilot-48"
    assert distill("run", "--recipe", recipe, "--out", out, "--to", "traces", "-q").returncode == 0
    assert ids(pilot) < ids(out / "traces")
    truth = read_manifest(out / "traces").report.marks["spent"]["by_sampler"]["oracle"]
    found = rows["traces"]
    for key, total in (("samples", "traces"), ("tokens", "completion_tokens"), ("prompt_tokens", "prompt_tokens")):
        predicted = Range.model_validate(found[key])
        assert predicted.low <= truth[total] <= predicted.high
        assert predicted.low < predicted.high
    assert found["hours"]


def test_a_pilot_is_reused_and_a_larger_one_does_not_disturb_it(recipe: Path) -> None:
    planned(recipe, "--step", "traces", "--pilot", "0.2")
    before = read_manifest(recipe.parent / "runs" / "traces.pilot-48")
    first = planned(recipe, "--step", "traces", "--pilot", "0.2")
    planned(recipe, "--step", "traces", "--pilot", "0.3")
    assert read_manifest(recipe.parent / "runs" / "traces.pilot-48") == before
    assert planned(recipe, "--step", "traces", "--pilot", "0.2") == first


def test_a_pilot_stops_at_the_budget_and_goes_on(recipe: Path) -> None:
    arguments = ("plan", "--recipe", recipe, "--out", recipe.parent / "runs", "--step", "traces", "--pilot", "0.2")
    done = distill(*arguments, "--set", 'traces.budget={tokens=300,on_spent="finish"}')
    assert done.returncode == STOPPED
    assert "[traces.pilot-48] budget spent (tokens)" in done.stderr
    assert distill(*arguments).returncode == 0


def test_several_harvests_have_a_row_each_and_what_is_missing_is_named(recipe: Path) -> None:
    done = distill("plan", "--recipe", recipe, "--out", recipe.parent / "runs", "--pilot", "0.2")
    assert done.returncode == 0
    assert "no row yet: [more] needs nobody, which is not made yet: distill run --recipe" in done.stdout
    assert "not planned without --gpus and --gpu-gb: more" in done.stdout
    told = complaint("plan", "--recipe", recipe, "--out", recipe.parent / "runs", "--pilot", "0.2", "--step", "more")
    assert "[more] needs nobody" in told


def test_without_a_pilot_there_are_bounds_from_the_table(recipe: Path) -> None:
    assert planned(recipe, "--step", "traces") == {}, "problems are not there"
    assert distill("run", "--recipe", recipe, "--out", recipe.parent / "runs", "--to", "problems").returncode == 0
    row = planned(recipe, "--step", "traces")["traces"]
    assert row["samples"] == {"value": None, "low": 0.0, "high": 240 * 8}
    assert row["tokens"] == {"value": None, "low": 0.0, "high": 240 * 8 * 100}


@pytest.mark.parametrize(
    ("fields", "samples", "tokens"),
    [
        pytest.param({"samples": 3}, 3, 300, id="the same for all"),
        pytest.param({"rounds": {"samples": (2, 2)}}, 4, 400, id="all rounds"),
        pytest.param({"rounds": {"samples": (2, 2), "budget_tokens": 250}}, 4, 250, id="a problem's own budget"),
        pytest.param({"forcing": {"max_tokens": 50, "times": 2}, "samples": 1}, 3, 200, id="continued twice"),
        pytest.param({"verify": {"traces": 1}, "samples": 2}, 3, 300, id="checked"),
    ],
)
def test_bounds_hold_whatever_tables_there_are(fields: dict[str, object], samples: int, tokens: int) -> None:
    table = {"problems": "p", "model": "m", "max_tokens": 100, **fields}
    row = at_most("s", HarvestConfig.model_validate(table), stories(10), NOBODY)
    assert (row.samples.high, row.tokens.high) == (10 * samples, 10 * tokens)


def test_teachers_who_divide_the_problems_together_are_asked_about_all() -> None:
    teachers = {name: {"sampler": "oracle", "error_rate": 0.1, "share": 0.5} for name in "ab"}
    table = {"problems": "p", "max_tokens": 100, "teachers": teachers, "rounds": {"samples": [2, 2]}}
    row = at_most("s", HarvestConfig.model_validate(table), stories(10), NOBODY)
    assert (row.samples.high, row.tokens.high) == (40, 4000)


def test_hours_and_cost_are_those_of_a_pocket_calculator(recipe: Path) -> None:
    out = recipe.parent / "runs"
    planned(recipe, "--step", "traces", "--pilot", "0.2")
    pilot, problems = out / "traces.pilot-48", read_problems(out / "traces.pilot-48.jsonl")
    table = {"problems": "p", "sampler": "oracle", "error_rate": 0.4, "max_tokens": 100, "budget": {"tokens": 100}}
    config = HarvestConfig.model_validate(table)
    price = Price.model_validate({"prompt": 1, "completion": 2, "gpu_hour": 3, "date": "2025-01-01", "source": "x"})
    row = from_pilot("s", config, 48, problems, pilot, 7200.0, 3600.0, Rate({"": price}, 3.0, "XXX", 8, {"": "oracle"}))
    assert row.hours is not None
    assert row.cost is not None
    assert row.hours.value == pytest.approx(2.0), "all problems were tried: setting up, and one hour"
    assert row.cost.value == pytest.approx((row.prompt_tokens.value + 2 * row.tokens.value) / 1e6 + 2 * 8 * 3)
    half = from_pilot(
        "s", config, 96, problems, pilot, 7200.0, 3600.0, Rate({"": price}, 3.0, "XXX", 8, {"": "oracle"})
    )
    assert half.hours is not None
    assert half.hours.value == pytest.approx(3.0), "a model is loaded once"
    assert half.notes == ("budget.tokens 100 would be spent before the end",)
