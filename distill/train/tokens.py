"""One tokenizer for teacher and student: without it a log-probability of token 17 is about two different things.

Compared token by token. Tokens that only one side has are let be: a teacher's go into the tail, and a
vocabulary's padding (Qwen's small models have 151,936 rows, its large ones 152,064) is no token at all.
"""

from collections.abc import Mapping, Sequence

from distill.errors import UserError
from distill.prompts import Chat

REMEDY = (
    "log-probabilities can be learned from a teacher with the student's tokenizer alone: choose such a student, "
    "or train on the teacher's text with sft"
)


def check_same_tokens(teacher: Mapping[str, int], student: Mapping[str, int], where: str) -> None:
    """UserError naming the first token on which two vocabularies differ."""
    theirs, ours = ({number: token for token, number in side.items()} for side in (teacher, student))
    for number in sorted(theirs.keys() & ours.keys()):
        if theirs[number] != ours[number]:
            raise UserError(
                f"{where}: token {number} is {theirs[number]!r} to the teacher and {ours[number]!r} to the student; "
                + REMEDY
            )
    for token, number in sorted(teacher.items(), key=lambda pair: pair[1]):
        if student.get(token, number) != number:
            raise UserError(
                f"{where}: token {token!r} is {number} to the teacher and {student[token]} to the student; {REMEDY}"
            )


def check_same_row(theirs: Sequence[int], ours: Sequence[int], where: str) -> None:
    """UserError naming the first place where the teacher's tokens of a row are not the student's."""
    if list(theirs) == list(ours):
        return
    pairs = enumerate(zip(theirs, ours, strict=False))
    place = next((at for at, (first, second) in pairs if first != second), min(len(theirs), len(ours)))
    said = [str(row[place]) if place < len(row) else "nothing" for row in (theirs, ours)]
    raise UserError(
        f"{where}: token {place} is {said[0]} to the teacher and {said[1]} to the student: "
        f"their chat templates or tokenizers differ; {REMEDY}"
    )


def size(vocabulary: Mapping[str, int]) -> int:
    """Rows a model needs for it: beyond are padding."""
    return max(vocabulary.values()) + 1


def vocabulary_of(chat: Chat) -> dict[str, int]:
    """Every token with its id."""
    return dict(chat.tokenizer.get_vocab())
