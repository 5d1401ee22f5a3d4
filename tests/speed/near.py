"""Near duplicates against `datasketch.MinHashLSH` as its documentation uses it, on one corpus in one process each.

Both get the same planted corpus, the same tokens, pairs of neighbors, permutations and threshold,
and one process. The peer keeps a text when `query` finds nothing, and inserts it. It knows no
figures, so a changed number is a duplicate to it: recall and false drops stand beside the seconds.
`python -m tests.speed.near` prints CSV.
"""

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH

from distill.curate.near import NearConfig, near_duplicates
from distill.curate.normalize import tokens
from distill.curate.sketch import BANDS, ROWS
from distill.progress import Progress
from tests.audit_near import FALSE_DROPS, RECALL, Score, scored
from tests.near_prompts import corpus

ORIGINALS, COPIES = 20_000, 2_000


def ours(texts: Sequence[str]) -> list[int]:
    """This toolkit, without child processes."""
    return near_duplicates(texts, NearConfig(), workers=1, progress=Progress("quiet")).tolist()


def peer(texts: Sequence[str]) -> list[int]:
    """The index of the earliest text the peer finds; its own if none."""
    permutations = BANDS * ROWS
    index = MinHashLSH(threshold=NearConfig().threshold, num_perm=permutations)
    answer = []
    for number, text in enumerate(texts):
        pairs = {" ".join(pair).encode("utf-8", "surrogatepass") for pair in itertools.pairwise(tokens(text))}
        signature = MinHash(num_perm=permutations)
        signature.update_batch(pairs)
        found = index.query(signature)
        if not found:
            index.insert(number, signature)
        answer.append(min(found, default=number))
    return answer


def timed(find: Callable[[Sequence[str]], list[int]]) -> tuple[float, Score]:
    """CPU seconds, because the machine may be shared, and what was found."""
    prompts = corpus(ORIGINALS, COPIES, 0)
    texts = [prompt.text for prompt in prompts]
    begun = time.process_time()
    answer = find(texts)
    seconds = time.process_time() - begun
    questions_N = np.array([prompt.question for prompt in prompts])
    return seconds, scored(np.array(answer), questions_N, [prompt.how for prompt in prompts])


def main() -> None:
    """One row each; ours must be right before it is timed against anyone."""
    print("what,prompts,cpu_seconds,ratio,recall,false_drops")
    seconds, score = timed(ours)
    assert score.recall >= RECALL
    assert score.false_drops <= FALSE_DROPS
    theirs, other = timed(peer)
    total = ORIGINALS + COPIES
    print(f"near_duplicates,{total},{seconds:.2f},1.00,{score.recall:.4f},{score.false_drops:.5f}")
    print(
        f"datasketch MinHashLSH,{total},{theirs:.2f},{theirs / seconds:.2f},{other.recall:.4f},{other.false_drops:.5f}"
    )


if __name__ == "__main__":
    main()
