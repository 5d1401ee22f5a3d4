"""Form: whether a completion has the form it should, apart from being right.

The format reward of DeepSeek-R1 (section 2.2.2) as a fraction: one think block, closed,
then one answer, and the speaker stopped of itself. Says nothing about correctness.
"""

from distill.judge.extraction import BOX
from distill.judge.style.score import Style
from distill.prompts import END_THINK, THINK
from distill.records import Finish, Trace


def format_score(trace: Trace) -> float:
    """Share of the form checks a trace passes."""
    return form(trace.text, trace.finish, think_open=trace.think_open).score


def form(text: str, finish: Finish, *, think_open: bool = False) -> Style:
    """Check a completion's form. `think_open`: the prompt had already opened the think block."""
    opened = text.count(THINK) + think_open
    before, closed, answer = text.rpartition(END_THINK)
    tags_first = think_open or text.lstrip().startswith(THINK)
    answer = answer.strip() if closed else ""
    checks = {
        "one think block at the start": opened == 1 and tags_first,
        "think block closed once": text.count(END_THINK) == 1 and THINK not in answer,
        "a thought in it": bool(before.replace(THINK, "").strip()),
        "one answer": bool(answer) and len(BOX.findall(answer)) <= 1 and answer.count("####") <= 1,
        "stopped by itself": finish == "stop",
    }
    missing = [name for name, holds in checks.items() if not holds]
    return Style(1 - len(missing) / len(checks), "missing: " + ", ".join(missing) if missing else "")
