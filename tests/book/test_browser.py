"""The built pages in a browser: over http and from disk, light and dark, wide and narrow.

One browser serves all tests, and every page is a test of its own, with its own limit of time: a
machine that is busy makes them slow and not red. Narrow pages are in `test_browser_phone`, so that
another process can look at them meanwhile.
"""

import base64
import csv
import functools
import http.server
import json
import re
import threading
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, sync_playwright

from bnbook.book import pdf
from bnbook.book.pages.search import Words
from bnbook.errors import BnbookError
from tests.book.conftest import PAGES

PATIENCE = 240  # seconds for the browser to start, and for each thing that a page is asked for
pytestmark = [pytest.mark.browser, pytest.mark.timeout(3 * PATIENCE)]

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run", "--disable-quic",
)  # fmt: skip
PHONE = "file, light, narrow"
VISITS = {
    "http, light, wide": ("http", "light", 1280),
    "http, dark, wide": ("http", "dark", 1280),
    PHONE: ("file", "light", 390),
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
    document.getAnimations().forEach(a => a.effect.getComputedTiming().endTime < 1e9 && a.finish());
}"""
"""Open what is folded, and let what fades in have its own colours."""
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

CLIPPED = """() => [...document.querySelectorAll(
    ".bd-article mjx-container[display=true], .bd-article pre")]
    .filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
    .map(box => box.closest("[id]").id + ", " + box.scrollWidth + " px in " + box.clientWidth
        + ": " + box.textContent.trim().slice(0, 50))"""
FIGURES = """() => {
    const frames = [...document.querySelectorAll(".bd-article .figure-box img")];
    return frames.filter(i => i.naturalWidth && i.currentSrc.endsWith(".svg"))
        .map(i => [i.currentSrc.split("/").pop(), i.getBoundingClientRect().width]);
}"""


@dataclass
class Visit:
    """What one page did in one way of opening it."""

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    formulas: dict = field(default_factory=dict)
    images: dict = field(default_factory=dict)
    overflow: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    figures: list = field(default_factory=list)
    axe: list[str] = field(default_factory=list)

    def findings(self) -> list[str]:
        """Name all that is wrong, a line each."""
        kinds = {
            "a request leaves the book": self.outside,
            "error": self.errors,
            "formula not typeset": self.formulas["faults"],
            "image or figure": self.images["faults"],
            "wider than the screen": self.overflow,
            "clipped": self.clipped,
            "axe": self.axe,
        }
        return [f"{kind}: {finding}" for kind, found in kinds.items() for finding in found]


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(playwright):
    try:
        path = pdf.chromium()
    except BnbookError as error:
        pytest.skip(str(error))
    browser = start(playwright, path)
    yield browser
    browser.close()


def start(playwright, path, patience=PATIENCE):
    """Start the browser, or say what to try."""
    try:
        return playwright.chromium.launch(
            executable_path=path, args=list(ARGUMENTS), timeout=1000 * patience
        )
    except Error as error:
        pytest.fail(
            f"{path} did not start within {patience} seconds. See whether it starts alone:"
            f" `{path} --headless --no-sandbox --dump-dom about:blank`. If it does, the machine is"
            " too busy: run `pytest -m browser` by itself. If it does not, set BNBOOK_CHROMIUM to"
            " another Chromium, or leave these tests out with `pytest -m 'not browser'`."
            f"\n{error}",
            pytrace=False,
        )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # a page asks for many files at once, and its server may be waiting


@pytest.fixture(scope="module")
def roots(book):
    """Where the book is, for each way of opening it."""
    handler = functools.partial(_Quiet, directory=str(book))
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}", "file": book.resolve().as_uri()}
        server.shutdown()


def open_context(browser, mode: str, width: int):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    context.set_default_timeout(1000 * PATIENCE)
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
    page.on(
        "requestfailed",  # a page that is left aborts what it still waits for: no fault of the book
        lambda r: r.failure == "net::ERR_ABORTED" or seen.errors.append(f"failed: {r.url}"),
    )
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
    page.evaluate("() => window.dispatchEvent(new Event('resize'))")
    seen.overflow, seen.clipped = page.evaluate(OVERFLOW), page.evaluate(CLIPPED)
    seen.figures = page.evaluate(FIGURES)
    seen.axe = unexpected(Axe().run(page, options=AXE).response["violations"])
    page.close()
    return seen


@pytest.fixture(scope="module")
def contexts(chromium):
    """One for each way of opening pages."""
    found = {way: open_context(chromium, *how) for way, (_, *how) in VISITS.items()}
    yield found
    for context in found.values():
        context.close()


@pytest.fixture(scope="module")
def seen(contexts, roots, pages):
    """Visit a page in one way, once."""
    return functools.cache(lambda name, way: visit(contexts[way], roots[VISITS[way][0]], name))


@pytest.mark.parametrize("way", [way for way in VISITS if way != PHONE])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault(seen, name, way):
    found = seen(name, way).findings()
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_formulas_and_images_were_looked_at(seen):
    """On the first chapter, which has both."""
    found = seen("book/11-transform.html", "http, light, wide")
    assert found.formulas["formulas"] > 10
    assert found.images["images"] > 0


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_page_and_opens_it(chromium, roots, scheme):
    context = open_context(chromium, "light", 1280)
    page = context.new_page()
    seen = watch(page, roots[scheme])
    page.goto(f"{roots[scheme]}/index.html")
    page.keyboard.press("Control+k")
    page.wait_for_function("document.activeElement.matches('input[type=search]')")
    page.keyboard.type("inconclusive")
    page.keyboard.press("Enter")
    results = page.locator("#search-results ul.search a[href*='ledger.html']")
    results.first.wait_for()
    assert "search.html?q=inconclusive" in page.url
    results.first.click()
    page.wait_for_url("**/book/ledger.html*")
    assert page.locator("h1").first.inner_text().startswith("The ledger")
    context.close()
    assert (seen.outside, seen.errors) == ([], [])


SHOWN = """() => [...document.querySelectorAll("table.filtered tbody tr")]
    .filter(row => !row.hidden).map(row => [...row.cells].map(cell => cell.innerText.trim()))"""


def test_the_ledger_is_filtered_sorted_and_has_the_same_rows_as_its_files(chromium, roots, book):
    rows = json.loads((book / "_static" / "ledger.json").read_text())
    with (book / "_static" / "ledger.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["id"] for row in read] == [row["id"] for row in rows]
    assert [float(row["bound"]) for row in read] == [row["bound"] for row in rows]
    context = open_context(chromium, "light", 1280)
    page = context.new_page()
    seen = watch(page, roots["http"])
    page.goto(f"{roots['http']}/book/ledger.html")
    assert len(page.evaluate(SHOWN)) == len(rows)
    page.get_by_label("verdict").select_option("not-reproduced")
    found, expected = page.evaluate(SHOWN), [r for r in rows if r["verdict"] == "not reproduced"]
    assert len(found) == len(expected) > 0
    shaken = [r for r in expected if r["p_adjusted"] is not None and r["p_adjusted"] > 0.05]
    said = ["not reproduced"] * (len(expected) - len(shaken))
    said += ["not reproduced, but inconclusive when adjusted"] * len(shaken)
    assert sorted(cells[6] for cells in found) == said
    assert page.locator(".ledger-filter output").inner_text() == (
        f"{len(expected)} of {len(rows)} claims"
    )
    page.get_by_label("verdict").select_option("")
    page.get_by_label("words").fill("Theorem 1 marchenko")
    assert len(page.evaluate(SHOWN)) == 1
    assert "words=Theorem" in page.url
    page.reload()
    assert len(page.evaluate(SHOWN)) == 1
    page.get_by_label("words").fill("")
    page.get_by_role("button", name="n", exact=True).click()
    counts = [int(cells[4].split()[0]) for cells in page.evaluate(SHOWN)]
    assert counts == sorted(counts)
    page.get_by_role("button", name="n", exact=True).click()
    assert [int(cells[4].split()[0]) for cells in page.evaluate(SHOWN)] == sorted(counts)[::-1]
    context.close()
    assert (seen.outside, seen.errors) == ([], [])


def test_a_figure_is_enlarged_by_keyboard_and_escape_ends_it(chromium, roots):
    context = open_context(chromium, "light", 1280)
    page = context.new_page()
    page.goto(f"{roots['http']}/book/11-transform.html")
    button = page.get_by_role("button", name="Enlarge Figure 11.1", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog", name="Figure 11.1").locator("img")
    small = page.locator(".figure-box img").first
    assert large.get_attribute("alt") == small.get_attribute("alt")
    assert large.bounding_box()["width"] > 1.3 * small.bounding_box()["width"]
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert button.evaluate("b => b === document.activeElement")
    small.click()
    assert page.get_by_role("dialog", name="Figure 11.1").is_visible()
    context.close()


def test_a_link_shows_what_it_points_at(chromium, roots):
    """By pointer and by keyboard; the copy has no id of its own, and goes with Escape."""
    context = open_context(chromium, "light", 1280)
    page = context.new_page()
    page.goto(f"{roots['http']}/book/11-transform.html")
    page.wait_for_function("document.querySelector('mjx-container') !== null")
    card = page.locator(".preview")
    link = page.locator(".bd-article a[href='#equation-eq-transform-line']").first
    ids = "() => [...document.querySelectorAll('[id]')].map((one) => one.id)"
    before = page.evaluate(ids)
    assert not card.is_visible()
    link.hover()
    card.wait_for(state="visible")
    assert card.locator("mjx-container").count() >= 1
    assert page.evaluate(ids) == before
    page.mouse.move(0, 0)
    card.wait_for(state="hidden")
    link.focus()
    assert card.is_visible()
    box, window = card.bounding_box(), page.viewport_size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= window["width"]
    assert box["y"] >= 0
    page.keyboard.press("Escape")
    assert not card.is_visible()
    context.close()


ORDER = """() => {
    const seen = [...document.querySelectorAll(
        ".bd-article h1, .bd-article h2, .bd-article h3, .bd-article p, .bd-article figure")]
        .filter((one) => one.offsetParent !== null && !one.closest(
            "table, .cell_output, .sd-row, .explorable, figcaption, details, .topic, .dropdown"));
    return seen.map((one) => one.getBoundingClientRect().top + window.scrollY);
}"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index.html", "book/11-transform.html", "book/the-answer.html"])
def test_what_is_read_first_stands_first(chromium, roots, name, width):
    """The order of the document, which a screen reader follows, is the one from top to bottom."""
    context = open_context(chromium, "light", width)
    page = context.new_page()
    page.goto(f"{roots['http']}/{name}")
    tops = page.evaluate(ORDER)
    assert len(tops) > 5
    assert tops == sorted(tops)
    context.close()


