"""Every trace is measured once, as it would be trained on, or a row says why not."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM

from distill.curate.measure import (
    MEASURES,
    Measure,
    MeasureConfig,
    light_measures,
    measure,
    measure_turn,
    read_measures,
)
from distill.errors import UserError
from distill.harvest import TRACES
from distill.jsonl import write_jsonl
from distill.ledger import Ledger, read_ledger
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import CHATML, Chat
from distill.records import Message, Params, Problem, SamplerId, Trace
from distill.sampling.engine import EngineSampler
from distill.sampling.oracle import OracleSampler
from distill.sampling.protocols import LoadedModel, TokenScores
from distill.train.rows import IGNORED
from students.decoder import KVDecoder
from tests import measure_kills
from tests.one_by_one import toy_student

PROMPT = "Evaluate 1 + 2 ."
THOUGHT = "1 + 2 = 3 ; 3 + 0 = 3 ;"
MODEL = SamplerId(name="toy", revision="1")


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(mini_tokenizer())


@pytest.fixture(scope="module")
def model(chat: Chat) -> LlamaForCausalLM:
    return toy_student(chat)


@pytest.fixture(scope="module")
def sampler(model: LlamaForCausalLM, chat: Chat) -> EngineSampler:
    loaded = LoadedModel(model, chat.tokenizer, Path("toy"), "1")
    return EngineSampler(loaded, KVDecoder(model), name="toy", slots=1, capacity=1)


class Harvest:
    """A run folder of traces, and the problem they answer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.traces, self.said = folder, list[Trace](), 0

    def say(self, reasoning: str | None = THOUGHT, answer: str | None = "3", finish: str = "stop") -> str:
        id, self.said = f"t{self.said}", self.said + 1
        where = {"id": id, "problem_id": "p", "sampler": MODEL, "params": Params(max_tokens=9), "sample_index": 0}
        counts = {"prompt_tokens": 1, "completion_tokens": 1}
        said = {"reasoning": reasoning, "answer": answer, "text": answer or "", "finish": finish}
        self.traces.append(Trace.model_validate({**where, **counts, **said}))
        return id

    def measure(self, sampler: EngineSampler, context: int = 64, **keys: object) -> list[Measure]:
        problem = {"kind": "answer", "answer": "3", "source": "expressions", "split": "train"}
        write_jsonl(self.folder / "problems.jsonl", [Problem(id="p", prompt=PROMPT, **problem)])
        with Ledger(self.folder / "harvest" / TRACES) as ledger:
            ledger.extend(self.traces)
        self.traces = []
        config = MeasureConfig.model_validate({"traces": "harvest", "problems": "problems", "model": "toy", **keys})
        self.report = measure(
            [self.folder / "harvest"],
            [self.folder],
            self.folder / "out",
            config,
            sampler=sampler,
            chat=sampler.chat,
            context=context,
            progress=Progress("quiet"),
        )
        return list(read_ledger(self.folder / "out" / MEASURES, Measure))


@pytest.fixture
def harvest(tmp_path: Path) -> Harvest:
    return Harvest(tmp_path)


def messages(answer: str) -> tuple[Message, ...]:
    return Message(role="user", content=PROMPT), Message(role="assistant", content=answer)


def test_the_loss_is_the_one_training_starts_from(
    harvest: Harvest, sampler: EngineSampler, model: LlamaForCausalLM
) -> None:
    harvest.say()
    harvest.say("", "3 ;")
    harvest.say(None, "x = 3")
    texts = [f"<think> {THOUGHT} </think> 3", "<think>  </think> 3 ;", "x = 3"]
    for measured, text in zip(harvest.measure(sampler), texts, strict=True):
        ids, mask = sampler.chat.training_ids(messages(text))
        labels = [token if loss else IGNORED for token, loss in zip(ids, mask, strict=True)]
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert measured.loss == pytest.approx(float(loss), abs=1e-5)
        assert (measured.tokens, measured.prompt_tokens) == (sum(mask), len(ids) - sum(mask))


def test_thought_and_answer_and_steps_share_the_loss_out(harvest: Harvest, sampler: EngineSampler) -> None:
    harvest.say()
    (measured,) = harvest.measure(sampler)
    assert measured.step_tokens == (7, 7, 2), "two sentences with the tags around them, then the answer and its end"
    assert measured.thought_loss is not None
    assert measured.answer_loss is not None
    assert measured.loss is not None
    whole = (14 * measured.thought_loss + 2 * measured.answer_loss) / 16
    assert whole == pytest.approx(measured.loss, abs=1e-5)
    parts = zip(measured.steps, measured.step_tokens, strict=True)
    assert -math.fsum(logprob * count for logprob, count in parts) / 16 == pytest.approx(measured.loss, abs=1e-4)
    assert measured.steps[-1] == pytest.approx(-measured.answer_loss, abs=1e-4)


