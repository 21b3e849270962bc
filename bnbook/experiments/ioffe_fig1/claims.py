"""Ioffe & Szegedy's figure 1: what its table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise, control
from bnbook.tables import papers, tuning
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import geometric

COMMON_RATE = 0.01
"""The untuned rate, common to both arms, at which public reproductions compare them."""
NEARLY = 0.99
"""Of the accuracy where the tuned baseline ends: the level to which steps are counted.

High enough to be nearly all that the baseline learns, and low enough to be crossed where its curve
still rises faster than its noise; its best accuracy is reached where the noise happens to be high.
"""
MAP_TARGET = 0.9
"""Validation accuracy to which the learning-rate map counts steps."""
FAILED = 0.2
"""A run that ends below this test accuracy, twice that of guessing, counts as failed."""


def tuned_rates(table: pd.DataFrame) -> dict[str, float]:
    """Each arm's learning rate: best final validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(table, (WITHOUT, WITH))


def level(table: pd.DataFrame) -> float:
    """Validation accuracy to which steps are counted: `NEARLY` of where the tuned baseline ends."""
    final = tuning.final_by_arm(table, tuned_rates(table), "validation_accuracy")
    return NEARLY * float(final[WITHOUT].mean())


def steps_to_target(table: pd.DataFrame) -> pd.DataFrame:
    """Steps of each tuned arm to `level`: index seed, columns arms, NaN where never reached."""
    return steps_to_level(table, level(table))


def steps_to_level(table: pd.DataFrame, accuracy: float) -> pd.DataFrame:
    """First measured step of each tuned arm at a validation accuracy: index seed, columns arms."""
    targets = {int(seed): accuracy for seed in table["seed"].unique()}
    return tuning.steps_to(table, tuned_rates(table), "validation_accuracy", targets)


def steps_to_best(table: pd.DataFrame) -> pd.DataFrame:
    """As `steps_to_target`, to the best validation accuracy of the seed's tuned baseline."""
    rates = tuned_rates(table)
    baseline = tuning.at_rates(table, {WITHOUT: rates[WITHOUT]})
    best = baseline.groupby("seed")["validation_accuracy"].max()
    targets = {int(str(seed)): float(value) for seed, value in best.items()}
    return tuning.steps_to(table, rates, "validation_accuracy", targets)


def speedup(table: pd.DataFrame) -> pd.Series:
    """Steps of the tuned baseline divided by steps of tuned BN, to `level`, per seed."""
    steps = steps_to_target(table)
    return pd.Series(steps[WITHOUT] / steps[WITH])


def speedup_between(table: pd.DataFrame) -> pd.Series:
    """`speedup` with the steps at which a line from reading to reading crosses the level."""
    rates, target = tuned_rates(table), level(table)
    rows, steps = tuning.at_rates(table, rates), {}
    for run, own in rows.sort_values("step").groupby(["seed", "arm"]):
        step, values = own["step"].to_numpy(float), own["validation_accuracy"].to_numpy(float)
        first = int(np.argmax(values >= target))
        here = slice(first - 1, first + 1)
        within = first > 0 and values[first] >= target
        steps[run] = float(np.interp(target, values[here], step[here])) if within else np.nan
    wide = pd.Series(steps).unstack()
    return pd.Series(wide[WITHOUT] / wide[WITH])


def speedups(table: pd.DataFrame) -> pd.DataFrame:
    """Steps without BN over steps with, at many levels of validation accuracy."""
    found = []
    for accuracy in range(20, 100):
        steps = steps_to_level(table, accuracy / 100)
        ratio = (steps[WITHOUT] / steps[WITH]).rename("ratio")
        if ratio.notna().all():
            found.append(ratio.reset_index().assign(accuracy=accuracy))
    return pd.concat(found) if found else pd.DataFrame(columns=["seed", "ratio", "accuracy"])


def paper_speedups() -> pd.Series:
    """Steps without BN over steps with in the paper's own figure 1(a), index per cent."""
    rows = papers.read("ioffe_fig1a")
    without, with_bn = (rows[rows["network"] == papers.ARMS[arm]] for arm in (WITHOUT, WITH))
    levels = np.arange(0.954, 0.972, 0.001)
    steps = [
        np.interp(levels, own["test_accuracy"].cummax(), own["step"]) for own in (without, with_bn)
    ]
    return pd.Series(steps[0] / steps[1], index=100 * levels)


def accuracy_gap(table: pd.DataFrame, rates: Mapping[str, float]) -> pd.Series:
    """Final test accuracy with BN minus without, in percentage points, per seed."""
    final = tuning.final_by_arm(table, rates, "test_accuracy")
    return pd.Series(100 * (final[WITH] - final[WITHOUT]))


