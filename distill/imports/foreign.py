"""Foreign: what one row of others says, under our words.

A row is one trace, or several where its columns hold lists (OpenR1's generations). Golds are
taken as they stand, out of their box or from behind `####`. Nothing is judged and nothing is
made up: a finish that was not recorded counts as `stop`, token counts are 0.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import shown
from distill.imports.config import ImportConfig
from distill.imports.layouts import Columns, Meaning, reach
from distill.imports.thought import bare_thought, with_our_tags
from distill.judge.extraction import HASHES, last_boxed
from distill.prompts import END_THINK, THINK
from distill.records import Completion, Exchange, Finish, Params, Tests
from distill.strict_json import parse_json

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}
"""Who speaks, in the words of ShareGPT, OpenAssistant, Gemini and the chat completions API."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of an assistant turn that hold its thought apart."""
FINISHES: Mapping[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
}
NO_GOLD = ("proof", "notfound", "not found", "none", "n/a")
"""What NuminaMath and its descendants write where there is no answer to compare with."""
LONGEST_BARE_GOLD = 60
"""Characters of a worked solution that is nothing but its answer (s1K's AIME rows: `128`)."""
TRUE, FALSE = ("true", "yes", "correct", "passed", "1"), ("false", "no", "incorrect", "wrong", "failed", "0")
LEVEL = re.compile(r"(?:level\s*)?(\d+)", re.IGNORECASE)


