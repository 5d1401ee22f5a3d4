"""Ablate: the steps that train one student on each policy's data, at each size, for each seed.

Derives recipe tables from the recipe's own: the student's `data` step with other policies and
a `sample` of the size, the student's `sft` step on it, the recipe's `bench` of that student.
What a cell does not change (problems, harvest, a given checkpoint) stays one shared step. A
seed is the recipe's seed plus 0, 1, ...: it draws the subset, makes the student's first
weights and orders its batches; the harvest is the same for all. Steps of optimization are
the recipe's, so the same for every cell. Runs nothing and scores nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.curate.config import CurateConfig
from distill.errors import UserError, did_you_mean
from distill.recipe import Recipe, Stage, Step, ancestors, is_path, make_step

INIT = "student-init"


@dataclass(frozen=True, slots=True)
class Grid:
    """What is compared."""

    policies: tuple[str, ...]
    """Names of policies, joined by + where several act in a row, or names of the recipe's curate steps."""
    sizes: tuple[int, ...]
    """Examples a student learns from."""
    seeds: int
    """How many seeds each cell is run with."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One student: what it learns from, and the steps that make and examine it."""

    policy: str
    size: int
    seed: int
    data: str
    student: str
    bench: str


@dataclass(frozen=True, slots=True)
class Derived:
    """All that has to be walked, in this order: shared steps, then the data of every cell, then the rest."""

    shared: tuple[str, ...]
    harvests: tuple[str, ...]
    """Shared steps whose verdicts the data rest on."""
    recipes: Mapping[int, Recipe]
    """By seed: the recipe with the cells of that seed. The shared steps belong to the first."""
    starts: Mapping[int, str]
    """By seed: the step that makes the student's first weights; empty where a checkpoint is given."""
    cells: tuple[Cell, ...]
    chains: Mapping[str, list[Any]]
    """By policy: its tables."""

    @property
    def steps(self) -> list[tuple[Recipe, str]]:
        """Every step with the recipe it is run from; data first, so that a size no policy fills fails at once."""
        first = next(iter(self.recipes.values()))
        walk = [(first, name) for name in self.shared]
        walk += [(self.recipes[cell.seed], cell.data) for cell in self.cells]
        walk += [(self.recipes[seed], name) for seed, name in self.starts.items()]
        for cell in self.cells:
            walk += [(self.recipes[cell.seed], cell.student), (self.recipes[cell.seed], cell.bench)]
        return walk


def derive(
    recipe: Recipe, grid: Grid, stages: Mapping[str, Stage], *, student: str | None = None, bench: str | None = None
) -> Derived:
    """The cells of `grid` as steps. Raises UserError naming what the recipe lacks, or a policy that does not exist."""
    _check(grid)
    taught = _the_step(recipe, "sft", student, "student")
    exam = _the_step(recipe, "bench", bench, "bench")
    (data,) = taught.inputs["data"]
    if is_path(data) or recipe.steps[data].stage.name != "curate":
        raise UserError(f"{recipe.path}: [{taught.name}] data: expected a curate step of this recipe, got {data!r}")
    if "checkpoints" not in exam.inputs:
        raise UserError(f"{recipe.path}: [{exam.name}]: expected a bench of checkpoints, this one scores traces")
    tables = {name: _table_of(recipe, data, name) for name in grid.policies}
    (model,) = taught.inputs["model"]
    fresh = not is_path(model) and recipe.steps[model].stage.name == INIT
    cells, recipes, starts = [], {}, {}
    for seed in range(recipe.seed, recipe.seed + grid.seeds):
        steps: dict[str, Step] = dict(recipe.steps)

        def add(name: str, of: Step, steps: dict[str, Step] = steps, **changed: Any) -> str:
            steps[name] = make_step(recipe.path, name, _written(of) | changed, stages)
            return name

        if fresh:
            starts[seed] = add(f"{model}-s{seed}", recipe.steps[model])
        for size in grid.sizes:
            for policy, table in tables.items():
                tail = f"{policy.replace('+', '.')}-{size}-s{seed}"
                sized = {**table, "policies": [*table["policies"], {"policy": "sample", "size": size}]}
                steps[f"curate-{tail}"] = make_step(recipe.path, f"curate-{tail}", sized, stages)
                pupil = add(f"{taught.name}-{tail}", taught, data=f"curate-{tail}", model=starts.get(seed, model))
                examined = add(f"{exam.name}-{tail}", exam, checkpoints=[pupil], compare=[])
                cells.append(Cell(policy, size, seed, f"curate-{tail}", pupil, examined))
        recipes[seed] = replace(recipe, seed=seed, steps=steps)
    needed = [name for name in recipe.steps if name in _shared(recipe, tables, data, taught, exam, fresh)]
    harvests = tuple(dict.fromkeys(ref for table in tables.values() for ref in _many(table["traces"])))
    chains = {name: table["policies"] for name, table in tables.items()}
    return Derived(tuple(needed), harvests, recipes, starts, tuple(cells), chains)


