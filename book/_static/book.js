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

// A formula that scrolls in its box can be scrolled from the keyboard too.
function letFormulasScroll() {
  for (const formula of document.querySelectorAll("mjx-container[display=true]")) {
    if (formula.scrollWidth > formula.clientWidth) {
      formula.tabIndex = 0;
    } else {
      formula.removeAttribute("tabindex");
    }
  }
}

document.addEventListener("DOMContentLoaded", nameSidebarArrows);
window.addEventListener("resize", letFormulasScroll);
window.addEventListener("load", () => {
  if (window.MathJax && window.MathJax.startup) {
    window.MathJax.startup.promise.then(letFormulasScroll);
  }
});
