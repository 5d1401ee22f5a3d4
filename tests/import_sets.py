"""Small foreign sets, and the ways tests read them."""

import json
import os
from pathlib import Path
from typing import Any

from distill.imports.config import ImportConfig
from distill.imports.stage import import_traces, open_walk
from distill.imports.walk import Line
from distill.progress import Progress
from distill.runs import Report
from tests.import_kills import Comparing

DATA = Path(os.environ.get("DISTILL_DATA", ""))
ROW = {"question": "1 + 1?", "response": "<think>so</think>2", "gold": "2"}
TALK = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "<think>\nso\n</think>\n\n2"}]


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def config(path: Path, **fields: Any) -> ImportConfig:
    return ImportConfig.model_validate({"files": str(path), "source": "set", "teacher": "someone", **fields})


def lines(path: Path, *, problems: Path | None = None, **fields: Any) -> list[Line]:
    return list(open_walk(config(path, **fields), path.parent, problems).lines())


def run(out: Path, table: ImportConfig, *, judge: Any = None, problems: Path | None = None) -> Report:
    out.mkdir(exist_ok=True)
    judge, progress = judge or Comparing(), Progress("quiet")
    return import_traces(out, table, data=DATA, problems=problems, judge=judge, progress=progress)
