"""The explorables in Chromium: moved by keyboard, they show what the records hold.

They stand on one page of a small book, with the real scripts and records, opened from disk. What
holds for every page of the real book (axe, widths, messages, light and dark) is in `test_browser`.
"""

import json
import math
import re

import numpy as np
import pytest

from bnbook import formulas
from bnbook.book.pages.explorables import norms
from bnbook.tables.arms import WITH, WITHOUT
from tests.book.conftest import CONF, Site
from tests.book.test_browser import (  # noqa: F401  (fixtures)
    PATIENCE,
    chromium,
    open_context,
    playwright,
    watch,
)
from tests.book.test_explorables import RESULTS, ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(3 * PATIENCE)]

NAMES = ("rates", "transform", "scale", "norms", "growth")
PAGE = "# Pieces\n\n" + "".join(f"```{{explorable}} {name}\nPlay.\n```\n\n" for name in NAMES)
RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def value(text):
    """Read a number as a page writes it: 0.0123, −2.5, 1.3·10⁻⁵."""
    plain = text.strip().replace("\N{MINUS SIGN}", "-")
    mantissa, _, power = plain.partition("·10")
    return float(mantissa) * 10.0 ** int(power.translate(RAISED) or 0)


NUMBER = r"([−\d.]+(?:·10[⁻⁰¹²³⁴-⁹]+)?)"


def numbers(pattern, text):
    """Numbers of a sentence, # standing for each in the pattern."""
    found = re.search(pattern.replace("#", NUMBER), text)
    assert found, (pattern, text)
    return [value(each.rstrip(".")) for each in found.groups()]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """The page's address, and the data of each piece as it stands in the page."""
    made = Site(tmp_path_factory.mktemp("pieces"))
    made.write("conf.py", CONF + f"html_static_path = [{str(ROOT / 'book' / '_static')!r}]\n")
    made.write("index.md", "# Home\n\n```{toctree}\n:glob:\npieces\nbook/*\n```\n")
    made.write("pieces.md", PAGE)
    made.write("book/ledger.md", "# The ledger\n\n```{ledger}\n```\n")
    for page in {answer["page"] for answer in norms.read(ROOT)["answer"]}:
        made.write(f"book/{page}.md", f"# {page}\n")
    made.write(norms.FILE, (ROOT / norms.FILE).read_text("utf-8"))
    (made.root / "results").symlink_to(RESULTS)
    assert made.build() == (0, "")
    soup = made.page("pieces")
    data = {
        name: json.loads(soup.select_one(f".explorable-{name} script").string) for name in NAMES
    }
    return (made.root / "_build" / "html" / "pieces.html").as_uri(), data


@pytest.fixture
def page(chromium, pieces):  # noqa: F811
    """The page, opened; what it complained of is looked at after each test."""
    context = open_context(chromium, "light", 1280)
    opened = context.new_page()
    seen = watch(opened, pieces[0].rsplit("/", 1)[0])
    opened.goto(pieces[0])
    yield opened
    context.close()
    assert (seen.outside, seen.errors) == ([], [])


def said(page, name):
    return page.locator(f".explorable-{name} [role=status]").inner_text()


def move(page, name, label, to):
    """Move a slider by keyboard to a place, from the lowest; return what it says it stands at."""
    slider = page.locator(f".explorable-{name} form").get_by_label(label)
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(to):
        page.keyboard.press("ArrowRight")
    return slider.get_attribute("aria-valuetext")


def test_the_map_says_what_the_record_holds_at_every_rate_of_a_network(page, pieces):
    data = pieces[1]["rates"]
    for at, family in enumerate(data["families"]):
        page.locator(".explorable-rates form").get_by_label("Networks").select_option(str(at))
        last = len(family["networks"]) - 1
        if last:
            label = {"bjorck_dose": "Growth at the start"}
            assert (
                move(page, "rates", label[family["record"]], last)
                == (family["networks"][last]["mark"])
            )
        arms = family["networks"][last]["arms"]
        for place, rate in enumerate(sorted({p[0] for a in arms.values() for p in a["points"]})):
            assert value(move(page, "rates", "rate to read", place)) == pytest.approx(rate, 5e-3)
            for arm, curve in arms.items():
                held = {p[0]: p[1] for p in curve["points"]}
                if rate in held:
                    (shown,) = numbers(rf"[:;] {arm} # % of the test", said(page, "rates"))
                    assert shown == pytest.approx(held[rate], abs=0.0501)
                else:
                    assert f"{arm} there is no run" in said(page, "rates")
    marks = "path.dot.look-paper"
    assert page.locator(f".explorable-rates .explorable-chart {marks}").count() == 4


