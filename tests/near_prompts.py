"""A corpus whose duplicates are known: prompts of four families, edited copies of some, and false friends.

Built, not collected: sentences are drawn from small banks, so prompts share phrases as procedural
and scraped ones do. No two prompts share family, sentences and figures, so whatever is dropped
without having been planted is a false drop. A *friend* is a copy with one thing changed that
makes it another question: a number, two numbers exchanged, a sign, a telling word, or, in a
short prompt, any word.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distill.curate.normalize import is_figure, tokens

_WORD, _PHRASE = re.compile(r"\w+"), re.compile("[^;]+")
NAMES = _WORD.findall(
    "Ada Ben Carla Dmitri Elena Farid Grace Hugo Irene Jamal Kenji Leila Marco Nadia Omar Priya Quentin Rosa Samir "
    "Tara Ulrich Vera Walid Xenia Yusuf Zoe"
)
THINGS = _WORD.findall(
    "apples pencils marbles stickers notebooks tickets bottles cookies candles postcards magnets ribbons stamps shells "
    "buttons bracelets lanterns muffins batteries seedlings envelopes puzzles balloons tiles"
)
PLACES = _WORD.findall(
    "market library bakery museum station garden workshop harbor school kitchen warehouse orchard clinic theater"
)
OPENINGS = (
    "{a} has {n} {t} in a box at the {p}.",
    "At the {p}, {a} bought {n} {t} for ${m} each.",
    "A shop near the {p} sells {t} in packs of {n}.",
    "{a} collected {n} {t} during the summer holidays.",
    "There were {n} {t} on the shelf of the {p} this morning.",
    "{a} and {b} share {n} {t} that their aunt sent them.",
    "The {p} ordered {n} crates, and every crate holds {m} {t}.",
    "A class of {n} students visits the {p} with their teacher {a}.",
    "{a} drives {n} kilometers to the {p} and returns by a road of {m} kilometers.",
    "Every weekday {a} makes {n} {t} and packs them into boxes of {m}.",
    "{a} saved ${n} in the spring to buy {t} for the {p}.",
    "A machine in the {p} fills {n} bags with {t} in {m} minutes.",
)
MIDDLES = (
    "Then {b} gives away {n} {t} to some friends.",
    "On Tuesday {n} of them were found to be broken.",
    "{b} brings {n} boxes, each with {m} {t} inside.",
    "A storm ruins {n} percent of the {t} in storage.",
    "The price of one piece rises by ${n} in the autumn.",
    "Later {a} sells {n} {t} to the owner of the {p}.",
    "Each visitor takes {n} {t} home, and {m} visitors come.",
    "{b} works for {n} hours and earns ${m} an hour.",
    "They put aside {n} {t} for the winter fair.",
    "A delivery of {n} {t} arrives from the {p} at noon.",
    "{a} loses {n} {t} on the way to the {p}.",
    "Their neighbor {b} returns {n} {t} borrowed long ago.",
    "In the evening {n} children ask for {m} {t} apiece.",
    "Packing takes {n} minutes, and the drive takes {m} minutes.",
)
QUESTIONS = (
    "How many {t} does {a} have at the end?",
    "How many {t} are left in the {p}?",
    "What is the total cost in dollars?",
    "How much money does {b} have now?",
    "What fraction of the {t} is still there?",
    "How many minutes does the whole job take?",
    "How many boxes of {n} can {a} fill with what remains?",
    "What is the sum of all the {t} they own together?",
    "How many more {t} does {a} have than {b}?",
    "Find the greatest number of {t} that one visitor can carry.",
)
FORMULAS = (
    "f(x) = {n}x^{2} + {m}x - {k}",
    "\\frac{{{n}}}{{x + {m}}} \\leq {k}",
    "\\sqrt{{{n}x - {m}}} = {k}",
    "{n}x + {m}y = {k}",
    "|x - {n}| \\geq {m}",
    "\\frac{{{n}}}{{{m}}} + \\frac{{x}}{{{k}}} = y",
    "{n} \\cdot 2^{{x}} - {m} = {k}",
    "\\left( x + {n} \\right)\\left( x - {m} \\right) = {k}",
    "x^{{3}} - {n}x^{{2}} + {m}x = {k}",
    "a_{{{n}}} = {m} \\cdot a_{{1}} + {k}",
)
ASKED = (
    "Find the sum of all real solutions of the equation above.",
    "Determine the smallest positive integer for which the statement holds.",
    "What is the value of $x$ in lowest terms?",
    "How many integers satisfy this condition?",
    "Compute the exact value of the discriminant.",
    "Find the area of the region bounded by the curve and the axes.",
    "Show that the solution set is an interval and give its length.",
    "For which values of the parameter does a solution exist?",
)
TASKS = (
    "takes a list of integers and returns the {w} elements that are divisible by {n}",
    "reads a string and counts how often the {w} letter occurs in every window of {n} characters",
    "merges two sorted lists and drops values larger than {n} from the {w} one",
    "returns the {w} path through a grid of {n} rows where each step costs {m}",
    "splits a text into lines of at most {n} characters and pads the {w} line",
    "computes the {w} checksum of a byte string modulo {n}",
    "finds the {w} pair of numbers in the list whose distance is {n}",
    "rotates a matrix by {n} quarter turns and returns the {w} column",
)
WHICH = _WORD.findall(
    "first last longest shortest rarest cheapest heaviest oldest newest median second middle outer inner"
)
SUBJECTS = _WORD.findall(
    "photosynthesis inflation erosion gravity democracy migration friction evolution radiation combustion diplomacy "
    "encryption fermentation magnetism urbanization irrigation vaccination navigation taxation refraction literacy "
    "conduction pollination censorship automation recycling translation forecasting composting metallurgy"
)
KINDS = _WORD.findall(
    "rural medieval coastal tropical industrial modern ancient alpine arctic urban nuclear digital domestic imperial "
    "marine organic orbital regional seasonal silent solar soviet thermal tidal volcanic wartime colonial desert "
    "glacial hydraulic magnetic maritime monastic nordic optical polar printed roman suburban victorian"
)
ASPECTS = _PHRASE.findall(
    "the role of energy;the main historical causes;the effect on daily life;the strongest objections;the usual "
    "misconceptions;the link with public policy;a simple experiment;the ethical side;the economic cost;the open "
    "research problems;the mathematical model;the vocabulary a beginner needs;the tools that experts use;the "
    "environmental impact;the cultural background;an everyday analogy"
)
AUDIENCES = _PHRASE.findall(
    "a curious child;a group of retired engineers;students of a night school;the readers of a local newspaper;a "
    "committee of farmers;visitors of a science fair;new volunteers at a hospital;people who distrust experts;a "
    "class of future teachers;the crew of a research vessel"
)
ADDED = (
    "Show your work.",
    "Think carefully before you write anything.",
    "Please reason step by step, and put your final answer within a box.",
    "Give your answer as a simplified fraction.",
    "Explain each step in plain English.",
    "Answer in the same units as the question.",
    "You may use a calculator for this exercise.",
    "This question is from an old school competition.",
    "Write the final answer on its own line.",
    "Assume that nothing else changes.",
)
SYNONYMS = _WORD.findall(
    "certain little usual famous simple general actual common whole local proper single fresh early"
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, the question it asks, and how it came to be."""

    text: str
    question: int
    """Prompts of one question are duplicates of one another."""
    how: str


