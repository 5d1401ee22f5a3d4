"""The teacher against transformers' DeepseekV3ForCausalLM: same weights, same numbers, block by block and whole."""

import logging

import pytest
import torch

from distill.errors import UserError
from teacher.config import TeacherConfig, preset
from teacher.kernels import reference
from teacher.model import DeepseekForCausalLM
from teacher.moe import Experts, Router
from teacher.rotary import Rotary, softmax_scale
from teacher.rows import find_rows
from tests.teacher_pairs import CONFIGS, YARN, assert_gradients_equal, difference, ids_for, mixed, pair

EVERY = {**CONFIGS, **mixed(12)}


@pytest.mark.parametrize("keys", EVERY.values(), ids=EVERY)
def test_logits_and_gradients_equal_transformers(keys) -> None:
    ours, peer = pair(**keys)
    ids = ids_for(ours)
    mine, theirs = (model(input_ids=ids, labels=ids, use_cache=False) for model in (ours, peer))
    assert difference(mine.logits, theirs.logits) <= 1e-5
    assert difference(mine.loss, theirs.loss) <= 1e-5
    mine.loss.backward()
    theirs.loss.backward()
    assert_gradients_equal(ours.named_parameters(), peer)


BLOCKS = [
    "miniature", "query latent and biases", "yarn", "rope by halves", "odd widths", "one group", "one group of four",
    "three groups of four, 64 experts", "two shared experts", "weights not normalized",
]  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_attention_block_equals_transformers_forward_and_backward(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    x, y = (
        torch.randn(2, 13, ours.config.hidden_size, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    mine_x, peer_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    rows = find_rows(2, 13, x.device)
    block, peer_block = ours.model.layers[0].self_attn, peer.model.layers[0].self_attn
    mine = block(mine_x.flatten(0, 1), rows, ours.model.rotary.turns(rows.positions_N)).unflatten(0, (2, 13))
    theirs, _ = peer_block(peer_x, peer.model.rotary_emb(x, torch.arange(13)[None]), attention_mask=None)
    assert difference(mine, theirs) <= 1e-5
    (mine * y).sum().backward()
    (theirs * y).sum().backward()
    assert difference(mine_x.grad, peer_x.grad) <= 1e-4
    assert_gradients_equal(block.named_parameters(), peer_block)


@pytest.mark.parametrize("name", BLOCKS)
def test_router_chooses_the_experts_transformers_chooses(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    x = torch.randn(200, ours.config.hidden_size)
    gate, peer_gate = ours.model.layers[-1].mlp.gate, peer.model.layers[-1].mlp.gate
    assert gate.e_score_correction_bias.min() < 0 < gate.e_score_correction_bias.max()
    weights, chosen = gate(x)
    _, their_weights, their_chosen = peer_gate(x)
    order, their_order = chosen.argsort(-1), their_chosen.argsort(-1)
    assert torch.equal(chosen.gather(1, order), their_chosen.gather(1, their_order))
    weights, their_weights = weights.gather(1, order), their_weights.gather(1, their_order)
    assert difference(weights, their_weights) <= 1e-6
    y = torch.randn_like(weights)
    (weights * y).sum().backward()
    (their_weights * y).sum().backward()
    assert_gradients_equal(gate.named_parameters(), peer_gate)


@pytest.mark.parametrize("name", BLOCKS)
def test_expert_block_equals_transformers_forward_and_backward(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    x, y = torch.randn(40, ours.config.hidden_size), torch.randn(40, ours.config.hidden_size)
    mine_x, peer_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    block, peer_block = ours.model.layers[-1].mlp, peer.model.layers[-1].mlp
    mine, theirs = block(mine_x), peer_block(peer_x[None])[0]
    assert difference(mine, theirs) <= 1e-5
    (mine * y).sum().backward()
    (theirs * y).sum().backward()
    assert difference(mine_x.grad, peer_x.grad) <= 1e-4
    assert_gradients_equal(block.named_parameters(), peer_block)


@pytest.mark.parametrize("name", ["miniature", "query latent and biases", "yarn", "three groups of four, 64 experts"])
def test_bfloat16_errs_at_most_a_fifth_more_than_transformers_bfloat16(name) -> None:
    ours, peer = pair(**CONFIGS[name])
    ids = ids_for(ours, 8, 40)
    with torch.no_grad():
        exact = peer(input_ids=ids, use_cache=False).logits
        biases = {key: value.clone() for key, value in ours.named_buffers()}
        for model in (ours, peer):
            model.bfloat16()
            for key, bias in biases.items():  # both loaders keep it in float32
                model.get_submodule(key.rpartition(".")[0]).e_score_correction_bias = bias
        errors = [
            (model(input_ids=ids, use_cache=False).logits.float() - exact).square().mean().sqrt()
            for model in (ours, peer)
        ]
    assert errors[1] > 0
    assert errors[0] <= 1.2 * errors[1]


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
    torch.manual_seed(0)
    model = DeepseekForCausalLM(preset("mini")).bfloat16()
    x = torch.randn(500, 64).bfloat16()
    weights, chosen = model.model.layers[1].mlp.gate(x)
    logits = x.float() @ model.model.layers[1].mlp.gate.weight.float().T
    assert weights.dtype == torch.float32
    assert torch.equal(chosen.sort().values, logits.topk(2).indices.sort().values)


@pytest.mark.parametrize(
    ("name", "scale"), [("v3", 0.13523), ("v2", 0.13523), ("v2-lite", 0.11472), ("mini", 32**-0.5)]
)
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


def test_the_reference_attention_is_causal_softmax_attention() -> None:
    query, key, value = (torch.randn(2, 5, 3, width, dtype=torch.float64) for width in (4, 4, 6))
    found = reference.attention(query, key, value, scale=0.3)
    for place in range(5):
        scores = torch.einsum("shq,slhq->shl", query[:, place], key[:, : place + 1]) * 0.3
        expected = torch.einsum("shl,slhv->shv", scores.softmax(-1), value[:, : place + 1])
        torch.testing.assert_close(found[:, place], expected)


@pytest.mark.parametrize("name", ["query latent and biases", "yarn", "odd widths"])
def test_attention_backends_agree_on_padded_rows(name, caplog) -> None:
    ours, _ = pair(**CONFIGS[name])
    ids, mask = ids_for(ours, 3, 9), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[1, 7:] = 0
    logits, gradients = [], []
    for backend in ("sdpa", "reference"):
        ours.zero_grad()
        with caplog.at_level(logging.INFO, logger="teacher.attention"):
            ours.set_attention_backend(backend)
        assert f"attention backend {backend}: " in caplog.text
        logits.append(ours(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)))
        logits[-1].loss.backward()
        gradients.append([parameter.grad.clone() for parameter in ours.parameters()])
    assert difference(logits[0].logits, logits[1].logits) <= 1e-5
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_an_unknown_attention_backend_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        UserError, match=r"attention_backend spda: unknown \(did you mean sdpa\?\); there are reference"
    ):
        DeepseekForCausalLM(preset("mini"), attention_backend="spda")


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
