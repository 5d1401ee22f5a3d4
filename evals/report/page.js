"use strict";

// Legends: a name switches its series on and off in the charts of its section.
for (const button of document.querySelectorAll("button[data-series]")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const drawn of button.closest("section").querySelectorAll(`g[data-series="${button.dataset.series}"]`)) {
      drawn.classList.toggle("off", !on);
    }
  });
}

// Navigation: the section being read is marked.
const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver(
  (seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting || !links.has(target.id)) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(target.id).setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-20% 0px -70% 0px" },
);
for (const section of document.querySelectorAll("section")) watcher.observe(section);

// Trace browser. Without any of this every problem is simply shown.
const tools = document.getElementById("tools");
if (tools) {
  const byId = (id) => document.getElementById(id);
  const [search, who, verdict, task, flip, source] = ["search", "who", "verdict", "task", "flip", "source"].map(byId);
  const count = byId("count");
  const problems = Array.from(document.querySelectorAll(".problem"), (element) => ({
    element,
    text: null,
    task: element.dataset.task,
    answers: Array.from(element.querySelectorAll(".answer"), ({ dataset }) => [dataset.who, dataset.verdict]),
  }));
  let shown = problems;

  const right = (answers, name) => answers.some(([who, status]) => who === name && status === "correct");
  const asked = (answers, name) => answers.some(([who]) => who === name);
  const flipped = ({ answers }) => {
    if (!flip || !flip.value) return true;
    if (flip.value === "differ") return new Set(answers.map(([, status]) => status === "correct")).size > 1;
    const [better, worse] = flip.value.split(">");
    return right(answers, better) && asked(answers, worse) && !right(answers, worse);
  };
  const judged = ([name, status]) =>
    (!who.value || who.value === name) &&
    (!verdict.value || (verdict.value === "not correct" ? status !== "correct" : verdict.value === status));
  const said = (problem, words) => {
    if (!words.length) return true;
    problem.text ??= problem.element.textContent.toLowerCase();
    return words.every((word) => problem.text.includes(word));
  };
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = [];
    for (const problem of problems) {
      const fits =
        (!task || !task.value || task.value === problem.task) &&
        problem.answers.some(judged) &&
        flipped(problem) &&
        said(problem, words);
      if (problem.element.hidden === fits) problem.element.hidden = !fits;
      if (fits) shown.push(problem);
    }
    count.textContent = `${shown.length.toLocaleString("en")} of ${problems.length.toLocaleString("en")} problems`;
  };
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 80);
  });
  for (const control of [who, verdict, task, flip]) if (control) control.addEventListener("input", update);
  source.addEventListener("input", () => byId("problems").classList.toggle("as-written", source.checked));

  const goTo = (step) => {
    const here = shown.findIndex(({ element }) => element.contains(document.activeElement));
    const next = shown[here < 0 ? 0 : Math.min(Math.max(here + step, 0), shown.length - 1)];
    if (!next) return;
    next.element.scrollIntoView({ block: "nearest" });
    next.element.firstElementChild.focus();
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === search) {
      search.value = "";
      update();
    } else if (!typing && event.key === "/") {
      event.preventDefault();
      search.focus();
    } else if (!typing && event.key === "j") goTo(1);
    else if (!typing && event.key === "k") goTo(-1);
  });

  // A link to a problem opens it, whatever the filters hide.
  const follow = () => {
    const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
    if (!target || !target.classList.contains("problem")) return;
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  tools.hidden = false;
  update();
  follow();
}
