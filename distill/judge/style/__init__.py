"""Style: how a completion says what it says, apart from being right.

Five looks, each a score for rewards and a reason for filters. Each module says where its measure comes from.
"""

from distill.judge.style.form import form, format_score
from distill.judge.style.looks import LOOKS, Look, styles
from distill.judge.style.score import Style

__all__ = ["LOOKS", "Look", "Style", "form", "format_score", "styles"]
