"""Reading tables of arms × learning rates × seeds: the last step, tuned rates, first crossings.

Such a table has the columns ``arm``, ``learning_rate``, ``seed``, ``step`` and measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd


def final(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last step."""
    last: pd.DataFrame = table.loc[table["step"] == table["step"].max()]
    return last


def tuned_rates(
    table: pd.DataFrame, arms: Sequence[str], by: str = "validation_accuracy"
) -> dict[str, float]:
    """Each arm's learning rate: the best final value, averaged over seeds; of equals the smallest.

    `by` is measured on held-out training data, never on the test set; arms that the table lacks are
    left out.
    """
    mean = final(table).pivot_table(index="learning_rate", columns="arm", values=by)
    return {arm: float(mean.index[int(mean[arm].argmax())]) for arm in arms if arm in mean}


def at_rates(table: pd.DataFrame, rates: Mapping[str, float]) -> pd.DataFrame:
    """Rows of each arm at the rate given for it."""
    chosen: pd.DataFrame = table.loc[table["learning_rate"] == table["arm"].map(rates)]
    return chosen


def final_by_arm(table: pd.DataFrame, rates: Mapping[str, float], column: str) -> pd.DataFrame:
    """Final values of a column at each arm's rate: index seed, columns the arms."""
    return final(at_rates(table, rates)).pivot_table(index="seed", columns="arm", values=column)


def usable_rates(table: pd.DataFrame, arm: str, column: str, within: float) -> int:
    """Count the rates whose final value, averaged over seeds, is within some margin of the best."""
    last = final(table)
    mean = last[last["arm"] == arm].groupby("learning_rate")[column].mean()
    return int((mean >= mean.max() - within).sum())


def learned(
    table: pd.DataFrame, arm: str, level: float, column: str = "test_accuracy"
) -> list[float]:
    """Return the rates at which every seed of an arm ends at a level or above, rising."""
    last = final(table)
    worst = last[last["arm"] == arm].groupby("learning_rate")[column].min()
    return [float(rate) for rate in worst.index[worst >= level]]


def steps_to(
    table: pd.DataFrame, rates: Mapping[str, float], column: str, targets: Mapping[int, float]
) -> pd.DataFrame:
    """First measured step of each arm at a seed's target, by seed and arm; NaN: never."""
    runs = at_rates(table, rates)
    curves = runs.pivot_table(index="step", columns=["arm", "seed"], values=column)
    steps = {
        arm: {seed: _first(curves[arm, seed] >= target) for seed, target in targets.items()}
        for arm in rates
    }
    return pd.DataFrame(steps).rename_axis("seed")


def steps_to_reach(table: pd.DataFrame, column: str, target: float) -> pd.DataFrame:
    """First measured step of each run at a target, by seed, and arm and rate; NaN: never."""
    keys = ["seed", "arm", "learning_rate"]
    reached = table.loc[table[column] >= target].groupby(keys)["step"].min()
    runs = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    return reached.reindex(runs).astype(float).unstack(["arm", "learning_rate"]).sort_index(axis=1)


def inside(table: pd.DataFrame, rates: Mapping[str, float]) -> tuple[bool, str, str]:
    """Premise: no tuned rate is an end of the grid, where a better one may lie beyond it."""
    ends = (table["learning_rate"].min(), table["learning_rate"].max())
    out = [f"{arm} at {rate:g}" for arm, rate in rates.items() if rate in ends]
    return at_no_end(out)


def at_no_end(out: Sequence[str]) -> tuple[bool, str, str]:
    """Premise: none of the chosen rates is an end of its grid; `out` names those that are."""
    return not out, ", ".join(out) or "none at an end", "none at an end"


def trained(
    table: pd.DataFrame, compared: Sequence[tuple[str, float]], level: float
) -> tuple[bool, str, str]:
    """Premise: every run of these arms and rates ends at this training accuracy or above."""
    needed = f"{100 * level:.0f} % or more"
    if "training_accuracy" not in table:
        return False, "not recorded", needed
    last = final(table).set_index(["arm", "learning_rate"])["training_accuracy"].sort_index()
    ends = [last.get(run) for run in compared]
    least = min((float("nan") if end is None else end.min() for end in ends), default=float("nan"))
    return least >= level, f"{100 * least:.0f} %", needed


def apart(small: float, large: float, factor: float) -> tuple[bool, str, str]:
    """Premise: one rate is so many times another."""
    return large >= factor * small, f"{large / small:.2g} times", f"{factor:g} times or more"


def fails(table: pd.DataFrame, arm: str, rate: float, level: float) -> tuple[bool, str, str]:
    """Premise: every run of an arm at a rate diverges or ends below a test accuracy."""
    last = final(table)
    runs = last[(last["arm"] == arm) & (last["learning_rate"] == rate)]
    failed = int(((runs["diverged_at"] >= 0) | ~(runs["test_accuracy"] >= level)).sum())
    return 0 < len(runs) == failed, f"{failed} of {len(runs)} seeds", "all seeds"


def _first(reached: pd.Series) -> float:
    return float(reached.index[int(reached.argmax())]) if reached.any() else float("nan")
