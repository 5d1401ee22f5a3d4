"""Every stage with its function and config: the one place where all rooms meet."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from cli.loading import Folders
from cli.ranks import expect_processes, processes
from cli.samplers import engine_sampler, examined_samplers, harvest_samplers, measuring, tokenizer_named
from distill.curate.config import CurateConfig
from distill.curate.held_out import benchmark_test_files, benchmark_tests
from distill.curate.measure import MeasureConfig, measure
from distill.curate.stage import Inputs, curate
from distill.errors import UserError
from distill.harvest import HarvestConfig, goes_on, harvest
from distill.imports.config import ImportConfig
from distill.imports.stage import import_files, import_traces
from distill.judge import JUDGE_VERSION, Judge
from distill.judge.folder import judge_folder
from distill.problems.benchmarks import benchmark_files
from distill.problems.stage import ProblemsConfig, problems
from distill.problems.vary import VaryConfig, vary
from distill.progress import Mode, Progress
from distill.prompts import Chat
from distill.recipe import Stage, StepContext, renewed, written
from distill.runs import Manifest, Report
from distill.sampling.replay import ReplaySampler, recording_file, write_labels
from distill.selection import read_problems, select
from distill.train import sizing as train_sizing
from distill.train.guard.watch import Given
from distill.train.kd import Distillation, KdConfig, kd
from distill.train.lesson import Lesson
from distill.train.logits import LogitsConfig, logits
from distill.train.on_policy import Taught, on_policy
from distill.train.on_policy_table import OnPolicyConfig
from distill.train.preflight.findings import Findings
from distill.train.rl import RlConfig, rl
from distill.train.sft import preflight, sft
from distill.train.sft_table import SftConfig
from evals import sizing as bench_sizing
from evals.bench import BenchConfig, bench, checkpoint_names
from evals.report.stage import ReportConfig, report
from students.gguf import StudentImportConfig, gguf_file, student_import
from students.init import StudentInitConfig, student_init
from students.quantize import QuantizeConfig, quantize
from teacher.init import TeacherInitConfig, teacher_init


def _problems(c: StepContext) -> Report:
    return problems(c.out, c.config, data=c.data, seed=c.seed, progress=c.progress)


def _problem_files(config: ProblemsConfig, data: Path) -> Iterable[Path]:
    return benchmark_files(config.benchmark, config.split, data) if config.benchmark else ()


def _vary(c: StepContext) -> Report:
    return vary(c.path("problems"), c.out, c.config, data=c.data, progress=c.progress)


def _judge(c: StepContext) -> Judge:
    """As many judges as processors: programs are then judged as fast as this machine can."""
    return Judge(workers=max(2, os.cpu_count() or 2), sandbox=c.sandbox)


def _harvest(c: StepContext) -> Report:
    begun = time.monotonic()
    with harvest_samplers(c) as samplers, _judge(c) as judge:
        done = harvest(
            c.path("problems"),
            c.out,
            c.config,
            sampler=samplers,
            judge=judge,
            seed=c.seed,
            progress=c.progress,
            begun=begun,
        )
        replayed = [sampler for sampler, _ in samplers.values() if isinstance(sampler, ReplaySampler)]
        if replayed:
            write_labels(c.out, *replayed)
    return done


def _harvest_files(config: HarvestConfig, data: Path) -> Iterable[Path]:
    for one in config.speakers.values():
        if one.replay is not None:
            yield recording_file(one.replay, data)
        if one.endpoint is not None and one.endpoint.serve:
            yield gguf_file(one.endpoint.serve)


def judge_again(
    folder: Path,
    judge: Judge,
    data: Path,
    progress: Progress,
    *,
    again: tuple[str, ...] = (),
    problems: Path | None = None,
) -> Report:
    """Draw the verdicts of a run folder anew where the judge is newer, or where `again` says so."""

    def renew(manifest: Manifest) -> tuple[str, str] | None:
        stage = REGISTRY.get(manifest.stage)
        today = None if stage is None else renewed(manifest, stage, data)
        return None if stage is None or today is None else (stage.version, today)

    return judge_folder(folder, again=again, problems=problems, judge=judge, progress=progress, renew=renew)


def _renew(folder: Path, c: StepContext) -> None:
    with _judge(c) as judge:
        judge_again(folder, judge, c.data, c.progress, problems=c.path("problems") if "problems" in c.inputs else None)


def _import(c: StepContext) -> Report:
    problems = c.path("problems") if "problems" in c.inputs else None
    with _judge(c) as judge:
        return import_traces(c.out, c.config, data=c.data, problems=problems, judge=judge, progress=c.progress)


def _measure(c: StepContext) -> Report:
    sampler, chat, context = measuring(c)
    traces, problems = c.inputs["traces"], c.inputs["problems"]
    return measure(traces, problems, c.out, c.config, sampler=sampler, chat=chat, context=context, progress=c.progress)


def _curate(c: StepContext) -> Report:
    chat = Chat(Folders().load(c.path("tokenizer")).tokenizer) if "tokenizer" in c.inputs else None
    benchmarks: tuple[str, ...] = c.config.benchmarks
    inputs = Inputs(
        traces=c.inputs["traces"],
        problems=c.inputs["problems"],
        against=c.inputs.get("against", ()),
        benchmarks=benchmark_tests(c.data, benchmarks) if benchmarks else None,
        measures=c.inputs.get("measures", ()),
        scores=c.path("scores") if "scores" in c.inputs else None,
        harm_scores=c.path("harm_scores") if "harm_scores" in c.inputs else None,
    )
    workers = len(os.sched_getaffinity(0))
    return curate(inputs, c.out, c.config, seed=c.seed, progress=c.progress, chat=chat, workers=workers)


def _curate_files(config: CurateConfig, data: Path) -> Iterable[Path]:
    return benchmark_test_files(data, config.benchmarks) if config.benchmarks else ()


def _teacher_init(c: StepContext) -> Report:
    tokenizer = tokenizer_named(c.config.tokenizer)
    return teacher_init(c.out, c.config, tokenizer=tokenizer, seed=c.seed, progress=c.progress)


def _tokenizer_files(config: TeacherInitConfig | StudentInitConfig, data: Path) -> Iterable[Path]:
    return () if config.tokenizer == "mini" else (Path(config.tokenizer),)


def _student_init(c: StepContext) -> Report:
    tokenizer = tokenizer_named(c.config.tokenizer)
    return student_init(c.out, c.config, tokenizer=tokenizer, seed=c.seed, progress=c.progress)


def _student_import(c: StepContext) -> Report:
    return student_import(c.out, c.config, seed=c.seed, progress=c.progress)


def _student_import_files(config: StudentImportConfig, data: Path) -> Iterable[Path]:
    return (gguf_file(config.source),)


@contextmanager
def _guarded(c: StepContext) -> Iterator[Given | None]:
    """What a step's guard needs; None where it has none."""
    if c.config.guard is None:
        yield None
        return
    off_target = c.path("guard.off_target") if "guard.off_target" in c.inputs else None
    with _judge(c) as judge:
        yield Given(judge, c.path("guard.problems"), off_target)


