"""Minutes: a step's budget from a time, by small runs of it on this machine.

A step named in the recipe's table `[minutes]` gets its share of `--minutes`. Small runs of it, through the very stage
and into run folders of their own, tell its pace; what is left of the share after them becomes a budget in steps, tokens
or problems, never more than the recipe's. The choice is written beside the run folder and holds for as long as the step
as written, its inputs and the minutes are the same, so that a resumed run is the run that was begun: a budget that
followed the clock would make another run of it. Small runs are not resumed, a killed one is begun again: half its time
tells nothing. Steps without a share take what they take; a machine that slows down afterwards is not noticed.
"""

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.errors import UserError
from distill.pace import MINUTES, Pace, Sized, Tried
from distill.progress import Progress
from distill.recipe import Recipe, Step, is_path, run_step, step_fingerprint, step_folder
from distill.records import Record
from distill.runs import MANIFEST, check_free, device, read_manifest, write_durably
from distill.sandbox import Sandbox

USED = 0.95
"""Of a share; the rest is for what no small run shows: states saved on the way, a last answer that is long."""


class Choice(Record):
    """What a step was given, and why."""

    minutes: float
    share: float
    made_from: str
    """Fingerprint of the step as the recipe has it."""
    device: str
    pilots: Mapping[str, float]
    """Seconds of each small run, by its name."""
    setup_seconds: float
    seconds_each: float
    """Of one more unit."""
    unit: str
    units: int
    """That fit, and as many as the largest small run had at least."""
    overdrawn: bool
    """Whether that is more than the share."""
    chosen: Mapping[str, Any]
    """Keys of the table that are others than in the recipe, with their values."""
    seconds: float
    """Expected, small runs not counted; less than there was where the recipe asks for no more."""

    @property
    def line(self) -> str:
        """The choice as a person reads it."""
        spent = sum(self.pilots.values())
        keys = ", ".join(f"{key} = {value}" for key, value in self.chosen.items()) or "all the recipe asks for"
        runs = "1 small run" if len(self.pilots) == 1 else f"{len(self.pilots)} small runs"
        fit = "do not fit" if self.overdrawn else "fit"
        return (
            f"{self.share:.0%} of {self.minutes:g} minutes, {spent:.0f} s of them for {runs}: "
            f"{self.units:,} {self.unit} {fit}; {keys}, about {self.seconds / 60:.1f} min"
        )


def check_sizable(recipe: Recipe, names: list[str]) -> None:
    """UserError where no step of those named has a share of the minutes."""
    if not any(name in recipe.minutes for name in names):
        where = f"[{names[0]}] has no share" if recipe.minutes and len(names) == 1 else "there is no table"
        raise UserError(
            f"{recipe.path}: [{MINUTES}]: {where}, so --minutes has nothing to size; expected shares of sft, kd or "
            "bench steps, such as sft = 0.6"
        )


def sized_step(
    recipe: Recipe, name: str, minutes: float, out: Path, data: Path, progress: Progress, sandbox: Sandbox
) -> tuple[Recipe, Choice | None]:
    """The recipe with a budget for one step whose inputs are complete; None where the step has no share, or is done.

    Small runs are made unless a choice from the same stands in `out`. Raises UserError when the share is too short.
    """
    share, step = recipe.minutes.get(name), recipe.steps[name]
    sized = step.stage.sized
    if share is None or sized is None:
        return recipe, None
    made_from, _ = step_fingerprint(recipe, step, out, data)
    folder = step_folder(out, name)
    if (folder / MANIFEST).is_file() and read_manifest(folder).fingerprint == made_from:  # all that was asked for
        return recipe, None
    file = step_folder(out, f"{name}.minutes.json")
    inputs = {
        key: tuple(Path(ref) if is_path(ref) else step_folder(out, ref) for ref in refs)
        for key, refs in step.inputs.items()
    }
    choice = _standing(file)
    if choice is None or (choice.minutes, choice.share, choice.made_from) != (minutes, share, made_from):
        tried = [_try(recipe, step, sized, size, out, data, progress, sandbox) for size in sized.sizes]
        pace = sized.pace(tried)
        for one in tried:
            shutil.rmtree(one.folder)
        paid_for = any(ref in recipe.minutes for refs in step.inputs.values() for ref in refs)
        choice = _choose(step, sized, pace, tried, inputs, minutes, share, made_from, may_refuse=not paid_for)
        write_durably(file, choice.model_dump_json(indent=2) + "\n")
    config, _ = sized.cut(step.config, inputs, choice.units)
    return _with(recipe, dataclasses.replace(step, config=config)), choice


def _try(
    recipe: Recipe,
    step: Step,
    sized: Sized,
    size: int,
    out: Path,
    data: Path,
    progress: Progress,
    sandbox: Sandbox,
) -> Tried:
    """One small run, from its beginning."""
    name = f"{step.name}.minutes-{size}"
    folder = step_folder(out, name)
    check_free(folder)
    for old in (folder, folder.with_name(folder.name + ".partial")):
        if old.exists():
            shutil.rmtree(old)
    small = dataclasses.replace(step, name=name, config=sized.small(step.config, size))
    manifest, _ = run_step(_with(recipe, small), name, out, data, progress, sandbox)
    return Tried(folder, manifest)


def _choose(
    step: Step,
    sized: Sized,
    pace: Pace,
    tried: list[Tried],
    inputs: Mapping[str, tuple[Path, ...]],
    minutes: float,
    share: float,
    made_from: str,
    *,
    may_refuse: bool,
) -> Choice:
    """What fits into the share. One too short is refused, or overdrawn where a sized step was paid for already."""
    spent = sum(one.seconds for one in tried)
    fitting = pace.units(minutes * share * 60 * USED - spent)
    units = max(pace.least, fitting)
    if fitting < units and may_refuse:
        enough = (spent + pace.seconds(pace.least)) / (share * 60 * USED)
        raise UserError(
            f"--minutes {minutes:g}: [{step.name}] gets {share:.0%} of them, and small runs of it alone took "
            f"{spent:.0f} s; expected at least {math.ceil(enough)}"
        )
    config, used = sized.cut(step.config, inputs, units)
    before, after = (dict(_keys(table.model_dump(mode="json"))) for table in (step.config, config))
    chosen = {key: value for key, value in after.items() if value != before.get(key)}
    return Choice(
        minutes=minutes,
        share=share,
        made_from=made_from,
        device=device(),
        pilots={one.folder.name: one.seconds for one in tried},
        setup_seconds=pace.setup,
        seconds_each=pace.each,
        unit=sized.unit,
        units=units,
        overdrawn=fitting < units,
        chosen=chosen,
        seconds=round(pace.seconds(used), 3),
    )


def _keys(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of a table and of the tables in it, dotted as `--set` has them."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{above}{key}.")
        else:
            yield above + key, value


def _standing(file: Path) -> Choice | None:
    """The choice that was written; None where there is none. Raises UserError."""
    if not file.is_file():
        return None
    try:
        return Choice.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise UserError(f"{file}: not a choice this version can read; move it away to choose again") from error


def _with(recipe: Recipe, step: Step) -> Recipe:
    return dataclasses.replace(recipe, steps={**recipe.steps, step.name: step})
