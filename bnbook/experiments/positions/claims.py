"""What an image is worth to BN: what the table says.

A pilot of one seed and three rates showed what can be seen at this size; it chose no bound. That
one position is asked for at 8 images has a reason. What is divided by statistics of m values that
it is not among follows Student's t with m - 1 degrees of freedom, if values are normal: with 1 it
has no mean and with 3 no fourth moment, so that a network fails for that alone; with 7 it has both.
"""

from functools import partial

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Premise, control
from bnbook.tables import climbed, right

CONVNET, CONNECTED = "ConvNet, all positions", "fully connected"
ONE_POSITION = "ConvNet, one position of each image"
ARMS = (CONVNET, ONE_POSITION, CONNECTED)
SMALLEST, FEW, LARGEST = 2, 8, 32
"""Images normalised together: the ends, and where one position is asked for."""
NAMES = {CONVNET: "convnet", ONE_POSITION: "one_position", CONNECTED: "connected"}
"""The networks' names in facts."""


def cell(table: pd.DataFrame, arm: str, m: int) -> pd.DataFrame:
    """First rows of a cell's shown runs, at the rate chosen; index seed."""
    rows = climbed.judged(table)
    rows = rows[(rows["arm"] == arm) & (rows["batch_size"] == m) & (rows["layer"] == 1)]
    return rows.set_index("seed").sort_index()


def error(table: pd.DataFrame, arm: str, m: int) -> pd.Series:
    """Test error at the rate chosen, per cent, by seed."""
    return pd.Series(100 * (1 - cell(table, arm, m)["test_accuracy"]))


def rise(table: pd.DataFrame, arm: str, m: int = SMALLEST) -> right.Points:
    """Test error at m less that at the largest m, points."""
    return right.lead(cell(table, arm, LARGEST), cell(table, arm, m))


def one_position(table: pd.DataFrame) -> right.Points:
    """Test error with one position of each image less with all of them, at `FEW`, points."""
    return right.lead(cell(table, CONVNET, FEW), cell(table, ONE_POSITION, FEW))


def connected(table: pd.DataFrame) -> right.Points:
    """Rise of the fully connected network's error less that of the ConvNet's, points."""
    return right.minus(rise(table, CONNECTED), rise(table, CONVNET))


def draws(table: pd.DataFrame, arm: str, of: str = "mean", m: int = LARGEST) -> pd.Series:
    """Draws that an image is worth, the geometric mean over the layers, by seed."""
    rows = climbed.judged(table)
    rows = rows[(rows["arm"] == arm) & (rows["batch_size"] == m)]
    logs = rows[f"draws_of_{of}"].astype(float).apply(np.log)
    return pd.Series(np.exp(logs.groupby(rows["seed"]).mean()))


def _inside(compared: tuple[tuple[str, int], ...], table: pd.DataFrame) -> claims.Finding:
    cells = {f"{arm}, m = {m}": {"arm": arm, "batch_size": m} for arm, m in compared}
    return climbed.inside(table, cells)


def _learned(compared: tuple[tuple[str, int], ...], table: pd.DataFrame) -> claims.Finding:
    found = [100 - float(error(table, arm, m).mean()) for arm, m in compared]
    return claims.at_least(min(found), 30.0, " %")


def _premises(*compared: tuple[str, int]) -> tuple[Premise, Premise]:
    """Return the premises on the cells that a claim compares.

    What a small m breaks may learn nothing: that is what is asked.
    """
    learning = tuple(each for each in compared if each[1] == LARGEST) or compared
    return (
        Premise("no rate compared is the first or last of the grid", partial(_inside, compared)),
        Premise(
            "each network classifies 30 % of the test images, thrice guessing, where all of a"
            " minibatch is normalised together",
            partial(_learned, learning),
        ),
    )


CLAIMS = (
    control(
        id="beyond.positions.draws",
        section="Ioffe & Szegedy 2015, section 3.2, calls m p q values the effective minibatch",
        statement="An image is worth several independent draws to the statistics of a ConvNet, and"
        " one to those of a fully connected network.",
        quantity="variance of a channel over images and positions, divided by that of its mean over"
        " an image's positions: median over channels, geometric mean over layers, ConvNet with"
        f" m = {LARGEST}; 1 in a fully connected network",
        measure=partial(draws, arm=CONVNET),
        bound=2.0,
        scale="log",
        digits=1,
        premises=_premises((CONVNET, LARGEST)),
    ),
    control(
        id="beyond.positions.one",
        section="what a ConvNet's statistics have that others have not",
        statement="With statistics over one position of each image a ConvNet ends worse.",
        quantity=f"test error at m = {FEW} with statistics over one position of each image, minus"
        " that with statistics over all",
        measure=one_position,
        bound=1.0,
        premises=_premises(
            (CONVNET, FEW), (ONE_POSITION, FEW), (CONVNET, LARGEST), (ONE_POSITION, LARGEST)
        ),
        **POINTS,
    ),
    control(
        id="beyond.positions.connected",
        section="what a ConvNet's statistics have that others have not",
        statement="Small minibatches cost a fully connected network more than a ConvNet.",
        quantity=f"rise of the test error from m = {LARGEST} to m = {SMALLEST} in a fully connected"
        " network, minus that in a ConvNet, on the same images",
        measure=connected,
        bound=0.0,
        premises=_premises(
            *((arm, m) for arm in (CONVNET, CONNECTED) for m in (SMALLEST, LARGEST))
        ),
        **POINTS,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    shown = climbed.judged(table)
    found = {
        "seeds": claims.count(shown["seed"].nunique()),
        "variance_draws": claims.fact(draws(table, CONVNET, "variance"), 1),
    }
    for arm, name in NAMES.items():
        for m in sorted(int(size) for size in table["batch_size"].unique()):
            found[f"{name}_{m}"] = claims.fact(error(table, arm, m), 1, " %")
            if m < LARGEST:
                found[f"{name}_rise_{m}"] = claims.points_fact(rise(table, arm, m), 1)
    rows = shown[(shown["arm"] == CONVNET) & (shown["batch_size"] == LARGEST)]
    for layer, own in rows.groupby("layer"):
        found[f"draws_{layer}"] = claims.fact(own["draws_of_mean"], 1)
    return found
