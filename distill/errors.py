"""What went wrong, in one line a user can act on."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: names file, table, key, value and what was expected.

    The command line prints the message as it is and exits with code 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` for the closest of `known`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
