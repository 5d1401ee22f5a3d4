"""Decode from the latent cache: the teacher's side of the engine.

A token keeps C + R numbers a layer: the normed latent and the rotated shared key. One
step never expands them: W_UK is absorbed into the query and W_UV into the output
projection, which leaves attention with one wide key shared by all heads (DeepSeek-V2,
arXiv 2405.04434, section 2.1.2). Prefill runs the model itself, expanded. Rows may stand
at different positions; a step costs the longest of them. No paging: a slot owns its
capacity.
"""

from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.errors import UserError
from teacher.attention import LatentAttention
from teacher.layer import DecoderLayer
from teacher.model import DeepseekForCausalLM
from teacher.resident import wide_weight
from teacher.rotary import turn_in_place
from teacher.rows import find_rows

# B rows of a step, T prompt width, D model width, H heads, Q query width, C latent width, R rotated
# width, W = C + R cached width, L cached length looked at, S slots looked at, V vocabulary


class LatentDecoder:
    """`distill.sampling.protocols.Decoder` over a model, live or loaded; holds a reference to it."""

    def __init__(self, model: DeepseekForCausalLM) -> None:
        self.model = model
        self.vocab_size: int = model.config.vocab_size
        self.width: int = model.config.kv_lora_rank + model.config.qk_rope_head_dim
        self.cache_values_per_token: int = self.width * model.config.num_hidden_layers
        self.capacity = 0
        self.refresh()

    @torch.inference_mode()
    def allocate(self, slots: int, capacity: int) -> None:
        """Make the cache: layers x slots x capacity x W. Contents are lost."""
        limit = self.model.config.max_position_embeddings
        if capacity > limit:
            raise UserError(f"cache capacity {capacity}: beyond the model's max_position_embeddings ({limit})")
        embedding = self.model.model.embed_tokens.weight
        self.capacity = capacity
        layers = self.model.config.num_hidden_layers
        # Zeros, not whatever memory held: a masked place still enters products, and NaN x 0 is NaN.
        self.cache = torch.zeros(layers, slots, capacity, self.width, dtype=embedding.dtype, device=embedding.device)

    @torch.inference_mode()
    def refresh(self) -> None:
        """Absorb the live model's weights anew; the cache is void."""
        body = self.model.model
        self.layers = [_make_layer(cast(DecoderLayer, layer)) for layer in islice(body.layers, body.depth)]

    @torch.inference_mode()
    def prefill(self, ids_BT: Tensor, lengths_B: Tensor, slots_B: Tensor) -> Tensor:
        """Run right-padded prompts from position 0 into their slots; logits (B, V) at each last token."""
        batch, width = ids_BT.shape
        body = self.model.model
        mask_BT = torch.arange(width, device=ids_BT.device) < lengths_B[:, None]
        rows = find_rows(batch, width, ids_BT.device, mask_BT)
        latents: list[Tensor] = []
        hidden_ND = body.run(body.embed_tokens(rows.gather(ids_BT)), rows, latents)
        slot_N = slots_B.repeat_interleave(lengths_B)
        for cache, latent_NW in zip(self.cache, latents, strict=True):
            cache[slot_N, rows.positions_N] = latent_NW
        logits: Tensor = self.model.lm_head(hidden_ND[lengths_B.cumsum(0) - 1])
        return logits.float()

    @torch.inference_mode()
    def step(self, ids_B: Tensor, positions_B: Tensor, slots_B: Tensor) -> Tensor:
        """Append one token a row at its position; logits (B, V)."""
        body = self.model.model
        positions_B, order_B = positions_B.sort()  # rows of like length side by side, for `_Reader`
        slots_B = slots_B[order_B]
        reader = _Reader(positions_B, slots_B, self.capacity, self.cache.dtype)
        turns_BP = body.rotary.turns(positions_B)
        x_BD = body.embed_tokens(ids_B[order_B])
        for cache, layer in zip(self.cache, self.layers, strict=True):
            x_BD = layer.step(x_BD, cache, reader, turns_BP)
        logits: Tensor = self.model.lm_head(body.norm(x_BD)).float()
        return torch.empty_like(logits).index_copy_(0, order_B, logits)

    @torch.inference_mode()
    def copy(self, source: int, targets_B: Tensor, length: int) -> None:
        """Copy the first `length` tokens of a slot into others."""
        self.cache[:, targets_B, :length] = self.cache[:, source : source + 1, :length]


