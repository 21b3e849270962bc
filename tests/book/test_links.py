"""Links of the built pages lead somewhere, and nothing is loaded from elsewhere."""

import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from bs4 import BeautifulSoup

from bnbook.book import pdf
from bnbook.book.pages import evidence
from bnbook.evidence import ledger

ROOT = Path(__file__).parents[2]
REPOSITORY = "/bnbook/bnbook"
FROM_REPOSITORY = {
    "github.com": rf"{REPOSITORY}/(?:edit|blob|tree)/main/(.+)",
    "colab.research.google.com": rf"/github{REPOSITORY}/blob/main/(.+)",
}
LAUNCHED_ON = ("mybinder.org", "colab.research.google.com")
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


@cache
def parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def links(path: Path, within: str = "") -> list[str]:
    return [a["href"] for a in parse(path).select(f"{within} a[href]")]


def source_named_by(url: str) -> str | None:
    """Return the path in the repository that an edit, launch or source link names."""
    parts = urlsplit(url)
    if parts.netloc == "mybinder.org":
        assert parts.path == f"/v2/gh{REPOSITORY}/main"
        return parse_qs(parts.query)["urlpath"][0].removeprefix("lab/tree/")
    pattern = FROM_REPOSITORY.get(parts.netloc)
    found = re.fullmatch(pattern, unquote(parts.path)) if pattern else None
    return found[1] if found else None


def source_of(page: str) -> str:
    """Return the path in the repository of the file that a page was made from."""
    names = [str(Path(page).with_suffix(suffix)) for suffix in (".md", ".ipynb")]
    (found,) = [name for name in names if (ROOT / name).is_file()]
    return found


def notebook_of(own: str) -> str | None:
    """Return the notebook that a page's launch buttons open: its own, or that of its chapter."""
    name = own if own.endswith(".ipynb") else f"notebooks/{Path(own).stem}.ipynb"
    return name if (ROOT / name).is_file() else None


def test_each_page_offers_its_own_source(book, pages):
    wrong = []
    for page in pages:
        buttons = links(book / page, ".header-article-items")
        own = source_of(page)
        run = notebook_of(own)
        named = {(urlsplit(url).netloc, source_named_by(url)) for url in buttons}
        wanted = {("github.com", own)}
        wanted |= {(host, run) for host in LAUNCHED_ON if run}
        if {pair for pair in named if pair[1]} != wanted:
            wrong.append((page, named))
    assert not wrong


def test_each_page_has_an_issue_link_that_names_it(book, pages):
    wrong = []
    for page in pages:
        urls = [urlsplit(url) for url in links(book / page, ".header-article-items")]
        titles = [parse_qs(u.query)["title"] for u in urls if u.path == f"{REPOSITORY}/issues/new"]
        if titles != [[f"Issue on page /{page}"]]:
            wrong.append((page, titles))
    assert not wrong


def downloads(book, pages):
    """Yield each page with the file that its download button gives."""
    for page in pages:
        for url in links(book / page, ".header-article-items"):
            if "_sources/" in url:
                yield page, ((book / page).parent / unquote(url)).resolve()


def test_downloaded_notebooks_are_the_files_of_the_repository(book, pages):
    found = list(downloads(book, pages))
    assert [page for page, _ in found] == pages
    wrong = [
        page
        for page, file in found
        if file.suffix == ".ipynb"
        and file.read_bytes() != (ROOT / file.relative_to(book / "_sources")).read_bytes()
    ]
    assert not wrong, f"{wrong} differ from the files; if those were edited, run `make book`"


SOURCE = re.compile(r"\{[\w:]+\}`|^(?:`{3,}|:{3,}) ?\{|^:\w+: |\\\(|\]\(\S+\.md", re.MULTILINE)
"""What a reader of MyST understands and no other: roles, directives, options."""


