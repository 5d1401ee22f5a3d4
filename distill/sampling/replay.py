"""Replay: completions that real models once gave, offered again as a sampler.

A file of recorded answers becomes one sampler for each model in it: sample k of a problem
is the k-th answer recorded for it, in file order. So the judge, the benches and the whole
of harvest run on real text in minutes, without a model. Where the source says whether an
answer was right, `write_labels` puts that beside the traces for the judge to be held against.

What is not covered: token ids, log-probabilities and token counts (the files have none;
counts are 0), and the recorded prompts, which differ from what harvest renders now.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.content import file_fingerprint
from distill.errors import UserError, did_you_mean
from distill.jsonl import read_jsonl, write_jsonl
from distill.ledger import read_ledger
from distill.problems.benchmarks import GsmRow, R1TraceRow, Row, data_file, rationale
from distill.records import Completion, Params, Record, SamplerId, Trace
from distill.sampling.protocols import Answered, Request, TokenScores

LABELS = "labels.jsonl"


class ReplayConfig(Record):
    """Which recorded answers are replayed."""

    recording: str
    """Name of the recording."""
    model: str | None = None
    """Whose answers; may be left out where the recording holds one model's."""


class Label(Record):
    """What the source of a recording says about one answer."""

    trace_id: str
    label: bool
    source: str
    """The recording it stands in."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer of one model to one problem."""

    model: str
    problem_id: str
    text: str
    label: bool | None = None
    finish: Literal["stop", "length"] = "stop"


class GsmSolutionRow(Row):
    """Finetuned and verifier-picked GPT-3 answers to GSM8K test (Cobbe et al. 2021, section 4)."""

    problem_id: str
    model: str
    solution: str
    is_correct: bool


class QwenAnswerRow(Row):
    """Eight sampled answers to each of 100 MATH problems, with the verdict of Qwen's grader."""

    problem_id: int
    response: str
    qwen_grader: bool


class CodeGenRow(Row):
    """CodeGen-16B continuing HumanEval prompts (CodeT's published samples, first 20 of 100)."""

    task_id: str
    completion: str
    verdict: str


class QwenCoderRow(Row):
    """Qwen2.5-Coder-1.5B-Instruct on GSM8K train, not judged."""

    problem_id: str
    model: str
    text: str
    finish_reason: Literal["stop", "length"]


class R1AnswerRow(R1TraceRow):
    """R1-Distill on MATH; the response starts inside the think block the prompt opened."""

    model: str
    response: str
    is_correct: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """How one file is read."""

    file: str
    """Name without `.gz`, in the data directory."""
    row: type[Row]
    recorded: Callable[[Any], Recorded]
    params: Params | None = None
    """How it was sampled, where that is known: asking otherwise is refused, so that traces tell the truth."""
    think_open: bool = False


RECORDINGS: Mapping[str, Recording] = {
    "gsm8k_model_solutions": Recording(
        "gsm8k_model_solutions.jsonl",
        GsmSolutionRow,
        lambda row: Recorded(row.model, row.problem_id, row.solution, row.is_correct),
    ),
    "math_cot_samples": Recording(
        "math_cot_samples_qwen.jsonl",
        QwenAnswerRow,
        lambda row: Recorded("qwen", f"math_cot_samples/{row.problem_id}", row.response, row.qwen_grader),
    ),
    "humaneval_samples": Recording(
        "humaneval_samples_codegen16b.jsonl",
        CodeGenRow,
        lambda row: Recorded("codegen-16b", row.task_id, row.completion, row.verdict == "passed"),
        params=Params(max_tokens=300, temperature=0.8, top_p=0.95),
    ),
    "gsm8k_train_traces": Recording(
        "gsm8k_train_traces_qwen2.5-coder-1.5b.jsonl",
        QwenCoderRow,
        lambda row: Recorded(row.model, row.problem_id, row.text, finish=row.finish_reason),
        params=Params(max_tokens=400, temperature=0.7, top_p=0.95),
    ),
    "r1_distill_math_traces": Recording(
        "r1_distill_math_traces.jsonl",
        R1AnswerRow,
        lambda row: Recorded(row.model, row.problem_key, row.response, row.is_correct),
        think_open=True,
    ),
    "gsm8k_rationales": Recording(
        "gsm8k_train.jsonl",
        GsmRow,
        lambda row: Recorded("human", row.id, f"{rationale(row.answer)}\nThe final answer is \\boxed{{{row.final}}}."),
    ),
}
"""Every recording, by the name a recipe uses."""


