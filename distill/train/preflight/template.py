"""Generation marks for a chat template that has none, and the proof that the text stays the same.

Only what stands between `{% generation %}` marks carries loss, and the templates models are published with have none.
Ours is taken from theirs: it is asked to render a few made-up turns, the strings it writes around them are read off,
and a template with marks is built from those. It is installed only where both render every conversation of the training
set, and every prompt, to the same text; a template that looks into what is said (drops thoughts, writes today's date)
fails that proof and is refused. Tool calls and several named templates are not covered.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.errors import UserError, shown
from distill.prompts import END_THINK
from distill.records import Message
from distill.train.preflight.findings import Finding

MARKED = re.compile(r"\{%-?\s*generation\b")
SYSTEM, USER, AGAIN, SAID, REPLY = "sys0tem", "us0er", "us1er", "sa0id", "sa1id"
"""Turns no template knows."""
CONTENTS = ("m['content']", "m['content'] | trim")
"""What templates make of a turn's text."""


class _Pieces(NamedTuple):
    """What a template writes around the texts of turns."""

    head: str
    """Before the first turn, where that is the user's: begin token, a system prompt of its own."""
    head_system: str | None
    """Before a system prompt; None where the template takes none."""
    close_system: str
    open_user: str
    close_user: str
    open_assistant: str
    end: str
    """Behind the assistant's text, up to and with the end-of-turn token."""
    rest: str
    """Behind that."""
    prompt: str
    """What asks for a turn."""


def install_marks(tokenizer: Any, conversations: Sequence[Sequence[Message]], where: Path) -> Finding:
    """Give a tokenizer whose template has no generation marks ours, proved on `conversations`.

    Raises UserError naming `where`, and the first text on which the two differ, where that is impossible.
    """
    theirs = tokenizer.get_chat_template()
    if MARKED.search(theirs):
        return Finding("template", "marks what the assistant says by itself")
    pieces = _pieces(tokenizer, where)
    wanted = [_renderings(tokenizer, messages) for messages in conversations]
    differing = ""
    for content in CONTENTS:
        tokenizer.chat_template = _build(pieces, content)
        try:
            differing = _first_difference(tokenizer, conversations, wanted)
        except BaseException:
            tokenizer.chat_template = theirs
            raise
        if not differing:
            return Finding(
                "template",
                f"had no generation marks; ours is installed, its text is the same on {len(conversations):,} of "
                f"{len(conversations):,} conversations and prompts",
            )
    tokenizer.chat_template = theirs
    raise UserError(
        f"{where}: chat_template: no {{% generation %}} marks, so that no token would carry loss, and ours renders "
        f"other text: {differing}; mark the assistant's turns by hand, or set another (distill.prompts ships CHATML)"
    )


def _pieces(tokenizer: Any, where: Path) -> _Pieces:
    """Read off what stands between made-up turns."""
    from jinja2 import TemplateError

    def ask(*turns: tuple[str, str], prompt: bool = False) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))

    user, said = ("user", USER), ("assistant", SAID)
    before_system: str | None = None
    close_system = ""
    try:
        whole = ask(user, said, ("user", AGAIN), ("assistant", REPLY))
        head_user, between, back, _, tail = _cut(whole, USER, SAID, AGAIN, REPLY)
        close_user, prompt = ask(user).partition(USER)[2], ask(user, prompt=True).partition(USER)[2]
    except (TemplateError, ValueError) as error:
        raise UserError(f"{where}: chat_template: cannot render a user's and an assistant's turn ({error})") from error
    end_token = str(tokenizer.eos_token)
    end, found, rest = tail.partition(end_token)
    if not found:
        raise UserError(
            f"{where}: chat_template: writes {shown(tail)} behind an assistant's turn, expected the end-of-turn token "
            f"{end_token!r} in it; set eos_token in tokenizer_config.json to what the template writes"
        )
    open_user = back.removeprefix(tail)
    try:
        before_system, behind = _cut(ask(("system", SYSTEM), user), SYSTEM, USER)[:2]
        close_system = behind.removesuffix(open_user)
    except (TemplateError, ValueError):
        before_system = None  # this template takes no system turn; one in the examples fails the proof
    return _Pieces(
        head_user.removesuffix(open_user),
        before_system,
        close_system,
        open_user,
        close_user,
        between.removeprefix(close_user),
        end + end_token,
        rest,
        prompt.removeprefix(close_user),
    )


def _cut(text: str, *marks: str) -> list[str]:
    """What stands before, between and behind marks that come once each, in order; ValueError else."""
    if [text.count(mark) for mark in marks] != [1] * len(marks):
        raise ValueError(f"a turn's text comes not once in {text!r}")
    parts = []
    for mark in marks:
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text]


def _build(pieces: _Pieces, content: str) -> str:
    """A template with marks that writes these pieces."""

    def literal(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def put(text: str) -> str:
        return f"{{{{ {literal(text)} }}}}" if text else ""

    system = ""
    if pieces.head_system is not None:
        system = (
            "{% elif m['role'] == 'system' %}"
            + put(pieces.head_system)
            + f"{{{{ {content} }}}}"
            + put(pieces.close_system)
        )
    return (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        + put(pieces.open_assistant)
        + f"{{% generation %}}{{{{ ({content}) ~ {literal(pieces.end)} }}}}{{% endgeneration %}}"
        + put(pieces.rest)
        + system
        + "{% else %}{% if loop.first %}"
        + put(pieces.head)
        + "{% endif %}"
        + put(pieces.open_user)
        + f"{{{{ {content} }}}}"
        + put(pieces.close_user)
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + put(pieces.prompt)
        + "{% endif %}"
    )


def _renderings(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, str]:
    """A whole conversation, and the prompt of its last turn."""
    turns = [message.model_dump() for message in messages]
    asked = turns[:-1] if turns[-1]["role"] == "assistant" and turns[:-1] else turns
    return (
        str(tokenizer.apply_chat_template(turns, tokenize=False)),
        str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)),
    )


def _first_difference(
    tokenizer: Any, conversations: Sequence[Sequence[Message]], wanted: Sequence[tuple[str, str]]
) -> str:
    """Where our text first leaves theirs, in words; empty where it never does."""
    for number, (messages, pair) in enumerate(zip(conversations, wanted, strict=True), 1):
        for theirs, ours in zip(pair, _renderings(tokenizer, messages), strict=True):
            if theirs == ours:
                continue
            place = next((k for k, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), len(min(pair)))
            lost = ours.count(END_THINK) - theirs.count(END_THINK)
            why = "; theirs drops the thought" if lost > 0 else ""
            return (
                f"example {number}, character {place + 1}: theirs goes on {shown(theirs[place : place + 40])}, "
                f"ours {shown(ours[place : place + 40])}{why}"
            )
    return ""
