"""`distill teacher`: looking at and rewriting folders of the teacher's architecture."""

from pathlib import Path
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Folders of the teacher's architecture.")


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group.command("convert")(convert)
    app.add_typer(group, name="teacher")


def convert(
    source: Annotated[Path, typer.Argument(help="Folder to read: FP8 blocks, bfloat16, float16 or float32.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[str, typer.Option("--to", help="bf16 or fp32.")] = "bf16",
    shard_size: Annotated[str, typer.Option("--shard-size", help="Largest file: 5GB, 500MB, ...")] = "5GB",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Rewrite a folder in another dtype: FP8 as published to bf16, shard by shard, in little memory.

    OUT appears when it is complete. Stopped or killed, the same command goes on; shards whose hash still holds are
    kept. The correction bias stays float32. Tokenizer, templates and license are copied, code is not. What is wrong
    with a folder (pickle, paths that leave it, missing, extra, misshapen or non-finite tensors) is said in one line.
    """
    from distill.progress import Progress
    from teacher.convert import convert

    progress = Progress("quiet" if quiet or json_ else "auto")
    report = convert(source, out, to=to, shard_size=shard_size, progress=progress)
    if json_:
        typer.echo(report.to_json())
    elif not quiet:
        typer.echo("\n".join(report.lines))
