"""What a recipe may say, and which of its steps a command means."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cli.stages import REGISTRY
from distill.errors import UserError, did_you_mean
from distill.recipe import Recipe, is_path


def describe_stage(name: str) -> str:
    """Every key of a stage's table: type, default, meaning."""
    if name not in REGISTRY:
        raise UserError(f"stage {name}: unknown{did_you_mean(name, REGISTRY)}; there are {', '.join(REGISTRY)}")
    config = REGISTRY[name].config
    lines = [f"[{name}]  {(config.__doc__ or '').strip().splitlines()[0]}"]
    for key, field in config.model_fields.items():
        lines.extend(_key(key, field, config.inputs))
    return "\n".join(lines)


def choose_step(recipe: Recipe, stage: str, step: str | None) -> str:
    """The step a stage command means: `--step`, else the one step of that stage or name."""
    names = [name for name, found in recipe.steps.items() if found.stage.name == stage]
    if step is not None:
        if step not in recipe.steps:
            raise UserError(f"{recipe.path}: no step {step!r}{did_you_mean(step, recipe.steps)}")
        if step not in names:
            raise UserError(f"{recipe.path}: [{step}] is stage {recipe.steps[step].stage.name}, not {stage}")
        return step
    if stage in names or len(names) == 1:
        return stage if stage in names else names[0]
    if not names:
        raise UserError(f"{recipe.path}: no step of stage {stage}")
    raise UserError(f"{recipe.path}: several steps of stage {stage}; choose with --step: {', '.join(names)}")


def replace_main_input(recipe: Recipe, name: str, source: str) -> Recipe:
    """The recipe with one step's main input read from `source` instead."""
    step = recipe.steps[name]
    if not step.config.inputs:
        raise UserError(f"[{name}]: stage {step.stage.name} reads no input, --from has nothing to replace")
    main = step.config.inputs[0]
    path = source if is_path(source) else f"./{source}"
    changed = dataclasses.replace(step, inputs={**step.inputs, main: (path,)})
    return dataclasses.replace(recipe, steps={**recipe.steps, name: changed})


def _key(key: str, field: FieldInfo, inputs: Sequence[str], indent: str = "  ") -> Iterator[str]:
    mark = " (a step, or a path with a slash)" if key in inputs else ""
    default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
    kind = getattr(field.annotation, "__name__", str(field.annotation)).replace("typing.", "")
    yield f"{indent}{key}: {kind}, {default}{mark}"
    if field.description:
        yield from (f"{indent}    {line.strip()}" for line in field.description.splitlines())
    outer = f"{key}.NAME" if _by_name(field.annotation) else key
    for model in _models(field.annotation):
        kind = model.model_fields["policy"].annotation if "policy" in model.model_fields else None
        if kind is not None:
            yield f'{indent}  "{get_args(kind)[0]}": {(model.__doc__ or "").strip().splitlines()[0]}'
        for inner, nested in model.model_fields.items():
            if nested.annotation is not kind:
                yield from _key(inner if kind is not None else f"{outer}.{inner}", nested, inputs, indent + "    ")


def _by_name(annotation: Any) -> bool:
    """Whether a value is a table of tables under names of their own."""
    return any(get_origin(part) is dict for part in (annotation, *get_args(annotation)))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Tables a value may be, or is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
