"""Terms: may a student learn from these traces, and who says so.

Every harvest or import has sources, each with its licence and its terms: `allows-training`,
`forbids-training` or `unknown`. What may not, or is not known to, teach is refused unless
the recipe says so twice: `terms = "accept"`, and the source by name in `accept_terms`.
`TEACHERS` is a table of suggestions for traces that come without a word about it. It was
written down from the documents it names, which change, differ by country and by contract,
and bind whoever agreed to them: it is no legal advice, and `terms` of the recipe overrides it.

Does not read licences of sets or of their questions: those are the user's to state.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from distill.errors import UserError, did_you_mean
from distill.records import Record, reason
from distill.runs import MANIFEST, read_manifest

Terms = Literal["allows-training", "forbids-training", "unknown"]

SOURCES = "sources"
"""Mark of a manifest that lists the sources of its traces."""
OURS = ("engine", "oracle")
"""Samplers whose weights or programs are the user's own."""


class Source(Record):
    """Where a set of traces comes from, and on what conditions."""

    model_config = ConfigDict(extra="ignore")

    name: str
    licence: str = "unknown"
    terms: Terms
    url: str | None = None
    teacher: str | None = None
    """Who wrote the traces."""
    basis: str = ""
    """Who says what the terms are: the recipe, or a row of the table."""
    traces: int | None = None


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What the documents of one family of models say about learning from what it wrote."""

    names: re.Pattern[str]
    """Found anywhere in the lower-case name of a teacher."""
    terms: Terms
    why: str
    url: str


def _row(names: str, terms: Terms, why: str, url: str) -> Suggestion:
    return Suggestion(re.compile(names), terms, why, url)


TEACHERS: Sequence[Suggestion] = (
    _row(
        r"r1-distill-llama",
        "allows-training",
        "MIT over the Llama 3.1 or 3.3 licence: name the student Llama-..., say Built with Llama",
        "https://huggingface.co/deepseek-ai/DeepSeek-R1#7-license",
    ),
    _row(
        r"deepseek-(?:r1|reasoner|v3[.-](?:0324|1|2))|r1-(?:distill|0528|zero)",
        "allows-training",
        "MIT; names distillation for training other models as allowed",
        "https://huggingface.co/deepseek-ai/DeepSeek-R1#7-license",
    ),
    _row(
        r"qwen2\.5-(?:coder-|math-)?3b(?!\d)",
        "forbids-training",
        "Qwen research licence: no commercial use",
        "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
    ),
    _row(
        r"qwen2(?:\.5)?-(?:math-)?72b",
        "allows-training",
        "Qwen licence: say Built with Qwen or Improved using Qwen",
        "https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
    ),
    _row(r"qwen(?:2|3)|qwq", "allows-training", "Apache-2.0", "https://huggingface.co/Qwen"),
    _row(
        r"qwen(?:1\.5)?-\d",
        "forbids-training",
        "Tongyi Qianwen licence: not to improve other language models",
        "https://github.com/QwenLM/Qwen/blob/main/Tongyi%20Qianwen%20LICENSE%20AGREEMENT",
    ),
    _row(
        r"llama-?(?:3[._][1-9]|3-[1-3]-|4)",
        "allows-training",
        "community licence: name the student Llama-..., say Built with Llama",
        "https://www.llama.com/llama3_1/license",
    ),
    _row(
        r"llama-?[23]",
        "forbids-training",
        "community licence of Llama 2 and 3: not to improve other language models",
        "https://www.llama.com/llama3/license",
    ),
    _row(
        r"gemma",
        "allows-training",
        "Gemma terms: a student of its outputs is a derivative and carries them on",
        "https://ai.google.dev/gemma/terms",
    ),
    _row(r"gpt-oss", "allows-training", "Apache-2.0", "https://huggingface.co/openai/gpt-oss-120b"),
    _row(r"smollm", "allows-training", "Apache-2.0", "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"),
    _row(r"codegen", "allows-training", "BSD-3-Clause", "https://github.com/salesforce/CodeGen"),
    _row(r"^phi-|/phi-", "allows-training", "MIT", "https://huggingface.co/microsoft/phi-4"),
    _row(
        r"\bgpt-?\d|chatgpt|davinci|\bo[134](?:-(?:mini|preview|pro)|\b)|openai",
        "forbids-training",
        "terms of use: no models that compete with OpenAI",
        "https://openai.com/policies/row-terms-of-use/",
    ),
    _row(
        r"gemini",
        "forbids-training",
        "additional terms: no models that compete with the services",
        "https://ai.google.dev/gemini-api/terms",
    ),
    _row(
        r"claude",
        "forbids-training",
        "commercial and consumer terms: no competing models",
        "https://www.anthropic.com/legal/commercial-terms",
    ),
    _row(r"grok", "forbids-training", "terms of service: no competing models", "https://x.ai/legal/terms-of-service"),
    _row(r"^human$", "allows-training", "written by people; the licence of the set alone counts", ""),
)
"""First match wins. Known to be incomplete; written down in 2025 and 2026."""


def suggested(teacher: str | None) -> tuple[Terms, str]:
    """Terms of a teacher by the table, and the row that says so; `unknown` when there is none."""
    for row in TEACHERS if teacher else ():
        if row.names.search((teacher or "").lower()):
            return row.terms, f"suggested: {row.why}" + (f" ({row.url})" if row.url else "")
    return "unknown", "no row of the table fits this teacher"


def sources_of(folder: Path) -> list[Source]:
    """The sources of a harvest or import by its manifest; a folder without one has one of unknown terms."""
    if not (folder / MANIFEST).is_file():
        return [Source(name=folder.name, terms="unknown", basis=f"{folder} has no {MANIFEST}")]
    manifest = read_manifest(folder)
    if SOURCES in manifest.report.marks:
        try:
            return TypeAdapter(list[Source]).validate_python(manifest.report.marks[SOURCES])
        except ValidationError as error:
            raise UserError(f"{folder / MANIFEST}: marks.{SOURCES}: {reason(error)}") from error
    teachers = manifest.report.marks.get("teachers")
    if teachers is None:
        name = str(manifest.report.marks.get("sampler", {}).get("name", "")) or None
        return [_of_sampler(folder, name, manifest.config.get("sampler"), manifest.report.counts.get("traces"))]
    spoke = [one for one in teachers.values() if one["traces"]]
    return [_of_sampler(folder, one["sampler"]["name"], one["kind"], one["traces"]) for one in spoke]


def gate(folders: Iterable[Path], terms: Literal["refuse", "accept"], accepted: Sequence[str]) -> list[Source]:
    """The sources of all `folders`, in order.

    Raises UserError naming every source that does not allow training, unless `terms` is
    `accept` and `accepted` names it; and when one of the two is said without the other.
    """
    sources = [source for folder in folders for source in sources_of(folder)]
    names = sorted({source.name for source in sources})
    for name in accepted:
        if name not in names:
            raise UserError(
                f"accept_terms: no source {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}"
            )
    if (terms == "accept") != bool(accepted):
        raise UserError(
            'terms, accept_terms: they go together: terms = "accept" and the sources by name, or neither of them'
        )
    refused = [source for source in sources if source.terms != "allows-training" and source.name not in accepted]
    if refused:
        lines = [
            f"source {source.name}: {source.terms} ({source.basis or 'nobody says why'}"
            + (f"; teacher {source.teacher}" if source.teacher else "")
            + ")"
            for source in refused
        ]
        quoted = ", ".join(f'"{name}"' for name in sorted({source.name for source in refused} | set(accepted)))
        lines.append(
            f'not trained on: if you may, say it twice, terms = "accept" and accept_terms = [{quoted}]; '
            'or state the terms where the traces are imported (terms = "allows-training")'
        )
        raise UserError("\n".join(lines))
    return sources


def _of_sampler(folder: Path, teacher: str | None, kind: object, traces: float | None) -> Source:
    """A harvest's own sampler: our models allow it, others by the table."""
    count = None if traces is None else int(traces)
    if kind in OURS:
        return Source(
            name=teacher or folder.name,
            licence="own",
            terms="allows-training",
            teacher=teacher,
            basis=f"sampler {kind}: own model",
            traces=count,
        )
    terms, basis = suggested(teacher)
    return Source(name=teacher or folder.name, terms=terms, teacher=teacher, basis=basis, traces=count)
