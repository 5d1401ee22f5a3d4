"""Asked: the problems a run folder's traces answer, found beside it, so that families and levels have names."""

from collections.abc import Iterator
from pathlib import Path

from distill.errors import UserError
from distill.records import Problem
from distill.runs import MANIFEST, read_manifest
from distill.selection import iter_problems, problems_file

PROBLEMS = "problems"


def problems_of(folder: Path, named: Path | None = None) -> Path | None:
    """The file with the problems: the one named, the folder's own, or the one its manifest names.

    None when nobody says; UserError when what was named, or what the manifest names, is not there.
    """
    if named is None and problems_file(folder).is_file():
        return problems_file(folder)
    if named is None:
        named = _in_manifest(folder)
    if named is None:
        return None
    file = problems_file(named)
    if not file.is_file():
        raise UserError(f"{file}: no such file; --problems names the run folder or file the traces answer")
    return file


def problems_asked(folder: Path, named: Path | None = None) -> Iterator[Problem]:
    """The problems themselves, one by one; none when nobody says where they are."""
    file = problems_of(folder, named)
    return iter(()) if file is None else iter_problems(file)


def _in_manifest(folder: Path) -> Path | None:
    """Bench folders hold the traces of each checkpoint in a folder of its own: then the manifest is one up."""
    for place in (folder, folder.parent):
        if (place / MANIFEST).is_file():
            for given in read_manifest(place).inputs:
                if given.field == PROBLEMS:
                    return Path(given.name) if "/" in given.name else place.parent / given.name
    return None
