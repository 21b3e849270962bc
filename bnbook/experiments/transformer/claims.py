"""BN in a small Transformer: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise, control
from bnbook.tables import choosing
from bnbook.tables.arms import BN, LAYER_NORM
from bnbook.tables.start import geometric

COUNTED = "BN, padding counted"
RMS_NORM, POWER_NORM, NONE = "RMSNorm", "PowerNorm", "no norm"
PRE, POST = "pre", "post"
"""The place of a norm: at the start of each branch, or after each sum with a shortcut."""
TEXT, WORDS, PIXELS, IMAGES = "characters", "words", "pixels", "images"
"""What is read: the last by a ConvNet with BN that classifies, the others by a Transformer."""


def arm(read: str, norm: str, place: str) -> str:
    """Return the name of a Transformer's arm."""
    return f"{read} | {norm} | {place}"


def parts(name: str) -> tuple[str, str, str]:
    """Return what an arm reads, its norm, and the norm's place."""
    read, norm, place = name.split(" | ")
    return read, norm, place


def read(name: str) -> str:
    """Return what an arm reads."""
    return name.split(" | ")[0]


CONVNET = f"{IMAGES} | {BN} | ConvNet"
TEXTS = tuple(
    arm(TEXT, norm, place)
    for norm, place in (
        (LAYER_NORM, PRE), (LAYER_NORM, POST), (RMS_NORM, POST), (BN, PRE), (BN, POST),
        (COUNTED, POST), (POWER_NORM, POST), (NONE, PRE),
    )
)  # fmt: skip
ARMS = (*TEXTS, arm(WORDS, BN, PRE), arm(PIXELS, BN, PRE), CONVNET)
NEEDED = (
    *(arm(TEXT, norm, place) for norm in (LAYER_NORM, BN) for place in (PRE, POST)),
    *(arm(TEXT, norm, POST) for norm in (COUNTED, POWER_NORM)),
    arm(TEXT, NONE, PRE), arm(WORDS, BN, PRE), arm(PIXELS, BN, PRE), CONVNET,
)  # fmt: skip
"""The arms that claims and facts compare."""


def best(table: pd.DataFrame, norm: str) -> str:
    """Return a norm's arm on characters at its better place, by the seeds that choose."""
    there = [each for each in TEXTS if parts(each)[1] == norm and each in set(table["arm"])]
    return choosing.better(table, there)


def gap(table: pd.DataFrame) -> pd.Series:
    """Test loss on characters with BN minus with LayerNorm, bits, each at its better place."""
    ends = choosing.ends(table, "test")
    return pd.Series(ends[best(table, BN)] - ends[best(table, LAYER_NORM)])


def distance(table: pd.DataFrame, name: str, column: str) -> pd.Series:
    """Mean over training of a distance's median, of each seed."""
    rows = choosing.shown(table)
    return rows[rows["arm"] == name].groupby("seed")[column].mean()


def text_over_images(table: pd.DataFrame) -> pd.Series:
    """Distance of the batch mean from the running one: of words over that of pixels."""
    text, images = (
        distance(table, arm(kind, BN, PRE), "mean_distance") for kind in (WORDS, PIXELS)
    )
    return text / images


def bn_over_power_norm(table: pd.DataFrame) -> pd.Series:
    """Distance of BN's batch variance over that of PowerNorm's quadratic mean, on characters."""
    own, other = (
        distance(table, arm(TEXT, norm, POST), "scale_distance") for norm in (BN, POWER_NORM)
    )
    return own / other


def decoding(table: pd.DataFrame) -> pd.Series:
    """What the statistics of one step's symbols cost against running ones, bits a character.

    Read with a batch's statistics, a rest of the test that fills no batch is left out. What that
    changes is what it changes for LayerNorm, which has no such statistics, and is taken off.
    """
    moved = choosing.ends(table, "decode_batch") - choosing.ends(table, "decode")
    return pd.Series(moved[best(table, BN)] - moved[best(table, LAYER_NORM)])


LEARNED = 3.3
"""Bits a character below which a network has learned more than how frequent characters are."""


def _inside(table: pd.DataFrame) -> claims.Finding:
    return choosing.inside(table, [best(table, norm) for norm in (BN, LAYER_NORM)])


def _inside_read(table: pd.DataFrame) -> claims.Finding:
    return choosing.inside(table, [arm(kind, BN, PRE) for kind in (WORDS, PIXELS)])


def _learned(table: pd.DataFrame) -> claims.Finding:
    ends = choosing.ends(table, "test")
    worst = float(ends[[best(table, norm) for norm in (BN, LAYER_NORM)]].max().max())
    return worst < LEARNED, f"{worst:.2f} bits", f"below {LEARNED:g} bits"


