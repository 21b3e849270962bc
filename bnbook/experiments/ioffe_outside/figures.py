"""Figures of statistics outside the gradient, from the experiment's table."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables import tuning
from bnbook.tables.arms import OUTSIDE, WITH

GEOMETRIC = ("loss", "bias_norm", "weight_norm")
PRECISIONS = {
    "bfloat16": Look("#56B4E9", "s", (4, 1.5)),
    "float32": Look("#0072B2", "o"),
    "float64": Look("#000000", "^", (1, 1)),
}


def draw_example(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw a column of section 2's example against steps, mean over seeds, both gradients."""
    rows = table[table["case"] == "bias"]
    names = {OUTSIDE: "mean outside the gradient", WITH: "mean inside"}
    for arm, name in names.items():
        band = style.mean_band(rows[rows["arm"] == arm], "step", column)
        style.draw_band(ax, band, arm, label=name, lw=2.6 if arm == OUTSIDE else 1.4)
    ax.set(xlabel="step", ylabel={"bias": "bias b", "loss": "loss"}[column])


def draw_scale(ax: Axes, table: pd.DataFrame, column: str, target: str) -> None:
    """Draw the example with the scale, statistics outside: each draw of the first seed."""
    rows = table[(table["case"] == "scale") & (table["arm"] == OUTSIDE)]
    rows = rows[(rows["target"] == target) & (rows["seed"] == rows["seed"].min())]
    for _, one in rows.groupby("draw"):
        ax.plot(one["step"], one[column].abs(), color=style.COLOURS[OUTSIDE], lw=0.8)
    mean = rows.groupby("step")["root"].mean()
    if column == "weight" and mean.notna().all():
        ax.plot(mean.index, mean, ":", color="black", label="closed form")
        ax.legend(loc="upper left")
    label = {"bias": "bias b", "weight": "size of the weight, |w|"}[column]
    ax.set(xlabel="step", ylabel=label)


def draw_rounding(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the error of normalised values against the bias, mean over seeds, and its theory."""
    rows = table[table["case"] == "rounding"]
    for name, look in PRECISIONS.items():
        one = rows[rows["precision"] == name]
        mean = one.groupby("bias")[["error", "spacing"]].mean()
        style.draw_line(ax, mean["error"], look, marker=look.marker, ms=3.5, lw=1, label=name)
        ax.plot(mean.index, (mean["spacing"] / np.sqrt(12)).clip(upper=1), color="0.6", lw=0.8)
    ax.set(
        xscale="log", yscale="log", xlabel="bias, in standard deviations of u",
        ylabel="error of the normalised values",
    )  # fmt: skip
    ax.legend(loc="lower right")


def draw_course(ax: Axes, runs: pd.DataFrame, column: str, arms: Collection[str]) -> None:
    """Draw a measurement of networks against training steps, mean and 95 % interval over seeds."""
    rows = runs[(runs["step"] > 0) & runs["arm"].isin(list(arms))]
    if column == "test_accuracy":
        rows = rows.assign(test_accuracy=100 * rows[column])
    if column in GEOMETRIC:
        rows = rows[rows[column] > 0]
        ax.set_yscale("log")
    ax.set(xscale="log", xlabel="training step")
    style.draw_means(ax, rows, "step", column, "arm")
    ax.set_xlim(rows["step"].min(), rows["step"].max())


def draw_rates(
    ax: Axes, runs: pd.DataFrame, column: str, rates: Mapping[str, float], unit: float = 1
) -> None:
    """Draw a final measurement against learning rate, mean and 95 % interval over seeds."""
    last = tuning.final(runs)
    if column in GEOMETRIC:
        last = last[last[column] > 0]
        ax.set_yscale("log")
    style.draw_rates(ax, last, column, rates, unit)


def example(table: pd.DataFrame) -> Figure:
    """Section 2's example: the bias and the loss against steps."""
    figure = style.new_figure(1, 2, 8, 3)
    bias, loss = figure.axes
    draw_example(bias, table, "bias")
    bias.legend(loc="upper left")
    draw_example(loss, table, "loss")
    loss.set_ylim(0)
    return figure


def scale(table: pd.DataFrame) -> Figure:
    """The example with the scale: weight and bias, constant target and sloped."""
    figure = style.new_figure(2, 2, 8, 5, sharex=True)
    for column, target in enumerate(("constant", "sloped")):
        for row, name in enumerate(("weight", "bias")):
            ax = figure.axes[2 * row + column]
            draw_scale(ax, table, name, target)
            ax.set(xlabel="step" if row else "", ylabel=ax.get_ylabel() if column == 0 else "")
        figure.axes[column].set_title(f"{target} target")
    return figure


rounding = style.alone(draw_rounding, 6.4, 3.6)
"""The error of normalised values against the bias."""


def network(runs: pd.DataFrame, rate: float) -> Figure:
    """All networks at one rate: biases, weights, training loss and test accuracy."""
    figure = style.new_figure(2, 2, 8, 5.4, sharex=True)
    chosen = runs[runs["learning_rate"] == rate]
    arms = [arm for arm in style.COLOURS if (chosen["arm"] == arm).any()]
    columns = {
        "bias_norm": "norm of the biases",
        "weight_norm": "norm of the weights",
        "loss": "training loss (nats)",
        "test_accuracy": "test accuracy (%)",
    }
    for row, (ax, (column, name)) in enumerate(zip(figure.axes, columns.items(), strict=True)):
        draw_course(ax, chosen, column, arms)
        ax.set(ylabel=name, xlabel="training step" if row > 1 else "")
    figure.axes[3].set_ylim(0, 101)
    style.legend(figure.axes[0], 2)
    return figure


def rates(runs: pd.DataFrame, tuned: Mapping[str, float]) -> Figure:
    """Every rate: test accuracy, accuracy with the batch's statistics, and size of the biases."""
    figure = style.new_figure(3, 1, 6.4, 7.6, sharex=True)
    accuracy, batch, biases = figure.axes
    draw_rates(accuracy, runs, "test_accuracy", tuned, 100)
    draw_rates(batch, runs, "batch_accuracy", tuned, 100)
    draw_rates(biases, runs, "bias_norm", tuned)
    accuracy.set(ylabel="test accuracy (%)", xlabel="", ylim=(0, 103))
    batch.set(ylabel="with the batch's\nstatistics (%)", xlabel="", ylim=(0, 103))
    biases.set_ylabel("norm of the biases")
    style.legend(accuracy, 2)
    return figure
