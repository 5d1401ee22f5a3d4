"""`distill run`, `distill stages` and one command a stage: load the recipe, run, print the report."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.sandbox_options import AcceptOption, SandboxOption, chosen

if TYPE_CHECKING:
    from distill.recipe import Recipe
    from distill.runs import Manifest
    from distill.sandbox import Sandbox

STAGES = {
    "problems": "Write problems: procedural families or a benchmark.",
    "vary": "Put problems another way: other words, numbers.",
    "harvest": "Sample chains of thought and judge each; resumes.",
    "import": "Take foreign traces in, judge those with a gold answer.",
    "measure": "Score each trace under a student or teacher; resumes.",
    "curate": "Turn verified traces into training examples.",
    "teacher-init": "Make a fresh MLA/MoE teacher of a preset size.",
    "student-init": "Make a fresh dense student, Llama or Qwen shaped.",
    "student-import": "Turn a GGUF file into a folder that can be trained.",
    "sft": "Train a teacher or student on examples.",
    "logits": "Keep a teacher's log-probabilities of examples; resumes.",
    "kd": "Train a student on a teacher's log-probabilities.",
    "on-policy": "Correct a student's own turns by its teacher.",
    "rl": "Reinforce with the judge's verdicts (GRPO).",
    "quantize": "Write an int8 or 4-bit copy and say what it cost.",
    "bench": "Score checkpoints with intervals, pairs compared.",
    "report": "Write one self-contained HTML page about a run.",
}
"""Stage names in the order work flows; `cli.stages` holds their functions."""
JUDGING = ("harvest", "import", "on-policy", "rl")
"""Stages that may run programs of models, and have no budget that minutes could size."""
SIZED = ("kd", "bench")
"""Stages that may run programs too, and have one."""
SCALING = ("sft",)
"""Stages that may do all of it, and train on several processes."""

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A shipped recipe (mini, replay, ...) or a .toml file.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the run folders; default runs/<recipe>.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="table.key=value, or seed=N; may be repeated. Values are TOML.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="Directory of benchmark files; default $DISTILL_DATA, then ./data.")
]
StepOption = Annotated[str | None, typer.Option("--step", help="Which step, when several have this stage.")]
FromOption = Annotated[str | None, typer.Option("--from", help="Run folder or file to read instead of the main input.")]
ExplainOption = Annotated[
    str | None, typer.Option("--explain", metavar="TRACE_ID", help="Run nothing: say why a trace is in or out.")
]
NprocOption = Annotated[
    int | None,
    typer.Option("--nproc", min=1, help="Start so many processes, a GPU each, and deal out the rows (docs/scale.md)."),
]
DeepspeedOption = Annotated[
    str | None,
    typer.Option("--deepspeed", help="zero1, zero2, zero3, zero2-offload, zero3-offload or a .json; with --nproc."),
]
MinutesOption = Annotated[
    float | None, typer.Option("--minutes", min=0.1, help="Size the steps of the table [minutes] to this machine.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no report, errors only.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a step instead of text.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the application."""
    app.command("run", help="Walk a recipe: skip what is done, resume the rest.")(run)
    app.command("stages", help="List stages, or explain every key of one's table.")(stages)
    for name, summary in STAGES.items():
        if name == "report":
            continue  # takes runs without a recipe too: cli.report_command
        app.command(name, help=f"{summary}\n\nKeys of its table: distill stages {name}.")(stage_command(name))


def run(
    recipe: RecipeOption = "mini",
    to: Annotated[str | None, typer.Option("--to", help="Stop after this step (and run only what it needs).")] = None,
    out: OutOption = None,
    set_: SetOption = None,
    minutes: MinutesOption = None,
    data: DataOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
) -> None:
    """Run every step of a recipe in one process."""
    from distill.recipe import ancestors

    kept = chosen(sandbox, accepted=accept)
    if to is None:
        _refuse_held(recipe, out)
    loaded = load(recipe, set_)
    names = ancestors(loaded, to) if to is not None else list(loaded.steps)
    _run(loaded, names, out, data, kept, minutes, quiet=quiet, json_=json_)


