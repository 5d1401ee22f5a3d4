"""Load of experts: the loss is the report's sum, loads are counted once, the bias moves against them."""

import pytest
import torch

from teacher.balance import LoadMeter, sequence_balance
from teacher.config import preset
from teacher.model import DeepseekForCausalLM
from teacher.moe import Router
from tests.teacher_pairs import SMALL, difference, ids_for, pair, shake

SHAPE = {**SMALL, "num_hidden_layers": 3, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2}


def made(**keys) -> DeepseekForCausalLM:
    model = DeepseekForCausalLM(preset("mini", **{**SHAPE, **keys})).train()
    shake(model)
    return model


def defined(scores: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Eqs. 17-20 of the DeepSeek-V3 report for one sequence, without alpha; `counted` are expert ids (T, K)."""
    length, experts = scores.shape
    total = torch.zeros(())
    for expert in range(experts):
        frequency = experts / (counted.shape[1] * length) * (counted == expert).sum()
        total = total + frequency * (scores[:, expert] / scores.sum(1)).mean()
    return total


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", ["mini", "v2-lite"])
def test_the_balance_loss_and_its_gradient_are_the_definition(name, layout) -> None:
    keys = {**SHAPE, "scoring_func": "softmax", "topk_method": "group_limited_greedy"} if name == "v2-lite" else SHAPE
    ours, _ = pair(name, **{**keys, "n_routed_experts": 8, "bos_token_id": None, "eos_token_id": None})
    ours.train().auxiliary.begin(balance=True, further=False)
    lengths = [6, 1, 9]
    alone = [ids_for(ours, 1, length, seed=length) for length in lengths]
    if layout == "packed":
        inputs = {"position_ids": torch.cat([torch.arange(length) for length in lengths])[None]}
        ours(torch.cat(alone, 1), **inputs)
    else:
        ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
        for row, length in enumerate(lengths):
            ids[row, 9 - length :], mask[row, 9 - length :] = alone[row][0], 1
        ours(ids, attention_mask=mask)
    loss = ours.auxiliary.balance_sum()
    loss.backward()
    found = {key: parameter.grad.clone() for key, parameter in ours.named_parameters() if parameter.grad is not None}

    ours.zero_grad()
    seen: list[tuple[Router, torch.Tensor, torch.Tensor]] = []
    for layer in ours.model.layers[1:]:
        layer.mlp.gate.register_forward_hook(lambda gate, given, out: seen.append((gate, given[0], out[1])))
    for ids in alone:
        ours(ids)
    expected = torch.zeros(())
    for gate, x, chosen in seen:
        logits = x @ gate.weight.T
        scores = logits.softmax(-1) if name == "v2-lite" else logits.sigmoid()
        # V3 counts the best by score; V2 those that were chosen, within the best groups
        expected = expected + defined(scores, chosen if name == "v2-lite" else scores.topk(2).indices)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    expected.backward()
    assert found["model.layers.2.mlp.gate.weight"].abs().max() > 0
    for key, parameter in ours.named_parameters():
        if key in found:
            assert difference(found[key], parameter.grad) <= 1e-4, key


def test_even_sequences_lose_one_and_collapsed_ones_more() -> None:
    even = torch.eye(4) + 1e-9
    sequence, chosen = torch.zeros(4, dtype=torch.long), torch.arange(4)[:, None]
    assert sequence_balance(even, chosen, sequence, 1) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0, 0, 0]] * 4)
    assert sequence_balance(collapsed, chosen * 0, sequence, 1) == pytest.approx(4.0)


def loads(model) -> list[list[int]]:
    return [count.tolist() for count in model.auxiliary.take_load().values()]


def test_loads_are_those_of_the_real_tokens_of_training_passes() -> None:
    model = made()
    ids, mask = ids_for(model, 2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :3] = 0
    model.auxiliary.begin(balance=False, further=False)
    model(ids, attention_mask=mask)
    counted = loads(model)
    assert [sum(layer) for layer in counted] == [11 * 2, 11 * 2]
    with torch.no_grad():
        model(ids)
    model.eval()(ids)
    assert loads(model) == [[0] * 8, [0] * 8]


def test_activation_checkpointing_counts_nothing_twice_and_keeps_the_gradient() -> None:
    model = made()
    model.auxiliary.begin(balance=True, further=False)
    ids, found = ids_for(model), []
    for on in (False, True):
        model.zero_grad()
        if on:
            model.activation_checkpointing_enable()
        model(ids)
        model.auxiliary.balance_sum().backward()
        found.append((loads(model), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[0][0] == found[1][0]
    assert len(found[0][1]) == len(found[1][1])
    for plain, checkpointed in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(plain, checkpointed)


def routed(router: Router, x: torch.Tensor) -> torch.Tensor:
    return router(x)[1].sort().values


def test_the_bias_moves_by_the_rate_against_the_load_and_its_mean_stays() -> None:
    router = Router(preset("mini", **SHAPE))
    torch.nn.init.normal_(router.weight)
    router.e_score_correction_bias.normal_()
    before = router.e_score_correction_bias.clone()
    meter = LoadMeter({5: router}, losses=False)
    meter.step[5].copy_(torch.tensor([8, 0, 0, 0, 0, 1, 1, 6]))  # mean 2: two above, six below
    meter.update_bias(0.1)
    moved = router.e_score_correction_bias - before
    sign = torch.tensor([-1.0, 1, 1, 1, 1, 1, 1, -1])
    torch.testing.assert_close(moved, 0.1 * (sign - sign.mean()))
    assert moved.mean().abs() < 1e-7
    x = torch.randn(300, 32)
    centered = routed(router, x)
    router.e_score_correction_bias.copy_(before + 0.1 * sign)  # as the report moves it: the same choices
    assert torch.equal(routed(router, x), centered)


def test_a_step_without_tokens_moves_no_bias_and_steps_do_not_add_up() -> None:
    router = Router(preset("mini", **SHAPE))
    meter = LoadMeter({1: router}, losses=False)
    meter.update_bias(0.1)
    assert (router.e_score_correction_bias == 0).all()
    meter.step[1][3] = 9
    meter.end_step()
    meter.update_bias(0.1)
    assert (router.e_score_correction_bias == 0).all()
