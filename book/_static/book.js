// Search results show an excerpt of each page. Browsers refuse to fetch one from a file:// page.
if (window.location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// An excerpt shows words: of mathematics its letters and signs where they are few, and no TeX.
const SIGNS = {
  alpha: "\u03b1", beta: "\u03b2", gamma: "\u03b3", delta: "\u03b4", epsilon: "\u03b5",
  eta: "\u03b7", theta: "\u03b8", lambda: "\u03bb", mu: "\u03bc", rho: "\u03c1",
  sigma: "\u03c3", times: "\u00d7", cdot: "\u00b7", le: "\u2264", ge: "\u2265", sqrt: "\u221a",
};

function inWords(tex) {
  const plain = tex
    .replace(/\\[()]|[{}]/g, "")
    .replace(/\\(?:mathcal|mathrm|text|hat|bar|bm)\b ?/g, "")
    .replace(/\\([a-z]+) ?/g, (all, name) => SIGNS[name] || all);
  return plain.length > 20 || plain.includes("\\") ? "\u2026" : plain;
}

function sayExcerptsInWords() {
  if (typeof Search === "undefined") {
    return;
  }
  const asText = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll("div.math").forEach((formula) => formula.remove());
    page.querySelectorAll("span.math").forEach((formula) => {
      formula.textContent = inWords(formula.textContent);
    });
    return asText(page.documentElement.outerHTML, anchor);
  };
}

// The arrows that unfold a chapter in the sidebar have no name of their own.
function nameSidebarArrows() {
  for (const summary of document.querySelectorAll(".bd-links summary")) {
    const chapter = summary.closest("li").querySelector("a");
    summary.setAttribute("aria-label", `Pages of ${chapter.textContent.trim()}`);
  }
}

// On a narrow screen a wide figure scrolls in a box of its own.
function boxFigures() {
  for (const image of document.querySelectorAll(".bd-article figure img")) {
    const box = document.createElement("div");
    const whole = image.closest("picture") || image;
    box.className = "figure-box";
    whole.replaceWith(box);
    box.append(whole);
  }
}

// A click on a figure, or on the button beside it, shows it as large as the screen; Escape ends it.
function letFiguresGrow() {
  const dialog = document.createElement("dialog");
  const close = document.createElement("button");
  dialog.className = "figure-large";
  close.textContent = "Close";
  dialog.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  for (const box of document.querySelectorAll(".figure-box")) {
    const image = box.querySelector("img");
    const number = box.closest("figure").querySelector(".caption-number");
    const button = document.createElement("button");
    const name = number ? number.textContent.trim() : "figure";
    button.className = "figure-grow";
    button.type = "button";
    button.setAttribute("aria-label", `Enlarge ${name}`);
    const grow = () => {
      const large = new Image();
      large.src = image.src;
      large.alt = image.alt;
      dialog.setAttribute("aria-label", name);
      dialog.replaceChildren(close, large);
      dialog.showModal();
    };
    button.addEventListener("click", grow);
    image.addEventListener("click", grow);
    box.after(button);
  }
}

// Letters in a figure stay legible: its image is shown no smaller than this share of its own width.
const SMALLEST = 0.75;

function keepFiguresLegible() {
  for (const image of document.querySelectorAll(".figure-box img")) {
    image.style.setProperty("--bn-least", `${SMALLEST * image.naturalWidth}px`);
  }
}

// A formula that is too wide for its place is set smaller, as far as it can still be read.
const SMALLEST_FORMULA = 0.6;

function fitFormulas() {
  for (const formula of document.querySelectorAll("mjx-container[display=true]")) {
    const size = formula.dataset.size || parseFloat(formula.style.fontSize) || 100;
    formula.dataset.size = size;
    formula.style.fontSize = `${size}%`;
    const share = formula.clientWidth / formula.scrollWidth;
    if (share > 0 && share < 1) {
      formula.style.fontSize = `${size * Math.max(0.98 * share, SMALLEST_FORMULA)}%`;
    }
  }
}

// A formula or figure that scrolls in its box can be scrolled from the keyboard too.
function letBoxesScroll() {
  for (const box of document.querySelectorAll("mjx-container[display=true], .figure-box")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
    } else {
      box.removeAttribute("tabindex");
    }
  }
}

// Where a row's cells stand under each other, each is under the name of its column.
function labelCells() {
  for (const table of document.querySelectorAll("table.claims, table.judgements")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, at) => (cell.dataset.label = names[at] || ""));
    }
  }
}

// The ledger's rows can be chosen by facet and by words, and sorted; the address keeps the choice.
const FACETS = ["paper", "kind", "verdict", "profile"];

function facetOf(row, facet) {
  const prefix = `${facet}-`;
  return [...row.classList].find((name) => name.startsWith(prefix)).slice(prefix.length);
}