def stages(name: Annotated[str | None, typer.Argument(help="A stage; without one, all are listed.")] = None) -> None:
    """Print what a recipe may say."""
    from cli.describe import describe_stage

    if name is None:
        width = max(map(len, STAGES))
        for stage, summary in STAGES.items():
            typer.echo(f"{stage:<{width}}  {summary}")
    else:
        typer.echo(describe_stage(name))


def stage_command(stage: str):  # type: ignore[no-untyped-def]  # typer reads the signature of the inner function
    def command(
        recipe: RecipeOption,
        step: StepOption = None,
        from_: FromOption = None,
        out: OutOption = None,
        set_: SetOption = None,
        data: DataOption = None,
        quiet: QuietOption = False,
        json_: JsonOption = False,
    ) -> None:
        judging(recipe, step, from_, out, set_, data, quiet, json_)

    def judging(
        recipe: RecipeOption,
        step: StepOption = None,
        from_: FromOption = None,
        out: OutOption = None,
        set_: SetOption = None,
        data: DataOption = None,
        quiet: QuietOption = False,
        json_: JsonOption = False,
        sandbox: SandboxOption = "",
        accept: AcceptOption = False,
    ) -> None:
        timed(recipe, step, from_, out, set_, None, data, quiet, json_, sandbox, accept)

    def timed(
        recipe: RecipeOption,
        step: StepOption = None,
        from_: FromOption = None,
        out: OutOption = None,
        set_: SetOption = None,
        minutes: MinutesOption = None,
        data: DataOption = None,
        quiet: QuietOption = False,
        json_: JsonOption = False,
        sandbox: SandboxOption = "",
        accept: AcceptOption = False,
    ) -> None:
        from cli.describe import choose_step, replace_main_input

        kept = chosen(sandbox, accepted=accept)
        _refuse_held(recipe, out, step or stage)
        loaded = load(recipe, set_)
        name = choose_step(loaded, stage, step)
        if from_ is not None:
            loaded = replace_main_input(loaded, name, from_)
        _run(loaded, [name], out, data, kept, minutes, quiet=quiet, json_=json_)

    def scaling(
        recipe: RecipeOption,
        step: StepOption = None,
        from_: FromOption = None,
        out: OutOption = None,
        set_: SetOption = None,
        minutes: MinutesOption = None,
        data: DataOption = None,
        quiet: QuietOption = False,
        json_: JsonOption = False,
        nproc: NprocOption = None,
        deepspeed: DeepspeedOption = None,
        sandbox: SandboxOption = "",
        accept: AcceptOption = False,
    ) -> None:
        from cli.describe import choose_step
        from cli.launch import launch, overrides
        from distill.minutes import check_sizable

        if nproc is not None or deepspeed is not None:
            loaded = load(recipe, set_)
            name = choose_step(loaded, stage, step)
            set_ = [*(set_ or []), *overrides(loaded, name, nproc, deepspeed)]
            loaded = load(recipe, set_)  # a refusal comes once, before any process is started
            if minutes is not None:
                check_sizable(loaded, [name])
        launch(nproc)
        timed(recipe, step, from_, out, set_, minutes, data, quiet, json_, sandbox, accept)

    def explaining(
        recipe: RecipeOption,
        step: StepOption = None,
        from_: FromOption = None,
        out: OutOption = None,
        set_: SetOption = None,
        data: DataOption = None,
        quiet: QuietOption = False,
        json_: JsonOption = False,
        explain: ExplainOption = None,
    ) -> None:
        if explain is None:
            judging(recipe, step, from_, out, set_, data, quiet, json_)
        else:
            _explain(recipe, step, out, set_, explain, json_=json_)

    if stage in SCALING:
        return scaling
    if stage in SIZED:
        return timed
    return judging if stage in JUDGING else explaining if stage == "curate" else command


