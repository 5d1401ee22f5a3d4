"""`distill compare`: two checkpoints problem by problem, from the benches that examined them."""

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compare")(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A bench folder, RECIPE/STEP, or either with :CHECKPOINT.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; differences are A less B.")],
    points: Annotated[
        float, typer.Option("--points", min=0.01, max=100.0, help="How many problems would show so many points.")
    ] = 3.0,
    flips: Annotated[bool, typer.Option("--flips", help="List every problem on which the two differ.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a pair instead of text.")] = False,
) -> None:
    """Say how much better A is than B, and how surely.

    A and B are bench folders, or steps of recipes (mini/bench is runs/mini/bench). A step that made a checkpoint
    (mini/student) stands for that checkpoint in the bench beside it. Of two benches, checkpoints of the same name are
    compared; FOLDER:CHECKPOINT names one. Benches that asked other problems or in another way are refused.

    The table, by benchmark and level: pass@1 of both, the paired difference in points with its 95% interval, problems,
    flips (where A is better, where B is), McNemar's exact p-value, and the smallest difference so many problems show
    four times of five.
    docs/statistics.md says how each is computed.

    Examples: distill compare mini/student mini/student-raw; distill compare runs/mini/bench runs/mini-s1/bench
    """
    from evals.compare import chosen, told
    from evals.compare import compare as compared

    (left, of_left), (right, of_right) = _place(a), _place(b)
    found = [compared(one, other, points / 100) for one, other in chosen(left, right, of_left, of_right)]
    if json_:
        typer.echo("\n".join(row.to_json() for row in found))
    else:
        typer.echo("\n\n\n".join("\n".join(told(row, flips=flips)) for row in found))


def _place(text: str) -> tuple[Path, str | None]:
    """Bench folder and checkpoint that an argument means."""
    folder, colon, checkpoint = text.rpartition(":")
    path = _folder(folder if colon else text)
    return _bench(path, checkpoint if colon else None)


def _folder(text: str) -> Path:
    from distill.errors import UserError

    for path in (Path(text), RUNS / text):
        if path.is_dir():
            return path
    raise UserError(f"{text}: no such folder, nor {RUNS / text}; expected a bench folder or RECIPE/STEP")


def _bench(path: Path, checkpoint: str | None) -> tuple[Path, str | None]:
    """A bench as it is; the folder of a checkpoint stands for itself in the one bench beside it that examined it."""
    from distill.errors import UserError
    from evals.bench import ITEMS, SCORES
    from evals.compare import sides

    if checkpoint is not None or (path / ITEMS).is_file():
        return path, checkpoint
    beside = sorted(scores.parent for scores in path.parent.glob(f"*/{SCORES}") if scores.parent.suffix != ".partial")
    benches = [bench for bench in beside if path.name in sides(bench)]
    if len(benches) != 1:
        there = f"{len(benches)} benches ({', '.join(map(str, benches))})" if benches else "no bench"
        raise UserError(f"{path}: {there} beside it examined {path.name}; name the bench as FOLDER:{path.name}")
    return benches[0], path.name
