"""`distill judge`: verdicts on any file of answers and programs, or on stored traces once more."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.run_command import DataOption, data_folder
from cli.sandbox_options import AcceptOption, SandboxOption, chosen

if TYPE_CHECKING:
    from distill.progress import Progress
    from distill.runs import Report
    from distill.sandbox import Sandbox


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("judge")(judge)


def judge(
    file: Annotated[Path, typer.Argument(help="JSONL rows to judge, or a run folder of harvest or import.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Of a file: where the verdicts go, one row each, in input order.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Child processes of each kind.")] = 2,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Wall seconds one row may take.")] = 10.0,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
    style: Annotated[bool, typer.Option("--style", help="Say how each row says it, too: five scores.")] = False,
    again: Annotated[
        list[str] | None,
        typer.Option("--again", metavar="STATUS", help="Of a folder: verdicts to draw anew too, or all; repeatable."),
    ] = None,
    problems: Annotated[
        Path | None, typer.Option("--problems", help="Of a folder: its problems; default: as its manifest says.")
    ] = None,
    data: DataOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Judge a file of answers and programs, or traces anew.

    \b
      distill judge answers.jsonl --out verdicts.jsonl
      distill judge runs/mini/harvest
      distill judge runs/mini/harvest --again timeout --timeout 60

    Of a folder: traces without a verdict of today's judge get one, nothing is sampled. verdicts/ then holds the newest
    verdict of each trace, verdicts-1/ and on what was said before; steps that read the folder run again. Stopped or
    killed, the same command goes on.

    Answers are rows {id, gold, prediction}, programs {id, program, entry_point, tests}; they may be mixed.
    Optional keys: finish (stop, length), think_open, setup. A verdict is correct, wrong, unparsed, truncated, timeout,
    gold_bad or undecided, with what was extracted and why. Programs run behind Landlock and seccomp (Linux), in
    namespaces too where the kernel grants them; where the walls are missing the command refuses. Tests are `def
    check(candidate)` source with entry_point, or a list of assert statements, or a list of {stdin, stdout}.

    --style adds `style` to every row: format, readability, language, repetition and reflection, each a score in [0, 1]
    and a reason where it is below 1; of programs repetition. Optional key: question, for the language.
    """
    from distill.progress import Progress

    progress = Progress("quiet" if quiet or json_ else "auto")
    kept = chosen(sandbox, accepted=accept)
    if file.is_dir():
        given = {"--out": out is not None, "--style": style}
        report = _judge_folder(file, given, tuple(again or ()), problems, data, workers, timeout, kept, progress)
    else:
        report = _judge_file(file, out, again, problems, workers, timeout, kept, progress, style=style)
    if json_:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo("\n".join(report.lines))


def _judge_file(
    file: Path,
    out: Path | None,
    again: list[str] | None,
    problems: Path | None,
    workers: int,
    timeout: float,
    sandbox: "Sandbox",
    progress: "Progress",
    *,
    style: bool,
) -> "Report":
    from distill.errors import UserError
    from distill.judge.file import judge_file

    if out is None:
        raise UserError(f"{file}: --out is missing; it names the file the verdicts go to")
    if again or problems:
        raise UserError(f"{file}: --again and --problems are for run folders, and this is none")
    return judge_file(file, out, workers=workers, timeout=timeout, progress=progress, sandbox=sandbox, style=style)


def _judge_folder(
    folder: Path,
    given: dict[str, bool],
    again: tuple[str, ...],
    problems: Path | None,
    data: Path | None,
    workers: int,
    timeout: float,
    sandbox: "Sandbox",
    progress: "Progress",
) -> "Report":
    from cli.libraries import prepare

    prepare()
    from cli.stages import judge_again
    from distill.errors import UserError
    from distill.judge import Judge

    for option in (name for name, there in given.items() if there):
        raise UserError(f"{folder}: {option} is for files; the verdicts of a run folder go into its verdicts/")
    with Judge(workers=workers, timeout=timeout, sandbox=sandbox) as judge:
        return judge_again(folder, judge, data_folder(data), progress, again=again, problems=problems)