def test_downloaded_pages_are_plain_markdown_with_all_that_they_show(book, pages):
    left, looked = [], 0
    for page, file in downloads(book, pages):
        if file.suffix != ".md":
            continue
        text = file.read_text("utf-8")
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        left += [(page, found[0]) for found in SOURCE.finditer(prose)]
        article = parse(book / page).select_one("article.bd-article")
        boxes = article.select(".block-output")
        assert text.count("**Output**") == len(boxes), page
        for box in boxes:
            assert box.pre.get_text().strip() in text, page
        for claim in article.select(".claim"):
            assert claim.get_text().strip() in text, page
            looked += 1
    assert not left
    assert looked > 100


def test_names_on_a_page_are_its_own(book, pages):
    for page in pages:
        ids = [element["id"] for element in parse(book / page).find_all(id=True)]
        assert len(ids) == len(set(ids)), (page, {i for i in ids if ids.count(i) > 1})


def test_downloaded_notebooks_hold_no_outputs(book, pages):
    notebooks = [name for name in map(source_of, pages) if name.endswith(".ipynb")]
    assert notebooks
    for name in notebooks:
        cells = json.loads((book / "_sources" / name).read_text("utf-8"))["cells"]
        assert [c["outputs"] for c in cells if c["cell_type"] == "code" and c["outputs"]] == []


def test_internal_links_and_anchors_resolve(book, pages):
    broken, followed = [], 0
    for page in pages:
        for url in links(book / page):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = ((book / page).parent / unquote(parts.path)).resolve()
            target = target if parts.path else book / page
            anchor = unquote(parts.fragment)
            followed += 1
            if not target.is_file() and target.name != pdf.NAME:  # which `make pdf` adds
                broken.append((page, url, "no such file"))
            elif anchor and target.suffix == ".html" and not parse(target).find(id=anchor):
                broken.append((page, url, "no such anchor"))
    assert not broken
    assert followed > 10 * len(pages)


def test_links_to_the_repository_name_files_that_are_there(book, pages):
    broken = [
        (page, url)
        for page in pages
        for url in links(book / page)
        if (name := source_named_by(url)) and not (ROOT / name).exists()
    ]
    assert not broken


def test_nothing_is_loaded_from_elsewhere(book):
    loaded = []
    for path in book.rglob("*.html"):
        page = parse(path)
        for tag, attribute in LOADED.items():
            loaded += [(path.name, node[attribute]) for node in page.select(f"{tag}[{attribute}]")]
        loaded += [
            (path.name, node["href"])
            for node in page.select("link[href]")
            if not {"next", "prev", "canonical"} & set(node.get("rel", []))
        ]
    outside = [(page, url) for page, url in loaded if urlsplit(url).netloc]
    assert not outside
    assert ("index.html", "_static/book.css") in [(p, u.split("?")[0]) for p, u in loaded]


def test_stylesheets_load_nothing_from_elsewhere(book):
    outside = [
        (path.name, url)
        for path in (book / "_static").rglob("*.css")
        for url in re.findall(
            r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", path.read_text()
        )
    ]
    assert not outside


def test_the_ledger_page_shows_every_recorded_number(book):
    found = evidence.read(ROOT / "results")
    page = parse(book / "book" / "ledger.html")
    shown = 0
    for content in found.contents.values():
        for claim in content["claims"]:
            section = page.find(id=evidence.anchor(claim))
            assert section is not None, claim["id"]
            table = section.find("table").get_text(" ")
            for profile, about in content["profiles"].items():
                judgement = about["judgements"][claim["id"]]
                texts = evidence.claim_texts(claim, judgement, profile)
                for field in ("profile", "value", "interval", "verdict"):
                    assert texts[field] in table, (claim["id"], profile, field)
                    shown += 1
    profiles = [
        len(c["claims"]) * len(c["profiles"]) for c in ledger.read(ROOT / "results").values()
    ]
    assert shown == 4 * sum(profiles)
