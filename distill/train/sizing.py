"""How `sft` is cut to a time: tokens, from the seconds between the steps of a small run.

The first step is not counted, memory is still being taken in it; loading, checking rows, saving the checkpoint and a
guard's exams before and after are what is left of the small run. Exams on the way (`guard.every`) cost the tokens
between them what one of the small run took. States on the way (`save_every`)
and the held-out rows measured with them are not in it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.jsonl import read_jsonl
from distill.pace import Pace, Sized, Tried
from distill.train.curve import CURVE, SftPoint
from distill.train.guard.watch import SITTING
from distill.train.sft_table import SftConfig

STEPS = 4
"""Of the small run; three are timed."""


def _small(config: SftConfig, steps: int) -> SftConfig:
    own = {"steps": steps, "tokens": None, "log_every": 1, "save_every": 0, "keep_best": None, "final": "last"}
    return config.model_copy(update=own)


def _pace(tried: Sequence[Tried]) -> Pace:
    (run,) = tried
    rows = read_jsonl(run.folder / CURVE, SftPoint)
    first, last = rows[0], rows[-1]
    each = (last.seconds - first.seconds) / (last.tokens - first.tokens)
    setup = run.seconds - each * last.tokens
    guard = run.manifest.config.get("guard")
    if guard is not None and guard["every"]:
        exam = run.manifest.report.marks["guard"][SITTING]
        setup -= exam * sum(row.held_out_accuracy is not None for row in rows)
        each += exam * last.step / (guard["every"] * last.tokens)
    return Pace(setup=setup, each=each, least=last.tokens)


def _cut(config: SftConfig, inputs: Mapping[str, tuple[Path, ...]], tokens: int) -> tuple[SftConfig, int]:
    if config.tokens is not None:
        fitting = min(config.tokens, tokens)
        return config.model_copy(update={"tokens": fitting}), fitting
    assert config.steps is not None, "checked with the config"
    steps = min(config.steps, max(1, tokens // config.tokens_per_batch))  # a step holds a little less
    return config.model_copy(update={"steps": steps}), steps * config.tokens_per_batch


SIZED = Sized("tokens", (STEPS,), _small, _pace, _cut)
