"""What may not teach is refused, by name, until somebody says twice that it may."""

from pathlib import Path
from typing import Any

import pytest

from distill.curate.terms import TEACHERS, gate, sources_of, suggested
from distill.errors import UserError
from distill.runs import Manifest, Report, write_durably


def folder(path: Path, *, marks: dict[str, Any], **config: Any) -> Path:
    path.mkdir()
    manifest = Manifest(
        step=path.name,
        stage="harvest",
        stage_version="1",
        fingerprint="f",
        seed=0,
        config=config,
        inputs=(),
        versions={},
        git_commit=None,
        device="cpu",
        started="now",
        seconds=0.0,
        resumed=0,
        report=Report(counts={"traces": 3}, marks=marks),
    )
    write_durably(path / "manifest.json", manifest.to_json())
    return path


def imported(path: Path, *terms: str) -> Path:
    sources = [{"name": path.name, "licence": "MIT", "terms": each, "basis": "given", "traces": 1} for each in terms]
    return folder(path, marks={"sources": sources})


@pytest.mark.parametrize(
    ("teacher", "terms", "why"),
    [
        ("deepseek-ai/DeepSeek-R1", "allows-training", "MIT"),
        ("DeepSeek-R1-0528", "allows-training", "MIT"),
        ("deepseek-r1-distill-llama-8b", "allows-training", "Built with Llama"),
        ("DeepSeek-R1-Distill-Qwen-14B", "allows-training", "MIT"),
        ("Qwen2.5-Coder-1.5B-Instruct", "allows-training", "Apache"),
        ("Qwen/Qwen2.5-3B-Instruct", "forbids-training", "research"),
        ("Qwen2.5-32B-Instruct", "allows-training", "Apache"),
        ("Qwen2.5-72B-Instruct", "allows-training", "Built with Qwen"),
        ("QwQ-32B-Preview", "allows-training", "Apache"),
        ("Qwen-7B-Chat", "forbids-training", "Tongyi"),
        ("meta-llama/Llama-3.1-70B-Instruct", "allows-training", "Built with Llama"),
        ("Llama-3-8B-Instruct", "forbids-training", "not to improve"),
        ("Llama-2-7b-chat", "forbids-training", "not to improve"),
        ("gpt-4o-mini", "forbids-training", "OpenAI"),
        ("o1-preview", "forbids-training", "OpenAI"),
        ("gpt-oss-20b", "allows-training", "Apache"),
        ("gemini-2.0-flash-thinking", "forbids-training", "services"),
        ("claude-3-7-sonnet", "forbids-training", "competing"),
        ("SmolLM2-135M-Instruct", "allows-training", "Apache"),
        ("human", "allows-training", "people"),
        ("superhuman-7b", "unknown", "no row"),
        ("qwen", "unknown", "no row"),
        ("175b_verification", "unknown", "no row"),
        (None, "unknown", "no row"),
    ],
)
def test_terms_are_suggested_by_the_name_of_a_teacher(teacher: str | None, terms: str, why: str) -> None:
    found, basis = suggested(teacher)
    assert found == terms
    assert why in basis


def test_every_suggestion_names_the_document_it_was_taken_from() -> None:
    for row in TEACHERS:
        assert row.url.startswith("https://") or row.names.pattern == "^human$"


@pytest.mark.parametrize(
    ("sampler", "name", "terms"),
    [
        ("engine", "models/anything", "allows-training"),
        ("oracle", "stories", "allows-training"),
        ("endpoint", "gpt-4o", "forbids-training"),
        ("endpoint", "my-server", "unknown"),
        ("replay", "Qwen2.5-Coder-1.5B-Instruct", "allows-training"),
    ],
)
def test_a_harvest_has_the_terms_of_its_sampler(sampler: str, name: str, terms: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "h", marks={"sampler": {"name": name, "revision": "1"}}, sampler=sampler)
    (source,) = sources_of(path)
    assert (source.name, source.terms, source.traces) == (name, terms, 3)


def test_a_folder_nobody_describes_is_of_unknown_terms(tmp_path: Path) -> None:
    (source,) = sources_of(tmp_path)
    assert (source.name, source.terms) == (tmp_path.name, "unknown")


def test_what_allows_training_passes_and_keeps_its_order(tmp_path: Path) -> None:
    folders = [imported(tmp_path / "b", "allows-training"), imported(tmp_path / "a", "allows-training")]
    assert [source.name for source in gate(folders, "refuse", ())] == ["b", "a"]


@pytest.mark.parametrize("terms", ["forbids-training", "unknown"])
def test_what_does_not_allow_training_is_refused_until_told_twice(terms: str, tmp_path: Path) -> None:
    folders = [imported(tmp_path / "good", "allows-training"), imported(tmp_path / "bad", "allows-training", terms)]
    with pytest.raises(UserError, match=rf'source bad: {terms}[^§]*terms = "accept" and accept_terms = \["bad"\]'):
        gate(folders, "refuse", ())
    with pytest.raises(UserError, match="they go together"):
        gate(folders, "accept", ())
    with pytest.raises(UserError, match="they go together"):
        gate(folders, "refuse", ["bad"])
    assert len(gate(folders, "accept", ["bad"])) == 3


def test_accepting_one_source_does_not_accept_another(tmp_path: Path) -> None:
    folders = [imported(tmp_path / "one", "unknown"), imported(tmp_path / "two", "unknown")]
    with pytest.raises(UserError, match=r'source two: unknown[^§]*\["one", "two"\]') as refused:
        gate(folders, "accept", ["one"])
    assert "source one" not in str(refused.value)


def test_accepting_a_source_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no source 'sat' \(did you mean set\?\)"):
        gate([imported(tmp_path / "set", "unknown")], "accept", ["sat"])


def test_a_manifest_with_unreadable_sources_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "x", marks={"sources": [{"name": "x", "terms": "perhaps"}]})
    with pytest.raises(UserError, match=r"manifest.json: marks.sources: 0.terms"):
        sources_of(path)
