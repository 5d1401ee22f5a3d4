"""A harvest on disk, built up sample by sample, and what curate makes of it."""

from pathlib import Path

from distill.curate import CurateConfig, Inputs, curate
from distill.curate.decontaminate import Match
from distill.curate.history import Fate
from distill.curate.measure import MEASURES, Measure
from distill.jsonl import read_jsonl, write_jsonl
from distill.ledger import Ledger
from distill.progress import Progress
from distill.records import Example, Params, Problem, SamplerId, Trace, Verdict
from distill.runs import Manifest, Report

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


def problem(id: str, prompt: str, *, level: int = 1, split: str = "train") -> Problem:
    fields = {"id": id, "kind": "answer", "prompt": prompt, "answer": "1", "source": "stories", "split": split}
    return Problem.model_validate({**fields, "level": level})


class World:
    """A harvest on disk, built up sample by sample."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems = [problem("p1", "first"), problem("p2", "second", level=2), problem("p3", "third", level=3)]
        self.exam = [problem("exam", "the exam", split="test")]
        self.terms = "allows-training"
        self.source: dict[str, str] = {}
        """What the harvest's source says of itself, beside its terms."""
        self.samples: list[tuple[Trace, Verdict | None]] = []

    def say(
        self,
        problem_id: str = "p1",
        text: str = "",
        status: str | None = "correct",
        *,
        finish: str = "stop",
        reasoning: str | None = "so",
        answer: str | None = "1",
        isolation: str | None = None,
        extracted: str | None = None,
        think_open: bool = False,
    ) -> str:
        number = len(self.samples)
        id = f"t{number:02}"
        trace = {
            "id": id,
            "problem_id": problem_id,
            "sampler": SamplerId(name="oracle", revision="1"),
            "params": Params(max_tokens=9),
            "sample_index": number,
            "reasoning": None if reasoning is None else reasoning + text,
            "answer": answer,
            "text": f"said {text}",
            "finish": finish,
            "think_open": think_open,
            "prompt_tokens": 1,
            "completion_tokens": 2,
        }
        verdict = {"trace_id": id, "judge_version": "1", "status": status, "why": "because", "isolation": isolation}
        verdict |= {"extracted": extracted}
        self.samples.append((Trace.model_validate(trace), Verdict.model_validate(verdict) if status else None))
        return id

    def write(self) -> None:
        harvest, sets = self.folder / "harvest", self.folder / "problems"
        with Ledger(harvest / "traces") as traces, Ledger(harvest / "verdicts") as verdicts:
            for trace, verdict in self.samples:
                traces.append(trace)
                if verdict is not None:
                    verdicts.append(verdict)
        sets.mkdir(exist_ok=True)
        (harvest / "manifest.json").write_text(self.manifest().model_dump_json())
        write_jsonl(sets / "problems.jsonl", [*self.problems, *self.exam])

    def manifest(self) -> Manifest:
        """Of the harvest: its one source allows training."""
        source = {"name": "oracle", "licence": "own", "terms": self.terms, "traces": len(self.samples)}
        source |= self.source
        return Manifest(
            step="harvest",
            stage="harvest",
            stage_version="1",
            fingerprint="0123456789abcdef",
            seed=0,
            config={},
            inputs=(),
            versions={},
            git_commit=None,
            device="cpu",
            started="2025-01-01T00:00:00Z",
            seconds=1.0,
            resumed=0,
            report=Report(marks={"sources": [source]}),
        )

    def curate(self, out: str = "out", seed: int = 0, chat: object = None, **fields: object) -> Report:
        """A step with the given keys; filters of what texts say are off unless they are among them."""
        if not (self.folder / "harvest").exists():
            self.write()
        target = self.folder / out
        target.mkdir(exist_ok=True)
        named = {"traces": "harvest", "problems": "problems", "against": "problems", "content": "off"}
        config = CurateConfig.model_validate({**named, **fields})
        problems = [self.folder / "problems"]
        inputs = Inputs(
            traces=[self.folder / "harvest"],
            problems=problems,
            against=problems if config.against else (),
            measures=[self.folder / name for name in config.measures],
        )
        return curate(inputs, target, config, seed=seed, progress=Progress("quiet"), chat=chat)  # type: ignore[arg-type]

    def measure(self, name: str, **losses: float) -> None:
        """A measure step that found these losses, a trace each."""
        model = SamplerId(name=name, revision="1")
        with Ledger(self.folder / name / MEASURES) as ledger:
            for trace_id, loss in losses.items():
                ledger.append(Measure(trace_id=trace_id, model=model, tokens=1, loss=loss))

    def examples(self, out: str = "out") -> list[Example]:
        return read_jsonl(self.folder / out / "examples.jsonl", Example)

    def kept(self, out: str = "out") -> list[str | None]:
        return [row.trace_id for row in self.examples(out)]

    def dropped(self) -> dict[str, str]:
        return {fate.trace_id: str(fate.steps[-1][2]) for fate in self.fates() if not fate.kept}

    def fates(self) -> list[Fate]:
        return read_jsonl(self.folder / "out" / "history.jsonl", Fate)

    def matches(self) -> list[Match]:
        return read_jsonl(self.folder / "out" / "decontamination.jsonl", Match)