def tuned_gap(table: pd.DataFrame) -> pd.Series:
    """`accuracy_gap` at each arm's own best rate."""
    return accuracy_gap(table, tuned_rates(table))


def common_gap(table: pd.DataFrame) -> pd.Series:
    """`accuracy_gap` at `COMMON_RATE`, the same for both arms."""
    return accuracy_gap(table, {WITHOUT: COMMON_RATE, WITH: COMMON_RATE})


def gap_closed(table: pd.DataFrame) -> pd.DataFrame:
    """``part`` of `common_gap` that is gone when each arm is tuned, and the ``whole``, per seed."""
    common = common_gap(table)
    return pd.DataFrame({"part": common - tuned_gap(table), "whole": common})


def movement_ratio(table: pd.DataFrame) -> pd.Series:
    """Movement of the percentiles without BN divided by with BN, tuned arms, per seed."""
    final = tuning.final_by_arm(table, tuned_rates(table), "movement")
    return pd.Series(final[WITHOUT] / final[WITH])


SETTLED = 0.2
"""Points of validation accuracy by which a curve may still change in its last fifth."""


def _settled(table: pd.DataFrame) -> claims.Finding:
    runs = tuning.at_rates(table, tuned_rates(table))
    curves = runs.pivot_table(index="step", columns="arm", values="validation_accuracy")
    late = curves.index[curves.index >= 0.8 * curves.index.max()]
    change = 100 * float((curves.loc[late[-1]] - curves.loc[late[0]]).abs().max())
    return change <= SETTLED, f"{change:.2f} points", f"{SETTLED:g} points or less"


def _common(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(common_gap(table).mean()), 1.0, " points", 1)


PREMISES = (
    Premise("no tuned rate is an end of the grid", lambda t: tuning.inside(t, tuned_rates(t))),
    Premise("both curves have settled: hardly any change in the last fifth of training", _settled),
)
COMMON = Premise("at the common rate there is a gap of a point or more", _common)


EARLIER = "Its premises were written after an earlier record of the same seeds had been seen."

_claim = partial(Claim, paper="Ioffe & Szegedy 2015", premises=PREMISES)