class BadRowError(ValueError):
    """Why a row is no trace."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """One trace of a row."""

    prompt: str | None
    """None where only `problem_id` says what was asked."""
    completion: Completion
    think_open: bool
    mark: str
    """How its thought was marked in the file, `column` for one apart; "" for none."""
    system: bool
    """A system prompt came with it, which is left out."""
    gold: str | None
    tests: Tests | None
    solution: str | None
    problem_id: str | None
    teacher: str | None
    label: bool | None
    level: int | None
    subject: str | None
    params: Params | None


def foreign_traces(row: Mapping[str, Any], columns: Columns, config: ImportConfig) -> list[Foreign]:
    """The traces of a row. Raises BadRowError saying which column is not what it should be."""
    prompt, system, said = _said(row, columns, config)
    solution = _text(_value(row, columns, "solution"), "solution")
    tests = _tests(_value(row, columns, "tests"))
    shared = {
        "prompt": prompt,
        "system": system or bool(row.get("system")),
        "gold": None if tests else _gold(_value(row, columns, "gold"), solution),
        "tests": tests,
        "solution": solution,
        "problem_id": _name(_value(row, columns, "problem_id"), "problem_id"),
        "teacher": _name(_value(row, columns, "teacher"), "teacher") or config.teacher,
        "level": _level(_value(row, columns, "level")),
        "subject": _subject(_value(row, columns, "subject")),
        "params": _params(row, columns) or config.params,
    }
    traces = []
    for index, (reasoning, text) in enumerate(said):
        finish = _finish(_at(row, columns, "finish", index), _at(row, columns, "complete", index))
        label = _label(_at(row, columns, "label", index))
        traces.append(_trace(reasoning, text, finish, config, label=label, **shared))
    return traces


def _trace(
    reasoning: str | None, text: str, finish: Finish, config: ImportConfig, *, label: bool | None, **shared: Any
) -> Foreign:
    mark, think_open = "column", False
    if reasoning is None:
        text, mark = with_our_tags(text)
        think_open = THINK not in text and (config.think_open or END_THINK in text)
    completion = Completion(text=text, finish=finish, prompt_tokens=0, completion_tokens=0, reasoning=reasoning)
    return Foreign(completion=completion, think_open=think_open, mark=mark, label=label, **shared)


def _said(
    row: Mapping[str, Any], columns: Columns, config: ImportConfig
) -> tuple[str | None, bool, list[tuple[str | None, str]]]:
    """Prompt, whether a system prompt stood before it, and every (thought apart, text)."""
    if "turns" in columns:
        return _exchange(_value(row, columns, "turns"), config)
    asked = _value(row, columns, "prompt")
    prompt = _last_user(asked) if isinstance(asked, list) else _text(asked, "prompt")
    if "prompt" in columns and prompt is not None and not prompt.strip():
        raise BadRowError(f"{_names(columns, 'prompt')}: empty")
    texts = _list(_value(row, columns, "text"), _names(columns, "text"))
    thoughts = _list(_value(row, columns, "reasoning"), _names(columns, "reasoning"))
    answers = _list(_value(row, columns, "answer"), _names(columns, "answer"))
    if not thoughts:
        if not (texts or answers):
            raise BadRowError(f"{_names(columns, 'text', 'answer')}: nothing was answered")
        return prompt, False, [(None, text) for text in texts or answers]
    answers = answers or texts
    if len(answers) != len(thoughts):
        raise BadRowError(f"{len(thoughts)} thoughts in {_names(columns, 'reasoning')} for {len(answers)} answers")
    pairs = zip(thoughts, answers, strict=True)
    return prompt, False, [(bare_thought(thought) or None, answer) for thought, answer in pairs]


def _exchange(turns: Any, config: ImportConfig) -> tuple[str, bool, list[tuple[str | None, str]]]:
    """The one question and answer of a conversation."""
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = parse_json(turns.encode(errors="replace"), "turns")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRowError(f"turns: expected a list of objects, got {shown(turns)}")
    roles = [_role(turn) for turn in turns]
    system = "system" in roles
    talk = [(role, turn) for role, turn in zip(roles, turns, strict=True) if role != "system"]
    if [role for role, _ in talk[:2]] != ["user", "assistant"]:
        raise BadRowError(f"turns: expected a question and its answer, got {', '.join(roles) or 'none'}")
    if len(talk) > 2 and config.turns == "one":
        raise BadRowError(f'turns: {len(talk)} of them, a trace is one exchange (turns = "first" takes the first)')
    question, answer = talk[0][1], talk[1][1]
    thought = next((answer[key] for key in THOUGHTS if answer.get(key)), None)
    prompt = _content(question)
    if not prompt.strip():
        raise BadRowError("turns: the question is empty")
    apart = None if thought is None else bare_thought(_required(thought, "reasoning_content")) or None
    return prompt, system, [(apart, _content(answer))]


def _role(turn: Mapping[str, Any]) -> str:
    name = turn.get("role") or turn.get("from")
    if not isinstance(name, str) or name.lower() not in ROLES:
        raise BadRowError(f"turns: a turn of {shown(name)}, expected one of {', '.join(ROLES)}")
    return ROLES[name.lower()]


def _content(turn: Mapping[str, Any]) -> str:
    """The text of a turn, or of its text parts."""
    held = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), None)
    if isinstance(held, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in held]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(str(part) for part in parts)
    return _required(held, "turns: content")


def _last_user(turns: Sequence[Any]) -> str:
    """The question of a prompt that is a list of messages."""
    asked = [turn for turn in turns if isinstance(turn, Mapping) and _role(turn) == "user"]
    if len(asked) != 1:
        raise BadRowError(f"prompt: a list with {len(asked)} user turns, expected one")
    return _content(asked[0])


def _value(row: Mapping[str, Any], columns: Columns, field: Meaning) -> Any:
    return next((found for name in columns.get(field, ()) if (found := reach(row, name)) is not None), None)


def _at(row: Mapping[str, Any], columns: Columns, field: Meaning, index: int) -> Any:
    """The value that belongs to trace `index` of a row: of several columns the first that has one."""
    for name in columns.get(field, ()):
        value = reach(row, name)
        if isinstance(value, list):
            value = value[index] if index < len(value) else None
        if value is not None:
            return value
    return None


def _list(value: Any, column: str) -> list[str]:
    if value is None:
        return []
    return [_required(each, column) for each in (value if isinstance(value, list) else [value])]


def _text(value: Any, column: str) -> str | None:
    return None if value is None else _required(value, column)


def _required(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"{column}: expected text, got {shown(value)}")
    return value


def _names(columns: Columns, *fields: Meaning) -> str:
    return ", ".join(name for field in fields for name in columns.get(field, ())) or fields[0]


def _name(value: Any, column: str) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRowError(f"{column}: expected a name or a number, got {shown(value)}")
    if not str(value).isprintable():
        raise BadRowError(f"{column}: expected a name on one line, got {shown(value)}")
    return str(value)


def _gold(value: Any, solution: str | None) -> str | None:
    """The gold answer of its column, else out of a worked solution; None when neither has one."""
    if isinstance(value, list):
        value = ", ".join(str(each) for each in value) or None
    if isinstance(value, Mapping | bool):
        raise BadRowError(f"gold: expected an answer, got {shown(value)}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None:
        text = str(value).strip()
        return _inside(text) if _marked(text) else _bare_gold(text)
    if solution is None:
        return None
    text = solution.strip()
    if _marked(text):
        return _inside(text)
    return _bare_gold(text) if len(text) <= LONGEST_BARE_GOLD and "\n" not in text else None


def _tests(value: Any) -> Tests | None:
    """What programs of APPS and TACO read and must print; None where a function is called instead, or nothing given."""
    if isinstance(value, str):
        value = parse_json(value.encode(errors="replace"), "tests") if value.strip() else None
    if not value or (isinstance(value, Mapping) and value.get("fn_name")):
        return None
    if not isinstance(value, Mapping) or not {"inputs", "outputs"} <= value.keys():
        raise BadRowError(f"tests: expected inputs and outputs, got {shown(value)}")
    read, printed = value["inputs"], value["outputs"]
    if not (isinstance(read, list) and isinstance(printed, list) and len(read) == len(printed)):
        raise BadRowError("tests: expected as many outputs as inputs")
    if not read:
        return None
    runs = (Exchange(stdin=_lined(stdin), stdout=_lined(stdout)) for stdin, stdout in zip(read, printed, strict=True))
    return Tests(entry_point="", check=tuple(runs))


def _lined(value: Any) -> str:
    """Text, or lines of text."""
    return "\n".join(_lined(each) for each in value) if isinstance(value, list) else _required(value, "tests")


def _bare_gold(text: str) -> str | None:
    return None if text.lower() in ("", *NO_GOLD) else text


def _marked(text: str) -> bool:
    return "\\boxed" in text or "\\fbox" in text or HASHES.search(text) is not None


def _inside(text: str) -> str | None:
    r"""What the last `\boxed{}` holds, else what stands behind the last `####`; None for a box that never closes."""
    if "\\boxed" in text or "\\fbox" in text:
        return last_boxed(text)
    return HASHES.findall(text)[-1].strip() or None


def _level(value: Any) -> int | None:
    """`Level 3`, 3 and 3.0 are 3; what is no whole number is no level."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = (
        LEVEL.fullmatch(str(value).strip()) if isinstance(value, str | int) and not isinstance(value, bool) else None
    )
    return int(found.group(1)) if found else None


