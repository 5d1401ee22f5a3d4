"""The report page in a real browser: the file opened from disk, the network off."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.jsonl import write_jsonl
from distill.progress import Progress
from distill.records import Item, Problem, Status
from evals.report.stage import ReportConfig, report
from tests.report_runs import ANSWERS, Runs, made_runs

pytestmark = pytest.mark.browser
PAYLOADS = Path(__file__).with_name("report_payloads.txt").read_text(encoding="utf-8").split("\n%%\n")
SMOOTH = 1.0
"""Seconds within which the page must answer; a page that lays out 5,000 traces at once takes several."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; skipped with a reason where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser extra is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = os.environ.get("CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium on the PATH, and CHROMIUM names none")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page opened from disk, with all it complained of or tried to load."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.context.on("page", lambda page: self.said.append("a page opened") if page is not self.page else None)
        self.page.add_init_script(
            "window.hit = 0; window.violations = [];"
            "addEventListener('securitypolicyviolation', (event) => violations.push(event.violatedDirective))"
        )
        self.begun = time.perf_counter()
        self.page.goto(path.as_uri())
        self.loaded = time.perf_counter() - self.begun

    def visible(self) -> int:
        return self.page.locator(".problem:visible").count()

    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def wait_for(self, count: str) -> None:
        self.page.wait_for_function("count => document.getElementById('count').textContent === count", arg=count)

    def took(self, action: str, count: str) -> float:
        """Milliseconds from what a reader does until the count says so and it is on the screen."""
        return float(
            self.page.evaluate(
                f"async (count) => {{ const begun = performance.now(); {action};"
                "do await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"
                "while (document.getElementById('count').textContent !== count && performance.now() < begun + 20000);"
                "return performance.now() - begun; }",
                count,
            )
        )


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Opened]]:
    contexts: list[Any] = []

    def open_(path: Path, **options: Any) -> Opened:
        made = Opened(chromium, path, **options)
        contexts.append(made.context)
        return made

    yield open_
    for context in contexts:
        context.close()


def written(runs: Runs, bench: Path, examples: int = 240) -> Path:
    out = runs.root / "report"
    out.mkdir()
    config = ReportConfig(bench="bench", examples=examples)
    report((bench,), (), out, config, tables=lambda manifest: manifest.config, progress=Progress("quiet"))
    return out / "index.html"


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return made_runs(tmp_path)


def test_the_page_opens_from_disk_without_a_word(runs: Runs, opened: Callable[..., Opened]) -> None:
    path = written(runs, runs.bench(ANSWERS))
    here = opened(path)
    assert here.said == []
    assert here.asked == [path.as_uri()]
    assert here.page.title() == "Distillation report"
    assert here.page.evaluate("violations") == []
    assert here.count() == "12 of 12 problems"


def test_search_and_filters_find_what_they_say(runs: Runs, opened: Callable[..., Opened]) -> None:
    here = opened(written(runs, runs.bench(ANSWERS, say=lambda item: f"needle-{item.problem_id} of {item.checkpoint}")))
    here.page.fill("#search", "NEEDLE-P3 teacher")
    here.wait_for("1 of 12 problems")
    assert here.visible() == 1
    here.page.fill("#search", "")
    here.wait_for("12 of 12 problems")
    here.page.select_option("#verdict", "truncated")
    assert here.count() == "1 of 12 problems"
    here.page.select_option("#who", "student")
    assert here.count() == "0 of 12 problems"
    here.page.select_option("#verdict", "timeout")
    assert here.count() == "1 of 12 problems"
    here.page.select_option("#who", "")
    here.page.select_option("#verdict", "")
    here.page.select_option("#flip", "teacher>student")
    assert here.count() == "2 of 12 problems"
    here.page.select_option("#flip", "student>teacher")
    assert here.count() == "0 of 12 problems"
    assert here.said == []


def test_everything_is_reached_by_keys_alone(runs: Runs, opened: Callable[..., Opened]) -> None:
    here = opened(written(runs, runs.bench(ANSWERS)))
    here.page.keyboard.press("/")
    assert here.page.evaluate("document.activeElement.id") == "search"
    here.page.keyboard.type("question 5")
    here.wait_for("1 of 12 problems")
    here.page.keyboard.press("Escape")
    here.wait_for("12 of 12 problems")
    here.page.evaluate("document.activeElement.blur()")
    for key in ("j", "j", "k", "j", "Enter"):
        here.page.keyboard.press(key)
    opened_now = here.page.evaluate("Array.from(document.querySelectorAll('.problem'), (one) => one.open)")
    assert opened_now == [place == 1 for place in range(12)]
    here.page.keyboard.press("Tab")
    assert here.page.evaluate("document.activeElement.closest('.problem') !== null")


