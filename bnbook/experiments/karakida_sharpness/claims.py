"""Where BN lowers the sharpness of wide networks: what the table of largest eigenvalues says.

The claims, their measures and bounds were written before the recorded runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables.arms import LAST_ONLY, WITHOUT
from bnbook.tables.start import significant

PAPER = "Karakida, Akaho & Amari 2019"
GAUSSIAN, IMAGES, SOFTMAX = "Gaussian inputs", "images", "images, softmax"
"""Cases: the inputs, and whose Fisher information; without softmax that of squared errors."""
MIDDLE = "BN at one middle layer only"
LAST_HIDDEN = "BN at the last hidden layer only"
HIDDEN = "BN at all hidden layers"
EVERYWHERE = "BN at every layer"
LAYER_NORMS = "LayerNorm at every layer"
CENTRED, SCALED = "outputs centred only", "outputs scaled only"
SHOWN = (WITHOUT, LAST_ONLY, MIDDLE, LAST_HIDDEN, HIDDEN, EVERYWHERE, LAYER_NORMS)
"""Networks that are measured in every case; at the last layer is at the outputs."""
ARMS = (*SHOWN, CENTRED, SCALED)
INSIDE = (MIDDLE, LAST_HIDDEN, HIDDEN)
"""Those with BN at hidden layers alone."""
NAMES = {
    WITHOUT: "without", LAST_ONLY: "last", MIDDLE: "middle", LAST_HIDDEN: "feature",
    HIDDEN: "hidden", EVERYWHERE: "every", LAYER_NORMS: "ln", CENTRED: "centred", SCALED: "scaled",
}  # fmt: skip
"""The arms' names in facts."""
CASES = {GAUSSIAN: "gaussian", IMAGES: "images", SOFTMAX: "softmax"}
"""The cases' names in facts."""
SHARPLY = 10.0
"""How often the largest eigenvalue fits into that without BN when it counts as much smaller."""
CLOSE = 0.1
"""Share of an eigenvalue to which Lanczos must know it."""
WIDE, APART = 256, 4
"""Width from which a network counts as wide, and least ratio of the widest to the narrowest."""


def eigenvalues(table: pd.DataFrame, case: str = GAUSSIAN) -> pd.DataFrame:
    """Largest eigenvalues of a case: index ``width`` and ``seed``, columns the arms."""
    rows = table[table["case"] == case]
    return rows.pivot_table(index=["width", "seed"], columns="arm", values="eigenvalue")


def widest(table: pd.DataFrame, case: str = GAUSSIAN) -> pd.DataFrame:
    """`eigenvalues` of the widest network: index ``seed``."""
    found = eigenvalues(table, case)
    return pd.DataFrame(found.xs(found.index.get_level_values("width").max(), level="width"))


def lowered(table: pd.DataFrame, arms: Sequence[str], case: str = GAUSSIAN) -> pd.Series:
    """Largest eigenvalue without BN over the smallest among some arms, widest network, per seed."""
    found = widest(table, case)
    return pd.Series(found[WITHOUT] / found[list(arms)].min(axis=1, skipna=False))


def exponent(table: pd.DataFrame, arm: str = WITHOUT, case: str = GAUSSIAN) -> pd.Series:
    """Power of the width with which the largest eigenvalue grows, least squares, per seed."""
    logs = pd.DataFrame(np.log(eigenvalues(table, case)[arm].unstack("width")))
    slopes = np.polyfit(np.log(logs.columns.to_numpy(dtype=float)), logs.to_numpy().T, 1)[0]
    return pd.Series(slopes, index=logs.index)


def centring(table: pd.DataFrame) -> pd.DataFrame:
    """What centred outputs, and BN there, take off the logarithm of the largest eigenvalue.

    ``part`` of the outputs that are centred only, ``whole`` of BN at the last layer.
    """
    logs = pd.DataFrame(np.log(widest(table)))
    return pd.DataFrame({
        "part": logs[WITHOUT] - logs[CENTRED], "whole": logs[WITHOUT] - logs[LAST_ONLY],
    })  # fmt: skip


def error(table: pd.DataFrame) -> float:
    """Return Lanczos's error over the eigenvalue, the largest of all rows."""
    return float((table["error"] / table["eigenvalue"]).max())


def _wide(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(table["width"].max()), WIDE)


