"""Divergences against full-vocabulary references, against scipy, and against their own numerical gradients."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from distill.train.divergences import LIKELIEST, Told, divergence, outcomes, sampled_reverse, taught
from distill.train.objective import Objective

ROWS, KEPT, POSITIONS = 11, 4, 5
KINDS: dict[str, dict[str, Any]] = {
    "forward": {"kind": "forward-kl"},
    "reverse": {"kind": "reverse-kl"},
    "jsd": {"kind": "jsd", "beta": 0.3},
    "even jsd": {"kind": "jsd", "beta": 0.5},
}
every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of a student and log-probabilities of a teacher, float64."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, POSITIONS, ROWS, generator=generator, dtype=torch.float64) * 2
    return student, teacher.log_softmax(-1)


def told(teacher_NV: Tensor, kept: int) -> Told:
    """What a teacher with these log-probabilities tells."""
    top = teacher_NV.topk(kept, dim=-1)
    tail = 1 - top.values.exp().sum(-1)
    return Told(top.indices, top.values, tail.clamp(min=0))


def reference(p_NV: Tensor, q_NV: Tensor, fields: dict[str, Any]) -> Tensor:
    """By torch's own kl_div, from log-probabilities over all outcomes."""

    def kl(first: Tensor, second: Tensor) -> Tensor:
        return F.kl_div(second, first, reduction="none", log_target=True).sum(-1)

    if fields["kind"] == "forward-kl":
        return kl(p_NV, q_NV)
    if fields["kind"] == "reverse-kl":
        return kl(q_NV, p_NV)
    beta = fields["beta"]
    middle = (beta * p_NV.exp() + (1 - beta) * q_NV.exp()).log()
    return beta * kl(p_NV, middle) + (1 - beta) * kl(q_NV, middle)


