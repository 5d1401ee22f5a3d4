"""The recipe is the graph: a TOML table is a step, its name is the run folder.

`stage` names the function (default: the table's name); the fields a stage's config lists
in `inputs` name other steps, or paths when they contain a slash. Stages are handed in by
`cli`, so this file knows none of them.
"""

import re
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from distill.content import file_fingerprint
from distill.errors import StoppedError, UserError, did_you_mean
from distill.inputs import named, without
from distill.overrides import apply
from distill.pace import MINUTES, Sized, shares
from distill.progress import Progress
from distill.records import fingerprint
from distill.runs import (
    MANIFEST,
    InputRef,
    Manifest,
    Report,
    device,
    environment,
    git_commit,
    is_done,
    note_stop,
    open_run,
    read_manifest,
    seal,
)
from distill.sandbox import WALLED, Sandbox

SHIPPED = Path(__file__).parent / "recipes"
LARGEST_SEED = 2**31 - 1
"""Stages add to the seed, and some libraries stop at 32 bits."""
STEP_NAME = re.compile(r"(?!.*\.partial$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names of steps are names of folders."""
JUDGED = " judge "
"""In a stage's version, what follows is the judge's."""
HEADER = ("title", "status", "seed")
"""Keys of a recipe that are not steps."""


class StageConfig(BaseModel):
    """A step's table: frozen, unknown keys refused. Fields named in `inputs` are steps or paths."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    inputs: ClassVar[tuple[str, ...]] = ()
    """Fields that name the steps this one reads, `table.field` one of a table; the first is what `--from` replaces."""
    limits: ClassVar[tuple[str, ...]] = ()
    """Fields that say when to stop and not what is made: no part of the fingerprint, so they may change on the way."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """All a stage needs to run once."""

    step: str
    config: Any
    out: Path
    """Its partial run folder; whatever it finds there is its own earlier attempt."""
    inputs: Mapping[str, tuple[Path, ...]]
    """Per input field, the run folders (or files) it names, in order."""
    seed: int
    data: Path
    """Directory of benchmark files."""
    progress: Progress
    sandbox: Sandbox
    """How programs of models are kept in, where the stage judges."""

    def path(self, field: str) -> Path:
        """The one path of an input field."""
        (only,) = self.inputs[field]
        return only


@dataclass(frozen=True, slots=True)
class Stage:
    """One kind of step."""

    name: str
    config: type[StageConfig]
    run: Callable[[StepContext], Report]
    version: str = "1"
    """Raised when the same config would give other bytes; part of every fingerprint."""
    reads: Callable[[Any, Path], Iterable[Path]] = lambda config, data: ()
    """Files outside any run folder that the result depends on; their content is fingerprinted."""
    renew: Callable[[Path, StepContext], None] | None = None
    """Bring a finished folder up to date where only the judge is newer, instead of making it again."""
    preflight: Callable[[StepContext], Any] | None = None
    """Everything the stage may refuse before its first step, with no step taken: `preflight.findings.Findings`."""
    goes_on: Callable[[Any, Report], bool] = lambda config, report: False
    """Whether a folder finished short of what its table asks for can be continued under the limits of today."""
    sized: Sized | None = None
    """How `--minutes` turns into this stage's budget; None where it cannot."""


@dataclass(frozen=True, slots=True)
class Step:
    """One table of a recipe, checked."""

    name: str
    stage: Stage
    config: StageConfig
    inputs: Mapping[str, tuple[str, ...]]
    """Per input field, what it names: steps of this recipe, or paths."""


@dataclass(frozen=True)
class Recipe:
    """A checked graph of steps, in an order that can be run."""

    name: str
    path: Path
    title: str
    status: str
    """What of it was run, on what, and what was not."""
    seed: int
    steps: Mapping[str, Step] = field(default_factory=dict)
    minutes: Mapping[str, float] = field(default_factory=dict)
    """Share of `--minutes` of each step that can be cut to a time."""


def find_recipe(name: str) -> Path:
    """A path as it is, or the shipped recipe of that name."""
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        return path
    path = SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = sorted(found.stem for found in SHIPPED.glob("*.toml"))
        raise UserError(
            f"recipe {name}: not shipped{did_you_mean(name, shipped)}; "
            f"there are {', '.join(shipped)}, or give a path ending in .toml"
        )
    return path


def load_recipe(path: Path, stages: Mapping[str, Stage], overrides: Iterable[str] = ()) -> Recipe:
    """Parse and check a whole recipe. Raises UserError naming file, table, key and what was expected."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOML and Unicode errors are ValueErrors
        raise UserError(f"{path}: not TOML ({error})") from error
    for override in overrides:
        apply(tables, override, path)
    header = {key: tables.pop(key) for key in HEADER if key in tables}
    minutes = tables.pop(MINUTES, {})
    for key, table in tables.items():
        if not isinstance(table, dict) and key in stages:
            raise UserError(f"{path}: {key}: expected a table, got {table!r}")
        if not isinstance(table, dict):
            raise UserError(
                f"{path}: {key}: unknown key{did_you_mean(key, HEADER)}; outside a table there are {', '.join(HEADER)}"
            )
    seed = header.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{path}: seed: expected a whole number from 0 to {LARGEST_SEED}, got {seed!r}")
    if not tables:
        raise UserError(f"{path}: no steps; a recipe has one table a step")
    steps = {name: make_step(path, name, table, stages) for name, table in tables.items()}
    for step in steps.values():
        for key, names in step.inputs.items():
            for name in names:
                if not is_path(name) and name not in steps:
                    raise UserError(f"{path}: [{step.name}] {key}: unknown step {name!r}{did_you_mean(name, steps)}")
    ordered = {name: steps[name] for name in _order(path, steps)}
    title, status = str(header.get("title", path.stem)), str(header.get("status", ""))
    sized = shares(path, minutes, {name: (step.stage.name, step.stage.sized) for name, step in steps.items()})
    return Recipe(path.stem, path, title, status, seed, ordered, sized)


def is_path(name: str) -> bool:
    """Inputs with a slash are paths, all others are steps."""
    return "/" in name


def ancestors(recipe: Recipe, target: str) -> list[str]:
    """`target` and every step it needs, in running order."""
    if target not in recipe.steps:
        raise UserError(f"{recipe.path}: no step {target!r}{did_you_mean(target, recipe.steps)}")
    needed = {target}
    for name in reversed(list(recipe.steps)):
        if name in needed:
            needed.update(ref for refs in recipe.steps[name].inputs.values() for ref in refs if not is_path(ref))
    return [name for name in recipe.steps if name in needed]


def step_folder(out: Path, name: str) -> Path:
    """Where a step's result stands."""
    return out / name


def step_fingerprint(recipe: Recipe, step: Step, out: Path, data: Path) -> tuple[str, tuple[InputRef, ...]]:
    """Fingerprint of a step whose inputs are complete: config, inputs, seed, stage version."""
    inputs = tuple(
        InputRef(field=key, name=name, fingerprint=_content(out, name))
        for key, names in step.inputs.items()
        for name in names
    )
    table = step.config.model_dump(mode="json")
    return _made_from(
        step.stage, step.stage.version, table, _files(step.stage, step.config, data), inputs, recipe.seed
    ), inputs


def renewed(manifest: Manifest, stage: Stage, data: Path) -> str | None:
    """The fingerprint of the same step under the stage's version of today.

    None when more than the judge would differ: the stage itself, or a field the config did not have then.
    """
    if manifest.stage_version.partition(JUDGED)[0] != stage.version.partition(JUDGED)[0]:
        return None
    try:
        files = _files(stage, _config_of(stage, manifest.config), data)
    except (ValidationError, UserError):  # a config of another day, or a file that is not here any more
        return None
    made_from = manifest.config, files, manifest.inputs, manifest.seed
    if _made_from(stage, manifest.stage_version, *made_from) != manifest.fingerprint:
        return None
    return _made_from(stage, stage.version, *made_from)


def written(stage: Stage, table: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's table as if nobody had written what is default, for some configs refuse that."""
    fields = stage.config.model_fields
    idle = {
        name
        for name, field in fields.items()
        if not field.is_required()
        and table.get(name) == to_jsonable_python(field.get_default(call_default_factory=True))
    }
    return {name: value for name, value in table.items() if name not in idle}


def _config_of(stage: Stage, table: Mapping[str, Any]) -> StageConfig:
    return stage.config.model_validate(written(stage, table))


def _files(stage: Stage, config: StageConfig, data: Path) -> list[list[str]]:
    return [[path.name, file_fingerprint(path)] for path in stage.reads(config, data)]


def _made_from(
    stage: Stage, version: str, table: Mapping[str, Any], files: Sequence[Any], inputs: Sequence[InputRef], seed: int
) -> str:
    own = without(table, {ref.field for ref in inputs} | set(stage.config.limits))
    return fingerprint(
        [stage.name, version, own, [(ref.field, ref.name, ref.fingerprint) for ref in inputs], files, seed]
    )


def run_step(
    recipe: Recipe, name: str, out: Path, data: Path, progress: Progress, sandbox: Sandbox = WALLED
) -> tuple[Manifest, bool]:
    """Run one step unless it is done; returns its manifest and whether it ran now."""
    step = recipe.steps[name]
    folder = step_folder(out, name)
    print_, inputs = step_fingerprint(recipe, step, out, data)

    def goes_on(manifest: Manifest) -> bool:
        return manifest.report.short is not None and step.stage.goes_on(step.config, manifest.report)

    done = is_done(folder, print_)
    if done and not goes_on(read_manifest(folder)):
        return read_manifest(folder), False
    paths = {key: tuple(_path(out, ref) for ref in refs) for key, refs in step.inputs.items()}
    if not done and step.stage.renew is not None and (folder / MANIFEST).is_file():
        context = StepContext(name, step.config, folder, paths, recipe.seed, data, progress, sandbox)
        if renewed(read_manifest(folder), step.stage, data) == print_:
            progress.say(f"{folder}: the judge is newer than its verdicts; they are drawn anew, nothing is made again")
            step.stage.renew(folder, context)
            if not goes_on(read_manifest(folder)):
                return read_manifest(folder), True
    with open_run(folder, print_, goes_on) as opened:
        if opened is None:
            return read_manifest(folder), False
        begun, clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
        commit = git_commit()  # of the code that runs, not of what the checkout holds when it ends
        context = StepContext(name, step.config, opened.out, paths, recipe.seed, data, progress, sandbox)
        try:
            report = step.stage.run(context)
        except StoppedError as stopped:
            note_stop(opened.out, str(stopped))
            raise StoppedError(f"[{name}] {stopped}") from None
        manifest = Manifest(
            step=name,
            stage=step.stage.name,
            stage_version=step.stage.version,
            fingerprint=print_,
            seed=recipe.seed,
            config=step.config.model_dump(mode="json"),
            inputs=inputs,
            versions=environment(),
            git_commit=commit,
            device=device(),
            started=begun,
            seconds=round(time.monotonic() - clock, 3),
            resumed=opened.resumed,
            report=report,
            amended=report.short,
        )
        seal(folder, manifest)
    return manifest, True


def _content(out: Path, name: str) -> str:
    if not is_path(name):
        return read_manifest(step_folder(out, name)).content
    path = Path(name)
    if (path / "manifest.json").is_file():
        return read_manifest(path).content
    return file_fingerprint(path)


def _path(out: Path, name: str) -> Path:
    return Path(name) if is_path(name) else step_folder(out, name)


def make_step(path: Path, name: str, table: dict[str, Any], stages: Mapping[str, Stage]) -> Step:
    """One table as a checked step. Raises UserError naming file, table, key and what was expected."""
    table = dict(table)
    if not STEP_NAME.fullmatch(name):
        raise UserError(f"{path}: [{name[:120]}]: not a step name; letters, digits, . _ - and at most 100 of them")
    kind = table.pop("stage", name)
    if not isinstance(kind, str) or kind not in stages:
        hint = did_you_mean(str(kind), stages)
        raise UserError(f"{path}: [{name}] stage: unknown stage {kind!r}{hint}; there are {', '.join(sorted(stages))}")
    stage = stages[kind]
    try:
        config = stage.config.model_validate(table)
    except ValidationError as error:
        raise UserError("\n".join(_complaints(path, name, stage, error))) from error
    inputs = {}
    for key in stage.config.inputs:
        value = named(config, key)
        names = () if value is None else (value,) if isinstance(value, str) else tuple(value)
        if names:
            inputs[key] = names
    return Step(name, stage, config, inputs)


def _complaints(path: Path, name: str, stage: Stage, error: ValidationError) -> list[str]:
    lines = []
    complaints = error.errors(include_url=False)
    tables = {found["loc"][: place + 1] for found in complaints for place in range(len(found["loc"]) - 2)}
    for found in complaints:
        if str(found["loc"][-1:]).startswith('("literal[') and any(found["loc"][:-1] == table for table in tables):
            continue  # `"off"` instead of a table that was given and complains for itself
        key = ".".join(str(part) for part in found["loc"] if not str(part).endswith("Config"))
        if found["type"] == "extra_forbidden":
            lines.append(
                f"{path}: [{name}] {key}: unknown key{did_you_mean(key.split('.')[-1], stage.config.model_fields)}"
            )
        elif found["type"] == "value_error":  # of a whole table: it says itself what it is about
            lines.append(f"{path}: [{name}] {key and f'{key}: '}{found['msg'].removeprefix('Value error, ')}")
        elif found["type"] == "missing":
            lines.append(f"{path}: [{name}] {key}: missing (stage {stage.name} needs it)")
        else:
            lines.append(f"{path}: [{name}] {key}: {found['msg']}, got {found['input']!r}")
    return lines


def _order(path: Path, steps: Mapping[str, Step]) -> list[str]:
    """Steps with inputs before users, otherwise as written. A cycle is named."""
    done: list[str] = []
    open_: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in open_:
            cycle = [*open_[open_.index(name) :], name]
            raise UserError(f"{path}: steps form a cycle: {' -> '.join(cycle)}")
        open_.append(name)
        for names in steps[name].inputs.values():
            for needed in names:
                if not is_path(needed):
                    visit(needed)
        done.append(open_.pop())

    for name in steps:
        visit(name)
    return done