def batches(values, m, count):
    """The minibatches that the page draws, (count, m, 1), written again."""
    n = len(values)
    at = np.arange(count * m)
    return values[(at % n) * (2 * (at // n) + 1) % n].reshape(count, m, 1)


@pytest.mark.parametrize(("size", "momentum", "seen"), [(0, 4, 3), (2, 5, 7), (4, 1, 9)])
def test_the_transform_reckons_as_the_formulas_do(page, pieces, size, momentum, seen):
    data = pieces[1]["transform"]
    m = int(move(page, "transform", "Batch size", size))
    rho = value(move(page, "transform", "Momentum", momentum))
    count = int(move(page, "transform", "Minibatches seen", seen))
    quantile = value(move(page, "transform", "Example to classify", 1))
    assert (m, rho) == (data["sizes"][size], data["momenta"][momentum])
    for at, values in enumerate(map(np.array, data["features"].values())):
        page.locator(".explorable-transform form").get_by_label("Feature").select_option(str(at))
        x = batches(values, m, count)
        example = np.sort(values)[int(quantile * (len(values) - 1))]
        expected = {
            "the last minibatch": (x[-1].mean(), x[-1].var()),
            "running average": formulas.running_statistics(x, rho),
            "Algorithm 2": formulas.population_statistics(x),
            "all images": (values.mean(), values.var(ddof=1)),
        }
        lines = page.locator(".explorable-live tbody tr").all()
        shown = {line.locator("th").inner_text(): line.locator("td").all_inner_texts()
                 for line in lines}  # fmt: skip
        assert list(shown) == list(expected)
        for name, (mean, variance) in expected.items():
            through = (example - float(np.squeeze(mean))) / math.sqrt(
                float(np.squeeze(variance)) + data["eps"]
            )
            wanted = (float(np.squeeze(mean)), float(np.squeeze(variance)), through)
            for text, number in zip(shown[name], wanted, strict=True):
                assert value(text) == pytest.approx(number, rel=0.0501, abs=1e-9), name
    held = data["recorded"][size][momentum]
    for pattern, key in (
        (r"# % of the test images by the running", "running"),
        (r"# % by Algorithm 2;", "population"),
        (r"is off by # deviations", "mean_error"),
        (r"by a share of #", "variance_error"),
    ):
        assert numbers(pattern, said(page, "transform")) == [pytest.approx(held[key], abs=5.1e-3)]


def course(data, a, alpha, decay):
    """Squared norm after the record's steps, by the book's formula and a gradient of its own."""
    w = np.array([a * math.sqrt(data["squared_norm"]), 0.0])
    for _ in range(data["steps"]):
        dw = np.array([0.0, math.sqrt(data["size"]) / np.linalg.norm(w)])
        w = np.array([math.sqrt(formulas.squared_norm_after_step(w, dw, alpha, decay)), 0.0])
    return float(w @ w)


def test_the_scale_reckons_as_the_formulas_do(page, pieces):
    data = pieces[1]["scale"]
    for factor, rate, decay in ((0, 3, 4), (2, 2, 3), (5, 3, 1)):
        a = value(move(page, "scale", "Factor a", factor))
        alpha = value(move(page, "scale", "Learning rate", rate))
        lam = value(move(page, "scale", "Weight decay", decay))
        text = said(page, "scale")
        output, gradient = numbers(r"is multiplied by #, the first gradient by #", text)
        one = formulas.scale_factor([1.0], a, data["eps"])[0]
        assert output == pytest.approx(one, rel=5.1e-3)
        assert gradient == pytest.approx(1 / a, rel=5.1e-3)
        w = np.array([a * math.sqrt(data["squared_norm"])])
        (effective,) = numbers(r"Effective rate at the start: #", text)
        assert effective == pytest.approx(formulas.effective_rate(alpha, w), rel=0.0501)
        angle, rest = numbers(r"turns the weights by #, at a squared norm of #", text)
        assert angle == pytest.approx(math.sqrt(2 * alpha * lam), rel=5.1e-3)
        if alpha * lam * data["steps"] > 8:
            assert rest == pytest.approx(course(data, a, alpha, lam), rel=0.0501)
        run = [r for r in data["runs"] if (r["a"], r["rate"], r["decay"]) == (a, alpha, lam)]
        if run:
            pattern = r"squared norm #, angle #"
            assert numbers(pattern, text) == [
                pytest.approx(run[0][key][-1], rel=5.1e-3) for key in ("squared_norm", "angle")
            ]
        else:
            assert "was not run" in text
    move(page, "scale", "Weight decay", 0)
    assert "no equilibrium" in said(page, "scale")


def test_growth_says_what_was_measured_and_what_theory_says(page, pieces):
    data = pieces[1]["growth"]
    for at, depth in enumerate(data["depths"]):
        assert move(page, "growth", "Depth", at) == f"{depth['layers']} layers"
        for place, gain in enumerate(data["gains"]):
            assert value(move(page, "growth", "Gain", place)) == gain
            text = said(page, "growth")
            for arm in (WITHOUT, WITH):
                own = depth["theory"][arm][place if arm == WITHOUT else 0]
                (theory,) = numbers(rf"{arm} [^;]*?theory #", text)
                assert theory == pytest.approx(own[-1] ** (1 / (len(own) - 1)), abs=5.1e-4)
                measured = depth["measured"][arm][place]
                if depth["blocks"] and gain == 1:
                    measured = depth["blocks"][arm][-1] ** (1 / (len(own) - 1))
                if measured is None:
                    assert f"{arm} not measured" in text
                else:
                    assert numbers(rf"{arm} measured #,", text) == [pytest.approx(measured, 1e-3)]
            assert numbers("are # and #", text) == [
                pytest.approx(1 + gain**2 / d, rel=5.1e-3) for d in (4, 2)
            ]
    box = page.locator(".explorable-growth form")
    box.get_by_label("What grows").select_option("1")
    assert not box.get_by_label("Depth").is_visible()
    relu = [g for g in data["gradients"] if g["nonlinearity"] == "ReLU"]
    for at, width in enumerate(sorted({each["width"] for each in relu})):
        assert move(page, "growth", "Width", at) == str(width)
        for each in relu:
            if each["width"] == width:
                (shown,) = numbers(rf"{each['arm']} measured #", said(page, "growth"))
                assert shown == pytest.approx(each["growth"], abs=5.1e-4)


def lines_of(page):
    rows = page.locator(".explorable-norms tbody tr").all()
    return [row.locator("strong").inner_text() for row in rows if row.is_visible()]


def test_four_questions_leave_the_lines_that_hold(page, pieces):
    answers = pieces[1]["norms"]["answers"]
    questions = pieces[1]["norms"]["questions"]
    box = page.locator(".explorable-norms form")
    assert lines_of(page) == [answer["take"] for answer in answers]

    def answer(**given):
        for question in questions:
            keys = list(question["answers"])
            at = keys.index(given[question["key"]]) + 1 if question["key"] in given else 0
            select = box.get_by_label(question["asks"])
            select.focus()
            page.keyboard.press("Home")
            for _ in range(at):
                page.keyboard.press("ArrowDown")
        return lines_of(page)

    for given in (
        {"network": "convnet", "batch": "few"},
        {"network": "transformer", "task": "decoding"},
        {"network": "convnet", "batch": "many", "devices": "together", "task": "images"},
        {"network": "residual"},
    ):
        expected = [
            line["take"] for line in answers
            if all(key not in line or wanted in line[key] for key, wanted in given.items())
        ]  # fmt: skip
        found = answer(**given)
        assert found == expected
        assert found
        assert all(take in said(page, "norms") for take in found)
    assert answer(network="transformer", task="images") == []
    assert "no evidence" in said(page, "norms")
    box.get_by_role("button", name="Begin again").press("Enter")
    assert lines_of(page) == [each["take"] for each in answers]


def test_without_a_script_the_tables_stand(chromium, pieces):  # noqa: F811
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pieces[0])
    for name in NAMES:
        box = page.locator(f".explorable-{name}")
        assert box.locator("table tbody tr").first.is_visible()
        assert box.locator("caption, .caption").first.is_visible()
        assert box.locator("input, select, svg").count() == 0
        assert '{"' not in box.inner_text()
    context.close()


def test_each_piece_fits_a_phone_and_each_control_has_a_name(chromium, pieces):  # noqa: F811
    context = open_context(chromium, "light", 390)
    page = context.new_page()
    page.goto(pieces[0])
    inputs = page.locator(".explorable-form :is(input, select)")
    assert inputs.count() >= 20
    for control in inputs.all():
        name = control.get_attribute("id")
        assert page.locator(f"label[for={name}]").inner_text().strip() or not control.is_visible()
    for piece in page.locator(".explorable-form > *, .explorable-chart").all():
        if box := piece.bounding_box():
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
    for chart in page.locator(".explorable-chart").all():
        assert chart.get_attribute("aria-label")
        size = chart.locator("text").first.evaluate("e => getComputedStyle(e).fontSize")
        assert float(size.removesuffix("px")) >= 9
    context.close()