def in_one(values_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """Log-probabilities with all but these tokens added up into one outcome, a token at a time."""
    rows = []
    for values, ids in zip(values_NV.exp().tolist(), ids_NK.tolist(), strict=True):
        rows.append([values[i] for i in ids] + [math.fsum(v for i, v in enumerate(values) if i not in ids)])
    return torch.tensor(rows, dtype=values_NV.dtype).log()


@every_kind
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_with_every_token_kept_it_is_the_full_divergence(fields: dict[str, Any], temperature: float) -> None:
    student, teacher = pair()
    found = divergence(student, told(teacher, ROWS), Objective(**fields, temperature=temperature))
    p, q = ((values / temperature).log_softmax(-1) for values in (teacher, student))
    torch.testing.assert_close(found, reference(p, q, fields) * temperature**2, rtol=1e-12, atol=1e-12)


@every_kind
def test_the_tail_is_one_outcome(fields: dict[str, Any]) -> None:
    student, teacher = pair()
    kept = told(teacher, KEPT)
    found = divergence(student, kept, Objective(**fields))
    p, q = in_one(teacher, kept.ids_NK), in_one(student.log_softmax(-1), kept.ids_NK)
    torch.testing.assert_close(found, reference(p, q, fields), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fields", [KINDS["forward"], KINDS["reverse"]], ids=["forward", "reverse"])
def test_what_the_tail_hides_is_the_divergence_inside_it(fields: dict[str, Any]) -> None:
    student, teacher = pair()
    kept = told(teacher, KEPT)
    q = student.log_softmax(-1)
    hidden = torch.zeros_like(q, dtype=torch.bool).scatter_(-1, kept.ids_NK, True)
    p_tail, q_tail = (values.masked_fill(hidden, -1e4) for values in (teacher, q))
    mass = (p_tail if fields["kind"] == "forward-kl" else q_tail).exp().sum(-1)
    inside = reference(p_tail.log_softmax(-1), q_tail.log_softmax(-1), fields)
    found = divergence(student, kept, Objective(**fields))
    full = reference(teacher, q, fields)
    torch.testing.assert_close(found + mass * inside, full, rtol=1e-9, atol=1e-12)
    assert (found < full).all()


def test_jensen_shannon_is_what_scipy_says() -> None:
    distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is not installed")
    student, teacher = pair()
    found = divergence(student, told(teacher, ROWS), Objective(**KINDS["even jsd"]))
    theirs = distance.jensenshannon(teacher.exp().numpy(), student.softmax(-1).numpy(), axis=-1) ** 2
    torch.testing.assert_close(found, torch.from_numpy(theirs), rtol=1e-9, atol=1e-12)


def test_kl_is_what_scipy_says() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    student, teacher = pair()
    p, q = teacher.exp().numpy(), student.softmax(-1).numpy()
    for fields, (first, second) in ((KINDS["forward"], (p, q)), (KINDS["reverse"], (q, p))):
        found = divergence(student, told(teacher, ROWS), Objective(**fields))
        torch.testing.assert_close(found, torch.from_numpy(stats.entropy(first, second, axis=-1)), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("beta", "kind", "scale"), [(1e-8, "forward", 1e8), (1 - 1e-8, "reverse", 1e8)])
def test_at_its_ends_the_jsd_pulls_like_a_kl(beta: float, kind: str, scale: float) -> None:
    student, teacher = pair()
    kept = told(teacher, KEPT)
    gradients = []
    for fields, factor in (({"kind": "jsd", "beta": beta}, scale), (KINDS[kind], 1.0)):
        logits = student.clone().requires_grad_()
        (divergence(logits, kept, Objective(**fields)).sum() * factor).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@every_kind
@pytest.mark.parametrize("case", ["tail", "no tail", "fewer kept at some places"])
def test_gradients_are_those_of_the_values(fields: dict[str, Any], case: str) -> None:
    student, teacher = pair()
    kept = told(teacher, ROWS if case == "no tail" else KEPT)
    if case == "fewer kept at some places":
        kept = fewer(kept)
    objective = Objective(**fields, temperature=1.7)
    logits = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: divergence(values, kept, objective), (logits,))


def fewer(kept: Told) -> Told:
    """The same with the last two tokens of every second position in the tail; ids of what is gone mean nothing."""
    gone = torch.zeros_like(kept.ids_NK, dtype=torch.bool)
    gone[::2, -2:] = True
    lost = kept.logprobs_NK.exp().masked_fill(~gone, 0).sum(-1)
    return Told(kept.ids_NK.masked_fill(gone, 0), kept.logprobs_NK.masked_fill(gone, -math.inf), kept.tail_N + lost)


@every_kind
def test_places_with_fewer_tokens_are_like_places_that_never_had_more(fields: dict[str, Any]) -> None:
    student, teacher = pair()
    ragged = divergence(student, fewer(told(teacher, KEPT)), Objective(**fields))
    for number in range(POSITIONS):
        few = told(teacher[number : number + 1], KEPT - 2 if number % 2 == 0 else KEPT)
        alone = divergence(student[number : number + 1], few, Objective(**fields))
        torch.testing.assert_close(ragged[number : number + 1], alone, rtol=1e-9, atol=1e-12)


@every_kind
def test_equal_distributions_are_not_apart_and_pull_nowhere(fields: dict[str, Any]) -> None:
    _, teacher = pair()
    logits = (teacher + 3.0).requires_grad_()
    found = divergence(logits, told(teacher, KEPT), Objective(**fields))
    found.sum().backward()
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-12)