LUMINANCE = """async (image) => {
    const bitmap = await createImageBitmap(await (await fetch(image)).blob());
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const data = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
    let light = 0;
    for (let at = 0; at < data.length; at += 4)
        light += data[at] + data[at + 1] + data[at + 2] > 3 * 200;
    return light / (data.length / 4);
}"""


@pytest.mark.parametrize("name", ["book/11-transform.html", "notebooks/21-sigmoid-mlp.html"])
def test_no_figure_is_a_light_card_in_dark_mode(chromium, roots, name):
    shares = {}
    for mode in ("light", "dark"):
        context = open_context(chromium, mode, 1280)
        page = context.new_page()
        page.goto(f"{roots['http']}/{name}")
        image = page.locator(".bd-article :is(figure, .cell_output) img").first
        shot = base64.b64encode(image.screenshot()).decode()
        shares[mode] = page.evaluate(LUMINANCE, f"data:image/png;base64,{shot}")
        context.close()
    assert shares["light"] > 0.7
    assert 0 < shares["dark"] < 0.2


def test_a_first_visit_says_nothing_on_the_console(chromium, roots):
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    seen = watch(page, roots["http"])
    page.goto(f"{roots['http']}/index.html", wait_until="networkidle")
    page.goto(f"{roots['http']}/book/11-transform.html", wait_until="networkidle")
    context.close()
    assert (seen.outside, seen.errors) == ([], [])


