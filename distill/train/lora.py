"""The table `[STEP.lora]`: train two thin matrices beside each linear layer instead of the layer.

LoRA after Hu et al. 2021 (arXiv 2106.09685): W x + (alpha / rank) B A x, A random, B zero at the start. Over a base of
8 or 4 bits it is QLoRA (Dettmers et al. 2023, arXiv 2305.14314). Plain values only, so that a recipe is read without
torch; `distill.train.adapters` does what they say.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LoraConfig(BaseModel):
    """Adapters instead of weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    rank: int = Field(default=16, gt=0)
    """Inner width of an adapter: it has rank x (inputs + outputs) numbers."""
    alpha: float = Field(default=32.0, gt=0)
    """What an adapter adds is multiplied by alpha / rank."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, so that high ranks learn as fast as low ones (arXiv 2312.03732)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs set to zero while training."""
    targets: tuple[str, ...] = ()
    """Names of linear layers that get an adapter, such as ["q_proj", "v_proj"]; none takes all of attention and MLP."""
    base: Literal["full", "int8", "nf4"] = "full"
    """What the frozen layers are held in while training: as they are, or in 8 or 4 bits through bitsandbytes."""
    merge_into: Literal["original", "base"] = "original"
    """Weights the adapters are added to at the end: those of the checkpoint, or those of the 8- or 4-bit base."""

    @model_validator(mode="after")
    def _no_idle_key(self) -> Self:
        if self.base == "full" and self.merge_into != "original":
            raise ValueError("merge_into = 'base' is for base = 'int8' or 'nf4': the full base is the original")
        return self
