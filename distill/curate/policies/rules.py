"""Rules: what each policy says about the rows that are left.

A rule gets every row, the indices still in play and its table, and returns a refusal for
each index it does not take. Groups are per problem or over the whole set; ties are broken
by lots that depend on the trace's id, so no rule sees the order of the rows.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.curate.content.finding import Finding
from distill.curate.divergence import most_divergent
from distill.curate.policies.config import (
    All,
    Balanced,
    Divergence,
    Diverse,
    Majority,
    MixGeneral,
    MixLength,
    PassRate,
    Sample,
    Scored,
    Shortest,
    Trait,
    Verified,
)
from distill.curate.policies.draw import in_shares, length, lot, spread
from distill.curate.policies.majority import relabel
from distill.curate.row import Row
from distill.errors import UserError, shown
from distill.judge.votes import Vote
from distill.simhash import distance


@dataclass(frozen=True, slots=True)
class Given:
    """What policies know beside the rows."""

    seed: int
    drawn: Sequence[Row]
    """Every trace of the harvests, whatever filter dropped it: all of them vote."""
    in_process: bool = False
    """Believe a judge that its program could reach."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """By trace id: what a reward model or an LLM judge said."""
    divergences: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    """By (student's, teacher's) measure step, of each trace id: `distill.curate.divergence`."""


Relabeled = dict[int, Vote]
Refusals = dict[int, Finding]
Rule = Callable[[Sequence[Row], Sequence[int], Any, Given, Relabeled], Refusals]
FORGEABLE = ("none", "in-process")
"""Isolation under which a hostile program could have written its own verdict."""


def everything(rows: Sequence[Row], left: Sequence[int], policy: All, given: Given, relabeled: Relabeled) -> Refusals:
    """Refuses nothing."""
    return {}


def correct_only(
    rows: Sequence[Row], left: Sequence[int], policy: Verified | Shortest | Diverse, given: Given, relabeled: Relabeled
) -> Refusals:
    """Refuses, under its own name, every verdict but `correct`; a majority label counts as gold."""
    refused = {}
    for index in left:
        row = rows[index]
        if row.kind == "open" and policy.open == "keep":
            continue
        vote = relabeled.get(row.problem)
        if vote is not None and row.extracted in vote.said:
            continue
        if row.status != "correct":
            refused[index] = Finding(row.status, _said(row), "correct", f"its verdict is {row.status}")
        elif row.isolation in FORGEABLE and not (given.in_process and row.isolation == "in-process"):
            said = "the program could reach its judge"
            refused[index] = Finding("not-isolated", str(row.isolation), "process", said)
    return refused


def shortest(
    rows: Sequence[Row], left: Sequence[int], policy: Shortest, given: Given, relabeled: Relabeled
) -> Refusals:
    """The k shortest of each problem, by tokens."""
    refused = correct_only(rows, left, policy, given, relabeled)

    def rank(index: int) -> tuple[int, int]:
        return length(rows[index]), lot(given.seed, "shortest", rows[index].trace_id)

    for group in _by_problem(rows, left, refused, policy.open):
        ranked = sorted(group, key=rank)
        longest = length(rows[ranked[min(policy.k, len(ranked)) - 1]])
        for index in ranked[policy.k :]:
            tokens = length(rows[index])
            said = f"{tokens:,} tokens, the {policy.k} taken have at most {longest:,}"
            refused[index] = Finding("longer", tokens, longest, said)
    return refused


def diverse(rows: Sequence[Row], left: Sequence[int], policy: Diverse, given: Given, relabeled: Relabeled) -> Refusals:
    """k of each problem, each as far as possible from those taken before (Gonzalez 1985, farthest first)."""
    refused = correct_only(rows, left, policy, given, relabeled)
    for group in _by_problem(rows, left, refused, policy.open):
        assert all(rows[index].sketch for index in group), "rows are sketched while their texts are in hand"
        waiting = sorted(group, key=lambda index: lot(given.seed, "diverse", rows[index].trace_id))
        taken = [waiting.pop(0)]
        gaps = {index: distance(rows[index].sketch, rows[taken[0]].sketch) for index in waiting}
        while waiting and len(taken) < policy.k:
            farthest = max(waiting, key=gaps.__getitem__)  # the first of equals, in order of lots
            if gaps[farthest] < policy.min_distance:
                break
            waiting.remove(farthest)
            taken.append(farthest)
            for index in waiting:
                gaps[index] = min(gaps[index], distance(rows[index].sketch, rows[farthest].sketch))
        for index in waiting:
            full = len(taken) >= policy.k
            reason, threshold = ("less-diverse", policy.k) if full else ("too-alike", policy.min_distance)
            said = f"{gaps[index]:.2f} from the nearest of {len(taken)} taken of its problem"
            refused[index] = Finding(reason, round(gaps[index], 4), threshold, said)
    return refused


def majority(
    rows: Sequence[Row], left: Sequence[int], policy: Majority, given: Given, relabeled: Relabeled
) -> Refusals:
    """Writes new labels into `relabeled` and refuses what a majority contradicts."""
    relabeled |= relabel(given.drawn, policy)
    refused = {}
    for index in left:
        row = rows[index]
        vote = relabeled.get(row.problem)
        if vote is not None and row.extracted not in vote.said:
            said = f"{vote.votes} of {vote.voters} samples say {shown(vote.answer)}"
            refused[index] = Finding("minority", _said(row), shown(vote.answer), said)
    return refused


def pass_rate(
    rows: Sequence[Row], left: Sequence[int], policy: PassRate, given: Given, relabeled: Relabeled
) -> Refusals:
    """Problems by the share of correct traces among all that were judged; open problems have none and pass.

    Under a majority label the votes for it are the correct ones.
    """
    refused = {}
    for index in left:
        row = rows[index]
        vote = relabeled.get(row.problem)
        if row.kind == "open" and vote is None:
            continue
        n, right = row.attempts, row.correct
        if vote is not None:  # none was correct under the old label
            n, right = max(n, vote.voters), vote.votes
        said = f"{right} of {n} samples of its problem are correct"
        if n < policy.samples:
            refused[index] = Finding("few-samples", n, policy.samples, said)
        elif right / n < policy.low:
            refused[index] = Finding("too-hard", round(right / n, 4), policy.low, said)
        elif right / n > policy.high:
            refused[index] = Finding("too-easy", round(right / n, 4), policy.high, said)
    return refused


def balanced(
    rows: Sequence[Row], left: Sequence[int], policy: Balanced, given: Given, relabeled: Relabeled
) -> Refusals:
    """As many of each group; within one, every problem is drawn from once before any is drawn from twice."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index in left:
        groups[tuple(TRAITS[trait](rows[index]) for trait in policy.by)].append(index)
    sizes = {name: len(group) for name, group in groups.items()}
    if policy.total is not None:
        quotas = spread(sizes, policy.total)
    else:
        quotas = dict.fromkeys(sizes, policy.quota or min(sizes.values(), default=0))
    refused = {}
    for name, group in groups.items():
        for index in _in_turns(rows, group, given.seed)[quotas[name] :]:
            said = f"{', '.join(name)}: {quotas[name]:,} of {sizes[name]:,} are taken"
            refused[index] = Finding("over-quota", sizes[name], quotas[name], said)
    return refused