def _apart(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(table["width"].max() / table["width"].min(), APART, " times")


def _known(table: pd.DataFrame) -> claims.Finding:
    found = error(table)
    return found <= CLOSE, f"{100 * found:.1f} %", f"{100 * CLOSE:g} % or less"


def _sharp(table: pd.DataFrame) -> claims.Finding:
    least = float(lowered(table, [LAST_ONLY]).min())
    return claims.at_least(least, 2, " times", 1)


WIDTH = Premise(f"the widest network has {WIDE} units a layer or more", _wide)
KNOWN = Premise("Lanczos knows every eigenvalue to a tenth", _known)
RANGE = Premise("the widest network is four times as wide as the narrowest", _apart)


def _claim(
    name: str, statement: str, who: str, measure: Callable[[pd.DataFrame], pd.Series], **other: Any
) -> Claim:
    """Return a claim about how often a largest eigenvalue fits into that without BN."""
    quantity = (
        "largest eigenvalue of the Fisher information at the start without BN, over that with"
        f" {who}, widest network"
    )
    options = {"paper": PAPER, "section": "abstract", **other}
    return Claim(
        id=f"karakida.{name}", statement=statement, quantity=quantity, measure=measure,
        bound=SHARPLY, scale="log", digits=1, unit="×", premises=(WIDTH, KNOWN), **options,
    )  # fmt: skip


CLAIMS = (
    Claim(
        id="karakida.wide",
        paper=PAPER,
        section="abstract",
        statement=(
            "With random weights the shape of the landscape becomes pathologically sharp when the"
            " network is wide enough."
        ),
        quantity=(
            "power of the width with which the largest eigenvalue of the Fisher information grows"
            " without BN, at the start"
        ),
        measure=exponent,
        bound=0.5,
        premises=(WIDTH, RANGE, KNOWN),
    ),
    _claim(
        "last_layer",
        "BN in the last layer drastically decreases the sharpness.",
        "BN at the last layer only",
        partial(lowered, arms=[LAST_ONLY]),
    ),
    _claim(
        "middle_layers",
        "BN in the middle hidden layers hardly alleviates the sharpness in many settings; asked"
        " here: it lowers the largest eigenvalue less than tenfold.",
        "BN at hidden layers only (at the middle one, the last one or all: the smallest)",
        partial(lowered, arms=INSIDE),
        direction="below",
        revised="The statement names the bound for 'hardly', tenfold, since a look at the record;"
        " the bound and the rest of the criterion are those written before the run.",
    ),
    _claim(
        "layer_norm",
        "Layer normalisation does not alleviate the sharpness; asked here: it lowers the largest"
        " eigenvalue less than tenfold.",
        "LayerNorm at every layer",
        partial(lowered, arms=[LAYER_NORMS]),
        direction="below",
        revised="The statement names the bound, tenfold, since a look at the record; the bound and"
        " the rest of the criterion are those written before the run.",
    ),
    Claim(
        id="karakida.centring",
        paper="this book",
        section="a control of what BN at the last layer does",
        statement="What lowers the largest eigenvalue is that the outputs are centred.",
        quantity=(
            "share of what BN at the last layer takes off the logarithm of the largest eigenvalue"
            " that is gone with outputs that are centred and not scaled, widest network"
        ),
        measure=centring,
        bound=0.5,
        scale="ratio",
        kind="control",
        premises=(
            WIDTH,
            KNOWN,
            Premise("BN at the last layer halves the eigenvalue at every seed", _sharp),
        ),
    ),
    _claim(
        "images",
        "BN in the last layer drastically decreases the sharpness on images too.",
        "BN at the last layer only, on images",
        partial(lowered, arms=[LAST_ONLY], case=IMAGES),
        paper="this book",
        section="a control of the inputs",
        kind="control",
    ),
    _claim(
        "softmax",
        "BN in the last layer drastically decreases the sharpness of a classifier of images too.",
        "BN at the last layer only, on images and with the softmax's Fisher information",
        partial(lowered, arms=[LAST_ONLY], case=SOFTMAX),
        paper="this book",
        section="a control of inputs and loss",
        kind="control",
    ),
)


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    found = {
        "seeds": claims.fact([table["seed"].nunique()], 0),
        "narrowest": claims.fact([table["width"].min()], 0),
        "widest": claims.fact([table["width"].max()], 0),
        "error": claims.fact([100 * error(table)], 1, " %"),
    }
    for case, of in CASES.items():
        top = widest(table, case)
        for arm in top:
            name = f"{NAMES[str(arm)]}_{of}"
            found[f"{name}_eigenvalue"] = significant(top[arm])
            found[f"{name}_power"] = claims.fact(exponent(table, str(arm), case), 2)
    return found
