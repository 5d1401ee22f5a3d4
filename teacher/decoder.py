"""Decode from the latent cache: the teacher's side of the engine.

A token keeps C + R numbers a layer: the normed latent and the rotated shared key. One
step never expands them: W_UK is absorbed into the query and W_UV into the output
projection, which leaves attention with one wide key shared by all heads (DeepSeek-V2,
arXiv 2405.04434, section 2.1.2). A prompt that begins runs through the model itself,
expanded; one that continues behind cached tokens runs absorbed as a step does, which at the
published widths costs three times the attention of expanding. Rows may stand at different
positions.
"""

from abc import ABC, abstractmethod
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import UserError
from distill.sampling.int8 import Weights
from distill.sampling.pages import Pieces, Step, Workspace, plan_pieces, plan_step
from distill.sampling.product import apply, product
from teacher.attention import LatentAttention
from teacher.feed import feed
from teacher.layer import DecoderLayer
from teacher.model import DeepseekForCausalLM
from teacher.resident import wide_weight
from teacher.rotary import turn_in_place
from teacher.rows import find_rows

# B rows of a call, T new tokens a row, N new tokens, D model width, H heads, Q query width, C latent width,
# R rotated width, W = C + R cached width, L cached length looked at, S places of the cache, V vocabulary


class LatentDecoder:
    """`distill.sampling.protocols.Decoder` over a model, live or loaded; holds a reference to it."""

    def __init__(self, model: DeepseekForCausalLM, weights: Weights = "exact") -> None:
        """`weights` int8: of the feed-forwards, in prefill and steps alike."""
        self.model, self.weights = model, weights
        self.vocab_size: int = model.config.vocab_size
        self.width: int = model.config.kv_lora_rank + model.config.qk_rope_head_dim
        self.block_size = 0
        self.workspace = Workspace()
        self.refresh()

    @property
    def cache_bytes_per_token(self) -> int:
        """C + R numbers over all layers."""
        return len(self.layers) * self._layer_bytes()

    def _layer_bytes(self) -> int:
        return self.width * int(self.model.model.embed_tokens.weight.itemsize)

    @torch.inference_mode()
    def allocate(self, blocks: int, block_size: int, longest: int) -> None:
        """Make the cache: layers x (blocks x block_size) x W. Contents are lost."""
        limit = self.model.config.max_position_embeddings
        if longest > limit:
            raise UserError(
                f"max_tokens: with the longest prompt {longest} tokens, beyond the model's max_position_embeddings "
                f"({limit}); lower max_tokens by {longest - limit}, or ask shorter problems"
            )
        embedding = self.model.model.embed_tokens.weight
        self.block_size = block_size
        shape = (len(self.layers), blocks * block_size, self.width)
        # Zeros, not whatever memory held: a masked place still enters products, and NaN x 0 is NaN.
        self.cache = torch.zeros(shape, dtype=embedding.dtype, device=embedding.device)

    @torch.inference_mode()
    def refresh(self) -> None:
        """Absorb the live model's weights anew; the cache is void."""
        layers = islice(self.model.model.layers, self.model.model.depth)
        self.layers = [_make_layer(cast(DecoderLayer, layer), self.weights) for layer in layers]

    @torch.inference_mode()
    def prefill(self, ids_BT: Tensor, starts_B: Tensor, lengths_B: Tensor, tables_BM: Tensor) -> Tensor:
        """Append right-padded pieces to their rows; logits (B, V) at each last token."""
        body = self.model.model
        begins = self.weights == "exact" and not starts_B.any()  # the model itself knows only its exact weights
        plan = plan_pieces(
            starts_B, lengths_B, tables_BM, ids_BT.shape[1], self.block_size, self.cache.dtype, masked=not begins
        )
        if begins:
            hidden_ND = self._begin(ids_BT, lengths_B, plan)
        else:
            reader = _PieceReader(plan, ids_BT.shape, self.block_size, self.workspace)
            x_ND = body.embed_tokens(ids_BT.flatten().index_select(0, plan.real_N))
            hidden_ND = self._absorbed(x_ND, plan.positions_N, reader)
        logits = apply(self.model.lm_head, hidden_ND.index_select(0, plan.last_B))
        return logits.float()

    def _begin(self, ids_BT: Tensor, lengths_B: Tensor, plan: Pieces) -> Tensor:
        """The model's own forward from position 0, keeping the latents."""
        body, (batch, width) = self.model.model, ids_BT.shape
        mask_BT = torch.arange(width, device=ids_BT.device) < lengths_B[:, None]
        rows = find_rows(batch, width, ids_BT.device, mask_BT)
        latents: list[Tensor] = []
        hidden_ND = body.run(body.embed_tokens(rows.gather(ids_BT)), rows, latents)
        for cache_SW, latent_NW in zip(self.cache, latents, strict=True):
            cache_SW.index_copy_(0, plan.places_N, latent_NW)
        return hidden_ND

    @torch.inference_mode()
    def step(self, ids_B: Tensor, positions_B: Tensor, tables_BM: Tensor) -> Tensor:
        """Append one token a row at its position; logits (B, V)."""
        plan = plan_step(positions_B, tables_BM, self.block_size, self.cache.dtype, self._layer_bytes())
        x_BD = self.model.model.embed_tokens(ids_B.index_select(0, plan.order_B))
        hidden_BD = self._absorbed(x_BD, plan.positions_B, _StepReader(plan, self.block_size, self.workspace))
        logits = apply(self.model.lm_head, hidden_BD).float()
        return plan.in_call_order(logits)

    def _absorbed(self, x_ND: Tensor, positions_N: Tensor, reader: "_Reader") -> Tensor:
        """All layers and the last norm over new tokens, reading the cache as it is."""
        body = self.model.model
        turns_NP = body.rotary.turns(positions_N)
        for cache_SW, layer in zip(self.cache, self.layers, strict=True):
            x_ND = layer.step(x_ND, cache_SW, reader, turns_NP)
        hidden_ND: Tensor = body.norm(x_ND)
        return hidden_ND

    @torch.inference_mode()
    def copy(self, sources_B: Tensor, targets_B: Tensor) -> None:
        """Copy whole blocks over others."""
        blocks = self.cache.unflatten(1, (-1, self.block_size))
        blocks[:, targets_B] = blocks[:, sources_B]


