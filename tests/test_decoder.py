"""KVDecoder against transformers: greedy tokens and logits, for every architecture and odd shape."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.errors import UserError
from students.decoder import KVDecoder
from students.specs import LLAMA3_ROPE, Spec, model_config

VOCAB = 97

SHAPES = {
    "llama": Spec(width=32, ffn=48, layers=2, heads=4, kv_heads=4),
    "llama grouped heads, untied, llama3 rope": Spec(
        width=32,
        ffn=48,
        layers=2,
        heads=4,
        kv_heads=2,
        tied=False,
        rope={**LLAMA3_ROPE, "original_max_position_embeddings": 16},
    ),
    "qwen2 biases": Spec(arch="qwen2", width=32, ffn=48, layers=2, heads=4, kv_heads=1),
    "qwen3 normed heads, wide heads": Spec(
        arch="qwen3", width=32, ffn=40, layers=3, heads=3, kv_heads=3, head_width=16
    ),
}


def toy(spec: Spec, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = model_config(spec.model_copy(update={"init_std": 0.3, "positions": 64}), VOCAB, end_id=1, pad_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:  # fresh ones are 1 or 0 and would hide a mistake
            weight.data += 0.3 * torch.randn_like(weight)
    return model


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [len(prompt) for prompt in prompts]
    rows = [prompt + [5] * (max(lengths) - len(prompt)) for prompt in prompts]  # 5: padding that means something
    return torch.tensor(rows), torch.tensor(lengths)


PROMPTS = [[7, 3, 9, 20, 41], [11], list(range(30, 50))]


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_greedy_tokens_are_those_of_generate(spec: Spec) -> None:
    model = toy(spec)
    model.generation_config.eos_token_id = None
    decoder = KVDecoder(model)
    decoder.allocate(4, 64)
    slots = torch.tensor([2, 0, 3])  # neither in order nor dense
    ids, lengths = padded(PROMPTS)
    said = [decoder.prefill(ids, lengths, slots).argmax(-1)]
    for place in range(15):
        said.append(decoder.step(said[-1], lengths + place, slots).argmax(-1))
    for row, prompt in enumerate(PROMPTS):
        inputs = torch.tensor([prompt])
        mask = torch.ones_like(inputs)
        expected = model.generate(inputs, attention_mask=mask, max_new_tokens=16, do_sample=False)[0, len(prompt) :]
        assert torch.stack(said)[:, row].tolist() == expected.tolist()


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_logits_of_prefill_and_steps_are_those_of_a_full_forward(spec: Spec) -> None:
    model = toy(spec)
    decoder = KVDecoder(model)
    decoder.allocate(2, 64)
    ids, cut = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(3)), [13, 30]
    with torch.no_grad():
        full_BTV = model(ids).logits
    slots = torch.tensor([0, 1])
    prompts, lengths = padded([ids[row, : cut[row]].tolist() for row in range(2)])
    logits = decoder.prefill(prompts, lengths, slots)
    scale = float(full_BTV.abs().max())
    for place in range(10):
        positions = lengths + place
        expected = full_BTV[[0, 1], positions - 1]
        assert float((logits - expected).abs().max()) <= 1e-5 * scale
        logits = decoder.step(ids[[0, 1], positions], positions, slots)


def test_a_copied_prompt_continues_like_its_source() -> None:
    decoder = KVDecoder(toy(SHAPES["llama grouped heads, untied, llama3 rope"]))
    decoder.allocate(4, 32)
    ids, lengths = padded([PROMPTS[0]])
    decoder.prefill(ids, lengths, torch.tensor([1]))
    decoder.copy(1, torch.tensor([0, 3]), int(lengths))
    logits = decoder.step(torch.tensor([9, 9, 9]), lengths.repeat(3), torch.tensor([0, 1, 3]))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    torch.testing.assert_close(logits[2], logits[1], rtol=0, atol=0)


def test_what_a_slot_held_before_is_never_seen() -> None:
    model = toy(SHAPES["qwen2 biases"])
    used, fresh = KVDecoder(model), KVDecoder(model)
    for decoder in (used, fresh):
        decoder.allocate(1, 32)
    used.prefill(*padded([PROMPTS[2]]), torch.tensor([0]))
    logits = []
    for decoder in (used, fresh):
        decoder.prefill(*padded([PROMPTS[0]]), torch.tensor([0]))
        logits.append(decoder.step(torch.tensor([9]), torch.tensor([5]), torch.tensor([0])))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_refresh_reads_the_fused_weights_anew() -> None:
    model = toy(SHAPES["llama"])
    decoder = KVDecoder(model)
    decoder.allocate(1, 32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    decoder.refresh()
    logits = decoder.prefill(*padded([PROMPTS[0]]), torch.tensor([0]))
    with torch.no_grad():
        torch.testing.assert_close(logits[0], model(torch.tensor([PROMPTS[0]])).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_close_to_float32_as_transformers_is() -> None:
    spec = SHAPES["qwen3 normed heads, wide heads"]
    exact, rough = toy(spec), toy(spec)
    rough.to(torch.bfloat16)
    exact.load_state_dict(rough.state_dict())
    decoder = KVDecoder(rough)
    decoder.allocate(1, 64)
    prompt = torch.randint(VOCAB, (1, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, theirs = exact(prompt).logits[0, -1], rough(prompt).logits[0, -1]
    ours = decoder.prefill(prompt[:, :39], torch.tensor([39]), torch.tensor([0]))
    ours = decoder.step(prompt[:, 39], torch.tensor([39]), torch.tensor([0]))[0]
    assert ours.dtype == torch.float32
    assert float((ours - expected).norm()) <= 1.3 * float((theirs - expected).norm())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"model_type": "mistral"}, "model_type mistral", id="unknown architecture"),
        pytest.param({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention", id="window"),
        pytest.param({"rope_parameters": {"rope_type": "dynamic"}}, "rope_type dynamic", id="dynamic rope"),
    ],
)
def test_models_it_cannot_decode_are_refused(change: dict[str, Any], message: str) -> None:
    model = toy(SHAPES["llama"])
    for key, value in change.items():
        setattr(model.config, key, value)
    with pytest.raises(UserError, match=message):
        KVDecoder(model)


def test_a_cache_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(UserError, match="cache capacity 65: beyond the model's max_position_embeddings"):
        KVDecoder(toy(SHAPES["llama"])).allocate(1, 65)
