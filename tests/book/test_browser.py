"""The built pages in a browser: over http and from disk, light and dark, wide and narrow."""

import functools
import http.server
import os
import re
import shutil
import threading
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, sync_playwright

pytestmark = pytest.mark.browser

BROWSERS = (os.environ.get("BNBOOK_CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--disable-quic",
)  # fmt: skip
VISITS = {
    "http, light, wide": ("http", "light", 1280),
    "http, dark, wide": ("http", "dark", 1280),
    "file, light, narrow": ("file", "light", 390),
}
THEME = {
    "region": r'class="[^"]*\blogo__(image|title)\b',
    "aria-required-children": r'class="citation-list"',
    "aria-allowed-role": r'class="citation" [^>]*role="doc-biblioentry"',
    "aria-deprecated-role": r'class="citation" [^>]*role="doc-biblioentry"',
}
"""Findings of axe-core that come from the theme or docutils: rule -> the element's HTML."""

AXE = {"resultTypes": ["violations"], "preload": False}
"""Without `preload`: it asks for stylesheets again, which no page of the book does."""

PREPARE = """async () => {
    document.querySelectorAll("details").forEach(d => d.open = true);
    document.querySelectorAll(".toggle-hidden").forEach(e => e.classList.remove("toggle-hidden"));
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await document.fonts.ready;
}"""
FORMULAS = """() => {
    const formulas = [...document.querySelectorAll(".bd-article .math")];
    const plain = formulas.filter(f => !f.querySelector("mjx-container"));
    const wrong = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")];
    return {formulas: formulas.length, faults: [...plain, ...wrong].map(f => f.textContent)};
}"""
IMAGES = """() => {
    const images = [...document.querySelectorAll(".bd-article img")];
    const figures = [...document.querySelectorAll(".bd-article figure")];
    return {
        images: images.length,
        faults: [
            ...images.filter(i => !i.alt.trim()).map(i => "no alt: " + i.src),
            ...images.filter(i => !i.naturalWidth).map(i => "not shown: " + i.src),
            ...figures.filter(f => !f.querySelector("figcaption")?.textContent.trim())
                .map(f => "no caption: " + f.id),
        ],
    };
}"""
OVERFLOW = """() => {
    const room = document.documentElement.clientWidth;
    const boxed = e => {
        for (let up = e.parentElement; up && !up.matches(".bd-article"); up = up.parentElement)
            if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) return true;
        return false;
    };
    const out = [...document.querySelectorAll(".bd-article *")].filter(e =>
        e.getBoundingClientRect().right > room + 1 && e.checkVisibility() && !boxed(e)
        && !e.closest("mjx-assistive-mml"));
    const page = document.documentElement.scrollWidth;
    return [...(page > room ? ["the page is " + page + " px wide"] : []),
        ...out.slice(0, 3).map(e => e.outerHTML.slice(0, 100))];
}"""


@dataclass
class Visit:
    """What one page did in one way of opening it."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    formulas: dict = field(default_factory=dict)
    images: dict = field(default_factory=dict)
    overflow: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium():
    path = next((found for name in BROWSERS if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or set BNBOOK_CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def roots(book):
    """Where the book is, for each way of opening it."""
    handler = functools.partial(_Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}", "file": book.resolve().as_uri()}
        server.shutdown()


def open_context(browser, mode: str, width: int):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    context.add_init_script(
        f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}');"
    )
    return context


def watch(page, root: str) -> Visit:
    """Note every request that leaves the book's folder, and every error."""
    seen = Visit()
    page.on(
        "request",
        lambda r: r.url.startswith((f"{root}/", "data:", "blob:")) or seen.outside.append(r.url),
    )
    page.on("requestfailed", lambda r: seen.errors.append(f"failed: {r.url}"))
    page.on(
        "response", lambda r: r.status < 400 or seen.errors.append(f"status {r.status}: {r.url}")
    )
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on(
        "console",
        lambda m: m.type not in ("error", "warning") or seen.errors.append(f"{m.type}: {m.text}"),
    )
    return seen


def unexpected(violations: list[dict]) -> list[str]:
    """Name axe's findings that the theme does not account for."""
    found = []
    for violation in violations:
        known = THEME.get(violation["id"])
        for node in violation["nodes"]:
            if not (known and re.search(known, node["html"])):
                where = " ".join(map(str, node["target"]))
                found.append(f"{violation['id']}: {where} {node['html'][:150]}")
    return found


def visit(context, root: str, name: str) -> Visit:
    page = context.new_page()
    seen = watch(page, root)
    page.goto(f"{root}/{name}", wait_until="load")
    page.evaluate(PREPARE)
    seen.formulas, seen.images = page.evaluate(FORMULAS), page.evaluate(IMAGES)
    seen.overflow = page.evaluate(OVERFLOW)
    seen.axe = unexpected(Axe().run(page, options=AXE).response["violations"])
    page.close()
    return seen


@pytest.fixture(scope="module")
def visits(chromium, roots, pages) -> dict[tuple[str, str], Visit]:
    """Every page, opened in every way."""
    found = {}
    for way, (scheme, mode, width) in VISITS.items():
        context = open_context(chromium, mode, width)
        for name in pages:
            found[name, way] = visit(context, roots[scheme], name)
        context.close()
    return found


def expect_none(visits, about) -> None:
    """Fail with a line for each finding: the page, the fault and the ways it was opened in."""
    ways = {}
    for (name, way), seen in visits.items():
        for finding in about(seen):
            ways.setdefault(f"{name}: {finding}", []).append(way)
    if ways:
        lines = [f"{line} ({'; '.join(found)})" for line, found in sorted(ways.items())]
        pytest.fail("\n".join([f"{len(lines)} findings", *lines]), pytrace=False)


def test_every_page_was_opened_in_every_way(visits, pages):
    assert len(visits) == len(VISITS) * len(pages)
    assert {"index.html", "book/ledger.html"} <= {name for name, _ in visits}


def test_no_request_leaves_the_book(visits):
    expect_none(visits, lambda seen: seen.outside)


def test_no_page_has_an_error(visits):
    expect_none(visits, lambda seen: seen.errors)


def test_every_formula_is_typeset(visits):
    expect_none(visits, lambda seen: seen.formulas["faults"])
    assert sum(seen.formulas["formulas"] for seen in visits.values()) > 0


def test_every_image_has_words_and_every_figure_a_caption(visits):
    expect_none(visits, lambda seen: seen.images["faults"])
    assert sum(seen.images["images"] for seen in visits.values()) > 0


def test_nothing_is_wider_than_the_screen(visits):
    expect_none(visits, lambda seen: seen.overflow)


def test_axe_finds_only_what_the_theme_accounts_for(visits):
    expect_none(visits, lambda seen: seen.axe)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_page_and_opens_it(chromium, roots, scheme):
    context = open_context(chromium, "light", 1280)
    page = context.new_page()
    seen = watch(page, roots[scheme])
    page.goto(f"{roots[scheme]}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("inconclusive")
    page.keyboard.press("Enter")
    results = page.locator("#search-results ul.search a[href*='ledger.html']")
    results.first.wait_for(timeout=10_000)
    assert "search.html?q=inconclusive" in page.url
    results.first.click()
    page.wait_for_url("**/book/ledger.html*")
    assert page.locator("h1").first.inner_text().startswith("The ledger")
    context.close()
    assert (seen.outside, seen.errors) == ([], [])


def test_dark_and_light_differ(chromium, roots):
    colours = {}
    for mode in ("light", "dark"):
        context = open_context(chromium, mode, 1280)
        page = context.new_page()
        page.goto(f"{roots['http']}/index.html")
        colours[mode] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert colours["light"] == "rgb(255, 255, 255)"
    assert colours["dark"] != colours["light"]


def test_the_checks_see_faults(chromium, tmp_path):
    """A page with one fault of each kind: checks that never fail are no evidence."""
    long = "wide" * 200
    (tmp_path / "bad.html").write_text(
        "<html lang='en'><title>Bad</title><main class='bd-article'><h1>Bad</h1>"
        f"<p>{long}</p><span class='math'>\\(x\\)</span><figure><img src='no.png'></figure>"
        "<p style='color:#ccc;background:#fff'>Too faint</p>"
        "<script>throw new Error('broken')</script>"
        "<script src='http://127.0.0.1:9/away.js'></script></main></html>"
    )
    context = open_context(chromium, "light", 390)
    try:
        seen = visit(context, tmp_path.as_uri(), "bad.html")
    except Error as error:  # pragma: no cover
        pytest.fail(str(error))
    finally:
        context.close()
    assert seen.outside == ["http://127.0.0.1:9/away.js"]
    assert any("broken" in error for error in seen.errors)
    assert any("no.png" in error for error in seen.errors)
    assert seen.formulas["faults"] == ["\\(x\\)"]
    assert len(seen.images["faults"]) == 3
    assert seen.overflow
    rules = {finding.split(":")[0] for finding in seen.axe}
    assert {"color-contrast", "image-alt"} <= rules
