"""Divergences: how far a student's next-token distribution is from its teacher's, a token, with gradients.

A teacher tells its K likeliest tokens and the mass of all others, the tail. Both distributions are
compared over K + 1 outcomes, the tail being one of them. With p the teacher's, q the student's:

    forward KL     sum p log(p / q)                              Hinton et al. 2015, arXiv 1503.02531
    reverse KL     sum q log(q / p)                              MiniLLM, arXiv 2306.08543, eq. 1
    JSD(beta)      beta KL(p | m) + (1 - beta) KL(q | m), m = beta p + (1 - beta) q
                                                                 GKD, arXiv 2306.13649, section 2

Bias of the tail: by the chain rule of KL the full divergence is what is computed here plus a term that is
never negative: t_p KL(p_tail | q_tail) forward, t_q KL(q_tail | p_tail) reverse, and for JSD the same two
against the mixture's tail, weighted by beta and 1 - beta; t is the mass of a tail, p_tail what is inside it.
So this is a lower bound, exact when K covers the vocabulary, and it says nothing about which of the tail's
tokens are likely. Dropping the tail and renormalizing instead would let the student's tail grow unseen.

A temperature T tempers the K + 1 outcomes, p_i^(1/T) / sum p^(1/T), on both sides, and multiplies by T^2
(Hinton, section 2.1). With a tail that is not the tempered full distribution, whose tail would gain more.

What is not covered: gradients through what was sampled (as in GKD); teachers with another tokenizer.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.train.objective import Objective

# N positions, K tokens kept of the teacher, V rows of the student's head, D model width, S likeliest compared

SMALLEST_TAIL = 1e-6
"""A tail below this is the rounding error of a sum of float32 probabilities. In a reverse KL it bounds what the
student's tail costs: 13.8 nats."""
NOWHERE = -1e4
"""Stands for log 0 where both sides have no outcome: finite, so that 0 x (log p - log q) is 0 and not NaN."""
LIKELIEST = 16
"""Tokens of either side that agreement compares; arXiv 2604.13016 compares top-k sets."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a teacher tells of N positions."""

    ids_NK: Tensor
    """int64, likeliest first; anything where nothing was kept."""
    logprobs_NK: Tensor
    """Natural log-probabilities, -inf where nothing was kept. One at least is kept at every position."""
    tail_N: Tensor
    """Mass of all other tokens."""

    def at(self, part: slice) -> "Told":
        """Some of the positions."""
        return Told(self.ids_NK[part], self.logprobs_NK[part], self.tail_N[part])

    def to(self, device: torch.device) -> "Told":
        """On another device."""
        return Told(self.ids_NK.to(device), self.logprobs_NK.to(device), self.tail_N.to(device))

    def within(self, rows: int) -> "Told":
        """For a student of so many vocabulary rows: what it has no row for goes into the tail."""
        lost_NK = self.ids_NK >= rows
        mass_N = self.logprobs_NK.exp().masked_fill(~lost_NK, 0.0).sum(-1)
        return Told(
            self.ids_NK.masked_fill(lost_NK, 0),
            self.logprobs_NK.masked_fill(lost_NK, -math.inf),
            self.tail_N + mass_N,
        )


