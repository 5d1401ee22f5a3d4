"""Divergence: how much a trace shows of what the teacher is sure of and the student is not.

After divergence-aware sampling of DASD (Yan et al. 2026, arXiv 2601.09088): compare, sentence by
sentence, how likely teacher and student find the same text, and prefer responses rich in sentences
the teacher finds likely and the student, before it is trained, does not. With n_i tokens of step i,
and p the geometric mean of a model's token probabilities in it (`Measure.steps` holds its logarithm),

    divergence = sum_i n_i (p_teacher,i - p_student,i) / sum_i n_i       in [-1, 1]

What is ours: DASD sorts sentences into classes and prefers by class; here the gap itself is summed,
weighted by tokens, so there is no threshold to tune and a step the student finds likelier counts
against the trace. Steps are lines as well as sentences, because programs have no sentences. The
report was read in its abstract and its repository's description, not equation by equation.
Needs no logits and no common tokenizer, but a model that can be scored on both sides.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distill.curate.measure import Measure
from distill.errors import UserError


@dataclass(frozen=True, slots=True)
class _Steps:
    """What is kept of a student's measure until the teacher's comes: 8 bytes a step."""

    logprobs: "array[float]"
    tokens: "array[int]"


def divergences(student: Iterable[Measure], teacher: Iterable[Measure]) -> dict[str, float]:
    """The divergence of every trace that both have measured, by trace id; either may be a stream.

    Raises UserError when the two did not measure the same text, or are one and the same model.
    """
    kept: dict[str, _Steps] = {}
    name = ""
    for measure in student:
        name = measure.model.to_json()
        if measure.absent is None:
            kept[measure.trace_id] = _Steps(array("f", measure.steps), array("I", measure.step_tokens))
    found: dict[str, float] = {}
    for measure in teacher:
        if measure.model.to_json() == name:
            raise UserError(f"divergence: {measure.model.name} is teacher and student; expected measures of two models")
        steps = kept.pop(measure.trace_id, None)
        if steps is not None and measure.absent is None:
            found[measure.trace_id] = _divergence(measure, steps)
    return found


def _divergence(teacher: Measure, student: _Steps) -> float:
    if len(teacher.steps) != len(student.logprobs):
        raise UserError(
            f"divergence: trace {teacher.trace_id} has {len(teacher.steps)} steps under {teacher.model.name} and "
            f"{len(student.logprobs)} under the student; measure both with the same thought and instruction"
        )
    gaps = (
        count * (math.exp(sure) - math.exp(unsure))
        for sure, unsure, ours, count in zip(
            teacher.steps, student.logprobs, teacher.step_tokens, student.tokens, strict=True
        )
        if ours and count
    )
    return round(math.fsum(gaps) / max(sum(student.tokens), 1), 6)


def most_divergent(divergence: Mapping[str, float], keep: int, groups: Mapping[str, str] | None = None) -> list[str]:
    """The `keep` trace ids of highest divergence, best first; with `groups`, that many of each group.

    `groups` names each trace's problem, say: then no problem crowds out another. Equal traces go by id, so the
    order of the mappings does not matter.
    """
    ranked = sorted(divergence, key=lambda trace_id: (-divergence[trace_id], trace_id))
    if groups is None:
        return ranked[:keep]
    taken: Counter[str] = Counter()
    chosen = []
    for trace_id in ranked:
        group = groups[trace_id]
        if taken[group] < keep:
            taken[group] += 1
            chosen.append(trace_id)
    return chosen
