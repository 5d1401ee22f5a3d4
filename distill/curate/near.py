"""Near duplicates: which texts say again what an earlier one said.

Two texts repeat one another when their figures are the same (`normalize.is_figure`: numbers,
signs, and words that turn a question) and they share most pairs of neighboring words. Texts
are sketched once, in batches (`sketch`); sketches of equal buckets are sorted next to one
another, and whoever meets there is compared exactly.

Chains have one rule. Texts are taken in their order; each is compared with the earlier texts
that were kept, and repeats the earliest it agrees with, or is kept itself. So nothing is
dropped for a text that was dropped, and the answer depends on the order of the texts alone.

Memory is about 0.6 kB a text; pairs lie in a file. Time is linear in texts, but quadratic in prompts
that have one template and no figures. Does not find paraphrases, translations or
renamed variables. One machine: beyond some ten million texts, take datatrove.
"""

import itertools
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from distill.curate.processes import spawned
from distill.curate.sketch import BANDS, SAMPLE, Numbers, Sketches, sketch
from distill.progress import Progress

# N texts, B bands, C texts that share a bucket with another, K earlier texts one is compared with
BATCH_TEXTS, BATCH_CHARACTERS = 1000, 2_000_000
"""What one worker sketches at a time, at most; a longer text is a batch of its own."""
CONTAINED = 0.9
"""Share of the shorter text's pairs that makes the longer one the same with something added, or the threshold's own."""
CROWD = 100
"""Where more texts than this share buckets with one, as prompts of one template without figures do, only those that
share two are compared: 0.02% of the texts at a similarity of 0.7 share fewer."""
LONGER = 0.75
"""How far below the threshold the similarity of such a pair may be."""