def test_a_link_to_a_problem_opens_it(runs: Runs, opened: Callable[..., Opened]) -> None:
    here = opened(written(runs, runs.bench(ANSWERS)))
    here.page.locator("#flips summary").first.click()
    link = here.page.locator("#flips details a").first
    link.click()
    target = here.page.locator(f"[id='{(link.get_attribute('href') or '')[1:]}']")
    assert target.evaluate("one => one.open")


def test_fifty_payloads_stay_text(runs: Runs, opened: Callable[..., Opened]) -> None:
    assert len(PAYLOADS) == 50
    answers: dict[str, list[Status]] = {"teacher": ["correct"] * 50, "student": ["wrong"] * 50}
    say = {f"p{place}": payload for place, payload in enumerate(PAYLOADS)}
    problems = [
        Problem(id=name, kind="answer", prompt=payload, answer=payload, source="stories", split="test")
        for name, payload in say.items()
    ]
    write_jsonl(runs.root / "problems" / "problems.jsonl", problems)
    path = written(runs, runs.bench(answers, say=lambda item: say[item.problem_id]))
    here = opened(path)
    here.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for x, y in ((300, 400), (500, 500), (700, 300)):
        here.page.mouse.move(x, y)
    for place in range(0, 50, 7):
        here.page.locator(".problem .said").nth(5 * place).scroll_into_view_if_needed()
        here.page.locator(".problem .said").nth(5 * place).click()
    here.page.wait_for_timeout(300)
    assert here.said == []
    assert here.asked == [path.as_uri()]
    assert here.page.evaluate("hit") == 0
    assert here.page.evaluate("violations") == []  # nothing even reached the policy
    assert here.page.evaluate("document.querySelectorAll('script').length") == 1
    assert (
        here.page.evaluate(
            "Array.from(document.querySelectorAll('.problem *')).filter((one) => Array.from(one.attributes).some("
            "({ name }) => /^(on|href|src|style|action|formaction|data$|xlink)/.test(name))).length"
        )
        == 0
    )
    inside = set(
        here.page.evaluate("Array.from(document.querySelectorAll('.problem *'), (one) => one.localName.toLowerCase())")
    )
    assert not inside & {
        "script",
        "img",
        "iframe",
        "svg",
        "a",
        "style",
        "link",
        "form",
        "object",
        "embed",
        "base",
        "input",
    }
    # The thoughts of both checkpoints and the problem, three times each payload, to the letter.
    texts = here.page.evaluate("Array.from(document.querySelectorAll('.problem .thought'), (one) => one.textContent)")
    assert sum("hit" in one for one in texts) == 100


def test_no_text_becomes_markup_at_run_time(runs: Runs, opened: Callable[..., Opened]) -> None:
    here = opened(written(runs, runs.bench(ANSWERS)))
    refused = here.page.evaluate(
        "() => { try { document.body.innerHTML = '<img src=x onerror=hit=1>'; } catch (error) { return error.name; } }"
    )
    assert refused == "TypeError"  # Trusted Types


def test_markup_that_did_slip_in_would_do_nothing(runs: Runs, opened: Callable[..., Opened]) -> None:
    path = written(runs, runs.bench(ANSWERS))
    slipped = (
        "<script>hit=1</script><img src=x onerror=hit=1><style>main{display:none}</style><p style='color:red'>hit</p>"
    )
    path.write_text(path.read_text(encoding="utf-8").replace("</main>", f"{slipped}</main>"), encoding="utf-8")
    here = opened(path)
    assert here.page.evaluate("hit") == 0
    assert here.page.locator("main").is_visible()
    violated = set(here.page.evaluate("violations"))
    assert violated == {"script-src-elem", "script-src-attr", "img-src", "style-src-elem", "style-src-attr"}


