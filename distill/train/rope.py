"""The table `[STEP.rope]`: other rotary positions, so that a model reads further than it was trained for.

A larger base turns every pair more slowly (Xiong et al. 2023, arXiv 2309.16039, section 2); `linear` divides positions
by a factor (Chen et al. 2023, arXiv 2306.15595); `yarn` divides only the slow pairs' and warms attention up (Peng et
al. 2023, arXiv 2309.00071). The model has to be trained on long rows afterwards: the table changes angles, not
weights. What it says is written into the checkpoint's config.json as `rope_parameters`, where transformers 5 and vLLM
look for it. Not covered: models whose layers have different rotary positions, and the teacher, whose YaRN is part of
its own config.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.errors import UserError


class RopeConfig(BaseModel):
    """Rotary positions of the model from now on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    positions: int = Field(gt=0)
    """Longest sequence from now on, in tokens (max_position_embeddings)."""
    theta: float | None = Field(default=None, gt=0)
    """Base of the angles; none keeps the model's."""
    scaling: Literal["linear", "yarn"] | None = None
    """How positions are stretched; none keeps the model's way."""
    factor: float | None = Field(default=None, gt=1)
    """By how much; none takes `positions` over the length the model was trained for."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.factor is not None and self.scaling is None:
            raise ValueError("factor needs scaling = 'linear' or 'yarn'")
        if self.theta is None and self.scaling is None:
            raise ValueError("give theta, scaling, or both")
        return self


def change_rope(model: Any, table: RopeConfig, folder: Path) -> str:
    """Give a transformers model the angles of `table`, in its modules and in its config. Returns a line that says so.

    Raises UserError where the model does not have one set of angles that transformers knows how to make.
    """
    config = model.config
    old = dict(getattr(config, "rope_parameters", None) or {})
    places = [name for name, module in model.named_modules() if hasattr(module, "inv_freq")]
    if "rope_theta" not in old or not places:
        raise UserError(
            f"{folder}: rope: model_type {config.model_type} does not have one set of angles for all layers "
            "that this table could change"
        )
    trained_for = old.get("original_max_position_embeddings", config.max_position_embeddings)
    new = dict(old)
    if table.scaling is not None:
        factor = table.factor or table.positions / trained_for
        if factor <= 1:
            raise UserError(
                f"{folder}: rope.positions: {table.positions}, but the model was trained for {trained_for} and "
                "needs no scaling; give more positions"
            )
        partial = {key: old[key] for key in ("partial_rotary_factor",) if key in old}
        new = {"rope_type": table.scaling, "rope_theta": old["rope_theta"], "factor": factor, **partial}
        if table.scaling == "yarn":
            new["original_max_position_embeddings"] = trained_for
    if table.theta is not None:
        new["rope_theta"] = table.theta
    config.rope_parameters, config.max_position_embeddings = new, table.positions
    for name in places:
        module = model.get_submodule(name)
        model.set_submodule(name, type(module)(config=config).to(module.inv_freq.device))
    return f"rope: {_words(old)} -> {_words(new)}, {table.positions:,} positions"


def _words(parameters: dict[str, Any]) -> str:
    kind = parameters.get("rope_type", "default")
    factor = f" {kind} x{parameters['factor']:g}" if kind != "default" and "factor" in parameters else ""
    return f"theta {parameters['rope_theta']:g}{factor}"
