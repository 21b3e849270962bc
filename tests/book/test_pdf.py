"""The book as one PDF: bookmarks, numbers of pages, links that stay inside."""

import re

import pytest
from pypdf import PdfReader

from bnbook.book import pdf
from bnbook.errors import BnbookError
from tests.book.conftest import ROOT

HEAD = "<html><head><link rel='stylesheet' href='a.css'></head><body><article class='bd-article'>"
PAGES = {
    "index": "<section id='home'><h1>Home<a class='headerlink' href='#home'>#</a></h1>"
    "<p>See <a href='book/11-a.html#b'>there</a>, <a href='notebooks/11-a.html'>run</a>,"
    " <a href='https://example.org/'>out</a>.</p></section>",
    "book/11-a": "<section id='a'><h1>First chapter</h1><p>Text.</p><details><p>Folded.</p>"
    "</details><section id='b'><h2>Its section</h2><a href='../index.html'>Home</a>"
    "<table><tr>" + "<td>wordwordword</td>" * 40 + "</tr></table></section></section>",
    "book/12-b": "<section id='a'><h1>Second chapter</h1></section>",
}
BOOK = [("The book", ["index"]), ("A part", ["book/11-a", "book/12-b"])]


@pytest.fixture
def html(tmp_path):
    for name, text in PAGES.items():
        path = tmp_path / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{HEAD}{text}</article></body></html>")
    return tmp_path


def test_the_pages_are_one_document_with_names_of_their_own(html):
    whole = pdf.assemble(html, BOOK)
    ids = re.findall(r' id="([^"]*)"', whole)
    assert len(ids) == len(set(ids)) == 7
    links = re.findall(r'<a href="([^"]*)"', whole)
    assert links[0] == "#book-11-a--b"
    assert links[1] == "https://github.com/bnbook/bnbook/blob/main/notebooks/11-a.ipynb"
    assert links[2:] == ["https://example.org/", "#index--"]
    assert {"book-11-a--b", "index--"} <= set(ids)
    assert re.findall(r"<(h\d)>(.*?)</", whole) == [
        ("h1", "The book"), ("h2", "Home"), ("h1", "A part"), ("h2", "First chapter"),
        ("h3", "Its section"), ("h2", "Second chapter"),
    ]  # fmt: skip


def titles(reader, outline, depth=0):
    """Bookmarks with their depth and page, from 1."""
    found = []
    for entry in outline:
        if isinstance(entry, list):
            found += titles(reader, entry, depth + 1)
        else:
            found.append((depth, entry.title, reader.get_destination_page_number(entry) + 1))
    return found


def inner_links(reader):
    """Number of the page that each link within the file leads to."""
    names = reader.named_destinations
    found = []
    for page in reader.pages:
        for annotation in page.get("/Annots", []):
            where = annotation.get_object().get("/Dest")
            if where is not None:
                target = names[where] if isinstance(where, str) else None
                number = reader.get_destination_page_number(target) if target else None
                found.append(number if number is None else number + 1)
    return found


@pytest.fixture
def printed(html):
    try:
        pdf.chromium()
    except BnbookError as error:
        pytest.skip(str(error))
    return PdfReader(pdf.write(html, BOOK, html / "a.pdf"))


@pytest.mark.browser
def test_bookmarks_numbers_and_links(printed, html):
    assert titles(printed, printed.outline) == [
        (0, "The book", 1), (1, "Home", 1), (0, "A part", 2), (1, "First chapter", 2),
        (2, "Its section", 2), (1, "Second chapter", 3),
    ]  # fmt: skip
    texts = [page.extract_text() for page in printed.pages]
    assert [text.split()[-1] for text in texts] == ["1", "2", "3"]
    assert "Folded." in texts[1]
    assert inner_links(printed) == [2, 1]
    assert sorted(p.name for p in html.iterdir() if p.name.endswith((".pdf", ".html"))) == [
        "a.pdf", "index.html",
    ]  # fmt: skip


@pytest.mark.browser
def test_chapters_of_the_book_are_printed_whole(book, tmp_path):
    two = ["book/11-transform", "book/12-outside-the-gradient"]
    found = [("The Batch Normalization Book", ["index"]), ("The formulas", two)]
    reader = PdfReader(pdf.write(book, found, tmp_path / "two.pdf"))
    chapters = [(title, page) for depth, title, page in titles(reader, reader.outline) if not depth]
    assert [title for title, _ in chapters] == [caption for caption, _ in found]
    assert 1 < chapters[1][1] < len(reader.pages)
    assert len(inner_links(reader)) > 10
    assert None not in inner_links(reader)
    text = " ".join(page.extract_text() for page in reader.pages)
    assert "Output" in text
    assert "Solution to Exercise 11.1" in " ".join(text.split())


def test_the_book_has_all_its_parts_and_chapters():
    parts = pdf.parts(ROOT)
    pages = [page for _, names in parts for page in names]
    assert pages[0] == "index"
    assert {"book/11-transform", "book/the-answer", "book/references"} <= set(pages)
    assert not [page for page in pages if page.startswith("notebooks/")]


def test_without_pages_it_says_what_to_run(tmp_path):
    with pytest.raises(BnbookError, match="run `bnbook build`"):
        pdf.write(tmp_path, BOOK, tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []
