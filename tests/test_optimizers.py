"""Muon against its definition, matrix by matrix, and against torch's AdamW where it is AdamW."""

import copy
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from distill.train.optimizers import Muon, make_optimizer, orthogonalize, split_parameters
from distill.train.schedule import TrainConfig, rate_at


@pytest.fixture(scope="module")
def mixture() -> DeepseekV3ForCausalLM:
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=8,
        q_lora_rank=None,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    return DeepseekV3ForCausalLM(config)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (3, 48, 20), (2, 3, 8, 24)], ids=str)
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 1e3))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_orthogonalizing_keeps_the_singular_vectors() -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(12, 30), full_matrices=False)
    matrix = u @ torch.diag(torch.linspace(1, 3, 12)) @ v
    inside = u.mT @ orthogonalize(matrix) @ v.mT
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-4


def test_experts_of_a_tensor_step_as_if_each_were_a_matrix_of_its_own() -> None:
    torch.manual_seed(0)
    together = torch.nn.Parameter(torch.randn(3, 10, 6))
    alone = [torch.nn.Parameter(expert.clone()) for expert in together.detach()]
    pair = [_muon([together]), _muon(alone)]
    for _ in range(3):
        together.grad = torch.randn(3, 10, 6)
        for parameter, gradient in zip(alone, together.grad, strict=True):
            parameter.grad = gradient.clone()
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(together.detach(), torch.stack([parameter.detach() for parameter in alone]))


def test_matrices_of_one_shape_do_not_mix() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.Parameter(torch.randn(5, 8)) for _ in range(2))
    alone = torch.nn.Parameter(first.detach().clone())
    first.grad, second.grad = torch.randn(5, 8), torch.randn(5, 8)
    alone.grad = first.grad.clone()
    _muon([first, second]).step()
    _muon([alone]).step()
    torch.testing.assert_close(first.detach(), alone.detach())


def test_a_first_step_is_the_orthogonalized_gradient_scaled_for_tall_matrices() -> None:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(16, 4))
    parameter.grad = torch.randn(16, 4)
    _muon([parameter]).step()
    torch.testing.assert_close(parameter.detach(), -0.1 * 2.0 * orthogonalize(parameter.grad))


def test_weight_decay_shrinks_matrices_that_have_no_other_reason_to_move() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    Muon([{"params": [parameter], "lr": 0.1, "weight_decay": 0.5, "orthogonal": True}]).step()
    torch.testing.assert_close(parameter.detach(), torch.full((4, 4), 0.95))


def test_the_other_groups_take_the_steps_of_torch_adamw() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(7))
    theirs = torch.nn.Parameter(ours.detach().clone())
    pair = [
        Muon([{"params": [ours], "lr": 0.01, "weight_decay": 0.1}]),
        torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8),
    ]
    for _ in range(4):
        ours.grad = torch.randn(7)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-7)


def test_embeddings_head_router_and_vectors_are_left_to_adamw(mixture: DeepseekV3ForCausalLM) -> None:
    _, rest = split_parameters(mixture)
    chosen = {id(parameter) for parameter in rest}
    names = {name for name, parameter in mixture.named_parameters() if id(parameter) in chosen}
    matrices = {name for name, parameter in mixture.named_parameters() if id(parameter) not in chosen}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight"} <= names
    assert all("norm" in name for name in names - {"model.embed_tokens.weight", "lm_head.weight"} if "gate" not in name)
    assert "model.layers.1.mlp.experts.gate_up_proj" in matrices
    assert "model.layers.0.mlp.gate_proj.weight" in matrices


def test_frozen_parameters_belong_to_no_group(mixture: DeepseekV3ForCausalLM) -> None:
    model = copy.deepcopy(mixture).requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    optimizer = make_optimizer(model, TrainConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_each_optimizer_choice_uses_its_own_rates(mixture: DeepseekV3ForCausalLM) -> None:
    muon = make_optimizer(mixture, TrainConfig(learning_rate=1e-3, muon_learning_rate=0.05))
    adamw = make_optimizer(mixture, TrainConfig(optimizer="adamw", learning_rate=1e-3))
    assert [(group["lr"], group["orthogonal"]) for group in muon.param_groups] == [(0.05, True), (1e-3, False)]
    assert [(group["lr"], group["orthogonal"]) for group in adamw.param_groups] == [(1e-3, False), (1e-3, False)]


def test_a_reloaded_state_continues_bit_for_bit(mixture: DeepseekV3ForCausalLM) -> None:
    straight = _steps(copy.deepcopy(mixture), [0, 1, 2, 3])
    model = copy.deepcopy(mixture)
    optimizer = make_optimizer(model, TrainConfig())
    _run(model, optimizer, [0, 1])
    again = make_optimizer(model, TrainConfig())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _run(model, again, [2, 3])
    assert all(torch.equal(straight[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("step", "share"),
    [
        pytest.param(0, 1 / 11, id="first step moves"),
        pytest.param(10, 1.0, id="warm"),
        pytest.param(69, 1.0, id="plateau"),
        pytest.param(85, 15 / 31, id="half way down"),
        pytest.param(99, 1 / 31, id="last step moves"),
    ],
)
def test_the_rate_rises_stays_and_falls(step: int, share: float) -> None:
    assert rate_at(step, 100, warmup_steps=10, decay_share=0.3) == pytest.approx(share)


def test_an_idle_muon_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="muon_learning_rate is used only"):
        TrainConfig(optimizer="adamw", muon_learning_rate=0.1)


def _muon(parameters: list[torch.nn.Parameter]) -> Muon:
    return Muon([{"params": parameters, "lr": 0.1, "orthogonal": True}])


def _steps(model: torch.nn.Module, seeds: list[int]) -> dict[str, torch.Tensor]:
    _run(model, make_optimizer(model, TrainConfig()), seeds)
    return model.state_dict()


def _run(model: Any, optimizer: Muon, seeds: list[int]) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
