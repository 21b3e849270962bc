"""Growth at the start and BN's gain: what is claimed of the table.

A pilot of minutes showed what a size can decide (32 layers, one seed: without BN and with a gain of
2 rates of 0.003 and more fail, with a gain of 1 a rate of 0.03 trains); it chose no bound. What was
written or changed when numbers were known is said by each claim's `revised`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Finding, Premise, control
from bnbook.experiments.bjorck_dose import cells
from bnbook.experiments.bjorck_dose.cells import CELL, NETWORK, Rates
from bnbook.tables import papers, right, tuning
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.rate_map import rate_fact
from bnbook.tables.start import geometric

Network = tuple[int, float]
"""Residual blocks a stage, and gain."""
PAPER = "Bjorck et al. 2018"
END = 0.95
"""Training accuracy that every compared network has to reach."""
APART = 100.0
"""By how much BN's best rate has to lie above the other's; a thousand in the paper."""
MOST = 0.5
"""Share of seeds above which a network fails to train."""
FEWEST = 3
"""Networks over which a line is taken."""
FAST = 0.9
"""Training accuracy to which steps are counted: all compared networks pass it."""


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each run, with all columns even where there is none."""
    return table if table.empty else cells.ends(table)


def doses(table: pd.DataFrame) -> pd.DataFrame:
    """Describe each network: its growth at the start, r0, r1 and how far they lie apart.

    Index: ``n`` and ``gain``, in the order of growth. Columns: ``growth`` (factor of the second
    moment a block, without BN, mean over the seeds that are shown, or over those that choose rates
    while there are no others), ``small`` and ``large`` (r0 and r1), and ``runs`` (those that are
    shown).
    """
    ended, rows = _ends(table), []
    for (n, gain), own in ended.groupby(NETWORK):
        rates = cells.chosen(own)
        means = _growth(own)
        growth = means.iloc[0] if len(means) else math.nan
        count = len(cells.settled(own[~own["tunes"].astype(bool)]))
        rows.append((n, gain, growth, *rates, count))
    columns = [*NETWORK, "growth", "small", "large", "runs"]
    return pd.DataFrame(rows, columns=columns).sort_values("growth").set_index(NETWORK)


def _growth(own: pd.DataFrame) -> pd.Series:
    """Return a network's growth over the seeds that are shown, then over those that choose.

    Of the seeds that have run at r0: others may have run to see whether they fail, and no more.
    """
    runs = own[own["arm"] == WITHOUT]
    at_small = runs[runs["learning_rate"] == cells.chosen(own).small]
    seeds = (runs if at_small.empty else at_small).groupby(["tunes", "seed"])["growth"].mean()
    return seeds.groupby("tunes").mean()


def judged(table: pd.DataFrame) -> Network | None:
    """Return the network that the claims are about: of those that meet the premises the one that
    grows most; without such a one, that with r0 and r1 furthest apart; None without any.
    """  # noqa: D205
    found = doses(table)
    found = found[found["runs"] > 0]
    if found.empty:
        return None
    ended = _ends(table)
    meeting = [network for network in found.index if meets(ended, network)]
    apart = found["large"] / found["small"]
    most = (found.loc[meeting, "growth"] if meeting else apart).sort_values()
    n, gain = most.reset_index().iloc[-1][NETWORK]
    return int(n), float(gain)


class Compared(NamedTuple):
    """What claims compare of one network: its two rates, and four cells with a row for each seed.

    ``none`` and ``low`` are without BN and with it at r0, ``far`` and ``high`` at r1; ``tried``
    has the rates that were tried when they were chosen.
    """

    rates: Rates
    tried: tuple[float, ...]
    none: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    far: pd.DataFrame


def compared(table: pd.DataFrame) -> Compared:
    """Return what is compared of the network that the claims are about."""
    return _compared(_ends(table), judged(table))


