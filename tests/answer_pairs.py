"""Pairs of answers and what the judge says of them: the specification of equivalence, by example.

Each row is (gold, said, status); None is left to computer algebra. `tests/test_equivalence.py`
runs them, and `tests/audit/mutation.py` changes every comparison of the code and wants one to break.
"""

from tests.form_pairs import FORM_PAIRS
from tests.shape_pairs import SHAPE_PAIRS
from tests.value_pairs import VALUE_PAIRS

PAIRS = {**VALUE_PAIRS, **FORM_PAIRS, **SHAPE_PAIRS}
