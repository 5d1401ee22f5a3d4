"""The latent cache decoder against the model it wraps, token by token."""

from itertools import pairwise

import pytest
import torch

from distill.errors import UserError
from teacher.config import preset
from teacher.decoder import LatentDecoder
from teacher.feed import feed
from teacher.model import DeepseekForCausalLM

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
CONFIGS = {
    "miniature": {},
    "query latent": {"q_lora_rank": 24},
    "query latent and biases": {"q_lora_rank": 24, "attention_bias": True},
    "biases without query latent": {"attention_bias": True},
    "yarn": {"rope_parameters": YARN},
    "rope by halves": {"rope_interleave": False},
    "one group of four, no dense layer": {"n_group": 4, "topk_group": 1, "first_k_dense_replace": 0},
    "odd widths": {"num_attention_heads": 3, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 7},
}


def make(dtype: torch.dtype = torch.float32, **keys) -> DeepseekForCausalLM:
    torch.manual_seed(0)
    model = DeepseekForCausalLM(preset("mini", num_hidden_layers=2, **keys)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(std=0.3 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5)
    return model.to(dtype)


BLOCK = 4


def cache(decoder: LatentDecoder, rows: int, width: int, block: int = BLOCK) -> torch.Tensor:
    """Allocate room for rows of a width, some blocks to spare; their tables, in no order."""
    per_row = -(-width // block)
    decoder.allocate(rows * per_row + 3, block, width)
    return (torch.randperm(rows * per_row) + 3).view(rows, per_row)


def speak(decoder: LatentDecoder, ids: torch.Tensor, lengths: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Teacher-forced logits (B, T, V): each row's prompt by prefill, the rest by steps."""
    batch, width = ids.shape
    logits = torch.full((batch, width, decoder.vocab_size), torch.nan)
    rows = torch.arange(batch)
    logits[rows, lengths - 1] = decoder.prefill(
        ids[:, : int(lengths.max())], torch.zeros_like(lengths), lengths, tables
    )
    positions = lengths.clone()
    while len(going := rows[positions < width]):
        here = positions[going]
        logits[going, here] = decoder.step(ids[going, here], here, tables[going])
        positions[going] += 1
    return logits


def assert_equals_forward(logits: torch.Tensor, model: DeepseekForCausalLM, ids: torch.Tensor, bound: float) -> None:
    with torch.no_grad():
        whole = model(input_ids=ids).logits.float()
    spoken = logits.isfinite().all(-1)
    assert spoken.any(-1).all()
    assert (logits - whole)[spoken].abs().max() <= bound * whole.abs().max()


@pytest.mark.parametrize("folded", [0, 2**20], ids=["as it is", "folded"])
@pytest.mark.parametrize("keys", CONFIGS.values(), ids=CONFIGS)
def test_prefill_and_steps_equal_the_full_forward_at_every_position(
    keys, folded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teacher.decoder.FOLDED", folded)
    model = make(**keys)
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (4, 24))
    lengths = torch.tensor([3, 1, 11, 6])  # rows at different positions, one finishing prefill after one token
    logits = speak(decoder, ids, lengths, cache(decoder, 4, 24))
    assert_equals_forward(logits, model, ids, 1e-5)
    assert logits[1].isfinite().all()


def test_absorbed_equals_expanded_in_float64() -> None:
    model = make(torch.float64, q_lora_rank=24)
    model.set_experts_backend("reference")
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (2, 16))
    x = decoder.model.model.embed_tokens(ids)
    captured: list[torch.Tensor] = []
    model.model.norm.register_forward_hook(lambda module, given, out: captured.append(out.detach()))
    speak(decoder, ids, torch.tensor([4, 4]), cache(decoder, 2, 16))
    steps = torch.stack(captured[1:], dim=1)
    captured.clear()
    model.model(inputs_embeds=x)
    assert (steps - captured[0].unflatten(0, (2, 16))[:, 4:]).abs().max() <= 1e-10


def test_bfloat16_errs_no_more_than_the_bfloat16_model() -> None:
    exact = make()
    model = make().bfloat16()
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (3, 20))
    logits = speak(decoder, ids, torch.tensor([2, 2, 2]), cache(decoder, 3, 20))[:, 2:]
    with torch.no_grad():
        reference, plain = exact(input_ids=ids).logits[:, 2:], model(input_ids=ids).logits[:, 2:].float()
    error, plain_error = (logits - reference).pow(2).mean().sqrt(), (plain - reference).pow(2).mean().sqrt()
    assert error <= 1.2 * plain_error


def test_more_rows_than_are_read_together() -> None:
    model = make()
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (77, 12))
    lengths = torch.randint(1, 9, (77,))
    assert_equals_forward(speak(decoder, ids, lengths, cache(decoder, 77, 12)), model, ids, 1e-5)


