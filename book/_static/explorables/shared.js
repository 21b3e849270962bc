// What the explorables share: their boxes, native controls, and charts drawn as SVG.
//
// A piece registers a builder. It gets its box and the data that the page holds as JSON; the table
// that stands there without a script moves into a fold below.
"use strict";

const Explorables = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const RAISED = { "-": "\u207b", 0: "\u2070", 1: "\u00b9", 2: "\u00b2", 3: "\u00b3" };
  const builders = {};
  let ids = 0;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    made.append(...children);
    return made;
  }

  function drawn(tag, attributes = {}, text = "") {
    const made = document.createElementNS(SVG, tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    made.textContent = text;
    return made;
  }

  const raised = (power) =>
    [...String(power)].map((c) => RAISED[c] || String.fromCharCode(0x2070 + Number(c))).join("");

  // A number as the book writes it: three digits, a power of ten where it is far from 1.
  function number(value, digits = 3) {
    const size = Math.abs(value);
    if (size && (size >= 1e4 || size < 1e-4)) {
      const [mantissa, power] = value.toExponential(1).split("e");
      return `${mantissa}\u00b710${raised(Number(power))}`.replace(/^-/, "\u2212");
    }
    return String(Number.isInteger(value) ? value : Number(value.toPrecision(digits))).replace(/^-/, "\u2212");
  }

  const tick = (value) => number(value).replace(/^1\.0\u00b7/, "");

  function labelled(form, label, input, after = []) {
    input.id = `explorable-${(ids += 1)}`;
    const box = element("div", { class: "explorable-control" });
    box.append(element("label", { for: input.id }, label), input, ...after);
    form.append(box);
    return box;
  }

  // A slider over listed values, each said in words to those who do not see it.
  function slider(form, label, change) {
    const input = element("input", { type: "range", min: 0, step: 1 });
    const output = element("output", { "aria-live": "off" });
    const box = labelled(form, label, input, [output]);
    output.htmlFor = input.id;
    const made = {
      box,
      values: [],
      words: [],
      get index() { return Number(input.value); },
      get value() { return made.values[made.index]; },
      set(values, start, say = number) {
        made.values = values;
        made.words = values.map((each) => say(each));
        input.max = values.length - 1;
        input.value = start;
        box.hidden = values.length < 2;
        tell();
      },
    };
    function tell() {
      output.textContent = made.words[made.index];
      input.setAttribute("aria-valuetext", output.textContent);
    }
    input.addEventListener("input", () => {
      tell();
      change();
    });
    return made;
  }

  function select(form, label, names, change) {
    const input = element("select");
    names.forEach((name, at) => input.append(new Option(name, String(at))));
    const box = labelled(form, label, input);
    input.addEventListener("change", change);
    return { box, input, get index() { return Number(input.value); } };
  }

  // Looks: a class of the style sheet, and a marker; dashed and orange is "without BN" alone.
  const MARKERS = {
    without: (x, y) => `M${x - 4} ${y - 4}h8v8h-8z`,
    diamond: (x, y) => `M${x} ${y - 6}l6 6l-6 6l-6 -6z`,
    round: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
    ring: (x, y) => `M${x - 9} ${y}a9 9 0 1 0 18 0a9 9 0 1 0 -18 0z`,
  };

  function marker(look, shape, x, y) {
    const d = (MARKERS[shape || look] || MARKERS.round)(x, y);
    return drawn("path", { class: `dot look-${look}`, d });
  }

  function legend(box, entries) {
    const list = element("ul", { class: "explorable-legend" });
    for (const { look, text, dots, line = true, shape } of entries) {
      const sample = drawn("svg", { width: 34, height: 14, "aria-hidden": "true" });
      if (line) sample.append(drawn("path", { class: `line look-${look}`, d: "M1 7H33" }));
      if (dots) sample.append(marker(look, shape, 17, 7));
      list.append(element("li", {}, sample, text));
    }
    box.append(list);
  }

  function ticks([low, high], log, room) {
    if (!log) {
      const rough = (high - low) / Math.max(2, Math.min(6, room / 45));
      const power = 10 ** Math.floor(Math.log10(rough));
      const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
      const first = Math.ceil(low / step - 1e-9);
      const count = Math.floor(high / step + 1e-9) - first + 1;
      return Array.from({ length: count }, (_, at) => Number(((first + at) * step).toPrecision(12)));
    }
    const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const every = Math.max(1, Math.ceil((to - from + 1) / Math.max(2, room / 50)));
    const found = [];
    for (let power = from; power <= to; power += every) {
      found.push(10 ** power);
    }
    return found.length > 1 ? found : [low, high];
  }

  // A chart is told what it shows as a whole, and draws it again when its box changes its width.
  class Chart {
    constructor(box, height = 260) {
      this.height = height;
      this.clip = `explorable-clip-${(ids += 1)}`;
      this.svg = drawn("svg", { role: "img", class: "explorable-chart", height });
      box.append(this.svg);
      new ResizeObserver(() => this.draw()).observe(this.svg);
    }

    // content: {name, x: {range, log, label}, y: {...}, marks: [{kind, look, ...}]}
    show(content) {
      this.content = content;
      this.draw();
    }

    draw() {
      const width = this.svg.clientWidth;
      if (!this.content || !width) {
        return;
      }
      const { name, x, y, marks } = this.content;
      const frame = { left: 54, right: width - 12, top: 24, bottom: this.height - 44 };
      const across = scale(x, frame.left, frame.right);
      const up = scale(y, frame.bottom, frame.top);
      const { left, right, top, bottom } = frame;
      const clip = drawn("clipPath", { id: this.clip });
      const size = { width: right - left + 8, height: bottom - top + 9 };
      clip.append(drawn("rect", { x: left - 1, y: top - 8, ...size }));
      const shown = drawn("g", { "clip-path": `url(#${this.clip})` });
      marks.forEach((mark) => shown.append(...KINDS[mark.kind](mark, across, up, frame)));
      this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
      this.svg.setAttribute("aria-label", name);
      this.svg.replaceChildren(clip, ...axes(x, y, across, up, frame), shown);
    }
  }

  function scale({ range: [low, high], log }, from, to) {
    const at = log ? Math.log : (value) => value;
    const [a, b] = [at(low), at(high)];
    return (value) => from + ((to - from) * (at(value) - a)) / (b - a);
  }

  function axes(x, y, across, up, { left, right, top, bottom }) {
    const made = [drawn("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` })];
    for (const value of ticks(x.range, x.log, right - left)) {
      const at = across(value);
      made.push(drawn("path", { class: "axis", d: `M${at} ${bottom}v5` }));
      made.push(drawn("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, tick(value)));
    }
    for (const value of ticks(y.range, y.log, bottom - top)) {
      const at = up(value);
      made.push(drawn("path", { class: "axis", d: `M${left} ${at}h-5` }));
      made.push(drawn("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, tick(value)));
    }
    const middle = (left + right) / 2;
    made.push(drawn("text", { x: middle, y: bottom + 38, "text-anchor": "middle" }, x.label));
    made.push(drawn("text", { x: 4, y: 12 }, y.label));
    return made;
  }

  const fit = (value) => Math.max(-1e5, Math.min(1e5, value));
  const path = (points, across, up) =>
    points.map(([x, y], at) => `${at ? "L" : "M"}${fit(across(x))} ${fit(up(y))}`).join("");

  const KINDS = {
    line: ({ look, points }, across, up) =>
      [drawn("path", { class: `line look-${look}`, d: path(points, across, up) })],
    band: ({ look, points }, across, up) => {
      if (!points.length) return [];
      const edge = [...points.map(([x, , high]) => [x, high])].reverse();
      const around = [...points.map(([x, low]) => [x, low]), ...edge];
      return [drawn("path", { class: `band look-${look}`, d: `${path(around, across, up)}z` })];
    },
    dots: ({ look, points, shape }, across, up) =>
      points.map(([x, y]) => marker(look, shape, fit(across(x)), fit(up(y)))),
    bars: ({ look, points }, across, up) =>
      points.map(([from, to, y]) => {
        const [left, top] = [across(from), up(y)];
        const size = { width: Math.max(1, across(to) - left - 1), height: up(0) - top };
        return drawn("rect", { class: `bar look-${look}`, x: left, y: top, ...size });
      }),
    rule: ({ look, x, y }, across, up, { left, right, top, bottom }) => {
      const d = x === undefined ? `M${left} ${up(y)}H${right}` : `M${across(x)} ${top}V${bottom}`;
      return [drawn("path", { class: `line look-${look}`, d })];
    },
  };

  // Begin: a form above, a summary that screen readers follow, the table folded below.
  function begin(box) {
    const name = [...box.classList].find((each) => each.startsWith("explorable-")).slice(11);
    const holder = box.querySelector('script[type="application/json"]');
    if (!builders[name] || !holder) {
      return;
    }
    const form = element("form", { class: "explorable-form" });
    form.addEventListener("submit", (event) => event.preventDefault());
    const view = element("div", { class: "explorable-view" });
    const summary = element("p", { class: "explorable-summary", role: "status", "aria-live": "polite" });
    holder.after(form, view, summary);
    const table = box.querySelector(".pst-scrollable-table-container, table");
    if (name !== "norms") {
      const fold = element("details", {}, element("summary", {}, "The numbers as a table"));
      table.replaceWith(fold);
      fold.append(table);
    }
    const say = (text) => (summary.textContent = text);
    builders[name]({ box, form, view, say, table, data: JSON.parse(holder.textContent) });
  }

  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("div.explorable").forEach(begin));

  return {
    Chart, element, legend, number, select, slider,
    register: (name, build) => (builders[name] = build),
  };
})();
