"""What a table says of the model it speaks with through the engine: `harvest` and `bench` alike."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distill.backends import BackendsConfig
from distill.sampling.protocols import CACHE_GB

ENGINE_KEYS = (
    "dtype",
    "tensor_parallel",
    "expert_parallel",
    "attention_backend",
    "experts_backend",
    "cache_gb",
    "weights",
)
"""Keys that mean nothing to other samplers."""


class EngineConfig(BackendsConfig):
    """How a checkpoint is opened and what its cache may take."""

    dtype: Literal["float32", "bfloat16", "float16", "fp8"] = "float32"
    """What the engine computes in; fp8 keeps a teacher's FP8 matrices as stored and computes in bfloat16."""
    tensor_parallel: int = Field(default=1, gt=0)
    """Processes that share a teacher's heads; start as many as the larger of this and the next with torchrun."""
    expert_parallel: int = Field(default=1, gt=0)
    """Processes that share a teacher's experts."""
    cache_gb: float = Field(default=CACHE_GB, gt=0.0)
    """Memory for the engine's cache, in 10^9 bytes."""
    weights: Literal["exact", "int8"] = "exact"
    """int8: the engine decodes with rounded weights, lossy; name and revision of its samples, and scores, say so."""

    @model_validator(mode="after")
    def _weights_fit_the_engine(self) -> Self:
        if self.weights == "int8" and (self.dtype == "fp8" or max(self.tensor_parallel, self.expert_parallel) > 1):
            raise ValueError("weights: int8 goes with one process and a dtype other than fp8")
        if self.weights == "int8" and self.experts_backend not in (None, "grouped_mm"):
            raise ValueError("experts_backend: int8 experts have one way only; leave it out")
        if self.dtype == "fp8" and self.experts_backend is not None:
            raise ValueError("experts_backend: experts kept in fp8 have one way only; leave it out")
        return self
