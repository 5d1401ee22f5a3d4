"""Pass@k and McNemar's test: what comparing checkpoints needs beside `distill.intervals`. Closed form both."""

import math


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of k samples is right, unbiased (Chen et al. 2021, equation 1).

    1 - C(samples - correct, k) / C(samples, k), as a product so that no number grows large.
    """
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must be in 0..{samples}, got {correct}")
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, got {samples}")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value that a and b are equally good, from the problems only one of them solved."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**discordant))
