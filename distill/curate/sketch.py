"""Sketch: what is kept of a text to find the others that repeat it.

Of the pairs of neighboring tokens (`normalize.tokens`) a MinHash signature is taken (Broder,
On the resemblance and containment of documents, 1997; `datasketch.MinHash`) and cut into
bands (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, 3.4), each hashed together
with the figures of the text: two texts with other figures never meet in a bucket. The pairs
themselves are kept too, as 32-bit hashes, so that whoever meets in a bucket is compared
exactly; of a text with more than `SAMPLE` distinct pairs, those with the smallest hashes.
All hashes are BLAKE2b or integer arithmetic: the same on every machine, day and process.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from distill.curate.normalize import END, capitals, is_figure, squeezed, tokens

# N texts, B bands, R rows a band, P distinct pairs of all texts, F runs of figures of all texts
BANDS, ROWS = 40, 4
"""Two texts of similarity s meet in a bucket with probability 1 - (1 - s^R)^B: 99.6% at 0.6, 0.4% at 0.1."""
SAMPLE = 1024
"""Pairs kept of a longer text; a similarity is then estimated with a standard error of at most 0.016."""
AT_ONCE = 1 << 14
"""Pairs hashed together: 10 MB for each array of BANDS x ROWS hashes."""
CONTEXT = 2
"""Words on either side that say which place a figure has."""

Numbers = Literal["count", "words", "ignore"]


@dataclass(frozen=True, slots=True)
class Sketches:
    """Of N texts, in their order. Of short texts only `whole_N` and `short_N` mean anything."""

    whole_N: NDArray[np.uint64]
    """Digest of all words and figures."""
    short_N: NDArray[np.bool_]
    """Too few words to be compared by parts."""
    figures_N: NDArray[np.uint64]
    """Digest of the figures in any order."""
    order_N: NDArray[np.uint64]
    """Digest of the figures in their order."""
    names_N: NDArray[np.uint64]
    """Digest of the names in capitals; 0 where letter case tells nothing."""
    bands_NB: NDArray[np.uint32]
    """Buckets."""
    pairs_P: NDArray[np.uint32]
    """Hashes of the distinct pairs, ascending within a text."""
    pairs_N: NDArray[np.int64]
    """How many of them a text has."""
    places_F: NDArray[np.uint64]
    """Of every run of figures the words before it, then those after it: a hash above 32 bits of the figures' own."""
    places_N: NDArray[np.int64]
    """How many of them a text has."""


def sketch(texts: Sequence[str], groups: Sequence[str], numbers: Numbers, shortest: int) -> Sketches:
    """Sketch texts; those of different groups meet nowhere. A text under `shortest` words is short."""
    whole: list[int] = []
    short: list[bool] = []
    figures: list[int] = []
    order: list[int] = []
    names: list[int] = []
    places: list[list[int]] = []
    flat: list[int] = []
    starts = [0]
    end = _token(END)
    for text, group in zip(texts, groups, strict=True):
        said = tokens(text)
        if numbers == "ignore":
            said = ["0" if token[0].isdecimal() else token for token in said]
        seed = _digest(group)
        sentences = [_token(token) for token in said]
        said = [token for token in said if token != END]
        read = [token for token in sentences if token != end]
        whole.append(_digest("\0".join([group, *said] if said else [group, "", squeezed(text)])))
        counted = [value for value, figure in read if figure] if numbers == "count" else []
        short.append(sum(not figure for _, figure in read) < shortest)
        figures.append((seed + sum(counted)) & _MASK)
        order.append(functools.reduce(_mix, counted, 0))
        named = capitals(text) if numbers == "count" else []
        names.append(_digest(" ".join(named)) if named else 0)
        places.append([] if short[-1] or not counted else _places(sentences))
        if not short[-1]:
            flat.extend(value for value, _ in read)
        starts.append(len(flat))
    figures_N = np.array(figures, np.uint64)
    pairs_P, pairs_N = _pairs(np.array(flat, np.uint64), np.array(starts))
    bands_NB = _bands(pairs_P, pairs_N, figures_N)
    kept_P, kept_N = _sampled(pairs_P, pairs_N)
    return Sketches(
        whole_N=np.array(whole, np.uint64),
        short_N=np.array(short, np.bool_),
        figures_N=figures_N,
        order_N=np.array(order, np.uint64),
        names_N=np.array(names, np.uint64),
        bands_NB=bands_NB,
        pairs_P=kept_P,
        pairs_N=kept_N,
        places_F=np.array([place for run in places for place in run], np.uint64),
        places_N=np.array([len(run) for run in places], np.int64),
    )


