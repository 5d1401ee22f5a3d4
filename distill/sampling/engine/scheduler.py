"""Scheduler: whose turn it is, and whose blocks go when memory runs short.

First come, first served. A prompt is let in when its blocks are free and one more stays for
every running row. When rows outgrow the pool, prompts held for samples to come are let go
first, then whoever came last is put back and computed again later (preemption by
recomputation: Kwon et al. 2023, arXiv 2309.06180, section 4.5). The oldest row always fits,
so the work always ends. Moves no tensors.
"""

from collections import deque
from collections.abc import Iterable

from distill.sampling.engine.blocks import BlockPool
from distill.sampling.engine.jobs import Fill, Sample, Ticket


class Scheduler:
    """What waits and what is being filled; `pool` is shared with the engine."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.waiting: deque[Ticket | Sample] = deque()
        """Jobs with samples to start, and preempted samples, the oldest first."""
        self.filling: list[Fill] = []

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing is being filled."""
        return not self.waiting and not self.filling

    def admit(self, room: int, running: int) -> list[tuple[Ticket, int]]:
        """Let in what `room` rows and the free blocks allow; prompts in need of a prefill go to `filling`.

        Returns jobs whose prompt is in the cache, with how many samples to start.
        """
        ready = []
        while room and self.waiting:
            head = self.waiting[0]
            headroom = running + sum(fill.room for fill in self.filling)
            if isinstance(head, Ticket) and head.logits_V is not None:
                count = min(room, len(head.todo), max(self.pool.free - headroom, 0 if headroom else 1))
                if not count:
                    break
                ready.append((head, count))
                running += count
            else:
                fill = self._open(head, room, headroom)
                if fill is None:
                    break
                self.filling.append(fill)
                count = fill.room
            room -= count
            if isinstance(head, Ticket) and count < len(head.todo):
                break  # the rest of this job comes first when there is room again
            self.waiting.popleft()
        return ready

    def _open(self, head: Ticket | Sample, room: int, headroom: int) -> Fill | None:
        """Blocks for a prompt, as far as possible those of a known prefix; None when it has to wait."""
        sample = head if isinstance(head, Sample) else None
        ticket = _ticket(head)
        if sample is None and any(fill.ticket is ticket and fill.sample is None for fill in self.filling):
            return None
        tokens = ticket.job.prompt_ids if sample is None else sample.cached
        known = self.pool.find(tokens[:-1])  # the last token has to run, for its logits
        if known.missing is not None and any(fill.missing == known.missing for fill in self.filling):
            return None  # somebody is just computing what this prompt begins with
        self.pool.share(known.blocks)
        needed = self.pool.needed(len(tokens)) - len(known.blocks)
        while self.pool.free < needed and not headroom and self.drop_prompts():
            pass
        spare = self.pool.free - needed - headroom
        if spare < (1 if headroom else 0):
            self.pool.release(known.blocks)
            return None
        blocks = known.blocks + self.pool.take(needed)
        rows = 1 if sample else min(room, len(ticket.todo), max(spare, 1))
        return Fill(ticket, tokens, blocks, len(known.blocks) * self.pool.block_size, rows, sample, known.missing)

    def advanced(self, fill: Fill, count: int) -> bool:
        """`count` more tokens are in the cache, and others may share them; True when that was the last of them."""
        fill.done += count
        self.pool.publish(fill.tokens[: fill.done], fill.blocks)
        if fill.done < len(fill.tokens):
            fill.missing = self.pool.find(fill.tokens[:-1]).missing
            return False
        self.filling.remove(fill)
        return True

    def drop_prompts(self) -> bool:
        """Let go of the prompt held by the youngest waiting job; False when none holds one."""
        for head in reversed(self.waiting):
            if isinstance(head, Ticket) and head.logits_V is not None:
                self.let_go(head)
                return True
        return False

    def let_go(self, ticket: Ticket) -> None:
        """The prompt's blocks are no longer held for samples to come."""
        self.pool.release(ticket.blocks)
        ticket.blocks, ticket.logits_V = [], None

    def youngest(self, running: Iterable[Sample]) -> Sample | Fill:
        """Who gives way."""
        candidates: list[Sample | Fill] = [*running, *self.filling]
        return max(candidates, key=lambda one: one.age)

    def put_back(self, one: Sample | Fill) -> None:
        """Its blocks go back; what they hold stays findable while memory lasts."""
        cached = one.cached if isinstance(one, Sample) else one.tokens[: one.done]
        self.pool.publish(cached, one.blocks)
        self.pool.release(one.blocks)
        if isinstance(one, Fill):
            self.filling.remove(one)
            self.requeue(one.sample or one.ticket)
        else:
            one.blocks = []
            self.requeue(one)

    def requeue(self, one: Ticket | Sample) -> None:
        """Into its place among those that wait, unless it is there already."""
        if one in self.waiting:
            return
        place = next((place for place, other in enumerate(self.waiting) if _age(one) < _age(other)), len(self.waiting))
        self.waiting.insert(place, one)

    def withdraw(self, ticket: Ticket) -> list[Sample]:
        """Nothing of a job waits or is being filled any more; its preempted samples."""
        fills = [fill for fill in self.filling if fill.ticket is ticket]
        for fill in fills:
            self.filling.remove(fill)
            self.pool.release(fill.blocks)
        if ticket.logits_V is not None:
            self.let_go(ticket)
        found = [one for one in self.waiting if isinstance(one, Sample) and one.ticket is ticket]
        self.waiting = deque(one for one in self.waiting if _ticket(one) is not ticket)
        return found + [fill.sample for fill in fills if fill.sample is not None]


def _ticket(one: Ticket | Sample) -> Ticket:
    return one.ticket if isinstance(one, Sample) else one


def _age(one: Ticket | Sample) -> tuple[int, int]:
    return one.age if isinstance(one, Sample) else (one.number, one.todo[0])
