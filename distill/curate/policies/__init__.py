"""Policies: which of the traces that may be learned from are learned from, as an ordered list of small rules."""

from distill.curate.policies.applying import apply
from distill.curate.policies.chain import Choice, choose, names, relabels, sketched
from distill.curate.policies.config import Policies, Policy
from distill.curate.policies.rules import Given
from distill.curate.policies.scores import read_scores

__all__ = ["Choice", "Given", "Policies", "Policy", "apply", "choose", "names", "read_scores", "relabels", "sketched"]
