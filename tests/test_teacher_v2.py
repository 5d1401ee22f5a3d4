"""DeepSeek-V2's folders: parity with transformers' DeepseekV2ForCausalLM, and what upstream does that it leaves out."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import DeepseekV2ForCausalLM

from distill.errors import UserError
from teacher.config import TeacherV2Config, preset
from teacher.decoder import LatentDecoder
from teacher.init import TeacherInitConfig
from teacher.loader import is_teacher, read_model, read_teacher_config
from teacher.model import DeepseekForCausalLM
from teacher.moe import FeedForward, MixtureOfExperts, Router
from tests.teacher_pairs import SMALL, YARN, assert_gradients_equal, difference, ids_for, pair

LITE = {
    **SMALL, "num_hidden_layers": 2, "num_attention_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 16, "num_experts_per_tok": 4, "rope_parameters": None,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
LIMITED = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0}
V2_CONFIGS = {
    "greedy": LITE,
    "greedy ignores groups": {**LITE, "n_group": 4, "topk_group": 1},
    "best groups": {**LITE, **LIMITED},
    "one best group": {**LITE, **LIMITED, "topk_group": 1},
    "best groups, query latent, as V2": {**LITE, **LIMITED, "q_lora_rank": 12},
    "query latent and biases": {**LITE, "q_lora_rank": 12, "attention_bias": True},
    "yarn with mscale 0.707, as V2-Lite": {
        **LITE, "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}, "max_position_embeddings": 2560,
    },
    "no dense layer": {**LITE, **LIMITED, "first_k_dense_replace": 0},
    "two dense layers": {**LITE, "first_k_dense_replace": 2, "num_hidden_layers": 3},
    "64 experts, tied head": {**LITE, **LIMITED, "n_routed_experts": 64, "tie_word_embeddings": True},
}  # fmt: skip


@pytest.mark.parametrize("keys", V2_CONFIGS.values(), ids=V2_CONFIGS)
def test_logits_and_gradients_equal_transformers(keys) -> None:
    ours, peer = pair("v2-lite", **keys)
    ids = ids_for(ours)
    mine, theirs = (model(input_ids=ids, labels=ids, use_cache=False) for model in (ours, peer))
    assert difference(mine.logits, theirs.logits) <= 1e-5
    mine.loss.backward()
    theirs.loss.backward()
    assert_gradients_equal(ours.named_parameters(), peer)


@pytest.mark.parametrize("name", ["greedy", "greedy ignores groups", "best groups", "one best group"])
def test_router_and_experts_equal_transformers(name) -> None:
    ours, peer = pair("v2-lite", **V2_CONFIGS[name])
    x = torch.randn(200, 32)
    block, peer_block = ours.model.layers[-1].mlp, peer.model.layers[-1].mlp
    weights, chosen = block.gate(x)
    _, their_weights, their_chosen = peer_block.gate(x)
    order, their_order = chosen.argsort(-1), their_chosen.argsort(-1)
    assert torch.equal(chosen.gather(1, order), their_chosen.gather(1, their_order))
    assert difference(weights.gather(1, order), their_weights.gather(1, their_order)) <= 1e-6
    assert difference(block(x), peer_block(x[None])[0]) <= 1e-5


@pytest.mark.parametrize("name", ["greedy", "best groups, query latent, as V2", "64 experts, tied head"])
def test_folders_go_ours_transformers_ours_bit_for_bit(tmp_path, name) -> None:
    ours, _ = pair("v2-lite", **V2_CONFIGS[name])
    ours.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["architectures"] == ["DeepseekV2ForCausalLM"]
    peer = DeepseekV2ForCausalLM.from_pretrained(tmp_path / "ours")
    peer.save_pretrained(tmp_path / "theirs")
    mine, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert not any("e_score_correction_bias" in key for key in mine)
    back = read_model(tmp_path / "theirs")
    assert isinstance(back.config, TeacherV2Config)
    assert torch.equal(back(ids_for(ours)).logits, ours(ids_for(ours)).logits)


def test_decoding_equals_the_full_forward() -> None:
    ours, _ = pair("v2-lite", **V2_CONFIGS["best groups, query latent, as V2"])
    decoder = LatentDecoder(ours)
    decoder.allocate(blocks=6, block_size=4, longest=12)
    ids, tables = ids_for(ours, 2, 12), torch.tensor([[4, 1, 5], [2, 0, 3]])
    logits = [decoder.prefill(ids[:, :5], torch.tensor([0, 0]), torch.tensor([5, 5]), tables)]
    logits += [decoder.step(ids[:, place], torch.tensor([place, place]), tables) for place in range(5, 12)]
    assert difference(torch.stack(logits, 1), ours(ids).logits[:, 4:]) <= 1e-5


def test_groups_are_ranked_by_their_best_expert_and_not_by_their_two_best() -> None:
    keys = {**LITE, **LIMITED, "n_routed_experts": 8, "topk_group": 1, "num_experts_per_tok": 1, "hidden_size": 8}
    router = Router(preset("v2-lite", **keys))
    router.weight.data = torch.eye(8)
    scores = torch.tensor([[5.0, 0, 4, 4, 0, 0, 0, 0]])  # group 0 holds the best, group 1 the best pair
    assert router(scores)[1].tolist() == [[0]]


def published_weights(scores: torch.Tensor, choices: int, scale: float, normalized: bool) -> torch.Tensor:
    """DeepSeek-V2's own gate (modeling_deepseek.py of the published folder): normalized *or* scaled."""
    weights = scores.topk(choices).values
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) if choices > 1 and normalized else weights * scale


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
def test_weights_are_normalized_or_scaled_as_upstream_and_never_both(normalized, choices) -> None:
    keys = {"norm_topk_prob": normalized, "num_experts_per_tok": choices, "routed_scaling_factor": 16.0}
    router = Router(preset("v2-lite", **{**LITE, **keys}))
    torch.nn.init.normal_(router.weight)
    x = torch.randn(9, 32)
    expected = published_weights((x @ router.weight.T).softmax(-1), choices, 16.0, normalized)
    torch.testing.assert_close(router(x)[0].sort().values, expected.sort().values)


