"""Every Eval Ever: scores in the shared schema of the EvalEval Coalition, one file a bench and checkpoint.

Written to version 0.2.2 of `eval.schema.json` and of `instance_level_eval.schema.json` (github.com/evaleval/
every_eval_ever at 21b3d1a); the records below name its keys, so a wrong one cannot be written. Its model ids are
`organization/name`, its times are seconds since 1970, details are strings. pass@k has no canonical id there; the
schema's own example, `pass_at_k` with the parameter k, is used.
Not written: hub ids of data sets (problems are named by their fingerprint) and prices.
"""

import calendar
import hashlib
import importlib.metadata
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from distill.harvest.draw import TRACES, VERDICTS
from distill.jsonl import write_jsonl
from distill.ledger import read_ledger
from distill.records import Item, Problem, Record, Score, Trace, Verdict
from distill.runs import write_durably
from evals.report.collect import Bench
from evals.scoring import ALL

VERSION = "0.2.2"
FOLDER = "every_eval_ever"
Relationship = Literal["first_party", "third_party", "collaborative", "other"]
Details = dict[str, str]


class Source(Record):
    """Who says it."""

    source_name: str
    source_type: Literal["evaluation_run"] = "evaluation_run"
    source_organization_name: str
    evaluator_relationship: Relationship


class Library(Record):
    """What measured it."""

    name: str = "distill-toolkit"
    version: str
    additional_details: Details


class Model(Record):
    """What was measured."""

    name: str
    id: str
    additional_details: Details


class Data(Record):
    """On what; `other` is a set that is neither a URL nor a hub repository."""

    dataset_name: str
    source_type: Literal["other"] = "other"
    source_id: str
    additional_details: Details


class Metric(Record):
    """How a value is counted."""

    evaluation_description: str
    metric_id: str
    metric_name: str
    metric_kind: str = "pass_rate"
    metric_unit: str = "proportion"
    metric_parameters: dict[str, int]
    lower_is_better: bool = False
    score_type: Literal["continuous"] = "continuous"
    min_score: float = 0.0
    max_score: float = 1.0


class Confidence(Record):
    """An interval."""

    lower: float
    upper: float
    confidence_level: float = 0.95
    method: str


class Uncertainty(Record):
    """How sure it is."""

    confidence_interval: Confidence
    num_samples: int


class Measured(Record):
    """A value."""

    score: float
    details: Details
    uncertainty: Uncertainty


class Result(Record):
    """One score."""

    evaluation_result_id: str
    evaluation_name: str
    source_data: Data
    evaluation_timestamp: str
    metric_config: Metric
    score_details: Measured
    generation_config: dict[str, Any]


class Detailed(Record):
    """Where the samples are."""

    format: Literal["jsonl"] = "jsonl"
    file_path: str
    hash_algorithm: Literal["sha256"] = "sha256"
    checksum: str
    total_rows: int


class Evaluation(Record):
    """One file."""

    schema_version: str = VERSION
    evaluation_id: str
    evaluation_timestamp: str
    retrieved_timestamp: str
    source_metadata: Source
    eval_library: Library
    model_info: Model
    evaluation_results: tuple[Result, ...]
    detailed_evaluation_results: Detailed | None = None


class Sample(Record):
    """One answer."""

    schema_version: str = VERSION
    evaluation_id: str
    model_id: str
    evaluation_name: str
    evaluation_result_id: str
    sample_id: str
    sample_hash: str
    interaction_type: Literal["single_turn"] = "single_turn"
    input: dict[str, Any]
    output: dict[str, Any]
    answer_attribution: list[dict[str, Any]]
    evaluation: dict[str, Any]
    token_usage: dict[str, int]
    metadata: Details


def every_eval_ever(
    bench: Bench,
    out: Path,
    *,
    organization: str,
    relationship: Relationship,
    problems: Mapping[str, Problem],
    ledgers: Mapping[str, tuple[Path, ...]],
) -> int:
    """Write `out/every_eval_ever/<checkpoint>/<bench>.json`; how many files.

    Where `ledgers` names the folders a checkpoint's traces stand in, its samples are written beside it, problem
    texts included.
    """
    written = 0
    for name in bench.checkpoints:
        folder, stem = out / FOLDER / _file_name(name), _file_name(bench.name)
        folder.mkdir(parents=True, exist_ok=True)
        made = _evaluation(bench, name, organization, relationship)
        if name in ledgers:
            path = folder / f"{stem}_samples.jsonl"
            rows = write_jsonl(path, _samples(bench, name, made, problems, ledgers[name]))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            made = made.model_copy(
                update={"detailed_evaluation_results": Detailed(file_path=path.name, checksum=digest, total_rows=rows)}
            )
            written += 1
        write_durably(folder / f"{stem}.json", made.model_dump_json(indent=2, exclude_none=True) + "\n")
        written += 1
    return written


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name)


