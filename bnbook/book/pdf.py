"""The whole book as one PDF: the built pages one after another, printed by Chromium.

Parts and chapters are bookmarks, links between pages lead to places in the file, and what is too
wide for the paper is made smaller.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup

from bnbook import files
from bnbook.errors import BnbookError

NAME = "batch-normalization-book.pdf"
"""The file, beside the pages."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Parts = Sequence[tuple[str, Sequence[str]]]
"""Caption of each part, and the names of its pages."""
_SOURCES = "https://github.com/bnbook/bnbook/blob/main/"
_LEFT_OUT = ".headerlink, .toctree-wrapper, script, style, button, source, .ledger-filter"
_MATHJAX = "MathJax"
_STYLE = """
@page { size: A4; margin: 18mm 17mm 20mm; }
html, body, .bd-main, .bd-content, .bd-article { display: block; width: auto; max-width: none;
  height: auto; margin: 0; padding: 0; overflow: visible; font-size: 10.5pt; background: #fff; }
.bd-main .bd-content .bd-article { padding: 0 !important; }
.bd-article :is(h1, h2) { break-before: page; }
.bd-article h1 + div > section > h2 { break-before: avoid; }
.bd-article :is(h1, h2, h3, h4) { break-after: avoid; break-inside: avoid; }
.bd-article h1 { font-size: 20pt; } .bd-article h2 { font-size: 16pt; }
.bd-article h3 { font-size: 13pt; } .bd-article :is(h4, h5) { font-size: 11pt; }
.bd-article pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 8.5pt; }
.bd-article :is(img, svg) { max-width: 100%; height: auto; }
.bd-article :is(figure, .admonition, tr) { break-inside: avoid; }
.bd-article :is(div, table, pre, mjx-container) { overflow: visible !important; }
.bd-article table { font-size: 8.5pt !important; }
.bd-article table td { overflow-wrap: anywhere; }
"""
_FIT = """() => {
    const edge = document.querySelector(".bd-article").getBoundingClientRect().right + 2;
    const over = (box) => box.getBoundingClientRect().left + box.scrollWidth - edge;
    const boxes = [...document.querySelectorAll(".bd-article :is(table, .math mjx-container)")];
    for (const box of boxes) {
        const left = box.getBoundingClientRect().left;
        if (over(box) > 0) box.style.zoom = 0.97 * (edge - left) / box.scrollWidth;
    }
    return boxes.filter((box) => box.getBoundingClientRect().right > edge + 2)
        .map((box) => box.closest("[id]").id + " " + box.textContent.trim().slice(0, 60));
}"""
"""What is too wide for the paper is made smaller; what then still is, is named."""
_FOOTER = (
    '<div style="font-size: 8px; width: 100%; text-align: center; color: #444">'
    '<span class="pageNumber"></span></div>'
)
_PAPER = 664
"""Width of what is printed on a page, in CSS pixels."""


def parts(root: Path) -> Parts:
    """Return the book's parts and their pages, in order; notebooks are left to the web."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    found: list[tuple[str, Sequence[str]]] = [("The Batch Normalization Book", [toc["root"]])]
    for part in toc.get("parts", ()):
        found.append((part["caption"], [chapter["file"] for chapter in part["chapters"]]))
    return found


def assemble(html: Path, book: Parts) -> str:
    """Return the pages as one document; links between them lead to places in it."""
    pages = [page for _, names in book for page in names]
    first = BeautifulSoup((html / f"{pages[0]}.html").read_text("utf-8"), "html.parser")
    body = [
        f"<h1>{escape(caption)}</h1>\n" + "\n".join(_page(html, name, pages) for name in names)
        for caption, names in book
    ]
    return (
        '<!doctype html>\n<html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{escape(book[0][0])}</title>{_head(first, html / pages[0])}"
        f'<style>{_STYLE}</style></head><body><div class="bd-main"><div class="bd-content">'
        f'<article class="bd-article">{"".join(body)}</article></div></div></body></html>\n'
    )


def _head(page: BeautifulSoup, place: Path) -> str:
    """Return a page's stylesheets and what typesets its formulas."""
    found = []
    for link in page.select('link[rel="stylesheet"][href]'):
        found.append(f'<link rel="stylesheet" href="{_beside(place, str(link["href"]))}">')
    for script in page.find_all("script"):
        if _MATHJAX.lower() in str(script.get("src", "")).lower():
            found.append(f'<script src="{_beside(place, str(script["src"]))}"></script>')
        elif _MATHJAX in script.get_text():
            found.append(str(script))
    return "".join(found)


