"""`distill teacher`: what a teacher is, and its folder in another dtype, without a recipe."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at teachers: sizes, cache. Convert their folders.")


def register(parent: typer.Typer) -> None:
    """Add the group to the application."""
    parent.add_typer(app, name="teacher")


@app.command("info")
def info(
    teacher: Annotated[
        str, typer.Argument(metavar="PRESET|FOLDER", help="v3 (or r1), v2, v2-lite, mini, or a folder.")
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count a teacher's parameters and cache without its weights.

    Parameters in all and active for a token, by component; values and bytes the latent cache keeps for a token in one
    layer, beside multi-head and grouped-query attention of the same shape. Of a folder only config.json is read.
    """
    from teacher.describe import as_json, as_text, find_config

    config = find_config(teacher)
    typer.echo(json.dumps(as_json(teacher, config), indent=2) if json_ else as_text(teacher, config))


@app.command("convert")
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