def _evaluation(bench: Bench, name: str, organization: str, relationship: Relationship) -> Evaluation:
    manifest = bench.manifest
    when = str(calendar.timegm(time.strptime(manifest.started, "%Y-%m-%dT%H:%M:%SZ")))
    rows = [row for row in bench.scores if row.checkpoint == name]
    size, weights = bench.parameters.get(name), bench.weights.get(name)
    details = {
        "fingerprint": rows[0].fingerprint,
        "role": bench.roles.get(name, ""),
        "parameters": str(size[0]) if size else "",
        "active_parameters": str(size[1]) if size else "",
        "bytes_of_weights": str(weights) if weights else "",
    }
    return Evaluation(
        evaluation_id=f"{bench.name}/{organization}/{name}/{when}",
        evaluation_timestamp=manifest.started,
        retrieved_timestamp=when,
        source_metadata=Source(
            source_name=bench.name, source_organization_name=organization, evaluator_relationship=relationship
        ),
        eval_library=Library(
            version=importlib.metadata.version("distill-toolkit"),
            additional_details={"commit": manifest.git_commit or "", "stage_version": manifest.stage_version},
        ),
        model_info=Model(
            name=name,
            id=f"{organization}/{name}",
            additional_details={key: value for key, value in details.items() if value},
        ),
        evaluation_results=tuple(_result(bench, row) for row in rows),
    )


def _result(bench: Bench, row: Score) -> Result:
    manifest = bench.manifest
    problems = next((ref for ref in manifest.inputs if ref.field == "problems"), None)
    keys = ("temperature", "top_p", "max_tokens")
    asked = (
        {} if bench.recorded else {key: manifest.config[key] for key in keys if manifest.config.get(key) is not None}
    )
    kind, _, k = row.metric.partition("@")
    samples = {} if bench.recorded else {"samples": str(manifest.config.get("samples", 1))}
    return Result(
        evaluation_result_id=_result_id(row.task, row.metric),
        evaluation_name=bench.name if row.task == ALL else row.task,
        source_data=Data(
            dataset_name=bench.name if row.task == ALL else row.task,
            source_id=problems.fingerprint if problems else bench.manifest.content,
            additional_details={"problems": str(row.n)},
        ),
        evaluation_timestamp=manifest.started,
        metric_config=Metric(
            evaluation_description=f"{row.metric}, averaged over problems; protocol {row.protocol}",
            metric_id="pass_at_k" if kind == "pass" else f"distill.{kind}",
            metric_name=row.metric,
            metric_parameters={"k": int(k)} if k.isdecimal() else {},
        ),
        score_details=Measured(
            score=row.value,
            details={
                "truncated": repr(row.truncated),
                "no_answer": repr(row.no_answer),
                "tokens_per_answer": repr(row.tokens_per_answer),
            },
            uncertainty=Uncertainty(
                confidence_interval=Confidence(
                    lower=row.low, upper=row.high, method="over problems, see the protocol and docs/bench.md"
                ),
                num_samples=row.n,
            ),
        ),
        generation_config={
            **({"generation_args": asked} if asked else {}),
            "additional_details": {"protocol": row.protocol, **samples},
        },
    )


def _result_id(task: str, metric: str) -> str:
    return f"{task}/{metric}"


def _samples(
    bench: Bench, name: str, made: Evaluation, problems: Mapping[str, Problem], folders: tuple[Path, ...]
) -> Iterator[Sample]:
    items = {item.trace_id: item for item in bench.items[name]}
    for folder in folders:
        verdicts = {row.trace_id: row for row in read_ledger(folder / VERDICTS, Verdict) if row.trace_id in items}
        for trace in read_ledger(folder / TRACES, Trace):
            if trace.id in items and trace.problem_id in problems:
                yield _sample(items[trace.id], trace, verdicts[trace.id], problems[trace.problem_id], made)


def _sample(item: Item, trace: Trace, verdict: Verdict, problem: Problem, made: Evaluation) -> Sample:
    reference = [problem.answer] if problem.answer is not None else []
    read = {
        "turn_idx": 0,
        "source": "output.raw",
        "extracted_value": verdict.extracted,
        "extraction_method": f"judge {verdict.judge_version}",
        "is_terminal": True,
    }
    right = item.status == "correct"
    return Sample(
        evaluation_id=made.evaluation_id,
        model_id=made.model_info.id,
        evaluation_name=item.task,
        evaluation_result_id=_result_id(item.task, "pass@1"),
        sample_id=f"{item.problem_id}#{item.sample_index}",
        sample_hash=hashlib.sha256("".join([problem.prompt, *reference]).encode()).hexdigest(),
        input={"raw": problem.prompt, "reference": reference},
        output={"raw": [trace.text], "reasoning_trace": [trace.reasoning] if trace.reasoning else None},
        answer_attribution=[read] if verdict.extracted is not None else [],
        evaluation={"score": float(right), "is_correct": right},
        token_usage={
            "input_tokens": trace.prompt_tokens,
            "output_tokens": trace.completion_tokens,
            "total_tokens": trace.prompt_tokens + trace.completion_tokens,
        },
        metadata={"status": item.status, "sample_index": str(item.sample_index), "level": str(item.level or "")},
    )
