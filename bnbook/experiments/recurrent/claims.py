"""BN in an LSTM: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, TIMES, Claim, Premise, control
from bnbook.tables import choosing

LAURENT, COOIJMANS = "Laurent et al. 2015", "Cooijmans et al. 2016"

PIXELS, TEXT = "pixels", "characters"
NONE, INPUT, LAYER = "no norm", "BN of the input", "LayerNorm"
STEPS, STEPS_ONE = "recurrent BN, gamma 0.1", "recurrent BN, gamma 1"
NORMS = (NONE, INPUT, STEPS, STEPS_ONE, LAYER)


def arm(read: str, norm: str) -> str:
    """Return an arm's name."""
    return f"{read} | {norm}"


def parts(name: str) -> tuple[str, str]:
    """Return what an arm reads, and its norm."""
    read, norm = name.split(" | ")
    return read, norm


ARMS = tuple(arm(read, norm) for read in (PIXELS, TEXT) for norm in NORMS)


def speed(table: pd.DataFrame, read: str = TEXT, norm: str = INPUT) -> pd.Series:
    """Steps without norm over those with one, to the training loss at which the worse one ends."""
    none, other = arm(read, NONE), arm(read, norm)
    steps = choosing.steps_to(table, "loss", [none, other])
    return pd.Series(steps[none] / steps[other])


def ahead(table: pd.DataFrame, norm: str, other: str) -> pd.Series:
    """Test accuracy on pixels with a norm minus with another, points."""
    ends = choosing.ends(table, "test_accuracy")
    return 100 * pd.Series(ends[arm(PIXELS, norm)] - ends[arm(PIXELS, other)])


def grows(table: pd.DataFrame, norm: str = STEPS) -> pd.Series:
    """Loss beyond the training length minus late in it, bits a character, less that without norm.

    Without norm the LSTM has nothing that ends with the training length; that some positions of the
    test text are harder than others is taken out by the difference.
    """
    rises = choosing.ends(table, "beyond") - choosing.ends(table, "inside")
    return pd.Series(rises[arm(TEXT, norm)] - rises[arm(TEXT, NONE)])


def _inside(read: str, norms: tuple[str, ...]) -> Premise:
    def check(table: pd.DataFrame) -> claims.Finding:
        return choosing.inside(table, [arm(read, norm) for norm in norms])

    return Premise("none of the rates compared is an end of the grid", check)


CLAIMS = (
    Claim(
        id="laurent.input_to_hidden",
        paper=LAURENT,
        section="abstract",
        statement="BN of the input transition alone speeds up the training of a recurrent network.",
        quantity="steps to one training loss without norm over those with BN of the input, on"
        " characters, each at its own rate; the level is the worse network's last loss",
        measure=speed,
        bound=1.0,
        premises=(_inside(TEXT, (NONE, INPUT)),),
        **TIMES,
    ),
    Claim(
        id="cooijmans.recurrent_bn",
        paper=COOIJMANS,
        section="sequential digits",
        statement="Recurrent BN with gamma 0.1 classifies sequences of pixels better than no norm.",
        quantity="test accuracy on pixels with recurrent BN, gamma 0.1, minus without norm",
        measure=lambda table: ahead(table, STEPS, NONE),
        bound=0.0,
        premises=(_inside(PIXELS, (STEPS, NONE)),),
        **POINTS,
    ),
    Claim(
        id="cooijmans.gamma",
        paper=COOIJMANS,
        section="initial gamma",
        statement="Recurrent BN needs an initial gamma of 0.1; with 1 gradients vanish.",
        quantity="test accuracy on pixels with an initial gamma of 0.1 minus with 1",
        measure=lambda table: ahead(table, STEPS, STEPS_ONE),
        bound=0.0,
        premises=(_inside(PIXELS, (STEPS, STEPS_ONE)),),
        **POINTS,
    ),
    control(
        id="beyond.rnn_length",
        section="sequences longer than those of training",
        statement="Recurrent BN whose statistics end with the training length goes on beyond it,"
        " with those of its last step, about as well as an LSTM without norm.",
        quantity="rise of the loss from the second half of the training length to what follows, up"
        " to four times that length, with recurrent BN, gamma 0.1, minus without norm",
        measure=grows,
        bound=0.1,
        direction="below",
        unit=" bits a character",
        premises=(_inside(TEXT, (STEPS, NONE)),),
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return what the page quotes beside the claims."""
    found = {}
    rates = choosing.chosen(table)
    names = ("none", "input", "steps", "steps_one", "layer")
    for norm, name in zip(NORMS, names, strict=True):
        for read in (PIXELS, TEXT):
            own = arm(read, norm)
            found[f"test_{read}_{name}"] = claims.fact(
                choosing.ends(table, "test")[own], 2, " bits"
            )
            found[f"rate_{read}_{name}"] = claims.fact([rates[own]], 3)
            if norm != NONE:
                found[f"speed_{read}_{name}"] = claims.fact(speed(table, read, norm), 2, "×")
        accuracy = choosing.ends(table, "test_accuracy")[arm(PIXELS, norm)]
        found[f"accuracy_{name}"] = claims.fact(100 * accuracy, 1, " %")
        for column in ("inside", "beyond"):
            ends = choosing.ends(table, column)[arm(TEXT, norm)]
            found[f"{column}_{name}"] = claims.fact(ends, 2, " bits")
    losses = choosing.ends(table, "loss").mean()
    for read in (PIXELS, TEXT):
        of_kind = losses.reindex([arm(read, norm) for norm in NORMS])
        found |= claims.loss_facts(read, of_kind, 2, " bits")
    return found
