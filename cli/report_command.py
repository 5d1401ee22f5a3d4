"""`distill report`: the page of a recipe's report step, or of any run folders named."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.run_command import (
    DataOption,
    FromOption,
    JsonOption,
    OutOption,
    QuietOption,
    SetOption,
    StepOption,
    data_folder,
    stage_command,
)

if TYPE_CHECKING:
    from evals.report.stage import ReportConfig


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("report")(report)


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Run folders, or a recipe's folder of them; without any, --recipe."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Walk the report step of this recipe instead.")
    ] = None,
    step: StepOption = None,
    from_: FromOption = None,
    out: OutOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a run.

    Beside it stand the same as Markdown, JSON and Every Eval Ever, and the recipe that makes it all again.

    `distill report RUN...` needs no recipe: benches among the runs are shown with all they were made from, other runs
    beside them. It writes into --out (default: report); --set report.title="..." and the other keys hold here too.

    Keys of its table: distill stages report.
    """
    from distill.errors import UserError

    if recipe is not None:
        if runs:
            raise UserError(f"report: give runs or --recipe, not both; got {runs[0]} and --recipe {recipe}")
        stage_command("report")(recipe, step, from_, out, set_, data, quiet, json_)
        return
    if not runs:
        raise UserError("report: name run folders (distill report runs/mini) or a recipe (--recipe mini)")
    for option, value in (("--step", step), ("--from", from_)):
        if value is not None:
            raise UserError(f"report: {option} {value}: means nothing without --recipe")
    _write(runs, out or Path("report"), set_ or [], data_folder(data), quiet=quiet, json_=json_)


def _write(runs: list[Path], out: Path, overrides: list[str], data: Path, *, quiet: bool, json_: bool) -> None:
    from cli.libraries import prepare

    prepare()
    from cli.stages import table_of
    from distill.progress import Progress
    from evals.report.stage import report as write

    benches, others = _sorted(runs)
    config = _config(benches, others, overrides)
    out.mkdir(parents=True, exist_ok=True)
    progress = Progress("quiet" if quiet or json_ else "auto")
    made = write(benches, others, out, config, tables=table_of, progress=progress)
    if json_:
        typer.echo(made.model_copy(update={"marks": {"folder": str(out)}}).to_json())
    elif not quiet:
        for line in (str(out), *made.lines):
            typer.echo(line)


def _sorted(runs: list[Path]) -> tuple[list[Path], list[Path]]:
    """Benches and other run folders. Raises UserError where a path is no run folder and holds none."""
    from distill.errors import UserError
    from distill.runs import MANIFEST, read_manifest

    benches: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for run in runs:
        folders = [run] if (run / MANIFEST).is_file() else sorted(path.parent for path in run.glob(f"*/{MANIFEST}"))
        if not folders:
            raise UserError(f"{run}: no run folder ({MANIFEST} is missing) and no folder of run folders")
        for folder in folders:
            stage = read_manifest(folder).stage
            if stage == "bench":
                benches[folder] = None
            elif stage != "report" and not folder.name.endswith(".partial"):
                others[folder] = None
    return list(benches), list(others)


def _config(benches: list[Path], others: list[Path], overrides: list[str]) -> "ReportConfig":
    """The step a recipe would hold for these folders. Raises UserError for keys it does not know."""
    from distill.errors import UserError
    from distill.overrides import apply
    from distill.recipe import make_step

    tables: dict[str, Any] = {
        "report": {"bench": [str(path) for path in benches], "runs": [str(path) for path in others]}
    }
    here = Path("report")
    for one in overrides:
        apply(tables, one, here)
    if tables.keys() - {"report"}:
        raise UserError(f"report: --set {overrides[0]}: expected report.KEY=VALUE, for no recipe is read")
    from cli.stages import REGISTRY

    config: ReportConfig = make_step(here, "report", tables["report"], REGISTRY).config  # type: ignore[assignment]
    return config