def _check(grid: Grid) -> None:
    if not grid.policies or not grid.sizes:
        raise UserError("ablate: expected at least one policy and one size")
    for name, values in (("--policies", grid.policies), ("--sizes", grid.sizes)):
        if len(set(values)) < len(values):
            raise UserError(f"ablate: {name}: names one twice: {','.join(map(str, values))}")
    if min(grid.sizes) < 1 or grid.seeds < 1:
        raise UserError("ablate: --sizes and --seeds: expected numbers above 0")


def _the_step(recipe: Recipe, stage: str, asked: str | None, usual: str) -> Step:
    """The step asked for, else the one of the usual name, else the only one of its stage."""
    names = [name for name, step in recipe.steps.items() if step.stage.name == stage]
    if asked is not None and asked not in names:
        raise UserError(f"{recipe.path}: --{usual} {asked}: no {stage} step of that name{did_you_mean(asked, names)}")
    chosen = asked or (usual if usual in names else None) or (names[0] if len(names) == 1 else None)
    if chosen is None:
        raise UserError(
            f"{recipe.path}: which {stage} step? choose with --{usual}: {', '.join(names) or 'there is none'}"
        )
    return recipe.steps[chosen]


def _table_of(recipe: Recipe, data: str, policy: str) -> dict[str, Any]:
    """The curate table of a policy: a step of the recipe as it stands, or the student's own with other policies."""
    if policy in recipe.steps:
        if recipe.steps[policy].stage.name != "curate":
            raise UserError(f"{recipe.path}: --policies {policy}: [{policy}] is no curate step")
        table = _written(recipe.steps[policy])
        table.setdefault("policies", [table.get("keep", "verified")])
    else:
        table = _written(recipe.steps[data]) | {"policies": policy.split("+")}
        table.pop("scores", None)
    table.pop("keep", None)
    checked = make_step(recipe.path, data, dict(table), {"curate": recipe.steps[data].stage}).config
    assert isinstance(checked, CurateConfig)
    return table | {"policies": [found.model_dump(exclude_unset=True) for found in checked.policies]}


def _written(step: Step) -> dict[str, Any]:
    """A step's table as a recipe would say it."""
    return step.config.model_dump(mode="json", exclude_unset=True) | {"stage": step.stage.name}


def _shared(
    recipe: Recipe, tables: Mapping[str, dict[str, Any]], data: str, taught: Step, exam: Step, fresh: bool
) -> set[str]:
    """Steps every cell rests on: inputs of the data, problems of the exam, a checkpoint that is no fresh student."""
    curates = [recipe.steps[name] for name in tables if name in recipe.steps] or [recipe.steps[data]]
    curates += [recipe.steps[data]]
    roots = [ref for step in curates for refs in step.inputs.values() for ref in refs]
    roots += [*exam.inputs["problems"], *(() if fresh else taught.inputs["model"])]
    return {name for root in roots if not is_path(root) for name in ancestors(recipe, root)}


def _many(value: Any) -> Sequence[str]:
    return (value,) if isinstance(value, str) else tuple(value)
