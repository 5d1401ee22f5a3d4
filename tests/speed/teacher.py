"""Tokens a second of the teacher and of transformers' DeepseekV3ForCausalLM on the same weights, one thread.

`python -m tests.speed.teacher` prints CSV. Both sides give the same numbers first, else
nothing is timed. Training is forward and backward on about 2,000 real tokens: full rows, rows
padded to the longest, the same rows packed into one. A step is one token for every row over 80
cached ones. transformers runs sdpa attention and grouped_mm experts. Process time, best of
`REPEATS`, the two sides taking turns.
"""

import time
from collections.abc import Callable

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, DynamicCache

from teacher.config import preset
from teacher.decoder import LatentDecoder
from teacher.model import DeepseekForCausalLM

REPEATS, CACHED, VOCABULARY = 5, 80, 80


def main() -> None:
    """One row a setting."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = DeepseekForCausalLM(preset("mini", vocab_size=VOCABULARY))
    theirs = DeepseekV3ForCausalLM(DeepseekV3Config.from_dict(ours.config.to_dict()))
    theirs.set_experts_implementation("grouped_mm")
    theirs.load_state_dict(ours.state_dict())
    print("what,rows,tokens,teacher_tokens_per_second,transformers_tokens_per_second,ratio")
    for name, batch, tokens in training_batches():
        mine, peer = (lambda model=model, batch=batch: train(model, batch) for model in (ours, theirs))
        assert abs(mine() - peer()) < 1e-4
        report(f"train {name}", len(batch["input_ids"]), tokens, mine, peer)
    for rows in (64, 256, 512):
        mine, peer = steps(ours, theirs, rows)
        assert (mine() - peer()).abs().max() < 1e-4
        report("step", rows, rows, mine, peer)


def training_batches() -> list[tuple[str, dict[str, torch.Tensor], int]]:
    """Name, keywords and number of real tokens."""
    full = torch.randint(VOCABULARY, (16, 128))
    lengths = torch.randint(30, 129, (25,))
    rows = [torch.randint(VOCABULARY, (int(length),)) for length in lengths]
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    padded = torch.zeros_like(mask)
    padded[mask.bool()] = torch.cat(rows)
    packed = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(len(row)) for row in rows])[None]
    tokens = packed.numel()
    return [
        ("full rows", {"input_ids": full, "labels": full}, full.numel()),
        (
            "padded rows",
            {"input_ids": padded, "attention_mask": mask, "labels": padded.masked_fill(mask == 0, -100)},
            tokens,
        ),
        (
            "packed row",
            {"input_ids": packed, "position_ids": positions, "labels": packed.masked_fill(positions == 0, -100)},
            tokens,
        ),
    ]


def train(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Forward and backward."""
    model.train().zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return float(loss.detach())


def steps(
    ours: DeepseekForCausalLM, theirs: DeepseekV3ForCausalLM, rows: int
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """One decode step of either side, repeatable."""
    ours.eval(), theirs.eval()
    ids, next_ids = torch.randint(VOCABULARY, (rows, CACHED)), torch.randint(VOCABULARY, (rows,))
    positions = torch.full((rows,), CACHED)
    decoder = LatentDecoder(ours)
    decoder.allocate(rows * 8, 16, 128)
    tables = torch.arange(rows * 8).view(rows, 8)
    decoder.prefill(ids, torch.zeros_like(positions), positions, tables)
    cache = DynamicCache(config=theirs.config)

    @torch.inference_mode()
    def peer() -> torch.Tensor:
        if cache.get_seq_length() == 0:
            theirs(input_ids=ids, past_key_values=cache, use_cache=True)
        elif cache.get_seq_length() > CACHED:
            cache.crop(-1)
        logits: torch.Tensor = theirs(input_ids=next_ids[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
        return logits

    return lambda: decoder.step(next_ids, positions, tables), peer


def report(what: str, rows: int, tokens: int, mine: Callable[[], object], peer: Callable[[], object]) -> None:
    """Time both, taking turns, and print a row."""
    best = [float("inf"), float("inf")]
    for _ in range(REPEATS):
        for side, call in enumerate((mine, peer)):
            started = time.process_time()
            call()
            best[side] = min(best[side], time.process_time() - started)
    print(f"{what},{rows},{tokens},{tokens / best[0]:.0f},{tokens / best[1]:.0f},{best[1] / best[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
