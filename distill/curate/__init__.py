"""Curate: turn judged traces into training examples that share nothing with the exam."""

from distill.curate.config import CurateConfig
from distill.curate.stage import curate

__all__ = ["CurateConfig", "curate"]
