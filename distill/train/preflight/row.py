"""One tokenized example: would it teach what it says, all of it, and to stop?

Loss has to cover assistant turns alone, each up to and with its end-of-turn token. Official chat templates break this
in known ways: no generation marks, the end token outside of them, the thought dropped from the target (TRL issue
6766), `<think>` written a second time. Compares token ids and the text they spell; knows no template.
"""

from collections.abc import Sequence
from typing import NamedTuple

from distill.prompts import END_THINK, THINK, Chat, split_thought
from distill.records import Message


class Fault(NamedTuple):
    """Why a row is refused."""

    kind: str
    complaint: str


def find_fault(ids: list[int], mask: list[int], messages: Sequence[Message], chat: Chat, rows: int) -> Fault | None:
    """The first fault of a row, or None. `mask`: 1 where there is loss; `rows`: of the model's embedding."""
    if 1 not in mask:
        return _no_loss(messages)
    if 0 not in mask:
        return Fault(
            "all loss",
            f"all {len(ids)} tokens carry loss, the prompt too; put {{% generation %}} around assistant turns alone",
        )
    if max(ids) >= rows:
        return Fault(
            "vocabulary",
            f"token id {max(ids)} is outside the model's vocabulary of {rows}; this tokenizer is not this model's",
        )
    return (
        _turns(mask, messages)
        or _end(ids, mask, chat)
        or _doubled_begin(ids, chat)
        or _words(ids, mask, messages, chat)
    )


def prompt_fault(mask: list[int], messages: Sequence[Message], chat: Chat) -> Fault | None:
    """Loss on what the user says. Renders once more: for one row of each order of roles, since templates look at those.

    Holds for templates that write a turn the same whatever follows; one token may merge with the next turn's first.
    """
    first = next(place for place, message in enumerate(messages) if message.role == "assistant")
    before = [message.model_dump() for message in messages[:first]]
    if not before:
        return None
    text = chat.tokenizer.apply_chat_template(before, tokenize=False)
    prompt, begun = len(chat.tokenizer.encode(text, add_special_tokens=False)), mask.index(1)
    if begun >= prompt - 1:
        return None
    return Fault(
        "prompt loss",
        f"token {begun + 1} carries loss, and the prompt goes up to token {prompt}; put {{% generation %}} around "
        "assistant turns alone",
    )


def has_answer(messages: Sequence[Message], *, think_open: bool) -> bool:
    """Whether the last turn says anything behind its thought."""
    return bool(split_thought(messages[-1].content, think_open=think_open).answer)


def _no_loss(messages: Sequence[Message]) -> Fault:
    if not any(message.role == "assistant" for message in messages):
        return Fault("no loss", "no token carries loss: the example has no assistant turn; leave it out")
    why = _spaced(messages) or "the chat template needs {% generation %} around assistant turns"
    return Fault("no loss", f"no token carries loss; {why}")


def _turns(mask: list[int], messages: Sequence[Message]) -> Fault | None:
    """Each assistant turn is a stretch of loss. One is lost, or goes on over the next turn, where transformers finds no
    token at the place where it begins or ends.
    """
    turns = sum(message.role == "assistant" for message in messages)
    stretches = sum(loss and not before for before, loss in zip([0, *mask], mask, strict=False))
    if stretches >= turns:
        return None
    why = _spaced(messages) or "put {% generation %} around each assistant turn, white space behind it left out"
    return Fault("turns without loss", f"{turns} assistant turns, {stretches} stretches of loss; {why}")


def _spaced(messages: Sequence[Message]) -> str:
    """What to do about assistant turns that begin with no word; empty where there is none."""
    for place, message in enumerate(messages, 1):
        if message.role == "assistant" and message.content[:1].strip() == "":
            what = "begins with white space" if message.content.strip() else "is empty"
            return f"message {place} {what}, and has no token where its loss would begin; strip it, or leave it out"
    return ""


def _end(ids: list[int], mask: list[int], chat: Chat) -> Fault | None:
    """Every stretch of loss ends in the end-of-turn token, and holds no other."""
    end, spelled = chat.end_id, chat.tokenizer.decode
    ends = [place for place, loss in enumerate(mask) if loss and (place + 1 == len(mask) or not mask[place + 1])]
    for place in ends:
        if ids[place] == end:
            continue
        said = f"the last token with loss is {ids[place]} ({spelled([ids[place]])!r}), expected the end-of-turn token"
        named = f"{said} {end} ({spelled([end])!r})"
        if end in ids[place + 1 :]:
            return Fault(
                "end masked",
                f"{named}; it stands at token {ids.index(end, place + 1) + 1} without loss, and a model trained so "
                "never stops: put it inside {% generation %}",
            )
        return Fault(
            "end missing",
            f"{named}, which comes nowhere behind it; a model trained so never stops: let the template write it inside "
            "{% generation %}, or set eos_token in tokenizer_config.json to what the template writes",
        )
    learned = sum(1 for token, loss in zip(ids, mask, strict=True) if loss and token == end)
    if learned > len(ends):
        return Fault(
            "end inside",
            f"the end-of-turn token {end} ({spelled([end])!r}) stands inside an assistant's text, {learned} times in "
            f"{len(ends)} turns; a model trained so stops half-way: take it out of the text",
        )
    return None


def _doubled_begin(ids: list[int], chat: Chat) -> Fault | None:
    begin = chat.tokenizer.bos_token_id
    if begin is None or ids[:2] != [begin, begin]:
        return None
    return Fault(
        "begin doubled",
        f"it begins with {chat.tokenizer.bos_token!r} twice (id {begin}); the template writes it, so neither the "
        "examples nor a second line of the template may",
    )


def _words(ids: list[int], mask: list[int], messages: Sequence[Message], chat: Chat) -> Fault | None:
    """What was lost or added on the way from text to tokens."""
    tokenizer = chat.tokenizer
    learned = [token for token, loss in zip(ids, mask, strict=True) if loss]
    unknown = tokenizer.unk_token_id
    if unknown not in (None, tokenizer.eos_token_id, tokenizer.bos_token_id) and unknown in learned:
        return Fault(
            "unknown",
            f"the assistant's text has {learned.count(unknown)} words the tokenizer does not know, and the model would "
            f"learn to say {tokenizer.unk_token!r}; leave the example out, or take another tokenizer",
        )
    said = [message.content for message in messages if message.role == "assistant"]
    thoughts = sum(text.count(END_THINK) for text in said)
    if not thoughts:
        return None
    kept = tokenizer.decode(learned).count(END_THINK)
    if kept < thoughts:
        return Fault(
            "thought lost",
            f"{thoughts} thoughts in the assistant's text, {kept} in what carries loss; the chat template drops "
            f"{THINK} blocks (official ones do): set one that keeps them (distill.prompts ships CHATML)",
        )
    opened = sum(message.content.count(THINK) for message in messages if message.role != "assistant")
    opened += sum(max(1, text.count(THINK)) for text in said)
    if (rendered := tokenizer.decode(ids).count(THINK)) > opened:
        return Fault(
            "thought doubled",
            f"{THINK} comes {rendered} times, expected {opened}; the chat template opens the thought that the text "
            f"opens too: take {THINK} out of one of them",
        )
    return None
