import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.runs import MANIFEST
from evals.examination import Disagreement
from evals.report.charts import Bar, Mark, Series, forest, plot, ridges, stacks
from evals.report.collect import collect
from evals.report.drawing import Axis, text
from evals.report.lineage import lineage
from evals.report.page import page as page_of
from evals.report.stage import ReportConfig, report
from tests.report_runs import ANSWERS, EVIL, Runs, made_runs

VOID = {"meta", "input", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Every tag with its attributes, text by tag, and whether the nesting is sound."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.bad: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.bad.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return made_runs(tmp_path)


def write(bench: Path, **keys: Any) -> str:
    out = bench.parent / "report"
    out.mkdir()
    config = ReportConfig.model_validate({"bench": "bench"} | keys)
    report((bench,), (), out, config, tables=lambda manifest: manifest.config, progress=Progress("quiet"))
    return (out / "index.html").read_text(encoding="utf-8")


def test_model_text_stays_text(runs: Runs) -> None:
    html = write(runs.bench(ANSWERS, evil=EVIL), title=f"A {EVIL}")
    page = Page(html)
    assert "".join(page.text).count(EVIL) > 50  # shown, to the letter
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.bad == []
    assert page.open == []


def test_text_that_turns_the_page_or_hides_is_made_visible() -> None:
    assert text("a\u202eb\x00c\u2066d") == "a\ufffdb\ufffdc\ufffdd"
    assert text("line\n\ttab \u00e9 <'\">&") == "line\n\ttab \u00e9 &lt;&#x27;&quot;&gt;&amp;"


def test_nothing_is_loaded_from_anywhere(runs: Runs) -> None:
    html = write(runs.bench(ANSWERS, evil=EVIL))
    page = Page(html)
    for tag, attributes in page.tags:
        assert not attributes.keys() & {"src", "action", "formaction", "data", "poster", "srcset", "background"}, tag
        assert (attributes.get("href") or "#").startswith("#"), attributes
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_policy_allows_this_script_and_nothing_else(runs: Runs) -> None:
    html = write(runs.bench(ANSWERS))
    (policy,) = [
        attributes["content"]
        for tag, attributes in Page(html).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    script = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_scores_differences_and_sizes_are_on_the_page(runs: Runs) -> None:
    shown = " ".join("".join(Page(write(runs.bench(ANSWERS))).text).split())
    for words in (
        "83.3% [55.2%, 95.3%]",  # teacher, 10 of 12
        "student − teacher",
        "−16.7 [",
        "400k (200k active)",
        "40k",
        "13-gram against stories (12); removed 2",
        "median 33",
        "cpu (2 threads)",
        "abc123",
    ):
        assert words in shown, words


def test_a_quantized_checkpoint_has_the_parameters_of_the_one_it_came_from(runs: Runs) -> None:
    found = collect([runs.bench(ANSWERS)], [], 10).benches[0].parameters
    assert found == {"teacher": (400_000, 200_000), "student": (40_000, 40_000), "student-int8": (40_000, 40_000)}


def test_each_verdict_of_each_checkpoint_is_among_the_shown_traces(runs: Runs) -> None:
    shown = collect([runs.bench(ANSWERS)], [], 8).benches[0].shown
    assert len(shown) == 8
    kinds = {(answer.checkpoint, answer.item.status) for one in shown for answer in one.answers}
    assert kinds == {(name, status) for name, statuses in ANSWERS.items() for status in statuses}
    assert all(answer.trace and answer.verdict for one in shown for answer in one.answers)


def test_every_link_has_its_target_and_every_id_is_single(runs: Runs) -> None:
    tags = Page(write(runs.bench(ANSWERS))).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    links = {href[1:] for _, attributes in tags if (href := attributes.get("href"))}
    assert len(ids) == len(set(ids))
    assert links <= set(ids)
    assert {"step-problems", "step-teacher-init", "training", "lineage", "read"} <= links


def test_the_same_runs_give_the_same_bytes(runs: Runs, tmp_path: Path) -> None:
    bench = runs.bench(ANSWERS)
    first = write(bench)
    (tmp_path / "report").rename(tmp_path / "before")
    assert write(bench) == first


def test_a_missing_input_is_shown_as_missing(runs: Runs) -> None:
    bench = runs.bench(ANSWERS)
    (runs.root / "teacher-init" / MANIFEST).unlink()
    found = collect([bench], [], 4)
    assert found.steps[runs.root / "teacher-init"].manifest is None
    assert "box odd" in lineage(found.steps)


def test_recorded_traces_are_read_where_they_stand(runs: Runs) -> None:
    bench = runs.bench({"teacher": ["correct", "wrong"]})
    item = next(iter(collect([bench], [], 1).benches[0].items["teacher"]))
    write_jsonl(bench / "items.jsonl", [item.model_copy(update={"trace_id": "h", "problem_id": "p1"})])
    runs.seal("bench", "bench", [("problems", "problems"), ("traces", "harvest")])
    (shown,) = collect([bench], [], 4).benches[0].shown
    assert shown.answers[0].trace is not None
    assert shown.answers[0].trace.reasoning == "a harvested thought"


def test_disagreements_with_labels_are_listed(runs: Runs) -> None:
    bench = runs.bench(ANSWERS)
    row = {
        "checkpoint": "teacher",
        "problem_id": "p3",
        "trace_id": "t",
        "label": False,
        "source": "s",
        "status": "correct",
    }
    write_jsonl(bench / "disagreements.jsonl", [Disagreement.model_validate(row)])
    assert "Where judge and label differ (1)" in write(bench)


def test_two_benches_do_not_share_an_anchor(runs: Runs) -> None:
    first = runs.bench(ANSWERS)
    second = first.with_name("bench-2")
    shutil.copytree(first, second)
    page = Page(page_of(collect([first, second], [], 2), "two", []))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"scores-bench", "scores-bench-2"} <= set(ids)


def test_runs_of_the_same_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for seed, spent in (("s0", 3), ("s1", 4)):
        (tmp_path / seed).mkdir()
        made = made_runs(tmp_path / seed)
        made.bench(ANSWERS)
        marks = {"spent": {"gpu_hours": spent}}
        made.seal("harvest", "harvest", [("problems", "problems"), ("model", "teacher")], marks=marks)
    found = collect([tmp_path / "s0" / "bench", tmp_path / "s1" / "bench"], [], 2)
    assert [bench.name for bench in found.benches] == ["s0/bench", "s1/bench"]
    assert set(found.curves) == {"s0/teacher", "s0/student", "s1/teacher", "s1/student"}
    page = Page(page_of(found, "two", []))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    shown = "".join(page.text)
    assert "s0/harvest" in shown
    assert all(f"{spent}" in shown[shown.index("GPU hours") :] for spent in (3, 4))


def test_an_input_made_again_since_is_marked(runs: Runs) -> None:
    bench = runs.bench(ANSWERS)
    runs.seal("teacher-init", "teacher-init", [], counts={"parameters": 1})
    assert "made again since" in write(bench)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    with pytest.raises(UserError, match="not a complete run folder"):
        write(tmp_path / "bench")


def test_long_traces_are_cut_in_the_middle_and_say_so(runs: Runs) -> None:
    html = write(runs.bench(ANSWERS, evil="start " + "x" * 50_000 + " end"))
    assert "characters left out" in html
    assert "x" * 10_000 not in html
    assert len(html) < 2_000_000


def test_lineage_leaves_out_lines_another_path_implies(runs: Runs) -> None:
    steps = collect([runs.bench(ANSWERS)], [], 0).steps
    assert len(steps) == 9
    # Of 12 inputs, the bench's teacher, student and problems and the harvest's problems are implied.
    assert lineage(steps).count('class="edge"') == 8


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 1, 0, 100), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis(1, 6, 0, 100, whole=True), [1, 2, 3, 4, 5, 6]),
        (Axis(1, 2, 0, 100, whole=True), [1, 2]),
        (Axis(0, 3.1, 0, 100), [0, 1, 2, 3]),
        (Axis(40_000, 213_000, 0, 100, log=True), [50_000, 100_000, 200_000]),
        (Axis(1, 1e6, 0, 100, log=True), [1, 10, 100, 1000, 1e4, 1e5, 1e6]),
    ],
)
def test_ticks_are_round_and_within_the_range(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)


@pytest.mark.parametrize(
    "drawing",
    [
        pytest.param(plot([Series("a", 0, [Mark(3, 0.5)])], label="", x_name="", y_name=""), id="one point"),
        pytest.param(plot([Series("a", 0, [Mark(1, 0), Mark(2, 0)])], label="", x_name="", y_name=""), id="all zero"),
        pytest.param(
            plot([Series("a", 9, [Mark(5e4, 1, 0, 1)])], label="", x_name="", y_name="", log_x=True), id="one size"
        ),
        pytest.param(forest([Bar("a", 0, 0, 0, "0")], label="", low=-0.02, high=0.02, show=str), id="no difference"),
        pytest.param(stacks([("a", {})], ["correct"], label=""), id="nothing said"),
        pytest.param(ridges([("a", [0]), ("b", [7, 7])], label="", x_name=""), id="zero tokens"),
    ],
)
def test_charts_survive_thin_data(drawing: str) -> None:
    page = Page(drawing)
    assert page.bad == []
    assert page.open == []
    assert "nan" not in drawing
    assert "inf" not in drawing
