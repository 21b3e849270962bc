"""Figures on narrow screens and in dark mode."""

import re

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bnbook.book import build
from bnbook.plots import narrow, style
from tests.book.conftest import ROOT


def drawn(rows, columns, **options):
    figure = style.new_figure(rows, columns, 4 * columns, 3 * rows, **options)
    for at, ax in enumerate(figure.axes):
        ax.plot([0, 1], [0, at + 1], label=f"a rather long name of line {at}")
        ax.set_title("A title that is longer than a narrow figure is wide, by far, and more so")
        ax.text(0.5, 0.5, "small", fontsize=6)
    figure.axes[0].set_ylabel("height")
    figure.axes[-1].set_xlabel("time")
    for ax in figure.axes[:-1]:
        ax.set_xlabel("time")
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


@pytest.mark.parametrize(
    ("rows", "columns", "options"),
    [(1, 3, {"sharey": True}), (2, 2, {"sharex": True, "sharey": "row"}), (2, 5, {}),
     (1, 2, {"width_ratios": (1, 2)}), (1, 1, {})],
)  # fmt: skip
def test_a_narrow_figure_has_all_panels_and_names_and_fits(rows, columns, options):
    with narrow.drawing():
        figure = narrow.finish(drawn(rows, columns, **options))
    assert not narrow.is_on()
    across = 1 if columns <= 3 else 2
    assert len(figure.axes) == rows * columns
    assert figure.get_size_inches()[0] <= narrow.WIDTH
    figure.draw_without_rendering()
    boxes = [ax.get_position() for ax in figure.axes]
    assert len({round(box.x0, 2) for box in boxes}) == across
    tops = [box.y1 for box in boxes[::across]]
    assert tops == sorted(tops, reverse=True)
    assert all(ax.get_ylabel() == "height" for ax in figure.axes[:columns:across])
    shown = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    assert min(t.get_fontsize() for t in shown) >= narrow.SMALLEST
    inside = [*figure.legends, *(ax._left_title for ax in figure.axes)]
    for part in inside:
        assert part.get_window_extent().x1 <= figure.bbox.width + 1


def test_panels_below_each_other_have_the_names_at_the_ends_of_their_column():
    with narrow.drawing():
        figure = style.new_figure(2, 3, 12, 6, count=5, sharex="col")
        for at, ax in enumerate(figure.axes):
            ax.set_title(f"column {at}" if at < 3 else "")
            ax.set_xlabel(f"axis {at % 3}" if at + 3 >= 5 else "")
        narrow.finish(figure)
    assert [ax.get_title("left")[-1] for ax in figure.axes] == ["0", "1", "2", "0", "1"]
    assert [ax.get_xlabel() for ax in figure.axes] == [f"axis {at % 3}" for at in range(5)]
    assert len({round(ax.get_position().y0, 3) for ax in figure.axes}) == 5


def test_a_folded_legend_names_points_with_bars_by_their_marks():
    with narrow.drawing():
        figure = style.new_figure(1, 1, 8, 3)
        for at, marker in enumerate("os^"):
            band = pd.DataFrame({"mean": [1.0], "low": [0.5], "high": [2.0]}, index=[at])
            look = style.Look("#000000", marker)
            style.draw_bars(figure.axes[0], band, look, ls="", label=f"a rather long name {at}")
        style.legend(figure.axes[0])
        narrow.finish(figure)
    (legend,) = figure.legends
    assert legend._ncols < 3
    assert {line.get_marker() for line in legend.findobj(Line2D)} >= set("os^")


def test_a_figure_that_is_whole_stays_as_it_is():
    with narrow.drawing():
        figure = style.new_figure(1, 1, 9, 4, whole=True)
    assert list(narrow.finish(figure).get_size_inches()) == [9, 4]


def test_a_figure_is_wide_when_nothing_else_is_asked_for():
    assert list(drawn(1, 3).get_size_inches()) == [12, 3]


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def in_dark_mode(colour):
    """What the stylesheet's filter makes of a colour: inverted, then its hue turned back."""
    css = (ROOT / "book/_static/book.css").read_text()
    share = float(re.search(r"filter: invert\(([\d.]+)\) hue-rotate\(180deg\)", css)[1])
    r, g, b = (share + (1 - 2 * share) * c for c in colour)
    turned = (
        -0.574 * r + 1.43 * g + 0.144 * b,
        0.426 * r + 0.43 * g + 0.144 * b,
        0.426 * r + 1.43 * g - 0.856 * b,
    )
    return [min(max(c, 0), 1) for c in turned]


@pytest.mark.parametrize("arm", style.LOOKS)
def test_lines_stand_out_from_a_dark_page(arm):
    page = luminance(to_rgb("#14181e"))
    line = luminance(in_dark_mode(to_rgb(style.COLOURS[arm])))
    assert (line + 0.05) / (page + 0.05) >= 3, arm


def test_vermilion_stays_orange_and_blue_stays_blue():
    orange, blue = (in_dark_mode(to_rgb(c)) for c in ("#D55E00", "#0072B2"))
    assert orange[0] > orange[1] > orange[2]
    assert blue[2] > blue[1] > blue[0]


def test_every_figure_of_the_book_has_a_narrow_drawing(book):
    figures = [p for p in (ROOT / build.FIGURES).glob("*.svg") if ".narrow" not in p.name]
    assert figures
    for path in figures:
        head = build.narrow_path(path).read_text()[:1000]
        width = float(re.search(r'width="([\d.]+)pt"', head)[1])
        assert width <= 72 * narrow.WIDTH + 1 or path.name == "conformance_table-matrix.svg"
