"""Curate: turn judged traces into training examples that share nothing with the exam."""

from distill.curate.stage import CurateConfig, curate

__all__ = ["CurateConfig", "curate"]