def test_a_sampled_token_pulls_like_the_reverse_kl_on_average() -> None:
    student, teacher = pair()
    logits = student.clone().requires_grad_()
    divergence(logits, told(teacher, ROWS), Objective(**KINDS["reverse"])).sum().backward()
    expected = torch.zeros_like(student)
    value = torch.zeros(POSITIONS, dtype=torch.float64)
    for said in range(ROWS):
        chance = student.softmax(-1)[:, said]
        sampled = student.clone().requires_grad_()
        loss = sampled_reverse(sampled, torch.full((POSITIONS,), said), teacher[:, said])
        (loss * chance).sum().backward()
        assert sampled.grad is not None
        expected += sampled.grad
        value += loss.detach() * chance
    torch.testing.assert_close(expected, logits.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(value, reference(teacher, student.log_softmax(-1), KINDS["reverse"]))


def test_tokens_the_student_has_no_row_for_go_into_the_tail() -> None:
    """Qwen's vocabularies are padded to 151,936 rows in small models and to 152,064 in large ones."""
    student, teacher = pair()
    wider = torch.cat([teacher, torch.full((POSITIONS, 3), -1.5, dtype=torch.float64)], -1).log_softmax(-1)
    kept = told(wider, 8)
    assert (kept.ids_NK >= ROWS).any()
    narrow = kept.within(ROWS)
    found = divergence(student, narrow, Objective(**KINDS["forward"]))
    assert found.isfinite().all()
    assert narrow.logprobs_NK.exp().sum(-1).add(narrow.tail_N).tolist() == pytest.approx([1.0] * POSITIONS)
    for number in range(POSITIONS):
        ids = kept.ids_NK[number][kept.ids_NK[number] < ROWS][None]
        p, q = in_one(wider[number : number + 1], ids), in_one(student.log_softmax(-1)[number : number + 1], ids)
        torch.testing.assert_close(found[number], reference(p, q, KINDS["forward"])[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fields", [*KINDS.values(), {"kind": "sampled-reverse-kl"}], ids=[*KINDS, "sampled"])
def test_in_parts_it_is_the_same_with_few_logits_at_a_time(fields: dict[str, Any]) -> None:
    _, teacher = pair()
    objective = Objective(**fields)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(POSITIONS, 6, generator=generator, dtype=torch.float64)
    heads = [torch.nn.Linear(6, ROWS, bias=False, dtype=torch.float64) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    following = torch.arange(POSITIONS)
    said = teacher.gather(-1, following[:, None]).squeeze(-1)
    largest = []
    heads[1].register_forward_hook(lambda module, args, output: largest.append(len(output)))
    gradients, sums = [], []
    for head, at_once in zip(heads, (POSITIONS, 2), strict=True):
        hidden_ND = hidden.clone().requires_grad_()
        found = taught(hidden_ND, head, following, told(teacher, KEPT), objective, said_N=said, at_once=at_once)
        (found.cross_entropy * 0.3 + found.divergence).backward()
        gradients.append((hidden_ND.grad, head.weight.grad))
        sums.append(found)
    assert max(largest) == 2
    assert len(largest) == 6  # three parts, computed again in the backward pass
    torch.testing.assert_close(gradients[0], gradients[1])
    for name in ("cross_entropy", "divergence", "shared", "teacher_mass", "student_mass", "entropy_gap"):
        torch.testing.assert_close(getattr(sums[0], name), getattr(sums[1], name))
    assert sums[1].positions == POSITIONS


def test_agreement_counts_shared_tokens_and_their_mass() -> None:
    rows = LIKELIEST + 4
    ranks = torch.arange(rows, dtype=torch.float64)
    teacher = (-ranks / 4).log_softmax(-1)[None]
    student = (-ranks.roll(2) / 4)[None]  # its likeliest begin with two others
    hidden, head = torch.ones(1, 1, dtype=torch.float64), torch.nn.Linear(1, rows, bias=False, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(student.T)
    found = taught(hidden, head, torch.tensor([0]), told(teacher, rows), Objective(), at_once=1)
    both = set(teacher[0].topk(LIKELIEST).indices.tolist()) & set(student[0].topk(LIKELIEST).indices.tolist())
    assert float(found.shared) == pytest.approx(len(both) / LIKELIEST)
    assert float(found.teacher_mass) == pytest.approx(sum(float(teacher[0, i].exp()) for i in both))
    assert float(found.student_mass) == pytest.approx(sum(float(student[0].softmax(-1)[i]) for i in both))
    entropies = [float(-(p.exp() * p).sum()) for p in (teacher, student.log_softmax(-1))]
    assert float(found.entropy_gap) == pytest.approx(abs(entropies[0] - entropies[1]), abs=1e-9)


def test_low_precision_logprobs_change_little() -> None:
    student, teacher = pair()
    kept = told(teacher, KEPT)
    coarse = Told(kept.ids_NK, kept.logprobs_NK.half().double(), kept.tail_N.half().double())
    for fields in KINDS.values():
        exact, stored = (divergence(student, what, Objective(**fields)) for what in (kept, coarse))
        torch.testing.assert_close(stored, exact, rtol=0, atol=2e-3)


def test_outcomes_are_distributions() -> None:
    student, teacher = pair()
    for what in (told(teacher, KEPT), fewer(told(teacher, KEPT)), told(teacher, ROWS)):
        p, q, absent = outcomes(student, what)
        for side in (p, q):
            torch.testing.assert_close(side.exp().sum(-1), torch.ones(POSITIONS, dtype=torch.float64))
            assert side[absent].exp().sum() == 0


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "jsd"}, "beta: needed with kind = 'jsd'"),
        ({"kind": "forward-kl", "beta": 0.5}, "beta: needed with kind = 'jsd'"),
        ({"kind": "sampled-reverse-kl", "temperature": 2.0}, "temperature: sampled-reverse-kl compares"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Objective(**fields)
