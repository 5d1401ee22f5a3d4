"""A sampler that is not the trainer's policy: how far off the gradient is, and how much of that importance weights
take back. Completions of one token, so that every one of them is counted and nothing is left to chance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cli.loading import Folders
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine
from distill.train.grpo_trainer import passes
from tests.test_rl import LengthJudge, curve_of, largest_gap, model, problems, train
from tests.test_variants import trainer_of

__all__ = ["model", "problems"]

PROMPT = [5, 9, 12, 7]


@pytest.fixture
def lossy(model: Path, tmp_path: Path) -> Path:
    """The toy with a few large weights in every matrix, beside which eight bits round the others away."""
    loaded = Folders().load(model)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if weight.dim() == 2 and "layers" in name:
                weight.mul_(8.0)
                weight[:, ::16] *= 50.0
        loaded.model.lm_head.weight.mul_(10.0)
    folder = tmp_path / "lossy"
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def sampled_from(loaded: Any, weights: Any) -> Tensor:
    """Log-probabilities of every token after the prompt, as the engine samples it: (V,)."""
    decoder = Folders().decoder(loaded.model, weights)
    engine = Engine(decoder, Chat(loaded.tokenizer), slots=1, capacity=16)
    params = Params(max_tokens=1, top_logprobs=decoder.vocab_size)
    ((said,),) = engine.rollout([PROMPT], params, 1, [0])
    assert said.top is not None
    logprobs_V = torch.zeros(decoder.vocab_size)
    for token, logprob in said.top[0]:
        logprobs_V[token] = logprob
    return logprobs_V


def expected_gradient(folder: Path, out: Path, sampler_V: Tensor, rewards_V: Tensor, cap: float) -> Tensor:
    """Of our trainer, were every token sampled as often as the sampler's probability says."""
    net: LlamaForCausalLM = Folders().load(folder).model
    trainer = trainer_of(net, [], out, "dapo", pass_tokens=10_000, importance_cap=cap)
    V = len(rewards_V)
    often_V = sampler_V.exp() * V
    scored = {
        "prompt_ids": torch.tensor([PROMPT] * V),
        "prompt_mask": torch.ones(V, len(PROMPT), dtype=torch.int64),
        "completion_ids": torch.arange(V)[:, None],
        "completion_mask": torch.ones(V, 1, dtype=torch.int64),
        "advantages": rewards_V * often_V,
        "sampling_per_token_logps": sampler_V[:, None],
        "num_items_in_batch": torch.tensor(V),
    }
    parts = list(passes(scored, 10_000))
    if cap:
        trainer._remember(parts)
    trainer._update(net, parts, V)
    return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])


def exact_gradient(folder: Path, rewards_V: Tensor) -> Tensor:
    net = Folders().load(folder).model
    logprobs_V = net(input_ids=torch.tensor([PROMPT])).logits[0, -1].log_softmax(-1)
    (-(logprobs_V.exp().detach() * rewards_V * logprobs_V).sum()).backward()
    return torch.cat([weight.grad.flatten() for weight in net.parameters() if weight.grad is not None])


def errors(folder: Path, out: Path, sampler_V: Tensor) -> dict[float, float]:
    """Distance to the exact gradient as a share of its length, by cap; 0 corrects nothing."""
    torch.manual_seed(3)
    rewards_V = torch.randn(len(sampler_V))
    exact = exact_gradient(folder, rewards_V)
    return {
        cap: float((expected_gradient(folder, out, sampler_V, rewards_V, cap) - exact).norm() / exact.norm())
        for cap in (0.0, 2.0, 100.0)
    }


def test_rounded_weights_bend_the_gradient_and_importance_weights_straighten_it(lossy: Path, tmp_path: Path) -> None:
    found = errors(lossy, tmp_path, sampled_from(Folders().load(lossy), "int8"))
    assert found[0.0] > 0.05
    assert found[2.0] < found[0.0] / 100


def test_an_exact_engine_needs_no_weights(lossy: Path, tmp_path: Path) -> None:
    assert errors(lossy, tmp_path, sampled_from(Folders().load(lossy), "exact"))[0.0] < 1e-3


def test_truncation_bounds_what_a_sampler_far_away_can_do(lossy: Path, tmp_path: Path) -> None:
    loaded = Folders().load(lossy)
    torch.manual_seed(4)
    exact_V = sampled_from(loaded, "exact")
    far_V = (exact_V + 1.5 * torch.randn(len(exact_V))).log_softmax(-1)
    found = errors(lossy, tmp_path, far_V)
    assert found[100.0] < found[2.0] < found[0.0]


def test_int8_rollouts_are_corrected_and_the_curve_tells(lossy: Path, problems: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"steps": 3, "warmup_steps": 0, "weights": "int8"}
    for name, cap in (("corrected", None), ("raw", 0.0)):
        train(lossy, problems, tmp_path / name, LengthJudge(), importance_cap=cap, **fields)
    corrected, raw = curve_of(tmp_path / "corrected"), curve_of(tmp_path / "raw")
    assert corrected[0].rewards == raw[0].rewards
    assert all(point.importance is None for point in raw)
    for point in corrected:
        assert point.kl_sampler_trainer is not None
        assert abs(point.kl_sampler_trainer) > 1e-4
        assert point.importance is not None
        assert 0.5 < point.importance < 1.5
        assert point.truncated_weights is not None
    assert largest_gap(tmp_path / "corrected", tmp_path / "raw") > 1e-6
