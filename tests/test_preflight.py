"""Faults planted into a training set, a template, a tokenizer, a model: each is refused by name before a step."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cli.loading import Folders
from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import WORDS
from distill.records import Example
from distill.train.checked import check
from distill.train.preflight.memory import Free, check_memory
from distill.train.preflight.template import install_marks
from distill.train.sft_table import SftConfig
from tests.test_sft import example, manifest

TOLD = [example(number, f"<think> {number} </think> {number}") for number in range(12)]
MARKED_TEXT = "{% generation %}{{ m['content'] }} <|end|>{% endgeneration %}"
UNMARKED = WORDS.replace("{% generation %}", "").replace("{% endgeneration %}", "")
BEGIN = "<|spare-0|>"


@dataclass
class World:
    """A sound training set, tokenizer and model, until something is changed."""

    folder: Path
    examples: list[Example] = field(default_factory=lambda: list(TOLD))
    template: str = WORDS
    tokens: dict[str, str | None] = field(default_factory=dict)
    """Special tokens by attribute."""
    added: list[str] = field(default_factory=list)
    shape: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Any], None] = lambda model: None
    table: dict[str, Any] = field(default_factory=dict)
    mark: bool = True

    def check(self) -> Any:
        tokenizer = mini_tokenizer()
        size = len(tokenizer)
        tokenizer.chat_template = self.template
        for name, token in self.tokens.items():
            setattr(tokenizer, name, token)
        tokenizer.add_tokens(self.added)
        torch.manual_seed(0)
        keys = {"vocab_size": size, "max_position_embeddings": 64, "eos_token_id": 3, "pad_token_id": 0, **self.shape}
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **keys, bos_token_id=None))
        with torch.no_grad():
            self.change(model)
        model.save_pretrained(self.folder / "model")
        tokenizer.save_pretrained(self.folder / "model")
        write_jsonl(self.folder / "examples.jsonl", self.examples)
        if self.mark:
            (self.folder / "manifest.json").write_text(
                manifest({"decontaminated": "by-construction"}).model_dump_json()
            )
        config = SftConfig(data="d", model="m", steps=2, tokens_per_batch=64, **self.table)
        return check(self.folder, self.folder / "model", config, loader=Folders(), seed=0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def say(world: World, line: int, text: str) -> None:
    world.examples[line - 1] = example(line - 1, text)


def no_assistant(world: World) -> None:
    world.examples[4] = world.examples[4].model_copy(update={"messages": world.examples[4].messages[:1]})


def says_nothing(world: World) -> None:
    world.examples[4] = world.examples[4].model_copy(update={"messages": ()})


def marks_nothing(world: World) -> None:
    world.template = WORDS.replace(MARKED_TEXT, "{{ m['content'] }} <|end|>{% generation %}{% endgeneration %}")


def two_turns(world: World, second: str) -> None:
    whole = world.examples[2].messages
    later = (whole[0], whole[1].model_copy(update={"content": second}))
    world.examples[2] = world.examples[2].model_copy(update={"messages": whole + later})


def marks_end_in_space(world: World) -> None:
    two_turns(world, "4")
    world.template = WORDS.replace(" <|end|>{% endgeneration %}", " <|end|> {% endgeneration %}")


def marks_all(world: World) -> None:
    world.template = "{% generation %}" + UNMARKED + "{% endgeneration %}"


def marks_the_user(world: World) -> None:
    world.template = WORDS.replace(
        "{{ m['content'] }} {% endif %}", "{% generation %}{{ m['content'] }} {% endgeneration %}{% endif %}"
    )


def end_outside(world: World) -> None:
    world.template = WORDS.replace(" <|end|>{% endgeneration %}", "{% endgeneration %} <|end|>")


def end_absent(world: World) -> None:
    world.template = WORDS.replace(" <|end|>{% endgeneration %}", "{% endgeneration %}")


def begin_twice(world: World) -> None:
    world.tokens, world.template = {"bos_token": BEGIN}, f"{BEGIN} {BEGIN} {WORDS}"


def thought_dropped(world: World) -> None:
    world.template = WORDS.replace(
        "{% generation %}{{ m['content']", "{% generation %}{{ m['content'].split('</think>')[-1].strip()"
    )


def thought_opened_twice(world: World) -> None:
    world.template = WORDS.replace("<|assistant|> ", "<|assistant|> <think> ")


def unmarked_and_dropping(world: World) -> None:
    world.template = UNMARKED.replace("{{ m['content'] }} <|end|>", "{{ m['content'].split('</think>')[-1] }} <|end|>")


def unmarked_and_endless(world: World) -> None:
    world.template = UNMARKED.replace(" <|end|>", "")


def not_a_number(world: World) -> None:
    def change(model: Any) -> None:
        model.model.layers[0].mlp.up_proj.weight[3, 5] = float("nan")

    world.change = change


def answerless(world: World) -> None:
    for line in range(3, 11):
        say(world, line, f"<think> {line} </think>")


PLANTED = [
    pytest.param(
        no_assistant, r"examples.jsonl:5: example e4: no token carries loss: .* leave it out", id="no assistant turn"
    ),
    pytest.param(says_nothing, r"examples.jsonl:5: messages: .*at least 1 item", id="no messages"),
    pytest.param(
        marks_nothing,
        r"examples.jsonl:1: .*no token carries loss; .* needs \{% gen.* \(11 more such: lines 2, 3, 4, 5, 6, ...\)",
        id="empty loss mask",
    ),
    pytest.param(
        marks_all, r"examples.jsonl:1: .*all 12 tokens carry loss, .* around assistant turns alone", id="full loss mask"
    ),
    pytest.param(
        marks_the_user,
        r"examples.jsonl:1: .*token 2 carries loss, and the prompt goes up to token 6",
        id="prompt carries loss",
    ),
    pytest.param(
        lambda world: say(world, 5, " 4"),
        r"examples.jsonl:5: .*no token carries loss; message 2 begins with white space, .*; strip it",
        id="white space before all that is said",
    ),
    pytest.param(
        lambda world: say(world, 5, ""),
        r"examples.jsonl:5: .*no token carries loss; message 2 is empty, .* leave it out",
        id="nothing said",
    ),
    pytest.param(
        lambda world: two_turns(world, " 4"),
        r"examples.jsonl:3: .*2 assistant turns, 1 stretches of loss; message 4 begins with white space",
        id="white space before a later turn",
    ),
    pytest.param(
        marks_end_in_space,
        r"examples.jsonl:3: .*2 assistant turns, 1 stretches of loss; put \{% generation %\} around each .* left out",
        id="loss runs on over the user's next turn",
    ),
    pytest.param(
        end_outside,
        r"examples.jsonl:1: .*expected the end-of-turn token 3 .* without loss.* inside",
        id="end of turn masked",
    ),
    pytest.param(
        end_absent, r"examples.jsonl:1: .*which comes nowhere behind it; .*set eos_token", id="end of turn missing"
    ),
    pytest.param(
        lambda world: say(world, 7, "1 <|end|> 2"),
        r"examples.jsonl:7: example e6: the end-of-turn token 3 .* inside an assistant's text, .*take it out",
        id="end of turn inside a text",
    ),
    pytest.param(begin_twice, r"examples.jsonl:1: .*begins with '<\|spare-0\|>' twice", id="begin token doubled"),
    pytest.param(
        thought_dropped, r"examples.jsonl:1: .*1 thoughts in the .* text, 0 in what carries loss", id="thought lost"
    ),
    pytest.param(
        thought_opened_twice, r"examples.jsonl:1: .*<think> comes 2 times, expected 1", id="thought opened twice"
    ),
    pytest.param(
        lambda world: say(world, 3, "4 zebras"),
        r"examples.jsonl:3: .*1 words the tokenizer does not know.* learn to say '<\|unk\|>'; leave",
        id="unknown word learned",
    ),
    pytest.param(
        answerless, r"examples.jsonl:3: 8 of 12 examples have no answer behind their thought", id="no answers"
    ),
    pytest.param(
        lambda world: world.table.update(max_length=11),
        r"examples.jsonl:1: .*12 tokens, max_length is 11; raise it, or set on_long = 'drop' .*11 more such",
        id="longer than max_length",
    ),
    pytest.param(
        lambda world: world.shape.update(max_position_embeddings=11),
        r"examples.jsonl:1: .*12 tokens, the model knows 11 positions .* set max_length = 11",
        id="longer than the model's positions",
    ),
    pytest.param(
        lambda world: world.shape.update(vocab_size=20),
        r"examples.jsonl:1: .*token id \d+ is outside the model's vocabulary of 20",
        id="token outside the model's vocabulary",
    ),
    pytest.param(
        lambda world: world.added.append("zebras"),
        r"model: tokenizer: id \d+ \('zebras'\) is outside the model's \d+ rows .* not resized",
        id="tokenizer larger than the embedding",
    ),
    pytest.param(
        lambda world: world.shape.update(vocab_size=5000),
        r"model: tokenizer: its last id is \d+, the model has 5000 rows of embedding, 4,\d+ more",
        id="tokenizer of another model",
    ),
    pytest.param(
        lambda world: world.tokens.update(eos_token=None),
        r"examples.jsonl: eos_token: .* has none",
        id="no end-of-turn token",
    ),
    pytest.param(
        lambda world: world.tokens.update(pad_token=None),
        r"pad_token: the tokenizer has none.*packing = true",
        id="no pad token",
    ),
    pytest.param(
        unmarked_and_dropping,
        r"examples.jsonl: chat_template: no \{% gen.* example 1, character .* theirs drops the thought; mark",
        id="no marks, and ours would render other text",
    ),
    pytest.param(
        unmarked_and_endless,
        r"examples.jsonl: chat_template: writes .* expected the end-of-turn token",
        id="no marks, no end",
    ),
    pytest.param(
        not_a_number,
        r"model: tensor model.layers.0.mlp.up_proj.weight: 1 of 256 numbers are infinite or none at all; take a sound",
        id="weights that are no numbers",
    ),
    pytest.param(
        lambda world: setattr(world, "mark", False),
        r"manifest.json: missing, .*allow_contaminated = true",
        id="nobody checked",
    ),
    pytest.param(
        lambda world: world.examples.__setitem__(2, example(2, "2", order=-1)),
        r"examples.jsonl:3: .*order -1, expected its place in the curriculum",
        id="order below zero",
    ),
    pytest.param(
        lambda world: (
            world.table.update(curriculum={"start": 0.5}),
            world.examples.__setitem__(slice(None), [one.model_copy(update={"order": 0}) for one in world.examples]),
        ),
        r"curriculum.start = 0.5 begins with the easiest examples, but all have the same order; choose",
        id="a curriculum without an order",
    ),
]


@pytest.mark.parametrize(("plant", "complaint"), PLANTED)
def test_a_planted_fault_is_refused_with_its_place_and_a_remedy(
    plant: Callable[[World], Any], complaint: str, world: World
) -> None:
    plant(world)
    with pytest.raises(UserError, match=complaint):
        world.check()


def test_a_sound_training_set_is_refused_nothing_and_told_in_figures(world: World) -> None:
    found = world.check().findings
    table = {check.what: check.found for check in found.checks}
    assert table["loss"] == "on 41.7% of 144 tokens"
    assert table["length"] == "longest row 12 tokens, 64 positions, 0 tokens cut, 0 rows dropped"
    assert found.counts == {"loss_share": 0.4167, "duplicates": 0}
    assert found.looks == ()


def masked_by_pad(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    """As many collators do it, where pad and end of turn are one token."""
    wide = max(len(row["input_ids"]) for row in rows)
    ids_BT = torch.tensor([row["input_ids"] + [3] * (wide - len(row["input_ids"])) for row in rows])
    labels_BT = torch.tensor([row["labels"] + [-100] * (wide - len(row["labels"])) for row in rows])
    real_BT = torch.tensor([[1] * len(row["labels"]) + [0] * (wide - len(row["labels"])) for row in rows])
    return {"input_ids": ids_BT, "labels": labels_BT.masked_fill(ids_BT == 3, -100), "attention_mask": real_BT}


def hidden_by_pad(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    batch = masked_by_pad(rows)
    return {**batch, "attention_mask": (batch["input_ids"] != 3).long()}


@pytest.mark.parametrize(
    ("collate", "complaint"),
    [
        pytest.param(
            masked_by_pad, r"jsonl:1: .*token 3 \('<\|end\|>'\) carries loss.* set pad_token", id="label masked"
        ),
        pytest.param(
            hidden_by_pad, r"jsonl:1: .*11 of its 12 tokens are seen in a batch.* set pad_token", id="token hidden"
        ),
    ],
)
def test_a_collator_that_masks_by_the_id_of_pad_is_caught_where_pad_is_the_end_of_turn(
    collate: Any, complaint: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tokens = {"pad_token": "<|end|>"}
    table = {check.what: check.found for check in world.check().findings.checks}
    assert table["batch"].endswith("pad is the end-of-turn token, masked by place"), "TRL's own is no such collator"
    monkeypatch.setattr("distill.train.checked.collator", lambda tokenizer, packing: collate)
    with pytest.raises(UserError, match=complaint):
        world.check()


def test_what_will_not_fit_is_refused_before_the_model_is_loaded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.train.checked.free_memory", lambda device, processes: Free(3e4, "a thimble"))
    monkeypatch.setattr(Folders, "load", lambda *args, **kwargs: pytest.fail("nothing may be allocated"))
    with pytest.raises(
        UserError, match=r"model: training needs about .* GB \(weights .*a thimble.*no single key would do"
    ):
        world.check()


def test_a_long_row_counts_with_its_padding_once_rows_are_known(world: World) -> None:
    checked = world.check()
    shape = Folders().train_shape(world.folder / "model")
    config = SftConfig(data="d", model="m", steps=1, tokens_per_batch=64)
    assert checked.plan.steps
    few, many = (check_memory(config, shape, Free(1e12, "here"), tokens=tokens).found for tokens in (64, 64_000))
    assert float(few.split()[0]) < float(many.split()[0])


def test_a_template_that_cannot_be_proved_stays_as_it_was(world: World) -> None:
    unmarked_and_dropping(world)
    tokenizer = mini_tokenizer()
    tokenizer.chat_template = world.template
    with pytest.raises(UserError, match="theirs drops the thought"):
        install_marks(tokenizer, [one.messages for one in TOLD], world.folder)
    assert tokenizer.chat_template == world.template


def test_the_command_checks_what_stands_and_names_what_waits(world: World, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cli.main import app

    world.check()
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'[one]\nstage = "sft"\ndata = "{tmp_path}/"\nmodel = "{tmp_path}/model"\nsteps = 1\n'
        f'[two]\nstage = "sft"\ndata = "{tmp_path}/"\nmodel = "one"\nsteps = 1\n'
    )
    out = CliRunner().invoke(app, ["preflight", "--recipe", str(recipe), "--out", str(tmp_path / "runs")])
    assert out.exit_code == 0, out.output
    assert "  learn | <think> 0 </think> 0 <|end|>" in out.output
    assert "all finite" in out.output
    assert "[two] waits for one" in out.output
    found = CliRunner().invoke(app, ["preflight", "--recipe", str(recipe), "--step", "one", "--json"])
    assert json.loads(found.output)["counts"] == {"loss_share": 0.4167, "duplicates": 0}
    with pytest.raises(UserError, match="one: not a complete run folder"):
        CliRunner().invoke(app, ["preflight", "--recipe", str(recipe), "--step", "two"], catch_exceptions=False)
    recipe.write_text(recipe.read_text().replace('model = "one"', f'model = "{tmp_path}/model"\ndata_parallel = 2'))
    out = CliRunner().invoke(app, ["preflight", "--recipe", str(recipe)])
    assert out.exit_code == 0, out.output
    assert "[two] is checked by its own processes as they begin" in out.output