def _sft(c: StepContext) -> Report:
    expect_processes(c.step, c.config)
    data, model = c.path("data"), c.path("model")
    if processes(c.config) == 1 and c.config.deepspeed is None:
        loader = Folders(c.progress)
        with _guarded(c) as guard:
            return sft(data, model, c.out, c.config, loader=loader, seed=c.seed, progress=c.progress, guard=guard)
    from teacher.parallel.lead import together

    return together(_sft_share, data, model, c.out, c.config, c.seed, c.progress.mode)


def _sft_preflight(c: StepContext) -> Findings:
    return _findings(c, None)


def _kd_preflight(c: StepContext) -> Findings:
    return _findings(c, Distillation(c.path("data"), c.config))


def _findings(c: StepContext, lesson: Lesson | None) -> Findings:
    """What a step that trains on examples would refuse, in one process."""
    if processes(c.config) > 1 or c.config.deepspeed is not None:
        raise UserError(
            f"[{c.step}] its table asks for {processes(c.config)} processes, preflight runs in one: the step makes the "
            "same checks in each of them before it begins"
        )
    with _guarded(c) as guard:
        return preflight(
            c.path("data"),
            c.path("model"),
            c.out,
            c.config,
            loader=Folders(c.progress),
            seed=c.seed,
            progress=c.progress,
            lesson=lesson,
            guard=guard,
        )


def _sft_share(data: Path, model: Path, out: Path, config: SftConfig, seed: int, mode: Mode) -> Report:
    """`sft` on each of several processes; the first alone tells of its progress."""
    from teacher.parallel.joins import agreed, leads

    progress = Progress(mode if leads() else "quiet")
    return sft(data, model, out, config, loader=Folders(progress), seed=seed, progress=progress, agree=agreed)


def _logits(c: StepContext) -> Report:
    sampler, chat, context = measuring(c)
    return logits(c.path("data"), c.out, c.config, sampler=sampler, chat=chat, context=context, progress=c.progress)


