"""The teacher against transformers' DeepseekV3ForCausalLM: same weights, same numbers, block by block and whole."""

import logging

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from distill.errors import UserError
from teacher.config import TeacherConfig, preset
from teacher.model import DeepseekForCausalLM
from teacher.moe import Experts, Router
from teacher.rotary import Rotary, softmax_scale
from teacher.rows import find_rows

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "kv_lora_rank": 16}
CONFIGS = {
    "miniature": {"num_hidden_layers": 2},
    "no dense layer": {**SMALL, "first_k_dense_replace": 0, "num_hidden_layers": 2},
    "two dense layers": {**SMALL, "first_k_dense_replace": 2, "num_hidden_layers": 3},
    "dense only": {**SMALL, "first_k_dense_replace": 2, "num_hidden_layers": 2},
    "query latent": {**SMALL, "q_lora_rank": 12, "num_hidden_layers": 2},
    "query latent and biases": {**SMALL, "q_lora_rank": 12, "attention_bias": True, "num_hidden_layers": 2},
    "one group": {**SMALL, "n_group": 1, "topk_group": 1, "num_hidden_layers": 2},
    "one group of four": {**SMALL, "n_group": 4, "topk_group": 1, "num_hidden_layers": 2},
    "three groups of four, 64 experts": {
        **SMALL, "n_routed_experts": 64, "n_group": 4, "topk_group": 3, "num_experts_per_tok": 8,
        "num_hidden_layers": 2,
    },
    "every reachable expert": {
        **SMALL, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "num_hidden_layers": 2,
    },
    "two shared experts": {**SMALL, "n_shared_experts": 2, "num_hidden_layers": 2},
    "weights not normalized": {**SMALL, "norm_topk_prob": False, "routed_scaling_factor": 1.0, "num_hidden_layers": 2},
    "yarn": {**SMALL, "rope_parameters": YARN, "max_position_embeddings": 2560, "num_hidden_layers": 2},
    "yarn, unequal mscales": {
        **SMALL, "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}, "num_hidden_layers": 2,
    },
    "yarn, no mscale": {
        **SMALL, "rope_parameters": {k: v for k, v in YARN.items() if "mscale" not in k}, "num_hidden_layers": 2,
    },
    "rope by halves": {**SMALL, "rope_interleave": False, "num_hidden_layers": 2},
    "rope by halves, yarn": {**SMALL, "rope_interleave": False, "rope_parameters": YARN, "num_hidden_layers": 2},
    "tied head": {**SMALL, "tie_word_embeddings": True, "num_hidden_layers": 2},
    "odd widths": {
        **SMALL, "num_attention_heads": 3, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 7,
        "num_hidden_layers": 2,
    },
    "large norm epsilon": {**SMALL, "rms_norm_eps": 0.1, "q_lora_rank": 12, "num_hidden_layers": 2},
}  # fmt: skip


def shake(model, seed: int = 0) -> None:
    """Weights of ordinary size, norms away from one, correction biases of both signs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("layernorm.weight") or name.endswith("norm.weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("correction_bias"):
                tensor.normal_(std=0.3, generator=generator)
            else:
                tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=generator)


def pair(**keys) -> tuple[DeepseekForCausalLM, DeepseekV3ForCausalLM]:
    """Ours and transformers' with the same weights."""
    config = preset("mini", **keys)
    ours = DeepseekForCausalLM(config)
    shake(ours)
    peer = DeepseekV3ForCausalLM(DeepseekV3Config.from_dict(config.to_dict()))
    peer.load_state_dict(ours.state_dict())
    return ours.eval(), peer.eval()


def ids_for(model, batch: int = 3, width: int = 21, seed: int = 1) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch, width), generator=torch.Generator().manual_seed(seed))


def difference(ours: torch.Tensor, peer: torch.Tensor) -> float:
    return float((ours.detach() - peer.detach()).abs().max() / peer.detach().abs().max())


