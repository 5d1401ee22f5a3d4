"""TRL's GRPOTrainer on rollouts of our engine (GRPO: DeepSeekMath, arXiv 2402.03300, section 4.1).

Rewards, group advantages and the loss are TRL's, as `distill.train.variants` names them; a part of a step counts by
its share, so that the loss does not depend on how the step is cut into passes. Completions without advantage are left
out (unless a KL term holds them) and the rest is sorted by length and cut by a token budget. Where sampler and trainer
are not one policy, a token counts by its truncated importance weight min(p_trainer / p_sampler, cap): Yao et al. 2025,
"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", the correction TRL makes under `use_vllm`
alone. Several updates on one step's rollouts happen within the step, so that states fall between generations.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from distill.progress import Task
from distill.records import Problem
from distill.train.auxiliary import Extras
from distill.train.collapse import Guard
from distill.train.curve import Curve, RlPoint
from distill.train.lean import AfterStep, Feed, Lean, check_finite
from distill.train.resume import States
from distill.train.rollouts import Rolled, Rollouts, accuracy, by_level, entropy, mean_rewards
from distill.train.variants import Variant

# B completions of a step, P padded prompt width, C padded completion width

NO_ADVANTAGE = {True: 1e-2, False: 1e-6}
"""Equal rewards differ from their mean by rounding alone; real advantages, divided by their standard deviation, are
about 1, and without that as wide as rewards are."""


class CollapsedError(Exception):
    """The guard stopped the run; says what it saw."""


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
        guard: Guard,
        variant: Variant,
        pass_tokens: int,
        updates: int = 1,
        importance_cap: float = 0.0,
        beta: float = 0.0,
        reference: Any = None,
        keep_good: Callable[[int], None] = lambda step: None,
        **kwargs: Any,
    ) -> None:
        """`pass_tokens`: padded tokens of one pass. `updates`: on one step's rollouts. `importance_cap`: 0 corrects
        nothing. `reference`: what a KL term of weight `beta` holds to. `keep_good`: told of steps worth going back to.
        """
        self.rollouts, self.states, self.feed, self.curve, self.task = rollouts, states, feed, curve, task
        self.extras, self.guard, self.variant, self.keep_good = extras, guard, variant, keep_good
        self.updates, self.importance_cap = updates, importance_cap
        self.problems = {problem.id: problem for problem in problems}
        self.pass_tokens = pass_tokens
        self.rolled: list[Rolled] = []
        self.zero_signal_groups = 0
        self.gap: float | None = None
        self.importance: tuple[float, float] | None = None
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # what `rollout_func` is marked as
        rewards = [_reward(name) for name in rollouts.rewards.weights]
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
            **{name: [row.rewards[name] for row in self.rolled] for name in self.rollouts.rewards.weights},
        }

    def training_step(self, model: Any, inputs: list[dict[str, Any]], num_items_in_batch: Any = None) -> Tensor:
        """Roll out, score, then one backward pass after another."""
        model.train()
        with warnings.catch_warnings():  # TRL 1.16 asks transformers 5.2x for a property by its old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            scored = self._generate_and_score_completions(inputs)
        n = self.num_generations
        silent = scored["advantages"].abs() < NO_ADVANTAGE[self.scale_rewards != "none"]
        scored["advantages"] = scored["advantages"].masked_fill(silent, 0.0)
        self.zero_signal_groups = int(silent.view(-1, n).all(dim=1).sum())
        parts = list(passes(scored, self.pass_tokens, everything=self.beta > 0))
        if self.importance_cap or self.updates > 1:
            self._remember(parts)
        total = self._update(model, parts, len(silent))
        for _ in range(1, self.updates):
            if self.args.max_grad_norm > 0:
                self._clip_grad_norm(model)
            self.optimizer.step()
            model.zero_grad()
            self.extras.end_step()
            self._update(model, parts, len(silent))
        return total

    def _update(self, model: Any, parts: list[dict[str, Tensor]], rows: int) -> Tensor:
        """The gradient of one update, a backward pass a part; `rows` completions were sampled in the step."""
        total = torch.zeros((), device=self.args.device)
        gap, tokens = torch.zeros((), device=self.args.device), 0
        sequences = sum(len(part["advantages"]) for part in parts)
        for part in parts:
            share = len(part["advantages"]) / rows if self.variant.averages_rows else 1.0
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, part) * share + self.extras.loss(sequences)
            self.accelerator.backward(loss)
            total += loss.detach()
            sampled_BC = part["sampling_per_token_logps"]
            gap += ((sampled_BC - part.get("old_per_token_logps", self.logprobs_BC)) * part["completion_mask"]).sum()
            tokens += int(part["completion_mask"].sum())
        self.gap = float(gap) / tokens if tokens and self.temperature == 1.0 else None
        return total

    def _remember(self, parts: list[dict[str, Tensor]]) -> None:
        """What the trainer thinks of the rollouts before the first update, and what each token counts for it."""
        total, cut, tokens = 0.0, 0.0, 0
        for part in parts:
            ids_BT = torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1)
            mask_BT = torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1)
            with torch.no_grad():
                old_BC, _, _ = self._get_per_token_logps_and_entropies(
                    self.model, ids_BT, mask_BT, part["completion_ids"].shape[1]
                )
            part["old_per_token_logps"] = old_BC
            if not self.importance_cap:
                continue
            said_BC = part["completion_mask"]
            ratio_BC = ((old_BC - part["sampling_per_token_logps"]) * said_BC).exp()
            weight_BC = ratio_BC.clamp(max=self.importance_cap)
            # TRL takes advantages a token too. A weight above 0 passes through min and clip: min(r A w, clip(r) A w).
            part["advantages"] = part["advantages"][:, None] * weight_BC
            total += float((weight_BC * said_BC).sum())
            cut += float(((ratio_BC > self.importance_cap) * said_BC).sum())
            tokens += int(said_BC.sum())
        self.importance = (total / tokens, cut / tokens) if tokens else None

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
        point = RlPoint(
            step=step,
            tokens=sampled + (last.tokens if last else 0),
            reward=sum(row.reward for row in rows) / len(rows),
            rewards=mean_rewards(rows),
            accuracy=accuracy(rows),
            length=sampled / len(rows),
            entropy=entropy(rows),
            by_level=by_level(rows, self.num_generations),
            zero_signal_groups=self.zero_signal_groups,
            kl_sampler_trainer=self.gap,
            importance=self.importance[0] if self.importance else None,
            truncated_weights=self.importance[1] if self.importance else None,
            lr=logs["learning_rate"],
            seconds=self.curve.seconds(),
            balance_loss=beside["balance_loss"],
            experts=beside["experts"],
        )
        self.curve.add(point)
        self.task.advance(tokens=sampled, facts=f"accuracy {point.accuracy:.1%}  reward {point.reward:.2f}")
        complaint = self.guard.see(point)
        if complaint is not None:
            self.curve.sync()
            raise CollapsedError(f"step {step}: {complaint}")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.guard.well:
            self.keep_good(self.state.global_step)


def passes(scored: dict[str, Tensor], budget: int, *, everything: bool = False) -> Iterator[dict[str, Tensor]]:
    """Completions with an advantage, longest first, in parts of at most `budget` padded tokens, one row at least.

    `everything`: those without an advantage too.
    """
    prompts_B, completions_B = scored["prompt_mask"].sum(1), scored["completion_mask"].sum(1)
    taught = (scored["advantages"] != 0) | everything
    taught_N = taught.nonzero().flatten()
    order = taught_N[(prompts_B + completions_B)[taught_N].argsort(descending=True, stable=True)].tolist()
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
