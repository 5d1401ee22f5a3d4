"""Language: whether a completion stays in the language of its question.

The language consistency reward of DeepSeek-R1 (arXiv 2501.12948, section 2.3.2): the share of words in the target
language. The target is the question's language where that is certain, else the one most of the completion is in. Words
of another script count one by one; words of the same script in chunks that py3langid calls another language with
confidence. Words the question says itself, and short terms in Latin letters within another script, are nobody's fault.
What is not covered: close relatives (Norwegian is Danish here, Catalan is Spanish), translation tasks, a single
sentence of fewer words than a chunk, a name in another script that the question does not say (it costs its letters).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from distill.judge.style.prose import UNSPACED, Word, prose, words
from distill.judge.style.score import Style, quoted

LANGUAGES = {
    "latin": "cs da de en es et fi fr hr hu id it lt lv nl pl pt ro sq sv sw tl tr vi",
    "han": "ja zh",
    "kana": "ja zh",
    "cyrillic": "bg ru sr uk",
    "arabic": "ar fa ur",
    "devanagari": "hi mr ne",
}
"""Languages told apart within a script; scripts without a row have one. With all 140 of py3langid, English about
mathematics is now and then called Nigerian Pidgin, Breton or Kabyle."""
TOGETHER = {"kana": ("kana", "han"), "hangul": ("hangul", "han")}
"""Scripts that one language writes in."""
CHUNK = 12
"""Words that are classified together. Of 36,965 chunks of 2,012 real English completions py3langid calls 99.7% English
with CONFIDENCE and one another language, which is noise (docs/judge.md)."""
CONFIDENCE = 0.7
"""From here py3langid's probability counts as certain."""
KNOWN_FROM = 6
"""Words of a question from which on its language can be certain; its script is from half of them."""
SHORTEST = 6
"""Words of a completion under which there is nothing to judge."""
PHRASE = 4
"""Neighboring words in Latin letters that are a phrase and no term, within a text of another script. Those in capitals
are segments and triangles."""


def language(thought: str, answer: str, question: str | None = None) -> Style:
    """Share of a completion's words in the language of `question`."""
    said = list(words(prose(f"{thought}\n{answer}")))
    asked = list(words(prose(question or "")))
    if len(said) < SHORTEST:
        return Style(1.0, "", {"words": len(said), "other": 0})
    known = 2 * len(asked) >= KNOWN_FROM
    script = main_script(asked if known else said)
    target = certain_language(asked, script) if known else None
    own_scripts = TOGETHER.get(script, (script,))
    own = [word for word in said if word.script in own_scripts]
    other = _foreign(said, own_scripts, {word.text.casefold() for word in asked})
    total = len(own) + len(other)
    found = [(chunk, _classified(chunk, script)) for chunk in _chunks(own)]
    if target is None:
        votes = Counter(name for _, name in found if name)
        target = votes.most_common(1)[0][0] if votes else None
    for chunk, name in found:
        if name and name != target:
            other += chunk
    score = 1 - len(other) / max(1, total)
    counts = {"words": total, "other": len(other)}
    return Style(score, _reason(other, total, target or script, known), counts)


def main_script(said: Sequence[Word]) -> str:
    """The script most words are in; Japanese where a tenth of the characters are kana."""
    counts = Counter(word.script for word in said)
    if counts["kana"] * 9 >= counts["han"] > 0:
        counts["kana"] += counts.pop("han")
    return max(counts, key=lambda script: counts[script])


def certain_language(said: Sequence[Word], script: str) -> str | None:
    """The language of the words in `script`; None when they are too few or py3langid is not certain."""
    own = [word for word in said if word.script in TOGETHER.get(script, (script,))]
    return _classified(own, script) if len(own) >= KNOWN_FROM else None


def _foreign(said: Sequence[Word], own_scripts: Sequence[str], asked: set[str]) -> list[Word]:
    """Words of other scripts, without what the question says and without Latin terms."""
    found: list[Word] = []
    for script, group in groupby(said, key=lambda word: word.script):
        run = [word for word in group if script != "latin" or not word.text.isupper()]
        if script in own_scripts or (script == "latin" and len(run) < PHRASE):
            continue
        found += [word for word in run if word.text.casefold() not in asked]
    return found


def _chunks(own: Sequence[Word]) -> list[Sequence[Word]]:
    """Neighboring words, CHUNK at a time; what is left over joins the last, so that none is short."""
    starts = range(0, max(CHUNK, len(own) - len(own) % CHUNK), CHUNK)
    ends = [*starts[1:], len(own)]
    whole = [own[start:end] for start, end in zip(starts, ends, strict=True)]
    return [chunk for chunk in whole if len(chunk) >= CHUNK]


def _classified(chunk: Iterable[Word], script: str) -> str | None:
    """The language of a chunk, or None when py3langid is not certain or the script has but one."""
    if script not in LANGUAGES:
        return None
    space = "" if script in UNSPACED else " "
    name, probability = _identifier().classify(space.join(word.text for word in chunk))
    return name if probability >= CONFIDENCE and name in LANGUAGES[script].split() else None


@cache
def _identifier() -> Any:
    """An identifier of our own: `py3langid.set_languages` would change everybody's. Only read after this, so that
    threads may share it; two threads that come first both load one, and either is right."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(set(" ".join(LANGUAGES.values()).split())))
    return identifier


def _reason(other: Sequence[Word], total: int, target: str, known: bool) -> str:
    if not other:
        return ""
    whose = "the question's" if known else "mostly the completion's own"
    first = quoted(("" if other[0].script in UNSPACED else " ").join(word.text for word in other[:CHUNK]))
    return f"{len(other)} of {total} words are not in {target}, {whose} language: {first}"
