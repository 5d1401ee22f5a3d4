"""`distill plan`: what the steps of a recipe need and take, before anything is bought, loaded or asked for."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.run_command import DataOption, OutOption, QuietOption, RecipeOption, SetOption, StepOption, data_folder, load
from cli.sandbox_options import AcceptOption, SandboxOption, chosen

if TYPE_CHECKING:
    from cli.pilot import Assumed, Trial
    from distill.plan import Hardware
    from distill.recipe import Recipe, Step

TRAINING = ("sft", "kd", "on-policy", "rl")
"""Stages that train a model."""
BANDWIDTH = 4.3
"""TB/s an H200's memory gives to a copy; its data sheet says 4.8."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("plan")(plan)


def plan(
    recipe: RecipeOption,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="How many GPUs there are.")] = None,
    gpu_gb: Annotated[
        float | None, typer.Option("--gpu-gb", min=0.1, max=1e6, help="Memory of each, in 10^9 bytes.")
    ] = None,
    step: StepOption = None,
    pilot: Annotated[
        float | None,
        typer.Option("--pilot", min=1e-6, max=1.0, help="Harvest this share of the problems to predict the rest."),
    ] = None,
    prices: Annotated[
        str | None, typer.Option("--prices", help="Price table of harvests whose budget names none.")
    ] = None,
    bandwidth: Annotated[float, typer.Option("--bandwidth", min=0.001, max=1e6, help="TB/s each reads.")] = BANDWIDTH,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Longest prompt to assume.")] = 1024,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", min=0.001, help="10^12 operations/s of each at peak; default 989, bf16 of an H100."),
    ] = None,
    utilization: Annotated[
        float | None,
        typer.Option("--utilization", min=0.001, max=1.0, help="Share of it training reaches; default 0.33, V3's."),
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0.0, help="Of one GPU for an hour.")] = None,
    out: OutOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a model instead of text.")] = False,
    sandbox: SandboxOption = "",
    accept: AcceptOption = False,
) -> None:
    """Say what each step needs, takes and costs.

    Of every harvest: samples, tokens, hours and cost, with 95% intervals from a pilot, which asks some of its problems
    into a run folder of its own and is resumed or reused; without --pilot, upper bounds. With --gpus and --gpu-gb also:
    of harvest (sampler engine) and bench, bytes a GPU for weights, cache and activations, context lengths with the rows
    that fit, and a bound on tokens per second from memory bandwidth; what does not fit is refused, with the number of
    GPUs that would do. Of stages that train, and of logits: one row a step with tokens, operations, hours at the
    utilization assumed, memory, and cost where a price is given. Reads shapes only: config.json of a model's folder,
    or, where that is not here, the published shape of its name.
    """
    from cli.pilot import Assumed, Trial
    from cli.ranks import joined
    from distill.errors import UserError, did_you_mean
    from distill.progress import Progress

    kept = chosen(sandbox, accepted=accept)
    if (gpus is None) != (gpu_gb is None):
        raise UserError("--gpus and --gpu-gb: give both or neither")
    loaded = load(recipe, set_)
    if step is not None and step not in loaded.steps:
        raise UserError(f"{loaded.path}: no step {step!r}{did_you_mean(step, loaded.steps)}")
    steps = [loaded.steps[step]] if step is not None else list(loaded.steps.values())
    hardware = _hardware(gpus, gpu_gb, bandwidth)
    needy = [found.name for found in steps if _trains(found) or any(_models(found))]
    harvests = [found for found in steps if found.stage.name == "harvest"]
    if not needy and not harvests:
        where = f"[{step}] stage {loaded.steps[step].stage.name}" if step is not None else str(loaded.path)
        raise UserError(
            f"{where}: nothing to plan; harvest, bench of checkpoints, {', '.join(TRAINING)} and logits have estimates"
        )
    if hardware is None and not harvests:
        raise UserError(f"--gpus and --gpu-gb: missing, {', '.join(needy)} cannot be planned without")
    folder = out if out is not None else Path("runs") / loaded.name
    with joined(loaded, [found.name for found in harvests] if pilot else []) as leads:
        if not leads:
            return
        if hardware is not None:
            _print_engines(loaded, steps, hardware, prompt_tokens, json_)
            peak = {"tflops": tflops, "utilization": utilization}
            _print_trainings(loaded, steps, hardware, json_, prompt_tokens=prompt_tokens, price=price, **peak)
        progress = Progress("quiet" if quiet or json_ else "auto")
        trial = Trial(pilot, folder, data_folder(data), progress, kept) if pilot else None
        _print_harvests(loaded, harvests, folder, Assumed(prices, gpus, price), trial, step is not None, json_)
        if hardware is None and needy and not json_:
            typer.echo(f"not planned without --gpus and --gpu-gb: {', '.join(needy)}")