def _beside(place: Path, url: str) -> str:
    """Return the address of a file that a page names."""
    return (place.parent / unquote(urlsplit(url).path)).resolve().as_uri()


def _page(html: Path, name: str, pages: Sequence[str]) -> str:
    """Return a page's text, its names and links made unique in the whole."""
    file = html / f"{name}.html"
    page = BeautifulSoup(file.read_text("utf-8"), "html.parser")
    article = page.select_one("article.bd-article")
    if article is None:
        raise BnbookError(f"expected a page of the book, found no article in {file}.")
    for element in article.select(_LEFT_OUT):
        element.decompose()
    for level in (5, 4, 3, 2, 1):
        for heading in article.find_all(f"h{level}"):
            heading.name = f"h{level + 1}"
    for element in article.find_all(id=True):
        element["id"] = place_of(name, str(element["id"]))
    for image in article.find_all("img"):
        image["src"] = _beside(file, str(image["src"]))
    for link in article.find_all("a", href=True):
        link["href"] = _target(str(link["href"]), name, pages)
    for folded in article.find_all("details"):
        folded["open"] = ""
    return f'<div id="{place_of(name)}">{article.decode_contents()}</div>'


def place_of(page: str, name: str = "") -> str:
    """Return the name in the whole document of a page, or of something on it."""
    return f"{page.replace('/', '-')}--{name}"


def _target(url: str, page: str, pages: Sequence[str]) -> str:
    """Return where a page's link leads in the whole: within it, to a source, or outside."""
    asked = urlsplit(url)
    if asked.scheme or asked.netloc:
        return url
    there = normpath(str(PurePosixPath(page).parent / unquote(asked.path))) if asked.path else page
    name = there.removesuffix(".html")
    if name in pages:
        return f"#{place_of(name, unquote(asked.fragment))}"
    suffix = ".ipynb" if name.startswith("notebooks/") else ".md"
    return f"{_SOURCES}{name}{suffix}" if there.endswith(".html") else _SOURCES


def write(html: Path, book: Parts, target: Path) -> Path:
    """Print the pages of a built book as one PDF.

    Raises
    ------
    BnbookError
        Without built pages, playwright or a Chromium, or when something does not fit the paper.
        No file is written then.
    """
    if not (html / "index.html").is_file():
        raise BnbookError(f"expected built pages in {html}, found none; run `bnbook build`.")
    whole = target.with_name(f".{target.stem}.html")
    aside = target.with_name(f".{target.name}")
    files.write_bytes(whole, assemble(html, book).encode())
    try:
        _print(whole, aside)
        aside.replace(target)
    finally:
        whole.unlink()
        aside.unlink(missing_ok=True)
    return target


def _print(document: Path, target: Path) -> None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise BnbookError("`bnbook pdf` needs playwright; pip install playwright.") from error
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _PAPER, "height": 900})
        page.set_default_timeout(300_000)
        page.emulate_media(media="print")
        page.goto(document.resolve().as_uri(), wait_until="load")
        page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise; }")
        if wide := page.evaluate(_FIT):
            raise BnbookError("too wide for the paper, and not made smaller:\n" + "\n".join(wide))
        how: Mapping[str, Any] = {
            "display_header_footer": True, "header_template": "<span></span>",
            "footer_template": _FOOTER, "outline": True, "tagged": True,
            "prefer_css_page_size": True, "print_background": True,
        }  # fmt: skip
        page.pdf(path=str(target), **how)
        browser.close()


def chromium() -> str:
    """Return the path of a Chromium, that of BNBOOK_CHROMIUM first."""
    names = (os.environ.get("BNBOOK_CHROMIUM"), *BROWSERS)
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise BnbookError(
            "no Chromium found, which prints the book. Try `apt-get install chromium`, or set"
            " BNBOOK_CHROMIUM to its path."
        )
    return found


def add_to_pages(root: Path, html: Path) -> Path:
    """Print the whole book beside its pages, which link to it from home."""
    return write(html, parts(root), html / NAME)