_MASK = (1 << 64) - 1
_ODD, _ODD_TOO = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
"""Odd 64-bit constants of Fibonacci hashing (2^64 over the golden ratio) and of xxHash."""


def _digest(text: str) -> int:
    """64 bits of BLAKE2b; lone surrogates are hashed as they are."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=1 << 17)
def _token(token: str) -> tuple[int, bool]:
    """Its hash and whether it is a figure."""
    return _digest(token), is_figure(token)


def _mix(state: int, value: int) -> int:
    return ((state ^ value) * _ODD + (state >> 29)) & _MASK


def _places(read: Sequence[tuple[int, bool]]) -> list[int]:
    """Two entries a run of figures: it is known by the words before it in its sentence, and by those after it."""
    found: list[int] = []
    sentence: list[tuple[int, bool]] = []
    end = _token(END)
    for token in (*read, end):
        if token != end:
            sentence.append(token)
            continue
        said = [value for value, figure in sentence if not figure]
        run, before = 0, 0
        for value, figure in (*sentence, (0, False)):
            if figure:
                run = _mix(run, value)
                continue
            if run:
                sides = said[max(0, before - CONTEXT) : before], said[before : before + CONTEXT]
                for side, around in enumerate(sides):
                    known = functools.reduce(_mix, around, side + 1) if around else 0
                    found.append((known >> 32 << 32) | (run >> 32))
                run = 0
            before += 1
        sentence = []
    return found


def _pairs(flat_T: NDArray[np.uint64], starts: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Distinct hashes of neighbors, ascending within a text, and how many each text has; T is all tokens."""
    lengths_N = np.diff(starts)
    owner_T = np.repeat(np.arange(len(lengths_N), dtype=np.uint64), lengths_N)
    inside = owner_T[:-1] == owner_T[1:]
    mixed = (flat_T[:-1] * np.uint64(_ODD)) ^ (flat_T[1:] * np.uint64(_ODD_TOO))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(_ODD)
    keys = np.unique((owner_T[:-1][inside] << np.uint64(32)) | (mixed[inside] >> np.uint64(32)))
    counts_N = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(lengths_N))
    return keys.astype(np.uint32), counts_N


def _bands(
    pairs_P: NDArray[np.uint32], pairs_N: NDArray[np.int64], figures_N: NDArray[np.uint64]
) -> NDArray[np.uint32]:
    """Buckets of every text: signature rows and figures mixed; zeros where there are no pairs."""
    bands_NB = np.zeros((len(pairs_N), BANDS), np.uint32)
    present = np.flatnonzero(pairs_N)
    if not len(present):
        return bands_NB
    ends_N = np.cumsum(pairs_N)
    blank = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=int, scheme="affine32")
    signatures = []
    for text in present:
        signature, end = blank.copy(), int(ends_N[text])
        for start in range(end - int(pairs_N[text]), end, AT_ONCE):
            signature.update_batch(pairs_P[start : min(start + AT_ONCE, end)].tolist())
        signatures.append(signature.hashvalues)
    rows_NBR = np.stack(signatures).reshape(-1, BANDS, ROWS)
    state_NB = np.repeat(figures_N[present, None], BANDS, axis=1)
    for row in range(ROWS):
        state_NB = (state_NB ^ rows_NBR[:, :, row]) * np.uint64(_ODD)
        state_NB ^= state_NB >> np.uint64(29)
    bands_NB[present] = (state_NB >> np.uint64(32)).astype(np.uint32)
    return bands_NB


def _sampled(pairs_P: NDArray[np.uint32], pairs_N: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The `SAMPLE` smallest hashes of each text."""
    if pairs_N.max(initial=0) <= SAMPLE:
        return pairs_P, pairs_N
    starts_P = np.repeat(np.cumsum(pairs_N) - pairs_N, pairs_N)
    return pairs_P[np.arange(len(pairs_P)) - starts_P < SAMPLE], np.minimum(pairs_N, SAMPLE)