def test_layers_between_those_that_the_frequency_divides_are_dense() -> None:
    model = DeepseekForCausalLM(preset("v2-lite", **{**LITE, "num_hidden_layers": 6, "moe_layer_freq": 2}))
    kinds = [type(layer.mlp) for layer in model.model.layers]
    assert kinds == [FeedForward, FeedForward, MixtureOfExperts, FeedForward, MixtureOfExperts, FeedForward]


def test_the_published_config_is_understood_and_its_training_keys_survive(tmp_path) -> None:
    published = {
        "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "aux_loss_alpha": 0.001, "ep_size": 1,
        "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
        "max_position_embeddings": 163840, "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1,
        "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16,
        "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "pretraining_tp": 1,
        "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096, "type": "yarn",
        },
        "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True,
        "topk_group": 1, "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 102400,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert is_teacher(published)
    config = read_teacher_config(tmp_path)
    lite = preset("v2-lite").to_dict()
    same = published.keys() - {"rope_scaling", "rope_theta", "aux_loss_alpha", "ep_size", "seq_aux", "pretraining_tp"}
    assert {key: config.to_dict()[key] for key in same} == {key: lite[key] for key in same}
    assert config.rope_parameters["mscale_all_dim"] == lite["rope_parameters"]["mscale_all_dim"]
    assert config.to_dict()["aux_loss_alpha"] == 0.001


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "v2-lite",
            {"topk_method": "noaux_tc"},
            "topk_method: 'noaux_tc', expected 'greedy' or 'group_limited_greedy'",
        ),
        (
            "v2-lite",
            {"scoring_func": "sigmoid"},
            "scoring_func: 'sigmoid', expected 'softmax' for model_type deepseek_v2",
        ),
        ("v2-lite", {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers: 1, expected 0"),
        ("v2-lite", {"rope_interleave": False}, "rope_interleave: False, expected True"),
        ("v2-lite", {"moe_layer_freq": 0}, "moe_layer_freq: 0"),
        ("v2", {"topk_group": 9}, "topk_group: 9, expected 1 to n_group"),
        ("v3", {"scoring_func": "softmax"}, "scoring_func: 'softmax', expected 'sigmoid' for model_type deepseek_v3"),
        ("v3", {"topk_method": "greedy"}, "topk_method: 'greedy', expected 'noaux_tc'"),
        ("v3", {"num_nextn_predict_layers": -1}, "num_nextn_predict_layers: -1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_folder_format_has_no_room_for_is_refused(name, keys, message) -> None:
    with pytest.raises(UserError, match=message):
        preset(name, **keys)


def test_every_preset_can_be_made() -> None:
    for name in ("mini", "v3", "r1", "v2", "v2-lite"):
        assert TeacherInitConfig(preset=name).preset == name
        assert preset(name).model_type == ("deepseek_v2" if "v2" in name else "deepseek_v3")
