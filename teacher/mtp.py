"""Multi-token prediction: modules that each predict one further token (DeepSeek-V3, arXiv 2412.19437, section 2.2).

Depth k reads, at token i, the normed state of the depth before it and the embedding of token
i + k, runs one decoder layer with experts and predicts token i + k + 1 with the main model's
own head. Embedding and head are the main model's; folders hold copies of them beside the
module, as published. Where the report leaves room this follows transformers 5.23
(`modeling_layers.py`, MtpModel): the embedding comes first in the joined input (in vLLM's
`deepseek_mtp.py` too; eq. 21 prints it second), and every depth reads a state *behind* its
norm, the main model's or `shared_head.norm` (vLLM hands on from depth 1 the state before it;
no DeepSeek model has a depth 2). Used for training only: no speculative decoding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from teacher.attention import AttentionBackend
from teacher.config import TeacherConfig
from teacher.layer import DecoderLayer
from teacher.moe import Backend
from teacher.norm import RMSNorm
from teacher.rows import Rows

# N tokens, M tokens that have a successor, D model width, P rotated pairs, V vocabulary

PIECE = 2**24
"""Logits held at once while the loss of a depth is computed."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def shared_copies(config: TeacherConfig) -> dict[str, str]:
    """Names under which published folders repeat the embedding and the head beside each module -> what they repeat."""
    head = EMBEDDING if config.tie_word_embeddings else HEAD
    first = config.num_hidden_layers
    copies: dict[str, str] = {}
    for layer in range(first, first + config.num_nextn_predict_layers):
        copies[f"model.layers.{layer}.embed_tokens.weight"] = EMBEDDING
        copies[f"model.layers.{layer}.shared_head.head.weight"] = head
    return copies


class SharedHead(nn.Module):
    """The norm before the shared head; the head itself is the main model's."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class FurtherToken(DecoderLayer):
    """One depth. On disk it is the layer behind the last one of the model."""

    def __init__(self, config: TeacherConfig, layer: int, experts: Backend, attention: AttentionBackend) -> None:
        super().__init__(config, layer, experts, attention)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def predict(self, hidden_MD: Tensor, next_MD: Tensor, rows: Rows, turns_MP: Tensor) -> Tensor:
        """States (M, D) for the head, from those of the depth before and the next tokens' embeddings."""
        x_MD = self.eh_proj(torch.cat((self.enorm(next_MD), self.hnorm(hidden_MD)), dim=-1))
        output: Tensor = self.shared_head.norm(self(x_MD, rows, turns_MP))
        return output


def further_states(
    modules: Sequence[FurtherToken],
    hidden_ND: Tensor,
    embedded_ND: Tensor,
    rows: Rows,
    turns: Callable[[Tensor], Tensor],
    watching: Callable[[Rows], AbstractContextManager[None]],
    *,
    checkpointed: bool,
) -> Iterator[tuple[Tensor, Tensor, Rows]]:
    """Depth by depth: states (M, D), which of the N tokens each stands for (M), and their rows.

    `hidden_ND` are the main model's normed states, `watching` surrounds each depth's pass. Ends early where no
    sequence is long enough.
    """
    place_M = torch.arange(len(hidden_ND), device=hidden_ND.device)
    for depth, module in enumerate(modules, 1):
        rows, kept = rows.followed()
        if not len(kept):
            return
        place_M = place_M[kept]
        given = (hidden_ND[kept], embedded_ND[place_M + depth], rows, turns(rows.positions_N))
        with watching(rows):
            if checkpointed:
                hidden_ND = checkpoint(module.predict, *given, use_reentrant=False)
            else:
                hidden_ND = module.predict(*given)
        yield hidden_ND, place_M, rows


def further_loss(state_MD: Tensor, target_M: Tensor, head: nn.Linear) -> Tensor:
    """Cross-entropy summed over targets that are not -100, never holding more than `PIECE` logits."""
    size = max(1, PIECE // head.out_features)
    pieces = list(zip(state_MD.split(size), target_M.split(size), strict=True))
    if len(pieces) == 1:
        return _summed(*pieces[0], head)
    return torch.stack([checkpoint(_summed, *piece, head, use_reentrant=False) for piece in pieces]).sum()


def _summed(state_MD: Tensor, target_M: Tensor, head: nn.Linear) -> Tensor:
    logits_MV: Tensor = head(state_MD).float()
    return F.cross_entropy(logits_MV, target_M, ignore_index=-100, reduction="sum")


def build_layers(config: TeacherConfig, experts: Backend, attention: AttentionBackend) -> nn.ModuleList:
    """All layers in the order they have on disk: the model's own, then one for each further token."""
    depth = config.num_hidden_layers
    layers = [DecoderLayer(config, layer, experts, attention) for layer in range(depth)]
    further = range(depth, depth + config.num_nextn_predict_layers)
    return nn.ModuleList([*layers, *(FurtherToken(config, layer, experts, attention) for layer in further)])
