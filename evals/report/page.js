"use strict";

// Legends: a name switches its series on and off in the charts of its section.
for (const button of document.querySelectorAll("button[data-series]")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const drawn of button.closest("section").querySelectorAll(`g[data-series="${button.dataset.series}"]`)) {
      drawn.style.display = on ? "" : "none";
    }
  });
}

// Search and verdict filter of the trace browser. Without it every problem is simply shown.
const tools = document.getElementById("tools");
if (tools) {
  tools.hidden = false;
  const search = document.getElementById("search");
  const who = document.getElementById("who");
  const verdict = document.getElementById("verdict");
  const count = document.getElementById("count");
  const problems = Array.from(document.querySelectorAll(".problem"), (element) => ({
    element,
    text: element.textContent.toLowerCase(),
    answers: Array.from(element.querySelectorAll(".answer"), (answer) => [answer.dataset.who, answer.dataset.verdict]),
  }));
  const fits = ([name, status]) =>
    (!who.value || who.value === name) &&
    (!verdict.value || (verdict.value === "not correct" ? status !== "correct" : verdict.value === status));
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const problem of problems) {
      const fit = words.every((word) => problem.text.includes(word)) && problem.answers.some(fits);
      problem.element.hidden = !fit;
      shown += fit;
    }
    count.textContent = `${shown} of ${problems.length} problems`;
  };
  for (const control of [search, who, verdict]) control.addEventListener("input", update);
  update();
}
