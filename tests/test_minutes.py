"""Minutes become budgets through small runs, once: what was chosen holds, and nobody gets more than was asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cli.stages import REGISTRY
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.minutes import Choice, check_sizable, sized_step
from distill.pace import Pace, Sized, Tried
from distill.progress import Progress
from distill.recipe import Recipe, Stage, StageConfig, StepContext, load_recipe, run_step
from distill.records import Problem
from distill.runs import Manifest, Report, read_manifest
from distill.sandbox import WALLED
from distill.train import sizing as train_sizing
from distill.train.curve import CURVE, SftPoint
from distill.train.guard.watch import SITTING
from distill.train.sft_table import SftConfig
from evals import sizing as bench_sizing
from evals.bench import BenchConfig

SETUP, EACH = 10.0, 50.0
"""Seconds the toy stage says it takes; far more than it takes, so that no busy machine changes a count."""
RECIPE = """
[minutes]
dig = 0.5
[dig]
holes = 9
[rest]
holes = 1
stage = "dig"
"""


class DigConfig(StageConfig):
    """Digs holes."""

    inputs: ClassVar[tuple[str, ...]] = ("ground",)
    holes: int
    depth: int = 1
    ground: str | None = None


class Digging:
    """A stage that keeps count of its runs."""

    def __init__(self) -> None:
        self.dug: list[int] = []

    def run(self, context: StepContext) -> Report:
        assert [path.name for path in context.out.iterdir()] == [".run.json"], "nothing of an earlier attempt"
        self.dug.append(context.config.holes)
        return Report(counts={"holes": context.config.holes})

    def pace(self, tried: Sequence[Tried]) -> Pace:
        return Pace(SETUP, EACH, least=int(tried[-1].manifest.report.counts["holes"]))

    def cut(self, config: DigConfig, inputs: Mapping[str, tuple[Path, ...]], holes: int) -> tuple[DigConfig, int]:
        fitting = min(config.holes, holes)
        return config.model_copy(update={"holes": fitting}), fitting


@pytest.fixture
def digging() -> Digging:
    return Digging()


def recipe_of(tmp_path: Path, digging: Digging, text: str = RECIPE, sizes: tuple[int, ...] = (1, 2)) -> Recipe:
    path = tmp_path / "r.toml"
    path.write_text(text)
    sized = Sized(
        "holes", sizes, lambda config, holes: config.model_copy(update={"holes": holes}), digging.pace, digging.cut
    )
    stages = {"dig": Stage("dig", DigConfig, digging.run, sized=sized), "fill": Stage("fill", DigConfig, digging.run)}
    return load_recipe(path, stages)


def size(recipe: Recipe, out: Path, minutes: float = 10, name: str = "dig") -> tuple[Any, Choice | None]:
    """The table of a step under so many minutes, and the choice behind it."""
    found, choice = sized_step(recipe, name, minutes, out, Path("data"), Progress("quiet"), WALLED)
    return found.steps[name].config, choice


def test_a_share_of_the_minutes_becomes_a_budget(tmp_path: Path, digging: Digging) -> None:
    config, choice = size(recipe_of(tmp_path, digging), tmp_path / "out")
    assert config.holes == 5  # 10 minutes x 0.5 x 0.95 are 285 s: 10 and 5 x 50, not 6
    assert digging.dug == [1, 2]
    assert choice is not None
    assert choice.chosen == {"holes": 5}
    assert "50% of 10 minutes" in choice.line
    assert "holes = 5, about 4.3 min" in choice.line
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")) == [
        "dig.minutes.json"
    ]


def test_a_choice_holds_when_the_machine_gets_slower(
    tmp_path: Path, digging: Digging, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = size(recipe_of(tmp_path, digging), tmp_path / "out")
    monkeypatch.setattr(digging, "pace", lambda tried: Pace(SETUP, 10 * EACH, 1))
    assert size(recipe_of(tmp_path, digging), tmp_path / "out")[0] == first
    assert digging.dug == [1, 2]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        (RECIPE, 8),
        (RECIPE.replace("holes = 9", "holes = 9\ndepth = 2"), 10),
        (RECIPE.replace("dig = 0.5", "dig = 0.6"), 10),
        ("seed = 1\n" + RECIPE, 10),
    ],
    ids=["other minutes", "another table", "another share", "another seed"],
)
def test_what_a_choice_was_made_from_is_part_of_it(tmp_path: Path, digging: Digging, text: str, minutes: int) -> None:
    size(recipe_of(tmp_path, digging), tmp_path / "out")
    size(recipe_of(tmp_path, digging, text), tmp_path / "out", minutes)
    assert digging.dug == [1, 2, 1, 2]


def test_no_step_gets_more_than_the_recipe_asks_for(tmp_path: Path, digging: Digging) -> None:
    config, choice = size(recipe_of(tmp_path, digging), tmp_path / "out", minutes=1000)
    assert config.holes == 9
    assert choice is not None
    assert choice.chosen == {}
    assert "all the recipe asks for" in choice.line


def test_what_was_done_as_written_is_not_sized(tmp_path: Path, digging: Digging) -> None:
    recipe, out = recipe_of(tmp_path, digging), tmp_path / "out"
    run_step(recipe, "dig", out, Path("data"), Progress("quiet"), WALLED)
    config, choice = size(recipe, out)
    assert (config, choice, digging.dug) == (recipe.steps["dig"].config, None, [9])


def test_a_step_without_a_share_is_left_alone(tmp_path: Path, digging: Digging) -> None:
    recipe = recipe_of(tmp_path, digging)
    config, choice = size(recipe, tmp_path / "out", name="rest")
    assert (config, choice, digging.dug) == (recipe.steps["rest"].config, None, [])


def test_too_few_minutes_are_refused_with_how_many_would_do(tmp_path: Path, digging: Digging) -> None:
    recipe = recipe_of(tmp_path, digging)
    with pytest.raises(UserError, match=r"--minutes 3: \[dig\] gets 50% of them.* expected at least 4"):
        size(recipe, tmp_path / "out", minutes=3)  # 85.5 s; two holes take 110
    assert size(recipe, tmp_path / "out", minutes=4)[0].holes == 2


def test_an_exam_after_a_training_is_not_refused(tmp_path: Path, digging: Digging) -> None:
    text = RECIPE.replace("dig = 0.5", "dig = 0.5\nrest = 0.05") + 'ground = "dig"\n'
    recipe = recipe_of(tmp_path, digging, text.replace("holes = 1", "holes = 3"))
    run_step(recipe, "dig", tmp_path / "out", Path("data"), Progress("quiet"))
    config, choice = size(recipe, tmp_path / "out", name="rest")  # 28.5 s; two holes take 110
    assert config.holes == 2
    assert choice is not None
    assert "2 holes do not fit; holes = 2, about 1.8 min" in choice.line


def test_a_killed_small_run_is_begun_again(tmp_path: Path, digging: Digging) -> None:
    partial = tmp_path / "out" / "dig.minutes-1.partial"
    partial.mkdir(parents=True)
    (partial / "half").touch()
    size(recipe_of(tmp_path, digging), tmp_path / "out")
    assert digging.dug == [1, 2]


def test_a_damaged_choice_is_named(tmp_path: Path, digging: Digging) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dig.minutes.json").write_text("{}")
    with pytest.raises(UserError, match=r"dig\.minutes\.json: not a choice this version can read"):
        size(recipe_of(tmp_path, digging), tmp_path / "out")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("dgi = 0.5", r"\[minutes\] dgi: unknown step \(did you mean dig\?\)"),
        ("fill = 0.5", r"\[minutes\] fill: stage fill has no budget that minutes could size"),
        ("dig = 0", r"\[minutes\] dig: expected a share above 0 and at most 1, got 0"),
        ("dig = true", r"\[minutes\] dig: expected a share above 0 and at most 1, got True"),
        ("dig = 0.7\nrest = 0.4", r"\[minutes\]: the shares sum to 1\.1, expected at most 1"),
    ],
    ids=["a step that is not there", "a stage that cannot", "nothing", "no number", "more than all"],
)
def test_shares_are_checked_with_the_recipe(tmp_path: Path, digging: Digging, table: str, message: str) -> None:
    text = RECIPE.replace("dig = 0.5", table) + '[fill]\nholes = 1\nground = "dig"\n'
    with pytest.raises(UserError, match=message):
        recipe_of(tmp_path, digging, text)


def test_minutes_without_anything_to_size_are_refused(tmp_path: Path, digging: Digging) -> None:
    check_sizable(recipe_of(tmp_path, digging), ["dig", "rest"])
    with pytest.raises(UserError, match=r"\[minutes\]: \[rest\] has no share, so --minutes has nothing to size"):
        check_sizable(recipe_of(tmp_path, digging), ["rest"])
    with pytest.raises(UserError, match=r"\[minutes\]: there is no table"):
        check_sizable(recipe_of(tmp_path, digging, "[dig]\nholes = 1\n"), ["dig"])


def manifest_of(tmp_path: Path, digging: Digging, seconds: float, **counts: int) -> Manifest:
    """A manifest that says how long its step took."""
    recipe = recipe_of(tmp_path, digging, "[dig]\nholes = 1\n")
    run_step(recipe, "dig", tmp_path / "made", Path("data"), Progress("quiet"))
    made = read_manifest(tmp_path / "made" / "dig")
    return made.model_copy(update={"seconds": seconds, "report": Report(counts=dict(counts))})


def test_training_is_timed_between_steps_and_loading_apart(tmp_path: Path, digging: Digging) -> None:
    rows = [SftPoint(step=n, tokens=100 * n, loss=1.0, lr=0.1, seconds=7.0 + 5 * (n - 1)) for n in (1, 2, 3, 4)]
    write_jsonl(tmp_path / CURVE, rows)
    pace = train_sizing.SIZED.pace([Tried(tmp_path, manifest_of(tmp_path, digging, 50.0))])
    assert pace == Pace(setup=30.0, each=0.05, least=400)  # 400 tokens of 0.05 s, and 30 s of everything else


def test_exams_on_the_way_are_paid_for_by_the_tokens_between_them(tmp_path: Path, digging: Digging) -> None:
    rows = [
        SftPoint(
            step=n,
            tokens=100 * n,
            loss=1.0,
            lr=0.1,
            seconds=7.0 + 5 * (n - 1),
            held_out_accuracy=None if n % 2 else 0.5,
        )
        for n in (1, 2, 3, 4)
    ]
    write_jsonl(tmp_path / CURVE, rows)
    manifest = manifest_of(tmp_path, digging, 62.0)
    report = Report(marks={"guard": {SITTING: 6.0}})
    made = manifest.model_copy(update={"config": {"guard": {"every": 2}}, "report": report})
    pace = train_sizing.SIZED.pace([Tried(tmp_path, made)])
    assert pace == Pace(setup=30.0, each=0.08, least=400)  # two exams of 6 s, one every 200 tokens


def test_tokens_that_fit_become_steps_or_tokens_as_the_table_has_it() -> None:
    by_steps = SftConfig(data="a", model="b", steps=100, tokens_per_batch=1000)
    by_tokens = SftConfig(data="a", model="b", tokens=50_000)
    cut = train_sizing.SIZED.cut
    assert cut(by_steps, {}, 7999)[0].steps == 7
    assert cut(by_steps, {}, 10**6)[0] == by_steps
    assert cut(by_tokens, {}, 7999)[0].tokens == 7999
    assert cut(by_tokens, {}, 10**6)[0] == by_tokens


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        ((8, 30.0), (32, 78.0), Pace(setup=14.0, each=2.0, least=32)),
        ((8, 60.0), (32, 64.0), Pace(setup=32.0, each=1.0, least=32)),
        ((8, 99.0), (32, 64.0), Pace(setup=32.0, each=1.0, least=32)),
        ((5, 10.0), (5, 10.0), Pace(setup=5.0, each=1.0, least=5)),
    ],
    ids=["a line", "too flat to be believed", "the smaller one was slower", "an exam smaller than either"],
)
def test_an_examination_is_a_line_over_problems(
    tmp_path: Path, digging: Digging, few: tuple[int, float], many: tuple[int, float], expected: Pace
) -> None:
    tried = [Tried(tmp_path, manifest_of(tmp_path, digging, took, problems=asked)) for asked, took in (few, many)]
    assert bench_sizing.SIZED.pace(tried) == expected


def test_an_examination_is_cut_to_the_problems_that_fit(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    rows = [Problem(id=str(n), kind="answer", prompt="?", answer="1", source="s", split="test") for n in range(20)]
    write_jsonl(file, rows)
    config = BenchConfig(checkpoints=("a",), problems="p", max_tokens=1)
    cut, inputs = bench_sizing.SIZED.cut, {"problems": (file,)}
    assert cut(config, inputs, 19)[0].select.limit == 19
    assert cut(config, inputs, 20) == (config, 20)
    limited = config.model_copy(update={"select": config.select.model_copy(update={"limit": 5})})
    assert cut(limited, inputs, 19) == (limited, 5)


@pytest.mark.parametrize("stage", REGISTRY.values(), ids=REGISTRY)
def test_the_command_of_a_stage_takes_minutes_where_they_could_size_it(stage: Stage) -> None:
    from typer.main import get_command

    from cli.main import app

    command: Any = get_command(app)
    options = {name for option in command.commands[stage.name].params for name in option.opts}
    assert ("--minutes" in options) == (stage.sized is not None)