def corpus(originals: int, copies: int, seed: int) -> list[Prompt]:
    """That many different prompts, a tenth of them false friends of others, and edited copies, in random order."""
    dice = random.Random(seed)
    friends = originals // 10
    prompts: list[Prompt] = []
    seen: set[int] = set()
    while len(prompts) < originals - friends:
        text, key = _original(dice)
        if hash(key) not in seen:
            seen.add(hash(key))
            prompts.append(Prompt(text, len(prompts), "original"))
    plain = len(prompts)
    while len(prompts) < originals:
        how, text = _friend(prompts[dice.randrange(plain)].text, dice)
        if text is not None and hash(text) not in seen:
            seen.add(hash(text))
            prompts.append(Prompt(text, len(prompts), how))
    while len(prompts) < originals + copies:
        source = prompts[dice.randrange(plain)]
        how, text = _copy(source.text, dice)
        if text is not None and text != source.text:
            prompts.append(Prompt(text, source.question, how))
    dice.shuffle(prompts)
    return prompts


def _original(dice: random.Random) -> tuple[str, tuple[object, ...]]:
    """A prompt and what no other prompt may share with it: its sentences and figures, names and things aside."""
    family = dice.choices((_story, _formula, _program, _essay, _sum), (45, 25, 15, 8, 7))[0]
    sentences, text = family(dice)
    return text, (family.__name__, sentences, tuple(token for token in tokens(text) if is_figure(token)))