PREMISES = (
    Premise("no rate of the two norms is an end of the grid", _inside),
    Premise("both norms' networks end below 3.3 bits a character at every seed", _learned),
)

_claim = partial(Claim, paper="Shen et al. 2020")

CLAIMS = (
    _claim(
        id="powernorm.transformer_gap",
        section="1 and 3",
        statement="A Transformer with BN predicts text worse than one with LayerNorm.",
        quantity="test loss with BN (padding masked, running statistics) minus with LayerNorm, on"
        " characters, each at its own rate and better place of the norm",
        measure=gap,
        bound=0.0,
        digits=3,
        unit=" bits a character",
        premises=PREMISES,
    ),
    _claim(
        id="powernorm.statistics_variance",
        section="3",
        statement="In text, statistics of batches stray further from running ones than in images.",
        quantity="distance of the batch mean from the running mean (running standard deviations,"
        " rms of a layer, median over layers and batches, mean over training) in a Transformer with"
        " BN that reads words over that in the same one that reads pixels of images, with batches"
        " of as many symbols",
        measure=text_over_images,
        bound=1.0,
        premises=(Premise("no rate of the two is an end of the grid", _inside_read),),
        revised="The grid was extended downwards after words had chosen its lower end, before any"
        " of their runs that are shown.",
        **TIMES,
    ),
    _claim(
        id="powernorm.running_form",
        section="4",
        statement="PowerNorm's quadratic mean strays less from its running value than BN's"
        " variance.",
        quantity="distance of BN's batch variance from the running one (share of it, rms of a"
        " layer, median over layers and batches, mean over training) over that of PowerNorm's"
        " quadratic mean, in the same Transformer on characters",
        measure=bn_over_power_norm,
        bound=1.0,
        premises=PREMISES[1:],
        **TIMES,
    ),
    control(
        id="beyond.decoding",
        section="one symbol at a time",
        statement="A Transformer trained with BN over batch and time cannot read one character at a"
        " time with the statistics of the batch; with running ones it can.",
        quantity="test loss read one character at a time with the statistics of that step's"
        " characters, as many sequences as in training, minus with running statistics; less the"
        " same of LayerNorm",
        revised="What LayerNorm loses by the other choice of test symbols is taken off since the"
        " record was seen: some 0.03 bits.",
        measure=decoding,
        bound=0.1,
        unit=" bits a character",
        premises=PREMISES[1:],
    ),
)  # fmt: skip


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return what the page quotes beside the claims."""
    after = {norm: arm(TEXT, norm, POST) for norm in (BN, COUNTED, LAYER_NORM)}
    printed = {
        "test": [each for each in TEXTS if each in set(table["arm"])],
        "test_batch": [after[BN], after[COUNTED]],
        "decode": [after[BN], after[LAYER_NORM]],
        "decode_batch": [after[BN], after[LAYER_NORM]],
    }
    found: claims.Facts = {}
    for column, names in printed.items():
        ends = choosing.ends(table, column)
        found |= {f"{column}_{_slug(name)}": claims.fact(ends[name], 2, " bits") for name in names}
    excess = choosing.ends(table, "mean_excess")
    for name in (*(arm(kind, BN, PRE) for kind in (TEXT, WORDS, PIXELS)), CONVNET):
        apart = distance(table, name, "mean_distance").dropna()
        found[f"mean_distance_{_slug(name)}"] = claims.fact(apart, 3)
        found[f"end_excess_{_slug(name)}"] = claims.fact(excess[name].dropna(), 2)
    steps = sorted(choosing.shown(table)["step"].unique())
    for when, least in (("after_first", steps[:2][-1]), ("last", steps[-1])):
        later = text_over_images(table[table["step"] >= least])
        found[f"words_{when}"] = geometric(later.dropna(), 2, "×")
    rates = choosing.chosen(table)
    for name in (arm(WORDS, BN, PRE), arm(PIXELS, BN, PRE), CONVNET):
        found[f"rate_{_slug(name)}"] = claims.fact([rates[name]], 3)
    losses = choosing.ends(table, "loss").mean()
    for kind in (TEXT, WORDS, PIXELS, IMAGES):
        own = losses[[name for name in losses.index if read(name) == kind]]
        found |= claims.loss_facts(kind, own, 2, " bits")
    difference = decode_difference(table)
    return found | {"decode_difference": claims.fact([difference], None, " bits")}


def decode_difference(table: pd.DataFrame) -> float:
    """Largest difference of reading one at a time from reading whole, with running statistics."""
    apart = choosing.ends(table, "decode") - choosing.ends(table, "test")
    return float(apart.abs().max().max())


def _slug(name: str) -> str:
    """Turn an arm's name into that of a fact: characters_bn_pre."""
    words = name.lower().replace("|", " ").replace(",", " ").split()
    return "_".join(words)
