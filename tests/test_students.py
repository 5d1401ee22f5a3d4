"""Shapes, student-init and the loader: what is written loads, and what is no student is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.checkpoints import checkpoint_fingerprint, read_lineage
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import Chat
from students.init import StudentInitConfig, padded_vocab, student_init
from students.loader import load_student
from students.specs import SPECS, find_spec

QUIET = Progress("quiet")


VOCABULARY = padded_vocab(mini_tokenizer())


def init(folder: Path, spec: str = "mini-16k", seed: int = 0, **overrides: Any) -> Path:
    folder.mkdir()
    config = StudentInitConfig(spec=spec, overrides=overrides)
    student_init(folder, config, tokenizer=mini_tokenizer(), seed=seed, progress=QUIET)
    return folder


@pytest.mark.parametrize("spec", ["mini-95k", "mini-95k-qwen2", "mini-95k-qwen3"])
def test_a_fresh_student_loads_with_its_tokenizer_and_lineage(tmp_path: Path, spec: str) -> None:
    folder = init(tmp_path / "student-init.partial", spec)
    loaded = load_student(folder)
    assert loaded.model.config.model_type == SPECS[spec].arch
    assert Chat(loaded.tokenizer).decode(loaded.tokenizer.encode("7 + 5 = 12")) == "7 + 5 = 12"
    assert loaded.model.get_input_embeddings().num_embeddings == padded_vocab(loaded.tokenizer)
    assert loaded.fingerprint == checkpoint_fingerprint(folder)
    lineage = read_lineage(folder)
    assert lineage is not None
    assert (lineage.name, lineage.stage) == ("student-init", "student-init")


def test_the_seed_alone_decides_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = init(tmp_path / "a", seed=3)
    torch.manual_seed(2)
    assert checkpoint_fingerprint(init(tmp_path / "b", seed=3)) == checkpoint_fingerprint(first)
    assert checkpoint_fingerprint(init(tmp_path / "c", seed=4)) != checkpoint_fingerprint(first)


def test_initializing_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    init(tmp_path / "a")
    assert torch.equal(torch.rand(1), expected)


def test_overrides_reach_the_model(tmp_path: Path) -> None:
    loaded = load_student(init(tmp_path / "a", layers=3, tied=False))
    assert loaded.model.config.num_hidden_layers == 3
    assert not loaded.model.config.tie_word_embeddings


@pytest.mark.parametrize("name", [name for name in SPECS if name.startswith("mini")])
def test_a_mini_name_is_its_parameter_count(name: str) -> None:
    spec = SPECS[name]
    head = spec.width // spec.heads
    attention = spec.width * head * (2 * spec.heads + 2 * spec.kv_heads)
    layer = attention + 3 * spec.width * spec.ffn + 2 * spec.width
    assert name.split("-")[1] == f"{(VOCABULARY * spec.width + spec.layers * layer + spec.width) / 1000:.0f}k"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        pytest.param("mini-86", {}, "spec 'mini-86': unknown shape .did you mean mini-", id="name"),
        pytest.param("mini-95k", {"layer": 3}, "layer: .*did you mean layers", id="key"),
        pytest.param("mini-95k", {"layers": "many"}, "layers: .*got 'many'", id="value"),
        pytest.param("mini-95k", {"heads": 3}, "kv_heads: 2 does not divide heads 3", id="kv heads"),
        pytest.param("mini-95k", {"width": 65}, "heads: 2 does not divide width 65", id="width"),
        pytest.param("mini-95k", {"width": 66}, "rope needs an even number", id="odd head"),
        pytest.param("mini-95k", {"layers": 0}, "layers: .*greater than 0", id="no layers"),
    ],
)
def test_shapes_that_cannot_be_are_refused(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_spec(name, overrides)


def test_the_embedding_covers_ids_beyond_the_tokenizers_length() -> None:
    class Gappy:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "<special>": 64}

    assert padded_vocab(Gappy()) == 96


def test_a_dtype_is_honored(tmp_path: Path) -> None:
    loaded = load_student(init(tmp_path / "a"), dtype="bfloat16")
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def pickle_only(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def resize(folder: Path) -> None:
    change_config(folder, hidden_size=64)


def be_no_speaker(folder: Path) -> None:
    change_config(folder, model_type="vit")


def bring_code(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})


def lose_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_config, "not a checkpoint folder"),
        (pickle_only, r"pytorch_model\.bin is a pickle"),
        (lose_weights, "no weights"),
        (lose_a_tensor, r"missing tensors: model\.layers\.0\.mlp\.up_proj\.weight"),
        (cut_weights, "cannot be loaded"),
        (resize, "cannot be loaded"),
        (be_no_speaker, "model_type vit is no student"),
        (bring_code, "code of its own"),
        (lose_tokenizer, r"tokenizer\.json: missing"),
    ],
)
def test_a_damaged_folder_is_named_with_what_is_wrong(tmp_path: Path, damage: Any, message: str) -> None:
    folder = init(tmp_path / "a")
    damage(folder)
    with pytest.raises(UserError, match=f"{folder}.*{message}"):
        load_student(folder)


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dtype 'half': expected one of float32, bfloat16, float16"):
        load_student(init(tmp_path / "a"), dtype="half")
