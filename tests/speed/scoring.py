"""Tokens a second of scoring given sequences, many at a time beside one by one, one thread.

`python -m tests.speed.scoring` prints CSV. Sequences are of the length of a miniature's trace,
half to one and a half times `length`; both sides give the same losses first, else nothing is
timed. Process time, best of `REPEATS`, the two sides taking turns.
"""

import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM

from distill.problems.vocabulary import mini_tokenizer
from distill.sampling.teacher_forcing import score_many
from students.specs import find_spec, model_config
from teacher.config import preset
from teacher.model import DeepseekForCausalLM

REPEATS = 3
TOP_K = 10
CASES = (("mini-95k", 40, 1000), ("mini-95k", 400, 200), ("teacher mini", 40, 300), ("teacher mini", 400, 40))
"""Model, mean length, how many sequences."""


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name.startswith("teacher"):
        return DeepseekForCausalLM(preset("mini", vocab_size=192)).eval()
    spec, tokenizer = find_spec(name, {}), mini_tokenizer()
    shape = model_config(spec, len(tokenizer), end_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
    return AutoModelForCausalLM.from_config(shape).eval()


def seconds(score: Callable[[], object]) -> float:
    begun = time.process_time()
    score()
    return time.process_time() - begun


def main() -> None:
    """One row a case."""
    print("model,mean_length,sequences,many_tokens_per_second,one_by_one_tokens_per_second,ratio")
    for name, length, count in CASES:
        model = model_of(name)
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(length // 2, 3 * length // 2, (count,), generator=generator).tolist()
        asked = [torch.randint(5, 90, (size,), generator=generator).tolist() for size in lengths]
        many, alone = list(score_many(model, asked, TOP_K)), [next(score_many(model, [ids], TOP_K)) for ids in asked]
        losses = [torch.stack([found.logprobs.mean() for found in side]) for side in (many, alone)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
        best = [float("inf")] * 2
        for _ in range(REPEATS):
            best[0] = min(best[0], seconds(lambda m=model, a=asked: list(score_many(m, a, TOP_K))))
            best[1] = min(best[1], seconds(lambda m=model, a=asked: [next(score_many(m, [ids], TOP_K)) for ids in a]))
        rates = [sum(lengths) / one for one in best]
        print(f"{name},{length},{count},{rates[0]:.0f},{rates[1]:.0f},{rates[0] / rates[1]:.1f}")


if __name__ == "__main__":
    main()