@pytest.mark.parametrize("cuts", [[5], [4, 8], [1, 2, 9, 13]], ids=str)
def test_a_prompt_in_pieces_equals_the_whole(cuts: list[int]) -> None:
    model = make(q_lora_rank=24)
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (3, 16))
    tables = cache(decoder, 3, 16)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
    for start, end in pairwise([0, *cuts, 16]):
        starts, lengths = torch.full((3,), start), torch.full((3,), end - start)
        logits = decoder.prefill(ids[:, start:end], starts, lengths, tables)
        assert (logits - whole[:, end - 1]).abs().max() <= 1e-5 * whole.abs().max()


def test_pieces_of_unlike_lengths_behind_unlike_starts_run_together() -> None:
    model = make()
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (3, 16))
    tables = cache(decoder, 3, 16)
    starts, lengths = torch.tensor([7, 0, 2]), torch.tensor([1, 9, 5])
    decoder.prefill(ids, torch.zeros(3, dtype=torch.int64), starts.clamp(min=1), tables)
    pieces = torch.stack([ids[row, start : start + 9] for row, start in enumerate(starts)])
    logits = decoder.prefill(pieces, starts, lengths, tables)
    with torch.no_grad():
        whole = model(input_ids=ids).logits[torch.arange(3), starts + lengths - 1]
    assert (logits - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_a_shared_prefix_equals_prefilling_each() -> None:
    model = make()
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (1, 16)).repeat(4, 1)
    ids[:, 10:] = torch.randint(64, (4, 6))  # two full blocks and a half are shared
    tables = cache(decoder, 4, 16)
    tables[1:, :2] = tables[0, :2]
    decoder.prefill(ids[:1, :10], torch.tensor([0]), torch.tensor([10]), tables[:1])
    decoder.copy(tables[0, 2].repeat(3), tables[1:, 2])
    logits = [decoder.step(ids[:, place], torch.full((4,), place), tables) for place in range(10, 16)]
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, 10:]
    assert (torch.stack(logits, 1) - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_reused_blocks_do_not_remember_their_last_tenant() -> None:
    model = make()
    decoder = LatentDecoder(model)
    tables = cache(decoder, 1, 16)
    speak(decoder, torch.randint(64, (1, 16)), torch.tensor([12]), tables)
    ids = torch.randint(64, (1, 16))
    assert_equals_forward(speak(decoder, ids, torch.tensor([3]), tables.flip(1)), model, ids, 1e-5)


@pytest.mark.parametrize("block", [1, 3, 16])
def test_the_size_of_a_block_changes_nothing(block: int) -> None:
    model = make()
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (4, 16))
    tables = cache(decoder, 4, 16, block)
    assert_equals_forward(speak(decoder, ids, torch.tensor([3, 1, 8, 6]), tables), model, ids, 1e-5)


def test_rows_beside_a_row_change_nothing_but_rounding() -> None:
    model = make()
    ids = torch.randint(64, (40, 16))
    lengths = torch.full((40,), 4)
    found = []
    for rows in (slice(0, 1), slice(0, 40)):
        decoder = LatentDecoder(model)
        found.append(speak(decoder, ids[rows], lengths[rows], cache(decoder, 40, 16)[rows])[0, 4:])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_refresh_follows_a_training_step_and_steps_are_stale_without_it() -> None:
    model = make()
    decoder = LatentDecoder(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ids = torch.randint(64, (2, 12))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    lengths, tables = torch.tensor([3, 3]), cache(decoder, 2, 12)
    stale = speak(decoder, ids, lengths, tables)
    decoder.refresh()
    fresh = speak(decoder, ids, lengths, tables)
    assert_equals_forward(fresh, model, ids, 1e-5)
    assert (fresh - stale)[:, 4:].abs().max() > 1e-3


def test_training_goes_on_after_decoding() -> None:
    model = make()
    decoder = LatentDecoder(model)
    ids = torch.randint(64, (1, 8))
    speak(decoder, ids, torch.tensor([2]), cache(decoder, 1, 8))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)], ids=str)
def test_the_cache_holds_the_latent_and_nothing_else(dtype: torch.dtype, size: int) -> None:
    decoder = LatentDecoder(make(dtype))
    decoder.allocate(blocks=3, block_size=10, longest=20)
    assert decoder.cache_bytes_per_token == 2 * (64 + 16) * size
    assert decoder.cache.nbytes == 3 * 10 * decoder.cache_bytes_per_token


def test_a_cache_longer_than_the_model_knows_is_refused() -> None:
    with pytest.raises(UserError, match=r"513 tokens, beyond the model's max_position_embeddings \(512\)"):
        LatentDecoder(make()).allocate(blocks=99, block_size=8, longest=513)


@pytest.mark.parametrize("rows", [2, 12, 13, 40])
def test_large_experts_of_few_rows_say_what_the_model_says(rows: int) -> None:
    """Up to six rows an expert each is read once by itself, beyond that all go through one grouped product."""
    model = make(
        hidden_size=512, moe_intermediate_size=256, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1
    )
    mixture = model.model.layers[-1].mlp
    x = torch.randn(rows, 512)
    with torch.inference_mode():
        torch.testing.assert_close(feed(mixture, "exact")(x), mixture(x), rtol=1e-4, atol=1e-5)