def test_five_thousand_traces_browse_smoothly(runs: Runs, opened: Callable[..., Opened]) -> None:
    each = 1250
    names = ("teacher", "student", "student-int8", "student-raw")
    answers: dict[str, list[Status]] = {
        name: ["correct" if (place + shift) % 3 else "wrong" for place in range(each)]
        for shift, name in enumerate(names)
    }
    problems = [
        Problem(
            id=f"p{i}", kind="answer", prompt=f"question {i}: ${i}^2$?", answer=f"{i * i}", source="s", split="test"
        )
        for i in range(each)
    ]
    write_jsonl(runs.root / "problems" / "problems.jsonl", problems)

    def say(item: Item) -> str:
        number = item.problem_id[1:]
        return "So I square it. " * 20 + rf"\[ {number}^2 = \frac{{{number}^3}}{{{number}}} \] marked-{number}."

    path = written(runs, runs.bench(answers, say=say), examples=each)
    here = opened(path)
    assert here.count() == "1,250 of 1,250 problems"
    assert here.page.locator(".answer").count() == 5000
    choose = "const one = document.getElementById('{0}'); one.value = '{1}'; one.dispatchEvent(new Event('input'))"
    everything, found = "1,250 of 1,250 problems", "1 of 1,250 problems"
    took = {
        "scroll to the end": here.took("scrollTo(0, document.body.scrollHeight)", everything),
        "first search": here.took(choose.format("search", "marked-77."), found),
        "second search": here.took(choose.format("search", "marked-78."), found),
        "open a problem": here.took("document.querySelector('.problem:not([hidden])').open = true", found),
        "clear": here.took(choose.format("search", ""), everything),
        "filter": here.took(choose.format("flip", "student>teacher"), "417 of 1,250 problems"),
    }
    size, load = path.stat().st_size / 1e6, here.loaded * 1000
    print(
        f"{size:.1f} MB, open from disk {load:.0f} ms;", ", ".join(f"{what} {ms:.0f} ms" for what, ms in took.items())
    )
    assert here.said == []
    assert all(ms < 1000 * SMOOTH for ms in took.values()), took


def test_formulas_are_set_and_code_is_colored(runs: Runs, opened: Callable[..., Opened]) -> None:
    said = "so $\\frac{1}{2}$ and \\boxed{7}\n```python\ndef f(): return 1\n```\n"
    here = opened(written(runs, runs.bench(ANSWERS, say=lambda item: said)))
    here.page.locator(".problem summary").first.click()
    tall, line = here.page.evaluate(
        "() => { const one = document.querySelector('.problem[open] .thought mfrac').getBoundingClientRect();"
        "return [one.height, parseFloat(getComputedStyle(document.querySelector('.thought')).fontSize)]; }"
    )
    assert tall > 1.3 * line  # one above the other
    color = "getComputedStyle(document.querySelector('.thought {0}')).color"
    assert here.page.evaluate(color.format("code .key")) != here.page.evaluate(color.format("code"))
    here.page.check("#source")
    assert "\\frac{1}{2}" in here.page.locator(".problem[open] .thought").first.inner_text()


def test_light_dark_and_paper(runs: Runs, opened: Callable[..., Opened]) -> None:
    path = written(runs, runs.bench(ANSWERS))
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = opened(path, color_scheme="light"), opened(path, color_scheme="dark")
    assert light.page.evaluate(ground) == "rgb(253, 253, 251)"
    assert dark.page.evaluate(ground) == "rgb(21, 23, 26)"
    dark.page.emulate_media(media="print")
    assert dark.page.evaluate(ground) == "rgb(255, 255, 255)"
    assert not dark.page.locator("nav").is_visible()
    assert len(dark.page.pdf(format="A4")) > 20_000


def test_it_reads_without_its_script(runs: Runs, opened: Callable[..., Opened]) -> None:
    here = opened(written(runs, runs.bench(ANSWERS)), java_script_enabled=False)
    assert here.visible() == 12
    assert not here.page.locator("#tools").is_visible()
    here.page.locator(".problem summary").first.click()
    assert here.page.locator(".problem .thought").first.is_visible()


def test_it_fits_a_telephone(runs: Runs, opened: Callable[..., Opened]) -> None:
    here = opened(written(runs, runs.bench(ANSWERS)))
    here.page.set_viewport_size({"width": 390, "height": 844})
    here.page.locator(".problem summary").first.click()
    assert here.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
