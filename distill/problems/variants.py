"""Variants: how a problem that was put in another way is named after the one it was made from.

`paraphrase` keeps the numbers and changes the words; `numbers` keeps the words and changes the numbers, and the answer
with them. The stage `vary` makes them; a bench that was asked both pairs them by their ids.
"""

from typing import Literal, get_args

Variant = Literal["paraphrase", "numbers"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
MARK = "~"
"""Between the id of a problem and the variant made from it."""


def variant_id(original: str, variant: Variant) -> str:
    """Id of a variant."""
    return f"{original}{MARK}{variant}"


def original_of(problem_id: str) -> str:
    """Id of the problem a variant was made from; empty for a problem that is none."""
    original, mark, variant = problem_id.rpartition(MARK)
    return original if mark and variant in VARIANTS else ""


def variant_source(source: str, variant: Variant) -> str:
    """Source of the variants of a family's or benchmark's problems: the task their scores stand under."""
    return f"{source}-{variant}"


def base_source(source: str) -> str:
    """Family or benchmark a source's problems come from, variants or not."""
    base, dash, variant = source.rpartition("-")
    return base if dash and variant in VARIANTS else source
