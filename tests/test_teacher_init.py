"""A fresh teacher, and how big teachers are."""

import filecmp

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from distill.checkpoints import read_lineage
from distill.errors import UserError
from distill.progress import Progress
from distill.prompts import WORDS
from teacher.config import preset
from teacher.init import TeacherInitConfig, teacher_init
from teacher.loader import load_teacher


@pytest.fixture
def tokenizer():
    """Ids have a gap: the largest is 70, there are only five."""
    words = {"<unk>": 0, "<pad>": 1, "<|end|>": 2, "a": 3, "b": 70}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<unk>")), pad_token="<pad>", eos_token="<|end|>"
    )
    made.chat_template = WORDS
    return made


def make(out, tokenizer, seed: int = 0, **overrides):
    out.mkdir()
    config = TeacherInitConfig(overrides={"num_hidden_layers": 2, **overrides})
    return teacher_init(out, config, tokenizer=tokenizer, seed=seed, progress=Progress("quiet"))


def test_the_folder_opens_with_tokenizer_and_ids_in_place(tmp_path, tokenizer) -> None:
    report = make(tmp_path / "teacher-init", tokenizer)
    loaded = load_teacher(tmp_path / "teacher-init")
    assert loaded.model.config.vocab_size == 71
    assert loaded.model.config.eos_token_id == 2
    assert loaded.tokenizer.chat_template == WORDS
    assert read_lineage(tmp_path / "teacher-init").stage == "teacher-init"
    assert report.counts["parameters"] == sum(weight.numel() for weight in loaded.model.parameters())
    assert 0 < report.counts["active_parameters"] < report.counts["parameters"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, tokenizer) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path / name, tokenizer, seed)
    weights = [tmp_path / name / "model.safetensors" for name in "abc"]
    assert filecmp.cmp(weights[0], weights[1], shallow=False)
    assert not filecmp.cmp(weights[0], weights[2], shallow=False)


def test_a_misspelled_override_is_refused(tmp_path, tokenizer) -> None:
    with pytest.raises(UserError, match=r"num_layers: unknown \(did you mean num_hidden_layers\?\)"):
        make(tmp_path / "x", tokenizer, num_layers=3)


def test_the_miniature_can_be_quantized() -> None:
    """bitsandbytes needs inputs divisible by 64 (facts of its CPU kernels); experts are 3-D and exempt."""
    import torch

    from teacher.model import DeepseekForCausalLM

    model = DeepseekForCausalLM(preset("mini"))
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert all(linear.in_features % 64 == 0 for linear in linears)