@pytest.mark.parametrize("keys", CONFIGS.values(), ids=CONFIGS)
def test_logits_and_gradients_equal_transformers(keys) -> None:
    ours, peer = pair(**keys)
    ids = ids_for(ours)
    mine, theirs = (model(input_ids=ids, labels=ids, use_cache=False) for model in (ours, peer))
    assert difference(mine.logits, theirs.logits) <= 1e-5
    assert difference(mine.loss, theirs.loss) <= 1e-5
    mine.loss.backward()
    theirs.loss.backward()
    peer_gradients = dict(peer.named_parameters())
    for name, parameter in ours.named_parameters():
        theirs_gradient = peer_gradients[name].grad
        if theirs_gradient.abs().max() > 1e-12:
            assert difference(parameter.grad, theirs_gradient) <= 1e-4, name


@pytest.mark.parametrize("name", ["miniature", "query latent and biases", "yarn", "rope by halves", "odd widths"])
def test_attention_block_equals_transformers(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    x = torch.randn(2, 13, ours.config.hidden_size)
    rows = find_rows(2, 13, x.device)
    mine = ours.model.layers[0].self_attn(x.flatten(0, 1), rows, ours.model.rotary.turns(rows.positions_N))
    angles = peer.model.rotary_emb(x, torch.arange(13)[None])
    theirs, _ = peer.model.layers[0].self_attn(x, angles, attention_mask=None)
    assert difference(mine.unflatten(0, (2, 13)), theirs) <= 1e-5


@pytest.mark.parametrize(
    "name",
    ["miniature", "one group", "one group of four", "three groups of four, 64 experts", "weights not normalized"],
)
def test_router_chooses_the_experts_transformers_chooses(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    x = torch.randn(200, ours.config.hidden_size)
    weights, chosen = ours.model.layers[-1].mlp.gate(x)
    _, their_weights, their_chosen = peer.model.layers[-1].mlp.gate(x)
    order, their_order = chosen.argsort(-1), their_chosen.argsort(-1)
    assert torch.equal(chosen.gather(1, order), their_chosen.gather(1, their_order))
    assert difference(weights.gather(1, order), their_weights.gather(1, their_order)) <= 1e-6


@pytest.mark.parametrize("name", ["miniature", "two shared experts", "three groups of four, 64 experts"])
def test_expert_block_equals_transformers(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    x = torch.randn(1, 40, ours.config.hidden_size)
    assert difference(ours.model.layers[-1].mlp(x[0]), peer.model.layers[-1].mlp(x)[0]) <= 1e-5


def test_a_closed_group_is_never_chosen_when_all_biases_are_negative() -> None:
    router = Router(preset("mini", n_group=4, topk_group=1))
    torch.nn.init.normal_(router.weight)
    router.e_score_correction_bias.fill_(-5.0)
    _, chosen = router(torch.randn(100, 64))
    assert (chosen[:, 0] // 2 == chosen[:, 1] // 2).all()


def test_the_bias_steers_the_choice_and_not_the_weights() -> None:
    router = Router(preset("mini", routed_scaling_factor=1.0, norm_topk_prob=False, n_group=1, topk_group=1))
    torch.nn.init.normal_(router.weight)
    router.e_score_correction_bias[5] = 100.0
    x = torch.randn(50, 64)
    weights, chosen = router(x)
    assert (chosen == 5).any(-1).all()
    torch.testing.assert_close(weights, (x @ router.weight.T).sigmoid().gather(1, chosen))


def test_the_router_stays_in_float32_in_a_bfloat16_model() -> None:
    model = DeepseekForCausalLM(preset("mini")).bfloat16()
    x = torch.randn(500, 64).bfloat16()
    weights, chosen = model.model.layers[1].mlp.gate(x)
    logits = x.float() @ model.model.layers[1].mlp.gate.weight.float().T
    assert weights.dtype == torch.float32
    assert torch.equal(chosen.sort().values, logits.topk(2).indices.sort().values)


def test_a_softmax_router_without_bias_gives_plain_probabilities() -> None:
    router = Router(preset("v2-lite", hidden_size=16))
    torch.nn.init.normal_(router.weight)
    x = torch.randn(9, 16)
    weights, chosen = router(x)
    expected = (x @ router.weight.T).softmax(-1).topk(6)
    torch.testing.assert_close(weights.sort().values, expected.values.sort().values)
    assert torch.equal(chosen.sort().values, expected.indices.sort().values)
    assert not hasattr(router, "e_score_correction_bias")


@pytest.mark.parametrize(("name", "scale"), [("v3", 0.13523), ("v2-lite", 0.11472), ("mini", 32**-0.5)])
def test_softmax_scale_is_the_published_one(name, scale) -> None:
    assert softmax_scale(preset(name)) == pytest.approx(scale, rel=1e-4)


def test_yarn_angles_keep_length_one_when_mscales_are_equal() -> None:
    turns = Rotary(preset("v3")).turns(torch.arange(0, 100_000, 7777))
    torch.testing.assert_close(turns.abs(), torch.ones_like(turns.abs()))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_each_row_alone(side) -> None:
    ours, _ = pair()
    lengths = [5, 1, 9]
    rows = [ids_for(ours, 1, length, seed=length) for length in lengths]
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(9 - length, 9) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = rows[row][0], 1
    logits = ours(input_ids=ids, attention_mask=mask).logits
    for row, length in enumerate(lengths):
        place = slice(9 - length, 9) if side == "left" else slice(0, length)
        assert difference(logits[row, place], ours(input_ids=rows[row]).logits[0]) <= 1e-5


def test_padding_on_both_sides_as_grpo_sends_it_equals_the_row_alone() -> None:
    ours, peer = pair()
    ids = ids_for(ours, 2, 12)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 12])
    mine = ours(input_ids=ids, attention_mask=mask).logits
    theirs = peer(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert difference(mine[mask.bool()], theirs[mask.bool()]) <= 1e-5


@pytest.mark.parametrize("keywords", [{}, {"use_cache": True}, {"attention_mask": "ones"}], ids=str)
def test_packed_sequences_do_not_see_each_other(keywords) -> None:
    ours, _ = pair()
    lengths = [4, 1, 7, 7]
    alone = [ids_for(ours, 1, length, seed=index) for index, length in enumerate(lengths)]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    if keywords.get("attention_mask") == "ones":
        keywords = {"attention_mask": torch.ones(1, sum(lengths), dtype=torch.long)}
    packed = ours(input_ids=torch.cat(alone, 1), position_ids=positions, **keywords).logits[0].split(lengths)
    for part, ids in zip(packed, alone, strict=True):
        assert difference(part, ours(input_ids=ids).logits[0]) <= 1e-5


def test_packed_gradients_equal_the_sum_of_each_alone() -> None:
    ours, _ = pair(num_hidden_layers=2)
    ours.double().set_experts_backend("reference")
    alone = [ids_for(ours, 1, length, seed=length) for length in (6, 3)]
    positions = torch.cat([torch.arange(6), torch.arange(3)])[None]
    ours(input_ids=torch.cat(alone, 1), position_ids=positions).logits.square().sum().backward()
    packed = {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    for ids in alone:
        ours(input_ids=ids).logits.square().sum().backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-8, atol=1e-8)


def test_all_padding_row_gives_zeros_and_not_nan() -> None:
    ours, _ = pair()
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    hidden = ours.model(input_ids=ids_for(ours, 2, 3), attention_mask=mask).last_hidden_state
    assert hidden.isfinite().all()
    assert (hidden[1] == 0).all()


def test_activation_checkpointing_changes_no_gradient() -> None:
    ours, _ = pair()
    ids = ids_for(ours)
    gradients = []
    for on in (False, True):
        ours.zero_grad()
        ours.train()
        if on:
            ours.activation_checkpointing_enable()
        ours(input_ids=ids, labels=ids).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in ours.parameters()])
    assert ours.model.gradient_checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["grouped_mm", "triton"])