def _story(dice: random.Random) -> tuple[tuple[str, ...], str]:
    middles = dice.sample(MIDDLES, dice.choice((1, 2, 2, 3, 3, 4)))
    sentences = (dice.choice(OPENINGS), *middles, dice.choice(QUESTIONS))
    a, b = dice.sample(NAMES, 2)
    fixed = {"a": a, "b": b, "t": dice.choice(THINGS), "p": dice.choice(PLACES)}
    return sentences, " ".join(sentence.format(**fixed, **_numbers(dice)) for sentence in sentences)


def _formula(dice: random.Random) -> tuple[tuple[str, ...], str]:
    first, second = dice.sample(FORMULAS, 2)
    asked = dice.choice(ASKED)
    one = first.replace("^{2}", "^{{2}}").format(**_numbers(dice))
    other = second.replace("^{2}", "^{{2}}").format(**_numbers(dice))
    lead = dice.choice(("Let ${0}$ and suppose that ${1}$.", "Given that ${0}$, consider also ${1}$ over the reals."))
    return (first, second, asked, lead), f"{lead.format(one, other)} {asked}"


def _program(dice: random.Random) -> tuple[tuple[str, ...], str]:
    task, then = dice.sample(TASKS, 2)
    name = "_".join(dice.sample(WHICH, 2))
    first, second = dice.choice(WHICH), dice.choice(WHICH)
    text = (
        f"Write a Python function `{name}(data, limit={dice.randrange(2, 500)})` that "
        f"{task.format(w=first, **_numbers(dice))}. Add a helper that {then.format(w=second, **_numbers(dice))}. "
        f"For example, it should satisfy:\n```python\nassert {name}([{dice.randrange(99)}, {dice.randrange(99)}]) "
        f"== {dice.randrange(999)}  # as in the text\n```"
    )
    return (task, then, name, first, second), text


def _essay(dice: random.Random) -> tuple[tuple[str, ...], str]:
    subject, other, third = (f"{dice.choice(KINDS)} {subject}" for subject in dice.sample(SUBJECTS, 3))
    aspect, also = dice.sample(ASPECTS, 2)
    audience = dice.choice(AUDIENCES)
    name = dice.choice(NAMES)
    form = dice.choice(
        (
            "Explain {0} to {5}. Cover {3} and {4}, and compare it with {1}. Close with a word on {2}.",
            "Write a letter in which {6} tells {5} about {0} and {1}. Mention {3}, then {4}, and end with {2}.",
            "Why do people confuse {0} with {1}? Discuss {3}, {4} and the case of {2} for {5}.",
        )
    )
    text = form.format(subject, other, third, aspect, also, audience, name)
    return (subject, other, third, aspect, also, audience, form), text


def _sum(dice: random.Random) -> tuple[tuple[str, ...], str]:
    n, m, k = (dice.randrange(2, 999) for _ in range(3))
    form = dice.choice(
        ("Compute {} + {} * {}.", "What is {} - {} + {}?", "Find the gcd of {}, {} and {}.", "Evaluate {} / {} - {}.")
    )
    return (form,), form.format(n, m, k)


def _numbers(dice: random.Random) -> dict[str, object]:
    price = dice.choice((dice.randrange(2, 60), dice.randrange(2, 2000), dice.randrange(200, 9000) / 100))
    return {"n": dice.randrange(2, 400), "m": price, "k": dice.randrange(2, 99)}


def _copy(text: str, dice: random.Random) -> tuple[str, str | None]:
    """An edited copy, None where the edit does not apply. Short prompts change in looks only."""
    kinds: dict[str, Callable[[str, random.Random], str | None]] = {
        "white space": _respaced,
        "case": _recased,
        "punctuation": _repunctuated,
        "notation": _renotated,
    }
    if len(text.split()) >= 12:
        kinds |= {"word": _reworded, "sentence": _extended, "clause": _reordered, "two edits": _twice}
    how = dice.choice(list(kinds))
    return how, kinds[how](text, dice)


def _friend(text: str, dice: random.Random) -> tuple[str, str | None]:
    """Another question in nearly the same words, None where the change does not apply."""
    kinds: dict[str, Callable[[str, random.Random], str | None]] = {
        "number changed": _renumbered,
        "numbers exchanged": _exchanged,
        "sign changed": _resigned,
        "question turned": _turned,
    }
    if len(text.split()) <= 8:
        kinds["short, one word"] = lambda text, dice: text.replace("gcd", "lcm") if "gcd" in text else None
    how = dice.choice(list(kinds))
    changed = kinds[how](text, dice)
    return f"not: {how}", changed if changed != text else None


