"""Sidecar: what a teacher tells of every loss position of a training set, beside its examples.

`logits/NNNN.safetensors` in the order of writing, each whole or absent: written aside, synced, renamed, its
SHA-256 entered into `SHA256SUMS` (which `sha256sum -c` understands). A kill costs the shard in hand. For a
vocabulary of up to 65,536 tokens a kept token takes 4 bytes (id uint16, log-probability float16), beyond 5;
a position takes 4 more (how many tokens are kept, and the tail's mass), and every token of a row 5 (its id, and
whether it carries loss). float16 keeps a log-probability to one part in 2,048.

Does not compress: the arrays are read where they lie.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distill.errors import UserError
from distill.ledger import SUMS, seals
from distill.runs import sync, sync_folder, write_durably
from distill.train.divergences import Told

# R rows of a shard, T tokens of its rows, N loss positions, F kept tokens, K most kept at a position

LOGITS = "logits"
VOCABULARY = "vocabulary.json"
"""The teacher's tokens with their ids, beside the shards."""
SHARD_POSITIONS = 1 << 16
"""Loss positions of a shard: 14 MB with 32 tokens kept and a large vocabulary. What a kill may cost."""
NARROW = 1 << 16
"""Ids below this fit into 16 bits."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One example with what the teacher told of it."""

    example: str
    token_ids: list[int]
    loss: list[bool]
    """For each token whether it carries loss."""
    told: Told
    """Of the loss positions, in order."""


