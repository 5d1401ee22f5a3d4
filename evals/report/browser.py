"""Browser: what each checkpoint said to the same problem, side by side.

Plain HTML that reads without any script; the page's script only adds search and filter.
All of it is untrusted text and goes through `text`.
"""

from collections.abc import Sequence

from evals.report.collect import Answer, Bench, Shown
from evals.report.drawing import text

LONGEST = 6000
"""Characters shown of one thought; the middle of a longer one is left out and said so."""
ROOM = 1_200_000
"""Characters of traces on one page, so that it stays a page."""


def browser(benches: Sequence[Bench]) -> str:
    """Controls and problems. Empty when no bench kept a trace."""
    blocks: list[str] = []
    size = left_out = 0
    for bench in benches:
        for shown in bench.shown:
            block = _problem(shown, len(bench.checkpoints))
            if size + len(block) > ROOM and blocks:
                left_out += 1
                continue
            size += len(block)
            blocks.append(block)
    if not blocks:
        return ""
    names = list(dict.fromkeys(name for bench in benches for name in bench.checkpoints))
    note = f'<p class="soft">{left_out} more were chosen and left out for their length.</p>' if left_out else ""
    return _controls(names, benches) + "".join(blocks) + note


def _controls(names: Sequence[str], benches: Sequence[Bench]) -> str:
    statuses = {answer.item.status for bench in benches for shown in bench.shown for answer in shown.answers}
    whose = "".join(f"<option>{text(name)}</option>" for name in names)
    verdicts = "".join(
        f"<option>{text(status)}</option>" for status in ["correct", "not correct", *sorted(statuses - {"correct"})]
    )
    return (
        '<div class="tools" id="tools" role="search" hidden>'
        '<label>Search <input id="search" type="search" placeholder="words in problem or trace"></label>'
        f'<label>Checkpoint <select id="who"><option value="">any</option>{whose}</select></label>'
        f'<label>Verdict <select id="verdict"><option value="">any</option>{verdicts}</select></label>'
        '<output id="count" class="soft"></output></div>'
    )


def _problem(shown: Shown, columns: int) -> str:
    where = shown.task if shown.level is None else f"{shown.task}, level {shown.level}"
    prompt = shown.problem.prompt if shown.problem else f"{shown.problem_id} (its problems file is not here)"
    expected = shown.problem.answer if shown.problem and shown.problem.answer is not None else None
    dots = "".join(
        f'<i class="k-{answer.item.status}" title="{text(f"{answer.checkpoint}: {answer.item.status}")}"></i>'
        for answer in shown.answers
    )
    answers = "".join(_answer(answer) for answer in shown.answers)
    wanted = f'<p class="soft">Expected <strong>{text(expected)}</strong></p>' if expected is not None else ""
    summary = " ".join(prompt.split())
    return (
        f'<details class="problem"><summary><span class="dots">{dots}</span>'
        f'<span class="ask" dir="auto">{text(summary[:240])}</span><span class="where">{text(where)}</span></summary>'
        f'<div class="inside"><pre class="ask" dir="auto">{text(_middle_out(prompt))}</pre>{wanted}'
        f'<div class="answers">{answers}</div></div></details>'
    )


def _answer(answer: Answer) -> str:
    item, verdict, trace = answer.item, answer.verdict, answer.trace
    facts = [f"{item.tokens:,} tokens"] if item.tokens else []
    if verdict is not None:
        facts += [f"read as {verdict.extracted}"] if verdict.extracted is not None else []
        facts += [verdict.why] if verdict.why else []
    if trace is None:
        said = "<p>The trace is no longer beside the bench.</p>"
    elif trace.answer is None:
        said = f'<pre class="thought" dir="auto">{text(_middle_out(trace.text))}</pre>'
    else:
        thought = (
            f'<pre class="thought" dir="auto">{text(_middle_out(trace.reasoning))}</pre>' if trace.reasoning else ""
        )
        said = f'{thought}<pre dir="auto">{text(_middle_out(trace.answer))}</pre>'
    return (
        f'<div class="answer" data-who="{text(answer.checkpoint)}" data-verdict="{item.status}">'
        f'<h4>{text(answer.checkpoint)}</h4><p><span class="badge k-{item.status}">{item.status}</span> '
        f"{text(', '.join(facts)[:400])}</p>{said}</div>"
    )


def _middle_out(said: str) -> str:
    if len(said) <= LONGEST:
        return said
    half = LONGEST // 2
    return f"{said[:half]}\n\n[... {len(said) - 2 * half:,} characters left out ...]\n\n{said[-half:]}"
