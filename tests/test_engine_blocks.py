"""The engine over shared, scarce and recycled blocks: teacher and student say what one row at a time would say."""

import itertools
import random
from collections.abc import Sequence

import pytest
import torch

from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine, Job, RolledOut, Said
from distill.sampling.protocols import Decoder
from students.decoder import KVDecoder
from teacher.decoder import LatentDecoder
from tests.one_by_one import Toy, one_by_one, toy_student, toy_teacher

CAPACITY, BLOCK = 48, 4
WARM = Params(max_tokens=12, temperature=1.0)


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(mini_tokenizer())


@pytest.fixture(scope="module", params=["student", "teacher"])
def model(request: pytest.FixtureRequest, chat: Chat) -> Toy:
    return toy_student(chat) if request.param == "student" else toy_teacher(chat)


def decoder_of(model: Toy) -> Decoder:
    return LatentDecoder(model) if model.config.model_type == "deepseek_v3" else KVDecoder(model)


def engine_of(model: Toy, chat: Chat, slots: int = 4, block_size: int = BLOCK, **settings: int) -> Engine:
    return Engine(decoder_of(model), chat, slots=slots, capacity=CAPACITY, block_size=block_size, **settings)


def prompts(count: int, shortest: int = 1, longest: int = 30) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(5, 90) for _ in range(rng.randrange(shortest, longest))] for _ in range(count)]


def ids_of(rolled: Sequence[Sequence[RolledOut]]) -> list[list[list[int]]]:
    return [[sample.ids for sample in samples] for samples in rolled]


def expected(model: Toy, chat: Chat, asked: list[list[int]], params: Params, n: int) -> list[list[list[int]]]:
    return [
        [one_by_one(model, chat, prompt, params, 100 * place + k).ids for k in range(n)]
        for place, prompt in enumerate(asked)
    ]


def rolled(engine: Engine, asked: list[list[int]], params: Params, n: int) -> list[list[list[int]]]:
    found = ids_of(engine.rollout(asked, params, n, [100 * place for place in range(len(asked))]))
    assert engine.pool.held == 0, "every block came back"
    return found


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_the_size_of_a_block_changes_nothing(model: Toy, chat: Chat, block_size: int) -> None:
    asked = prompts(6)
    assert rolled(engine_of(model, chat, block_size=block_size), asked, WARM, 3) == expected(
        model, chat, asked, WARM, 3
    )


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_prompts_in_chunks_beside_running_rows_change_nothing(model: Toy, chat: Chat, chunk: int) -> None:
    asked = prompts(8, shortest=10)
    assert rolled(engine_of(model, chat, chunk=chunk), asked, WARM, 2) == expected(model, chat, asked, WARM, 2)


def test_running_rows_step_on_while_a_long_prompt_comes_in(model: Toy, chat: Chat) -> None:
    engine = engine_of(model, chat, slots=2, chunk=4)
    engine.rows.is_end.zero_()
    heard: list[int] = []
    first = engine.submit(Job("first", [7], Params(max_tokens=40), (0,)), lambda said: heard.append(said.id))
    engine.advance()
    second = engine.submit(Job("long", prompts(1, 24, 25)[0], Params(max_tokens=2), (0,)))
    steps = 0
    while not second.done:
        before = len(heard)
        engine.advance()
        assert len(heard) == before + 1, "the running row got its step"
        steps += 1
    assert steps >= 24 // 4
    engine.cancel(first)


def test_samples_share_the_full_blocks_of_their_prompt(model: Toy, chat: Chat) -> None:
    engine = engine_of(model, chat, slots=8, blocks=7 + 8 * 4)
    prompt = prompts(1, 28, 29)[0]  # 7 full blocks; 8 rows of their own would not fit
    assert rolled(engine, [prompt], WARM, 8) == expected(model, chat, [prompt], WARM, 8)
    assert engine.preempted == 0


def test_a_common_beginning_is_computed_once(model: Toy, chat: Chat) -> None:
    engine = engine_of(model, chat, slots=8)
    counted = CountTokens(engine.decoder)
    engine.decoder = counted
    head = prompts(1, 20, 21)[0]
    asked = [[*head, *tail] for tail in prompts(6, 2, 5)]
    assert rolled(engine, asked, WARM, 1) == expected(model, chat, asked, WARM, 1)
    assert counted.tokens <= len(asked[0]) + sum(len(prompt) - 20 for prompt in asked[1:])
    before = counted.tokens
    rolled(engine, asked[:1], WARM, 1)
    assert counted.tokens - before <= BLOCK, "a prompt that ran before is still in the cache"


