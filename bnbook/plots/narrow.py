"""Every figure once more for a phone: its panels under each other, its letters large enough.

A figure function knows nothing of it. It asks `bnbook.plots.style.new_figure` for its panels, which
inside `drawing` stand in a narrow figure, in the same order.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

WIDTH = 4.5
"""Inches: shown on a screen of 390 px, a letter of 9 points is a little more than 9 px large."""
SMALLEST = 9.0
"""Points that a letter has at least."""
_LETTERS = 13
"""Of a title to an inch."""
_is_on = ContextVar("narrow", default=False)


@contextmanager
def drawing() -> Iterator[None]:
    """Make the figures that are drawn meanwhile narrow."""
    token = _is_on.set(True)
    try:
        yield
    finally:
        _is_on.reset(token)


def is_on() -> bool:
    """Whether figures are made narrow now."""
    return _is_on.get()


def panels(
    figure: Figure, rows: int, columns: int, size: tuple[float, float],
    options: Mapping[str, Any], count: int,
) -> None:  # fmt: skip
    """Give a figure the panels that it asked for, under each other; two in a row where many are.

    Those that are small on a wide screen count as many.
    """
    width, height = size
    across = 2 if columns > 3 or width < 2.5 * columns else 1
    down = -(-count // across)
    if columns > 1:
        each = WIDTH / across * (height / rows) / (width / columns)
        height = down * min(max(each, 1.9), 3.2)
        options = {k: v for k, v in options.items() if not k.endswith("_ratios")}
        options |= {k: options[k] is True for k in ("sharex", "sharey") if k in options}
    figure.set_size_inches(min(width, WIDTH), height)
    figure.subplots(down, across, **options)
    figure.asked = (count, columns, across)  # type: ignore[attr-defined]


def finish(figure: Figure) -> Figure:
    """Name the axes of panels that had a neighbour's names, and make letters and legends fit."""
    if not hasattr(figure, "asked"):
        return figure
    count, columns, across = figure.asked
    if columns > across:
        own = figure.axes[:count]
        for at, ax in enumerate(own):
            ax.tick_params(labelbottom=True)
            _borrow(ax, own[at % columns], own[range(at, count, columns)[-1]])
            _name(ax, own[at - at % columns], at % across == 0)
    for text in figure.findobj(Text):
        if text.get_text() and float(text.get_fontsize()) < SMALLEST:
            text.set_fontsize(SMALLEST)
    for ax in figure.axes:
        _fold_titles(ax, WIDTH / across)
    _narrow_legends(figure)
    figure.draw_without_rendering()
    for ax in figure.axes:
        _fold_words(ax)
    return figure


def _name(ax: Axes, first: Axes, is_left: bool) -> None:
    """Name an axis as the first of its row was named."""
    if is_left and not ax.get_ylabel():
        ax.set_ylabel(first.get_ylabel())
    if not ax.get_xlabel() and any(label.get_visible() for label in ax.get_xticklabels()):
        ax.set_xlabel(first.get_xlabel())


def _borrow(ax: Axes, top: Axes, bottom: Axes) -> None:
    """Give a panel the title and the name below it that only the ends of its column have."""
    if not ax.get_title("left"):
        ax.set_title(top.get_title("left"), loc="left")
    ax.set_xlabel(ax.get_xlabel() or bottom.get_xlabel(), visible=True)


def _fold_titles(ax: Any, inches: float) -> None:
    """Break what stands above and below a panel where it is longer than so many inches."""
    for text in (ax.title, ax._left_title, ax._right_title, ax.xaxis.label):
        text.set_text(textwrap.fill(text.get_text(), max(int(_LETTERS * inches), 12)))


def _fold_words(ax: Any) -> None:
    """Break titles and names of axes that are longer than their panel is."""
    inches = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    _fold_titles(ax, inches.width)
    ax.set_ylabel(textwrap.fill(ax.get_ylabel(), max(int(_LETTERS * inches.height), 12)))


def _narrow_legends(figure: Figure) -> None:
    """Give legends fewer columns until they are inside the figure, which grows by their rows."""
    legends: list[Any] = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    for legend in filter(None, legends):
        legend.prop.set_size(max(legend.prop.get_size_in_points(), SMALLEST))
        aside = legend._outside_loc in ("left", "right")
        if aside:
            _fold(legend, 2)
            legend.set_loc("outside lower center")
        figure.draw_without_rendering()
        before = 0 if aside else legend.get_window_extent().height
        while legend._ncols > 1 and _is_wide(legend, figure):
            _fold(legend, legend._ncols - 1)
            figure.draw_without_rendering()
        if legend in figure.legends:
            grown = (legend.get_window_extent().height - before) / figure.dpi
            width, height = figure.get_size_inches()
            figure.set_size_inches(width, height + grown)


def _is_wide(legend: Legend, figure: Figure) -> bool:
    return bool(legend.get_window_extent().width > 0.98 * figure.bbox.width)


def _fold(legend: Any, columns: int) -> None:
    """Lay a legend out anew; `set_ncols` alone leaves it as it was drawn up."""
    labels = [text.get_text() for text in legend.get_texts()]
    title = legend.get_title().get_text()
    legend.set_ncols(columns)
    legend._init_legend_box(_handles(legend, labels), labels)
    legend._legend_box.set_offset(legend._findoffset)
    legend.set_title(title)


def _handles(legend: Any, labels: list[str]) -> list[Any]:
    """Return what a legend names; of points with bars it keeps the bars alone itself."""
    whole = {each.get_label(): each for ax in legend.figure.axes for each in ax.containers}
    kept = zip(labels, legend.legend_handles, strict=True)
    return [whole.get(label, handle) for label, handle in kept]
