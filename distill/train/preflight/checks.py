"""The entry point of a preflight: rows, model, tokenizer and table in, findings out or a refusal.

A stage that trains on examples calls `check_training` once, with the rows and the collator it will use;
one that has no rows before it begins calls `check_model`. Memory is looked at before the model is loaded
(`preflight.memory`) and packing after all processes have agreed to begin (`preflight.packing`), since that makes them
compute together.
"""

from pathlib import Path

from distill.errors import UserError
from distill.progress import Progress
from distill.sampling.protocols import LoadedModel
from distill.train.preflight.batch import Collate, check_batch
from distill.train.preflight.example import show
from distill.train.preflight.findings import Finding, Findings
from distill.train.preflight.model import check_model, check_positions
from distill.train.rows import IGNORED, Rows


def check_training(loaded: LoadedModel, rows: Rows, collate: Collate) -> Findings:
    """Everything about a model and the rows it is to learn. Raises UserError with the first thing that is wrong."""
    model = check_model(loaded)
    length = check_positions(rows, loaded)
    batch = check_batch(rows, collate, loaded.tokenizer)
    tokens = sum(rows.lengths)
    learned = sum(label != IGNORED for labels in rows.labels for label in labels)
    twice = len(rows.token_ids) - len({hash(tuple(ids)) for ids in rows.token_ids})
    count = len(rows.token_ids)
    return Findings(
        (
            *rows.told,
            length,
            Finding("loss", f"on {learned / tokens:.1%} of {tokens:,} tokens"),
            Finding("duplicates", f"{twice:,} of {count:,} rows ({twice / count:.1%}) repeat another token by token"),
            *model,
            batch,
        ),
        {"loss_share": round(learned / tokens, 4), "duplicates": twice},
        show(rows, 0, loaded.tokenizer),
    )


def check_curriculum(rows: Rows, start: float, where: Path) -> None:
    """Raises UserError for a curriculum over rows of which none is easier than another."""
    if start < 1 and not rows.ordered:
        raise UserError(
            f"{where}: curriculum.start = {start:g} begins with the easiest examples, but all have the same order; "
            "choose an order in curate, or take the curriculum out"
        )


def tell(findings: Findings, progress: Progress) -> None:
    """Show the example and what is worth a look, unless told to be quiet."""
    if progress.mode == "quiet":
        return
    if findings.example is not None:
        findings.example.print(progress.console)
    for line in findings.looks:
        progress.say(line)
