"""Which shape the model of a step has: from a folder's config.json, a published name, or the step that makes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.samplers import tokenizer_named
from distill.checkpoints import CONFIG, read_config
from distill.errors import UserError
from distill.plan import EngineShape
from distill.recipe import Recipe, Step, is_path
from distill.train.estimate import TrainShape

ShapeOn = Callable[[int], EngineShape]


def train_shape(recipe: Recipe, model: str) -> TrainShape:
    """What a step trains, by its `model` field. UserError where that is not known."""
    from students.shapes import train_shape as student_shape
    from teacher.config import TeacherConfig
    from teacher.parallel.shapes import train_shape as teacher_shape

    config, name = _config(recipe, model)
    return (teacher_shape if isinstance(config, TeacherConfig) else student_shape)(config, name)


def shape_on(recipe: Recipe, step: Step, model: str) -> ShapeOn:
    """The shape a step's model has on a number of GPUs. UserError where the model, or its split, is not known.

    A step that asks for tensor or expert parallelism is split over all GPUs; any other uses one.
    """
    from students.shapes import engine_shape as student_shape
    from teacher.config import TeacherConfig
    from teacher.parallel.layout import Layout
    from teacher.parallel.shapes import engine_shape as teacher_shape

    config, name = _config(recipe, model)
    trains = step.stage.name == "on-policy"  # whose dtype is its teacher's
    dtype = "float32" if trains else getattr(step.config, "dtype", "float32")
    tensor, expert = (getattr(step.config, key, 1) > 1 for key in ("tensor_parallel", "expert_parallel"))

    def on(gpus: int) -> EngineShape:
        if isinstance(config, TeacherConfig):
            return teacher_shape(config, Layout(gpus if tensor else 1, gpus if expert else 1), dtype, name)
        if tensor or expert or dtype == "fp8":
            raise UserError(f"[{step.name}] {name}: tensor_parallel, expert_parallel and dtype fp8 are for teachers")
        return student_shape(config, dtype, name)

    return on


def _config(recipe: Recipe, model: str) -> tuple[Any, str]:
    """Config and name of what a step's `model` field names."""
    from students.init import padded_vocab
    from students.specs import find_spec, model_config
    from teacher.config import preset

    if is_path(model):
        return _folder_config(Path(model))
    config: Any = recipe.steps[model].config
    stage = recipe.steps[model].stage.name
    if stage == "teacher-init":
        vocabulary = max(tokenizer_named(config.tokenizer).get_vocab().values()) + 1
        return preset(config.preset, **{"vocab_size": vocabulary, **config.overrides}), f"{model} ({config.preset})"
    if stage == "student-init":
        rows = padded_vocab(tokenizer_named(config.tokenizer))
        shape = model_config(find_spec(config.spec, config.overrides), rows, end_id=0, pad_id=None)
        return shape, f"{model} ({config.spec})"
    if stage in ("sft", "kd", "on-policy", "rl"):
        return _config(recipe, config.model)[0], model
    if stage == "quantize":
        return _config(recipe, config.model)[0], f"{model} (counted as before quantization)"
    raise UserError(f"[{model}] stage {stage}: plan does not know the shape of what it makes; name its folder instead")


def _folder_config(folder: Path) -> tuple[Any, str]:
    from students.shapes import PUBLISHED, student_config
    from teacher.loader import is_teacher, read_teacher_config
    from teacher.parallel.shapes import PUBLISHED as TEACHERS

    if (folder / CONFIG).is_file():
        read = read_teacher_config if is_teacher(read_config(folder)) else student_config
        return read(folder), folder.name
    if folder.name in TEACHERS:
        from teacher.config import preset

        return preset(TEACHERS[folder.name]), f"{folder.name} (preset {TEACHERS[folder.name]})"
    if folder.name in PUBLISHED:
        return student_config(folder), f"{folder.name} (spec {PUBLISHED[folder.name][0]})"
    known = ", ".join((*TEACHERS, *PUBLISHED))
    raise UserError(
        f"{folder}: no {CONFIG} in it, and its name is none of {known}; the {CONFIG} alone is enough for a plan"
    )
