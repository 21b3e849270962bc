// Which norm: four questions that choose the lines of the table, which stays what it is.
"use strict";

Explorables.register("norms", ({ form, view, say, table, data }) => {
  const { element, select } = Explorables;
  const lines = [...(table.matches("table") ? table : table.querySelector("table")).tBodies[0].rows];
  const asked = data.questions.map(({ key, asks, answers }) => {
    const keys = Object.keys(answers);
    const made = select(form, asks, ["any", ...Object.values(answers)], show);
    return { key, get answer() { return made.index ? keys[made.index - 1] : null; }, made };
  });
  const again = element("button", { type: "button" }, "Begin again");
  again.addEventListener("click", () => {
    asked.forEach(({ made }) => (made.input.value = "0"));
    show();
  });
  form.append(again);
  view.remove();

  // An answer holds where each question is open, or left out by it, or answered as it wants.
  function holds(answer) {
    return asked.every(({ key, answer: given }) => !given || !answer[key] || answer[key].includes(given));
  }

  function show() {
    const chosen = data.answers.map(holds);
    lines.forEach((line, at) => (line.hidden = !chosen[at]));
    const found = data.answers.filter((_, at) => chosen[at]);
    const open = asked.every(({ answer }) => !answer);
    if (open) {
      say(`All ${found.length} lines; each answer leaves fewer.`);
    } else if (!found.length) {
      say("No line: the book has no evidence about this. Set a question to \u201cany\u201d.");
    } else {
      const word = found.length === 1 ? "line" : "lines";
      say(`${found.length} ${word}. Take: ${found.map(({ take }) => take).join(" \u00b7 ")}.`);
    }
  }

  show();
});
