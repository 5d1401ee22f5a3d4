"""Choose: apply policies one after another to light rows.

Pure and deterministic: what is taken depends on the rows, the policies and the seed, never
on the order the rows come in. Every row not taken carries the policy that refused it, a
reason code, the value that decided and the threshold it was held against. Reads no text.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from distill.curate.content.finding import Finding
from distill.curate.policies.config import AnyPolicy, Diverse, Majority
from distill.curate.policies.rules import RULES, Given
from distill.curate.row import Row
from distill.judge.votes import Vote


@dataclass(slots=True)
class Step:
    """What one policy did."""

    policy: str
    before: int
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def after(self) -> int:
        """Rows that passed."""
        return self.before - self.reasons.total()


@dataclass(frozen=True, slots=True)
class Choice:
    """What is taken, what is not and why, and the labels that changed."""

    taken: tuple[int, ...]
    """Indices into the rows, in their order."""
    refused: Mapping[int, tuple[str, Finding]]
    """By index: name of the policy that refused the row, and why."""
    steps: tuple[Step, ...]
    """One a policy, in order."""
    relabeled: Mapping[int, Vote]
    """By index of the problem."""

    @property
    def lines(self) -> tuple[str, ...]:
        """Plain text for the screen: how many labels changed, and by what margin."""
        if not self.relabeled:
            return ()
        margins = sorted(vote.margin for vote in self.relabeled.values())
        middle = margins[len(margins) // 2]
        return (
            f"majority label for {len(margins):,} problems; margin {margins[0]:.2f} to {margins[-1]:.2f}, "
            f"median {middle:.2f}",
        )

    @property
    def marks(self) -> dict[str, object]:
        """The same for the manifest: margins of changed labels, none where none changed."""
        margins = sorted(round(vote.margin, 4) for vote in self.relabeled.values())
        return {"relabeled": margins} if margins else {}


def choose(rows: Sequence[Row], policies: Sequence[AnyPolicy], given: Given) -> Choice:
    """Apply `policies` in order. Raises UserError when a policy asks for what the rows do not have."""
    left = list(range(len(rows)))
    refused: dict[int, tuple[str, Finding]] = {}
    relabeled: dict[int, Vote] = {}
    steps = []
    for name, policy in zip(names(policies), policies, strict=True):
        judgement = RULES[type(policy)](rows, left, policy, given, relabeled)
        steps.append(Step(name, len(left), Counter(said.reason for said in judgement.values())))
        refused |= {index: (name, said) for index, said in judgement.items()}
        left = [index for index in left if index not in judgement]
    return Choice(tuple(left), refused, tuple(steps), relabeled)


def names(policies: Sequence[AnyPolicy]) -> list[str]:
    """What each policy is called in a history: its name, numbered where it comes again."""
    times: Counter[str] = Counter()
    told = []
    for policy in policies:
        times[policy.policy] += 1
        told.append(policy.policy if times[policy.policy] == 1 else f"{policy.policy}-{times[policy.policy]}")
    return told


def relabels(policies: Sequence[AnyPolicy]) -> bool:
    """Whether labels may change, so that a row's extracted answer has to be known."""
    return any(isinstance(policy, Majority) for policy in policies)


def sketched(policies: Sequence[AnyPolicy]) -> bool:
    """Whether a policy compares texts, so that a row's sketch has to be made."""
    return any(isinstance(policy, Diverse) for policy in policies)
