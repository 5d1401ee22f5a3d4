"""Tokens a second of the engine and of transformers' generate on the same weights, one thread.

`python -m tests.speed.engine` prints CSV. Both sides say the same greedy tokens first, else
nothing is timed. Then both sample at temperature 1 without filters: `rows` samples at once, of
as many prompts or of `rows` / 8 prompts with 8 samples each. Process time, best of `REPEATS`,
the two sides taking turns. Ends never come, so that both say `NEW` tokens a row: the engine's
refilling, which generate does not have, counts for nothing here.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from distill.problems.vocabulary import mini_tokenizer
from distill.prompts import Chat
from distill.records import Params
from distill.sampling.engine import Engine
from students.decoder import KVDecoder
from students.specs import SPECS, model_config

NEW, CAPACITY, REPEATS = 64, 128, 3
PROMPTS = (15, 60)
"""Shortest and longest prompt."""


def main() -> None:
    """One row a setting."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chat = Chat(mini_tokenizer())
    vocab = len(chat.tokenizer)
    model = AutoModelForCausalLM.from_config(model_config(SPECS["mini-95k"], vocab, end_id=chat.end_id, pad_id=0))
    model.eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    rng = random.Random(0)
    print("model,rows,samples_per_prompt,engine_tokens_per_second,generate_tokens_per_second,ratio")
    for rows, samples in ((64, 1), (256, 1), (512, 1), (64, 8), (256, 8), (512, 8)):
        prompts = [[rng.randrange(7, vocab) for _ in range(rng.randrange(*PROMPTS))] for _ in range(rows // samples)]
        engine = Engine(KVDecoder(model), chat, slots=rows, capacity=CAPACITY)
        engine.rows.is_end.zero_()
        assert [s[0].ids for s in ours(engine, prompts, 1, 0.0)] == theirs(model, prompts, 1, False)
        best = [0.0, 0.0]
        for _ in range(REPEATS):
            best[0] = max(best[0], rows * NEW / seconds(ours, engine, prompts, samples, 1.0))
            best[1] = max(best[1], rows * NEW / seconds(theirs, model, prompts, samples, True))
        print(f"mini-95k,{rows},{samples},{best[0]:.0f},{best[1]:.0f},{best[0] / best[1]:.1f}", flush=True)


def ours(engine: Engine, prompts: list[list[int]], samples: int, temperature: float) -> list[Any]:
    """Through the engine."""
    return engine.rollout(prompts, Params(max_tokens=NEW, temperature=temperature), samples, list(range(len(prompts))))


def theirs(model: Any, prompts: list[list[int]], samples: int, warm: bool) -> list[list[int]]:
    """Through generate, left-padded, as one batch."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"do_sample": True, "top_k": 0} if warm else {"do_sample": False}
    said: torch.Tensor = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, num_return_sequences=samples, **settings
    )
    rows: list[list[int]] = said[:, width:].tolist()
    return rows


def seconds(work: Callable[..., object], *arguments: Any) -> float:
    """Process time of one call."""
    begun = time.process_time()
    work(*arguments)
    return time.process_time() - begun


if __name__ == "__main__":
    main()