def _explain(
    recipe: str, step: str | None, out: Path | None, overrides: list[str] | None, trace_id: str, *, json_: bool
) -> None:
    from cli.describe import choose_step
    from distill.curate.explain import find_fate, in_words
    from distill.recipe import step_folder

    loaded = load(recipe, overrides)
    name = choose_step(loaded, "curate", step)
    fate = find_fate(step_folder(_out(out, loaded), name), trace_id)
    typer.echo(fate.to_json() if json_ else in_words(fate, name))


def _out(out: Path | None, recipe: "Recipe") -> Path:
    return out if out is not None else Path("runs") / recipe.name


def _refuse_held(recipe: str, out: Path | None, step: str | None = None) -> None:
    """Say at once, before libraries are loaded, that another process holds a step; all of them without a name."""
    from distill.runs import check_free

    folder = out if out is not None else Path("runs") / Path(recipe).stem
    names = [step] if step else sorted(path.name[1:].removesuffix(".lock") for path in folder.glob(".*.lock"))
    for name in names:
        check_free(folder / name)


def load(recipe: str, overrides: list[str] | None) -> "Recipe":
    """The checked recipe a command means, libraries prepared."""
    from cli.libraries import prepare

    prepare()
    from cli.stages import REGISTRY
    from distill.recipe import find_recipe, load_recipe

    return load_recipe(find_recipe(recipe), REGISTRY, overrides or [])


def _run(
    recipe: "Recipe",
    names: list[str],
    out: Path | None,
    data: Path | None,
    sandbox: "Sandbox",
    minutes: float | None,
    *,
    quiet: bool,
    json_: bool,
) -> None:
    from cli.ranks import joined
    from distill.minutes import check_sizable

    if minutes is not None:
        check_sizable(recipe, names)
    with joined(recipe, names) as leads:
        if leads:
            _walk(recipe, names, out, data, sandbox, minutes, quiet=quiet, json_=json_)


def _walk(
    recipe: "Recipe",
    names: list[str],
    out: Path | None,
    data: Path | None,
    sandbox: "Sandbox",
    minutes: float | None,
    *,
    quiet: bool,
    json_: bool,
) -> None:
    from cli.notes import told
    from distill.minutes import sized_step
    from distill.progress import Progress
    from distill.recipe import run_step

    progress = Progress("quiet" if quiet or json_ else "auto")
    folder = _out(out, recipe)
    source = data_folder(data)
    if not sandbox.walled and not (quiet or json_):
        typer.echo("UNSANDBOXED: programs of models run without walls")
    for name in names:
        if not (quiet or json_):
            typer.echo(f"[{name}]")
        with told(progress):
            found = recipe
            if minutes is not None:
                found, choice = sized_step(recipe, name, minutes, folder, source, progress, sandbox)
                if choice is not None and not (quiet or json_):
                    typer.echo(f"  {choice.line}")
            manifest, ran = run_step(found, name, folder, source, progress, sandbox)
        if json_:
            typer.echo(json.dumps({**manifest.model_dump(mode="json"), "folder": str(folder / name), "ran": ran}))
        elif not quiet:
            print_manifest(manifest, ran)


def data_folder(named: Path | None) -> Path:
    """Directory of benchmark files: the one named, else that of the environment, else `data`."""
    return named or Path(os.environ.get("DISTILL_DATA", "data"))


def print_manifest(manifest: "Manifest", ran: bool) -> None:
    """A step's report as a person reads it."""
    if not ran:
        short = f"; {manifest.report.lines[1]}" if manifest.report.short else ""
        typer.echo(f"  done before ({manifest.seconds:.1f} s){short}")
        return
    for line in manifest.report.lines:
        typer.echo(f"  {line}")
    typer.echo(f"  {manifest.seconds:.1f} s")
