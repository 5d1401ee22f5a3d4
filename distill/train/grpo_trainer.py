"""TRL's GRPOTrainer on rollouts of our engine (GRPO: DeepSeekMath, arXiv 2402.03300, section 4.1).

Rewards, group advantages and the loss are TRL's, with DAPO's token-level normalization
(arXiv 2503.14476, section 3.3), which does not depend on how a step is cut into passes. So
completions without advantage are left out and the rest is sorted by length and cut by a
token budget. One update a rollout: sampler and trainer hold the same weights.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from distill.progress import Task
from distill.records import Problem
from distill.train.auxiliary import Extras
from distill.train.curve import Curve, RlPoint
from distill.train.lean import AfterStep, Feed, Lean, check_finite
from distill.train.resume import States
from distill.train.rollouts import Rolled, Rollouts, accuracy, by_group

# B completions of a step, P padded prompt width, C padded completion width

REWARDS = ("accuracy", "format")
NO_ADVANTAGE = 1e-2
"""Equal rewards differ from their mean by rounding alone; real advantages are normalized to about 1."""


class LeanGrpo(Lean, GRPOTrainer):
    """Trains on rollouts of `problems`, writes `curve`, reports to `task`."""

    def __init__(
        self,
        *,
        rollouts: Rollouts,
        problems: Sequence[Problem],
        states: States,
        feed: Feed,
        curve: Curve[RlPoint],
        extras: Extras,
        task: Task,
        pass_tokens: int,
        beta: float = 0.0,
        reference: Any = None,
        **kwargs: Any,
    ) -> None:
        """`pass_tokens`: padded tokens of one pass. `reference`: what a KL term of weight `beta` holds to."""
        self.rollouts, self.states, self.feed, self.curve, self.task = rollouts, states, feed, curve, task
        self.extras = extras
        self.problems = {problem.id: problem for problem in problems}
        self.pass_tokens = pass_tokens
        self.rolled: list[Rolled] = []
        self.zero_signal_groups = 0
        self.gap: float | None = None
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # what `rollout_func` is marked as
        rewards = [_reward(name) for name in REWARDS]
        super().__init__(reward_funcs=rewards, rollout_func=self._roll, callbacks=[AfterStep(extras)], **kwargs)
        self.remove_callback(PrinterCallback)
        if reference is not None:  # TRL would open it by the name in its config, which only our loader can
            self.beta = beta
            self.ref_model = reference.eval().requires_grad_(False)
            add_fused_lm_head(self.ref_model, temperature=self.temperature)

    def _roll(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """TRL's hook. `prompts` are problem ids, each repeated for its samples."""
        n = self.num_generations
        problems = [self.problems[name] for name in prompts[::n]]
        self.rolled = self.rollouts.roll(problems, n, self.state.global_step)
        return {
            "prompt_ids": [row.prompt_ids for row in self.rolled],
            "completion_ids": [row.sample.ids for row in self.rolled],
            "logprobs": [row.sample.logprobs for row in self.rolled],
            "accuracy": [float(row.correct) for row in self.rolled],
            "format": [float(row.well_formed) for row in self.rolled],
        }

    def training_step(self, model: Any, inputs: list[dict[str, Any]], num_items_in_batch: Any = None) -> Tensor:
        """Roll out, score, then one backward pass after another."""
        model.train()
        with warnings.catch_warnings():  # TRL 1.16 asks transformers 5.2x for a property by its old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            scored = self._generate_and_score_completions(inputs)
        n = self.num_generations
        silent = scored["advantages"].abs() < NO_ADVANTAGE
        scored["advantages"] = scored["advantages"].masked_fill(silent, 0.0)
        self.zero_signal_groups = int(silent.view(-1, n).all(dim=1).sum())
        total = torch.zeros((), device=self.args.device)
        gap, tokens = torch.zeros((), device=self.args.device), 0
        parts = list(passes(scored, self.pass_tokens))
        sequences = sum(len(part["advantages"]) for part in parts)
        for part in parts:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, part) + self.extras.loss(sequences)
            self.accelerator.backward(loss)
            total += loss.detach()
            gap += ((part["sampling_per_token_logps"] - self.logprobs_BC) * part["completion_mask"]).sum()
            tokens += int(part["completion_mask"].sum())
        self.gap = float(gap) / tokens if tokens and self.temperature == 1.0 else None
        return total

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Log-probabilities of completion tokens. Entropies, which only TRL's own log would show, are zeros."""
        if self.logits_are_few(input_ids):
            with self.accelerator.autocast():
                outputs = model(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    logits_to_keep=logits_to_keep + 1,
                    use_cache=False,
                )
            logprobs_BCV = (outputs.logits[:, :-1].float() / self.temperature).log_softmax(-1)
            said_BC = input_ids[:, -logits_to_keep:]
            logprobs_BC = logprobs_BCV.gather(-1, said_BC[..., None]).squeeze(-1)
        else:
            found = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep)
            logprobs_BC = found[0]
        if model is self.model:
            self.logprobs_BC = logprobs_BC.detach()
        return logprobs_BC, torch.zeros_like(logprobs_BC), None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._metrics["train"].clear()
        if "loss" not in logs:
            return
        step = self.state.global_step
        check_finite(logs["loss"], "loss", step)
        rows, last, beside = self.rolled, self.curve.last, self.extras.take()
        sampled = sum(len(row.sample.ids) for row in rows)
        weights = dict(zip(REWARDS, self.args.reward_weights, strict=True))
        point = RlPoint(
            step=step,
            tokens=sampled + (last.tokens if last else 0),
            reward=sum(weights["accuracy"] * row.correct + weights["format"] * row.well_formed for row in rows)
            / len(rows),
            accuracy=accuracy(rows),
            by_level=by_group(rows),
            format=sum(row.well_formed for row in rows) / len(rows),
            length=sampled / len(rows),
            zero_signal_groups=self.zero_signal_groups,
            kl_sampler_trainer=self.gap,
            lr=logs["learning_rate"],
            seconds=self.curve.seconds(),
            balance_loss=beside["balance_loss"],
            experts=beside["experts"],
        )
        self.curve.add(point)
        self.task.advance(tokens=sampled, facts=f"accuracy {point.accuracy:.1%}  reward {point.reward:.2f}")


