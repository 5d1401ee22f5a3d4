"""The recipe is the graph: what is done is skipped, what changed is run, what is wrong is named."""

import os
import time
from pathlib import Path
from typing import ClassVar

import pytest

from distill import content
from distill.errors import StoppedError, UserError
from distill.progress import Progress
from distill.recipe import Recipe, Stage, StageConfig, StepContext, ancestors, find_recipe, load_recipe, run_step
from distill.runs import Report, read_manifest


class WriteConfig(StageConfig):
    """Writes text."""

    text: str


class JoinConfig(StageConfig):
    """Joins what others wrote."""

    inputs: ClassVar[tuple[str, ...]] = ("parts", "extra")
    parts: tuple[str, ...]
    extra: str | None = None
    separator: str = "-"


def write(context: StepContext) -> Report:
    (context.out / "text").write_text(f"{context.config.text}{context.seed}")
    return Report(counts={"written": 1})


def join(context: StepContext) -> Report:
    texts = [(path / "text" if path.is_dir() else path).read_text() for path in context.inputs["parts"]]
    (context.out / "text").write_text(context.config.separator.join(texts))
    return Report()


STAGES = {"write": Stage("write", WriteConfig, write), "join": Stage("join", JoinConfig, join)}
GOOD = """
seed = 3
[both]
stage = "join"
parts = ["a", "b"]
[a]
stage = "write"
text = "x"
[b]
stage = "write"
text = "y"
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(GOOD)
    return path


def walk(recipe: Recipe, out: Path) -> list[str]:
    """Run all steps; names of those that ran now."""
    return [name for name in recipe.steps if run_step(recipe, name, out, Path("data"), Progress("quiet"))[1]]


def test_inputs_run_before_their_users(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, STAGES)
    assert walk(recipe, tmp_path / "out") == ["a", "b", "both"]
    assert (tmp_path / "out/both/text").read_text() == "x3-y3"


def test_second_walk_runs_nothing(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, STAGES)
    walk(recipe, tmp_path / "out")
    assert walk(recipe, tmp_path / "out") == []


def test_edited_table_reruns_that_step_and_its_dependants_only(recipe_file: Path, tmp_path: Path) -> None:
    walk(load_recipe(recipe_file, STAGES), tmp_path / "out")
    edited = load_recipe(recipe_file, STAGES, ["b.text=z"])
    assert walk(edited, tmp_path / "out") == ["b", "both"]
    assert (tmp_path / "out/both/text").read_text() == "x3-z3"


def test_replaced_results_are_moved_aside_not_deleted(recipe_file: Path, tmp_path: Path) -> None:
    walk(load_recipe(recipe_file, STAGES), tmp_path / "out")
    before = read_manifest(tmp_path / "out/b").fingerprint
    walk(load_recipe(recipe_file, STAGES, ["b.text=z"]), tmp_path / "out")
    assert (tmp_path / f"out/b.{before[:8]}/text").read_text() == "y3"


def test_new_seed_reruns_everything(recipe_file: Path, tmp_path: Path) -> None:
    walk(load_recipe(recipe_file, STAGES), tmp_path / "out")
    assert walk(load_recipe(recipe_file, STAGES, ["seed=4"]), tmp_path / "out") == ["a", "b", "both"]


def test_raised_stage_version_reruns(recipe_file: Path, tmp_path: Path) -> None:
    walk(load_recipe(recipe_file, STAGES), tmp_path / "out")
    newer = {**STAGES, "join": Stage("join", JoinConfig, join, version="2")}
    assert walk(load_recipe(recipe_file, newer), tmp_path / "out") == ["both"]


def test_changed_input_file_reruns(recipe_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "s.txt"
    source.write_text("one")
    overrides = [f'both.parts=["a", "{source}"]']
    walk(load_recipe(recipe_file, STAGES, overrides), tmp_path / "out")
    source.write_text("two")
    assert walk(load_recipe(recipe_file, STAGES, overrides), tmp_path / "out") == ["both"]


def test_ancestors_are_what_a_step_needs(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, STAGES)
    assert ancestors(recipe, "b") == ["b"]
    assert ancestors(recipe, "both") == ["a", "b", "both"]


CASES = [
    pytest.param('[a]\nstage="write"\ntxt="x"', r"\[a\] txt: unknown key \(did you mean text\?\)", id="unknown key"),
    pytest.param('[a]\nstage="write"', r"\[a\] text: missing", id="missing key"),
    pytest.param('[a]\nstage="wirte"\ntext="x"', r"unknown stage 'wirte' \(did you mean write\?\)", id="unknown stage"),
    pytest.param(
        '[a]\nstage="join"\nparts=["bb"]\n[b]\nstage="write"\ntext="x"', "unknown step 'bb'", id="unknown step"
    ),
    pytest.param('[a]\nstage="join"\nparts=["b"]\n[b]\nstage="join"\nparts=["a"]', "cycle: a -> b -> a", id="cycle"),
    pytest.param('[a]\nstage="join"\nparts=["a"]', "cycle: a -> a", id="own input"),
    pytest.param('[a]\nstage="write"\ntext=3', r"\[a\] text: .*string, got 3", id="wrong type"),
    pytest.param("text = 3", "text: unknown key", id="key outside tables"),
    pytest.param("seed = true", "seed: expected a whole number", id="seed no number"),
    pytest.param("[a\n", "not TOML", id="broken TOML"),
    pytest.param("", "no steps", id="empty"),
    pytest.param('["../evil"]\nstage="write"\ntext="x"', "not a step name", id="step outside the folder"),
    pytest.param('["a.partial"]\nstage="write"\ntext="x"', "not a step name", id="step named like a partial folder"),
    pytest.param('[a]\nstage=["write"]\ntext="x"', "unknown stage", id="stage is a list"),
    pytest.param("write = 3", "write: expected a table, got 3", id="stage is no table"),
    pytest.param("seed = 4294967296\n[a]", "seed: expected a whole number", id="seed too large"),
]


@pytest.mark.parametrize(("text", "complaint"), CASES)
def test_bad_recipe_names_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        load_recipe(path, STAGES)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("override", "complaint"),
    [("b.text", "expected table.key=value"), ("c.text=1", r"no table \[c\]"), ("b.txet=z", "did you mean text")],
)
def test_bad_override_is_named(recipe_file: Path, override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_recipe(recipe_file, STAGES, [override])


def test_missing_input_says_what_to_run(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, STAGES)
    with pytest.raises(UserError, match=r"out/a: not a complete run folder"):
        run_step(recipe, "both", tmp_path / "out", Path("data"), Progress("quiet"))


def test_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"recipe minni: not shipped \(did you mean mini\?\)"):
        find_recipe("minni")


def test_renamed_input_reruns(recipe_file: Path, tmp_path: Path) -> None:
    walk(load_recipe(recipe_file, STAGES), tmp_path / "out")
    recipe_file.write_text(GOOD.replace("[b]", "[c]").replace('"b"', '"c"'))
    assert walk(load_recipe(recipe_file, STAGES), tmp_path / "out") == ["c", "both"]


def test_a_file_is_read_once_until_it_changes_even_behind_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "weights", []
    whole = content._content_hash
    monkeypatch.setattr(content, "_content_hash", lambda path: read.append(path) or whole(path))
    monkeypatch.setattr(content, "SETTLED", 0)
    path.write_text("one")
    first = content.file_fingerprint(path)
    assert content.file_fingerprint(path) == first
    assert len(read) == 1
    times = path.stat()
    time.sleep(0.05)  # more than a tick of the file system's clock
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content.file_fingerprint(path) != first
    monkeypatch.setattr(content, "SETTLED", 10**18)
    content.file_fingerprint(path)
    content.file_fingerprint(path)
    assert len(read) == 4, "a file just touched is not trusted"


class CountConfig(StageConfig):
    """Counts to `upto`, as far as `most` goes."""

    limits: ClassVar[tuple[str, ...]] = ("most", "stop")
    upto: int
    most: int = 100
    stop: bool = True


def count(context: StepContext) -> Report:
    file = context.out / "count"
    done = int(file.read_text()) if file.is_file() else 0
    reached = min(max(context.config.most, done), context.config.upto)
    file.write_text(str(reached))
    if reached < context.config.upto and context.config.stop:
        raise StoppedError(f"counted to {reached}")
    short = f"to {reached}" if reached < context.config.upto else None
    return Report(counts={"reached": reached, "before": done}, short=short, marks={"of": context.config.most})


LIMITED = {
    **STAGES,
    "count": Stage("count", CountConfig, count, goes_on=lambda config, report: config.most > report.marks["of"]),
}
COUNTING = """
[numbers]
stage = "count"
upto = 10
most = 4
[both]
stage = "join"
parts = ["numbers"]
"""


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(COUNTING)
    return path


def counted(path: Path, tmp_path: Path, **settings: object) -> Report:
    recipe = load_recipe(path, LIMITED, [f"numbers.{key}={str(value).lower()}" for key, value in settings.items()])
    return run_step(recipe, "numbers", tmp_path / "out", tmp_path, Progress("quiet"))[0].report


def test_a_step_stopped_by_a_limit_stays_unfinished_and_says_why(counting: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=r"\[numbers\] counted to 4"):
        counted(counting, tmp_path)
    with pytest.raises(UserError, match=r"not a complete run folder.*stands beside it: counted to 4"):
        read_manifest(tmp_path / "out" / "numbers")


def test_a_raised_limit_resumes_what_a_lower_one_stopped(counting: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        counted(counting, tmp_path)
    assert counted(counting, tmp_path, most=10).counts == {"reached": 10, "before": 4}
    assert counted(counting, tmp_path, most=3).counts["reached"] == 10, "what is finished stays so"
    assert [path.name for path in (tmp_path / "out").glob("numbers*")] == ["numbers"], "nothing was moved aside"


def test_a_step_that_ended_short_goes_on_and_later_steps_follow(counting: Path, tmp_path: Path) -> None:
    short = counted(counting, tmp_path, stop=False)
    folder = tmp_path / "out" / "numbers"
    before = read_manifest(folder)
    assert short.short == before.amended == "to 4"
    assert counted(counting, tmp_path, stop=False) == short, "done, as long as the limit is the same"
    assert counted(counting, tmp_path, stop=False, most=20).counts == {"reached": 10, "before": 4}
    after = read_manifest(folder)
    assert (after.fingerprint, after.amended, after.resumed) == (before.fingerprint, None, 1)
    assert after.content != before.content
    assert not (folder.parent / "numbers.partial").exists()


def test_a_kill_while_a_finished_step_is_opened_again_loses_nothing(
    counting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(counting, tmp_path, stop=False)
    for victim in ("os.rename", "Path.unlink"):
        with monkeypatch.context() as patch:
            patch.setattr(f"distill.runs.{victim}", killed)
            with pytest.raises(KeyboardInterrupt):
                counted(counting, tmp_path, stop=False, most=20)
    assert counted(counting, tmp_path, stop=False, most=20).counts == {"reached": 10, "before": 4}


def killed(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt
