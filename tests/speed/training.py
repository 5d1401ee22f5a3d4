"""Training through TRL as `sft` and `rl` do it, beside hand-written loops and TRL as it comes; one thread.

`python -m tests.speed.training` prints CSV. All sides train the same model from the same
weights on the same batches with the same optimizer, and must end within rounding of each
other, else nothing is timed. Process time of the steps alone, best of `REPEATS`, the sides
taking turns. The rl model is random: all 256 completions run to the limit, every prompt has
signal, which is the dearest step there is.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import GRPOConfig, SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from distill.jsonl import read_jsonl
from distill.problems.families import family
from distill.problems.vocabulary import mini_tokenizer
from distill.progress import Progress
from distill.prompts import Chat, join_thought
from distill.records import Message, Params, Problem, Status, Trace, Verdict
from distill.sampling.engine import Engine
from distill.selection import asking
from distill.train.auxiliary import Extras
from distill.train.batches import Curriculum, Plan, plan_steps
from distill.train.collapse import Guard, GuardConfig
from distill.train.curve import CURVE, Curve, RlPoint, SftPoint
from distill.train.grpo_trainer import LeanGrpo
from distill.train.lean import Feed, Lean, arguments, optimizers
from distill.train.resume import States
from distill.train.rewards import Rewards, RewardsConfig
from distill.train.rollouts import Rolled, Rollouts
from distill.train.rows import IGNORED
from distill.train.schedule import TrainConfig
from distill.train.sft_trainer import LeanSft
from distill.train.variants import VARIANTS
from students.specs import SPECS, model_config
from teacher.config import TeacherConfig
from teacher.decoder import LatentDecoder
from teacher.model import DeepseekForCausalLM

STEPS, RL_STEPS, REPEATS = 20, 3, 3
EVERY = 5
"""Steps between logged losses, which have to agree to 1e-4."""
Timed = tuple[float, list[float]]
"""Process seconds, and the logged losses."""
PROMPTS, SAMPLES, NEW, PASS_TOKENS = 32, 8, 40, 8192
CONFIG = TrainConfig(warmup_steps=2)
RL_CONFIG = TrainConfig(optimizer="adamw", learning_rate=3e-4, warmup_steps=2)


class Coin:
    """Judges by the letters of a completion: about half right, and free."""

    def prepare(self, problems: Iterable[Problem]) -> None:
        """Nothing to start."""

    def judge_many(self, pairs: Iterable[tuple[Problem, Trace]]) -> Iterator[Verdict]:
        for _, trace in pairs:
            status: Status = "correct" if sum(map(ord, trace.text)) % 2 else "wrong"
            yield Verdict(trace_id=trace.id, judge_version="coin", status=status)


def main() -> None:
    """A row a model for sft, one for rl."""
    torch.set_num_threads(1)
    tokenizer = mini_tokenizer()
    chat = Chat(tokenizer)
    print("what,unit,ours,hand_loop,trl_as_it_comes,ours_over_hand_loop")
    batches, tokens = sft_batches(chat)
    models: dict[str, tuple[Callable[[], Any], int]] = {
        "teacher width 64": (lambda: teacher(chat), STEPS),
        "student mini-95k": (lambda: student(chat), STEPS),
        "student width 256": (lambda: wide_student(chat, 256), STEPS // 2),
        "student width 576": (lambda: wide_student(chat, 576), STEPS // 4),
    }
    for name, (make, steps) in models.items():
        own = batches[:steps]
        sides: dict[str, Callable[[Any, Path], Timed]] = {
            "ours": lambda model, out, own=own: lean_sft(model, tokenizer, own, out),
            "hand": lambda model, out, own=own: hand_sft(model, own),
            "stock": lambda model, out, own=own: stock_sft(model, tokenizer, own, out),
        }
        best = compare(make, sides)
        rates = [tokens[steps - 1] / best[side] for side in sides]
        print(f"sft {name},tokens/s,{rates[0]:.0f},{rates[1]:.0f},{rates[2]:.0f},{rates[0] / rates[1]:.2f}", flush=True)
    problems = stories(PROMPTS * RL_STEPS)
    best = compare(
        lambda: teacher(chat),
        {
            "ours": lambda model, out: lean_rl(model, chat, problems, out),
            "hand": lambda model, out: hand_rl(model, chat, problems),
        },
    )
    ours, hand = best["ours"] / RL_STEPS, best["hand"] / RL_STEPS
    print(f"rl teacher width 64 (256 x {NEW} tokens),s/step,{ours:.3f},{hand:.3f},,{ours / hand:.2f}")


def compare(make: Callable[[], Any], sides: dict[str, Callable[[Any, Path], Timed]]) -> dict[str, float]:
    """Best process seconds of each side, once all have shown that they do the same."""
    ends, losses = {}, {}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(REPEATS):
        for side, train in sides.items():
            model = make()
            with tempfile.TemporaryDirectory() as folder:
                seconds, losses[side] = train(model, Path(folder))
            best[side] = min(best[side], seconds)
            ends[side] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    first = next(iter(ends.values()))
    assert all((end - first).abs().mean() < 1e-4 for end in ends.values()), "the sides trained different models"
    said = [losses[side] for side in sides if losses[side]]
    for mine, other in pairwise(said):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), rtol=1e-4, atol=0)
    return best


def lean_sft(model: Any, tokenizer: Any, batches: list[Any], out: Path) -> Timed:
    """As the stage does it."""
    steps = len(batches)
    seconds = _timed(
        LeanSft(
            states=States(out),
            feed=Feed(batches, 0, lambda batch: dict(batch)),
            curve=Curve(out, SftPoint, 0),
            plan=Plan([[[0]]] * steps, [0] * steps),
            extras=Extras(model, CONFIG, 0.0, out),
            task=_task(),
            model=model,
            args=SFTConfig(**arguments(out, _unsaved(CONFIG), steps, EVERY, 0), **_prepared()),
            train_dataset=_one_row(),
            processing_class=tokenizer,
            optimizers=optimizers(model, CONFIG, steps),
        )
    )
    return seconds, [row.loss for row in read_jsonl(out / CURVE, SftPoint)]


def stock_sft(model: Any, tokenizer: Any, batches: list[Any], out: Path) -> Timed:
    """TRL's trainer with nothing changed but where its batches come from."""
    steps = len(batches)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments(out, _unsaved(CONFIG), steps, EVERY, 0), **_prepared()),
        train_dataset=_one_row(),
        processing_class=tokenizer,
        optimizers=optimizers(model, CONFIG, steps),
    )
    trainer.get_train_dataloader = lambda: Feed(batches, 0, lambda batch: dict(batch))
    return _timed(trainer), [row["loss"] for row in trainer.state.log_history if "loss" in row]


def hand_sft(model: Any, batches: list[Any]) -> Timed:
    """What anyone would write."""
    optimizer, schedule = optimizers(model, CONFIG, len(batches))
    model.train()
    losses = []
    begun = time.process_time()
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        targets = batch["labels"][:, 1:].flatten()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED)
        loss.backward()
        losses.append(float(loss.detach()))
        _update(model, optimizer, schedule)
    seconds = time.process_time() - begun
    return seconds, [sum(losses[first : first + EVERY]) / EVERY for first in range(0, len(losses), EVERY)]


def lean_rl(model: Any, chat: Chat, problems: list[Problem], out: Path) -> Timed:
    """As the stage does it."""
    rows = [problems[step * PROMPTS : (step + 1) * PROMPTS] for step in range(RL_STEPS)]
    settings = GRPOConfig(
        **arguments(out, _unsaved(RL_CONFIG), RL_STEPS, 1, 0),
        per_device_train_batch_size=PROMPTS * SAMPLES,
        steps_per_generation=1,
        num_generations=SAMPLES,
        max_completion_length=NEW,
        reward_weights=[1.0],
        loss_type="dapo",
        beta=0.0,
    )
    seconds = _timed(
        LeanGrpo(
            rollouts=rollouts(model, chat),
            problems=problems,
            states=States(out),
            feed=Feed(rows, 0, lambda asked: [{"prompt": one.id} for one in asked for _ in range(SAMPLES)]),
            curve=Curve(out, RlPoint, 0),
            extras=Extras(model, RL_CONFIG, 0.0, out),
            task=_task(),
            guard=Guard(GuardConfig(window=RL_STEPS), {}, []),
            variant=VARIANTS["dapo"],
            pass_tokens=PASS_TOKENS,
            model=model,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": [one.id for one in problems]}),
            processing_class=chat.tokenizer,
            optimizers=optimizers(model, RL_CONFIG, RL_STEPS),
        )
    )
    return seconds, []


def hand_rl(model: Any, chat: Chat, problems: list[Problem]) -> Timed:
    """GRPO in one screen, on the same rollouts."""
    optimizer, schedule = optimizers(model, RL_CONFIG, RL_STEPS)
    engine = rollouts(model, chat)
    model.train()
    begun = time.process_time()
    for step in range(RL_STEPS):
        rolled = engine.roll(problems[step * PROMPTS : (step + 1) * PROMPTS], SAMPLES, step)
        rewards = torch.tensor([float(row.correct) for row in rolled]).view(-1, SAMPLES)
        spread = rewards.std(1, keepdim=True) + 1e-4
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / spread).flatten().tolist()
        said = sum(len(row.sample.ids) for row in rolled)
        taught = [(row, gain) for row, gain in zip(rolled, advantages, strict=True) if gain]
        taught.sort(key=lambda pair: len(pair[0].prompt_ids) + len(pair[0].sample.ids))
        per_pass = PASS_TOKENS // max(len(row.prompt_ids) + len(row.sample.ids) for row, _ in taught)
        for start in range(0, len(taught), per_pass):
            _hand_pass(model, taught[start : start + per_pass], said)
        _update(model, optimizer, schedule)
    return time.process_time() - begun, []


