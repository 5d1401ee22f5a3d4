"""Problems by number are the problems of the files, whichever of them are in memory."""

import gzip
from pathlib import Path

import pytest

from distill.curate import questions as module
from distill.curate.questions import Questions
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.records import Problem
from tests.curate_world import problem

QUIET = Progress("quiet")


@pytest.mark.parametrize("zipped", [False, True])
def test_every_problem_is_read_by_its_number_in_any_order(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHED", 3)
    problems = [problem(f"p{number}", "ünï " * number) for number in range(20)]
    path = tmp_path / "problems.jsonl"
    write_jsonl(path, problems)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\n\n"))  # as editors leave files
    if zipped:
        path = tmp_path / "problems.jsonl.gz"
        path.write_bytes(gzip.compress((tmp_path / "problems.jsonl").read_bytes()))
    found = Questions([path], QUIET)
    assert [found[number] for number in (19, 0, 7, 19, 3, 0)] == [problems[n] for n in (19, 0, 7, 19, 3, 0)]
    assert found.find("p7") == 7
    assert found.find("p20") is None
    assert (len(found), found.ids[19]) == (20, "p19")
    found.close()


def files(folder: Path, *sets: list[Problem]) -> list[Path]:
    paths = [folder / f"{number}.jsonl" for number in range(len(sets))]
    for path, rows in zip(paths, sets, strict=True):
        write_jsonl(path, rows)
    return paths


def test_a_problem_in_two_files_counts_once(tmp_path: Path) -> None:
    one, two, three = problem("p1", "a"), problem("p2", "b"), problem("p3", "c")
    found = Questions(files(tmp_path, [one, two], [two, three]), QUIET)
    assert [found[number] for number in range(len(found))] == [one, two, three]
    found.close()


def test_one_id_for_two_problems_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1\.jsonl: id 'p1' names another problem than in .*0\.jsonl"):
        Questions(files(tmp_path, [problem("p1", "a")], [problem("p1", "b")]), QUIET)
    with pytest.raises(UserError, match=r"0\.jsonl: id 'p1' names two problems"):
        Questions(files(tmp_path, [problem("p1", "a"), problem("p1", "b")]), QUIET)
