"""KVDecoder against transformers: greedy tokens and logits, for every architecture and odd shape."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.errors import UserError
from distill.sampling.pages import PART_ROWS, Workspace
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
BLOCK = 4


def cache(decoder: KVDecoder, rows: int, width: int, block: int = BLOCK) -> torch.Tensor:
    """Allocate room for rows of a width, some blocks to spare; their tables, in no order."""
    per_row = -(-width // block)
    decoder.allocate(rows * per_row + 3, block, width)
    return (torch.randperm(rows * per_row, generator=torch.Generator().manual_seed(2)) + 3).view(rows, per_row)


def begin(decoder: KVDecoder, ids: torch.Tensor, lengths: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Prefill from position 0."""
    return decoder.prefill(ids, torch.zeros_like(lengths), lengths, tables)


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_greedy_tokens_are_those_of_generate(spec: Spec) -> None:
    model = toy(spec)
    model.generation_config.eos_token_id = None
    decoder = KVDecoder(model)
    tables = cache(decoder, 3, 64)
    ids, lengths = padded(PROMPTS)
    said = [begin(decoder, ids, lengths, tables).argmax(-1)]
    for place in range(15):
        said.append(decoder.step(said[-1], lengths + place, tables).argmax(-1))
    for row, prompt in enumerate(PROMPTS):
        inputs = torch.tensor([prompt])
        mask = torch.ones_like(inputs)
        expected = model.generate(inputs, attention_mask=mask, max_new_tokens=16, do_sample=False)[0, len(prompt) :]
        assert torch.stack(said)[:, row].tolist() == expected.tolist()


@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_logits_of_prefill_and_steps_are_those_of_a_full_forward(spec: Spec) -> None:
    model = toy(spec)
    decoder = KVDecoder(model)
    tables = cache(decoder, 2, 64)
    ids, cut = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(3)), [13, 30]
    full_BTV = forward(model, ids)
    prompts, lengths = padded([ids[row, : cut[row]].tolist() for row in range(2)])
    logits = begin(decoder, prompts, lengths, tables)
    for place in range(10):
        positions = lengths + place
        assert_near(logits, full_BTV[[0, 1], positions - 1], full_BTV)
        logits = decoder.step(ids[[0, 1], positions], positions, tables)