@dataclass(slots=True)
class Sums:
    """Sums over positions; the first two carry gradients."""

    cross_entropy: Tensor
    """-log q of the token that follows, nats."""
    divergence: Tensor
    """As the objective says, T^2 included."""
    shared: Tensor
    """|teacher's likeliest and student's likeliest| / S: the overlap ratio of arXiv 2604.13016."""
    teacher_mass: Tensor
    """The teacher's probability of the shared tokens."""
    student_mass: Tensor
    """The student's probability of the shared tokens."""
    entropy_gap: Tensor
    """|H(p) - H(q)| over the K + 1 outcomes, nats."""
    positions: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but the count, in order."""
        return (
            self.cross_entropy,
            self.divergence,
            self.shared,
            self.teacher_mass,
            self.student_mass,
            self.entropy_gap,
        )

    def detached(self) -> "Sums":
        """Without gradients."""
        first, second, third, fourth, fifth, sixth = (value.detach() for value in self.tensors)
        return Sums(first, second, third, fourth, fifth, sixth, self.positions)


def divergence(logits_NV: Tensor, told: Told, objective: Objective) -> Tensor:
    """(N,) in nats and float32 (float64 where logits are); gradients reach `logits_NV` alone.

    `objective.kind` is one of those over distributions, not the sampled one.
    """
    p_NM, q_NM, absent_NM = outcomes(logits_NV, told)
    return _between(p_NM, q_NM, absent_NM, objective)


def sampled_reverse(logits_NV: Tensor, said_N: Tensor, teacher_N: Tensor) -> Tensor:
    """(N,) log q(said) - log p(said), whose gradient is that of the reverse KL at a token in expectation.

    Thinking Machines' on-policy distillation (Lu 2025): a policy gradient whose advantage is -(log q - log p).
    The value is that estimate, the gradient is (log q - log p) grad log q; grad log q alone has mean 0 over q.
    """
    said_logq_N = -F.cross_entropy(logits_NV, said_N, reduction="none")
    gap_N = (said_logq_N - teacher_N).detach()
    return gap_N + gap_N * (said_logq_N - said_logq_N.detach())


def outcomes(logits_NV: Tensor, told: Told) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher and student over the K tokens and the tail: log-probabilities (N, K + 1), and which are no outcome."""
    kept_NK = told.logprobs_NK.isfinite()
    ids_NK = torch.where(kept_NK, told.ids_NK, told.ids_NK.gather(-1, kept_NK.long().argmax(-1, keepdim=True)))
    whole_N1 = logits_NV.logsumexp(-1, keepdim=True)
    chosen_NV = torch.zeros_like(logits_NV, dtype=torch.bool).scatter_(-1, ids_NK, True)
    tail_N1 = logits_NV.masked_fill(chosen_NV, -math.inf).logsumexp(-1, keepdim=True) - whole_N1
    no_tail_N1 = kept_NK.sum(-1, keepdim=True) >= logits_NV.shape[-1]
    absent_NM = torch.cat([~kept_NK, no_tail_N1], -1)
    q_NM = torch.cat([logits_NV.gather(-1, ids_NK) - whole_N1, tail_N1], -1).masked_fill(absent_NM, -math.inf)
    tail_logp_N1 = told.tail_N.to(logits_NV.dtype).clamp(min=SMALLEST_TAIL).log()[:, None]
    p_NM = torch.cat([told.logprobs_NK.to(logits_NV.dtype), tail_logp_N1], -1).masked_fill(absent_NM, -math.inf)
    return p_NM.log_softmax(-1), q_NM, absent_NM


def _between(p_NM: Tensor, q_NM: Tensor, absent_NM: Tensor, objective: Objective) -> Tensor:
    temperature = objective.temperature
    p_NM = (p_NM / temperature).log_softmax(-1).masked_fill(absent_NM, NOWHERE)
    q_NM = (q_NM / temperature).log_softmax(-1).masked_fill(absent_NM, NOWHERE)
    if objective.kind == "forward-kl":
        found_N = _kl(p_NM, q_NM)
    elif objective.kind == "reverse-kl":
        found_N = _kl(q_NM, p_NM)
    else:
        assert objective.beta is not None, "checked with the table"
        shares = math.log(objective.beta), math.log(1 - objective.beta)
        m_NM = torch.logaddexp(p_NM + shares[0], q_NM + shares[1])
        found_N = objective.beta * _kl(p_NM, m_NM) + (1 - objective.beta) * _kl(q_NM, m_NM)
    return found_N * temperature**2


