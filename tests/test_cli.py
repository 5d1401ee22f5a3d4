"""The command line: bad input is one clear line and exit code 2; good input runs and says what it did."""

import errno
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import main
from cli.run_command import STAGES
from cli.stages import REGISTRY
from distill.recipe import SHIPPED, load_recipe
from distill.runs import hold, read_manifest

SMALL = """
[problems.families.stories]
levels = [1, 2]
train = 20
test = 5
[traces]
stage = "harvest"
problems = "problems"
sampler = "oracle"
error_rate = 0.2
max_tokens = 100
[curate]
traces = "traces"
problems = "problems"
against = "problems"
decontaminate = "by-construction"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def distill(*arguments: object) -> Done:
    """The command as a user types it, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stopped:
            main()
    return Done(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def complaint(*arguments: object) -> str:
    """The message of a command that must exit with 2."""
    done = distill(*arguments)
    assert done.returncode == 2, done.stderr
    return done.stderr.strip()


def test_help_names_every_stage() -> None:
    done = distill("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in STAGES)


def test_summaries_fit_a_narrow_terminal() -> None:
    assert "..." not in distill("--help").stdout.partition("Commands:")[2]


def test_commands_and_registry_name_the_same_stages() -> None:
    assert list(STAGES) == list(REGISTRY)


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_of_every_stage_is_explained(stage: str) -> None:
    fields = REGISTRY[stage].config.model_fields
    assert {key for key, field in fields.items() if not field.description} == set()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_parses_and_says_what_was_run(path: Path) -> None:
    recipe = load_recipe(path, REGISTRY)
    assert recipe.steps
    assert recipe.status


def test_recipe_runs_then_is_done(small: Path, tmp_path: Path) -> None:
    arguments = ("run", "--recipe", small, "--out", tmp_path / "out", "--json")
    first = [json.loads(line) for line in distill(*arguments).stdout.splitlines()]
    again = [json.loads(line) for line in distill(*arguments).stdout.splitlines()]
    assert [(row["step"], row["ran"]) for row in first] == [("problems", True), ("traces", True), ("curate", True)]
    assert [row["ran"] for row in again] == [False, False, False]
    assert 0 < first[2]["report"]["counts"]["examples"] < 40


def test_from_reads_another_main_input(small: Path, tmp_path: Path) -> None:
    distill("run", "--recipe", small, "--out", tmp_path / "out", "--quiet")
    problems = tmp_path / "out/problems/problems.jsonl"
    few = tmp_path / "few.jsonl"
    few.write_text("".join(line for line in problems.read_text().splitlines(keepends=True)[:7]))
    done = distill("harvest", "--recipe", small, "--out", tmp_path / "out", "--from", few, "--json")
    assert json.loads(done.stdout)["report"]["counts"]["problems"] == 7


def test_unknown_key_is_named_with_a_suggestion(small: Path) -> None:
    text = complaint("run", "--recipe", small, "--set", "traces.eror_rate=0.1")
    assert text == f"{small}: [traces] eror_rate: unknown key (did you mean error_rate?)"


def test_unknown_step_is_named(small: Path) -> None:
    assert "no step 'curat' (did you mean curate?)" in complaint("run", "--recipe", small, "--to", "curat")


def test_missing_recipe_is_named() -> None:
    assert complaint("run", "--recipe", "./none.toml") == "none.toml: no such recipe file"


def test_missing_input_says_what_is_missing(small: Path, tmp_path: Path) -> None:
    text = complaint("curate", "--recipe", small, "--out", tmp_path / "out")
    assert text.startswith(f"{tmp_path}/out/traces: not a complete run folder")


def test_every_malformed_line_is_named(small: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1}\nnot json\n')
    lines = complaint("harvest", "--recipe", small, "--out", tmp_path / "out", "--from", bad).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{bad}:1", f"{bad}:2"]


def test_folder_that_is_no_checkpoint_is_named(small: Path, tmp_path: Path) -> None:
    distill("run", "--recipe", small, "--out", tmp_path / "out", "--quiet")
    small.write_text(SMALL + f'[sft]\ndata = "curate"\nmodel = "{tmp_path}/"\nsteps = 1\n')
    text = complaint("sft", "--recipe", small, "--out", tmp_path / "out")
    assert "not a checkpoint folder (config.json is missing" in text


def test_step_held_by_another_process_is_refused(small: Path, tmp_path: Path) -> None:
    with hold(tmp_path / "out/problems"):
        text = complaint("run", "--recipe", small, "--out", tmp_path / "out")
    assert f"held by process {os.getpid()}" in text


def test_curate_that_keeps_nothing_is_an_error(small: Path, tmp_path: Path) -> None:
    text = complaint("run", "--recipe", small, "--out", tmp_path / "out", "--set", "traces.error_rate=1.0")
    assert text == "curate: none of 40 traces is kept (wrong 40)"


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "disk full"), (errno.EACCES, "permission denied")])
def test_refusal_of_the_system_is_one_line(
    number: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused", "runs/x")

    monkeypatch.setattr("cli.main.app", refuse)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"runs/x: {word}")