def _kd(c: StepContext) -> Report:
    data, model, loader = c.path("data"), c.path("model"), Folders(c.progress)
    with _guarded(c) as guard:
        return kd(data, model, c.out, c.config, loader=loader, seed=c.seed, progress=c.progress, guard=guard)


def _on_policy(c: StepContext) -> Report:
    teacher = Taught(*measuring(c, "teacher"))
    given = {field: c.path(field) if field in c.inputs else None for field in ("problems", "data")}
    with _judge(c) if c.config.judged else nullcontext() as judge:
        return on_policy(
            c.path("model"),
            c.out,
            c.config,
            **given,
            teacher=teacher,
            loader=Folders(c.progress),
            judge=judge,
            seed=c.seed,
            progress=c.progress,
        )


def _rl(c: StepContext) -> Report:
    with _judge(c) as judge:
        return rl(
            c.path("model"),
            c.path("problems"),
            c.out,
            c.config,
            loader=Folders(c.progress),
            judge=judge,
            seed=c.seed,
            progress=c.progress,
        )


def _quantize(c: StepContext) -> Report:
    return quantize(c.path("model"), c.out, c.config, seed=c.seed, progress=c.progress)


def _bench(c: StepContext) -> Report:
    config: BenchConfig = c.config
    path = c.path("problems")
    if config.checkpoints:
        expect_processes(c.step, config)

    def sampler_for(folder: Path) -> Any:
        asked = select(read_problems(path), config.select, path)
        how = config.asking(asked, c.data, c.seed)
        return engine_sampler(folder, asked, how.ask, how.params.max_tokens, config.samples, config, c.progress)

    with Judge(sandbox=c.sandbox) as judge:
        return bench(
            checkpoint_names(c.inputs.get("checkpoints", ())),
            path,
            c.out,
            config,
            traces=c.inputs.get("traces", ()),
            sampler_for=sampler_for,
            others=examined_samplers(c),
            data=c.data,
            judge=judge,
            seed=c.seed,
            progress=c.progress,
        )


def _bench_files(config: BenchConfig, data: Path) -> Iterable[Path]:
    for one in config.samplers.values():
        if one.replay is not None:
            yield recording_file(one.replay, data)
        elif one.endpoint is not None and one.endpoint.serve:
            yield gguf_file(one.endpoint.serve)


def _report(c: StepContext) -> Report:
    return report(c.inputs["bench"], c.inputs.get("runs", ()), c.out, c.config, tables=table_of, progress=c.progress)


def table_of(manifest: Manifest) -> dict[str, Any]:
    """What a recipe has to say for the step of a manifest: its config without what is default."""
    stage = REGISTRY.get(manifest.stage)
    return dict(manifest.config) if stage is None else written(stage, manifest.config)


REGISTRY = {
    stage.name: stage
    for stage in (
        Stage("problems", ProblemsConfig, _problems, reads=_problem_files),
        Stage("vary", VaryConfig, _vary),
        Stage(
            "harvest",
            HarvestConfig,
            _harvest,
            version=f"1 judge {JUDGE_VERSION}",
            reads=_harvest_files,
            renew=_renew,
            goes_on=goes_on,
        ),
        Stage("import", ImportConfig, _import, version=f"1 judge {JUDGE_VERSION}", reads=import_files, renew=_renew),
        Stage("measure", MeasureConfig, _measure),
        Stage("curate", CurateConfig, _curate, version="3", reads=_curate_files),
        Stage("teacher-init", TeacherInitConfig, _teacher_init, reads=_tokenizer_files),
        Stage("student-init", StudentInitConfig, _student_init, reads=_tokenizer_files),
        Stage("student-import", StudentImportConfig, _student_import, version="2", reads=_student_import_files),
        Stage("sft", SftConfig, _sft, preflight=_sft_preflight, sized=train_sizing.SIZED),
        Stage("logits", LogitsConfig, _logits),
        Stage("kd", KdConfig, _kd, preflight=_kd_preflight, sized=train_sizing.SIZED),
        Stage("on-policy", OnPolicyConfig, _on_policy, version=f"1 judge {JUDGE_VERSION}"),
        Stage("rl", RlConfig, _rl, version=f"1 judge {JUDGE_VERSION}"),
        Stage("quantize", QuantizeConfig, _quantize),
        Stage(
            "bench",
            BenchConfig,
            _bench,
            version=f"3 judge {JUDGE_VERSION}",
            reads=_bench_files,
            sized=bench_sizing.SIZED,
        ),
        Stage("report", ReportConfig, _report, version="2"),
    )
}