def _respaced(text: str, dice: random.Random) -> str:
    return "".join(
        dice.choice((" ", "  ", "\n", " \t")) if char == " " and dice.random() < 0.4 else char for char in text
    )


def _recased(text: str, dice: random.Random) -> str | None:
    if "\\" in text or "`" in text:
        return text[0].swapcase() + text[1:]
    return dice.choice((str.upper, str.lower, str.title))(text)


def _repunctuated(text: str, dice: random.Random) -> str:
    def mark(found: re.Match[str]) -> str:
        return dice.choice((found[1], found[1] + ",", found[1] + ";", found[1] + " -", f'"{found[1]}"', found[0]))

    head, fence, tail = text.partition("```")
    return re.sub(r"(?<![\\\\\w(`])([A-Za-z]{3,})[.,;:?!]?(?= [A-Za-z])", mark, head) + fence + tail


def _renotated(text: str, dice: random.Random) -> str | None:
    """The same formula as another author types it."""
    if "\\" not in text and "^" not in text:
        return None
    changes = [
        (r"\\frac\{(\w+)\}\{(\w+)\}", r"\\dfrac{\1}{\2}"),
        (r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"(\1)/(\2)"),
        (r"\^\{(\w)\}", r"^\1"),
        (r"\\(?:left|right) ?([()])", r"\1"),
        (r"\\leq", r"\\le "),
        (r"\\geq", "≥"),
        (r"\\cdot", r"\\times"),
        (r"\$([^$]*)\$", r"\\(\1\\)"),
        (r" ([+=-]) ", r"\1"),
    ]
    for pattern, other in dice.sample(changes, 5):
        text = re.sub(pattern, other, text)
    return text


def _words(text: str) -> list[re.Match[str]]:
    """Words of prose that may be changed."""
    found = re.finditer(r"(?<![\\`_\w$])[a-z]{4,}(?![\w`_(])", text.partition("```")[0])
    return [match for match in found if not any(map(is_figure, tokens(match[0])))]


def _reworded(text: str, dice: random.Random) -> str | None:
    found = _words(text)
    if not found:
        return None
    match = dice.choice(found)
    return text[: match.start()] + dice.choice(SYNONYMS) + text[match.end() :]


def _extended(text: str, dice: random.Random) -> str:
    return dice.choice((f"{text} {dice.choice(ADDED)}", f"{dice.choice(ADDED)} {text}"))


def _sentences(text: str) -> Iterator[str]:
    yield from re.split(r"(?<=[.?]) (?=[A-Z])", text)


def _reordered(text: str, dice: random.Random) -> str | None:
    sentences = list(_sentences(text))
    if len(sentences) < 3 or "```" in text:
        return None
    first = dice.randrange(len(sentences) - 2)
    sentences[first], sentences[first + 1] = sentences[first + 1], sentences[first]
    return " ".join(sentences)


def _twice(text: str, dice: random.Random) -> str | None:
    once = dice.choice((_reworded, _extended, _reordered))(text, dice)
    return once and dice.choice((_respaced, _recased, _repunctuated))(once, dice)


def _renumbered(text: str, dice: random.Random) -> str | None:
    found = list(re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", text))
    if not found:
        return None
    match = dice.choice(found)
    return f"{text[: match.start()]}{float(match[0]) + dice.randrange(1, 9):g}{text[match.end() :]}"


def _exchanged(text: str, dice: random.Random) -> str | None:
    found = list(re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", text))
    if len(found) < 2:
        return None
    one, other = sorted(dice.sample(found, 2), key=lambda match: match.start())
    if float(one[0]) == float(other[0]):
        return None
    return text[: one.start()] + other[0] + text[one.end() : other.start()] + one[0] + text[other.end() :]


def _resigned(text: str, dice: random.Random) -> str | None:
    pairs = [(" + ", " - "), (" - ", " + "), ("\\leq", "\\geq"), ("\\geq", "\\leq")]
    known = [pair for pair in pairs if pair[0] in text.partition("```")[0]]
    return text.replace(*dice.choice(known), 1) if known else None


def _turned(text: str, dice: random.Random) -> str | None:
    pairs = (("more", "fewer"), ("greatest", "least"), ("smallest", "largest"), ("sum", "product"), ("first", "last"))
    known = [pair for pair in pairs if f" {pair[0]} " in text]
    if not known:
        return None
    one, other = dice.choice(known)
    return text.replace(f" {one} ", f" {other} ", 1)
