"""Again: the recipe and the commands that make the runs of a page once more.

Manifests hold every step's checked table; written back as TOML they are the recipe, with what `--set` and `--from`
changed on the way. A recipe has one seed, so steps of another folder or seed become a recipe of their own, which
reads the others where they stand. What a manifest does not hold - data files, the machine - is not made again.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.runs import Manifest
from evals.report.collect import Step
from evals.report.drawing import text
from evals.report.markup import more

Tables = Callable[[Manifest], Mapping[str, Any]]
"""A manifest's table without what is default; needs the stages, which this room does not know."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Again:
    """One recipe with the command that walks it."""

    file: str
    recipe: str
    out: str
    commits: tuple[str, ...]

    @property
    def commands(self) -> str:
        """For a shell at the top of a clone, the recipe beside it."""
        checkouts = [f"git checkout {commit.rstrip('+')}" for commit in self.commits[:1]]
        changed = ["# that checkout had changes of its own"] if any("+" in commit for commit in self.commits) else []
        several = [f"# steps also ran at {', '.join(self.commits[1:])}"] if len(self.commits) > 1 else []
        run = f"distill run --recipe ./{self.file} --out {self.out}"
        return "\n".join([*checkouts, *changed, *several, "make setup", run])


def again(steps: Mapping[Path, Step], tables: Tables) -> list[Again]:
    """One for each folder and seed, inputs before users."""
    groups: dict[tuple[Path, int], list[Path]] = {}
    for path, step in steps.items():
        if step.manifest is not None:
            groups.setdefault((path.parent, step.manifest.seed), []).append(path)
    made = []
    for place, ((_, seed), paths) in enumerate(groups.items(), start=1):
        number = f"-{place}" if len(groups) > 1 else ""
        manifests = [manifest for path in paths if (manifest := steps[path].manifest) is not None]
        parts = [f"seed = {seed}\n"]
        for path, manifest in zip(paths, manifests, strict=True):
            here = set(paths)
            moved = {folder.name: str(folder) for _, folder in steps[path].inputs if folder not in here}
            parts.append(_table(manifest, tables(manifest), moved))
        commits = dict.fromkeys(manifest.git_commit for manifest in manifests if manifest.git_commit)
        made.append(Again(f"recipe{number}.toml", "\n".join(parts), f"runs/again{number}", tuple(commits)))
    return made


def commands(found: Sequence[Again]) -> str:
    """The section."""
    return "".join(
        f'<pre class="shell">{text(one.commands)}</pre>'
        + more(f"{one.file}, every key that is not default", _pre(one.recipe))
        for one in found
    )


def toml(value: Any) -> str:
    """A value of a manifest as TOML in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inside} }}" if inside else "{}"
    return f"[{', '.join(toml(item) for item in value)}]"


def _table(manifest: Manifest, table: Mapping[str, Any], moved: Mapping[str, str]) -> str:
    lines = [f"[{_key(manifest.step)}]"]
    if manifest.stage != manifest.step:
        lines.append(f"stage = {toml(manifest.stage)}")
    placed = _placed(table, {ref.field for ref in manifest.inputs}, moved)
    lines += [f"{_key(key)} = {toml(value)}" for key, value in placed.items() if value is not None]
    return "\n".join(lines) + "\n"


def _placed(table: Mapping[str, Any], fields: Set[str], moved: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """The table with inputs that stand elsewhere as paths."""
    made: dict[str, Any] = {}
    for key, value in table.items():
        if f"{prefix}{key}" not in fields:
            made[key] = _placed(value, fields, moved, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        elif isinstance(value, str):
            made[key] = moved.get(value, value)
        else:
            made[key] = [moved.get(name, name) for name in value]
    return made


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _pre(source: str) -> str:
    return f"<pre>{text(source)}</pre>"
