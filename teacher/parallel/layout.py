"""Which rank holds what: heads, feed-forward columns, experts and vocabulary rows, by published tensor name.

Tensor parallelism splits heads and feed-forwards within a layer (Megatron-LM, arXiv 1909.08053,
section 3); expert parallelism gives every rank some of the experts (DeepSeek-V3, arXiv 2412.19437,
section 3.4). The two share the ranks: there are as many as the larger of both sizes.

| what | split over |
|---|---|
| heads (q, kv expansion, output), dense feed-forward | tensor |
| routed experts | expert; where that leaves ranks over, each expert's inner width over those |
| shared expert, embedding, head | all ranks |
| latents' projections, norms, router | not split |

Pure arithmetic: knows no process group, so the same rules plan, load and split. The latent cache is
not split either: it has no heads, every rank keeps all of it.
"""

import re
from dataclasses import dataclass

from distill.errors import UserError
from teacher.config import TeacherConfig
from teacher.fp8 import BLOCK, SCALE


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the split and one rank's place in it."""

    tensor: int = 1
    expert: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        small, large = sorted((self.tensor, self.expert))
        if small < 1 or large % small:
            raise UserError(
                f"tensor_parallel {self.tensor}, expert_parallel {self.expert}: expected one to divide the other"
            )
        assert 0 <= self.rank < large, f"rank {self.rank} of {large}"

    @property
    def world(self) -> int:
        """Processes in all."""
        return max(self.tensor, self.expert)

    @property
    def inner(self) -> int:
        """Ranks that share one expert's inner width."""
        return self.world // self.expert

    def experts(self, total: int) -> range:
        """The routed experts this rank holds, whole or a part of their width."""
        count = total // self.expert
        first = self.rank // self.inner * count
        return range(first, first + count)


@dataclass(frozen=True, slots=True)
class Share:
    """Part `part` of `parts` along dimension `dim`; the last may be shorter."""

    dim: int = 0
    part: int = 0
    parts: int = 1

    def bounds(self, length: int) -> tuple[int, int]:
        """First and one past the last index of a dimension of this length."""
        size = -(-length // self.parts)
        return min(self.part * size, length), min((self.part + 1) * size, length)

    def ranges(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """This part of a tensor of this shape, as `teacher.checkpoint.Part`."""
        if self.parts == 1:
            return ()
        return (slice(None),) * self.dim + (slice(*self.bounds(shape[self.dim])),)


WHOLE = Share()

_HEADS = re.compile(r".*self_attn\.(?:q_proj|q_b_proj|kv_b_proj|(?P<out>o_proj))\.weight")
_EXPERT = re.compile(r".*mlp\.experts\.(?P<expert>\d+)\.(?:gate|up|(?P<out>down))_proj\.weight")
_SHARED = re.compile(r".*mlp\.shared_experts\.(?:gate|up|(?P<out>down))_proj\.weight")
_DENSE = re.compile(r".*mlp\.(?:gate|up|(?P<out>down))_proj\.weight")
_VOCABULARY = re.compile(r"(?:.*\.)?(?:embed_tokens|lm_head|shared_head\.head)\.weight")


def share_of(name: str, config: TeacherConfig, layout: Layout) -> Share | None:
    """This rank's part of a published tensor (or of its FP8 scales); None where others hold it."""
    weight = name.removesuffix(SCALE)
    tensor, world = (layout.rank % layout.tensor, layout.tensor), (layout.rank, layout.world)
    if expert := _EXPERT.fullmatch(weight):
        if int(expert["expert"]) not in layout.experts(config.n_routed_experts):
            return None
        return Share(1 if expert["out"] else 0, layout.rank % layout.inner, layout.inner)
    for pattern, (part, parts) in ((_HEADS, tensor), (_SHARED, world), (_DENSE, tensor)):
        if found := pattern.fullmatch(weight):
            return Share(1 if found["out"] else 0, part, parts)
    if _VOCABULARY.fullmatch(weight):
        return Share(0, *world)
    if name.endswith("self_attn.o_proj.bias") and tensor[0]:
        return None  # added once, where the partial sums meet
    return WHOLE


def check_layout(config: TeacherConfig, layout: Layout, *, fp8: bool = False) -> None:
    """Raise UserError naming the first size that does not divide.

    With `fp8` every part must also begin at a multiple of 128, where a block of scales begins.
    """
    inner, shared = config.moe_intermediate_size, config.moe_intermediate_size * config.n_shared_experts
    splits = (
        ("tensor_parallel", layout.tensor, "num_attention_heads", config.num_attention_heads),
        ("tensor_parallel", layout.tensor, "intermediate_size", config.intermediate_size),
        ("expert_parallel", layout.expert, "n_routed_experts", config.n_routed_experts),
        ("the ranks an expert is split over,", layout.inner, "moe_intermediate_size", inner),
        ("the number of ranks,", layout.world, "the shared expert's width", shared),
    )
    for key, parts, what, length in splits:
        if length % parts:
            raise UserError(f"{key} {parts}: does not divide {what} ({length})")
    rows = -(-config.vocab_size // layout.world)
    if rows * (layout.world - 1) >= config.vocab_size:
        raise UserError(
            f"the number of ranks, {layout.world}: leaves ranks without a row of vocab_size ({config.vocab_size})"
        )
    if not fp8:
        return
    heads = config.num_attention_heads // layout.tensor
    widths = {
        "query rows": (layout.tensor, heads * config.qk_head_dim),
        "key and value rows": (layout.tensor, heads * (config.qk_nope_head_dim + config.v_head_dim)),
        "output columns": (layout.tensor, heads * config.v_head_dim),
        "dense feed-forward rows": (layout.tensor, config.intermediate_size // layout.tensor),
        "expert rows": (layout.inner, inner // layout.inner),
        "shared expert rows": (layout.world, shared // layout.world),
    }
    for what, (parts, width) in widths.items():
        if parts > 1 and width % BLOCK:
            raise UserError(f"{what}: {width} a rank, expected a multiple of {BLOCK}: FP8 scales cover whole blocks")
