"""Many threads, one engine: streams, cancellation, dropped consumers, and an engine that dies."""

import gc
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine, Job
from distill.sampling.engine.service import Service, _Command
from students.decoder import KVDecoder
from tests.one_by_one import one_by_one, toy_student
from tests.soak_engine import soak

CHAT = Chat(mini_tokenizer())
MODEL = toy_student(CHAT)
LONG = Params(max_tokens=40, temperature=1.0)


def engine(endless: bool = False) -> Engine:
    made = Engine(KVDecoder(MODEL), CHAT, slots=4, capacity=48, block_size=4, blocks=30)
    if endless:
        made.rows.is_end.zero_()
    return made


def settle(service: Service) -> None:
    """Wait until the engine has nothing left to do."""
    deadline = time.monotonic() + 5
    while not service.engine.idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.engine.pool.held == 0


def test_many_threads_hear_what_one_row_at_a_time_would_say() -> None:
    rng = random.Random(0)
    jobs = [
        Job(str(k), [rng.randrange(5, 90) for _ in range(rng.randrange(1, 20))], Params(max_tokens=10), (k, k + 50))
        for k in range(12)
    ]

    def ask(job: Job) -> list[list[int]]:
        heard: list[list[int]] = [[], []]
        for said in service.stream(job):
            heard[said.sample].append(said.id)
        return heard

    with Service(engine()) as service, ThreadPoolExecutor(6) as threads:
        found = list(threads.map(ask, jobs))
        settle(service)
    for job, heard in zip(jobs, found, strict=True):
        assert heard == [one_by_one(MODEL, CHAT, job.prompt_ids, job.params, seed).ids for seed in job.seeds]


def test_leaving_the_loop_cancels_the_rest() -> None:
    with Service(engine(endless=True)) as service:
        stream = service.stream(Job("left", [7, 8], LONG, (0,)))
        for place, _ in enumerate(stream):
            if place == 3:
                break
        gc.collect()
        (sample,) = stream.samples(timeout=5)
        settle(service)
    assert sample.finish in ("cancelled", "length")
    assert len(sample.ids) >= 4


def test_a_cancelled_stream_ends_and_its_samples_say_so() -> None:
    with Service(engine(endless=True)) as service:
        stream = service.stream(Job("cancelled", [7, 8], LONG, (0, 1, 2, 3, 4, 5)))
        stream.cancel()
        heard = list(stream)
        samples = stream.samples(timeout=5)
        settle(service)
    assert "cancelled" in {sample.finish for sample in samples}
    assert sum(len(sample.ids) for sample in samples) >= len(heard)


def test_what_does_not_fit_is_refused_in_the_thread_that_asks() -> None:
    with Service(engine()) as service, pytest.raises(UserError, match="capacity is 48"):
        service.stream(Job("large", [7] * 40, LONG, (0,)))


def test_closing_cancels_what_runs_and_refuses_what_comes_later() -> None:
    service = Service(engine(endless=True))
    with service:
        stream = service.stream(Job("open", [7], LONG, tuple(range(20))))
    assert "cancelled" in {sample.finish for sample in stream.samples(timeout=5)}
    with pytest.raises(UserError, match="late: the service is closed"):
        list(service.stream(Job("late", [7], LONG, (0,))))


def test_who_asks_while_it_closes_does_not_keep_it_open() -> None:
    with Service(engine(endless=True)) as service:
        first = service.stream(Job("open", [7], LONG, tuple(range(20))))
        service._commands.put(_Command("close"))
        late = service.stream(Job("late", [7], LONG, (0,)))
        with pytest.raises(UserError, match="late: the service is closed"):
            late.samples(timeout=5)
    assert "cancelled" in {sample.finish for sample in first.samples(timeout=5)}


def test_an_engine_that_dies_tells_everyone_who_waits() -> None:
    class Broken(KVDecoder):
        def step(self, *_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of order")

    with Service(Engine(Broken(MODEL), CHAT, slots=2, capacity=48)) as service:
        streams = [service.stream(Job(str(k), [7, 8], LONG, (k,))) for k in range(5)]
        for stream in streams:
            with pytest.raises(RuntimeError, match="out of order"):
                stream.samples(timeout=5)
        with pytest.raises(RuntimeError, match="out of order"):
            list(service.stream(Job("after", [7, 8], LONG, (0,))))


def test_a_cut_of_the_soak_leaks_nothing_and_says_nothing_wrong() -> None:
    done = soak(seconds=6, requests=40)
    assert done.faults == []
    assert min(done.fates.values()) > 3
    assert done.preempted > 0
