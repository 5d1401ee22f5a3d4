"""The engine against plain sampling, one row at a time, on a toy model with the miniature's tokenizer."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat, to_trace
from distill.records import Completion, Message, Params, Trace
from distill.sampling.engine import Engine, EngineSampler, Job
from distill.sampling.protocols import LoadedModel, Request
from students.decoder import KVDecoder
from tests.one_by_one import one_by_one, toy_student

CAPACITY = 48


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(mini_tokenizer())


@pytest.fixture(scope="module")
def model(chat: Chat) -> LlamaForCausalLM:
    return toy_student(chat)


def engine_of(model: LlamaForCausalLM, chat: Chat, slots: int, **settings: int) -> Engine:
    return Engine(KVDecoder(model), chat, slots=slots, capacity=CAPACITY, **settings)


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [torch.randint(5, 90, (length,), generator=generator).tolist() for length in lengths]


WARM = Params(max_tokens=12, temperature=1.0)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(WARM, id="plain"),
        pytest.param(Params(max_tokens=12, temperature=0.0), id="greedy"),
        pytest.param(Params(max_tokens=12, temperature=0.7, top_k=5, top_p=0.8, min_p=0.05), id="all filters"),
        pytest.param(Params(max_tokens=1, temperature=1.0), id="first token is the last"),
        pytest.param(Params(max_tokens=12, temperature=0.0, repetition_penalty=1.5), id="greedy, penalized"),
        pytest.param(Params(max_tokens=12, repetition_penalty=0.8, top_p=0.9, top_logprobs=3), id="top 3, penalized"),
    ],
)
def test_engine_says_what_one_row_at_a_time_would_say(model: LlamaForCausalLM, chat: Chat, params: Params) -> None:
    asked = prompts(9)
    seeds = list(range(0, 90, 10))
    got = engine_of(model, chat, slots=4).rollout(asked, params, 3, seeds)
    for prompt, seed, samples in zip(asked, seeds, got, strict=True):
        for k, sample in enumerate(samples):
            expected = one_by_one(model, chat, prompt, params, seed + k)
            assert (sample.ids, sample.finish) == (expected.ids, expected.finish)
            assert sample.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
            assert (sample.top is None) == (params.top_logprobs is None)
            for mine, plain in zip(sample.top or [], expected.top or [], strict=True):
                assert [token for token, _ in mine] == [token for token, _ in plain]
                assert [value for _, value in mine] == pytest.approx([value for _, value in plain], abs=1e-4)


def test_some_rows_end_early_and_some_do_not(model: LlamaForCausalLM, chat: Chat) -> None:
    """Otherwise the comparison above would prove nothing about rows leaving."""
    got = engine_of(model, chat, slots=4).rollout(prompts(9), WARM, 3, list(range(0, 90, 10)))
    lengths = {len(sample.ids) for samples in got for sample in samples}
    assert len(lengths) > 3
    assert {sample.finish for samples in got for sample in samples} == {"stop", "length"}


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_the_number_of_slots_changes_nothing(model: LlamaForCausalLM, chat: Chat, slots: int) -> None:
    asked = prompts(7)
    reference = engine_of(model, chat, slots=3).rollout(asked, WARM, 4, [5] * 7)
    got = engine_of(model, chat, slots=slots).rollout(asked, WARM, 4, [5] * 7)
    assert [[sample.ids for sample in samples] for samples in got] == [
        [sample.ids for sample in samples] for samples in reference
    ]


def test_a_greedy_mate_does_not_change_a_warm_row(model: LlamaForCausalLM, chat: Chat) -> None:
    first, second = prompts(2)
    alone = engine_of(model, chat, slots=4).rollout([first], WARM, 1, [3])[0][0].ids
    mate = Job("mate", second, Params(max_tokens=9, temperature=0.0, top_k=2), (0, 1))
    run = engine_of(model, chat, slots=4).run([mate, Job("warm", first, WARM, (3,))])
    mixed = {job.name: samples for job, samples in run}
    assert mixed["warm"][0].ids == alone
    assert mixed["mate"][0].ids == mixed["mate"][1].ids


def test_samples_of_one_prompt_differ(model: LlamaForCausalLM, chat: Chat) -> None:
    (samples,) = engine_of(model, chat, slots=8).rollout(prompts(1), WARM, 8, [0])
    assert len({tuple(sample.ids) for sample in samples}) > 4


def test_one_prompt_is_prefilled_once_for_all_its_samples(model: LlamaForCausalLM, chat: Chat) -> None:
    class Counting(KVDecoder):
        prefilled = 0

        def prefill(self, ids_BT: torch.Tensor, *where: torch.Tensor) -> torch.Tensor:
            Counting.prefilled += len(ids_BT)
            return super().prefill(ids_BT, *where)

    engine = Engine(Counting(model), chat, slots=8, capacity=CAPACITY)
    engine.rollout(prompts(6), Params(max_tokens=4, temperature=0.0), 4, [0] * 6)
    assert Counting.prefilled == 6


def test_waiting_samples_start_before_the_longest_row_ends(model: LlamaForCausalLM, chat: Chat) -> None:
    long, short = prompts(2)
    jobs = [Job("long", long, Params(max_tokens=28, temperature=0.0), (0,))]
    jobs += [Job(f"short {k}", short, Params(max_tokens=2, temperature=0.0), (0,)) for k in range(5)]
    engine = engine_of(model, chat, slots=2)
    engine.end_ids.clear()
    engine.rows.is_end.zero_()
    assert [job.name for job, _ in engine.run(jobs)] == [*(f"short {k}" for k in range(5)), "long"]


def test_jobs_are_read_only_as_far_as_there_is_room(model: LlamaForCausalLM, chat: Chat) -> None:
    read = itertools.count()

    def endless() -> Iterator[Job]:
        for prompt in itertools.cycle(prompts(5)):
            yield Job(f"job {next(read)}", prompt, WARM, (0, 1))

    run = engine_of(model, chat, slots=4).run(endless())
    for _ in range(3):
        next(run)
    run.close()
    assert next(read) < 12


def test_an_abandoned_run_leaves_the_engine_usable(model: LlamaForCausalLM, chat: Chat) -> None:
    engine = engine_of(model, chat, slots=2)
    fresh = engine.rollout(prompts(3), WARM, 2, [0, 10, 20])
    run = engine.run([Job(str(k), prompt, WARM, (0,)) for k, prompt in enumerate(prompts(5))])
    next(run)
    run.close()
    assert engine.rollout(prompts(3), WARM, 2, [0, 10, 20]) == fresh


@pytest.mark.parametrize(
    ("length", "wanted", "message"),
    [
        pytest.param(40, 9, "40 tokens and max_tokens 9 need 49 places.*capacity is 48", id="one too many"),
        pytest.param(60, 1, "60 tokens", id="prompt alone too long"),
        pytest.param(0, 5, "no tokens", id="empty prompt"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    model: LlamaForCausalLM, chat: Chat, length: int, wanted: int, message: str
) -> None:
    engine = engine_of(model, chat, slots=2)
    with pytest.raises(UserError, match=message):
        engine.rollout([[7] * length], Params(max_tokens=wanted), 1, [0])
    assert engine.idle
    assert engine.pool.held == 0


@pytest.mark.parametrize(
    ("params", "n", "message"),
    [
        pytest.param(WARM, 0, "no samples", id="no samples"),
        pytest.param(Params(max_tokens=4, stop=(";", "")), 1, "empty string", id="empty stop"),
        pytest.param(
            Params(max_tokens=4, repetition_penalty=1e-45), 1, "penalty 1e-45: expected 0.01 to 100", id="overflow"
        ),
    ],
)
def test_requests_without_meaning_are_refused(
    model: LlamaForCausalLM, chat: Chat, params: Params, n: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        engine_of(model, chat, slots=2).rollout([[7, 8]], params, n, [0])


@pytest.mark.parametrize("params", [{"temperature": 1e-40}, {"temperature": 1e-31}, {"top_k": 1}, {"top_p": 1e-46}])
def test_what_leaves_one_token_a_choice_is_greedy(
    model: LlamaForCausalLM, chat: Chat, params: dict[str, float]
) -> None:
    """A logit divided by 1e-38 is no float32 any more."""
    asked, seeds = prompts(3), [0, 1, 2]
    greedy = engine_of(model, chat, slots=2).rollout(asked, Params(max_tokens=8, temperature=0.0), 1, seeds)
    got = engine_of(model, chat, slots=2).rollout(asked, Params(max_tokens=8, **params), 1, seeds)
    assert [samples[0].ids for samples in got] == [samples[0].ids for samples in greedy]


def test_a_top_k_beyond_any_vocabulary_keeps_all(model: LlamaForCausalLM, chat: Chat) -> None:
    got = engine_of(model, chat, slots=2).rollout([[7]], Params(max_tokens=8, top_k=2**70), 1, [3])
    assert got[0][0].ids == one_by_one(model, chat, [7], Params(max_tokens=8), 3).ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_diverged_is_said_to_have_and_leaves_the_engine_empty(chat: Chat, temperature: float) -> None:
    model = toy_student(chat)
    engine = engine_of(model, chat, slots=2)
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(UserError, match="logits are not finite"):
        engine.rollout(prompts(3), Params(max_tokens=4, temperature=temperature), 2, [0, 1, 2])
    assert engine.idle
    assert engine.pool.held == 0


def test_the_last_place_of_the_capacity_is_usable(model: LlamaForCausalLM, chat: Chat) -> None:
    prompt = [7] * 40
    params = Params(max_tokens=8, temperature=0.0)
    got = engine_of(model, chat, slots=2).rollout([prompt], params, 1, [0])[0][0]
    assert got.ids == one_by_one(model, chat, prompt, params, 0).ids


def test_refresh_follows_a_model_in_training(chat: Chat, model: LlamaForCausalLM) -> None:
    live = LlamaForCausalLM(model.config).eval()
    live.load_state_dict(model.state_dict())
    engine = engine_of(live, chat, slots=2)
    engine.rollout(prompts(1), WARM, 1, [0])
    loss = live(torch.tensor([prompts(1)[0] * 2])).logits.square().mean()
    loss.backward()
    torch.optim.SGD(live.parameters(), lr=0.05).step()
    engine.refresh()
    got = engine.rollout(prompts(1), WARM, 1, [0])[0][0]
    assert got.ids == one_by_one(live, chat, prompts(1)[0], WARM, 0).ids
    assert got.ids != one_by_one(model, chat, prompts(1)[0], WARM, 0).ids


@pytest.fixture(scope="module")
def sampler(model: LlamaForCausalLM, chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> EngineSampler:
    loaded = LoadedModel(model, chat.tokenizer, tmp_path_factory.mktemp("toy"), "f00d")
    return EngineSampler(loaded, KVDecoder(model), name="toy", slots=4, capacity=CAPACITY)


def ask(text: str, params: Params, n: int = 1, seed: int = 0) -> Request:
    return Request(text, (Message(role="user", content=text),), params, n, seed)


def test_completions_carry_text_tokens_and_reason(sampler: EngineSampler) -> None:
    requests = [ask("7 + 5", WARM, n=3, seed=20), ask("2 + 2 + 1", WARM, n=2, seed=40)]
    answered = {found.request.id: found.completions for found in sampler.sample(requests)}
    assert {name: len(completions) for name, completions in answered.items()} == {"7 + 5": 3, "2 + 2 + 1": 2}
    for completion in itertools.chain(*answered.values()):
        assert completion.token_ids is not None
        assert completion.completion_tokens == len(completion.token_ids)
        assert completion.text == sampler.chat.decode(completion.token_ids)
        assert (completion.finish == "stop") == (completion.token_ids[-1] == sampler.chat.end_id)
    assert answered["7 + 5"][0].prompt_tokens == len(sampler.chat.prompt_ids(requests[0].messages))
    assert (sampler.identity.name, sampler.identity.revision) == ("toy", "f00d")


def test_int8_weights_are_named_in_every_sample(model: LlamaForCausalLM, chat: Chat, tmp_path: Path) -> None:
    loaded = LoadedModel(model, chat.tokenizer, tmp_path, "f00d")
    lossy = EngineSampler(loaded, KVDecoder(model, "int8"), name="toy", slots=4, capacity=CAPACITY)
    assert lossy.identity.name == "toy-int8-weights"
    assert lossy.identity.revision == "f00d-int8-weights"


def test_two_requests_with_one_id_are_both_answered(sampler: EngineSampler) -> None:
    answered = list(sampler.sample([ask("7", WARM, seed=1), ask("7", WARM, seed=2)]))
    assert sorted(found.request.seed for found in answered) == [1, 2]


def talkative(sampler: EngineSampler) -> tuple[int, Completion]:
    """The first seed whose sample has more than five different words, and what it says."""
    for seed in range(100):
        said = next(sampler.sample([ask("7 + 5", WARM, seed=seed)])).completions[0]
        if len(set(said.text.split(" "))) == len(said.text.split(" ")) > 5:
            return seed, said
    raise AssertionError("the random model always stops at once")


def test_a_stop_string_ends_the_row_and_is_cut_off(sampler: EngineSampler) -> None:
    seed, free = talkative(sampler)
    stop = " ".join(free.text.split(" ")[3:5])  # spans two tokens
    got = next(sampler.sample([ask("7 + 5", WARM.model_copy(update={"stop": ("nowhere", stop)}), seed=seed)]))
    completion = got.completions[0]
    assert completion.finish == "stop"
    assert completion.text == free.text[: free.text.index(stop)]
    assert completion.completion_tokens == 5


def test_a_stop_string_ending_in_a_space_is_seen(sampler: EngineSampler) -> None:
    seed, free = talkative(sampler)
    stop = free.text.split(" ")[2] + " "
    got = next(sampler.sample([ask("7 + 5", WARM.model_copy(update={"stop": (stop,)}), seed=seed)])).completions[0]
    assert got.finish == "stop"
    assert got.text == free.text[: free.text.index(stop)]


def test_scores_are_those_of_a_full_forward(sampler: EngineSampler, model: LlamaForCausalLM) -> None:
    ids = prompts(9)[-1] * 2
    scores = sampler.score(ids, top_k=4)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    given = torch.tensor([expected[place, token] for place, token in enumerate(ids[1:])])
    torch.testing.assert_close(scores.logprobs, given)
    torch.testing.assert_close(scores.top_logprobs, expected[:-1].topk(4).values)
    assert scores.top_ids.shape == (len(ids) - 1, 4)


def test_the_likeliest_tokens_go_into_the_trace_and_old_traces_stay_readable(sampler: EngineSampler) -> None:
    request = ask("7 + 5", Params(max_tokens=4, top_logprobs=3), seed=4)
    completion = next(sampler.sample([request])).completions[0]
    where = {"id": "t", "problem_id": "p", "sampler": sampler.identity, "params": request.params, "sample_index": 0}
    trace = to_trace(completion, think_open=False, **where)
    again = Trace.model_validate_json(trace.to_json())
    assert again.top_logprobs == completion.top_logprobs
    assert again.top_logprobs is not None
    assert [len(place) for place in again.top_logprobs] == [3] * completion.completion_tokens
    plain = next(sampler.sample([ask("7 + 5", Params(max_tokens=4), seed=4)])).completions[0]
    assert plain.token_ids == completion.token_ids
    assert "top_logprobs" not in to_trace(plain, think_open=False, **where | {"params": WARM}).to_json()


def test_a_sampled_logprob_equals_its_score(sampler: EngineSampler) -> None:
    request = ask("7 + 5", WARM.model_copy(update={"temperature": 0.5, "top_k": 3}), seed=4)
    completion = next(sampler.sample([request])).completions[0]
    assert completion.token_ids is not None
    assert completion.logprobs is not None
    prompt = sampler.chat.prompt_ids(request.messages)
    scores = sampler.score([*prompt, *completion.token_ids], top_k=1)
    assert completion.logprobs == pytest.approx(scores.logprobs[len(prompt) - 1 :].tolist(), abs=1e-4)
