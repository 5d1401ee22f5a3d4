"""Three protocols the process owns and `cli` fills in.

`Sampler` speaks (an engine over a model, an HTTP endpoint, a recorded file, an oracle).
`Decoder` is what one model brings to the engine: cache, prefill, step.
`ModelLoader` turns a folder into model, tokenizer and decoder.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from distill.records import Completion, Message, Params, SamplerId

if TYPE_CHECKING:
    import torch

    from distill.train.estimate import TrainShape


CACHE_GB = 2.0
"""Memory an engine may use for its cache unless told otherwise, in 10^9 bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask for `n` completions of one conversation.

    Sample k of a request depends on `seed + k` and the request alone, never on what is
    sampled beside it.
    """

    id: str
    """Opaque to the sampler: the problem's id, usually."""
    messages: tuple[Message, ...]
    """When the last turn is the assistant's, the completions continue it: their text follows its own.

    A lone `text` is the prompt itself, without a chat template."""
    params: Params
    n: int = 1
    seed: int = 0
    first: int = 0
    """Index of sample 0 among all samples of this problem: above 0 when a harvest resumes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """All completions of one request, in sample order."""

    request: Request
    completions: tuple[Completion, ...]
    refused: str = ""
    """Why this request, and no other, will not be answered however often it is asked; what is missing is cancelled."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities of a given sequence, teacher-forced.

    `logprobs` (T-1,) float32: of token t+1 given tokens 0..t. `top_ids`, `top_logprobs`
    (T-1, k): the k likeliest tokens at the same places.
    """

    logprobs: "torch.Tensor"
    top_ids: "torch.Tensor"
    top_logprobs: "torch.Tensor"


class Sampler(Protocol):
    """Prompts in; text, token ids, log-probabilities and finish reason out."""

    @property
    def identity(self) -> SamplerId:
        """Name and revision that go into every trace id. Never a URL."""

    @property
    def think_open(self) -> bool:
        """True when the prompt this sampler renders already opens the think block."""

    def sample(self, requests: Iterable[Request]) -> Iterator[Answered]:
        """Answers in order of completion; reads `requests` only as far as it has room."""

    def score(self, token_ids: list[int], top_k: int) -> TokenScores:
        """Teacher-forced log-probabilities. Raises UserError when the sampler has none."""

    def score_many(self, sequences: Iterable[list[int]], top_k: int) -> Iterator[TokenScores]:
        """`score` of each sequence, in the order given; many are scored together, so it reads ahead."""


class Decoder(Protocol):
    """A model's side of the engine: a cache of blocks of `block_size` tokens.

    The engine owns the blocks and says in a table which of them hold a row, in order; several
    rows may name the same block, and then only read it. Table entries behind a row's last
    block are any valid block. B rows of a call, T padded width, M blocks a table, V vocabulary.
    Logits are float32, tables and ids int64.
    """

    vocab_size: int
    weights: Literal["exact", "int8"]
    """int8 is lossy; samplers put it into their name and revision."""

    @property
    def cache_bytes_per_token(self) -> int:
        """Over all layers; memory = this x blocks x block_size."""

    def allocate(self, blocks: int, block_size: int, longest: int) -> None:
        """Make (or resize) the cache, for rows of at most `longest` tokens. Contents are lost."""

    def prefill(
        self, ids_BT: "torch.Tensor", starts_B: "torch.Tensor", lengths_B: "torch.Tensor", tables_BM: "torch.Tensor"
    ) -> "torch.Tensor":
        """Append right-padded pieces of `lengths` tokens behind `starts` cached ones; logits (B, V) at each last token.

        A start above 0 continues a prompt that came in pieces, or a prefix that another row left in its blocks.
        """

    def step(self, ids_B: "torch.Tensor", positions_B: "torch.Tensor", tables_BM: "torch.Tensor") -> "torch.Tensor":
        """Append one token a row at its position; logits (B, V)."""

    def copy(self, sources_B: "torch.Tensor", targets_B: "torch.Tensor") -> None:
        """Copy whole blocks over others."""

    def refresh(self) -> None:
        """Re-read the weights of a live model after a training step; the cache is void."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to train or to speak."""

    model: Any
    """A transformers `PreTrainedModel`."""
    tokenizer: Any
    """A transformers `PreTrainedTokenizerBase` that carries its chat template."""
    folder: Path
    fingerprint: str
    """Content hash of weights, config and tokenizer."""


class ModelLoader(Protocol):
    """Opens any folder the toolkit knows, teacher or student."""

    def load(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        backends: Mapping[str, str] | None = None,
        expert_parallel: int = 1,
    ) -> LoadedModel:
        """Raises UserError naming the folder and what is wrong with it.

        `backends`: ways to compute that the model is to use, by keyword; refused where it has no such choice.
        `expert_parallel`: processes that share it for training (`distill.train.ranks`); each of them calls this.
        """

    def train_shape(self, folder: Path) -> "TrainShape | None":
        """The model of a folder as training sees it, no weight read; None where its kind has no shape."""

    def decoder(self, model: Any, weights: Literal["exact", "int8"] = "exact") -> Decoder:
        """The decoder of a model, live or loaded; it holds a reference. int8 is lossy: its samples must say so."""
