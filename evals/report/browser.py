"""Browser: what each checkpoint said to the same problem, side by side.

Plain HTML that reads without any script, formulas set and code colored when the page is written; the page's
script only adds search, filters and keys. All of it is untrusted text and goes through `said` or `text`.
"""

from collections.abc import Mapping, Sequence

from distill.records import Problem, fingerprint
from evals.report.choosing import Answer, Shown
from evals.report.collect import Bench
from evals.report.drawing import text
from evals.report.said import answer, program, said

LONGEST = 16_000
"""Characters shown of one text; the middle of a longer one is left out and said so."""
ROOM = 24_000_000
"""Characters of problems and traces on one page, markup included, so that it stays a page."""


def browser(benches: Sequence[Bench]) -> str:
    """Controls and problems. Empty when no bench kept a trace."""
    blocks: list[str] = []
    size = left_out = 0
    for bench in benches:
        for shown in bench.shown:
            block = _problem(shown, bench, several=len(benches) > 1)
            if size + len(block) > ROOM and blocks:
                left_out += 1
                continue
            size += len(block)
            blocks.append(block)
    if not blocks:
        return ""
    asked = sum(len({item.problem_id for rows in bench.items.values() for item in rows}) for bench in benches)
    note = f"{len(blocks):,} of {asked:,} problems"
    note += f"; {left_out:,} more were chosen and left out for their length" if left_out else ""
    return (
        f'{_controls(benches)}<div class="list" id="problems">{"".join(blocks)}</div>'
        f'<p class="soft">{note}. On paper only what is open is printed.</p>'
    )


def anchor(bench: Bench, problem_id: str) -> str:
    """Where a shown problem stands on the page."""
    return f"problem-{bench.name}-{fingerprint(problem_id)[:10]}"


def _controls(benches: Sequence[Bench]) -> str:
    answers = [one for bench in benches for shown in bench.shown for one in shown.answers]
    names = dict.fromkeys(name for bench in benches for name in bench.checkpoints)
    statuses = sorted({one.item.status for one in answers} - {"correct"})
    tasks = sorted({shown.task for bench in benches for shown in bench.shown})
    pairs = dict.fromkeys((row.a, row.b) for bench in benches for row in bench.paired)
    flips = {f"{right}>{wrong}": f"{right} right, {wrong} not" for a, b in pairs for right, wrong in ((a, b), (b, a))}
    differ = {"differ": "any two differ"} if len(names) > 1 else {}
    return (
        '<div class="tools" id="tools" role="search" hidden>'
        '<label class="wide">Search <input id="search" type="search" placeholder="words in problem or trace" '
        'autocomplete="off" spellcheck="false"></label>'
        + _select("who", "Checkpoint", dict.fromkeys(names, ""))
        + _select("verdict", "Verdict", dict.fromkeys(["correct", "not correct", *statuses], ""))
        + (_select("task", "Set", dict.fromkeys(tasks, "")) if len(tasks) > 1 else "")
        + (_select("flip", "Flips", differ | flips) if differ | flips else "")
        + '<label><input id="source" type="checkbox"> TeX as written</label>'
        '<output id="count" class="soft" aria-live="polite"></output>'
        '<span class="soft keys"><kbd>/</kbd> search <kbd>j</kbd> <kbd>k</kbd> next, previous '
        "<kbd>Enter</kbd> open</span></div>"
    )


def _select(name: str, label: str, options: Mapping[str, str]) -> str:
    listed = "".join(
        f'<option value="{text(value)}">{text(shown or value)}</option>' for value, shown in options.items()
    )
    return f'<label>{label} <select id="{name}"><option value="">any</option>{listed}</select></label>'


def _problem(shown: Shown, bench: Bench, *, several: bool) -> str:
    place = shown.task if shown.level is None else f"{shown.task}, level {shown.level}"
    subject = bench.subjects.get(shown.problem_id)
    where = f"{place}, {subject}" if subject else place
    prompt = shown.problem.prompt if shown.problem else f"{shown.problem_id} (its problems file is not here)"
    dots = "".join(
        f'<i class="k-{one.item.status}" title="{text(f"{one.checkpoint}: {one.item.status}")}"></i>'
        for one in shown.answers
    )
    code = shown.problem is not None and shown.problem.kind == "code"
    repeated = len({one.checkpoint for one in shown.answers}) < len(shown.answers)
    answers = "".join(_answer(one, code=code, repeated=repeated) for one in shown.answers)
    line = " ".join(prompt.split())[:200].replace("$$", "$")  # a formula of its own would break the line
    origin = f"{bench.name}: {shown.problem_id}" if several else shown.problem_id
    return (
        f'<details class="problem" id="{text(anchor(bench, shown.problem_id))}" data-task="{text(shown.task)}">'
        f'<summary><span class="dots">{dots}</span><span class="line" dir="auto">{said(line)}'
        f'</span><span class="where">{text(where)}</span></summary><div class="inside">'
        f'<div class="said ask" dir="auto">{_asked(prompt, shown.problem)}</div>'
        f'<p class="soft">{_expected(shown.problem)}<code>{text(origin)}</code></p>'
        f'<div class="answers">{answers}</div></div></details>'
    )


def _asked(prompt: str, problem: Problem | None) -> str:
    """A problem that is the head of a program is code."""
    head = problem is not None and problem.tests is not None and bool(problem.tests.prefix)
    return f'<code class="block">{program(_middle_out(prompt))}</code>' if head else said(_middle_out(prompt))


def _expected(problem: Problem | None) -> str:
    if problem is None or problem.answer is None:
        return ""
    return f'Expected <strong class="said">{answer(problem.answer)}</strong> · '


def _answer(one: Answer, *, code: bool, repeated: bool) -> str:
    item, verdict, trace = one.item, one.verdict, one.trace
    facts = [f"{item.tokens:,} tokens"] if item.tokens else []
    if verdict is not None:
        facts += [f"read as {verdict.extracted}"] if verdict.extracted is not None and not code else []
        facts += [verdict.why] if verdict.why else []
    name = f"{one.checkpoint} #{item.sample_index}" if repeated else one.checkpoint
    return (
        f'<article class="answer" data-who="{text(one.checkpoint)}" data-verdict="{item.status}">'
        f'<h4>{text(name)} <span class="badge b-{item.status}">{item.status}</span></h4>'
        f'<p class="facts">{text(", ".join(facts)[:400])}</p>{_words(one, code=code)}'
        f'<p class="id">trace <code>{text(trace.id if trace else item.trace_id)}</code></p></article>'
    )


def _words(one: Answer, *, code: bool) -> str:
    trace = one.trace
    if trace is None:
        return "<p>The trace is no longer beside the bench.</p>"
    if trace.answer is None:
        return f'<div class="said thought" dir="auto">{said(_middle_out(trace.text))}</div>'
    thought = trace.reasoning and f'<div class="said thought" dir="auto">{said(_middle_out(trace.reasoning))}</div>'
    if code and "```" not in trace.answer:
        source = trace.answer if trace.reasoning else trace.text  # an answer has lost the indent of its first line
        shown = f'<code class="block">{program(_middle_out(source.rstrip()))}</code>'
    else:
        shown = said(_middle_out(trace.answer))
    return f'{thought or ""}<div class="said" dir="auto">{shown}</div>'


def _middle_out(words: str) -> str:
    if len(words) <= LONGEST:
        return words
    half = LONGEST // 2
    return f"{words[:half]}\n\n[... {len(words) - 2 * half:,} characters left out ...]\n\n{words[-half:]}"