def mix_length(
    rows: Sequence[Row], left: Sequence[int], policy: MixLength, given: Given, relabeled: Relabeled
) -> Refusals:
    """The largest mix in which short traces make up their share."""
    short = [index for index in left if length(rows[index]) <= policy.short_tokens]
    return _mixed(rows, left, short, policy.short_share, "mix-length", ("short", "long"), given.seed)


def mix_general(
    rows: Sequence[Row], left: Sequence[int], policy: MixGeneral, given: Given, relabeled: Relabeled
) -> Refusals:
    """The largest mix in which general traces make up their share."""
    general = [
        index
        for index in left
        if (rows[index].source in policy.sources if policy.sources else rows[index].kind == "open")
    ]
    return _mixed(rows, left, general, policy.share, "mix-general", ("general", "reasoning"), given.seed)


def scored(rows: Sequence[Row], left: Sequence[int], policy: Scored, given: Given, relabeled: Relabeled) -> Refusals:
    """What a scores file says, on top of verdicts."""
    refused = {}
    for index in left:
        score = given.scores.get(rows[index].trace_id)
        if score is None:
            said = "the scores file does not name it"
            refused[index] = Finding("no-score", "none", policy.at_least, said)
        elif score < policy.at_least:
            refused[index] = Finding("low-score", score, policy.at_least, f"scored {score:g}")
    return refused


