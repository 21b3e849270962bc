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
_LETTERS = 52
"""Of a title in a figure of that width."""
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
    figure: Figure, rows: int, columns: int, size: tuple[float, float], options: Mapping[str, Any]
) -> None:
    """Give a figure the panels that it asked for, under each other; two in a row where many are."""
    width, height = size
    across = 1 if columns <= 3 else 2
    down = -(-rows * columns // across)
    if columns > 1:
        each = WIDTH / across * (height / rows) / (width / columns)
        height = down * min(max(each, 1.9), 3.2)
        options = {k: v for k, v in options.items() if not k.endswith("_ratios")}
        options |= {k: options[k] is True for k in ("sharex", "sharey") if k in options}
    figure.set_size_inches(min(width, WIDTH), height)
    axes = figure.subplots(down, across, **{**options, "squeeze": False})
    for spare in axes.flat[rows * columns :]:
        spare.remove()
    figure.asked = (columns, across)  # type: ignore[attr-defined]


def finish(figure: Figure) -> Figure:
    """Name the axes of panels that had a neighbour's names, and make letters and legends fit."""
    columns, across = getattr(figure, "asked", (1, 1))
    if columns > across:
        for at, ax in enumerate(figure.axes):
            ax.tick_params(labelbottom=True)
            _name(ax, figure.axes[at - at % columns], at % across == 0)
    for text in figure.findobj(Text):
        if text.get_text() and text.get_fontsize() < SMALLEST:
            text.set_fontsize(SMALLEST)
    for ax in figure.axes:
        for title in (ax.title, ax._left_title, ax._right_title):
            title.set_text(textwrap.fill(title.get_text(), _LETTERS // across))
    _narrow_legends(figure)
    return figure


def _name(ax: Axes, first: Axes, is_left: bool) -> None:
    """Name an axis as the first of its row was named."""
    if is_left and not ax.get_ylabel():
        ax.set_ylabel(first.get_ylabel())
    if not ax.get_xlabel() and any(label.get_visible() for label in ax.get_xticklabels()):
        ax.set_xlabel(first.get_xlabel())


def _narrow_legends(figure: Figure) -> None:
    """Give legends fewer columns until they are inside the figure."""
    for legend in filter(None, [*figure.legends, *(ax.get_legend() for ax in figure.axes)]):
        legend.prop.set_size(max(legend.prop.get_size_in_points(), SMALLEST))
        columns = legend._ncols
        figure.draw_without_rendering()
        while columns > 1 and legend.get_window_extent().width > 0.98 * figure.bbox.width:
            columns -= 1
            _fold(legend, columns)
            figure.draw_without_rendering()


def _fold(legend: Legend, columns: int) -> None:
    """Lay a legend out anew; `set_ncols` alone leaves it as it was drawn up."""
    labels = [text.get_text() for text in legend.get_texts()]
    title = legend.get_title().get_text()
    legend.set_ncols(columns)
    legend._init_legend_box(legend.legend_handles, labels)
    legend.set_title(title)
