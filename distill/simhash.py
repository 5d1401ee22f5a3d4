"""Sketch: 64 bits of a text, in which like texts differ in few (SimHash, Charikar 2002, section 3).

Each bit is the sign of a sum over the text's features of a random +1 or -1, so the share of
differing bits estimates the angle between two texts' feature counts over pi: 0 for equal
texts, about 0.5 for texts that share nothing. Features are words and pairs of neighbors,
so that the order of the steps of a solution counts, not its vocabulary alone.
Measures wording, not meaning: two paths to an answer in the same words look alike.
"""

import hashlib
import re
from collections import Counter
from itertools import pairwise

import numpy as np

BITS = 64
TOKEN = re.compile(r"[^\W_]+|[^\w\s]")
"""A word, or a single sign: in mathematics signs are half of what is said."""


def sketch(text: str) -> int:
    """64-bit SimHash of a text's words, signs and their neighboring pairs; 0 for a text without any."""
    tokens = TOKEN.findall(text.lower())
    features = Counter[str](tokens)
    features.update(f"{a} {b}" for a, b in pairwise(tokens))
    if not features:
        return 0
    digests = b"".join(hashlib.blake2b(feature.encode(), digest_size=BITS // 8).digest() for feature in features)
    bits_FB = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(len(features), -1), axis=1)  # F features, B bits
    counts_F = np.fromiter(features.values(), np.int64, len(features))
    sums_B = counts_F @ (2 * bits_FB.astype(np.int64) - 1)
    return int.from_bytes(np.packbits(sums_B > 0).tobytes(), "big") or 1


def distance(a: int, b: int) -> float:
    """Share of the bits in which two sketches differ."""
    return (a ^ b).bit_count() / BITS
