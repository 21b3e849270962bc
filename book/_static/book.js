// Search results show an excerpt of each page. Browsers refuse to fetch one from a file:// page.
if (window.location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
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
    box.className = "figure-box";
    image.replaceWith(box);
    box.append(image);
  }
}

// Letters in a figure stay legible: its image is shown no smaller than this share of its own width.
const SMALLEST = 0.6;

function keepFiguresLegible() {
  for (const image of document.querySelectorAll(".figure-box img")) {
    image.style.setProperty("--bn-least", `${SMALLEST * image.naturalWidth}px`);
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

document.addEventListener("DOMContentLoaded", nameSidebarArrows);
document.addEventListener("DOMContentLoaded", boxFigures);
window.addEventListener("resize", letBoxesScroll);
window.addEventListener("load", () => {
  keepFiguresLegible();
  letBoxesScroll();
  if (window.MathJax && window.MathJax.startup) {
    window.MathJax.startup.promise.then(letBoxesScroll);
  }
});