@pytest.mark.parametrize(
    ("reasoning", "answer", "finish", "why"),
    [
        pytest.param("1 + 2 ; " * 20, "3", "stop", "too-long", id="beyond the context"),
        pytest.param(None, None, "length", "unfinished", id="thought cut by the limit"),
        pytest.param("1", "3", "length", "unfinished", id="answer cut by the limit"),
        pytest.param(None, " ", "stop", "empty", id="nothing said"),
    ],
)
def test_what_cannot_be_measured_is_a_row_that_says_why(
    harvest: Harvest, sampler: EngineSampler, reasoning: str | None, answer: str | None, finish: str, why: str
) -> None:
    first, odd, last = harvest.say(), harvest.say(reasoning, answer, finish), harvest.say()
    rows = harvest.measure(sampler)
    assert [(row.trace_id, row.absent) for row in rows] == [(first, None), (odd, why), (last, None)]
    assert rows[1].loss is None
    assert harvest.report.counts[why] == 1


def test_a_trace_as_long_as_the_context_is_measured(harvest: Harvest, sampler: EngineSampler) -> None:
    harvest.say()
    length = len(sampler.chat.training_ids(messages(f"<think> {THOUGHT} </think> 3"))[0])
    assert harvest.measure(sampler, context=length)[0].absent is None


def test_what_is_stored_is_not_measured_again(harvest: Harvest, sampler: EngineSampler) -> None:
    for _ in range(3):
        harvest.say()
    before = harvest.measure(sampler)
    harvest.say("1")
    after = harvest.measure(sampler)
    assert after[:3] == before
    assert len(after) == 4
    assert (harvest.report.counts["resumed"], harvest.report.counts["traces"]) == (3, 4)


def test_a_trace_in_two_harvests_is_measured_once(tmp_path: Path, sampler: EngineSampler) -> None:
    harvest = Harvest(tmp_path)
    harvest.say()
    harvest.traces *= 2
    assert len(harvest.measure(sampler)) == 1


def test_a_thought_that_is_to_be_dropped_is_not_measured(harvest: Harvest, sampler: EngineSampler) -> None:
    harvest.say()
    (measured,) = harvest.measure(sampler, thought="drop")
    assert (measured.tokens, measured.thought_loss) == (2, None)
    assert measured.answer_loss == measured.loss


def test_a_kill_loses_nothing_and_doubles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure_kills.main(4) == 0
    assert "4 kills" in capsys.readouterr().out


def test_a_broken_model_is_named(chat: Chat) -> None:
    turn = chat.turn(messages("3"))
    broken = torch.full((len(turn.token_ids) - 1,), math.nan)
    scores = TokenScores(broken, torch.zeros(len(broken), 1), broken[:, None])
    with pytest.raises(UserError, match="toy: trace t: a loss is not a finite number"):
        measure_turn("t", turn, scores, MODEL)


def test_worst_and_outside_name_the_unlikely_tokens(chat: Chat) -> None:
    turn = chat.turn(messages("1 + 2"))
    given = torch.full((len(turn.token_ids) - 1,), -0.5)
    given[turn.first] = -4.0  # the second token of the completion
    scores = TokenScores(given, torch.zeros(len(given), 1), torch.full((len(given), 1), -0.5))
    measured = measure_turn("t", turn, scores, MODEL)
    assert (measured.worst, measured.worst_at, measured.outside_top) == (4.0, 1, 0.25)


def test_a_sampler_without_probabilities_is_refused(harvest: Harvest, chat: Chat) -> None:
    harvest.say()
    oracle = OracleSampler([], error_rate=0.0)
    oracle.chat = chat  # type: ignore[attr-defined]  # the test reads the chat off its sampler
    with pytest.raises(UserError, match="the oracle has no probabilities"):
        harvest.measure(oracle)  # type: ignore[arg-type]


def test_traces_of_other_problems_are_refused(harvest: Harvest, sampler: EngineSampler) -> None:
    harvest.say()
    harvest.traces[0] = harvest.traces[0].model_copy(update={"problem_id": "elsewhere"})
    with pytest.raises(UserError, match="no problem 'elsewhere'"):
        harvest.measure(sampler)


def test_a_template_without_marks_is_refused(chat: Chat) -> None:
    tokenizer = mini_tokenizer()
    tokenizer.chat_template = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    with pytest.raises(UserError, match="generation"):
        Chat(tokenizer).turn(messages("3"))


ENDPOINT = {"url": "http://localhost/v1", "model": "m", "revision": "1"}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        pytest.param({}, "model and endpoint", id="nobody measures"),
        pytest.param({"model": "a", "endpoint": ENDPOINT}, "model and endpoint", id="two measure"),
        pytest.param({"endpoint": ENDPOINT, "max_tokens": 9}, "tokenizer", id="nobody renders"),
        pytest.param({"endpoint": ENDPOINT, "tokenizer": "t"}, "max_tokens", id="a server has no context"),
        pytest.param({"model": "a", "traces": ()}, "at least one", id="no harvest"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        MeasureConfig.model_validate({"traces": "harvest", "problems": "problems", **keys})


def test_a_folder_of_another_stage_has_no_measures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a run folder of stage measure"):
        read_measures(tmp_path)


def test_curate_remembers_the_losses_of_what_could_be_measured(harvest: Harvest, sampler: EngineSampler) -> None:
    id = harvest.say()
    harvest.say(finish="length")
    (measured, _) = harvest.measure(sampler)
    light = light_measures(harvest.folder / "out")
    assert list(light) == [id]
    assert (light[id].loss, light[id].tokens) == (measured.loss, measured.tokens)
