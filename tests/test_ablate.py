"""An ablation's cells are recipe steps like any other, and its table says what the items say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cli.stages import REGISTRY
from distill.ablate import Derived, Grid, derive
from distill.errors import UserError
from distill.jsonl import read_jsonl
from distill.recipe import SHIPPED, find_recipe, load_recipe
from distill.records import Example, Item
from evals.efficiency import NEVER, Answers, Place, compare, crossing, prices
from tests.test_cli import complaint, distill

TOY = [
    "problems.families.stories={levels=[1], train=60, test=10}",
    "problems.families.expressions={levels=[1], train=10, test=2}",
    "problems.families.functions={levels=[1], train=10, test=2}",
    "student-init.spec=mini-16k",
    "student.steps=3",
    "student.log_every=1",
    "bench.max_tokens=12",
]
BAND = """
[band]
stage = "curate"
traces = "harvest"
problems = "problems"
against = "problems"
keep = "all"
thought = "drop"
"""
GRID = ["--policies", "all,verified", "--sizes", "20", "--seeds", "1", *(f"--set={override}" for override in TOY)]


def cells(*policies: str, sizes: tuple[int, ...] = (10, 20), seeds: int = 2) -> Derived:
    recipe = load_recipe(find_recipe("ablate"), REGISTRY)
    return derive(recipe, Grid(policies, sizes, seeds), REGISTRY)


def test_cells_differ_in_policy_size_and_seed_and_in_nothing_else() -> None:
    derived = cells("all", "verified+shortest")
    tables = {}
    for cell in derived.cells:
        step = derived.recipes[cell.seed].steps[cell.data]
        tables[cell.policy, cell.size] = step.config.model_dump(exclude={"policies"})
        assert step.config.policies[-1].size == cell.size  # type: ignore[attr-defined]
    assert len({json.dumps(table) for table in tables.values()}) == 1
    students = [derived.recipes[cell.seed].steps[cell.student].config for cell in derived.cells]
    assert len({student.model_dump_json(exclude={"data", "model"}) for student in students}) == 1
    assert {cell.seed: derived.recipes[cell.seed].seed for cell in derived.cells} == {0: 0, 1: 1}


def test_shared_steps_run_once_and_all_data_before_any_training() -> None:
    derived = cells("all", "verified")
    walked = [name for _, name in derived.steps]
    assert walked[:2] == ["problems", "harvest"]
    assert len(set(walked)) == len(walked) == 2 + 3 * 8 + 2
    kinds = [found.steps[name].stage.name for found, name in derived.steps]
    assert kinds[2:10] == ["curate"] * 8
    assert "curate" not in kinds[10:]


def test_a_curate_step_of_the_recipe_is_a_policy_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text((SHIPPED / "ablate.toml").read_text() + BAND)
    derived = derive(load_recipe(path, REGISTRY), Grid(("verified", "band"), (10,), 1), REGISTRY)
    config = derived.recipes[0].steps[derived.cells[1].data].config.model_dump(mode="json")
    assert config["thought"] == "drop"
    assert [policy["policy"] for policy in config["policies"]] == ["all", "sample"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--policies", "shortst"], "'shortst'", id="no such policy"),
        pytest.param(["--policies", "harvest"], "[harvest] is no curate step", id="a step of another stage"),
        pytest.param(["--policies", "all,all"], "names one twice", id="a policy twice"),
        pytest.param(["--sizes", "10,x"], "expected numbers separated by commas, got 'x'", id="no number"),
        pytest.param(["--student", "pupil"], "--student pupil: no sft step of that name", id="no such student"),
        pytest.param(["--recipe", "replay"], "which sft step?", id="a recipe without a student"),
    ],
)
def test_a_grid_that_makes_no_sense_is_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    assert said in complaint("ablate", "--recipe", "ablate", "--out", tmp_path, *options)


def test_a_size_no_policy_can_fill_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    sizes = ["--sizes", "20,5000"]
    said = complaint("ablate", "--recipe", "ablate", "--out", tmp_path, *GRID, *sizes)
    assert "sample: size: expected at most" in said
    assert not list(tmp_path.glob("student*"))


def test_a_killed_ablation_resumes_and_tells_what_an_uninterrupted_one_tells(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "ablate", "--recipe", "ablate", *GRID, "--out"]
    path = os.pathsep.join([str(SHIPPED.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, str(tmp_path / "a")], env=environment, stdout=subprocess.DEVNULL)
    made = tmp_path / "a" / "student-all-20-s0"
    while not made.exists() and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    weights = (made / "model.safetensors").stat().st_mtime_ns

    resumed = distill("ablate", "--recipe", "ablate", *GRID, "--out", tmp_path / "a")
    assert resumed.returncode == 0, resumed.stderr
    assert (made / "model.safetensors").stat().st_mtime_ns == weights
    assert resumed.stdout.count("done before") >= 4
    whole = distill("ablate", "--recipe", "ablate", *GRID, "--out", tmp_path / "b", "--json")
    for file in ("ablation.json", "ablation.csv", "ablation.md"):
        assert (tmp_path / "a/ablate" / file).read_bytes() == (tmp_path / "b/ablate" / file).read_bytes()

    told = json.loads(whole.stdout)
    base, verified = told["cells"]
    items = read_jsonl(tmp_path / "b/bench-verified-20-s0/items.jsonl", Item)
    assert verified["value"] == pytest.approx(np.mean([item.status == "correct" for item in items]))
    assert verified["difference"] == pytest.approx(verified["value"] - base["value"])
    assert (verified["correct"], base["correct"]) == (1.0, pytest.approx(0.5, abs=0.35))
    assert told["steps"] == [3]
    assert len(read_jsonl(tmp_path / "b/curate-all-20-s0/examples.jsonl", Example)) == 20


def answers(score: float, size: int = 100) -> Answers:
    """A student that solves the first `score` of 100 problems."""
    solved = {f"p{n:02}": float(n < round(score * 100)) for n in range(100)}
    return Answers(solved, 10.0, 40.0, 1.0, size, 5)


def grid(scores: dict[tuple[str, int, int], float]) -> dict[Place, Answers]:
    return {Place(policy=policy, size=size, seed=seed): answers(v) for (policy, size, seed), v in scores.items()}


def test_differences_are_paired_by_problem_over_seeds_and_stand_seed_by_seed() -> None:
    found = compare(grid({("a", 9, 0): 0.4, ("a", 9, 1): 0.5, ("b", 9, 0): 0.5, ("b", 9, 1): 0.7}), "a")
    assert [row.value for row in found] == pytest.approx([0.45, 0.6])
    assert found[1].difference == pytest.approx(0.15)
    assert found[1].difference_by_seed == pytest.approx((0.1, 0.2))
    assert found[1].difference_high - found[1].difference_low < 0.2  # unpaired it would be 0.27
    assert found[1].n == 100  # problems, not problems times seeds


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([0.2, 0.4, 0.6], 10**2.5, id="half way between two sizes, on a logarithmic axis"),
        pytest.param([0.5, 0.4, 0.6], 100.0, id="at once"),
        pytest.param([0.1, 0.2, 0.29], NEVER, id="never"),
        pytest.param([0.1, 0.6, 0.2], 100 * 10**0.4, id="the first of several"),
    ],
)
def test_the_price_of_a_score_is_read_off_the_curve(scores: list[float], expected: float) -> None:
    assert crossing([100, 1000, 10_000], scores, 0.3) == pytest.approx(expected)


def test_prices_say_what_was_never_reached_and_keep_the_middle_in_the_range() -> None:
    made = grid({("a", 100, 0): 0.2, ("a", 400, 0): 0.4, ("b", 100, 0): 0.3, ("b", 400, 0): 0.5})
    made |= grid({("c", 100, 0): 0.1, ("c", 400, 0): 0.2})
    a, b, c = prices(made, "a", None)
    assert a.examples == 400
    assert b.examples == pytest.approx(200)
    assert b.low is not None
    assert b.low <= 200 <= (b.high or NEVER)
    assert c.examples is None
    assert prices({place: found for place, found in made.items() if place.size == 100}, "a", None) == []


def test_a_recipe_without_curated_data_is_refused() -> None:
    recipe = load_recipe(find_recipe("ablate"), REGISTRY, ["student.data=./elsewhere"])
    with pytest.raises(UserError, match=r"\[student\] data: expected a curate step of this recipe"):
        derive(recipe, Grid(("all",), (10,), 1), REGISTRY)
