"""KVDecoder: Llama, Qwen2 and Qwen3 for the engine, on a cache of key-value blocks.

The same arithmetic as transformers' modeling files of these three (tests compare tokens
and logits), rearranged: q, k and v are one matrix product and so are gate and up; a step
reads rows of like length together. A layer's cache is one plane per key head and one per
value head, each block a run of `block_size` tokens in its plane. Layers that are not plain `nn.Linear`
(quantized, LoRA) are called as they are. No sliding windows, no dynamic rope.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import UserError
from distill.sampling.int8 import Int8Map, Weights
from distill.sampling.pages import Workspace, plan_pieces, plan_step
from distill.sampling.product import apply, product

# B rows, T prompt width, N tokens of a call, D width, H query heads, G key-value heads, P = 2G planes,
# d head width, L cached tokens read, R rows read together, K blocks of such a row, V vocabulary

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3", "yarn")
"""Rope variants whose angles do not depend on the length of the sequence."""

Map = Callable[[Tensor], Tensor]
Attend = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Block:
    """One layer's weights, ready to run."""

    qkv: Map
    out: Map
    gate_up: Map
    down: Map
    activation: Map
    norm_attention: Tensor
    norm_mlp: Tensor
    norm_q: Tensor | None
    norm_k: Tensor | None