def results(page, root, words):
    """Search; return the paths found, and their excerpts."""
    page.goto(f"{root}/search.html?q={words}")
    page.locator("#search-results ul.search li").first.wait_for()
    page.wait_for_function("document.querySelector('.search-summary').textContent.match(/\\d/)")
    page.locator("#search-results li p.context").first.wait_for()
    links = page.locator("#search-results ul.search li > a")
    return [each.get_attribute("href").partition("?")[0] for each in links.all()], [
        each.inner_text() for each in page.locator("#search-results p.context").all()
    ]


def test_the_search_tells_a_transformer_from_a_transform(chromium, roots):
    context = open_context(chromium, "light", 1280)
    page = context.new_page()
    found, excerpts = results(page, roots["http"], "transformers")
    assert any(name.startswith("book/43-transformers.html") for name in found)
    assert not any(name.startswith("book/12-outside") for name in found)
    other, more = results(page, roots["http"], "minibatch")
    assert other
    assert not [text for text in excerpts + more if re.search(r"\\[a-zA-Z(]", text)]
    stemmed = {word: Words({}).stem(word) for word in WORDS}
    assert page.evaluate("words => words.map(w => [w, new Stemmer().stemWord(w)])", WORDS) == [
        [word, stem] for word, stem in stemmed.items()
    ]
    assert stemmed["transformers"] == stemmed["transformer"] != stemmed["transform"]
    assert stemmed["normalising"] == stemmed["normalises"]
    context.close()