class _StepReader:
    """Attention of one token a row over the row's blocks, rows of like length together."""

    def __init__(self, plan: Step, block_size: int, workspace: Workspace) -> None:
        self.plan, self.block_size, self.workspace = plan, block_size, workspace

    def write(self, cache_SW: Tensor, latent_BW: Tensor) -> None:
        """Put each row's latent at its place."""
        cache_SW.index_copy_(0, self.plan.places_B, latent_BW)

    def read(self, cache_SW: Tensor, query_BHW: Tensor, latent_width: int) -> Tensor:
        """The mix of latents each head reads: (B, H, C)."""
        mixed = []
        for part in self.plan.parts:
            key_RLW = _gather(self.workspace, cache_SW, part.blocks_RK, self.block_size)[:, : part.length]
            weights_RHL = torch.baddbmm(part.mask_R1L, query_BHW[part.rows], key_RLW.transpose(1, 2)).softmax(-1)
            mixed.append(torch.bmm(weights_RHL, key_RLW[..., :latent_width]))
        return torch.cat(mixed) if len(mixed) > 1 else mixed[0]


class _PieceReader:
    """Attention of pieces of prompts over what their rows hold, the pieces included."""

    def __init__(self, plan: Pieces, shape: torch.Size, block_size: int, workspace: Workspace) -> None:
        self.plan, self.shape, self.block_size, self.workspace = plan, shape, block_size, workspace

    def write(self, cache_SW: Tensor, latent_NW: Tensor) -> None:
        """Put each token's latent at its place."""
        cache_SW.index_copy_(0, self.plan.places_N, latent_NW)

    def read(self, cache_SW: Tensor, query_NHW: Tensor, latent_width: int) -> Tensor:
        """The mix of latents each head reads: (N, H, C)."""
        grid = query_NHW.new_zeros(self.shape.numel(), *query_NHW.shape[1:])
        query_BHTW = grid.index_copy_(0, self.plan.real_N, query_NHW).unflatten(0, self.shape).transpose(1, 2)
        key_BLW = _gather(self.workspace, cache_SW, self.plan.blocks_BK, self.block_size)[:, : self.plan.length]
        key_BHLW = key_BLW[:, None].expand(-1, query_NHW.shape[1], -1, -1)
        # Keys serve as values too, their rotated columns dropped afterwards: of equal widths the fused kernel runs.
        mixed_BHTW = F.scaled_dot_product_attention(
            query_BHTW, key_BHLW, key_BHLW, attn_mask=self.plan.mask_B1TL, scale=1.0
        )
        mixed_NHW = mixed_BHTW.transpose(1, 2).flatten(0, 1).index_select(0, self.plan.real_N)
        return mixed_NHW[..., :latent_width]


