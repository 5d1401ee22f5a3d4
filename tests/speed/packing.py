"""Packed rows as `sft` makes them beside TRL's padded batches of eight; one thread, real text.

`python -m tests.speed.packing` prints CSV; needs the GSM8K file of DISTILL_DATA: text of real lengths, on which a
byte-level BPE of 2,048 pieces is trained on the spot. Both sides train the same Llama student from the same weights on
the same batches with the same AdamW; process time of the steps alone, best of `REPEATS`, the sides taking turns.
`heldout_nats` is the difference in loss on the same 200 rows that neither saw, with its paired 95% interval. TRL's own
default also recomputes activations: the last columns.
"""

import gzip
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from distill.train.auxiliary import Extras
from distill.train.batches import Plan
from distill.train.curve import Curve, SftPoint
from distill.train.lean import Feed, arguments, optimizers
from distill.train.packed import attend_by_rows
from distill.train.resume import States
from distill.train.schedule import TrainConfig
from distill.train.sft_trainer import LeanSft
from tests.speed.training import _one_row, _prepared, _task, _timed, _unsaved

ROWS, HELD_OUT, PIECES, BATCH = 3000, 200, 2048, 8
REPEATS = 2
STEPS = {256: 24, 576: 8}
CONFIG = TrainConfig(optimizer="adamw", learning_rate=1e-3, warmup_steps=2)


def main() -> None:
    """A row a width."""
    torch.set_num_threads(1)
    tokenizer, rows = text()
    held_out, rows = rows[:HELD_OUT], rows[HELD_OUT:]
    print("what,unit,ours,trl_padded,ratio,heldout_nats,low,high,trl_recomputing,ratio_recomputing")
    for width, steps in STEPS.items():
        best = dict.fromkeys(("ours", "padded", "recomputing"), 0.0)
        losses: dict[str, list[float]] = {}
        for repeat in range(REPEATS):
            for side in best:
                if side == "recomputing" and repeat:
                    continue
                model = student(width)
                with tempfile.TemporaryDirectory() as folder:
                    rate = train(side, model, tokenizer, rows, steps, Path(folder))
                best[side] = max(best[side], rate)
                losses[side] = [loss_of(model, row) for row in held_out]
        apart = torch.tensor(losses["ours"]) - torch.tensor(losses["padded"])
        middle, reach = float(apart.mean()), 1.96 * float(apart.std()) / HELD_OUT**0.5
        assert abs(middle) <= 1e-3, f"packing learned something else: {middle:.4f} nats"
        ratios = [best["ours"] / best[side] for side in ("padded", "recomputing")]
        print(
            f"sft packed llama width {width},real tokens/s,{best['ours']:.0f},{best['padded']:.0f},{ratios[0]:.2f},"
            f"{middle:.1e},{middle - reach:.1e},{middle + reach:.1e},{best['recomputing']:.0f},{ratios[1]:.2f}",
            flush=True,
        )


def text() -> tuple[PreTrainedTokenizerFast, list[list[int]]]:
    """Questions with their worked solutions as tokens, shuffled."""
    with gzip.open(Path(os.environ["DISTILL_DATA"]) / "gsm8k_train.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [f"{row['question']}\n{row['answer']}" for row in map(json.loads, file)]
    random.Random(0).shuffle(texts)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=PIECES, special_tokens=["<pad>", "<end>"], show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<end>")
    return tokenizer, [[*tokenizer(text)["input_ids"], 1] for text in texts[: ROWS + HELD_OUT]]


def student(width: int) -> Any:
    """Four Llama layers of SmolLM2's proportions."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=PIECES,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=4,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    )


def train(side: str, model: Any, tokenizer: Any, rows: list[list[int]], steps: int, out: Path) -> float:
    """Real tokens a process second."""
    lengths = [len(row) for row in rows]
    columns = [{"input_ids": row, "labels": row} for row in rows]
    kwargs = arguments(out, _unsaved(CONFIG), steps, 10, 0)
    made = optimizers(model, CONFIG, steps)
    order = random.Random(0).sample(range(len(rows)), BATCH * steps)
    batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    tokens = sum(lengths[row] for row in order)
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=side == "ours")
    feed = Feed(batches, 0, lambda batch: collate([columns[row] for row in batch]))
    if side == "ours":
        attend_by_rows(model)
        trainer: Any = LeanSft(
            states=States(out),
            feed=feed,
            curve=Curve(out, SftPoint, 0),
            plan=Plan([[batch] for batch in batches], [0] * steps),
            extras=Extras(model, CONFIG, 0.0, out),
            task=_task(),
            model=model,
            args=SFTConfig(**kwargs, **_prepared()),
            train_dataset=_one_row(),
            processing_class=tokenizer,
            optimizers=made,
        )
        return tokens / _timed(trainer)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**kwargs | {"activation_checkpointing": side == "recomputing"}, **_prepared()),
        train_dataset=_one_row(),
        processing_class=tokenizer,
        optimizers=made,
    )
    trainer.get_train_dataloader = lambda: feed
    return tokens / _timed(trainer)


@torch.no_grad()
def loss_of(model: Any, row: list[int]) -> float:
    """Nats a token of one row."""
    model.eval()
    ids = torch.tensor([row])
    logits = model(ids, use_cache=False).logits[0, :-1]
    return float(F.cross_entropy(logits.float(), ids[0, 1:]))


if __name__ == "__main__":
    main()
