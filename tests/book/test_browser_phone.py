"""The built pages as a phone shows them, opened from disk: no fault, and letters large enough."""

import re

import pytest

from bnbook.book import build
from bnbook.plots import narrow
from tests.book.conftest import PAGES, ROOT
from tests.book.test_browser import (  # noqa: F401  (fixtures)
    PATIENCE,
    PHONE,
    chromium,
    contexts,
    playwright,
    roots,
    seen,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(3 * PATIENCE)]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_fault(seen, name):  # noqa: F811
    found = seen(name, PHONE).findings()
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("name", PAGES)
def test_letters_of_figures_are_legible_on_a_phone(seen, name):  # noqa: F811
    """A letter of SMALLEST points in a drawing of so many inches, as it is shown."""
    for file, shown in seen(name, PHONE).figures:
        drawn = width_of(build.FIGURES / file)
        assert drawn is None or narrow.SMALLEST * shown / (72 * drawn) >= 9, (file, shown)


def width_of(path):
    """Width of a drawing in inches; None of a picture that is no figure's."""
    drawn = (ROOT / path).is_file() and (ROOT / path).read_text()[:1000]
    found = re.search(r'<svg[^>]* width="([\d.]+)pt"', drawn or "")
    return float(found[1]) / 72 if found else None
