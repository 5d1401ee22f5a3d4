"""Engine: many prompts through one decoder, rows joining and leaving at every step.

Continuous batching after Orca (Yu et al. 2022): a finished row leaves at once and waiting
samples take its place. A prompt is prefilled once for all its samples, which then get a
copy of its cache. One slot of the cache is one row of fixed capacity; paged blocks would
change `Decoder.copy` and the slot numbers here, nothing else. Not safe for two threads.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill.errors import UserError
from distill.prompts import Chat
from distill.records import Finish, Params
from distill.sampling.engine.rows import Rows
from distill.sampling.engine.stops import StopStrings
from distill.sampling.protocols import Decoder

PREFILL_TOKENS = 8192
"""Padded tokens of one prefill call: bounds its memory."""
REFILL_SHARE = 16
"""Refill when 1/16 of the slots are free: a prefill of one prompt costs about as much as one of several.
Measured with 64 slots on mini-95k: about a fifth more tokens a second than refilling at once, as many as at 1/8."""


@dataclass(frozen=True, slots=True)
class RolledOut:
    """One sample as token ids, its end token included."""

    ids: list[int]
    logprobs: list[float]
    finish: Finish


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt and the seeds of the samples wanted from it."""

    name: str
    prompt_ids: list[int]
    params: Params
    seeds: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Group:
    """A job under way."""

    job: Job
    stop_set: int
    started: int = 0
    logits: Tensor | None = None
    """What follows the prompt; kept until the last sample has started."""
    results: dict[int, RolledOut] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Sample:
    """What runs in a row: sample `index` of a group."""

    group: _Group
    index: int


