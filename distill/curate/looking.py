"""Looking: what the content filters say of many texts, here for few of them, in several processes for many.

Texts go out in batches and findings come back in the order of the texts, so nothing depends on the number of
processes. A few batches wait at any time, however many texts there are.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain, islice
from typing import TypeVar

from distill.curate.content import ContentConfig, Finding, Text, content_filters
from distill.curate.processes import spawned

BATCH_TEXTS, BATCH_CHARACTERS = 64, 1_000_000
"""What one process looks at at a time, at most; a longer text is a batch of its own."""
ALONE = 10
"""Batches up to which this process looks alone: starting others takes longer."""

K = TypeVar("K")
Said = tuple[str, Finding] | None
"""The first filter that objects, by name, and its objection."""


def looked(
    texts: Iterable[tuple[K, Text]], config: ContentConfig, scores: Mapping[str, float], *, workers: int
) -> Iterator[tuple[K, Said]]:
    """What the filters say of each text, with its key, in order; `scores` are those of a judge of harm, by trace."""
    batches = _batches(texts)
    for keys, batch in batches if workers == 1 else islice(batches, ALONE):
        yield from zip(keys, _look(config, _of(scores, batch), batch), strict=True)
    first = next(batches, None)
    if first is None:
        return
    waiting: deque[tuple[Sequence[K], Future[list[Said]]]] = deque()
    with spawned(workers) as pool:
        for keys, batch in chain([first], batches):
            waiting.append((keys, pool.submit(_look, config, _of(scores, batch), batch)))
            if len(waiting) > 2 * workers:
                yield from _zipped(*waiting.popleft())
        while waiting:
            yield from _zipped(*waiting.popleft())


def _batches(texts: Iterable[tuple[K, Text]]) -> Iterator[tuple[list[K], list[Text]]]:
    keys: list[K] = []
    batch: list[Text] = []
    size = 0
    for key, text in texts:
        keys.append(key)
        batch.append(text)
        size += len(text.whole) + len(text.problem.prompt)
        if len(batch) == BATCH_TEXTS or size >= BATCH_CHARACTERS:
            yield keys, batch
            keys, batch, size = [], [], 0
    if batch:
        yield keys, batch


def _of(scores: Mapping[str, float], batch: Sequence[Text]) -> dict[str, float]:
    return {text.trace_id: scores[text.trace_id] for text in batch if text.trace_id in scores}


def _look(config: ContentConfig, scores: Mapping[str, float], batch: Sequence[Text]) -> list[Said]:
    filters = content_filters(config, scores)
    said: list[Said] = []
    for text in batch:
        objections = ((filter_.name, filter_.look(text)) for filter_ in filters)
        said.append(next(((name, finding) for name, finding in objections if finding is not None), None))
    return said


def _zipped(keys: Sequence[K], found: "Future[list[Said]]") -> Iterator[tuple[K, Said]]:
    return zip(keys, found.result(), strict=True)
