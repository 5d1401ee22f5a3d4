"""Harvest: problems x sampler -> traces with verdicts."""

from distill.harvest.config import HarvestConfig
from distill.harvest.draw import (
    TRACES,
    VERDICTS,
    Judge,
    Judged,
    judged,
    problem_seed,
    report_cut,
    sample_and_judge,
)
from distill.harvest.stage import goes_on, harvest

__all__ = [
    "TRACES",
    "VERDICTS",
    "HarvestConfig",
    "Judge",
    "Judged",
    "goes_on",
    "harvest",
    "judged",
    "problem_seed",
    "report_cut",
    "sample_and_judge",
]