class Engine:
    """Samples from a decoder, `slots` rows at a time."""

    def __init__(
        self,
        decoder: Decoder,
        chat: Chat,
        *,
        slots: int,
        capacity: int,
        device: str | torch.device = "cpu",
        end_ids: Iterable[int] = (),
    ) -> None:
        """`capacity` is the longest prompt plus completion; `end_ids` end a row beside the chat's own end token."""
        self.decoder, self.chat, self.slots, self.capacity = decoder, chat, slots, capacity
        self.device = torch.device(device)
        self.end_ids = {chat.end_id, *end_ids}
        decoder.allocate(slots, capacity)
        self.rows = Rows(slots, capacity, decoder.vocab_size, self.end_ids, self.device)
        self.stops = StopStrings(chat, decoder.vocab_size, self.device)
        self.running: list[_Sample] = []
        self.waiting: deque[_Group] = deque()
        self.busy = False

    def refresh(self) -> None:
        """Re-read the weights of a live model after a training step."""
        assert not self.busy, "refresh while a run is under way"
        self.decoder.refresh()

    def rollout(self, prompt_ids: list[list[int]], params: Params, n: int, seeds: list[int]) -> list[list[RolledOut]]:
        """`n` samples of every prompt, in the order given; sample k of prompt i is seeded `seeds[i] + k`."""
        asked = zip(prompt_ids, seeds, strict=True)
        jobs = [Job(str(i), ids, params, tuple(seed + k for k in range(n))) for i, (ids, seed) in enumerate(asked)]
        answers = {job.name: samples for job, samples in self.run(jobs)}
        return [answers[job.name] for job in jobs]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[RolledOut]]]:
        """Jobs with their samples, in order of completion. Reads at most `slots` samples ahead."""
        assert not self.busy, "one run at a time: the cache is shared"
        self.busy = True
        try:
            yield from self._run(iter(jobs))
        finally:
            self.busy = False
            self.running.clear()
            self.waiting.clear()

    def _run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[RolledOut]]]:
        while True:
            self._read_ahead(jobs)
            if not self.waiting and not self.running:
                return
            if self._fill():
                yield from self._collect()  # a first token may be a last one
            if self.running:
                self._step()
                yield from self._collect()

    def _read_ahead(self, jobs: Iterator[Job]) -> None:
        ahead = sum(len(group.job.seeds) - group.started for group in self.waiting)
        while ahead < self.slots:
            job = next(jobs, None)
            if job is None:
                return
            self._check(job)
            self.waiting.append(_Group(job, self.stops.index(job.params.stop)))
            ahead += len(job.seeds)

    def _check(self, job: Job) -> None:
        length, wanted = len(job.prompt_ids), job.params.max_tokens
        if length == 0:
            raise UserError(f"{job.name}: the prompt has no tokens")
        if not job.seeds:
            raise UserError(f"{job.name}: asks for no samples (n is 0)")
        if "" in job.params.stop:
            raise UserError(f"{job.name}: stop: an empty string would end every completion")
        if length + wanted > self.capacity:
            raise UserError(
                f"{job.name}: a prompt of {length} tokens and max_tokens {wanted} need {length + wanted} places, "
                f"but the engine's capacity is {self.capacity}; raise capacity or lower max_tokens"
            )

    @torch.inference_mode()
    def _fill(self) -> bool:
        """Start waiting samples in free slots; False when none was started."""
        first = len(self.running)
        room = self.slots - first
        if not self.waiting or (first and room < max(1, self.slots // REFILL_SHARE)):
            return False
        sources = self._start(room)
        starts = self.running[first:]
        self._prefill({group: slot for group, slot in sources.items() if slot >= first})
        for group, source in sources.items():
            targets = [slot for slot, sample in enumerate(starts, first) if sample.group is group and slot != source]
            if targets:
                where = torch.tensor(targets, device=self.device)
                self.decoder.copy(source, where, len(group.job.prompt_ids))
        logits_BV = torch.stack([sample.group.logits for sample in starts if sample.group.logits is not None])
        jobs = [sample.group.job for sample in starts]
        self.rows.begin(
            first,
            prompts=[len(job.prompt_ids) for job in jobs],
            params=[job.params for job in jobs],
            seeds=[sample.group.job.seeds[sample.index] for sample in starts],
            sets=[sample.group.stop_set for sample in starts],
        )
        self._take(slice(first, len(self.running)), logits_BV)
        for group in sources:
            if group.started == len(group.job.seeds):
                group.logits = None
        return True

    def _start(self, room: int) -> dict[_Group, int]:
        """Append up to `room` samples to the running ones; says which slot holds each group's prompt."""
        sources: dict[_Group, int] = {}
        while room and self.waiting:
            group = self.waiting[0]
            siblings = (slot for slot, sample in enumerate(self.running) if sample.group is group)
            sources[group] = next(siblings, len(self.running))
            count = min(room, len(group.job.seeds) - group.started)
            self.running += [_Sample(group, group.started + k) for k in range(count)]
            group.started += count
            room -= count
            if group.started == len(group.job.seeds):
                self.waiting.popleft()
        return sources

    def _prefill(self, slots: dict[_Group, int]) -> None:
        """Prompts of similar length together, so that little of a call is padding."""
        for batch in _batches(sorted(slots, key=lambda group: len(group.job.prompt_ids))):
            lengths = [len(group.job.prompt_ids) for group in batch]
            ids_BT = torch.zeros(len(batch), max(lengths), dtype=torch.int64)
            for row, group in enumerate(batch):
                ids_BT[row, : lengths[row]] = torch.tensor(group.job.prompt_ids)
            where_B = torch.tensor([slots[group] for group in batch], device=self.device)
            logits_BV = self.decoder.prefill(ids_BT.to(self.device), torch.tensor(lengths, device=self.device), where_B)
            for group, logits_V in zip(batch, logits_BV, strict=True):
                group.logits = logits_V

    @torch.inference_mode()
    def _step(self) -> None:
        live = slice(0, len(self.running))
        rows = self.rows
        logits_BV = self.decoder.step(rows.token[live], rows.position[live], rows.every[live])
        rows.position[live] += 1
        self._take(live, logits_BV)

    def _take(self, live: slice, logits_BV: Tensor) -> None:
        rows = self.rows
        rows.take(live, logits_BV)
        for place in self.stops.candidates(rows.stop_set[live], rows.token[live]):
            row = live.start + place
            said = rows.ids[row, : int(rows.count[row])].tolist()
            if self.stops.found(said, self.running[row].group.job.params.stop):
                rows.stopped[row] = rows.done[row] = True

    def _collect(self) -> Iterator[tuple[Job, list[RolledOut]]]:
        """Take out rows that ended; yields the jobs this completes."""
        ended = self.rows.done[: len(self.running)].nonzero().flatten().tolist()
        if not ended:
            return
        complete = []
        counts = self.rows.count[ended].tolist()
        stopped = self.rows.stopped[ended].tolist()
        for row, count, stop in zip(ended, counts, stopped, strict=True):
            group = self.running[row].group
            ids, logprobs = self.rows.ids[row, :count].tolist(), self.rows.logprobs[row, :count].tolist()
            group.results[self.running[row].index] = RolledOut(ids, logprobs, "stop" if stop else "length")
            if len(group.results) == len(group.job.seeds):
                complete.append(group)
        self._close_gaps(ended)
        for group in complete:
            yield group.job, [group.results[k] for k in range(len(group.job.seeds))]

    @torch.inference_mode()
    def _close_gaps(self, ended: list[int]) -> None:
        """Move the last running rows into the places of those that ended."""
        live = len(self.running) - len(ended)
        gaps = [row for row in ended if row < live]
        movers = sorted(set(range(live, len(self.running))).difference(ended))
        if gaps:
            lengths = self.rows.position[movers].tolist()
            for gap, mover, length in zip(gaps, movers, lengths, strict=True):
                self.decoder.copy(mover, torch.tensor([gap], device=self.device), length)
                self.running[gap] = self.running[mover]
            self.rows.move(movers, gaps)
        del self.running[live:]


def _batches(groups: list[_Group]) -> Iterator[list[_Group]]:
    """Cut a list sorted by length where padding would exceed a quarter, or the call its budget."""
    batch: list[_Group] = []
    tokens = 0
    for group in groups:
        length = len(group.job.prompt_ids)
        padded = length * (len(batch) + 1)
        if batch and (padded > PREFILL_TOKENS or padded > 1.25 * (tokens + length) + 64):
            yield batch
            batch, tokens = [], 0
        batch.append(group)
        tokens += length
    if batch:
        yield batch
