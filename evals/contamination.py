"""Contamination: how the problems of an exam were kept from what a checkpoint learned from, in one line.

Follows the run folders behind a checkpoint (models it was trained from, examples, problems of rl) to the mark curate
left on each training set, and says the worst that is true. Looks at no text itself (distill.curate.decontaminate does),
and knows nothing of weights that came from elsewhere.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.curate.decontaminate import UNCHECKED
from distill.problems.families import FAMILIES
from distill.problems.variants import base_source
from distill.recipe import is_path
from distill.runs import MANIFEST, InputRef, Manifest, read_manifest
from distill.train.rows import MARK

FRESH = ("student-init", "teacher-init")
"""Stages whose weights have learned nothing."""
UNKNOWN, UNTOLD, PARTLY, CHECKED = "unknown", "unchecked", "partly checked", "checked"
WORST_FIRST = (UNKNOWN, UNTOLD, PARTLY, CHECKED)


def contamination(checkpoint: Path, sources: Collection[str]) -> str:
    """`checked: 13-gram, 3 removed`, `partly checked: ...`, `unchecked: ...`, `unknown: ...` or `untrained`.

    `sources`: families and benchmarks the exam's problems come from.
    """
    found = list(dict.fromkeys(_learned(checkpoint, None, sources)))
    for kind in WORST_FIRST:
        said = [why for this, why in found if this == kind]
        if said:
            return f"{kind}: {'; '.join(said)}"
    return "untrained"


Found = Iterator[tuple[str, str]]
"""What kind of mark, and what it says."""


def _learned(folder: Path, ref: InputRef | None, sources: Collection[str]) -> Found:
    """Marks of everything the weights in `folder` were trained on."""
    manifest = _manifest(folder, ref)
    if manifest is None:
        yield UNKNOWN, f"{folder.name} is not here as it was"
    elif manifest.stage not in FRESH:
        models = [one for one in manifest.inputs if one.field == "model"]
        if not models:
            yield UNKNOWN, f"{folder.name} holds weights from elsewhere"
        for one in models:
            yield from _learned(_stands(folder, one), one, sources)
        for one in manifest.inputs:
            if one.field == "data":
                yield from _examples(_stands(folder, one), one, sources)
            elif one.field == "problems":
                yield from _asked(_stands(folder, one), one, sources)


def _examples(folder: Path, ref: InputRef, sources: Collection[str]) -> Found:
    manifest = _manifest(folder, ref)
    if manifest is None:
        yield UNTOLD, f"{folder.name} carries no mark"
        return
    mark = manifest.report.marks.get(MARK)
    behind = [one for one in manifest.inputs if one.field == "data"]
    if mark is None and behind:  # log-probabilities of examples
        for one in behind:
            yield from _examples(_stands(folder, one), one, sources)
    elif mark is None or mark == UNCHECKED:
        yield UNTOLD, f"{folder.name} was compared with no held-out problem"
    else:
        named = set(mark["against"])
        missing = sorted(source for source in sources if source not in named and not _hashed(source, mark))
        if missing:
            yield PARTLY, f"{folder.name} was not compared with {', '.join(missing)}"
        yield CHECKED, f"{mark['method']}, {mark['removed']:,} removed"


def _asked(folder: Path, ref: InputRef, sources: Collection[str]) -> Found:
    """Problems a model was asked in training."""
    manifest = _manifest(folder, ref)
    if manifest is not None and "held_out" in manifest.report.marks:
        yield CHECKED, f"problems held out {manifest.report.marks['held_out']}"
    else:
        yield UNTOLD, f"{folder.name}: its problems were compared with no held-out problem"


def _hashed(source: str, mark: Mapping[str, Any]) -> bool:
    """Families and their variants are held out by the hash of each prompt, where that is how examples were chosen."""
    family = base_source(source)
    return family in FAMILIES and (family in mark["against"] or mark["method"] == "by-construction")


def _manifest(folder: Path, ref: InputRef | None) -> Manifest | None:
    """None where the folder is gone, is no run folder, or was made again since it was read."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    return manifest if ref is None or manifest.content == ref.fingerprint else None


def _stands(folder: Path, ref: InputRef) -> Path:
    return Path(ref.name) if is_path(ref.name) else folder.parent / ref.name
