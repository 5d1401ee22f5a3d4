"""Vary: the same problems put another way, to see what a score owes to their wording and their numbers.

Reads problems of any step, writes each one that has variants together with them, so that one bench asks both and pairs
them by id. Families make their own variants; GSM8K's are made from its rationales (`distill.problems.gsm8k`). A problem
of which no variant can be made is left out and counted: drops are over the others. Variants stay in the split of their
original, those of families by the hash of their own prompt.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.problems.families import FAMILIES, family
from distill.problems.gsm8k import Gsm8k
from distill.problems.variants import VARIANTS, Variant, variant_id, variant_source
from distill.progress import Progress
from distill.recipe import StageConfig
from distill.records import Problem
from distill.runs import Report
from distill.selection import read_problems

TRIES = 400
"""Draws of one variant: a tenth of the hash space is the test split, so fewer than one in 10^18 is missed by chance
where there are many, and where there are few each is met."""
VARY_SEED = 20_250_120
"""Variants of an exam are an exam: the same for every seed of a run."""

Make = Callable[[Problem, random.Random], Problem | None]


class VaryConfig(StageConfig):
    """What is put another way, and how."""

    inputs: ClassVar[tuple[str, ...]] = ("problems",)
    problems: str
    """Step or file with the originals."""
    variants: tuple[Variant, ...] = Field(default=VARIANTS, min_length=1)
    """paraphrase: other words, same numbers; numbers: other numbers, same words."""
    world: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """By family, knobs of the world paraphrases are drawn from; the family's defaults where it is not named."""
    limit: int | None = Field(default=None, ge=1)
    """Originals of each source and level taken, the first of them; None takes all."""

    @model_validator(mode="after")
    def _worlds_exist(self) -> "VaryConfig":
        if len(set(self.variants)) != len(self.variants):
            raise ValueError(f"variants: each once, got {list(self.variants)}")
        for name, knobs in self.world.items():
            try:
                family(name, knobs)
            except UserError as error:
                raise ValueError(f"world: {error}") from error
        return self


def vary(problems: Path, out: Path, config: VaryConfig, *, data: Path, progress: Progress) -> Report:
    """Write `problems.jsonl` with originals and variants. UserError for a source no variant can be made of."""
    originals = _taken(read_problems(problems), config.limit)
    make = _makers(originals, problems, config, data)
    rows: list[Problem] = []
    made: Counter[tuple[str, Variant]] = Counter()
    asked = Counter(problem.source for problem in originals)
    prompts = {problem.prompt for problem in originals}
    with progress.task("vary", len(originals), unit="problems") as task:
        for problem in originals:
            found = [_variant(problem, variant, make[problem.source], prompts) for variant in config.variants]
            variants = [row for row in found if row is not None]
            prompts.update(row.prompt for row in variants)
            made.update((problem.source, v) for v, row in zip(config.variants, found, strict=True) if row is not None)
            rows += [problem, *variants] if variants else []
            task.advance()
    if not rows:
        raise UserError(f"{problems}: of none of its {len(originals):,} problems a variant can be made")
    write_jsonl(out / "problems.jsonl", rows)
    lines = [
        f"{source:<12} {variant:<10} {made[source, variant]:>6,} of {count:,} problems"
        for source, count in sorted(asked.items())
        for variant in config.variants
    ]
    splits = Counter(row.split for row in rows)
    return Report(
        counts={"problems": len(rows), "train": splits["train"], "test": splits["test"], "variants": made.total()},
        lines=tuple(lines),
        marks={"sources": sorted({row.source for row in rows})},
    )


def _variant(problem: Problem, variant: Variant, make: dict[Variant, Make], seen: set[str]) -> Problem | None:
    """One variant whose prompt is new and stands in the split of its original; None where none is found."""
    rng = random.Random(f"{VARY_SEED}/{problem.id}/{variant}")
    for _ in range(TRIES if problem.source in FAMILIES else 1):
        made = make[variant](problem, rng)
        if made is not None and made.prompt not in seen and made.split == problem.split:
            named = {"id": variant_id(problem.id, variant), "source": variant_source(problem.source, variant)}
            return made.model_copy(update=named)
    return None


def _makers(originals: Sequence[Problem], path: Path, config: VaryConfig, data: Path) -> dict[str, dict[Variant, Make]]:
    found: dict[str, dict[Variant, Make]] = {}
    for source in sorted({problem.source for problem in originals}):
        if source in FAMILIES:
            kind = family(source, config.world.get(source))
            found[source] = {"paraphrase": kind.paraphrase, "numbers": kind.numbers}
        elif source == "gsm8k":
            rows = Gsm8k.of(data, {problem.split for problem in originals if problem.source == source})
            found[source] = {"paraphrase": rows.paraphrase, "numbers": rows.numbers}
        else:
            known = ", ".join((*FAMILIES, "gsm8k"))
            raise UserError(f"{path}: source {source!r} has no variants; there are those of {known}")
    return found


def _taken(problems: Sequence[Problem], limit: int | None) -> list[Problem]:
    place: Counter[tuple[str, int | None]] = Counter()
    kept = []
    for problem in problems:
        place[problem.source, problem.level] += 1
        if limit is None or place[problem.source, problem.level] <= limit:
            kept.append(problem)
    return kept
