"""The losses of rl against formulas written by hand from their papers, in value and gradient, one token at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOConfig

from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.records import Problem
from distill.train.auxiliary import Extras
from distill.train.collapse import Guard, GuardConfig
from distill.train.curve import Curve, RlPoint
from distill.train.grpo_trainer import LeanGrpo
from distill.train.lean import Feed, arguments
from distill.train.resume import States
from distill.train.rewards import Rewards, RewardsConfig
from distill.train.rollouts import Rolled
from distill.train.schedule import TrainConfig
from distill.train.variants import VARIANTS, Loss

GROUPS, SAMPLES, LONGEST = 3, 4, 9
SILENT = 1
"""The group whose samples all get the same reward."""


@dataclass
class Said:
    ids: list[int]
    logprobs: list[float]
    finish: Any = "stop"


@dataclass
class Recorded:
    """Rollouts that were written down; the sampler's log-probabilities are off by whatever was asked for."""

    rolled: list[Rolled]
    rewards: Rewards

    def roll(self, problems: Sequence[Problem], n: int, step: int) -> list[Rolled]:
        return self.rolled


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=70, num_key_value_heads=1, pad_token_id=0, **sizes)).double()


def rolled_out(model: Any, off: float) -> list[Rolled]:
    torch.manual_seed(1)
    rows = []
    for group in range(GROUPS):
        prompt = torch.randint(1, 60, (3 + group,)).tolist()
        for _ in range(SAMPLES):
            ids = torch.randint(1, 60, (int(torch.randint(1, LONGEST + 1, ())),)).tolist()
            logprobs = (logprobs_of(model, prompt, ids) + off * torch.randn(len(ids))).tolist()
            reward = 0.5 if group == SILENT else float(torch.rand(()))
            rows.append(Rolled("all", prompt, Said(ids, logprobs), False, {"accuracy": reward}, reward))
    return rows


def logprobs_of(model: Any, prompt: list[int], ids: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids]


def advantages_of(rows: list[Rolled], std: bool) -> list[float]:
    found = []
    for first in range(0, len(rows), SAMPLES):
        rewards = [row.reward for row in rows[first : first + SAMPLES]]
        mean = sum(rewards) / SAMPLES
        spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (SAMPLES - 1)) + 1e-4 if std else 1.0
        found += [(reward - mean) / spread for reward in rewards]
    return found


def by_hand(
    model: Any,
    before: Any,
    reference: Any,
    rows: list[Rolled],
    loss: Loss,
    *,
    std: bool,
    low: float,
    high: float,
    cap: float,
    beta: float,
) -> Tensor:
    """The papers' objectives, negated. `before`: the policy at the time of the rollouts."""
    averaged, tokens = torch.zeros((), dtype=torch.float64), sum(len(row.sample.ids) for row in rows)
    for row, advantage in zip(rows, advantages_of(rows, std), strict=True):
        now = logprobs_of(model, row.prompt_ids, row.sample.ids)
        with torch.no_grad():
            old = logprobs_of(before, row.prompt_ids, row.sample.ids)
            held = logprobs_of(reference, row.prompt_ids, row.sample.ids)
        ratios = (now - old).exp()
        if loss == "gspo":
            ratios = (now - old).mean().exp().expand(len(now))
        terms = []
        for place in range(len(now)):
            ratio = ratios[place]
            term = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            if cap:
                term = term * min(math.exp(float(old[place]) - row.sample.logprobs[place]), cap)
            gap = held[place] - now[place]
            terms.append(term - beta * ratio * (gap.exp() - gap - 1))
        total = torch.stack(terms).sum()
        if loss in ("grpo", "gspo"):
            averaged = averaged + total / len(terms) / len(rows)
        elif loss == "dapo":
            averaged = averaged + total / tokens
        else:
            averaged = averaged + total / LONGEST / len(rows)
    return -averaged


def copy(model: Any) -> Any:
    other = LlamaForCausalLM(model.config).double()
    other.load_state_dict(model.state_dict())
    return other


