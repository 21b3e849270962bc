"""Final accuracies in bfloat16 against those in float32, a dot a seed."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from bnbook.experiments.bfloat16 import claims
from bnbook.plots import style


def draw_pairs(ax: Axes, table: pd.DataFrame) -> None:
    """Draw final test accuracies in per cent; on the diagonal both precisions agree."""
    accuracy = (100 * claims.paired(table, "test_accuracy")).reset_index()
    largest = accuracy["learning_rate"] == accuracy["learning_rate"].max()
    for (name, filled), own in accuracy.groupby(["arm", largest]):
        arm, rates = str(name), " to ".join(f"{r:g}" for r in _ends(own["learning_rate"]))
        ax.scatter(
            own[claims.FLOAT32], own[claims.BFLOAT16], label=f"{arm}, rate {rates}",
            marker=style.MARKERS[arm], edgecolors=style.COLOURS[arm], s=36,
            facecolors=style.COLOURS[arm] if filled else "none",
        )  # fmt: skip
    ax.axline((20, 20), slope=1, color="0.7", lw=0.8, zorder=0)
    low, high = accuracy[claims.FLOAT32].min() - 3, accuracy[claims.FLOAT32].max() + 3
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set(xlabel="test accuracy in float32 (%)", ylabel="test accuracy in bfloat16 (%)")
    ax.legend(loc="lower right")
    sns.despine(ax=ax)


def _ends(rates: pd.Series) -> list[float]:
    return sorted({rates.min(), rates.max()})


pairs = style.alone(draw_pairs, 5.4, 4.6)
"""Draw each pair of runs that differ in precision alone."""
