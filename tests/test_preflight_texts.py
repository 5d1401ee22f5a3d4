"""Templates that get marks and render as before, and the example that is shown."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from distill.jsonl import write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Message
from distill.train.preflight.example import show
from distill.train.preflight.template import MARKED, install_marks
from distill.train.rows import Rows, read_rows
from tests.test_preflight import TOLD
from tests.test_prompts import byte_tokenizer

SMOL = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = "{{ '<s>' }}" + SMOL.replace("m['content']", "(m['content'] | trim)").replace(
    "You help.", "日本 \"'\\\\ {{ 1 }}"
)


@pytest.mark.parametrize(
    "theirs", [SMOL, TRIMMED], ids=["a system prompt of its own", "begin token, trimmed, odd letters"]
)
def test_a_template_without_marks_gets_ours_with_the_same_text_and_loss_on_the_assistant_alone(
    theirs: str, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = theirs
    user, reply = (
        Message(role="user", content=" Add 1 and 2 "),
        Message(role="assistant", content="<think> 3 </think>\n3"),
    )
    talks = [(user, reply), (user, reply, user, reply), (Message(role="system", content="Be short."), user, reply)]
    before = [Chat(tokenizer).prompt_text(talk) for talk in talks]
    found = install_marks(tokenizer, talks, tmp_path)
    assert found.found.endswith("the same on 3 of 3 conversations and prompts")
    assert MARKED.search(tokenizer.chat_template)
    assert [Chat(tokenizer).prompt_text(talk) for talk in talks] == before
    ids, mask = Chat(tokenizer).training_ids(talks[1])
    learned = tokenizer.decode([token for token, loss in zip(ids, mask, strict=True) if loss])
    assert learned == "<think> 3 </think>\n3<|im_end|>" * 2


def test_the_example_shows_what_is_learned_with_color_and_without(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "examples.jsonl", TOLD)
    chat = Chat(mini_tokenizer())
    shown = show(read_rows(tmp_path / "examples.jsonl", chat, 1000, 64, "refuse"), 3, chat.tokenizer)
    assert shown.plain.splitlines()[1:] == [
        "  read  | <|user|> Mia has 3 coins . <|assistant|>",
        "  learn | <think> 3 </think> 3 <|end|>",
    ]
    told = StringIO()
    shown.print(Console(force_terminal=True, color_system="standard", width=200, file=told))
    assert "\x1b[1;32m<think> 3 </think> 3 <|end|>" in told.getvalue()


def test_letters_that_steer_a_terminal_are_spelled_out() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a\x1b[2Jb [red]c[/red]")
    shown = show(Rows([ids], [ids], 0, ["e"], [(0, 0)], ["row 1"]), 0, tokenizer)
    assert shown.plain.splitlines()[1] == "  learn | a\\x1b[2Jb [red]c[/red]"
    assert "\x1b" not in shown.colored.plain