def _compared(ended: pd.DataFrame, network: Network | None) -> Compared:
    n, gain = network or (0, math.nan)
    own = ended[(ended["n"] == n) & (ended["gain"] == gain)]
    rates, tunes = cells.chosen(own), own["tunes"].astype(bool)
    tried = tuple(sorted(own.loc[tunes, "learning_rate"].unique()))
    runs = cells.settled(own[~tunes])

    def cell(arm: str, rate: float) -> pd.DataFrame:
        mine = runs[(runs["arm"] == arm) & (runs["learning_rate"] == rate)]
        return mine.set_index("seed").sort_index()

    near = cell(WITHOUT, rates.small), cell(WITH, rates.small)
    return Compared(rates, tried, *near, cell(WITH, rates.large), cell(WITHOUT, rates.large))


def same_rate(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """BN minus none at r0."""
    found = compared(table)
    return right.lead(found.low, found.none)


def rate_gain(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """BN at r1 minus BN at r0."""
    found = compared(table)
    return right.lead(found.high, found.low)


def explained(table: pd.DataFrame) -> pd.DataFrame:
    """What the rate explains of BN's gain, and the whole gain, in points, by seed."""
    found = compared(table)
    none, low, high = map(_percent, (found.none, found.low, found.high))
    return pd.DataFrame({"part": high - low, "whole": high - none})


def _percent(cell: pd.DataFrame) -> pd.Series:
    return 100 * cell["test_accuracy"].astype(float)


def speedup(table: pd.DataFrame) -> pd.Series:
    """Steps with BN at r0 divided by steps with BN at r1, to `FAST` training accuracy."""
    found = compared(table)
    return _steps(table, found.low) / _steps(table, found.high)


def least_speedup(table: pd.DataFrame) -> pd.Series:
    """`speedup` at its least by the steps measured: at r0 the last one before `FAST` is reached."""
    found = compared(table)
    return _steps(table, found.low, before=True) / _steps(table, found.high)


def _steps(table: pd.DataFrame, cell: pd.DataFrame, before: bool = False) -> pd.Series:
    """Return the first measured step of a cell with `FAST` training accuracy, by seed.

    Or the last one `before` it.
    """
    rows = cell.reset_index()[[*CELL, "seed", "length"]]
    runs = table.merge(rows, on=[*CELL, "seed", "length"])
    reached = runs[runs["training_accuracy"] >= FAST].groupby("seed")["step"].min()
    if before:
        reached = runs[runs["step"] < runs["seed"].map(reached)].groupby("seed")["step"].max()
    return reached.reindex(rows["seed"]).astype(float)


def fails(table: pd.DataFrame) -> pd.Series:
    """Whether the network without BN died at r1, 1 or 0, by seed."""
    return _dead(compared(table))


def _dead(found: Compared) -> pd.Series:
    return (found.far["dead_at"] >= 0).astype(float)


def response(table: pd.DataFrame) -> pd.DataFrame:
    """BN's gain in two parts at every dose and seed, in points of test accuracy.

    Columns: ``n``, ``gain``, ``growth``, ``seed``, ``same`` (BN minus none at r0), ``rate`` (BN at
    r1 minus BN at r0), ``whole`` (their sum).
    """
    ended, parts = _ends(table), []
    for dose in doses(table).reset_index().to_dict("records"):
        found = _compared(ended, (dose["n"], dose["gain"]))
        none, low, high = map(_percent, (found.none, found.low, found.high))
        own = pd.DataFrame({"same": low - none, "rate": high - low, "whole": high - none})
        about = {name: dose[name] for name in (*NETWORK, "growth")}
        parts.append(own.rename_axis("seed").reset_index().assign(**about))
    columns = [*NETWORK, "growth", "seed", "same", "rate", "whole"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def trained(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `response` of the networks that are trained to the end."""
    ended, found = _ends(table), response(table)
    whole = [each for each in doses(table).index if _ended(_compared(ended, each))[0]]
    return found[found.set_index(NETWORK).index.isin(whole)]


def along(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `trained` from which lines over networks are taken.

    Of the networks that `cells.ALONG` seeds have, the seeds that have all.
    """
    found = trained(table).dropna()
    kept = found[found.groupby(NETWORK)["seed"].transform("size") >= cells.ALONG]
    count = len(kept[NETWORK].drop_duplicates())
    return kept[kept.groupby("seed")["n"].transform("size") == count]


def _lines(table: pd.DataFrame, x: Callable[[pd.DataFrame], Any]) -> pd.DataFrame:
    """Return slope and intercept over networks of what the rate brings against `x`, by seed."""
    found = along(table)
    if len(found[NETWORK].drop_duplicates()) < FEWEST:
        return pd.DataFrame(columns=["slope", "intercept"], dtype=float)
    lines = {
        seed: np.polyfit(x(own), own["rate"], 1) if np.ptp(x(own)) else (math.nan, math.nan)
        for seed, own in found.groupby("seed")
    }
    return pd.DataFrame.from_dict(lines, orient="index", columns=["slope", "intercept"])


def rising(table: pd.DataFrame) -> pd.Series:
    """Slope of what the rate brings against the logarithm of the growth, points an e-fold."""
    return _lines(table, lambda own: np.log(own["growth"].astype(float)))["slope"]


def at_no_gain(table: pd.DataFrame) -> pd.Series:
    """What the rate brings where BN as a whole brings nothing, in points, by a line over networks.

    With the line ``rate = intercept + slope * whole`` the share ``rate / whole`` rises with BN's
    whole gain where the intercept is below zero, and falls where it is above.
    """
    return _lines(table, lambda own: own["whole"])["intercept"]


def without_too(table: pd.DataFrame) -> pd.DataFrame:
    """What the larger rate brings without BN, and what it brings with BN, in points, by seed.

    Means over the shallowest networks that train at both rates with BN and without.
    """
    found = [each for each in _shallowest(table) if _trains_at_both(each)]
    parts = [
        pd.DataFrame(
            {
                "part": _percent(each.far) - _percent(each.none),
                "whole": _percent(each.high) - _percent(each.low),
            }
        )
        for each in found
    ]
    if not parts:
        return pd.DataFrame(columns=["part", "whole"], dtype=float)
    return pd.concat(parts).groupby(level="seed").mean()


def _shallowest(table: pd.DataFrame) -> list[Compared]:
    ended = _ends(table)
    least = ended["n"].min()
    return [_compared(ended, each) for each in doses(table).index if each[0] == least]


def _trains_at_both(found: Compared) -> bool:
    return all(len(cell) and cell["training_accuracy"].min() >= END for cell in _four_cells(found))


def _four_cells(found: Compared) -> tuple[pd.DataFrame, ...]:
    return found.none, found.far, found.low, found.high


def _apart(found: Compared) -> Finding:
    return claims.at_least(found.rates.large / found.rates.small, APART, " times")


def _inside(found: Compared) -> Finding:
    ends = found.tried[:1] + found.tried[-1:]
    return tuning.at_no_end([f"{rate:g}" for rate in found.rates if rate in ends])


def _ended(found: Compared) -> Finding:
    reached = [rows["training_accuracy"].min() for rows in (found.none, found.low, found.high)]
    return claims.at_least(100 * float(np.min(reached)), 100 * END, " %", 1)  # NaN if one is


def _fails(found: Compared) -> Finding:
    dead = _dead(found)
    return bool(dead.mean() > MOST), claims.of_seeds(dead), "more than half of the seeds"


_CONDITIONS = {
    "BN's best rate is at least a hundred times that without BN": _apart,
    "neither best rate is an end of the rates that were tried": _inside,
    "every compared network ends above 95 % training accuracy": _ended,
    "the network without BN fails to train at BN's best rate": _fails,
}


def meets(ended: pd.DataFrame, network: Network) -> bool:
    """Whether a network's runs, of which the last rows are given, are as the claims need them."""
    found = _compared(ended, network)
    return all(condition(found)[0] for condition in _CONDITIONS.values())


def settled(table: pd.DataFrame, config: Mapping[str, Any]) -> bool:
    """Whether no run that the record lacks can change what is said of the network that is judged.

    All of its own runs are there, it meets the premises, and every other network of the config has
    begun and grows less at the start, so that it cannot take its place.
    """
    network, ended = judged(table), _ends(table)
    if network is None or not meets(ended, network):
        return False
    growth = doses(table)["growth"].reindex([tuple(each) for each in config["networks"]])
    if not (growth.idxmax() == network and growth.notna().all()):
        return False
    seeds, grid = config["seeds"], (config["learning_rates"], config["lengths"])
    return not cells.wanted(
        ended, [network], *grid, config["tuning_seeds"], seeds[: cells.JUDGED], config["goal"],
        failing=seeds[cells.JUDGED :],
    )  # fmt: skip


def shallow_settled(table: pd.DataFrame, config: Mapping[str, Any]) -> bool:
    """Whether the shallowest networks of the config have all runs of the seeds that all have.

    More seeds run only where the network without BN fails at the larger rate.
    """
    least = min(n for n, _ in config["networks"])
    shallow = [(n, gain) for n, gain in config["networks"] if n == least]
    grid, seeds = (config["learning_rates"], config["lengths"]), config["seeds"][: cells.ALONG]
    return not cells.wanted(
        _ends(table), shallow, *grid, config["tuning_seeds"], seeds, config["goal"]
    )


def _of_judged(condition: Callable[[Compared], Finding]) -> Callable[[pd.DataFrame], Finding]:
    return lambda table: condition(compared(table))


def _some_train_at_both(table: pd.DataFrame) -> Finding:
    return claims.at_least(sum(map(_trains_at_both, _shallowest(table))), 1, " networks")


def _several(table: pd.DataFrame) -> Finding:
    return claims.at_least(len(along(table)[NETWORK].drop_duplicates()), FEWEST, " networks")


PREMISES = tuple(Premise(text, _of_judged(each)) for text, each in _CONDITIONS.items())
_ABOUT = "dose and response, of the networks that meet the premises the one that grows most"
REVISED = (
    "Which network is judged was settled anew when the rates were known and before any seed was"
    " judged: one that can be trained to the end. Two of its five seeds ran, as planned, when the"
    " other three had been judged. That no best rate is an end of those tried became a premise"
    " later."
)
_PAPERS: dict[str, Any] = {"paper": PAPER, "revised": REVISED, "settled": settled}
_POINTS: dict[str, Any] = {**_PAPERS, "digits": 1, "unit": " points", "premises": PREMISES}
_OVER_NETWORKS: dict[str, Any] = {
    "bound": 0.0,
    "digits": 1,
    "unit": " points",
    "premises": (
        Premise("three networks or more are trained to the end by three seeds", _several),
    ),
}

CLAIMS = (
    Claim(
        id="bjorck.dose.same_rate",
        section=f"2, figure 1; {_ABOUT}",
        statement="Trained to the end at the rate that suits the network without BN, BN is no"
        " better.",
        quantity="test accuracy with BN minus without, both at the best rate without BN",
        measure=same_rate,
        bound=2.0,
        direction="below",
        concerns="lead of BN at the best rate without it",
        **_POINTS,
    ),
    Claim(
        id="bjorck.dose.rate_generalises",
        section=f"2, figure 1; {_ABOUT}",
        statement="Trained to the end with BN, the larger rate that it allows gives a higher test"
        " accuracy.",
        quantity="test accuracy with BN at its best rate minus with BN at the best rate without BN",
        measure=rate_gain,
        bound=0.0,
        concerns="gain of BN's larger rate",
        **_POINTS,
    ),
    Claim(
        id="bjorck.dose.rate_explains",
        **_PAPERS,
        section=f"2; {_ABOUT}",
        statement="The larger rate explains most of what BN gains.",
        quantity="what BN gains from the best rate without it to its own, over all that it gains",
        measure=explained,
        bound=0.5,
        scale="ratio",
        premises=PREMISES,
    ),
    Claim(
        id="bjorck.dose.faster",
        **_PAPERS,
        section=f"2, figure 1; {_ABOUT}",
        statement="With BN, the larger rate trains faster.",
        quantity="steps with BN at the best rate without BN, divided by steps with BN at its own,"
        " to 90 % training accuracy",
        measure=speedup,
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
        premises=PREMISES[:3],
        concerns="speed of BN's larger rate",
    ),
    Claim(
        id="bjorck.dose.fails_to_train",
        paper=PAPER,
        section=f"2 and 3; {_ABOUT}",
        statement="At the rate that BN profits from, the network without BN fails to train.",
        quantity="share of seeds that die without BN at BN's best rate",
        measure=fails,
        bound=0.5,
        scale="share",
        premises=PREMISES[:2],
        revised=f"{REVISED} Ten seeds ran this cell alone when all of five had failed, for the"
        " exact interval of five seeds reaches below one half whatever they do.",
        concerns="failure without BN at BN's best rate",
        settled=settled,
    ),
    control(
        id="bjorck.dose.rises",
        section="a consequence of sections 3 and 4: growth at the start holds the rate down",
        statement="The more a network's activations grow at the start, the more points BN gains"
        " from the rate that suits the network without it to its own.",
        quantity="slope of what the rate brings against the logarithm of the growth a block, points"
        " for each factor e",
        measure=rising,
        revised="It was worded as a share before, which is now a claim of its own; the quantity is"
        " the same. Its premise was written when four networks were known.",
        **_OVER_NETWORKS,
    ),
    control(
        id="bjorck.dose.share_rises",
        section="a consequence of sections 3 and 4: growth at the start holds the rate down",
        statement="The more BN gains in all, the larger is the share of it that the rate brings.",
        quantity="what the rate brings where BN as a whole brings nothing, by a straight line over"
        " networks; the share rises with the whole gain where this is below zero",
        measure=at_no_gain,
        direction="below",
        revised="It was written when the numbers of four networks were known.",
        **_OVER_NETWORKS,
    ),
    control(
        id="bjorck.dose.without_too",
        section="a consequence of section 2.1: that it is the rate which generalises",
        statement="Where a network trains at both rates without BN too, the larger one gives it"
        " most of what it gives with BN.",
        quantity="what the network without BN gains from the best rate without BN to that with it,"
        " over what the network with BN gains there, mean over the networks of fewest layers that"
        " train at both",
        measure=without_too,
        bound=0.5,
        scale="ratio",
        premises=(
            Premise(
                "a network or more ends above 95 % training accuracy at both rates, with BN and"
                " without",
                _some_train_at_both,
            ),
        ),
        revised="It was written when the numbers were known.",
        settled=shallow_settled,
    ),
)


DOSES = ((5, 0.5), (5, 1.0), (5, 1.4), (5, 1.7), (5, 2.0), (9, 1.0), (18, 1.0))
"""Blocks a stage and gain of the networks whose numbers the chapter prints one by one."""


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims.

    Those of `DOSES` are there, without a value, before the record holds them.
    """
    network, found = judged(table), doses(table)
    n, gain = network or (0, math.nan)
    described = {
        "layers": claims.fact([6 * n + 2] if network else [], 0),
        "gain": claims.fact([gain] if network else [], 2),
        "growth": claims.fact([float(found["growth"][network])] if network else [], 2),
    }
    ended = _ends(table)
    tuned = ended[(ended["n"] == n) & (ended["gain"] == gain) & ended["tunes"].astype(bool)]
    described["least_faster"] = geometric(least_speedup(table).dropna(), 2, "×")
    described["growth_tuned"] = claims.fact(_growth(tuned), 2)
    both = without_too(table)
    described["larger_rate_without"] = claims.fact(both["part"].dropna(), 1, " points")
    described["larger_rate_with"] = claims.fact(both["whole"].dropna(), 1, " points")
    for each in sorted({*DOSES, *found.index}):
        own = _of_network(_compared(ended, each), found[found.index == each])
        name = f"layers{6 * each[0] + 2}_{str(each[1]).replace('.', '_')}"
        described |= {f"{name}_{part}": value for part, value in own.items()}
    found_there = _compared(ended, network)
    return described | papers.beside_figure_1(found_there.none, found_there.low, found_there.high)


def _of_network(found: Compared, dose: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return growth, rates, accuracies in per cent, BN's gain and its parts of one network."""
    none, low, high, far = map(_percent, (found.none, found.low, found.high, found.far))
    return {
        "growth": claims.fact(dose["growth"], 2),
        "small": rate_fact(found.rates.small),
        "large": rate_fact(found.rates.large),
        "none": claims.fact(none, 1, " %"),
        "low": claims.fact(low, 1, " %"),
        "high": claims.fact(high, 1, " %"),
        "far": claims.fact(far, 1, " %"),
        "same": claims.points_fact(right.lead(found.low, found.none), 1, ""),
        "rate": claims.points_fact(right.lead(found.high, found.low), 1, ""),
        "gained": claims.points_fact(right.lead(found.high, found.none), 1, ""),
        "share": claims.ratio_fact(high - low, high - none, 1),
    }
