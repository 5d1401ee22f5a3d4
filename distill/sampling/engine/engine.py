"""Engine: many prompts through one decoder, rows joining and leaving at every step.

Continuous batching after Orca (Yu et al. 2022) over blocks of cache that rows share (paged
attention: Kwon et al. 2023, arXiv 2309.06180). A prompt runs once for all its samples; long
ones run in chunks between the steps of running rows (Sarathi: Agrawal et al. 2023, arXiv
2308.16369). `run` and `rollout` are for one caller, `submit`, `advance` and `cancel` for
whoever feeds it as it goes. Not safe for two threads: that is `service`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor

from distill.errors import UserError
from distill.prompts import Chat
from distill.records import Finish, Params
from distill.sampling.engine.blocks import BlockPool
from distill.sampling.engine.jobs import Fill, Job, Listener, RolledOut, Said, Sample, Ticket
from distill.sampling.engine.prefill import calls, pieces
from distill.sampling.engine.rows import Rows
from distill.sampling.engine.scheduler import Scheduler
from distill.sampling.engine.stops import StopStrings
from distill.sampling.protocols import Decoder

BLOCK_SIZE = 16
"""Tokens a block: half of one is lost a row, and a shorter prefix than one is not shared."""
REFILL_SHARE = 16
"""Refill when 1/16 of the slots are free: a prefill of one prompt costs about as much as one of several.
Measured with 64 slots on mini-95k: about a fifth more tokens a second than refilling at once, as many as at 1/8."""


class Engine:
    """Samples from a decoder, at most `slots` rows at a time."""

    def __init__(
        self,
        decoder: Decoder,
        chat: Chat,
        *,
        slots: int,
        capacity: int,
        blocks: int | None = None,
        block_size: int = BLOCK_SIZE,
        chunk: int = 2048,
        device: str | torch.device = "cpu",
        end_ids: Iterable[int] = (),
    ) -> None:
        """`capacity` is the longest prompt plus completion; `end_ids` end a row beside the chat's own end token.

        `blocks` bounds the cache; without it every row has room for its capacity. `chunk` is how many
        tokens of prompts run between two steps of running rows. UserError when `blocks` cannot hold one row.
        """
        per_row = -(-capacity // block_size)
        blocks = slots * per_row if blocks is None else blocks
        if blocks < per_row:
            raise UserError(
                f"cache of {blocks} blocks of {block_size} tokens: expected at least {per_row}, as one row of "
                f"{capacity} tokens needs; give it more memory or lower max_tokens"
            )
        self.decoder, self.chat, self.slots, self.capacity = decoder, chat, slots, capacity
        self.chunk, self.device = chunk, torch.device(device)
        self.end_ids = {chat.end_id, *end_ids}
        decoder.allocate(blocks, block_size, capacity)
        self.pool = BlockPool(blocks, block_size)
        self.scheduler = Scheduler(self.pool)
        self.rows = Rows(slots, capacity, per_row, decoder.vocab_size, self.end_ids, self.device)
        self.stops = StopStrings(chat, decoder.vocab_size, self.device)
        self.running: list[Sample] = []
        self.preempted = 0
        """How often a row gave way since the engine was made."""
        self._numbers = count()
        self._heard: list[tuple[Ticket, Said]] = []
        self._finished: list[Ticket] = []
        self._busy = False

    # For one caller

    def rollout(self, prompt_ids: list[list[int]], params: Params, n: int, seeds: list[int]) -> list[list[RolledOut]]:
        """`n` samples of every prompt, in the order given; sample k of prompt i is seeded `seeds[i] + k`."""
        asked = zip(prompt_ids, seeds, strict=True)
        jobs = [Job(str(i), ids, params, tuple(seed + k for k in range(n))) for i, (ids, seed) in enumerate(asked)]
        answers = {job.name: samples for job, samples in self.run(jobs)}
        return [answers[job.name] for job in jobs]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, list[RolledOut]]]:
        """Jobs with their samples, in order of completion. Reads at most `slots` samples ahead."""
        assert not self._busy, "one run at a time"
        self._busy = True
        source, own = iter(jobs), set[Ticket]()
        try:
            while True:
                self._read_ahead(source, own)
                if not own:
                    return
                for ticket in self.advance():
                    if ticket in own:
                        own.remove(ticket)
                        yield ticket.job, ticket.samples
        finally:
            self._busy = False
            for ticket in own:
                self.cancel(ticket)
            self._finished = [ticket for ticket in self._finished if ticket not in own]

    def _read_ahead(self, jobs: Iterator[Job], own: set[Ticket]) -> None:
        ahead = sum(len(one.todo) if isinstance(one, Ticket) else 1 for one in self.scheduler.waiting)
        while ahead < self.slots:
            job = next(jobs, None)
            if job is None:
                return
            own.add(self.submit(job))
            ahead += len(job.seeds)

    def refresh(self) -> None:
        """Re-read the weights of a live model after a training step."""
        assert self.idle, "refresh while something runs"
        self.decoder.refresh()
        self.pool.forget()

    # For whoever feeds it as it goes

    @property
    def idle(self) -> bool:
        """True when `advance` would do nothing."""
        return not self.running and self.scheduler.idle and not self._finished

    def submit(self, job: Job, listener: Listener | None = None) -> Ticket:
        """Queue a job; `listener` hears every token within `advance`. Raises UserError for what could never run."""
        job.check(self.capacity)
        todo = deque(range(len(job.seeds)))
        ticket = Ticket(job, next(self._numbers), listener, self.stops.index(job.params.stop), todo)
        self.scheduler.waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a job now, whatever it is doing: its blocks are free at once, open samples finish "cancelled"."""
        if ticket.done:
            return
        open_ = self.scheduler.withdraw(ticket)
        running = [sample for sample in self.running if sample.ticket is ticket]
        for sample in running:
            sample.said, sample.logprobs = self.rows.said(self._row(sample))
            self.pool.release(sample.blocks)
        self._close_gaps([self._row(sample) for sample in running])
        for sample in open_ + running:
            ticket.results[sample.index] = sample.rolled_out(sample.said, sample.logprobs, "cancelled")
        for index in range(len(ticket.job.seeds)):
            ticket.results.setdefault(index, RolledOut([], [], "cancelled"))
        self._finished.append(ticket)

    def advance(self) -> list[Ticket]:
        """Let prompts in, run a chunk of them and one step of every row; the jobs that this completes."""
        self._admit()
        self._prefill()
        self._collect()
        if self.running:
            self._grow()
            self._step()
            self._collect()
        heard, self._heard = self._heard, []
        for ticket, said in heard:
            if ticket.listener is not None:
                ticket.listener(said)
        finished, self._finished = self._finished, []
        return finished

    # One step, in the order it happens

    def _admit(self) -> None:
        room = self.slots - len(self.running) - sum(fill.room for fill in self.scheduler.filling)
        busy = bool(self.running or self.scheduler.filling)
        if not self.scheduler.waiting or (busy and room < max(1, self.slots // REFILL_SHARE)):
            return
        self._start(self.scheduler.admit(room, len(self.running)))

    @torch.inference_mode()
    def _prefill(self) -> None:
        """One chunk of the prompts under way; all of them when nothing else runs."""
        size, through = self.pool.block_size, list[tuple[Ticket, int]]()
        for call in calls(pieces(self.scheduler.filling, self.chunk if self.running else None, size)):
            fills = [piece.fill for piece in call]
            longest = max(piece.count for piece in call)
            width = max(len(fill.blocks) for fill in fills)
            ids = [fill.tokens[fill.done : fill.done + piece.count] for fill, piece in zip(fills, call, strict=True)]
            logits_BV = self.decoder.prefill(
                self._numbers_of([[*row, *[0] * (longest - len(row))] for row in ids]),
                self._numbers_of([fill.done for fill in fills]),
                self._numbers_of([len(row) for row in ids]),
                self._numbers_of([[*fill.blocks, *[0] * (width - len(fill.blocks))] for fill in fills]),
            )
            for fill, row, logits_V in zip(fills, ids, logits_BV, strict=True):
                if self.scheduler.advanced(fill, len(row)):
                    through += self._filled(fill, logits_V)
        self._start(through)

    def _filled(self, fill: Fill, logits_V: Tensor) -> list[tuple[Ticket, int]]:
        """A prompt is in the cache: a preempted sample goes on, others are to start."""
        if fill.sample is None:
            fill.ticket.blocks, fill.ticket.logits_V = fill.blocks, logits_V
            return [(fill.ticket, fill.room)]
        sample = fill.sample
        sample.blocks = fill.blocks
        self._begin([sample])
        self.rows.resume(self._row(sample), sample.said, sample.logprobs)
        sample.said, sample.logprobs = [], []
        return []

    @torch.inference_mode()
    def _start(self, ready: Sequence[tuple[Ticket, int]]) -> None:
        """Samples of prompts that are in the cache: they share its full blocks and copy the last one."""
        samples, logits, sources, targets = [], [], list[int](), list[int]()
        for ticket, wanted in ready:
            assert ticket.logits_V is not None, "the prompt is in the cache"
            logits_V = ticket.logits_V
            for _ in range(wanted):
                index = ticket.todo.popleft()
                full = len(ticket.job.prompt_ids) // self.pool.block_size
                tail = ticket.blocks[full:]
                if not ticket.todo or self.pool.free < len(tail):  # nothing to share with, or nothing to copy to
                    blocks, ticket.blocks, ticket.logits_V = ticket.blocks, [], None
                else:
                    self.pool.share(ticket.blocks[:full])
                    copied = self.pool.take(len(tail))
                    sources, targets = sources + tail, targets + copied
                    blocks = ticket.blocks[:full] + copied
                samples.append(Sample(ticket, index, blocks))
                logits.append(logits_V)
                if ticket.logits_V is None:
                    break
            if ticket.todo:
                self.scheduler.requeue(ticket)
        if targets:
            self.decoder.copy(self._numbers_of(sources), self._numbers_of(targets))
        if samples:
            first = len(self.running)
            self._begin(samples)
            self._take(slice(first, len(self.running)), torch.stack(logits))

    def _begin(self, samples: list[Sample]) -> None:
        """Rows for samples, at the end of their prompts."""
        first = len(self.running)
        for row, sample in enumerate(samples, first):
            sample.row = row
        self.running += samples
        tickets = [sample.ticket for sample in samples]
        self.rows.begin(
            first,
            prompts=[ticket.job.prompt_ids for ticket in tickets],
            tables=[sample.blocks for sample in samples],
            params=[ticket.job.params for ticket in tickets],
            seeds=[sample.ticket.job.seeds[sample.index] for sample in samples],
            sets=[ticket.stop_set for ticket in tickets],
        )

    @torch.inference_mode()
    def _grow(self) -> None:
        """A block for every row whose next token begins one. Who came last gives way when there are not enough."""
        position_B = self.rows.position[: len(self.running)]
        rows = (position_B % self.pool.block_size == 0).nonzero().flatten().tolist()
        if not rows:
            return
        needy = [self.running[row] for row in rows]
        while self.pool.free < len(needy):
            if not self.scheduler.drop_prompts():
                self._preempt(self.scheduler.youngest(self.running))
                needy = [sample for sample in needy if sample.row is not None]
        if not needy:
            return
        taken = self.pool.take(len(needy))
        at = [(self._row(sample), len(sample.blocks)) for sample in needy]
        for sample, block in zip(needy, taken, strict=True):
            sample.blocks.append(block)
        rows_N, columns_N = self._numbers_of(at).unbind(1)
        self.rows.table[rows_N, columns_N] = self._numbers_of(taken)

    def _preempt(self, one: Sample | Fill) -> None:
        """Put back the youngest. Its seed and its place stay, so it will say the same again."""
        self.preempted += 1
        if isinstance(one, Sample):
            row = self._row(one)
            one.said, one.logprobs = self.rows.said(row)
            self._close_gaps([row])
        self.scheduler.put_back(one)

    @torch.inference_mode()
    def _step(self) -> None:
        live, rows = slice(0, len(self.running)), self.rows
        blocks = max(len(sample.blocks) for sample in self.running)
        logits_BV = self.decoder.step(rows.token[live], rows.position[live], rows.table[live, :blocks])
        rows.position[live] += 1
        self._take(live, logits_BV)

    def _take(self, live: slice, logits_BV: Tensor) -> None:
        rows, samples = self.rows, self.running[live]
        rows.take(live, logits_BV)
        for place in self.stops.candidates(rows.stop_set[live], rows.token[live]):
            said, _ = rows.said(live.start + place)
            if self.stops.found(said, samples[place].ticket.job.params.stop):
                rows.stopped[live.start + place] = rows.done[live.start + place] = True
        self._keep_top(samples, logits_BV)
        if any(sample.ticket.listener for sample in samples):
            self._hear(live, samples)

    def _keep_top(self, samples: list[Sample], logits_BV: Tensor) -> None:
        asked = [place for place, sample in enumerate(samples) if sample.ticket.job.params.top_logprobs]
        if not asked:
            return
        most = max(samples[place].ticket.job.params.top_logprobs or 0 for place in asked)
        top = logits_BV[asked].log_softmax(-1).topk(min(most, logits_BV.shape[-1]), dim=-1)
        for place, ids, logprobs in zip(asked, top.indices.tolist(), top.values.tolist(), strict=True):
            wanted = samples[place].ticket.job.params.top_logprobs
            samples[place].top.append(list(zip(ids, logprobs, strict=True))[:wanted])

    def _hear(self, live: slice, samples: list[Sample]) -> None:
        rows = self.rows
        at = (rows.every[live], rows.count[live] - 1)
        ends, stops = rows.done[live].tolist(), rows.stopped[live].tolist()
        told = zip(samples, rows.token[live].tolist(), rows.logprobs[at].tolist(), ends, stops, strict=True)
        for sample, token, logprob, end, stop in told:
            if sample.ticket.listener is not None:
                finish: Finish | None = None if not end else "stop" if stop else "length"
                self._heard.append((sample.ticket, Said(sample.index, token, logprob, finish)))

    def _collect(self) -> None:
        """Take out rows that ended."""
        rows = self.rows
        ended = rows.done[: len(self.running)].nonzero().flatten().tolist()
        if not ended:
            return
        for row, stop in zip(ended, rows.stopped[ended].tolist(), strict=True):
            sample = self.running[row]
            ticket = sample.ticket
            ticket.results[sample.index] = sample.rolled_out(*rows.said(row), "stop" if stop else "length")
            self.pool.release(sample.blocks)
            if ticket.done:
                self._finished.append(ticket)
        self._close_gaps(ended)

    @torch.inference_mode()
    def _close_gaps(self, ended: list[int]) -> None:
        """Move the last running rows into the places of those that left."""
        live = len(self.running) - len(ended)
        for row in ended:
            self.running[row].row = None
        gaps = [row for row in ended if row < live]
        movers = sorted(set(range(live, len(self.running))).difference(ended))
        if gaps:
            self.rows.move(movers, gaps)
            for gap, mover in zip(gaps, movers, strict=True):
                self.running[gap] = self.running[mover]
                self.running[gap].row = gap
        del self.running[live:]

    def _row(self, sample: Sample) -> int:
        assert sample.row is not None, "it runs"
        return sample.row

    def _numbers_of(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)