class KVDecoder:
    """Implements `distill.sampling.protocols.Decoder` over a transformers causal model."""

    def __init__(self, model: Any, weights: Weights = "exact") -> None:
        """`weights` int8: of all plain matrices but the head, which shares its own with the embedding."""
        config = model.config
        _check(config)
        self.model, self.weights = model, weights
        self.heads: int = config.num_attention_heads
        self.groups: int = config.num_key_value_heads
        self.head_width: int = model.model.layers[0].self_attn.head_dim
        self.eps: float = config.rms_norm_eps
        self.vocab_size: int = config.vocab_size
        self.block_size = 0
        self.workspace = Workspace()
        self.scale: float = self.head_width**-0.5
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Build the fused matrices anew from the model's present weights."""
        self.embedding = self.model.get_input_embeddings()
        self.head = self.model.get_output_embeddings()
        self.norm_D = self.model.model.norm.weight.detach()
        self.blocks = [_block(layer, self.weights) for layer in self.model.model.layers]

    @property
    def cache_bytes_per_token(self) -> int:
        """Keys and values over all layers."""
        return len(self.blocks) * self._layer_bytes()

    @torch.no_grad()
    def allocate(self, blocks: int, block_size: int, longest: int) -> None:
        """The cache, and the rope angles of `longest` places."""
        limit = self.model.config.max_position_embeddings
        if longest > limit:
            raise UserError(
                f"max_tokens: with the longest prompt {longest} tokens, beyond the model's max_position_embeddings "
                f"({limit}); lower max_tokens by {longest - limit}, or ask shorter problems"
            )
        weight = self.embedding.weight
        self.block_size = block_size
        shape = (len(self.blocks), 2 * self.groups, blocks, block_size * self.head_width)
        # Zeros, not whatever memory held: a masked place still enters products, and NaN x 0 is NaN.
        self.cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.planes_P = torch.arange(2 * self.groups, device=weight.device) * blocks
        places = torch.arange(longest, device=weight.device)
        cos_1Ld, sin_1Ld = self.model.model.rotary_emb(weight[:1], places[None])
        half = self.head_width // 2
        self.cos_Ld = cos_1Ld[0]
        self.sin_Ld = torch.cat([-sin_1Ld[0, :, :half], sin_1Ld[0, :, half:]], dim=-1)  # sign of rotate_half

    @torch.no_grad()
    def prefill(self, ids_BT: Tensor, starts_B: Tensor, lengths_B: Tensor, tables_BM: Tensor) -> Tensor:
        """Append right-padded pieces to their rows; float32 logits (B, V) at each last token.

        Padding stands behind every real token and is never written, so the causal mask alone keeps it unseen.
        """
        B, T = ids_BT.shape
        begins = not starts_B.any()
        plan = plan_pieces(starts_B, lengths_B, tables_BM, T, self.block_size, self.cache.dtype, masked=not begins)
        attention, share = functional.scaled_dot_product_attention, self.heads != self.groups
        reading = None if begins else self._plane_blocks(plan.blocks_BK)

        def attend(index: int, qkv_NHd: Tensor) -> Tensor:
            self._write(index, qkv_NHd.index_select(0, plan.real_N), plan.places_N)
            q_BHTd, k_BGTd, v_BGTd = (
                part.view(B, T, -1, self.head_width).transpose(1, 2) for part in self._split(qkv_NHd)
            )
            if reading is None:
                mixed_BHTd = attention(q_BHTd, k_BGTd, v_BGTd, is_causal=True, enable_gqa=share)
            else:
                k_BGLd, v_BGLd = (part.unflatten(0, (B, -1)) for part in self._read(index, reading, plan.length))
                mixed_BHTd = attention(q_BHTd, k_BGLd, v_BGLd, attn_mask=plan.mask_B1TL, enable_gqa=share)
            return mixed_BHTd.transpose(1, 2).reshape(B * T, -1)

        positions_BT = starts_B[:, None] + torch.arange(T, device=ids_BT.device)
        hidden_ND = self._layers(ids_BT.flatten(), positions_BT.flatten().clamp_(max=len(self.cos_Ld) - 1), attend)
        last_B = torch.arange(B, device=ids_BT.device) * T + lengths_B - 1
        return self._logits(hidden_ND[last_B])

    @torch.no_grad()
    def step(self, ids_B: Tensor, positions_B: Tensor, tables_BM: Tensor) -> Tensor:
        """Append one token a row; float32 logits (B, V)."""
        plan = plan_step(positions_B, tables_BM, self.block_size, self.cache.dtype, self._layer_bytes())
        reading = [self._plane_blocks(part.blocks_RK) for part in plan.parts]
        masks = [part.mask_R1L.repeat_interleave(self.groups, dim=0) for part in plan.parts]

        def attend(index: int, qkv_NHd: Tensor) -> Tensor:
            self._write(index, qkv_NHd, plan.places_B)
            q_NHd = qkv_NHd[:, : self.heads] * self.scale
            mixed = []
            for part, blocks, mask in zip(plan.parts, reading, masks, strict=True):
                keys, values = self._read(index, blocks, part.length)  # (R*G, L, d)
                q = q_NHd[part.rows].reshape(len(keys), -1, self.head_width)
                weights = torch.baddbmm(mask, q, keys.transpose(1, 2)).softmax(-1)
                mixed.append(torch.bmm(weights, values).view(len(part.blocks_RK), -1))
            return torch.cat(mixed)

        return plan.in_call_order(self._logits(self._layers(ids_B[plan.order_B], plan.positions_B, attend)))

    @torch.no_grad()
    def copy(self, sources_B: Tensor, targets_B: Tensor) -> None:
        """Copy whole blocks over others."""
        self.cache[:, :, targets_B] = self.cache[:, :, sources_B]

    def _layer_bytes(self) -> int:
        return 2 * self.groups * self.head_width * int(self.embedding.weight.itemsize)

    def _write(self, index: int, qkv_NHd: Tensor, places_N: Tensor) -> None:
        """Put keys and values of tokens at their places."""
        places_NP = places_N[:, None] + self.planes_P * self.block_size
        flat = self.cache[index].view(-1, self.head_width)
        flat.index_copy_(0, places_NP.flatten(), qkv_NHd[:, self.heads :].reshape(-1, self.head_width))

    def _plane_blocks(self, blocks_RK: Tensor) -> Tensor:
        """Blocks of all planes in the order they are read: keys of every row and head, then values."""
        blocks_2RGK = self.planes_P.view(2, 1, -1, 1) + blocks_RK[None, :, None]
        return blocks_2RGK.flatten(0, 2)

    def _read(self, index: int, blocks: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (R*G, L, d) side by side."""
        rows = self.workspace.gather(self.cache[index].flatten(0, 1), blocks.flatten())
        keys, values = rows.view(2, len(blocks) // 2, -1, self.head_width)[:, :, :length]
        return keys, values

    def _layers(self, ids_N: Tensor, positions_N: Tensor, attend: Attend) -> Tensor:
        """The hidden state (N, D) behind the last layer, before the final norm."""
        x_ND: Tensor = self.embedding(ids_N)
        cos_N1d, sin_N1d = self.cos_Ld[positions_N][:, None], self.sin_Ld[positions_N][:, None]
        for index, block in enumerate(self.blocks):
            qkv_NHd = block.qkv(self._norm(x_ND, block.norm_attention)).view(len(ids_N), -1, self.head_width)
            self._rotate(qkv_NHd, block, cos_N1d, sin_N1d)
            x_ND = x_ND + block.out(attend(index, qkv_NHd))
            gate_NF, up_NF = block.gate_up(self._norm(x_ND, block.norm_mlp)).chunk(2, dim=-1)
            x_ND = x_ND + block.down(block.activation(gate_NF) * up_NF)
        return x_ND

    def _rotate(self, qkv_NHd: Tensor, block: Block, cos_N1d: Tensor, sin_N1d: Tensor) -> None:
        """Norm (Qwen3) and rotate queries and keys in place."""
        if block.norm_q is not None and block.norm_k is not None:
            q_NHd, k_NGd, _ = self._split(qkv_NHd)
            q_NHd.copy_(self._norm(q_NHd, block.norm_q))
            k_NGd.copy_(self._norm(k_NGd, block.norm_k))
        qk_NHd = qkv_NHd[:, : self.heads + self.groups]
        swapped_NHd = qk_NHd.roll(self.head_width // 2, dims=-1)
        qk_NHd.mul_(cos_N1d).add_(swapped_NHd.mul_(sin_N1d))

    def _split(self, qkv_NHd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, g = self.heads, self.groups
        return qkv_NHd[:, :h], qkv_NHd[:, h : h + g], qkv_NHd[:, h + g :]

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm in float32, weighted in the model's dtype, as transformers does it."""
        x32 = x.float()
        return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        logits_BV = apply(self.head, self._norm(hidden_BD, self.norm_D))
        return logits_BV.float()


def _check(config: Any) -> None:
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"model_type {config.model_type}: no decoder; there are {', '.join(ARCHITECTURES)} (a server of others can "
            "be sampled with sampler = 'endpoint')"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise UserError(f"layer_types {sorted(kinds)}: only full_attention has a decoder")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in ROPES:
        raise UserError(f"rope_type {rope}: no decoder; there are {', '.join(ROPES)}")


def _block(layer: nn.Module, weights: Weights) -> Block:
    attention: Any = layer.self_attn
    mlp: Any = layer.mlp
    norm_attention: Any = layer.input_layernorm
    norm_mlp: Any = layer.post_attention_layernorm
    normed = hasattr(attention, "q_norm")
    return Block(
        qkv=_together(weights, attention.q_proj, attention.k_proj, attention.v_proj),
        out=_together(weights, attention.o_proj),
        gate_up=_together(weights, mlp.gate_proj, mlp.up_proj),
        down=_together(weights, mlp.down_proj),
        activation=mlp.act_fn,
        norm_attention=norm_attention.weight.detach(),
        norm_mlp=norm_mlp.weight.detach(),
        norm_q=attention.q_norm.weight.detach() if normed else None,
        norm_k=attention.k_norm.weight.detach() if normed else None,
    )


def _together(weights: Weights, *layers: nn.Module) -> Map:
    """Several projections of one input as one: fused when all are plain, else side by side."""
    if weights == "exact" and len(layers) == 1:
        return partial(apply, layers[0])
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    if len(plain) < len(layers):
        return lambda x_ND: torch.cat([layer(x_ND) for layer in layers], dim=-1)
    weight = torch.cat([layer.weight.detach() for layer in plain])
    biases = [layer.bias.detach() for layer in plain if layer.bias is not None]
    bias = torch.cat(biases) if biases else None
    if weights == "int8":
        return Int8Map(weight, bias)
    return lambda x_ND: product(x_ND, weight, bias)
