"""`distill plan`: what the steps of a recipe need on given GPUs, before anything is bought or loaded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.run_command import RecipeOption, SetOption, StepOption, load

if TYPE_CHECKING:
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
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many GPUs there are.")],
    gpu_gb: Annotated[float, typer.Option("--gpu-gb", min=0.1, max=1e6, help="Memory of each, in 10^9 bytes.")],
    step: StepOption = None,
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
    set_: SetOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a model instead of text.")] = False,
) -> None:
    """Say what fits on given GPUs and what it costs.

    Of harvest (sampler engine) and bench: bytes a GPU for weights, cache and activations, context lengths with the rows
    that fit, and a bound on tokens per second from memory bandwidth; what does not fit is refused, with the number of
    GPUs that would do. Of stages that train, and of logits: one row a step with tokens, operations, hours at the
    utilization assumed, memory, and cost where a price is given. Reads shapes only: config.json of a model's folder,
    or, where that is not here, the published shape of its name.
    """
    from distill.errors import UserError, did_you_mean
    from distill.plan import Hardware, estimate_engine
    from distill.train.estimate import TFLOPS, UTILIZATION, table

    loaded = load(recipe, set_)
    if step is not None and step not in loaded.steps:
        raise UserError(f"{loaded.path}: no step {step!r}{did_you_mean(step, loaded.steps)}")
    hardware = Hardware(gpus=gpus, gpu_gb=gpu_gb, bandwidth_tbs=bandwidth)
    chosen = [loaded.steps[step]] if step is not None else loaded.steps.values()
    asked = [(found, model) for found in chosen for model in _models(found)]
    trained = [found for found in chosen if found.stage.name in TRAINING or _scores(found)]
    if not asked and not trained:
        where = f"[{step}] stage {loaded.steps[step].stage.name}" if step is not None else str(loaded.path)
        raise UserError(
            f"{where}: nothing to plan; {', '.join(TRAINING)}, logits, harvest with sampler engine and bench of "
            "checkpoints have estimates"
        )
    for found, model in asked:
        estimate = estimate_engine(_use(found, model, prompt_tokens), hardware, _shape(loaded, found, model))
        typer.echo(estimate.to_json() if json_ else "\n".join(estimate.lines))
    peak = {"tflops": tflops or TFLOPS, "utilization": utilization or UTILIZATION}
    rows = [_training(loaded, found, hardware, prompt_tokens=prompt_tokens, price=price, **peak) for found in trained]
    if json_:
        for row in rows:
            typer.echo(row.to_json())
    elif rows:
        typer.echo("\n".join(table(rows, hardware, **peak)))


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


def _scores(step: "Step") -> bool:
    """Whether a step has a teacher score examples in this process."""
    config: Any = step.config
    return step.stage.name == "logits" and config.model is not None


def _models(step: "Step") -> Iterator[str]:
    """Checkpoints a step speaks with through the engine."""
    config: Any = step.config
    if step.stage.name == "harvest" and config.sampler == "engine":
        yield config.model
    elif step.stage.name == "bench":
        yield from config.checkpoints


def _use(step: "Step", model: str, prompt_tokens: int) -> Any:
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