def forward(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


def assert_near(got: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> None:
    assert float((got - expected).abs().max()) <= 1e-5 * float(scale.abs().max())


@pytest.mark.parametrize("cuts", [[5], [4, 8], [1, 2, 9, 13]], ids=str)
@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_a_prompt_in_pieces_equals_the_whole(spec: Spec, cuts: list[int]) -> None:
    model = toy(spec)
    decoder = KVDecoder(model)
    ids = torch.randint(VOCAB, (3, 16), generator=torch.Generator().manual_seed(3))
    tables, whole = cache(decoder, 3, 16), forward(model, ids)
    for start, end in pairwise([0, *cuts, 16]):
        starts, lengths = torch.full((3,), start), torch.full((3,), end - start)
        logits = decoder.prefill(ids[:, start:end], starts, lengths, tables)
        assert_near(logits, whole[:, end - 1], whole)


def test_pieces_of_unlike_lengths_behind_unlike_starts_run_together() -> None:
    model = toy(SHAPES["llama grouped heads, untied, llama3 rope"])
    decoder = KVDecoder(model)
    ids = torch.randint(VOCAB, (3, 16), generator=torch.Generator().manual_seed(3))
    tables, whole = cache(decoder, 3, 16), forward(model, ids)
    starts, lengths = torch.tensor([7, 0, 2]), torch.tensor([1, 9, 5])
    begin(decoder, ids, starts.clamp(min=1), tables)
    pieces = torch.stack([ids[row, start : start + 9] for row, start in enumerate(starts)])
    logits = decoder.prefill(pieces, starts, lengths, tables)
    assert_near(logits, whole[torch.arange(3), starts + lengths - 1], whole)


def test_padding_may_stand_beyond_a_full_cache() -> None:
    model = toy(SHAPES["llama"])
    decoder = KVDecoder(model)
    ids = torch.randint(VOCAB, (2, 16), generator=torch.Generator().manual_seed(3))
    tables, whole = cache(decoder, 2, 16), forward(model, ids)
    begin(decoder, ids, torch.tensor([14, 6]), tables)
    pieces = torch.stack([torch.cat([ids[0, 14:], ids[0, :8]]), ids[1, 6:]])
    logits = decoder.prefill(pieces, torch.tensor([14, 6]), torch.tensor([2, 10]), tables)
    assert_near(logits, whole[:, 15], whole)


def test_a_shared_prefix_equals_prefilling_each() -> None:
    model = toy(SHAPES["llama grouped heads, untied, llama3 rope"])
    decoder = KVDecoder(model)
    ids = torch.randint(VOCAB, (1, 16), generator=torch.Generator().manual_seed(3)).repeat(4, 1)
    ids[:, 10:] = torch.randint(VOCAB, (4, 6))  # two full blocks and a half are shared
    tables = cache(decoder, 4, 16)
    tables[1:, :2] = tables[0, :2]
    begin(decoder, ids[:1, :10], torch.tensor([10]), tables[:1])
    decoder.copy(tables[0, 2].repeat(3), tables[1:, 2])
    logits = [decoder.step(ids[:, place], torch.full((4,), place), tables) for place in range(10, 16)]
    whole = forward(model, ids)
    assert_near(torch.stack(logits, 1), whole[:, 10:], whole)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_rows_more_than_are_read_together_and_blocks_of_any_size(block: int) -> None:
    model = toy(SHAPES["qwen2 biases"])
    decoder = KVDecoder(model)
    ids = torch.randint(VOCAB, (PART_ROWS + 6, 16), generator=torch.Generator().manual_seed(3))
    lengths = torch.randint(1, 15, (PART_ROWS + 6,), generator=torch.Generator().manual_seed(4))
    tables, whole, rows = cache(decoder, PART_ROWS + 6, 16, block), forward(model, ids), torch.arange(PART_ROWS + 6)
    begin(decoder, ids, lengths, tables)
    logits = decoder.step(ids[rows, lengths], lengths, tables)
    assert_near(logits, whole[rows, lengths], whole)


def test_a_decoder_that_ran_in_inference_mode_runs_outside_it_too() -> None:
    """The engine steps in inference mode; memory kept from there must stay writable."""
    decoder = KVDecoder(toy(SHAPES["llama"]))
    tables = cache(decoder, 1, 16)
    begin(decoder, *padded([PROMPTS[0]]), tables)
    with torch.inference_mode():
        inside = decoder.step(torch.tensor([9]), torch.tensor([5]), tables)
    torch.testing.assert_close(decoder.step(torch.tensor([9]), torch.tensor([5]), tables), inside, rtol=0, atol=0)


def test_what_a_block_held_before_is_never_seen() -> None:
    model = toy(SHAPES["qwen2 biases"])
    used, fresh = KVDecoder(model), KVDecoder(model)
    logits = []
    for decoder in (used, fresh):
        tables = cache(decoder, 1, 32)
        if decoder is used:
            begin(decoder, *padded([PROMPTS[2]]), tables)
        begin(decoder, *padded([PROMPTS[0]]), tables)
        logits.append(decoder.step(torch.tensor([9]), torch.tensor([5]), tables))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


def test_refresh_reads_the_fused_weights_anew() -> None:
    model = toy(SHAPES["llama"])
    decoder = KVDecoder(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    decoder.refresh()
    logits = begin(decoder, *padded([PROMPTS[0]]), cache(decoder, 1, 32))
    torch.testing.assert_close(logits[0], forward(model, torch.tensor([PROMPTS[0]]))[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=str)
def test_the_cache_holds_keys_and_values_and_nothing_else(dtype: torch.dtype, size: int) -> None:
    decoder = KVDecoder(toy(SHAPES["llama grouped heads, untied, llama3 rope"], dtype))
    decoder.allocate(blocks=3, block_size=10, longest=20)
    assert decoder.cache_bytes_per_token == 2 * 2 * (2 * 8) * size  # keys and values, layers, groups x width
    assert decoder.cache.nbytes == 3 * 10 * decoder.cache_bytes_per_token


def test_bfloat16_is_as_close_to_float32_as_transformers_is() -> None:
    spec = SHAPES["qwen3 normed heads, wide heads"]
    exact, rough = toy(spec), toy(spec)
    rough.to(torch.bfloat16)
    exact.load_state_dict(rough.state_dict())
    decoder = KVDecoder(rough)
    tables = cache(decoder, 1, 64)
    prompt = torch.randint(VOCAB, (1, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, theirs = exact(prompt).logits[0, -1], rough(prompt).logits[0, -1]
    begin(decoder, prompt[:, :39], torch.tensor([39]), tables)
    ours = decoder.step(prompt[:, 39], torch.tensor([39]), tables)[0]
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
    with pytest.raises(
        UserError, match=r"65 tokens, beyond the model's max_position_embeddings \(64\); lower max_tokens by 1,"
    ):
        KVDecoder(toy(SHAPES["llama"])).allocate(9, 8, 65)


def test_a_workspace_follows_the_cache_to_another_dtype_and_device() -> None:
    workspace, which = Workspace(), torch.tensor([2, 0])
    for dtype, device in ((torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.bfloat16, "meta")):
        blocks = torch.arange(12.0).view(3, 4).to(device, dtype)
        found = workspace.gather(blocks, which.to(device))
        assert (found.dtype, found.device) == (blocks.dtype, blocks.device)
        if device == "cpu":
            assert torch.equal(found, blocks[which])