def divergence(
    rows: Sequence[Row], left: Sequence[int], policy: Divergence, given: Given, relabeled: Relabeled
) -> Refusals:
    """Of each problem the traces with the highest divergence of teacher and student."""
    known = given.divergences[policy.student, policy.teacher]
    refused: Refusals = {}
    ids: dict[str, int] = {}
    for index in left:
        value = known.get(rows[index].trace_id)
        if value is None:
            said = f"{policy.student} or {policy.teacher} has no loss of it"
            refused[index] = Finding("not-measured", "none", None, said)
        elif value < policy.at_least:
            refused[index] = Finding("low-divergence", value, policy.at_least, f"divergence {value:.3f}")
        else:
            ids[rows[index].trace_id] = index
    values = {trace_id: known[trace_id] for trace_id in ids}
    problems = {trace_id: str(rows[index].problem) for trace_id, index in ids.items()}
    chosen = dict.fromkeys(most_divergent(values, policy.k, problems))
    least = {problems[trace_id]: values[trace_id] for trace_id in chosen}  # best first, so the last one stays
    for trace_id, value in values.items():
        if trace_id in chosen:
            continue
        bar = least[problems[trace_id]]
        said = f"divergence {value:.3f}, the {policy.k} taken of its problem have at least {bar:.3f}"
        refused[ids[trace_id]] = Finding("less-divergent", value, bar, said)
    return refused


def sample(rows: Sequence[Row], left: Sequence[int], policy: Sample, given: Given, relabeled: Relabeled) -> Refusals:
    """A number of rows, every subset equally likely. The draw depends on the size: smaller ones are no part of it."""
    if len(left) < policy.size:
        raise UserError(
            f"sample: size: expected at most {len(left):,}, which are left to draw from, got {policy.size:,}"
        )
    purpose = f"sample of {policy.size}"
    ranked = sorted(left, key=lambda index: lot(given.seed, purpose, rows[index].trace_id))
    said = f"{policy.size:,} of {len(left):,} are drawn"
    return {index: Finding("not-drawn", len(left), policy.size, said) for index in ranked[policy.size :]}


RULES: dict[type, Rule] = {
    All: everything,
    Verified: correct_only,
    Shortest: shortest,
    Diverse: diverse,
    Majority: majority,
    PassRate: pass_rate,
    Balanced: balanced,
    MixLength: mix_length,
    MixGeneral: mix_general,
    Scored: scored,
    Divergence: divergence,
    Sample: sample,
}


def _said(row: Row) -> str:
    return "no answer" if row.extracted is None else shown(row.extracted)


def _doubling(row: Row) -> str:
    below = 1 << max(length(row).bit_length() - 1, 0)
    return f"{below}-{2 * below - 1} tokens"


TRAITS: dict[Trait, Callable[[Row], str]] = {
    "level": lambda row: f"level {row.level}",
    "subject": lambda row: str(row.subject or "no subject"),
    "length": _doubling,
    "source": lambda row: row.source,
    "origin": lambda row: row.origin,
}
"""How a row names its group."""


def _by_problem(rows: Sequence[Row], left: Sequence[int], refused: Refusals, open_: str) -> Iterable[list[int]]:
    """What is left of each problem; open problems that are let by untouched do not take part."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index in left:
        if index not in refused and not (rows[index].kind == "open" and open_ == "keep"):
            groups[rows[index].problem].append(index)
    return groups.values()


def _in_turns(rows: Sequence[Row], group: Sequence[int], seed: int) -> list[int]:
    """In order of lots, but every problem's first before any problem's second."""
    turn: Counter[int] = Counter()
    ranked = []
    for index in sorted(group, key=lambda index: lot(seed, "balanced", rows[index].trace_id)):
        ranked.append((turn[rows[index].problem], index))
        turn[rows[index].problem] += 1
    return [index for _, index in sorted(ranked, key=lambda pair: pair[0])]


def _mixed(
    rows: Sequence[Row],
    left: Sequence[int],
    first: Sequence[int],
    share: float,
    policy: str,
    names: tuple[str, str],
    seed: int,
) -> Refusals:
    inside = set(first)
    second = [index for index in left if index not in inside]
    if not first or not second:
        missing = names[0] if not first else names[1]
        raise UserError(f"{policy}: none of {len(left):,} traces is {missing}, so there is nothing to mix")
    refused = {}
    for name, group, quota in zip(names, (first, second), in_shares(len(first), len(second), share), strict=True):
        for index in sorted(group, key=lambda index: lot(seed, policy, rows[index].trace_id))[quota:]:
            said = f"{quota:,} of {len(group):,} {name} traces are taken"
            refused[index] = Finding(f"over-share-{name}", len(group), quota, said)
    return refused