def test_experts_backends_agree_with_the_reference(backend, caplog) -> None:
    ours, _ = pair(num_hidden_layers=2)
    ids = ids_for(ours, 2, 9)
    ours.set_experts_backend("reference")
    expected = ours(input_ids=ids, labels=ids)
    expected.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    with caplog.at_level(logging.INFO, logger="teacher.moe"):
        ours.set_experts_backend(backend)
    assert f"experts backend {backend}: " in caplog.text
    assert all(module.backend == backend for module in ours.modules() if isinstance(module, Experts))
    found = ours(input_ids=ids, labels=ids)
    assert difference(found.logits, expected.logits) <= 1e-5
    found.loss.backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-6)


def test_grouped_mm_gives_empty_experts_zero_gradients() -> None:
    ours, _ = pair(num_hidden_layers=2, n_group=1, topk_group=1)
    ours.model.layers[1].mlp.gate.e_score_correction_bias.copy_(torch.tensor([9.0, 9, 0, 0, 0, 0, 0, 0]))
    ids = ids_for(ours)
    ours(input_ids=ids, labels=ids).loss.backward()
    experts = ours.model.layers[1].mlp.experts
    for weight in (experts.gate_up_proj, experts.down_proj):
        assert (weight.grad[2:] == 0).all()
        assert weight.grad[:2].abs().max() > 0