def _hand_pass(model: Any, taught: list[tuple[Rolled, float]], said: int) -> None:
    width = max(len(row.prompt_ids) + len(row.sample.ids) for row, _ in taught)
    ids, weights = torch.zeros(len(taught), width, dtype=torch.int64), torch.zeros(len(taught), width)
    mask = torch.zeros(len(taught), width, dtype=torch.int64)
    for place, (row, gain) in enumerate(taught):
        first, end = len(row.prompt_ids), len(row.prompt_ids) + len(row.sample.ids)
        ids[place, :end] = torch.tensor([*row.prompt_ids, *row.sample.ids])
        mask[place, :end] = 1
        weights[place, first:end] = gain
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    ((logprobs - logprobs.detach()).exp() * -weights[:, 1:] / said).sum().backward()


def _update(model: Any, optimizer: Any, schedule: Any) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
    optimizer.step()
    schedule.step()
    model.zero_grad()


def _timed(trainer: Any) -> float:
    """Process seconds from the first batch to the end of training."""
    feed, clock = trainer.get_train_dataloader(), [0.0]

    class Started(Feed):
        def __iter__(self) -> Iterator[Any]:
            clock[0] = time.process_time()
            return super().__iter__()

    started = Started(feed.batches, feed.first, feed.make)
    if isinstance(trainer, Lean):
        trainer.feed = started
    else:
        trainer.get_train_dataloader = lambda: started
    trainer.train()
    return time.process_time() - clock[0]


def rollouts(model: Any, chat: Chat) -> Rollouts:
    """As rl makes them."""
    engine = Engine(LatentDecoder(model), chat, slots=PROMPTS * SAMPLES, capacity=256)
    rewards = Rewards(RewardsConfig(), NEW)
    return Rollouts(engine, chat, Coin(), rewards, asking("none"), Params(max_tokens=NEW), "policy", 0)


def sft_batches(chat: Chat) -> tuple[list[Any], list[int]]:
    """Batches of worked stories of levels 1 to 4, 2,048 tokens each, and the tokens up to each."""
    made = family("stories")
    token_ids, labels = [], []
    for problem in stories(2000):
        chain = made.worked(problem)
        question = Message(role="user", content=problem.prompt)
        answer = Message(role="assistant", content=join_thought(chain.reasoning, chain.answer))
        ids, mask = chat.training_ids((question, answer))
        token_ids.append(ids)
        labels.append([token if loss else IGNORED for token, loss in zip(ids, mask, strict=True)])
    lengths = [len(ids) for ids in token_ids]
    plan = plan_steps(lengths, Curriculum(), tokens_per_step=2048, steps=STEPS, tokens=None, parts=1, seed=0)
    collate = DataCollatorForLanguageModeling(chat.tokenizer.pad_token_id)
    rows = [[{"input_ids": token_ids[row], "labels": labels[row]} for row in batch] for batch in plan.batches]
    return [collate(batch) for batch in rows], plan.tokens


def stories(count: int) -> list[Problem]:
    """Different training problems of levels 1 to 4."""
    made, rng = family("stories"), random.Random(0)
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = made.generate(rng, 1 + len(found) % 4)
        if problem.split == "train":
            found[problem.id] = problem
    return list(found.values())


def teacher(chat: Chat) -> DeepseekForCausalLM:
    """The miniature's teacher: width 64, 4 layers, 8 experts of which 2 are chosen."""
    torch.manual_seed(0)
    config = TeacherConfig(
        vocab_size=len(chat.tokenizer),
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=64,
        q_lora_rank=None,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=32,
        max_position_embeddings=512,
        eos_token_id=chat.end_id,
        pad_token_id=0,
    )
    return DeepseekForCausalLM(config)


def student(chat: Chat) -> Any:
    """The smallest shipped student."""
    torch.manual_seed(0)
    config = model_config(SPECS["mini-95k"], len(chat.tokenizer), end_id=chat.end_id, pad_id=0)
    return AutoModelForCausalLM.from_config(config)


def wide_student(chat: Chat, width: int) -> Any:
    """Four Llama layers of SmolLM2's proportions."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": width * 8 // 3, "num_hidden_layers": 4}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(chat.tokenizer), **shape, **heads))


def _task() -> Any:
    with Progress("quiet").task("training") as task:
        return task


def _unsaved(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"save_every": 0})


def _prepared() -> dict[str, Any]:
    return {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}


def _one_row() -> Dataset:
    return Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})


if __name__ == "__main__":
    main()
