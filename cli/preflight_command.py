"""`distill preflight`: what a training step may be refused for, and an example as it learns it, without a step."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.run_command import DataOption, FromOption, OutOption, RecipeOption, SetOption, StepOption, data_folder, load
from cli.sandbox_options import AcceptOption, SandboxOption, chosen

if TYPE_CHECKING:
    from distill.recipe import Recipe, Step
    from distill.sandbox import Sandbox


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("preflight")(preflight)


def preflight(
    recipe: RecipeOption,
    step: StepOption = None,
    from_: FromOption = None,
    out: OutOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a step instead of text.")] = False,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
) -> None:
    """Check a training step without training.

    Reads examples, template and model of an sft or kd step as the step itself would and refuses what it would,
    naming file, line and remedy: rows without loss or with too much of it, a turn that never ends, a lost thought,
    a tokenizer of another model, weights that are no numbers, memory that will not fit, packed rows that see each
    other, a guard whose problems are learned from or cannot be asked, a log without its package. Prints one example
    with the learned tokens in green (or marked `learn |` without color), and a table of what was checked. Without
    --step: every such step of the recipe whose inputs are there.
    """
    from cli.describe import replace_main_input
    from distill.errors import UserError, did_you_mean

    kept = chosen(sandbox, accepted=accept)
    loaded = load(recipe, set_)
    trained = [name for name, found in loaded.steps.items() if found.stage.preflight is not None]
    if step is not None and step not in trained:
        raise UserError(
            f"{loaded.path}: [{step}] is no step with a preflight{did_you_mean(step, trained)}; "
            f"there are {', '.join(trained) or 'none'}"
        )
    if from_ is not None:
        if step is None:
            raise UserError("--from: name the step with --step")
        loaded = replace_main_input(loaded, step, from_)
    folder = out if out is not None else Path("runs") / loaded.name
    checked = 0
    for name in trained if step is None else [step]:
        waits = _waits(loaded.steps[name], folder)
        if waits and step is None:
            if not json_:
                typer.echo(f"[{name}] {waits}")
            continue
        _check(loaded, name, folder, data_folder(data), kept, json_=json_)
        checked += 1
    if not checked:
        raise UserError(f"{loaded.path}: no step can be checked here yet in {folder}; run what they wait for first")


def _waits(step: "Step", folder: Path) -> str:
    """Why a step cannot be checked here, or not yet; empty where it can."""
    from cli.ranks import processes
    from distill.recipe import is_path, step_folder
    from distill.runs import MANIFEST

    names = [name for names in step.inputs.values() for name in names if not is_path(name)]
    missing = [name for name in dict.fromkeys(names) if not (step_folder(folder, name) / MANIFEST).is_file()]
    if missing:
        return f"waits for {', '.join(missing)}"
    several = processes(step.config) > 1 or getattr(step.config, "deepspeed", None) is not None
    return "is checked by its own processes as they begin" if several else ""


def _check(recipe: "Recipe", name: str, folder: Path, data: Path, sandbox: "Sandbox", *, json_: bool) -> None:
    from rich.console import Console

    from cli.notes import told
    from distill.progress import Progress
    from distill.recipe import StepContext, is_path, step_folder
    from distill.runs import read_manifest

    step = recipe.steps[name]
    for named in [named for names in step.inputs.values() for named in names if not is_path(named)]:
        read_manifest(step_folder(folder, named))  # a step that is not done is said to be unfinished
    inputs = {
        field: tuple(Path(named) if is_path(named) else step_folder(folder, named) for named in names)
        for field, names in step.inputs.items()
    }
    progress = Progress("quiet" if json_ else "auto")
    context = StepContext(name, step.config, step_folder(folder, name), inputs, recipe.seed, data, progress, sandbox)
    run = step.stage.preflight
    assert run is not None, "only steps with one come here"
    if not json_:
        typer.echo(f"[{name}]")
    with told(progress):
        findings = run(context)
    if json_:
        checks = [{"what": one.what, "found": one.found, "now": one.now, "look": one.look} for one in findings.checks]
        typer.echo(json.dumps({"step": name, "checks": checks, "counts": findings.counts}))
        return
    if findings.example is not None:
        findings.example.print(Console(highlight=False))
    for line in findings.table:
        typer.echo(f"  {line}")