_Reader = _StepReader | _PieceReader


def _gather(workspace: Workspace, cache_SW: Tensor, blocks_RK: Tensor, block_size: int) -> Tensor:
    """Blocks side by side: (R, K * block_size, W)."""
    blocks_SX = cache_SW.view(-1, block_size * cache_SW.shape[-1])
    return workspace.gather(blocks_SX, blocks_RK.flatten()).view(len(blocks_RK), -1, cache_SW.shape[-1])


FOLDED = 2**20
"""Most numbers of a folded output matrix. Folding saves calls where a layer is small; at V3's sizes it would read and
keep 2.4 times the query's weights and 3.5 times the output's (computed), in bfloat16 where those may be FP8."""


class _Layer(ABC):
    """One layer as a step runs it."""

    def __init__(self, module: DecoderLayer, weights: Weights) -> None:
        self.module, self.feed = module, feed(module.mlp, weights)

    def step(self, x_BD: Tensor, cache_SW: Tensor, reader: _Reader, turns_BP: Tensor) -> Tensor:
        """New tokens through the layer; writes their latents into the cache."""
        module, attention = self.module, self.module.self_attn
        heads_BHW = self.project(module.input_layernorm(x_BD)).unflatten(-1, (attention.heads + 1, -1))
        turn_in_place(heads_BHW, turns_BP, attention.interleave)
        latent_BC = heads_BHW[:, -1, : attention.latent_width]
        latent_BC.copy_(attention.kv_a_layernorm(latent_BC))
        reader.write(cache_SW, heads_BHW[:, -1])
        read_BHC = reader.read(cache_SW, heads_BHW[:, :-1], attention.latent_width)
        x_BD = x_BD + attention.join(self.speak(read_BHC))
        return x_BD.add_(self.feed(module.post_attention_layernorm(x_BD)))

    @abstractmethod
    def project(self, x_BD: Tensor) -> Tensor:
        """(B, (H + 1) * W): absorbed queries, then latent and shared key, not yet rotated or normed."""

    @abstractmethod
    def speak(self, read_BHC: Tensor) -> Tensor:
        """What the heads read, (B, H, C), as this rank's part of the output (B, D)."""


class _FoldedLayer(_Layer):
    """Weights folded once, so that attention is two products and a read."""

    def __init__(self, module: DecoderLayer, weights: Weights) -> None:
        super().__init__(module, weights)
        attention = module.self_attn
        self.q_lora = attention.q_lora
        self.query_in, self.output = _absorbed_query(attention), _absorbed_output(attention)
        key, self.bias = attention.kv_a_proj_with_mqa, None
        if not self.q_lora:  # one product gives the queries of all heads and, as one more head, the key
            if key.bias is not None:
                self.bias = torch.cat((key.bias.new_zeros(len(self.query_in)), key.bias))
            self.query_in = torch.cat((self.query_in, _wide(attention, key)))

    def project(self, x_BD: Tensor) -> Tensor:
        if not self.q_lora:
            return product(x_BD, self.query_in, self.bias)
        attention = self.module.self_attn
        query = product(attention.q_a_layernorm(attention.q_a_proj(x_BD)), self.query_in)
        return torch.cat((query, attention.kv_a_proj_with_mqa(x_BD)), dim=-1)

    def speak(self, read_BHC: Tensor) -> Tensor:
        return product(read_BHC.flatten(1), self.output, self.module.self_attn.o_proj.bias)


