"""The whole pipeline on the shipped mini recipe, cut to a minute, twice: same seed, same examples, same scores."""

from pathlib import Path

import pytest

from cli.stages import REGISTRY
from distill.progress import Progress
from distill.recipe import Recipe, find_recipe, load_recipe, run_step
from distill.runs import read_manifest

CUT = [
    "problems.families.stories={levels = [1], train = 300, test = 20}",
    "problems.families.expressions={levels = [1], train = 300, test = 20}",
    "problems.families.functions={levels = [1], train = 300, test = 20}",
    "coldstart-traces.terse_rate=0.1",
    "teacher-coldstart.steps=120",
    "teacher-coldstart.warmup_steps=10",
    "teacher.steps=2",
    "teacher.prompts_per_step=8",
    "teacher.samples=4",
    "teacher.probe=64",
    "harvest.select.limit=300",
    "student.steps=20",
    "student-raw.steps=5",
    "student-answers-only.steps=5",
]


def cut() -> Recipe:
    return load_recipe(find_recipe("mini"), REGISTRY, CUT)


def walk(out: Path) -> None:
    recipe = cut()
    for name in recipe.steps:
        run_step(recipe, name, out, Path("data"), Progress("quiet"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two walks over the same cut."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    walk(first)
    walk(second)
    return first, second


@pytest.mark.parametrize("file", ["curate/examples.jsonl", "curate-raw/examples.jsonl", "bench/scores.jsonl"])
def test_same_seed_gives_the_same_bytes(runs: tuple[Path, Path], file: str) -> None:
    first, second = runs
    assert (first / file).read_bytes() == (second / file).read_bytes()


def test_the_teacher_learned_something_worth_harvesting(runs: tuple[Path, Path]) -> None:
    counts = read_manifest(runs[0] / "harvest").report.counts
    assert counts["correct"] / counts["traces"] > 0.2


def test_the_student_has_at_most_a_quarter_of_the_teachers_active_parameters(runs: tuple[Path, Path]) -> None:
    teacher = read_manifest(runs[0] / "teacher-init").report.counts["active_parameters"]
    assert read_manifest(runs[0] / "student-init").report.counts["parameters"] <= teacher / 4


def test_the_report_is_one_page(runs: tuple[Path, Path]) -> None:
    page = (runs[0] / "report/index.html").read_text(encoding="utf-8")
    assert page.count("<html") == 1
    assert "student-nf4" in page