class ReplaySampler:
    """The recorded answers of one model. Implements `Sampler`."""

    def __init__(
        self,
        identity: SamplerId,
        answers: Mapping[str, tuple[Recorded, ...]],
        *,
        source: str,
        params: Params | None = None,
        think_open: bool = False,
    ) -> None:
        self._identity, self._answers, self._params, self._think_open = identity, answers, params, think_open
        self.source = source

    @property
    def identity(self) -> SamplerId:
        """The recorded model; its revision is the content of the file."""
        return self._identity

    @property
    def think_open(self) -> bool:
        """True when the recorded prompt had opened the think block."""
        return self._think_open

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """The recorded answers of each request's problem, `n` of them from the one it starts at.

        Raises UserError when fewer are recorded, or when they were sampled in another way.
        """
        for request in requests:
            self._check(request)
            chosen = self._recorded(request.id)[request.first : request.first + request.n]
            yield Answered(request, tuple(_completion(found) for found in chosen))

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        """Not possible: a recording has no model behind it."""
        raise UserError(f"recording {self.source}: no log-probabilities; only a model can score a text")

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """Not possible, as `score`."""
        return (self.score(token_ids, top_k) for token_ids in sequences)

    def label(self, problem_id: str, sample_index: int) -> bool | None:
        """Whether the source calls this answer right; None where it does not say."""
        return self._recorded(problem_id)[sample_index].label

    def _recorded(self, problem_id: str) -> tuple[Recorded, ...]:
        try:
            return self._answers[problem_id]
        except KeyError:
            raise UserError(
                f"recording {self.source}: {self.identity.name} has no answer to problem {problem_id!r}; "
                f"expected one like {next(iter(self._answers))!r}"
            ) from None

    def _check(self, request: Request) -> None:
        held, asked = len(self._recorded(request.id)), request.first + request.n
        if asked > held:
            raise UserError(
                f"recording {self.source}: samples: problem {request.id!r} has {held} recorded, {asked} asked for"
            )
        for key in ("temperature", "top_p", "max_tokens") if self._params else ():
            was, now = getattr(self._params, key), getattr(request.params, key)
            if was != now:
                raise UserError(f"recording {self.source}: {key}: recorded with {was}, asked for {now}")


def open_recording(config: ReplayConfig, data_dir: Path) -> ReplaySampler:
    """The sampler of one recorded model. Raises UserError when it is not in the file, or the file is not there."""
    name, model = config.recording, config.model
    recording = _find(name)
    path = data_file(data_dir, recording.file)
    by_model: dict[str, dict[str, list[Recorded]]] = {}
    for row in read_jsonl(path, recording.row):
        found = recording.recorded(row)
        by_model.setdefault(found.model, {}).setdefault(found.problem_id, []).append(found)
    if not by_model:
        raise UserError(f"{path}: no answer in it")
    if model is None and len(by_model) > 1:
        raise UserError(f"recording {name}: model: missing; there are {', '.join(sorted(by_model))}")
    chosen = model if model is not None else next(iter(by_model))
    if chosen not in by_model:
        hint = did_you_mean(chosen, by_model)
        raise UserError(f"recording {name}: model {chosen!r}: unknown{hint}; there are {', '.join(sorted(by_model))}")
    return ReplaySampler(
        SamplerId(name=chosen, revision=file_fingerprint(path)),
        {problem: tuple(answers) for problem, answers in by_model[chosen].items()},
        source=name,
        params=recording.params,
        think_open=recording.think_open,
    )


def recording_file(config: ReplayConfig, data_dir: Path) -> Path:
    """The file `open_recording` would read, for fingerprints; UserError when it is missing."""
    return data_file(data_dir, _find(config.recording).file)


def write_labels(folder: Path, *samplers: ReplaySampler) -> int:
    """Write `labels.jsonl` beside the traces of a harvest that `samplers` answered; returns how many rows."""
    labels = (
        (trace.id, sampler.label(trace.problem_id, trace.sample_index), sampler.source)
        for trace in read_ledger(folder / "traces", Trace)
        for sampler in samplers
        if trace.sampler == sampler.identity
    )
    rows = [Label(trace_id=id, label=label, source=source) for id, label, source in labels if label is not None]
    return write_jsonl(folder / LABELS, rows) if rows else 0


def _find(name: str) -> Recording:
    if name not in RECORDINGS:
        raise UserError(
            f"recording {name!r}: unknown{did_you_mean(name, RECORDINGS)}; there are {', '.join(sorted(RECORDINGS))}"
        )
    return RECORDINGS[name]


def _completion(recorded: Recorded) -> Completion:
    return Completion(text=recorded.text, finish=recorded.finish, prompt_tokens=0, completion_tokens=0)