class NearConfig(BaseModel):
    """When a text repeats an earlier one."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    threshold: float = Field(default=0.7, ge=0.6, le=1)
    """Least share of common pairs of neighboring words, of all pairs of both texts (Jaccard)."""
    numbers: Numbers = "count"
    """count: texts of other figures are different; words: a figure is a word like others; ignore: all are one."""
    shortest: int = Field(default=8, ge=2)
    """Words; shorter texts are compared whole, because in `find the gcd of 48 and 36` each word tells."""


def near_duplicates(
    texts: Iterable[str],
    config: NearConfig,
    *,
    workers: int,
    progress: Progress,
    groups: Iterable[str] | None = None,
    scratch: Path | None = None,
) -> NDArray[np.int64]:
    """For each text the index of the earliest kept text it repeats; its own where it is kept.

    `texts` is read once. `groups`, one a text, keeps apart what is not to be compared, such as
    solutions of different problems. `scratch` is the folder of temporary files. The answer does
    not depend on `workers`, the processes that sketch (1: none besides this one).
    """
    with _Store(scratch) as store:
        with progress.task("near duplicates: reading", unit="texts") as task:
            for sketches in _sketched(_batches(texts, groups), config, workers):
                store.add(sketches)
                task.advance(len(sketches.whole_N))
        return store.repeats(config, progress)


def _batches(texts: Iterable[str], groups: Iterable[str] | None) -> Iterator[tuple[list[str], list[str]]]:
    """Texts and their groups, bounded in number and in characters."""
    named = zip(texts, itertools.repeat("") if groups is None else groups, strict=groups is not None)
    said: list[str] = []
    of: list[str] = []
    size = 0
    for text, group in named:
        if said and (len(said) == BATCH_TEXTS or size + len(text) > BATCH_CHARACTERS):
            yield said, of
            said, of, size = [], [], 0
        said.append(text)
        of.append(group)
        size += len(text)
    if said:
        yield said, of


def _sketched(batches: Iterable[tuple[list[str], list[str]]], config: NearConfig, workers: int) -> Iterator[Sketches]:
    """Sketches in the order of the batches; a few batches wait at any time."""
    if workers == 1:
        yield from (sketch(said, of, config.numbers, config.shortest) for said, of in batches)
        return
    waiting: deque[Future[Sketches]] = deque()
    with spawned(workers) as pool:
        for said, of in batches:
            waiting.append(pool.submit(sketch, said, of, config.numbers, config.shortest))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Ragged:
    """Rows of different lengths: values in a temporary file, mapped once all are there."""

    def __init__(self, dtype: type, scratch: Path | None) -> None:
        self._dtype = dtype
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by the store
        self._counts: list[NDArray[np.int64]] = []

    def add(self, flat: NDArray[Any], counts: NDArray[np.int64]) -> None:
        self._file.write(flat.tobytes())
        self._counts.append(counts)

    def seal(self) -> None:
        """No more rows; `rows` may be read."""
        self._file.flush()
        self.counts_N = np.concatenate(self._counts)
        self.ends_N = np.cumsum(self.counts_N)
        total = int(self.ends_N[-1])
        # A plain view of the map: slices of numpy's own class for maps take three times as long.
        self.flat: NDArray[Any] = np.empty(0, self._dtype)
        if total:
            self.flat = np.asarray(np.memmap(self._file, self._dtype, "r", shape=(total,)))

    def row(self, index: int) -> NDArray[Any]:
        """The values of one text."""
        end = int(self.ends_N[index])
        return self.flat[end - int(self.counts_N[index]) : end]

    def close(self) -> None:
        self._file.close()


class _Store:
    """Sketches of all texts; a context, because two files lie behind it."""

    def __init__(self, scratch: Path | None) -> None:
        self.pairs = _Ragged(np.uint32, scratch)
        self.places = _Ragged(np.uint64, scratch)
        self._batches: list[tuple[NDArray[Any], ...]] = []

    def __enter__(self) -> "_Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.pairs.close()
        self.places.close()

    def add(self, batch: Sketches) -> None:
        """The next texts."""
        self.pairs.add(batch.pairs_P, batch.pairs_N)
        self.places.add(batch.places_F, batch.places_N)
        self._batches.append(
            (batch.whole_N, batch.short_N, batch.figures_N, batch.order_N, batch.names_N, batch.bands_NB)
        )

    def repeats(self, config: NearConfig, progress: Progress) -> NDArray[np.int64]:
        """The answer of `near_duplicates`."""
        if not self._batches:
            return np.empty(0, np.int64)
        self.pairs.seal()
        self.places.seal()
        whole_N, short_N, self.figures_N, self.order_N, self.names_N, bands_NB = (
            np.concatenate(columns) for columns in zip(*self._batches, strict=True)
        )
        self._batches.clear()
        _, first, inverse = np.unique(whole_N, return_index=True, return_inverse=True)
        answer_N = first[inverse].astype(np.int64)
        alone_N = (answer_N == np.arange(len(answer_N))) & ~short_N
        members_C, buckets_CB = _buckets(np.flatnonzero(alone_N), bands_NB)
        del bands_NB
        with progress.task("near duplicates: comparing", total=len(members_C), unit="texts") as task:
            for member, earlier in self._greedy(members_C, buckets_CB, config):
                answer_N[member] = earlier
                task.advance()
        return answer_N[answer_N]

    def _greedy(
        self, members_C: NDArray[np.int64], buckets_CB: NDArray[np.int32], config: NearConfig
    ) -> Iterator[tuple[int, int]]:
        """Each member with the earliest kept one it repeats, itself if none; kept ones are chained by bucket."""
        newest = array("i", [-1]) * (int(buckets_CB.max(initial=-1)) + 1)
        older = array("i", [-1]) * buckets_CB.size
        for place, member in enumerate(members_C.tolist()):
            row_B = buckets_CB[place]
            bands = np.flatnonzero(row_B >= 0)
            buckets = list(zip(bands.tolist(), row_B[bands].tolist(), strict=True))
            met: dict[int, int] = {}
            for band, bucket in buckets:
                other = newest[bucket]
                while other >= 0:
                    met[other] = met.get(other, 0) + 1
                    other = older[other * BANDS + band]
            least = 1 if len(met) <= CROWD else 2
            others = sorted(other for other, times in met.items() if times >= least)
            earlier = self._earliest(member, members_C[others], config)
            if earlier is None:
                for band, bucket in buckets:
                    older[place * BANDS + band] = newest[bucket]
                    newest[bucket] = place
            yield member, member if earlier is None else earlier

    def _earliest(self, member: int, others_K: NDArray[np.int64], config: NearConfig) -> int | None:
        """The first of some ascending texts that this one repeats."""
        sizes_K = self.pairs.counts_N[others_K]
        size = int(self.pairs.counts_N[member])
        least = config.threshold * LONGER
        names, names_K = self.names_N[member], self.names_N[others_K]
        fits = (self.figures_N[others_K] == self.figures_N[member]) & (
            (names_K == names) | (names_K == 0) | (names == 0)
        )
        fits &= np.minimum(sizes_K, size) >= least * np.maximum(sizes_K, size)
        others_K = others_K[fits]
        if not len(others_K):
            return None
        for other in others_K[self._alike(member, others_K, config.threshold)].tolist():
            moved = self.order_N[other] != self.order_N[member]
            if _same_places(self.places.row(member), self.places.row(other), moved=moved):
                return int(other)
        return None

    def _alike(self, member: int, others_K: NDArray[np.int64], threshold: float) -> NDArray[np.bool_]:
        """Whether the pairs of this text and of each other one are the same for the most part.

        Where a text was sampled, both count up to the largest hash of the sample: below it all pairs are known.
        """
        own = self.pairs.row(member)
        rows = [self.pairs.row(other) for other in others_K.tolist()]
        sizes_K = np.array([len(row) for row in rows])
        flat = np.concatenate(rows)
        ends_K = flat[np.cumsum(sizes_K) - 1]
        full = np.iinfo(np.uint32).max
        upto_K = np.minimum(np.where(sizes_K < SAMPLE, full, ends_K), full if len(own) < SAMPLE else own[-1])
        known = flat <= np.repeat(upto_K, sizes_K)
        places = np.searchsorted(own, flat)
        shared = known & (own[np.minimum(places, len(own) - 1)] == flat)
        starts_K = np.cumsum(sizes_K) - sizes_K
        shared_K = np.add.reduceat(shared, starts_K, dtype=np.int64)
        theirs_K = np.add.reduceat(known, starts_K, dtype=np.int64)
        ours_K = np.searchsorted(own, upto_K, side="right")
        similar_K = shared_K / np.maximum(ours_K + theirs_K - shared_K, 1)
        contained_K = shared_K / np.maximum(np.minimum(ours_K, theirs_K), 1)
        within_K = (contained_K >= max(CONTAINED, threshold)) & (similar_K >= threshold * LONGER)
        return (similar_K >= threshold) | within_K


def _buckets(alone: NDArray[np.int64], bands_NB: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Texts that share a bucket with another, and the numbers of their buckets: -1 where they are alone."""
    buckets_NB = np.full((len(alone), BANDS), -1, np.int32)
    used = 0
    for band in range(BANDS):
        _, inverse, counts = np.unique(bands_NB[alone, band], return_inverse=True, return_counts=True)
        crowded = counts > 1
        numbers = np.where(crowded, np.cumsum(crowded) - 1 + used, -1).astype(np.int32)
        used += int(crowded.sum())
        buckets_NB[:, band] = numbers[inverse]
    meets = (buckets_NB >= 0).any(axis=1)
    return alone[meets], buckets_NB[meets]


def _same_places(ours_F: NDArray[np.uint64], theirs_F: NDArray[np.uint64], *, moved: bool) -> bool:
    """Whether figures stand where they stood: a clause may have been moved, but no two numbers exchanged.

    Between the same words there must be the same figures; where their order is another, half of all figures must be
    known by their words.
    """
    ours, theirs = _by_place(ours_F), _by_place(theirs_F)
    common = ours.keys() & theirs.keys()
    if any(ours[around] - theirs[around] and theirs[around] - ours[around] for around in common):
        return False
    if not moved:
        return True
    sides = (ours_F >> np.uint64(32)).reshape(-1, 2).tolist()
    return 4 * sum(before in common or after in common for before, after in sides) >= max(len(ours_F), len(theirs_F))


def _by_place(places_F: NDArray[np.uint64]) -> dict[int, Counter[int]]:
    """Figures by the words on one side of them; those without enough words are left out."""
    found: dict[int, Counter[int]] = {}
    for place in places_F.tolist():
        if place >> 32:
            found.setdefault(place >> 32, Counter())[place & 0xFFFFFFFF] += 1
    return found