class _WideLayer(_Layer):
    """Query and output projections as they are, FP8 or not; keeps W_UK and W_UV of its heads, wide, between them."""

    def __init__(self, module: DecoderLayer, weights: Weights) -> None:
        super().__init__(module, weights)
        expansion_HXC = _expansion(module.self_attn)
        widths = (module.self_attn.nope_width, module.self_attn.value_width)
        self.key_HNC, self.value_HVC = (part.contiguous() for part in expansion_HXC.split(widths, dim=1))

    def project(self, x_BD: Tensor) -> Tensor:
        attention = self.module.self_attn
        query_BHQ = attention.query(x_BD) * attention.scale
        nope_BHN, rope_BHR = query_BHQ.split((attention.nope_width, attention.rope_width), dim=-1)
        absorbed_BHC = torch.bmm(nope_BHN.transpose(0, 1), self.key_HNC).transpose(0, 1)
        query_BHW = torch.cat((absorbed_BHC, rope_BHR), dim=-1)
        return torch.cat((query_BHW.flatten(1), attention.kv_a_proj_with_mqa(x_BD)), dim=-1)

    def speak(self, read_BHC: Tensor) -> Tensor:
        spoken_HBV = torch.bmm(read_BHC.transpose(0, 1), self.value_HVC.transpose(1, 2))
        output: Tensor = self.module.self_attn.o_proj(spoken_HBV.transpose(0, 1).flatten(1))
        return output


def _make_layer(module: DecoderLayer, weights: Weights) -> _Layer:
    return _FoldedLayer(module, weights) if is_folded(module.self_attn) else _WideLayer(module, weights)


def is_folded(attention: LatentAttention) -> bool:
    """Whether a step folds an attention's weights."""
    return attention.o_proj.out_features * attention.heads * attention.latent_width <= FOLDED


def _absorbed_query(attention: LatentAttention) -> Tensor:
    """(H*W, D or q latent): W_UK^T W_Q without position, W_Q with it, softmax scale in both."""
    weight = _wide(attention, attention.q_b_proj if attention.q_lora else attention.q_proj)
    weight_HQD = weight.unflatten(0, (attention.heads, -1)) * attention.scale
    nope_HND, rope_HRD = weight_HQD.split((attention.nope_width, attention.rope_width), dim=1)
    key_HNC = _expansion(attention)[:, : attention.nope_width]
    weight_HWD = torch.cat((key_HNC.transpose(1, 2) @ nope_HND, rope_HRD), dim=1)
    return weight_HWD.flatten(0, 1)


def _absorbed_output(attention: LatentAttention) -> Tensor:
    """(D, H*C): W_O W_UV."""
    value_HVC = _expansion(attention)[:, attention.nope_width :]
    output_DHV = _wide(attention, attention.o_proj).unflatten(1, (attention.heads, -1))
    output_HDC: Tensor = output_DHV.transpose(0, 1) @ value_HVC
    return output_HDC.transpose(0, 1).flatten(1)


def _expansion(attention: LatentAttention) -> Tensor:
    """W_UK above W_UV per head: (H, nope + V, C)."""
    expansion_HXC: Tensor = _wide(attention, attention.kv_b_proj).unflatten(0, (attention.heads, -1))
    return expansion_HXC


def _wide(attention: LatentAttention, module: nn.Module) -> Tensor:
    return wide_weight(module, attention.kv_a_layernorm.weight.dtype)
