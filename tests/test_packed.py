"""Packed rows attend alone: the same numbers as one row at a time, for every family; what has windows is left alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from distill.train.packed import NAME, attend_by_rows

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_packed_rows_give_the_logits_and_gradients_of_rows_alone(kind: type) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**SHAPE))
    assert attend_by_rows(model)
    rows = [torch.randint(0, 97, (length,)).tolist() for length in (5, 1, 17, 9)]
    packed = DataCollatorForLanguageModeling(0, padding_free=True)([{"input_ids": row} for row in rows])
    labels = packed.pop("labels")
    logits = model(**packed, use_cache=False).logits[0]
    model.set_attn_implementation("sdpa")
    alone = torch.cat([model(torch.tensor([row]), use_cache=False).logits[0] for row in rows])
    torch.testing.assert_close(logits, alone, atol=2e-6, rtol=0)
    weights = torch.randn_like(logits) * (labels[0, :, None] != -100)
    gradients = [torch.autograd.grad((made * weights).sum(), list(model.parameters())) for made in (logits, alone)]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_without_boundaries_a_row_is_plain() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).eval()
    ids = torch.randint(0, 97, (1, 12))
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
        assert attend_by_rows(model)
        torch.testing.assert_close(model(ids, use_cache=False).logits, before, atol=2e-6, rtol=0)


def test_a_model_with_windows_keeps_its_own_attention() -> None:
    model = AutoModelForCausalLM.from_config(MistralConfig(**SHAPE, sliding_window=8))
    assert not attend_by_rows(model)
    assert model.config._attn_implementation != NAME
