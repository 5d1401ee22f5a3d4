"""Curate: turn judged traces into training examples that share nothing with the exam."""

from distill.curate.config import CurateConfig
from distill.curate.stage import Inputs, curate

__all__ = ["CurateConfig", "Inputs", "curate"]
