"""`distill decontaminate`: how much of the exam stands in training files."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("decontaminate")(decontaminate)


def decontaminate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Problems, examples or traces: files, run folders, or benchmarks (math:train)."
        ),
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", help="Held-out problems: a file, a run folder, a benchmark, or `benchmarks` for all; repeat."
        ),
    ] = None,
    method: Annotated[
        Literal["13-gram", "exact", "by-construction"], typer.Option("--method", help="How to look.")
    ] = "13-gram",
    near: Annotated[
        Literal["drop", "flag", "off"], typer.Option("--near", help="Short prompts with one word changed.")
    ] = "drop",
    numbers_changed: Annotated[
        Literal["drop", "flag", "off"], typer.Option("--numbers-changed", help="Prompts with other numbers.")
    ] = "flag",
    out: Annotated[Path | None, typer.Option("--out", help="Write every match here, one JSON object a line.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of benchmark files; default $DISTILL_DATA, then ./data.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Count held-out problems in training files.

    same: a prompt of the same words. 13 words: 13 consecutive words shared, what is the same included. short prompt:
    one of 8 to 12 words found whole. near: a prompt of 6 to 12 words with one word changed, added, left out or moved.
    numbers-changed: the same words with other numbers. Problems of procedural families are compared up to white space
    only. Changes nothing: the step that makes a training set is curate.

    Example: distill decontaminate math:train gsm8k:train --against math --against gsm8k
    """
    from distill.curate.overlap import overlap
    from distill.progress import Progress

    report = overlap(
        files,
        against or ["benchmarks"],
        data=data or Path(os.environ.get("DISTILL_DATA", "data")),
        method=method,
        near=near,
        numbers_changed=numbers_changed,
        out=out,
        progress=Progress("quiet" if quiet or json_ else "auto"),
    )
    if json_:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo("\n".join(report.lines))
