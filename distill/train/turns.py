"""Turns: rows a model in training is corrected on, its own or those of a data set, with what its teacher told.

A student's own turns are sampled through the engine with the weights of the moment; the teacher then reads
each, teacher-forced, through `Sampler.score_many`, as it reads rows of a data set. Seeds come from run seed,
problem and step, so a resumed step samples what the interrupted one would have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.harvest.draw import Judge, problem_seed
from distill.prompts import Chat, to_trace
from distill.records import Completion, Params, Problem, SamplerId
from distill.sampling.protocols import Sampler
from distill.selection import Ask
from distill.train.divergences import Told
from distill.train.logits import keep
from distill.train.mix import group_of
from distill.train.rollouts import Roller, Sample
from distill.train.rows import IGNORED


@dataclass(frozen=True, slots=True)
class Turn:
    """A row with the teacher's word on its loss positions."""

    token_ids: list[int]
    labels: list[int]
    """Token ids where there is loss, `IGNORED` elsewhere."""
    told: Told
    said_N: Tensor
    """The teacher's log-probability of each token with loss."""

    @property
    def positions(self) -> int:
        """Tokens that carry loss."""
        return len(self.said_N)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a student said to the problems of one step."""

    rows: list[tuple[list[int], list[int]]]
    """Token ids and labels."""
    logprob: float
    """The sampler's log-probabilities of all sampled tokens, added up."""
    length: float
    """Mean tokens of a completion."""
    truncated: float
    """Share of completions that were cut."""
    by_level: Mapping[str, float] | None
    """Share of right completions by `family/level-N`; None without a judge."""
    accuracy: float | None


class Student:
    """The model in training, speaking."""

    def __init__(
        self, engine: Roller, chat: Chat, judge: Judge | None, ask: Ask, params: Params, name: str, seed: int
    ) -> None:
        self.engine, self.chat, self.judge, self.ask, self.params = engine, chat, judge, ask, params
        self.name, self.seed = name, seed

    def speak(self, problems: Sequence[Problem], n: int, step: int) -> Spoken:
        """`n` completions of each problem with the current weights."""
        self.engine.refresh()
        prompts = [self.chat.prompt_ids(self.ask(problem)) for problem in problems]
        seeds = [problem_seed(self.seed, problem.id, step) for problem in problems]
        sampled = self.engine.rollout(prompts, self.params, n, seeds)
        said = [
            (problem, ids, sample)
            for problem, ids, samples in zip(problems, prompts, sampled, strict=True)
            for sample in samples
        ]
        right = self._judged(said, n, step)
        groups: dict[str, list[bool]] = {}
        for (problem, _, _), correct in zip(said, right or (), strict=False):
            groups.setdefault(group_of(problem), []).append(correct)
        return Spoken(
            rows=[([*ids, *sample.ids], [*[IGNORED] * len(ids), *sample.ids]) for _, ids, sample in said],
            logprob=sum(sum(sample.logprobs) for _, _, sample in said),
            length=sum(len(sample.ids) for _, _, sample in said) / len(said),
            truncated=sum(sample.finish == "length" for _, _, sample in said) / len(said),
            by_level={name: sum(rows) / len(rows) for name, rows in sorted(groups.items())} if right else None,
            accuracy=sum(right) / len(right) if right else None,
        )

    def _judged(self, said: Sequence[tuple[Problem, list[int], Sample]], n: int, step: int) -> list[bool] | None:
        """Whether each completion is right; None without a judge."""
        if self.judge is None:
            return None
        pairs = []
        for place, (problem, ids, sample) in enumerate(said):
            completion = Completion(
                text=self.chat.decode(sample.ids),
                finish=sample.finish,
                prompt_tokens=len(ids),
                completion_tokens=len(sample.ids),
            )
            trace = to_trace(
                completion,
                think_open=self.chat.think_open,
                id=f"{problem.id}:{step}:{place % n}",
                problem_id=problem.id,
                sampler=SamplerId(name=self.name, revision=f"step-{step}"),
                params=self.params,
                round=step,
                sample_index=place % n,
            )
            pairs.append((problem, trace))
        return [verdict.status == "correct" for verdict in self.judge.judge_many(pairs)]


def corrected(
    rows: Sequence[tuple[list[int], list[int]]], teacher: Sampler, top_k: int, vocabulary: int, where: str
) -> list[Turn]:
    """Rows with the teacher's word on them. `vocabulary`: real tokens of the student."""
    scores = teacher.score_many([ids for ids, _ in rows], top_k)
    turns = []
    for number, ((ids, labels), found) in enumerate(zip(rows, scores, strict=True), 1):
        loss = [label != IGNORED for label in labels]
        told = keep(found, loss, vocabulary, 1.0, f"{where}: row {number}")
        turns.append(Turn(ids, labels, told, found.logprobs[torch.tensor(loss[1:])].float()))
    return turns


def passes(turns: Sequence[Turn], budget: int) -> list[list[Turn]]:
    """Turns, longest first, in parts of at most `budget` padded tokens, one row at least."""
    parts: list[list[Turn]] = []
    for turn in sorted(turns, key=lambda turn: -len(turn.token_ids)):
        if not parts or len(parts[-1][0].token_ids) * (len(parts[-1]) + 1) > budget:
            parts.append([])
        parts[-1].append(turn)
    return parts


def batch(turns: Sequence[Turn], pad_id: int) -> tuple[Tensor, Tensor, Tensor, Told, Tensor]:
    """Ids, mask and labels (B, T), padded right; what the teacher told of their loss positions; its word on each."""
    width = max(len(turn.token_ids) for turn in turns)
    ids_BT = torch.tensor([[*turn.token_ids, *[pad_id] * (width - len(turn.token_ids))] for turn in turns])
    labels_BT = torch.tensor([[*turn.labels, *[IGNORED] * (width - len(turn.labels))] for turn in turns])
    lengths_B = torch.tensor([len(turn.token_ids) for turn in turns])
    mask_BT = (torch.arange(width) < lengths_B[:, None]).long()
    told = Told(
        torch.cat([turn.told.ids_NK for turn in turns]),
        torch.cat([turn.told.logprobs_NK for turn in turns]),
        torch.cat([turn.told.tail_N for turn in turns]),
    )
    return ids_BT, mask_BT, labels_BT, told, torch.cat([turn.said_N for turn in turns])