WORDS = [
    "transformers", "transformer", "transform", "transforms", "layers", "layer", "normalising",
    "normalises", "per", "larger", "rates",
]  # fmt: skip


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
        f"<p>{long}</p><pre id='cut' style='overflow: auto'>{long}</pre>"
        "<span class='math'>\\(x\\)</span><figure><img src='no.png'></figure>"
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
    assert seen.clipped[0].startswith("cut, ")
    rules = {finding.split(":")[0] for finding in seen.axe}
    assert {"color-contrast", "image-alt"} <= rules
    assert len({finding.partition(":")[0] for finding in seen.findings()}) == 7, (
        "all kinds are named"
    )


def test_what_fades_in_is_judged_by_its_own_colours(chromium, tmp_path):
    """The theme fades in what is unfolded: half-way there every colour is too faint."""
    (tmp_path / "fades.html").write_text(
        "<html lang='en'><title>Fades</title><style>@keyframes in { from { opacity: 0.3 } }"
        "@keyframes turn { to { rotate: 1turn } } b { animation: turn 1s infinite }"
        "details[open] p { animation: in 60s }</style><main class='bd-article'><h1>Fades</h1>"
        "<b>turns for ever</b><details><summary>More</summary><p>Dark enough</p></details></main>"
    )
    context = open_context(chromium, "light", 1280)
    seen = visit(context, tmp_path.as_uri(), "fades.html")
    context.close()
    assert seen.axe == []


def test_a_browser_that_does_not_start_says_what_to_try(playwright, tmp_path):
    """A program that runs and never answers, as Chromium on a machine without memory."""
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    with pytest.raises(pytest.fail.Exception) as failure:
        start(playwright, silent, patience=1)
    for words in (
        "did not start within 1 seconds",
        "--dump-dom",
        "pytest -m browser",
        "not browser",
    ):
        assert words in str(failure.value)
