"""Variants of GRPO's loss, named after their papers, in the terms of TRL's GRPOTrainer.

- `grpo`: DeepSeekMath, arXiv 2402.03300, equation 3: each completion's mean over its tokens, then the mean over
  completions.
- `dapo`: arXiv 2503.14476, equation 8: the mean over all tokens of the step, long completions counting by their length;
  the ratio may rise further than it may fall (clip-higher, section 3.1).
- `dr-grpo`: arXiv 2503.20783, section 3.2: a constant in place of the length, and no standard deviation, since both
  favor some completions over others.
- `gspo`: arXiv 2507.18071, equations 5-7: one ratio a completion, the geometric mean of its tokens', clipped whole.

DAPO's dynamic sampling is not here: groups without a signal are left out, and not sampled again. Its overlong
punishment is the reward `length`.
"""

from dataclasses import dataclass
from typing import Literal

Loss = Literal["grpo", "dapo", "dr-grpo", "gspo"]


@dataclass(frozen=True, slots=True)
class Variant:
    """What a paper says where the table says nothing."""

    loss_type: str
    """TRL's word for how tokens are averaged."""
    level: Literal["token", "sequence"]
    """What has a ratio."""
    std: bool
    """Whether advantages are divided by their group's standard deviation."""
    clip_low: float
    clip_high: float

    @property
    def averages_rows(self) -> bool:
        """Whether a part of a step counts by its completions; else TRL is told the tokens of the whole step."""
        return self.loss_type != "dapo"


VARIANTS: dict[Loss, Variant] = {
    "grpo": Variant("grpo", "token", std=True, clip_low=0.2, clip_high=0.2),
    "dapo": Variant("dapo", "token", std=True, clip_low=0.2, clip_high=0.28),
    "dr-grpo": Variant("dr_grpo", "token", std=False, clip_low=0.2, clip_high=0.2),
    "gspo": Variant("grpo", "sequence", std=True, clip_low=3e-4, clip_high=4e-4),
}