def _subject(value: Any) -> str | None:
    if isinstance(value, list):
        value = ", ".join(str(each) for each in value)
    return str(value) if isinstance(value, str | int) and str(value).strip() else None


def _label(value: Any) -> bool | None:
    said = str(value).strip().lower()
    if value is None or said == "":
        return None
    if said not in TRUE + FALSE:
        raise BadRowError(f"label: expected yes or no, got {shown(value)}")
    return said in TRUE


def _finish(value: Any, complete: Any) -> Finish:
    if value is None:
        return "length" if complete is False else "stop"
    if not isinstance(value, str) or value.lower() not in FINISHES:
        raise BadRowError(f"finish: expected one of {', '.join(FINISHES)}, got {shown(value)}")
    return FINISHES[value.lower()]


def _params(row: Mapping[str, Any], columns: Columns) -> Params | None:
    """How this row was sampled; None unless at least its token limit was recorded."""
    keys: tuple[Meaning, ...] = ("max_tokens", "temperature", "top_p")
    found = {key: value for key in keys if (value := _value(row, columns, key)) is not None}
    if "max_tokens" not in found:
        return None
    try:
        return Params.model_validate(found)
    except ValueError as error:
        raise BadRowError(f"{', '.join(found)}: no sampling parameters ({shown(str(found))})") from error