class CountTokens:
    """A decoder that counts what it prefills."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.tokens = decoder, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.decoder, name)

    def prefill(self, ids: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, tables: torch.Tensor) -> object:
        self.tokens += int(lengths.sum())
        return self.decoder.prefill(ids, starts, lengths, tables)


@pytest.mark.parametrize("blocks", [14, 20])
def test_rows_that_gave_way_say_the_same_in_the_end(model: Toy, chat: Chat, blocks: int) -> None:
    engine = engine_of(model, chat, slots=6, blocks=blocks)
    asked, params = prompts(7), Params(max_tokens=18, temperature=1.0, top_logprobs=2)
    assert rolled(engine, asked, params, 3) == expected(model, chat, asked, params, 3)
    assert engine.preempted > 0


def test_a_row_that_gave_way_keeps_its_logprobs(model: Toy, chat: Chat) -> None:
    asked, params = prompts(6), Params(max_tokens=18, top_logprobs=2, repetition_penalty=1.3)
    seeds = list(range(6))
    easy = engine_of(model, chat, slots=6).rollout(asked, params, 2, seeds)
    scarce = engine_of(model, chat, slots=6, blocks=14).rollout(asked, params, 2, seeds)
    for calm, pressed in zip(itertools.chain(*easy), itertools.chain(*scarce), strict=True):
        assert (calm.ids, calm.finish) == (pressed.ids, pressed.finish)
        assert calm.logprobs == pytest.approx(pressed.logprobs, abs=1e-4)
        assert [[token for token, _ in place] for place in calm.top or []] == [
            [token for token, _ in place] for place in pressed.top or []
        ]


def test_a_cache_that_cannot_hold_one_row_is_refused(chat: Chat) -> None:
    with pytest.raises(UserError, match="cache of 11 blocks of 4 tokens: expected at least 12"):
        engine_of(toy_student(chat), chat, blocks=11)


def test_nothing_is_shared_with_weights_that_are_gone(chat: Chat) -> None:
    model = toy_student(chat)
    engine = engine_of(model, chat)
    asked = prompts(2, 20)
    rolled(engine, asked, WARM, 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.3)
    engine.refresh()
    assert rolled(engine, asked, WARM, 2) == expected(model, chat, asked, WARM, 2)


def test_tokens_are_heard_as_they_come_and_equal_the_result(model: Toy, chat: Chat) -> None:
    heard: list[Said] = []
    engine = engine_of(model, chat)
    ticket = engine.submit(Job("heard", prompts(1)[0], WARM, tuple(range(8))), heard.append)
    counts = []
    while not ticket.done:
        engine.advance()
        counts.append(len(heard))
    assert len(set(counts)) > 2, "they came one step at a time"
    for index, sample in enumerate(ticket.samples):
        mine = [said for said in heard if said.sample == index]
        assert [said.id for said in mine] == sample.ids
        assert [said.logprob for said in mine] == pytest.approx(sample.logprobs)
        assert [said.finish for said in mine] == [None] * (len(mine) - 1) + [sample.finish]


@pytest.mark.parametrize("after", [0, 1, 3, 9])
def test_a_cancelled_job_frees_its_blocks_at_once_and_changes_nobody(model: Toy, chat: Chat, after: int) -> None:
    asked = prompts(4, 12)
    engine = engine_of(model, chat, slots=5, blocks=24, chunk=6)
    tickets = [engine.submit(Job(str(k), ids, WARM, (100 * k, 100 * k + 1))) for k, ids in enumerate(asked)]
    for _ in range(after):
        engine.advance()
    gone = tickets.pop(1)
    engine.cancel(gone)
    assert gone.done
    assert {sample.finish for sample in gone.samples} <= {"cancelled", "stop", "length"}
    while not engine.idle:
        engine.advance()
    assert engine.pool.held == 0
    whole = expected(model, chat, asked, WARM, 2)
    for sample, alone in zip(gone.samples, whole.pop(1), strict=True):
        assert sample.ids == alone[: len(sample.ids)], "what it said until then stands"
    assert [[sample.ids for sample in ticket.samples] for ticket in tickets] == whole


def test_the_last_of_several_jobs_can_be_cancelled_by_its_own_listener(model: Toy, chat: Chat) -> None:
    engine = engine_of(model, chat)
    engine.rows.is_end.zero_()
    ticket = engine.submit(Job("quiet", [7, 8], WARM, (0,)), lambda said: engine.cancel(ticket))
    while not engine.idle:
        engine.advance()
    assert ticket.samples[0].finish == "cancelled"
    assert len(ticket.samples[0].ids) <= 2
    assert engine.pool.held == 0


def test_random_jobs_under_memory_pressure_with_cancellations(model: Toy, chat: Chat) -> None:
    rng = random.Random(3)
    engine = engine_of(model, chat, slots=5, blocks=16, chunk=7)
    open_ = []
    for number in range(40):
        ids = [rng.randrange(5, 8) for _ in range(rng.randrange(1, 30))]  # many common beginnings
        params = Params(max_tokens=rng.randrange(1, 18), temperature=rng.choice([0.0, 1.0]))
        open_.append(engine.submit(Job(str(number), ids, params, tuple(range(rng.randrange(1, 4))))))
        for _ in range(rng.randrange(4)):
            engine.advance()
        if rng.random() < 0.3:
            engine.cancel(rng.choice(open_))
    while not engine.idle:
        engine.advance()
    assert engine.pool.held == 0
    for ticket in open_:
        for seed, sample in enumerate(ticket.samples):
            alone = one_by_one(model, chat, ticket.job.prompt_ids, ticket.job.params, seed)
            if sample.finish == "cancelled":
                assert sample.ids == alone.ids[: len(sample.ids)]
            else:
                assert (sample.ids, sample.finish) == (alone.ids, alone.finish)