def test_an_unknown_backend_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"experts_backend grouped_m: unknown \(did you mean grouped_mm\?\)"):
        DeepseekForCausalLM(preset("mini"), experts_backend="grouped_m")


def test_triton_without_a_device_is_refused_and_not_replaced(monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a CUDA device"):
        DeepseekForCausalLM(preset("mini"), experts_backend="triton")


def test_logits_to_keep_and_trainer_keywords() -> None:
    ours, _ = pair()
    ids = ids_for(ours)
    full = ours(input_ids=ids).logits
    torch.testing.assert_close(ours(input_ids=ids, logits_to_keep=4).logits, full[:, -4:])
    torch.testing.assert_close(ours(input_ids=ids, logits_to_keep=torch.tensor([0, 7])).logits, full[:, [0, 7]])
    torch.testing.assert_close(ours(inputs_embeds=ours.get_input_embeddings()(ids)).logits, full)
    body = ours.model(input_ids=ids, fused_lm_head=True, cu_seq_lens_q=None, seq_idx=None)
    torch.testing.assert_close(ours.get_output_embeddings()(body.last_hidden_state), full)


def test_generate_recomputes_the_prefix_and_says_what_transformers_says() -> None:
    ours, peer = pair()
    ids, mask = ids_for(ours, 2, 7), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    keywords = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **keywords), peer.generate(ids, **keywords))


def test_a_cache_is_refused_and_not_ignored() -> None:
    ours, _ = pair()
    with pytest.raises(ValueError, match="keeps no cache"):
        ours.generate(ids_for(ours), max_new_tokens=2, use_cache=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_group": 3}, "n_group: 3, expected a divisor"),
        ({"n_group": 8}, "at least 2 experts each"),
        ({"topk_group": 3}, "topk_group: 3, expected 1 to n_group"),
        ({"n_group": 4, "topk_group": 1, "num_experts_per_tok": 3}, "num_experts_per_tok: 3, expected 1 to 2"),
        ({"qk_rope_head_dim": 15}, "expected an even number"),
        ({"hidden_act": "gelu"}, "expected 'silu'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "expected 'default' or 'yarn'"),
        ({"hiden_size": 64}, r"hiden_size: unknown \(did you mean hidden_size\?\)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_impossible_shapes_are_refused_by_key(keys, message) -> None:
    with pytest.raises(UserError, match=message):
        preset("mini", **keys)


def test_config_survives_json_with_its_rope_parameters() -> None:
    config = preset("v3")
    again = TeacherConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.rope_parameters["factor"] == 40.0


def test_published_rope_scaling_key_is_understood() -> None:
    published = {**preset("v3").to_dict(), "rope_theta": 10000, "rope_scaling": {**YARN, "type": "yarn"}}
    del published["rope_parameters"]
    assert softmax_scale(TeacherConfig.from_dict(published)) == pytest.approx(0.13523, rel=1e-4)
