"""Rotary positions of a table: the model's, the saved config's and the engine's are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cli.loading import Folders
from distill.checkpoints import read_config
from distill.errors import UserError
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.train.rope import RopeConfig, change_rope
from students.init import StudentInitConfig, student_init
from students.specs import LLAMA3_ROPE

YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
IDS = torch.arange(5, 155)[None] % 60
"""150 tokens: more than the 64 the model was made for."""


def student(folder: Path, **shape: Any) -> Path:
    folder.mkdir()
    overrides = {"positions": 64, "init_std": 0.1, **shape}
    config = StudentInitConfig(spec="mini-95k", overrides=overrides)
    student_init(folder, config, tokenizer=mini_tokenizer(), seed=0, progress=Progress("quiet"))
    return folder


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"scaling": "yarn"}, YARN),
        ({"scaling": "linear", "factor": 3}, {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 3.0}),
        ({"theta": 1e6}, {"rope_type": "default", "rope_theta": 1e6}),
        ({"theta": 1e6, "scaling": "yarn"}, YARN | {"rope_theta": 1e6}),
    ],
    ids=["yarn", "linear", "theta", "both"],
)
def test_the_saved_folder_turns_like_the_trained_model(
    arch: str, fields: dict[str, Any], written: dict[str, Any], tmp_path: Path
) -> None:
    folder = student(tmp_path / "a", arch=arch)
    model = Folders().load(folder).model
    before = logits(model)
    line = change_rope(model, RopeConfig(positions=256, **fields), folder)
    assert line.startswith("rope: theta 10000 -> ")
    assert line.endswith("256 positions")
    after = logits(model)
    assert (after - before).abs().max() > 1e-3, "nothing turned"
    model.save_pretrained(tmp_path / "b")
    config = read_config(tmp_path / "b")
    assert (config["rope_parameters"], config["max_position_embeddings"]) == (written, 256)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "b")), after)


def test_the_engine_reads_positions_the_model_did_not_have(tmp_path: Path) -> None:
    folder = student(tmp_path / "a")
    model = Folders().load(folder).model
    change_rope(model, RopeConfig(positions=256, scaling="yarn"), folder)
    decoder = Folders().decoder(model)
    decoder.allocate(blocks=4, block_size=64, longest=256)
    width = IDS.shape[1]
    table = torch.arange(4)[None]
    last = decoder.prefill(IDS, torch.tensor([0]), torch.tensor([width]), table)
    torch.testing.assert_close(last[0], logits(model)[0, -1], atol=1e-4, rtol=1e-4)


def test_llama_3_is_stretched_from_the_length_it_was_trained_for(tmp_path: Path) -> None:
    shorter = LLAMA3_ROPE | {"original_max_position_embeddings": 32}
    folder = student(tmp_path / "a", rope=shorter)
    model = Folders().load(folder).model
    change_rope(model, RopeConfig(positions=256, scaling="yarn"), folder)
    assert model.config.rope_parameters == YARN | {"factor": 8.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [({}, "give theta, scaling"), ({"factor": 2}, "needs scaling"), ({"scaling": "ntk"}, "'linear' or 'yarn'")],
)
def test_a_table_that_says_nothing_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RopeConfig(positions=128, **fields)


def test_fewer_positions_than_the_model_has_need_no_scaling(tmp_path: Path) -> None:
    folder = student(tmp_path / "a")
    with pytest.raises(UserError, match=r"rope.positions: 32, but the model was trained for 64"):
        change_rope(Folders().load(folder).model, RopeConfig(positions=32, scaling="yarn"), folder)


def test_a_model_with_angles_of_its_own_is_refused(tmp_path: Path) -> None:
    from teacher.config import preset
    from teacher.model import DeepseekForCausalLM

    model = DeepseekForCausalLM(preset("mini", vocab_size=64, num_hidden_layers=1))
    with pytest.raises(UserError, match="does not have one set of angles"):
        change_rope(model, RopeConfig(positions=4096, theta=1e6), tmp_path)
