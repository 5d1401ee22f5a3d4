"""Stats: what a run folder's traces are, counted by SQL over the index; no text is read."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from distill.harvest import TRACES, VERDICTS
from distill.harvest.refusals import Refusal, Refusals
from distill.ledger import seals, shard_files
from distill.progress import Progress
from distill.records import Problem, Record, Status
from distill.runs import MANIFEST
from distill.traces.asked import problems_asked
from distill.traces.index import Index, open_index

UNJUDGED = "unjudged"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
STATUSES = (*get_args(Status), UNJUDGED)
PARENTS = (
    "coalesce((SELECT cut.tokens FROM traces AS cut WHERE cut.id = ruled.parent AND cut.finish = 'length' LIMIT 1), 0)"
)
"""Tokens a trace has from the cut one it continues: they were paid for with that one, and read again as a prompt."""


class Group(Record):
    """Traces that share a family and level, a sampler or a finish."""

    name: str
    traces: int
    problems: int
    verdicts: dict[str, int]
    tokens: int
    """Tokens that were sampled."""

    @property
    def decided(self) -> int:
        """Traces with a verdict."""
        return self.traces - self.verdicts.get(UNJUDGED, 0)

    @property
    def line(self) -> str:
        """`stories/level-2   n 1,200   correct 75.0%   tokens 84,000`"""
        correct = self.verdicts.get("correct", 0) / self.decided if self.decided else 0.0
        share = f"{correct:>6.1%}" if self.decided else "     -"
        return f"{self.name:<40} n {self.traces:>9,}  correct {share}  tokens {self.tokens:>13,}"


class Lengths(Record):
    """Completion tokens at some quantiles: the smallest length that at least this share does not exceed."""

    name: str
    traces: int
    quantiles: dict[str, int]

    @property
    def line(self) -> str:
        """One row of the table of lengths."""
        return f"{self.name:<12} n {self.traces:>9,}  " + "".join(f"{value:>9,}" for value in self.quantiles.values())


class Stats(Record):
    """All that is counted of one run folder."""

    folder: str
    traces: int
    problems: int
    verdicts: dict[str, int]
    judges: dict[str, int]
    """Traces by the version of the judge whose verdict counts."""
    finishes: dict[str, int]
    with_thought: int
    prompt_tokens: int
    """As a budget counts them: once a call, however many completions it brought; a continued thought is a prompt."""
    prompt_tokens_once: int
    """If samples of one prompt, by one sampler in one round, had it read once."""
    completion_tokens: int
    """That were sampled: what a continuation has from its parent counts with the parent."""
    children: int
    """Traces that continue or correct another."""
    rounds: dict[str, int]
    families: tuple[Group, ...]
    samplers: tuple[Group, ...]
    lengths: tuple[Lengths, ...]
    refused: dict[str, int]
    """Samples that servers would not draw, by teacher and their reason."""
    faults: int
    """Lines and shards that are not as they were written; `verify` names each."""

    @property
    def lines(self) -> list[str]:
        """Plain aligned text."""
        told = [
            f"{self.traces:,} traces of {self.problems:,} problems, {self.with_thought:,} with a whole thought, "
            f"{self.children:,} that continue or correct another",
            f"tokens: {self.prompt_tokens:,} of prompts a call ({self.prompt_tokens_once:,} were each read once), "
            f"{self.completion_tokens:,} sampled",
            "verdicts: " + mix(self.verdicts, self.traces),
            "judges: " + (", ".join(f"version {name} {count:,}" for name, count in self.judges.items()) or "none"),
            "ended: " + "  ".join(f"{name} {count:,}" for name, count in self.finishes.items()),
            "rounds: " + "  ".join(f"{name}: {count:,}" for name, count in self.rounds.items()),
            "",
            f"{'tokens at':<12} {'':<11}  " + "".join(f"{f'{share:.0%}':>9}" for share in QUANTILES),
            *(row.line for row in self.lengths),
            "",
            *(group.line for group in self.samplers),
            "",
            *(group.line for group in self.families),
        ]
        if self.refused:
            told += ["", f"{sum(self.refused.values()):,} samples refused by their servers:"]
            told += [f"  {count:,} x {why}" for why, count in self.refused.items()]
        if self.faults:
            told.append(f"{self.faults:,} faults: distill traces verify {self.folder}")
        return told


def stats(folder: Path, *, problems: Path | None, progress: Progress) -> Stats:
    """Count a run folder. `problems` is where its problems stand, when the manifest does not say.

    Raises UserError when there are no traces, or the problems named are not there.
    """
    with open_index(folder, progress) as index:
        return _count(index, problems_asked(folder, problems), Refusals(folder).rows.values())


def _count(index: Index, problems: Iterator[Problem], refusals: Iterable[Refusal]) -> Stats:
    index.connection.execute("CREATE TEMP TABLE asked (id TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID")
    rows = ((problem.id, _name(problem)) for problem in problems)
    index.connection.executemany("INSERT INTO asked VALUES (?, ?)", rows)
    index.connection.execute(f"CREATE TEMP TABLE now AS SELECT ruled.*, {PARENTS} AS before FROM ruled")
    whole = next(
        index.ask(
            "SELECT count(*), count(DISTINCT problem), coalesce(sum(thought), 0), count(parent), "
            "coalesce(sum((prompt_tokens + before) * 1.0 / together), 0), coalesce(sum(tokens - before), 0) FROM now"
        )
    )
    once = "SELECT max(prompt_tokens + before) AS prompt FROM now GROUP BY problem, sampler, revision, round, parent"
    traces, asked, thoughts, children, prompt_tokens, tokens = whole
    return Stats(
        folder=str(index.folder),
        traces=traces,
        problems=asked,
        verdicts=verdict_mix(index),
        judges=_counts(index, "judge"),
        finishes=_counts(index, "finish"),
        with_thought=thoughts,
        prompt_tokens=round(prompt_tokens),
        prompt_tokens_once=index.one(f"SELECT coalesce(sum(prompt), 0) FROM ({once})"),
        completion_tokens=tokens,
        children=children,
        rounds=_counts(index, "round"),
        families=_groups(index, "coalesce(asked.name, 'unknown: name the --problems')"),
        samplers=_groups(index, "sampler || ' ' || revision"),
        lengths=(
            _lengths(index, "all", "1", ()),
            *(_lengths(index, name, "status = ?", (name,)) for name in verdict_mix(index) if name != UNJUDGED),
        ),
        refused=dict(Counter(f"{row.sampler.name}: {row.why}" for row in refusals).most_common()),
        faults=index.one("SELECT coalesce(sum(faults), 0) FROM shards"),
    )


def _name(problem: Problem) -> str:
    return problem.source if problem.level is None else f"{problem.source}/level-{problem.level}"


def verdict_mix(index: Index) -> dict[str, int]:
    """Traces by newest verdict, in the order of the statuses."""
    found = dict(index.ask("SELECT coalesce(status, 'unjudged'), count(*) FROM ruled GROUP BY 1"))
    return {status: found[status] for status in STATUSES if status in found}


def mix(verdicts: dict[str, int], traces: int) -> str:
    """`correct 75.0%  wrong 25.0%`"""
    return "  ".join(f"{name} {count / traces:.1%}" for name, count in verdicts.items()) or "none"


def _counts(index: Index, column: str) -> dict[str, int]:
    rows = index.ask(f"SELECT {column}, count(*) FROM now WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1")
    return {str(name): count for name, count in rows}


def _groups(index: Index, name: str) -> tuple[Group, ...]:
    join = f"FROM now LEFT JOIN asked ON asked.id = now.problem GROUP BY {name}"
    statuses: dict[str, dict[str, int]] = {}
    for group, status, count in index.ask(f"SELECT {name}, coalesce(status, 'unjudged'), count(*) {join}, 2"):
        statuses.setdefault(group, {})[status] = count
    rows = index.ask(f"SELECT {name}, count(*), count(DISTINCT problem), sum(tokens - before) {join} ORDER BY 1")
    return tuple(
        Group(
            name=group,
            traces=count,
            problems=asked,
            verdicts={status: statuses[group][status] for status in STATUSES if status in statuses[group]},
            tokens=tokens,
        )
        for group, count, asked, tokens in rows
    )


def _lengths(index: Index, name: str, where: str, values: Sequence[object]) -> Lengths:
    count = index.one(f"SELECT count(*) FROM now WHERE {where}", values)
    query = f"SELECT tokens FROM now WHERE {where} ORDER BY tokens LIMIT 1 OFFSET ?"
    places = {f"{share:g}": max(-(-int(share * 100) * count // 100) - 1, 0) for share in QUANTILES}
    quantiles = {share: index.one(query, (*values, place)) for share, place in places.items()} if count else {}
    return Lengths(name=name, traces=count, quantiles=quantiles)


class Listed(Record):
    """One run folder in a list."""

    folder: str
    state: str
    """complete: a finished step; open: its last shard may still grow; sealed: neither."""
    traces: int
    verdicts: dict[str, int]
    samplers: tuple[str, ...]
    bytes: int
    changed: float
    """When a shard was last written, in seconds since 1970."""
    faults: int


def list_folders(under: Path, progress: Progress) -> Iterator[Listed]:
    """Every run folder with traces in or under a folder, in the order of their names."""
    return (_listed(folder, progress) for folder in ledgers_under(under))


def ledgers_under(folder: Path) -> list[Path]:
    """Run folders with traces in or under a folder."""
    return sorted(path.parent for path in folder.rglob(TRACES) if shard_files(path))


def _listed(folder: Path, progress: Progress) -> Listed:
    with open_index(folder, progress) as index:
        verdicts = verdict_mix(index)
        samplers = tuple(name for (name,) in index.ask("SELECT DISTINCT sampler FROM traces ORDER BY 1"))
        faults = index.one("SELECT coalesce(sum(faults), 0) FROM shards")
    states = [path.stat() for kind in (TRACES, VERDICTS) for path in shard_files(folder / kind)]
    return Listed(
        folder=str(folder),
        state=state_of(folder),
        traces=sum(verdicts.values()),
        verdicts=verdicts,
        samplers=samplers,
        bytes=sum(state.st_size for state in states),
        changed=max((state.st_mtime for state in states), default=0.0),
        faults=faults,
    )


def state_of(folder: Path) -> str:
    """complete, open or sealed."""
    if any((place / MANIFEST).is_file() for place in (folder, folder.parent)):
        return "complete"
    shards = shard_files(folder / TRACES)
    return "sealed" if shards and shards[-1].name in seals(folder / TRACES) else "open"
