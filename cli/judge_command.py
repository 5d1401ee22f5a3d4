"""`distill judge`: verdicts on any file of answers and programs."""

from pathlib import Path
from typing import Annotated

import typer

from cli.sandbox_options import AcceptOption, SandboxOption, chosen


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("judge")(judge)


def judge(
    file: Annotated[Path, typer.Argument(help="JSONL rows to judge.")],
    out: Annotated[Path, typer.Option("--out", help="Where the verdicts go, one row each, in input order.")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Child processes of each kind.")] = 2,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Wall seconds one row may take.")] = 10.0,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
    style: Annotated[bool, typer.Option("--style", help="Say how each row says it, too: five scores.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Judge a file of answers and programs.

    Answers are rows {id, gold, prediction}, programs {id, program, entry_point, tests}; they may be mixed.
    Optional keys: finish (stop, length), think_open, setup. A verdict is correct, wrong, unparsed, truncated, timeout,
    gold_bad or undecided, with what was extracted and why. Programs run behind Landlock and seccomp (Linux), in
    namespaces too where the kernel grants them; where the walls are missing the command refuses. Tests are `def
    check(candidate)` source with entry_point, or a list of assert statements, or a list of {stdin, stdout}.

    --style adds `style` to every row: format, readability, language, repetition and reflection, each a score in [0, 1]
    and a reason where it is below 1; of programs repetition. Optional key: question, for the language.
    """
    from distill.judge.file import judge_file
    from distill.progress import Progress

    progress = Progress("quiet" if quiet or json_ else "auto")
    kept = chosen(sandbox, accepted=accept)
    report = judge_file(file, out, workers=workers, timeout=timeout, progress=progress, sandbox=kept, style=style)
    if json_:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo("\n".join(report.lines))