class _Reader:
    """Attention of one step's rows over their slots, a few rows at a time.

    Rows come sorted by position; each group is copied out as far as its own longest row.
    The copy streams the cache once and leaves the group where both products find it near:
    on 256 rows of 20-120 tokens that halves the time of one product over all rows, on
    equal lengths it saves a quarter (one core, width 80; see docs/teacher.md).
    """

    GROUP = 32
    """Rows a group: 32 x 90 x 80 floats fill a megabyte of cache memory."""

    def __init__(self, positions_B: Tensor, slots_B: Tensor, capacity: int, dtype: torch.dtype) -> None:
        self.place_B = slots_B * capacity + positions_B
        self.slots = slots_B.split(self.GROUP)
        groups = positions_B.split(self.GROUP)
        self.lengths: list[int] = (torch.stack([group[-1] for group in groups]) + 1).tolist()
        columns_L = torch.arange(self.lengths[-1], device=positions_B.device)
        self.masks = []
        for group, length in zip(groups, self.lengths, strict=True):
            unseen_GL = columns_L[:length] > group[:, None]
            mask_GL = torch.zeros(unseen_GL.shape, dtype=dtype, device=group.device)
            self.masks.append(mask_GL.masked_fill_(unseen_GL, -torch.inf)[:, None])

    def write(self, cache_SLW: Tensor, latent_BW: Tensor) -> None:
        """Put each row's latent at its position."""
        cache_SLW.flatten(0, 1).index_copy_(0, self.place_B, latent_BW)

    def read(self, cache_SLW: Tensor, query_BHW: Tensor, latent_width: int) -> Tensor:
        """The mix of latents each head reads: (B, H, C)."""
        parts = []
        for slots, length, mask, query_GHW in zip(
            self.slots, self.lengths, self.masks, query_BHW.split(self.GROUP), strict=True
        ):
            key_GLW = cache_SLW[:, :length].index_select(0, slots)
            weights_GHL = torch.baddbmm(mask, query_GHW, key_GLW.transpose(1, 2)).softmax(-1)
            parts.append(torch.bmm(weights_GHL, key_GLW[..., :latent_width]))
        return torch.cat(parts)


FOLDED = 2**20
"""Most numbers of a folded output matrix. Folding saves calls where a layer is small; at V3's sizes it would read and
keep 2.4 times the query's weights and 3.5 times the output's (computed), in bfloat16 where those may be FP8."""


class _Layer:
    """One layer as a step runs it."""

    def __init__(self, module: DecoderLayer) -> None:
        self.module = module

    def step(self, x_BD: Tensor, cache: Tensor, reader: _Reader, turns_BP: Tensor) -> Tensor:
        """One token a row through the layer; writes its latent into `cache`."""
        module, attention = self.module, self.module.self_attn
        heads_BHW = self.project(module.input_layernorm(x_BD)).unflatten(-1, (attention.heads + 1, -1))
        turn_in_place(heads_BHW, turns_BP, attention.interleave)
        latent_BC = heads_BHW[:, -1, : attention.latent_width]
        latent_BC.copy_(attention.kv_a_layernorm(latent_BC))
        reader.write(cache, heads_BHW[:, -1])
        read_BHC = reader.read(cache, heads_BHW[:, :-1], attention.latent_width)
        x_BD = x_BD + attention.join(self.speak(read_BHC))
        output: Tensor = x_BD + module.mlp(module.post_attention_layernorm(x_BD))
        return output

    def project(self, x_BD: Tensor) -> Tensor:
        """(B, (H + 1) * W): absorbed queries, then latent and shared key, not yet rotated or normed."""
        raise NotImplementedError

    def speak(self, read_BHC: Tensor) -> Tensor:
        """What the heads read, (B, H, C), as this rank's part of the output (B, D)."""
        raise NotImplementedError


class _FoldedLayer(_Layer):
    """Weights folded once, so that attention is two products and a read."""

    def __init__(self, module: DecoderLayer) -> None:
        super().__init__(module)
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
            return F.linear(x_BD, self.query_in, self.bias)
        attention = self.module.self_attn
        query = F.linear(attention.q_a_layernorm(attention.q_a_proj(x_BD)), self.query_in)
        return torch.cat((query, attention.kv_a_proj_with_mqa(x_BD)), dim=-1)

    def speak(self, read_BHC: Tensor) -> Tensor:
        return F.linear(read_BHC.flatten(1), self.output, self.module.self_attn.o_proj.bias)


class _WideLayer(_Layer):
    """Query and output projections as they are, FP8 or not; keeps W_UK and W_UV of its heads, wide, between them."""

    def __init__(self, module: DecoderLayer) -> None:
        super().__init__(module)
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


def _make_layer(module: DecoderLayer) -> _Layer:
    return _FoldedLayer(module) if is_folded(module.self_attn) else _WideLayer(module)


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