def test_the_command_itself_exits_with_two_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "run", "--recipe", "none.toml"]
    environment = {**os.environ, "PYTHONPATH": str(SHIPPED.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (2, "none.toml: no such recipe file\n")


def test_out_below_a_file_is_refused(small: Path) -> None:
    assert complaint("run", "--recipe", small, "--out", small / "x").endswith("not a folder; choose another with --out")


def test_stage_with_several_steps_asks_which(tmp_path: Path) -> None:
    text = complaint("sft", "--recipe", "mini", "--out", tmp_path)
    assert "several steps of stage sft; choose with --step" in text


def test_a_terminal_shows_one_screen_of_a_long_error_and_a_pipe_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import main as module

    error = "\n".join(f"x.jsonl:{number}: bad" for number in range(1000))
    assert module._told(error) == error
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    told = module._told(error).splitlines()
    assert told[-1] == "... and 976 more lines: 2> errors.txt writes them all"
    assert len(told) == 25


SIZED = """
[minutes]
sft = 0.5
bench = 0.5

[problems.families.stories]
levels = [1]
train = 20
test = 40

[traces]
stage = "harvest"
problems = "problems"
sampler = "oracle"
error_rate = 0.0
max_tokens = 100

[curate]
traces = "traces"
problems = "problems"
against = "problems"
decontaminate = "by-construction"

[student-init]
spec = "mini-95k"

[sft]
data = "curate"
model = "student-init"
steps = 6
tokens_per_batch = 256

[bench]
checkpoints = ["student-init", "sft"]
problems = "problems"
compare = [["sft", "student-init"]]
max_tokens = 8
"""


def test_minutes_size_training_and_exam_once(tmp_path: Path) -> None:
    path, out = tmp_path / "sized.toml", tmp_path / "out"
    path.write_text(SIZED)
    arguments = ("run", "--recipe", path, "--out", out, "--minutes", "20")
    first = distill(*arguments)
    assert first.returncode == 0, first.stderr
    assert "small run: " in first.stdout
    assert first.stdout.count("all the recipe asks for") == 2
    choices = [json.loads((out / f"{step}.minutes.json").read_text()) for step in ("sft", "bench")]
    assert [list(choice["pilots"]) for choice in choices] == [
        ["sft.minutes-4"],
        ["bench.minutes-8", "bench.minutes-32"],
    ]
    assert read_manifest(out / "sft").report.counts["steps"] == 6
    assert read_manifest(out / "bench").report.counts["problems"] == 40
    assert not [*out.glob("[!.]*.minutes-*")], "small runs are not kept"
    again = distill(*arguments)
    assert again.stdout.count("done before") == 6
    assert [json.loads((out / f"{step}.minutes.json").read_text()) for step in ("sft", "bench")] == choices


def test_minutes_of_a_recipe_without_shares_are_refused(small: Path, tmp_path: Path) -> None:
    said = complaint("run", "--recipe", small, "--out", tmp_path / "out", "--minutes", "20")
    assert said == (
        f"{small}: [minutes]: there is no table, so --minutes has nothing to size; expected shares of sft, kd or "
        "bench steps, such as sft = 0.6"
    )
    assert not (tmp_path / "out").exists()
