"""What went wrong, in one line a user can act on."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: names file, table, key, value and what was expected.

    The command line prints the message as it is and exits with code 2.
    """


class LostError(UserError):
    """Who was asked is gone, or does not answer: what it owes can be asked for again, of it or of nobody."""


class StoppedError(Exception):
    """A limit of the recipe was reached: nothing is lost, and the same command goes on when the limit is raised.

    The command line prints the message as it is and exits with code 3.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` for the closest of `known`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


SHOWN = 100
"""Characters of a foreign name or value in an error line."""


def shown(value: object) -> str:
    """A name or value from elsewhere as one short printable piece of a line; plain when it is a plain word."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)[: 2 * SHOWN]
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