def passes(scored: dict[str, Tensor], budget: int) -> Iterator[dict[str, Tensor]]:
    """Completions with an advantage, longest first, in parts of at most `budget` padded tokens, one row at least."""
    prompts_B, completions_B = scored["prompt_mask"].sum(1), scored["completion_mask"].sum(1)
    with_signal = scored["advantages"].nonzero().flatten()
    order = with_signal[(prompts_B + completions_B)[with_signal].argsort(descending=True, stable=True)].tolist()
    part: list[int] = []
    prompt, completion = 0, 0
    for row in order:
        wider_prompt = max(prompt, int(prompts_B[row]))
        wider_completion = max(completion, int(completions_B[row]))
        if part and (wider_prompt + wider_completion) * (len(part) + 1) > budget:
            yield _part(scored, part, prompt, completion)
            part, wider_prompt, wider_completion = [], int(prompts_B[row]), int(completions_B[row])
        part.append(row)
        prompt, completion = wider_prompt, wider_completion
    if part:
        yield _part(scored, part, prompt, completion)


def _part(scored: dict[str, Tensor], rows: list[int], prompt: int, completion: int) -> dict[str, Tensor]:
    """These rows without the padding that only longer ones needed: prompts are padded left, completions right."""
    part: dict[str, Tensor] = {}
    for name, values in scored.items():
        if values.ndim == 0:
            part[name] = values
        elif values.ndim == 1:
            part[name] = values[rows]
        else:
            part[name] = values[rows, -prompt:] if name.startswith("prompt") else values[rows, :completion]
    return part


def _reward(name: str) -> Any:
    """A reward function that hands on what the rollouts were judged to be worth."""

    def reward(**columns: Any) -> list[float]:
        values: list[float] = columns[name]
        return values

    reward.__name__ = name
    return reward
