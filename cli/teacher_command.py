"""`distill teacher`: what a teacher of this architecture is, without a recipe."""

import json
from typing import Annotated

import typer

group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Teachers: sizes and folders.")


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group.command("info")(info)
    app.add_typer(group, name="teacher")


def info(
    teacher: Annotated[
        str, typer.Argument(metavar="PRESET|FOLDER", help="v3 (r1 is the same), v2, v2-lite, mini, or a folder.")
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
