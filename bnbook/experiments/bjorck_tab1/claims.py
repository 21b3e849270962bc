"""Cancellation in a kernel's gradient at initialisation: what the table says.

The claim, its measure and bound were written before the recorded runs. As we recall it, Bjorck et
al. say that without BN the terms of the gradient mostly agree in sign and with BN they mostly
cancel; a factor of 10 between the two is the sharp reading, 1 the weak one. Of N terms of
independent sign about the square root of N is left uncancelled, far more than 10 here, so that the
sharp reading asks for no more than a small part of what random signs would give.
"""

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables.arms import WITH, WITHOUT

BOUND = 10.0
"""Ratio of the two cancellations above which the claim holds."""


def cancellation(table: pd.DataFrame) -> pd.DataFrame:
    """The ratio a / b of every network and layer; 1 where all terms have one sign.

    Index seed and layer, columns the arms.
    """
    return _by_layer(table, table["a"] / table["b"])


def cancellation_ratio(table: pd.DataFrame) -> pd.Series:
    """`cancellation` with BN over that without, geometric mean over the layers, per seed."""
    found = np.log(cancellation(table))
    return pd.Series(np.exp((found[WITH] - found[WITHOUT]).groupby("seed").mean()))


def within_images(table: pd.DataFrame) -> pd.DataFrame:
    """The part of a / b within images: a / c, c adding each image's sum by its absolute value."""
    return _by_layer(table, table["a"] / table["c"])


def between_images(table: pd.DataFrame) -> pd.DataFrame:
    """The rest: c / b, which times `within_images` is `cancellation`."""
    return _by_layer(table, table["c"] / table["b"])


def _by_layer(table: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    return table.assign(value=values).pivot_table(
        index=["seed", "layer"], columns="arm", values="value"
    )


def _layers(table: pd.DataFrame) -> claims.Finding:
    found = sorted(int(layer) for layer in table["layer"].unique())
    return found == [18, 54, 90], ", ".join(map(str, found)), "18, 54, 90"


CLAIMS = (
    Claim(
        id="bjorck.tab1.cancellation",
        paper="Bjorck et al. 2018",
        section="3.2, table 1",
        statement="At initialisation the terms of a kernel's gradient have mostly the same sign"
        " without BN, and mostly cancel with it (as we recall the table; not verified here).",
        quantity="sum of the absolute values of the terms over the absolute value of their sum:"
        " with BN over without BN, geometric mean of three layers",
        measure=cancellation_ratio,
        bound=BOUND,
        scale="log",
        digits=1,
        premises=(Premise("the layers are those of the paper's table", _layers),),
        revised=claims.LATER,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claim, by name."""
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "batch_size": claims.count(table["batch_size"].max()),
        "largest_error": claims.fact([table["error"].max()], None),
        "with_sum": claims.fact([table[table["arm"] == WITH]["zero_sum"].max()], None),
        "without_sum": claims.fact([table[table["arm"] == WITHOUT]["zero_sum"].mean()], 2),
    }
    measures = {
        "ratio": cancellation(table),
        "within": within_images(table),
        "between": between_images(table),
        "a": _by_layer(table, table["a"]),
        "b": _by_layer(table, table["b"]),
    }
    for place, (layer, rows) in enumerate(table.groupby("layer"), start=1):
        found[f"layer{place}"] = claims.count(float(str(layer)))
        found[f"layer{place}_random"] = claims.fact([np.sqrt(rows["terms"].max())], 0)
        for name, arm in (("without", WITHOUT), ("with", WITH)):
            for key, values in measures.items():
                found[f"{name}_{key}{place}"] = readable(values[arm].xs(layer, level="layer"))
            own = rows[rows["arm"] == arm]
            found[f"{name}_agreement{place}"] = claims.fact(own["agreement"], 2)
    return found


def readable(samples: pd.Series) -> claims.Fact:
    """Describe a geometric mean, written with two or three digits."""
    mean = float(np.exp(np.log(samples).mean()))
    return claims.fact([mean], max(0, 1 - int(np.floor(np.log10(mean)))))
