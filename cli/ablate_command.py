"""`distill ablate`: one student for each policy, size and seed, and a table of what the policies are worth."""

import dataclasses
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.run_command import DataOption, OutOption, QuietOption, RecipeOption, SetOption, load
from cli.sandbox_options import AcceptOption, SandboxOption, chosen

if TYPE_CHECKING:
    from distill.ablate import Derived
    from distill.recipe import Recipe
    from distill.runs import Manifest

ABLATE = "ablate"
"""Run folder of the tables."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ablate")(ablate)


def ablate(
    recipe: RecipeOption,
    policies: Annotated[
        str, typer.Option("--policies", help="Comma-separated; the first is the baseline. See above.")
    ] = "all,verified,shortest,diverse",
    sizes: Annotated[str, typer.Option("--sizes", help="Comma-separated numbers of examples.")] = "250,1000,4000",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Students a cell, from the recipe's seed up.")] = 2,
    student: Annotated[str | None, typer.Option("--student", help="The sft step; default `student`.")] = None,
    bench: Annotated[str | None, typer.Option("--bench", help="The bench step; default `bench`.")] = None,
    target: Annotated[
        float | None,
        typer.Option("--target", min=0.0, max=1.0, help="Score whose price in examples is asked, as a fraction."),
    ] = None,
    out: OutOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    quiet: QuietOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print ablation.json instead of text.")] = False,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
) -> None:
    """Compare what students learn from each policy's picks.

    A policy is a name (all, verified, shortest, diverse, majority, ...: docs/curate.md), several joined by + that act
    in a row (majority+verified+shortest), or the name of a curate step of the recipe, whose table is used as it stands.
    Of what a policy leaves, SIZE examples are drawn at random, anew for every size and seed; no size is part of a
    larger one. A size that a policy cannot fill is an error before anything is trained.

    Every student takes the optimizer steps of the recipe's sft step, whatever the size. Problems and harvest are made
    once; each cell is three run folders (curate, sft, bench), so a killed ablation resumes and a grid can be enlarged.

    The tables (ablate/ablation.md, .csv, .json): pass@1, the difference to the baseline problem by problem, both with
    95% intervals over problems and with every seed beside them, tokens an example, and how many examples each policy
    needs for the score the baseline has at its largest size, or for --target.

    Example: distill ablate --recipe ablate --policies all,verified --sizes 250,1000 --seeds 2
    """
    kept = chosen(sandbox, accepted=accept)
    loaded = load(recipe, set_)
    from cli.ranks import joined
    from cli.stages import REGISTRY
    from distill.ablate import Grid, derive
    from distill.progress import Progress
    from distill.recipe import run_step

    grid = Grid(tuple(_listed(policies)), tuple(_numbers(sizes)), seeds)
    derived = derive(loaded, grid, REGISTRY, student=student, bench=bench)
    folder = out if out is not None else Path("runs") / loaded.name
    source = data or Path(os.environ.get("DISTILL_DATA", "data"))
    progress = Progress("quiet" if quiet or json_ else "auto")
    walk = [*derived.steps, _told(loaded, derived, target)]
    clock = _Clock(Counter(found.steps[name].stage.name for found, name in walk))
    if not kept.walled and not (quiet or json_):
        typer.echo("UNSANDBOXED: programs of models run without walls")
    with joined(loaded, derived.shared) as leads:
        for number, (found, name) in enumerate(walk if leads else (), 1):
            manifest, ran = run_step(found, name, folder, source, progress, kept)
            clock.passed(manifest, ran)
            if not (quiet or json_):
                typer.echo(f"[{number}/{len(walk)}] {name}  {_said(manifest, ran)}{clock.left()}")
    if leads and json_:
        typer.echo((folder / ABLATE / "ablation.json").read_text(encoding="utf-8"), nl=False)
    elif leads and not quiet:
        typer.echo("\n".join(("", *manifest.report.lines, "", f"written to {folder / ABLATE}/")))


def _told(recipe: "Recipe", derived: "Derived", target: float | None) -> "tuple[Recipe, str]":
    """The last step: tables from all cells."""
    from distill.recipe import Stage, StepContext, make_step
    from distill.runs import Report
    from evals.ablation import AblateConfig
    from evals.ablation import ablate as tell

    def run(c: StepContext) -> Report:
        return tell(c.inputs["benches"], c.inputs["students"], c.inputs["data"], c.inputs["harvests"], c.out, c.config)

    cells = derived.cells
    table = {
        "benches": [cell.bench for cell in cells],
        "students": [cell.student for cell in cells],
        "data": [cell.data for cell in cells],
        "harvests": list(derived.harvests),
        "cells": [{"policy": cell.policy, "size": cell.size, "seed": cell.seed} for cell in cells],
        "baseline": cells[0].policy,
        "chains": {name: json.dumps(tables) for name, tables in derived.chains.items()},
        "target": target,
    }
    step = make_step(recipe.path, ABLATE, table, {ABLATE: Stage(ABLATE, AblateConfig, run)})
    return dataclasses.replace(recipe, steps={**recipe.steps, ABLATE: step}), ABLATE


class _Clock:
    """How long the rest takes, from the steps that ran now."""

    def __init__(self, waiting: Counter[str]) -> None:
        self.waiting = waiting
        self.seconds: dict[str, list[float]] = {}
        self.begun = time.monotonic()

    def passed(self, manifest: "Manifest", ran: bool) -> None:
        """One step is behind."""
        self.waiting[manifest.stage] -= 1
        if ran:
            self.seconds.setdefault(manifest.stage, []).append(manifest.seconds)

    def left(self) -> str:
        """`, 12 min left`, once every stage that is still to run was seen once."""
        ahead = {stage: count for stage, count in self.waiting.items() if count and stage != ABLATE}
        if not ahead or not ahead.keys() <= self.seconds.keys():
            return ""
        seconds = sum(count * sum(self.seconds[stage]) / len(self.seconds[stage]) for stage, count in ahead.items())
        return f", about {seconds / 60:.0f} min left"


def _said(manifest: "Manifest", ran: bool) -> str:
    """What a step came to, in a few words."""
    report = manifest.report
    scores = report.marks.get("scores", {})
    counts = report.counts
    if scores:
        (score,) = scores.values()
        what = f"pass@1 {score['value']:.1%} ({score['low']:.1%} to {score['high']:.1%})"
    elif "loss" in counts:
        what = f"loss {counts['loss']:.4f}"
    elif "examples" in counts:
        what = f"{counts['examples']:,} examples"
    else:
        what = ", ".join(f"{value:,} {name}" for name, value in list(counts.items())[:2])
    return f"{what}, {manifest.seconds:.1f} s" + ("" if ran else ", done before")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    from distill.errors import UserError

    parts = _listed(text)
    wrong = [part for part in parts if not part.isdecimal()]
    if wrong:
        raise UserError(f"--sizes {text}: expected numbers separated by commas, got {wrong[0]!r}")
    return sorted(int(part) for part in parts)
