"""What the table of an `on-policy` step may say."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from distill.records import Params
from distill.sampling.protocols import CACHE_GB
from distill.selection import Instruction, Selection
from distill.train.logits import Scoring
from distill.train.objective import Objective
from distill.train.schedule import TrainConfig


class OnPolicyConfig(TrainConfig, Scoring):
    """Table of an `on-policy` step."""

    inputs: ClassVar[tuple[str, ...]] = ("model", "teacher", "tokenizer", "problems", "data")
    model: str
    """Step or path of the student to start from."""
    teacher: str | None = None
    """Checkpoint that corrects it; or give `endpoint`."""
    problems: str | None = None
    """Step or path of the problems the student is asked; without it, the prompts of `data`."""
    data: str | None = None
    """Step or path of examples: their prompts, and their rows where `on_policy` is below 1."""
    select: Selection = Selection()
    """Which problems take part."""
    focus: dict[str, float] = Field(default_factory=dict)
    """Weight of a family (`stories`) or one of its levels (`stories/level-4`) in the mix; 1 where nothing is said."""
    instruction: Instruction = "none"
    """What the user turn says after the problem."""
    steps: int = Field(gt=0)
    """Optimizer steps, each on fresh turns."""
    on_policy: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps on the student's own turns, evenly spread; the others take rows of `data` (GKD's lambda)."""
    objective: Objective = Objective(kind="reverse-kl")
    """Which divergence: `kind`, `beta` of `jsd`, `temperature`."""
    prompts_per_step: int = Field(default=64, gt=0)
    """Problems a step."""
    samples: int = Field(default=1, gt=0)
    """Completions a problem."""
    max_tokens: int = Field(gt=0)
    """Longest completion; a longer one is cut and learned from as far as it goes."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the student's turns."""
    tokens_per_batch: int = Field(default=2048, gt=0)
    """Most tokens of a step on rows of `data`."""
    max_length: int = Field(default=2048, gt=0)
    """Longest row of `data`, in tokens. Rows are never cut."""
    context: int | None = Field(default=None, gt=0)
    """With `endpoint`: longest sequence the server takes."""
    judged: bool = False
    """Have the judge count right turns, which costs its time and teaches nothing."""
    compatible: float = Field(default=0.5, ge=0, le=1)
    """Least mass the tokens likeliest to both must have under each, on the probe, to start."""
    probe: int = Field(default=64, gt=0)
    """Turns looked at before the first step."""
    tokens_per_pass: int = Field(default=8192, gt=0)
    """Padded tokens of one forward and backward pass: bounds memory, changes nothing else."""
    slots: int = Field(default=256, gt=0)
    """Completions sampled at a time."""
    cache_gb: float = Field(default=CACHE_GB, gt=0.0)
    """Memory for the engine's cache, in 10^9 bytes; what does not fit at once waits."""
    allow_contaminated: bool = False
    """Take `data` that was never compared with the benchmarks."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    """`adamw`: AdamW for all. `muon`: Muon for the matrices, AdamW for the rest."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """Peak rate of whatever AdamW trains."""
    warmup_steps: int = Field(default=2, ge=0)
    """Steps over which the rate rises from zero."""
    save_every: int = Field(default=10, ge=0)
    """Steps between resumable states; 0 keeps none, so that a killed step starts again."""
    keep_best: Literal["loss", "accuracy"] | None = None
    """Of the states saved the one whose step had the lowest loss, or the highest accuracy, is kept too."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.teacher is None) == (self.endpoint is None):
            raise ValueError("teacher and endpoint: give exactly one of them")
        if (self.context is None) != (self.endpoint is None):
            raise ValueError("context: needed with endpoint, which does not tell it, and only there")
        if self.problems is None and self.data is None:
            raise ValueError("problems and data: give one of them, the student has to be asked something")
        if self.on_policy < 1 and self.data is None:
            raise ValueError("on_policy: below 1 the other steps take rows of data, which is not given")
        if self.keep_best == "accuracy" and not (self.judged and self.on_policy == 1):
            raise ValueError("keep_best = 'accuracy' needs it at every step: set judged = true and on_policy = 1")
        if self.judged and self.problems is None:
            raise ValueError("judged: prompts of data have no answer to judge by; give problems")
        if self.objective.kind == "sampled-reverse-kl" and self.on_policy < 1:
            raise ValueError("objective.kind: sampled-reverse-kl needs on_policy = 1, for rows of data are no samples")
        return self

    @property
    def params(self) -> Params:
        """How the student is sampled."""
        return Params(max_tokens=self.max_tokens, temperature=self.temperature)