def _hardware(gpus: int | None, gpu_gb: float | None, bandwidth: float) -> "Hardware | None":
    from distill.plan import Hardware

    return None if gpus is None or gpu_gb is None else Hardware(gpus=gpus, gpu_gb=gpu_gb, bandwidth_tbs=bandwidth)


def _print_engines(
    recipe: "Recipe", steps: "list[Step]", hardware: "Hardware", prompt_tokens: int, json_: bool
) -> None:
    """A block for every model a step speaks with."""
    from distill.plan import estimate_engine

    for step in steps:
        for model, config in _models(step):
            speaking = dataclasses.replace(step, config=config)
            estimate = estimate_engine(_use(speaking, prompt_tokens), hardware, _shape(recipe, speaking, model))
            typer.echo(estimate.to_json() if json_ else "\n".join(estimate.lines))


def _print_trainings(recipe: "Recipe", steps: "list[Step]", hardware: "Hardware", json_: bool, **assumed: Any) -> None:
    """A row for every step that trains."""
    from distill.train.estimate import TFLOPS, UTILIZATION, table

    peak = {"tflops": assumed["tflops"] or TFLOPS, "utilization": assumed["utilization"] or UTILIZATION}
    trained = [found for found in steps if _trains(found)]
    rows = [_training(recipe, found, hardware, **{**assumed, **peak}) for found in trained]
    if json_:
        for row in rows:
            typer.echo(row.to_json())
    elif rows:
        typer.echo("\n".join(table(rows, hardware, **peak)))


def _print_harvests(
    recipe: "Recipe",
    harvests: "list[Step]",
    out: Path,
    assumed: "Assumed",
    trial: "Trial | None",
    one: bool,
    json_: bool,
) -> None:
    """A row for every harvest; of several, those that cannot be tried yet are told apart."""
    from cli.pilot import bound, pilot
    from distill.errors import UserError
    from distill.harvest.estimate import table

    rows, untold = [], []
    for step in harvests:
        row = bound(recipe, step, out, assumed) if trial is None else pilot(recipe, step, trial, assumed)
        if not isinstance(row, str):
            rows.append(row)
        elif one and trial is not None:
            raise UserError(row)
        else:
            untold.append(row)
    if json_:
        for row in rows:
            typer.echo(row.to_json())
        return
    if rows:
        typer.echo("\n".join(table(rows)))
    for missing in untold:
        typer.echo(f"no row yet: {missing}")


def _training(recipe: "Recipe", step: "Step", hardware: Any, **assumed: Any) -> Any:
    """The row of a step that trains, or scores."""
    from cli.shapes import shape_on, train_shape
    from distill.train.estimate import estimate_scoring, estimate_training, rollout_of

    config: Any = step.config
    shape = train_shape(recipe, config.model)
    if step.stage.name == "logits":
        rates = {key: assumed[key] for key in ("tflops", "utilization", "price")}
        return estimate_scoring(step.name, config, shape, hardware, **rates)
    corrects = getattr(config, "teacher", None)
    teacher = train_shape(recipe, corrects) if corrects is not None else None
    rollout = None
    if (
        step.stage.name in ("rl", "on-policy") and getattr(config, "rollouts", None) is None
    ):  # what servers cost is theirs
        rollout = rollout_of(config, shape, shape_on(recipe, step, config.model)(1), hardware, assumed["prompt_tokens"])
    return estimate_training(
        step.name, step.stage.name, config, shape, hardware, rollout=rollout, teacher=teacher, **assumed
    )


def _trains(step: "Step") -> bool:
    """Whether a step trains a model, or has a teacher score examples in this process."""
    config: Any = step.config
    return step.stage.name in TRAINING or (step.stage.name == "logits" and config.model is not None)


def _models(step: "Step") -> Iterator[tuple[str, Any]]:
    """Checkpoints a step speaks with through the engine, each with the table that says how."""
    config: Any = step.config
    if step.stage.name == "harvest":
        yield from ((one.model, one) for one in config.speakers.values() if one.sampler == "engine")
    elif step.stage.name == "bench":
        yield from ((model, config) for model in config.checkpoints)


def _use(step: "Step", prompt_tokens: int) -> Any:
    from cli.samplers import MAX_SLOTS
    from distill.plan import Use
    from distill.sampling.engine.prefill import PREFILL_TOKENS

    config: Any = step.config
    return Use(
        step=step.name,
        max_tokens=config.max_tokens,
        prompt_tokens=prompt_tokens,
        most_rows=MAX_SLOTS,
        prefill_tokens=PREFILL_TOKENS,
        cache_gb=config.cache_gb,
    )


def _shape(recipe: "Recipe", step: "Step", model: str) -> Any:
    from cli.shapes import shape_on

    return shape_on(recipe, step, model)