def trainer_of(model: Any, rows: list[Rolled], out: Path, loss: Loss, **how: Any) -> LeanGrpo:
    tokenizer, variant = mini_tokenizer(), VARIANTS[loss]
    std, low, high = how.pop("std", variant.std), how.pop("low", variant.clip_low), how.pop("high", variant.clip_high)
    config = TrainConfig(optimizer="adamw", save_every=0, clip_norm=0)
    settings = GRPOConfig(
        **arguments(out, config, 1, 1, 0),
        per_device_train_batch_size=GROUPS * SAMPLES,
        steps_per_generation=1,
        num_generations=SAMPLES,
        max_completion_length=LONGEST,
        reward_weights=[1.0],
        loss_type=variant.loss_type,
        importance_sampling_level=variant.level,
        scale_rewards="group" if std else "none",
        epsilon=low,
        epsilon_high=high,
        beta=0.0,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=how.pop("rate", 0.0))
    problems = [
        Problem(id=f"p{n}", kind="answer", prompt="x", answer="1", source="s", split="train") for n in range(GROUPS)
    ]
    with Progress("quiet").task("rl", 1, "steps") as task:
        trainer = LeanGrpo(
            rollouts=Recorded(rows, Rewards(RewardsConfig(), LONGEST)),
            problems=problems,
            states=States(out),
            feed=Feed([], 0, list),
            curve=Curve(out, RlPoint, 0),
            extras=Extras(model, config, 0.0, out),
            task=task,
            guard=Guard(GuardConfig(), {}, []),
            variant=variant,
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": [problem.id for problem in problems]}),
            processing_class=tokenizer,
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
            **how,
        )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def step(trainer: LeanGrpo, model: Any) -> list[float]:
    """One training step; the loss of each update in it. The gradient of the last is left behind."""
    losses: list[float] = []
    update = trainer._update

    def recorded(*args: Any) -> Tensor:
        losses.append(float(update(*args)))
        return torch.tensor(losses[-1])

    trainer._update = recorded  # type: ignore[method-assign]
    trainer.training_step(model, [{"prompt": f"p{n}"} for n in range(GROUPS) for _ in range(SAMPLES)])
    return losses


CASES = [
    pytest.param({}, id="as the paper says"),
    pytest.param({"pass_tokens": 30}, id="in many passes"),
    pytest.param({"importance_cap": 1.5}, id="truncated importance weights"),
    pytest.param({"beta": 0.3}, id="KL to a reference"),
    pytest.param({"std": False}, id="no standard deviation"),
    pytest.param({"updates": 2, "rate": 0.3}, id="a second update"),
    pytest.param({"updates": 2, "rate": 0.3, "low": 0.02, "high": 0.9}, id="clip-higher"),
    pytest.param(
        {"updates": 2, "rate": 0.3, "importance_cap": 1.2, "beta": 0.2, "pass_tokens": 40}, id="all of it together"
    ),
]


@pytest.mark.parametrize("loss", list(VARIANTS))
@pytest.mark.parametrize("how", CASES)
def test_value_and_gradient_are_those_of_the_paper(how: dict[str, Any], loss: Loss, model: Any, tmp_path: Path) -> None:
    before, reference = copy(model), copy(model)
    with torch.no_grad():
        for weight in reference.parameters():
            weight += 0.1 * torch.randn_like(weight)
    rows, variant = rolled_out(model, off=0.5), VARIANTS[loss]
    if loss == "gspo" and "rate" in how:
        how = how | {"rate": 0.0003}  # further away every completion is clipped, and no gradient is left
    rules = {
        "std": how.get("std", variant.std),
        "low": how.get("low", variant.clip_low),
        "high": how.get("high", variant.clip_high),
        "cap": how.get("importance_cap", 0.0),
        "beta": how.get("beta", 0.0),
    }
    held = reference if rules["beta"] else None
    trainer = trainer_of(model, rows, tmp_path, loss, reference=held, **{"pass_tokens": 10_000, **how})
    losses = step(trainer, model)
    del model.forward
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    if how.get("updates", 1) > 1:
        assert max(float((new - old).abs().max()) for new, old in zip(*weights(model, before), strict=True)) > 1e-6
    model.zero_grad()
    expected = by_hand(model, before, reference, rows, loss, **rules)
    expected.backward()
    assert losses[-1] == pytest.approx(float(expected.detach()), abs=2e-6)
    largest = max(float(weight.grad.abs().max()) for weight in model.parameters())
    assert largest > 1e-3
    for name, weight in model.named_parameters():
        assert float((gradients[name] - weight.grad).abs().max()) < 1e-5 * max(1.0, largest), name


def weights(*models: Any) -> list[list[Tensor]]:
    return [[weight.detach() for weight in one.parameters()] for one in models]


@pytest.mark.parametrize("loss", list(VARIANTS))
def test_clipping_takes_part_in_the_cases_above(loss: Loss, model: Any, tmp_path: Path) -> None:
    before, rows = copy(model), rolled_out(model, off=0.0)
    rate = 0.3 if VARIANTS[loss].std else 3.0
    losses = step(trainer_of(model, rows, tmp_path, loss, pass_tokens=10_000, updates=2, rate=rate), model)
    del model.forward
    free = {"std": VARIANTS[loss].std, "cap": 0.0, "beta": 0.0}
    clipped = by_hand(
        model, before, before, rows, loss, low=VARIANTS[loss].clip_low, high=VARIANTS[loss].clip_high, **free
    )
    unclipped = by_hand(model, before, before, rows, loss, low=0.999, high=1e9, **free)
    assert losses[-1] == pytest.approx(float(clipped.detach()), abs=2e-6)
    assert abs(float(clipped.detach()) - float(unclipped.detach())) > 1e-4