class Writer:
    """Appends to a sidecar; continues behind the shards that are whole."""

    def __init__(self, folder: Path, vocabulary: Mapping[str, int]) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        write_durably(folder / VOCABULARY, json.dumps(vocabulary, ensure_ascii=False))
        self._wide = max(vocabulary.values()) >= NARROW
        self._waiting: list[Scored] = []
        shards = _shards(folder)
        self._sums = {shard.name: _digest(shard) for shard in shards}  # renamed is whole, whether or not entered
        self.written = [name for shard in shards for name in _examples(shard)]
        """Ids of the examples that need not be scored again."""

    def add(self, scored: Scored) -> None:
        """Take an example; a full shard is written."""
        self._waiting.append(scored)
        if sum(len(one.told.tail_N) for one in self._waiting) >= SHARD_POSITIONS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a shard of its own."""
        if self._waiting:
            path = self.folder / f"{len(self._sums):04}.safetensors"
            _write(path, _pack(self._waiting, wide=self._wide), [one.example for one in self._waiting])
            self._sums[path.name] = _digest(path)
            self._waiting = []
        write_durably(self.folder / SUMS, "".join(f"{sha}  {name}\n" for name, sha in sorted(self._sums.items())))


class Sidecar:
    """A finished sidecar, its shards verified."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError naming a shard that is missing or not what was written."""
        if not (folder / SUMS).is_file():
            raise UserError(f"{folder}: no teacher's log-probabilities; expected the run folder of a logits step")
        self.folder = folder
        self.vocabulary: dict[str, int] = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        self._shards: list[_Shard] = []
        self._places: dict[str, tuple[int, int]] = {}
        for name, sha in seals(folder).items():
            path = folder / name
            if not path.is_file() or _digest(path) != sha:
                raise UserError(f"{path}: missing or changed since it was written; run the logits step again")
            for row, example in enumerate(_examples(path)):
                self._places[example] = len(self._shards), row
            self._shards.append(_Shard(path))

    def row(self, example: str) -> tuple[list[int], list[bool]]:
        """Tokens of an example and whether each carries loss. Raises UserError when it was never scored."""
        shard, row = self._find(example)
        return self._shards[shard].row(row)

    def told(self, examples: Sequence[str]) -> Told:
        """What the teacher told of the loss positions of these examples, one after another."""
        found = [self._shards[shard].told(row) for shard, row in map(self._find, examples)]
        return padded(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _find(self, example: str) -> tuple[int, int]:
        if example not in self._places:
            raise UserError(f"{self.folder}: has no example {example!r}; run the logits step again on these examples")
        return self._places[example]


def padded(count_N: Tensor, ids_F: Tensor, logprobs_F: Tensor, tail_N: Tensor) -> Told:
    """Kept tokens that stand one position after another, in rows of equal width."""
    real_NK = torch.arange(int(count_N.max())) < count_N[:, None]
    ids_NK = torch.zeros(real_NK.shape, dtype=torch.int64).masked_scatter(real_NK, ids_F)
    logprobs_NK = torch.full(real_NK.shape, -math.inf).masked_scatter(real_NK, logprobs_F)
    return Told(ids_NK, logprobs_NK, tail_N)


class _Shard:
    def __init__(self, path: Path) -> None:
        from safetensors.torch import load_file

        arrays = load_file(path)
        self.token_ids_T, self.loss_T = arrays["token_ids"], arrays["loss"]
        self.count_N, self.tail_N = arrays["count"].long(), arrays["tail"]
        self.ids_F, self.high_F, self.logprobs_F = arrays["ids"], arrays.get("ids_high"), arrays["logprobs"]
        self.tokens_R = _ends(arrays["tokens"].long())
        self.positions_R = _ends(arrays["positions"].long())
        self.kept_N = _ends(self.count_N)

    def row(self, row: int) -> tuple[list[int], list[bool]]:
        part = slice(int(self.tokens_R[row]), int(self.tokens_R[row + 1]))
        return self.token_ids_T[part].tolist(), self.loss_T[part].bool().tolist()

    def told(self, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Counts, ids, log-probabilities and tails of a row."""
        first, past = int(self.positions_R[row]), int(self.positions_R[row + 1])
        kept = slice(int(self.kept_N[first]), int(self.kept_N[past]))
        ids_F = self.ids_F[kept].long()
        if self.high_F is not None:
            ids_F = ids_F + self.high_F[kept].long() * NARROW
        return self.count_N[first:past], ids_F, self.logprobs_F[kept].float(), self.tail_N[first:past].float()


def _ends(lengths: Tensor) -> Tensor:
    """Where each of these pieces begins, and where the last one ends."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def _pack(rows: Sequence[Scored], *, wide: bool) -> dict[str, Tensor]:
    kept = [one.told.logprobs_NK.isfinite() for one in rows]
    ids_F = torch.cat([one.told.ids_NK[where] for one, where in zip(rows, kept, strict=True)])
    logprobs_F = torch.cat([one.told.logprobs_NK[where] for one, where in zip(rows, kept, strict=True)])
    arrays = {
        "tokens": torch.tensor([len(one.token_ids) for one in rows], dtype=torch.int32),
        "positions": torch.tensor([len(one.told.tail_N) for one in rows], dtype=torch.int32),
        "token_ids": torch.tensor([token for one in rows for token in one.token_ids], dtype=torch.int32),
        "loss": torch.tensor([carries for one in rows for carries in one.loss], dtype=torch.uint8),
        "count": torch.cat([where.sum(-1) for where in kept]).to(torch.int16),
        "tail": torch.cat([one.told.tail_N for one in rows]).to(torch.float16),
        "ids": (ids_F % NARROW).to(torch.uint16),
        "logprobs": logprobs_F.to(torch.float16),
    }
    return {**arrays, "ids_high": (ids_F // NARROW).to(torch.uint8)} if wide else arrays


def _write(path: Path, arrays: dict[str, Tensor], examples: list[str]) -> None:
    from safetensors.torch import save_file

    staged = path.with_name(path.name + ".tmp")
    save_file(arrays, staged, {"examples": json.dumps(examples)})
    sync(staged)
    staged.rename(path)
    sync_folder(path.parent)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9][0-9][0-9].safetensors"))


def _examples(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as shard:
        names: list[str] = json.loads(shard.metadata()["examples"])
    return names


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sizes(folder: Path) -> Iterator[int]:
    """Bytes of each shard."""
    return (shard.stat().st_size for shard in _shards(folder))