def _kl(from_NM: Tensor, to_NM: Tensor) -> Tensor:
    return (from_NM.exp() * (from_NM - to_NM)).sum(-1)


def taught(
    hidden_ND: Tensor,
    head: torch.nn.Module,
    next_N: Tensor,
    told: Told,
    objective: Objective,
    *,
    said_N: Tensor | None = None,
    at_once: int,
) -> Sums:
    """Losses of N positions from hidden states, at most `at_once` rows of logits in memory.

    `next_N`: the token that follows each position. `said_N`: for the sampled kind, the teacher's log-probability of
    it. Several parts are computed again in the backward pass (activation checkpointing), which is what bounds memory.
    """
    parts = [slice(first, first + at_once) for first in range(0, len(hidden_ND), at_once)]

    def one(part_ND: Tensor, part: slice) -> tuple[Tensor, ...]:
        logits_NV = head(part_ND)
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        said = None if said_N is None else said_N[part]
        return _sums(logits_NV, next_N[part], told.at(part), objective, said)

    found: Iterable[tuple[Tensor, ...]]
    if len(parts) == 1:
        found = [one(hidden_ND, parts[0])]
    else:
        found = [
            checkpoint(one, hidden_ND[part], part, use_reentrant=False, preserve_rng_state=False) for part in parts
        ]
    cross_entropy, apart, shared, teacher_mass, student_mass, entropy_gap = (
        torch.stack(column).sum() for column in zip(*found, strict=True)
    )
    return Sums(cross_entropy, apart, shared, teacher_mass, student_mass, entropy_gap, len(hidden_ND))


def _sums(
    logits_NV: Tensor, next_N: Tensor, told: Told, objective: Objective, said_N: Tensor | None
) -> tuple[Tensor, ...]:
    """The fields of `Sums`, in order, positions left out."""
    cross_entropy = F.cross_entropy(logits_NV, next_N, reduction="sum")
    p_NM, q_NM, absent_NM = outcomes(logits_NV, told)
    if objective.kind == "sampled-reverse-kl":
        assert said_N is not None, "the sampled kind needs the teacher's word on what was said"
        apart_N = sampled_reverse(logits_NV, next_N, said_N)
    else:
        apart_N = _between(p_NM, q_NM, absent_NM, objective)
    with torch.no_grad():
        agreed = _agreement(logits_NV, told, p_NM, q_NM, absent_NM)
    return (cross_entropy, apart_N.sum(), *agreed)


def _agreement(
    logits_NV: Tensor, told: Told, p_NM: Tensor, q_NM: Tensor, absent_NM: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over positions of the metrics in arXiv 2604.13016, section 3: overlap, its masses, entropy gap."""
    most = min(LIKELIEST, told.ids_NK.shape[-1], logits_NV.shape[-1])
    theirs_NS, kept_NS = told.ids_NK[:, :most], told.logprobs_NK[:, :most].isfinite()
    counts_N = kept_NS.sum(-1)
    ours_NS = logits_NV.topk(most, dim=-1).indices
    within_NS = torch.arange(most, device=counts_N.device) < counts_N[:, None]  # of as many as the teacher kept
    both_NS = ((theirs_NS[:, :, None] == ours_NS[:, None, :]) & within_NS[:, None, :]).any(-1) & kept_NS
    shared_N = both_NS.sum(-1) / counts_N
    p_NS = p_NM[:, :most].exp().masked_fill(~both_NS, 0.0)
    q_NS = q_NM[:, :most].exp().masked_fill(~both_NS, 0.0)
    gap_N = (_entropy(p_NM, absent_NM) - _entropy(q_NM, absent_NM)).abs()
    return shared_N.sum(), p_NS.sum(), q_NS.sum(), gap_N.sum()


def _entropy(p_NM: Tensor, absent_NM: Tensor) -> Tensor:
    p_NM = p_NM.masked_fill(absent_NM, NOWHERE)
    return -(p_NM.exp() * p_NM).sum(-1)
