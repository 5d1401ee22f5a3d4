"""The pilot of a harvest: a small one over some of its problems, in a run folder of its own, and what it predicts."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.ranks import processes
from distill.recipe import SHIPPED, Recipe, Step, is_path, run_step, step_folder
from distill.runs import MANIFEST

if TYPE_CHECKING:
    from distill.harvest.budget import BudgetConfig
    from distill.harvest.estimate import HarvestEstimate, Rate
    from distill.progress import Progress
    from distill.records import Problem
    from distill.sandbox import Sandbox


@dataclasses.dataclass(frozen=True, slots=True)
class Assumed:
    """What options say where a harvest's own table does not."""

    prices: str | None
    gpus: int | None
    price: float | None
    """Of one GPU for an hour."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """Where and how pilots run."""

    share: float
    out: Path
    data: Path
    progress: "Progress"
    sandbox: "Sandbox"


def bound(recipe: Recipe, step: Step, out: Path, assumed: Assumed) -> "HarvestEstimate | str":
    """Upper bounds of a harvest nobody has tried; in words what is missing where its problems are not there."""
    from distill.harvest.estimate import at_most

    missing = _missing(recipe, step, out, ("problems",))
    if missing:
        return missing
    config: Any = step.config
    return at_most(step.name, config, _selected(step, out), _rate(step, assumed))


def pilot(recipe: Recipe, step: Step, trial: Trial, assumed: Assumed) -> "HarvestEstimate | str":
    """Run a harvest's pilot, or resume or reuse it, and predict; in words what is missing where an input is not there.

    Problems are made where they are a step of the recipe.
    """
    from distill.harvest.estimate import draw_pilot, from_pilot
    from distill.jsonl import write_jsonl

    problems = step.inputs["problems"][0]
    if not is_path(problems) and recipe.steps[problems].stage.name == "problems":
        run_step(recipe, problems, trial.out, trial.data, trial.progress, trial.sandbox)
    missing = _missing(recipe, step, trial.out, step.inputs)
    if missing:
        return missing
    chosen = _selected(step, trial.out)
    rate = _rate(step, assumed)
    piloted = draw_pilot(chosen, trial.share, recipe.seed)
    name = f"{step.name}.pilot-{len(piloted)}"
    file = step_folder(trial.out, f"{name}.jsonl")
    write_jsonl(file, piloted)
    config: Any = step.config
    budget: BudgetConfig | None = config.budget and config.budget.model_copy(update={"on_spent": "stop"})
    source = str(file) if is_path(str(file)) else f"./{file}"
    small = dataclasses.replace(
        step,
        name=name,
        config=config.model_copy(update={"budget": budget, "on_lost": "stop"}),
        inputs={**step.inputs, "problems": (source,)},
    )
    tried = dataclasses.replace(recipe, steps={**recipe.steps, name: small})
    trial.progress.say(f"[{name}] {len(piloted):,} of {len(chosen):,} problems into {step_folder(trial.out, name)}")
    manifest, _ = run_step(tried, name, trial.out, trial.data, trial.progress, trial.sandbox)
    spent = manifest.report.marks["spent"]
    return from_pilot(
        step.name,
        config,
        len(chosen),
        piloted,
        step_folder(trial.out, name),
        spent["seconds"],
        spent["setup_seconds"],
        rate,
    )


def _selected(step: Step, out: Path) -> "list[Problem]":
    from distill.selection import read_problems, select

    name = step.inputs["problems"][0]
    path = Path(name) if is_path(name) else step_folder(out, name)
    config: Any = step.config
    return select(read_problems(path), config.select, path)


def _missing(recipe: Recipe, step: Step, out: Path, fields: Iterable[str]) -> str:
    """Which inputs are not made yet, and what makes them; empty when all are there."""
    names = [name for field in fields for name in step.inputs[field] if not is_path(name)]
    gone = [name for name in names if not (step_folder(out, name) / MANIFEST).is_file()]
    if not gone:
        return ""
    named = recipe.name if recipe.path.parent == SHIPPED else recipe.path
    return (
        f"[{step.name}] needs {', '.join(gone)}, which {'is' if len(gone) == 1 else 'are'} not made yet: "
        f"distill run --recipe {named} --to {gone[-1]} --out {out}"
    )


def _rate(step: Step, assumed: Assumed) -> "Rate":
    """What a harvest is paid by: its budget's prices, else the options'."""
    from distill.harvest.estimate import Rate
    from distill.harvest.prices import find_prices

    config: Any = step.config
    budget = config.budget
    gpus = budget.gpus if budget is not None and budget.gpus is not None else 0
    if not gpus and assumed.gpus is not None and any(one.sampler == "engine" for one in config.speakers.values()):
        gpus = processes(config)
    priced = budget is not None and budget.priced
    prices = find_prices(budget.prices, budget.price) if priced else find_prices(assumed.prices, None)
    names = _names(step)
    if prices is None or not names:
        return Rate({}, assumed.price if gpus else None, "", gpus, names)
    found = {teacher: prices.of(name) for teacher, name in names.items()}
    hourly = max((price.gpu_hour for price in found.values() if price.gpu_hour is not None), default=None)
    return Rate(found, hourly, prices.currency, gpus, names)


def _names(step: Step) -> dict[str, str]:
    """The names prices know a harvest's samplers by, by teacher; recordings are left out, they cost nothing."""
    config: Any = step.config
    folders = iter(step.inputs.get("model" if config.teachers is None else "models", ()))
    names = {}
    for teacher, one in config.speakers.items():
        if one.sampler == "endpoint":
            names[teacher] = str(one.endpoint.model)
        elif one.model is not None:
            lossy = "" if one.weights == "exact" else f"-{one.weights}-weights"
            names[teacher] = Path(next(folders)).name + lossy
        elif one.sampler == "oracle":
            names[teacher] = "oracle"
    return names
