"""Growth with depth at the start: activations and gradients, theory and measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence.records import Record
from bnbook.experiments.bjorck_fig5.claims import BLOCK, IMAGES, rows_of, wide_limit
from bnbook.experiments.jacobians import claims as jacobians
from bnbook.tables.arms import RESIDUAL, WITH, WITHOUT

RECORDS = ("bjorck_fig5", "bjorck_dose", "jacobians")
TITLE = "Explore: growth at the start"
COLUMNS = ("What grows", "Where", "Network", "Measured, a factor", "Theory, a factor")
CAPTION = (
    "Growth at the start: geometric means over seeds, those that choose rates among them; a dash"
    " where there is none."
)
FIG5_SIDE, DOSE_SIDE = 32, 16
"""Sides of the images in the two records."""
ARMS = (WITHOUT, WITH)
DASH = "\N{EN DASH}"


def data(found: Mapping[str, Record]) -> dict[str, Any]:
    """Return both growths: activations by depth and gain, gradients by width and nonlinearity."""
    fig5, dose = (found[name].table for name in RECORDS[:2])
    own = _fig5(fig5)
    gains = sorted({1.0, *(float(gain) for gain in dose["gain"].unique())})
    depths = sorted({own["n"], *(int(n) for n in dose["n"].unique())})
    return {
        "gains": gains,
        "depths": [_depth(n, gains, dose, own if n == own["n"] else None) for n in depths],
        "gradients": _gradients(found["jacobians"].table),
    }


def _fig5(table: pd.DataFrame) -> dict[str, Any]:
    """Return the blocks of a stage, and each arm's second moment by block over the first's."""
    rows = rows_of(table, BLOCK, IMAGES)
    logs = rows.assign(log=np.log(rows["second"])).groupby(["arm", "index"])["log"].mean()
    courses = {arm: np.exp(logs[arm] - logs[arm].iloc[0]) for arm in ARMS}
    return {
        "n": int(rows["index"].max()) // 3,
        "courses": {arm: _short(course) for arm, course in courses.items()},
        "seeds": int(rows["seed"].nunique()),
    }


def _depth(
    n: int, gains: Iterable[float], dose: pd.DataFrame, fig5: dict[str, Any] | None
) -> dict[str, Any]:
    """Describe the networks of one depth: theory at each gain, and what was measured."""
    side = FIG5_SIDE if fig5 else DOSE_SIDE
    theory = {
        WITHOUT: [_course(n, False, side, gain) for gain in gains],
        WITH: [_course(n, True, side, 1.0)],
    }
    own = dose[(dose["n"] == n) & (dose["step"] == 0)]
    logs = np.log(own["growth"]).groupby([own["arm"], own["gain"], own["seed"]]).mean()
    factors = np.exp(logs.groupby(level=["arm", "gain"]).mean())
    measured = {
        arm: [_factor(factors, arm, gain) for gain in gains] for arm in ARMS
    }  # fmt: skip
    found = {"n": n, "layers": 6 * n + 2, "theory": theory, "measured": measured}
    return {**found, "blocks": fig5["courses"] if fig5 else None}


def _course(n: int, normalised: bool, side: int, gain: float) -> list[float]:
    blocks = wide_limit(n, normalised, side, gain=gain).blocks
    return _short(blocks / blocks[0])


def _factor(factors: pd.Series, arm: str, gain: float) -> float | None:
    found = factors.get((arm, gain))
    return None if found is None else float(f"{found:.6g}")


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _gradients(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the squared gradient by layer over the last's, of every network at the largest batch.

    ``growth`` is the fitted factor a layer towards the input; ``theory`` that of wide layers, which
    the book derives for BN without skips alone.
    """
    rows = table[table["measured"] == jacobians.GRADIENT]
    rows = rows[rows["batch"] == rows["batch"].max()]
    fitted = jacobians.growth(rows)
    found = []
    for (arm, g, width), own in rows.groupby(["arm", "nonlinearity", "width"]):
        logs = np.log(own["squared_gradient"]).groupby(own["layer"]).mean()
        growth = fitted.loc[(arm, g, width)]
        found.append(
            {
                "arm": arm, "nonlinearity": g, "width": int(str(width)),
                "layers": _short(np.exp(logs - logs.iloc[-1])),
                "growth": float(f"{np.exp(np.log(growth).mean()):.6g}"),
                "theory": float(f"{jacobians.expected_growth(g):.6g}") if arm == WITH else None,
            }
        )  # fmt: skip
    order = {arm: at for at, arm in enumerate((*ARMS, RESIDUAL))}
    return sorted(found, key=lambda each: (order[each["arm"]], each["width"]))


def per_block(course: list[float]) -> float:
    """Return the factor a block of a course that begins at 1: geometric mean after the first."""
    return float(course[-1] ** (1 / (len(course) - 1)))


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the static table: activations a block, then gradients a layer."""
    lines = []
    for depth in found["depths"]:
        for arm in ARMS:
            for at, gain in enumerate(found["gains"]):
                measured = depth["measured"][arm][at]
                if depth["blocks"] and gain == 1:
                    measured = per_block(depth["blocks"][arm])
                if measured is not None:
                    theory = depth["theory"][arm][at if arm == WITHOUT else 0]
                    where = f"{depth['layers']} layers, gain {gain:g}"
                    lines.append(["mean square, a block", where, arm, f"{measured:.3f}",
                                  f"{per_block(theory):.3f}"])  # fmt: skip
    for each in found["gradients"]:
        theory = DASH if each["theory"] is None else f"{each['theory']:.3f}"
        where = f"{each['nonlinearity']}, width {each['width']}"
        lines.append(
            ["squared gradient, a layer", where, each["arm"], f"{each['growth']:.3f}", theory]
        )
    return lines
