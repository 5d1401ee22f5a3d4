"""Questions: the problems of a curate step by number, without their texts in memory.

Ids and places stay, texts are read when wanted; traces mostly come in the order of their
problems, so a small cache meets most of the reading. Problems of a `.gz` file are read by
unzipping up to their place: unzip large files first.
"""

from array import array
from collections.abc import Sequence
from pathlib import Path

from distill.errors import UserError
from distill.jsonl import Lines
from distill.progress import Progress
from distill.records import Problem
from distill.selection import iter_placed_problems, problems_file

CACHED = 8192
"""Problems kept as read; at a few kilobytes each that is some tens of megabytes."""


class Questions:
    """Problems of one or more files, numbered in their order."""

    def __init__(self, paths: Sequence[Path], progress: Progress) -> None:
        """Reads every file once. Raises UserError when one id names two different problems."""
        self.paths = paths
        self._lines: list[Lines[Problem]] = []
        self._number: dict[str, int] = {}
        self._file, self._offset = array("H"), array("Q")
        self._cache: dict[int, Problem] = {}
        with progress.task("curate: problems", unit="problems") as task:
            try:
                for file, path in enumerate(paths):
                    for offset, problem in iter_placed_problems(path):
                        if file == len(self._lines):
                            self._lines.append(Lines(problems_file(path), Problem))
                        self._add(file, offset, problem)
                        task.advance()
            except BaseException:
                self.close()
                raise
        self.ids = list(self._number)
        """Id of each number."""

    def __len__(self) -> int:
        return len(self._offset)

    def __getitem__(self, number: int) -> Problem:
        found = self._cache.get(number)
        if found is None:
            if len(self._cache) >= CACHED:
                del self._cache[next(iter(self._cache))]
            found = self._cache[number] = self._lines[self._file[number]].read(self._offset[number])
        return found

    def find(self, problem_id: str) -> int | None:
        """Number of a problem; None when there is none of this id."""
        return self._number.get(problem_id)

    def close(self) -> None:
        """Let go of the files."""
        for lines in self._lines:
            lines.close()

    def _add(self, file: int, offset: int, problem: Problem) -> None:
        known = self._number.setdefault(problem.id, len(self._number))
        if known < len(self._offset):
            first = self.paths[self._file[known]]
            if file != self._file[known] and self[known] != problem:
                raise UserError(f"{self.paths[file]}: id {problem.id!r} names another problem than in {first}")
            return
        self._file.append(file)
        self._offset.append(offset)
        if len(self._cache) < CACHED:
            self._cache[known] = problem