function filterLedger() {
  const table = document.querySelector("table.filtered");
  if (!table) {
    return;
  }
  const rows = [...table.tBodies[0].rows];
  const form = document.createElement("form");
  form.className = "ledger-filter";
  form.setAttribute("role", "search");
  const asked = new URLSearchParams(window.location.search);
  const controls = {};
  for (const facet of FACETS) {
    const values = [...new Set(rows.map((row) => facetOf(row, facet)))].sort();
    const select = document.createElement("select");
    select.name = facet;
    select.append(new Option(`any ${facet}`, ""));
    values.forEach((value) => select.append(new Option(value.replace(/-+/g, " "), value)));
    select.value = values.includes(asked.get(facet)) ? asked.get(facet) : "";
    select.setAttribute("aria-label", facet);
    controls[facet] = select;
    form.append(select);
  }
  const words = document.createElement("input");
  words.type = "search";
  words.name = "words";
  words.placeholder = "words";
  words.setAttribute("aria-label", "words in the claim");
  words.value = asked.get("words") || "";
  const count = document.createElement("output");
  form.append(words, count);
  table.before(form);

  function choose() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = FACETS.every((f) => !controls[f].value || facetOf(row, f) === controls[f].value);
      row.hidden = !(fits && wanted.every((word) => text.includes(word)));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${rows.length} claims`;
    const kept = new URLSearchParams();
    [...Object.values(controls), words].filter((c) => c.value).forEach((c) => kept.set(c.name, c.value));
    const query = kept.toString() ? `?${kept}` : "";
    window.history.replaceState(null, "", window.location.pathname + query + window.location.hash);
  }
  form.addEventListener("input", choose);
  form.addEventListener("submit", (event) => event.preventDefault());
  choose();
  sortable(table, rows);
}

// The first number of a cell, powers of ten such as 3·10\u207b\u2075 included; none sorts first.
const RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";

function numberOf(text) {
  const plain = text
    .replace(/\u2212|\u207b/g, "-")
    .replace(/[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]/g, (digit) => RAISED.indexOf(digit));
  const found = plain.match(/(-?[\d.,]+)(?:\s*[\u00b7\u00d7]\s*10(-?\d+))?/);
  return found ? parseFloat(found[1].replace(/,/g, "")) * 10 ** (found[2] || 0) : -Infinity;
}

function sortable(table, rows) {
  const place = new Map(rows.map((row, at) => [row, at]));
  [...table.querySelectorAll("thead th")].forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("thead th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[at].textContent.trim();
      const order = (a, b) =>
        numberOf(text(a)) - numberOf(text(b)) ||
        text(a).localeCompare(text(b), "en") ||
        place.get(a) - place.get(b);
      const sorted = [...rows].sort(order);
      table.tBodies[0].append(...(down ? sorted.reverse() : sorted));
    });
  });
}

// What a link to an equation, figure, table or exercise of the page points at is shown beside it,
// under the pointer or with the focus of the keyboard; Escape hides it.
function showPreviews() {
  if (!window.matchMedia("(hover: hover)").matches) {
    return;
  }
  const card = document.createElement("div");
  card.className = "preview";
  card.inert = true; // a reader of the screen follows the link
  card.hidden = true;
  let waiting = 0;
  const hide = () => {
    window.clearTimeout(waiting);
    card.hidden = true;
  };
  const show = (link, target) => {
    const copy = target.cloneNode(true);
    copy.querySelectorAll("button, .headerlink, mjx-assistive-mml").forEach((one) => one.remove());
    [copy, ...copy.querySelectorAll("[id]")].forEach((one) => one.removeAttribute("id"));
    card.replaceChildren(copy);
    card.hidden = false;
    const { left, top, bottom } = link.getBoundingClientRect();
    const below = bottom + card.offsetHeight + 12 < window.innerHeight;
    card.style.top = `${below ? bottom + 6 : Math.max(6, top - card.offsetHeight - 6)}px`;
    card.style.left = `${Math.max(6, Math.min(left, window.innerWidth - card.offsetWidth - 20))}px`;
  };
  for (const link of document.querySelectorAll('.bd-article a.internal[href^="#"]')) {
    const found = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    const target = found && found.closest("figure, div.math, table, .admonition");
    if (target && !target.contains(link)) {
      link.addEventListener("pointerenter", () => {
        waiting = window.setTimeout(show, 200, link, target);
      });
      link.addEventListener("focus", () => show(link, target));
      link.addEventListener("pointerleave", hide);
      link.addEventListener("blur", hide);
    }
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.body.append(card);
}

document.addEventListener("DOMContentLoaded", nameSidebarArrows);
document.addEventListener("DOMContentLoaded", labelCells);
document.addEventListener("DOMContentLoaded", filterLedger);
document.addEventListener("DOMContentLoaded", boxFigures);
document.addEventListener("DOMContentLoaded", letFiguresGrow);
document.addEventListener("DOMContentLoaded", showPreviews);
document.addEventListener("DOMContentLoaded", sayExcerptsInWords);
window.addEventListener("resize", fitFormulas);
window.addEventListener("resize", letBoxesScroll);
// Formulas in a box that is folded have no width before it is unfolded.
document.addEventListener("toggle", fitFormulas, true);
document.addEventListener("click", () => window.setTimeout(fitFormulas, 0));
window.addEventListener("load", () => {
  keepFiguresLegible();
  letBoxesScroll();
  if (window.MathJax && window.MathJax.startup) {
    window.MathJax.startup.promise.then(fitFormulas).then(letBoxesScroll);
  }
});