CLAIMS = (
    _claim(
        id="ioffe.fig1a.speed",
        section="4.1, figure 1(a)",
        statement="BN trains faster.",
        quantity="steps of the tuned network without BN to 99 hundredths of the validation accuracy"
        " where it ends, divided by steps of the tuned BN network to the same accuracy",
        measure=speedup,
        bound=1.0,
        digits=1,
        revised=(
            EARLIER + " Until then steps were counted to each seed's best validation accuracy"
            " without BN, which favours the network with BN: the level was changed after a look."
        ),
        **TIMES,
    ),
    _claim(
        id="ioffe.fig1a.accuracy",
        section="4.1, figure 1(a)",
        statement="BN ends at a higher test accuracy.",
        quantity="final test accuracy with BN minus without, each at its tuned rate",
        measure=tuned_gap,
        bound=0.0,
        unit=" points",
        revised=EARLIER,
    ),
    _claim(
        id="ioffe.fig1bc.stability",
        section="4.1, figure 1(b, c)",
        statement="BN makes the distribution of a sigmoid's input more stable in training.",
        quantity="movement of the 15th, 50th and 85th percentiles during training, in units of"
        " their spread, median unit of the last hidden layer: without BN divided by with BN, each"
        " at its tuned rate",
        measure=movement_ratio,
        bound=1.0,
        revised=EARLIER,
        **TIMES,
    ),
    control(
        id="ioffe.fig1.untuned",
        section="a control for figure 1(a)",
        statement=f"Most of the gap at an untuned common rate ({COMMON_RATE}) comes from the rate:"
        " it vanishes when each network has its own.",
        quantity=f"share of the gap in final test accuracy at the common rate {COMMON_RATE} that is"
        " gone when each network is at its tuned rate",
        measure=gap_closed,
        bound=0.5,
        digits=3,
        scale="ratio",
        concerns="part of BN's lead that tuning takes away",
        premises=(*PREMISES, COMMON),
        revised=(
            EARLIER + " Its value was a mean of each seed's share before; it is a ratio of"
            " means since."
        ),
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    rates, steps, best = tuned_rates(table), steps_to_target(table), steps_to_best(table)
    grid = sorted(table["learning_rate"].unique())
    common = dict.fromkeys(rates, COMMON_RATE)
    tuned, untuned = (tuning.final_by_arm(table, r, "test_accuracy") for r in (rates, common))
    seeds = table["seed"].unique()
    half = tuning.steps_to(table, rates, "validation_accuracy", {int(s): 0.5 for s in seeds})
    movement, early = (tuning.final_by_arm(table, r, "movement") for r in (rates, common))
    last = tuning.final(table)
    found = {
        "rates": claims.count(len(grid)),
        "smallest_rate": claims.fact([grid[0]], 2),
        "largest_rate": claims.fact([grid[-1]], 0),
        "steps": claims.count(table["step"].max()),
        "seeds": claims.count(table["seed"].nunique()),
        "common_gap": claims.fact(common_gap(table), 1, " points"),
        "level": claims.fact([100 * level(table)], 1, " %"),
        "speed_at_best": geometric(best[WITHOUT] / best[WITH], 1, "×"),
        "speed_between": geometric(speedup_between(table).dropna(), 2, "×"),
        **{f"speed_at_{at}": _speed(table, at / 100) for at in (50, 80, 90, 95)},
        "steadier_rates": claims.count(_steadier_rates(last)),
    }
    found |= _beside_paper(table)
    for name, arm in (("without", WITHOUT), ("with", WITH)):
        found |= {
            f"{name}_rate": claims.fact([rates[arm]], 0 if rates[arm] >= 1 else 2),
            f"{name}_accuracy": claims.fact(100 * tuned[arm], 2, " %"),
            f"{name}_common_accuracy": claims.fact(100 * untuned[arm], 1, " %"),
            f"{name}_movement": claims.fact(movement[arm], 3),
            f"{name}_common_movement": claims.fact(early[arm], 3),
            f"{name}_steps": claims.fact(steps[arm].dropna(), 0),
            f"{name}_steps_to_50": claims.fact(half[arm].dropna(), 0),
            f"{name}_usable": claims.count(tuning.usable_rates(table, arm, "test_accuracy", 0.01)),
            f"{name}_failing_rate": claims.fact(_first_failure(last[last["arm"] == arm]), 0),
        }
    return found


STEPS = (5000, 10_000, 20_000, 40_000)
"""Steps at which the paper's accuracies stand beside ours."""


def _beside_paper(table: pd.DataFrame) -> claims.Facts:
    """Describe accuracies at some steps, and spreads of a sigmoid's input, beside the paper's."""
    runs = tuning.at_rates(table, tuned_rates(table))
    accuracy, inputs = papers.read("ioffe_fig1a"), papers.read("ioffe_fig1bc")
    found = []
    for arm in (WITHOUT, WITH):
        own, theirs = runs[runs["arm"] == arm], accuracy[accuracy["network"] == papers.ARMS[arm]]
        curves = own.pivot_table(index="step", columns="seed", values="test_accuracy")
        for step in (step for step in STEPS if step <= curves.index.max()):
            paper = 100 * np.interp(step, theirs["step"], theirs["test_accuracy"])
            ours = [100 * np.interp(step, curves.index, curves[seed]) for seed in curves]
            said = f"{arm}: test accuracy after {step:,} steps"
            found.append(papers.beside(said, float(paper), 0.2, ours, 1, " %"))
        unit = "unit_p85" in own
        rows = inputs[inputs["network"] == papers.ARMS[arm]]
        for when, at in (("start", 0), ("end", -1)) if unit else ():
            step = sorted(own["step"].unique())[at]
            rows_at = own[own["step"] == step]
            spread = rows_at["unit_p85"] - rows_at["unit_p15"]
            paper = float(rows["p85"].iloc[at] - rows["p15"].iloc[at])
            said = f"{arm}: 85th less 15th percentile of a sigmoid's input, at the {when}"
            found.append(papers.beside(said, paper, 0.06, spread, 2))
    return papers.rows(found)


def _speed(table: pd.DataFrame, accuracy: float) -> claims.Fact:
    steps = steps_to_level(table, accuracy)
    return geometric(steps[WITHOUT] / steps[WITH], 1, "×")


def _first_failure(last: pd.DataFrame) -> list[float]:
    """Return the smallest rate above the best one at which a run failed, if there is one."""
    by_rate = last.groupby("learning_rate")["test_accuracy"]
    best, failed = by_rate.mean().idxmax(), by_rate.min() < FAILED
    return [float(rate) for rate in failed.index[failed] if rate > best][:1]


def _steadier_rates(last: pd.DataFrame) -> int:
    """Count the rates at which BN's inputs move less, on average over seeds."""
    moved = last.pivot_table(index="learning_rate", columns="arm", values="movement")
    return int((moved[WITH] < moved[WITHOUT]).sum())
