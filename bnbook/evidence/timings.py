"""Tables of timed repetitions: medians, paired ratios, the share of the floor, and the targets.

A table has one row per contender and repetition: ``workload``, ``contender``, ``members``,
``setting`` (what a growth curve varies, or NaN), ``steps``, ``repetition``, ``seconds``, ``gflop``
(matrix-product operations of one member's step, or of one product), ``mebibytes`` and ``note`` (why
it was not run, or empty).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.evidence.claims import fact
from bnbook.evidence.wording import format_value

OURS = "ours"
PRODUCT = "matrix product"
COLUMNS = (
    "workload", "contender", "members", "setting", "steps", "repetition", "seconds", "gflop",
    "mebibytes", "note",
)  # fmt: skip
FLAGS = ("loop, channels last", "loop, bfloat16", "loop, compiled", "loop, 2 loader workers")
"""The variants of the loop that a user would try by changing one flag."""
MAP_STEPS = 50_000
"""Steps of a network of figure 1."""
GROWTH = ("growth members", "growth depth", "growth width")
COSTS = ("cost depth", "cost width", "cost side", "cost minibatch", "cost members")
"""What varies in the costs of a deep network."""
_KEY = ["workload", "contender", "members", "setting"]


@dataclass(frozen=True)
class Target:
    """A bound that a run can miss, set before the run.

    Attributes
    ----------
    name : str
        Of the fact that the pages print.
    workload, against : str
        What is trained; the contender, or the quantity, that the bound is about.
    statement : str
        In words.
    bound : float
        The number.
    direction : {"above", "below"}
        On which side of the bound the target lies; the bound itself meets it.
    unit : str
        Shown after the number.
    digits : int
        Decimals shown.
    """

    name: str
    workload: str
    against: str
    statement: str
    bound: float
    direction: str = "above"
    unit: str = "×"
    digits: int = 1


FLOOR, SINGLE_FLAG, MEMORY = "share of the floor's rate", "the best single flag", "counted by hand"
TARGETS = (
    Target("mnist_tutorial", "mnist", "tutorial loop", "as fast per member", 3.0),
    Target("mnist_jax", "mnist", "jax.vmap", "as fast", 1.1, digits=2),
    Target("mnist_floor", "mnist", FLOOR, "of the best matrix product's rate", 50, unit=" %",
           digits=0),
    Target("digits_tutorial", "digits", "tutorial loop", "as fast per member", 5.0),
    Target("digits_jax", "digits", "jax.vmap", "as fast", 1.2, digits=2),
    Target("resnet20_tutorial", "resnet20", "tutorial loop", "as fast", 3.0),
    Target("resnet20_flag", "resnet20", SINGLE_FLAG, "as fast", 1.3, digits=2),
    Target("memory", "memory", MEMORY, "as many bytes as by hand", 1.5, "below", digits=2),
    Target("resnet110_tutorial", "resnet110", "tutorial loop", "as fast", 5.0),
)  # fmt: skip
"""What was asked of the package before it was measured."""
BEST = "the best of the others"
DEEP_TARGETS = tuple(
    Target(f"{slug}_{arm}", f"{slug.replace('_', '-')}{words}", BEST, "as fast", 1.15, digits=2)
    for slug in ("resnet20_32", "resnet56_16", "resnet110_16", "resnet110_32")
    for arm, words in (("bn", ""), ("plain", " without BN"))
) + tuple(
    Target(f"resnet20_32_{arm}_eager", f"resnet20-32{words}, no compiler", BEST, "as fast", 1.0,
           digits=2)
    for arm, words in (("bn", ""), ("plain", " without BN"))
)  # fmt: skip
"""What was asked of deep networks; judged where they were measured."""


def empty(workload: str, contender: str, members: int, note: str) -> dict[str, Any]:
    """Return the row of a contender that was not run."""
    return {
        **dict.fromkeys(COLUMNS, math.nan),
        "workload": workload,
        "contender": contender,
        "members": members,
        "steps": 0,
        "repetition": 0,
        "note": note,
    }


def best_rate(table: pd.DataFrame) -> float:
    """Return the best rate of the matrix products in a table, in 10^9 operations a second."""
    products = table[table["workload"] == PRODUCT]
    return float((products["gflop"] / products["seconds"]).max())


def _per_step(runs: pd.DataFrame) -> pd.Series:
    """Seconds per member and step, by repetition."""
    found = runs["seconds"] / (runs["members"] * runs["steps"].where(runs["steps"] > 0))
    return found.set_axis(runs["repetition"])


def ratios(table: pd.DataFrame, workload: str, contender: str) -> pd.Series:
    """Return a contender's time over ours, per member and step, in each repetition.

    The two were measured one shortly after the other, so that what slows the machine for a while
    slows both.
    """
    of = table[(table["workload"] == workload) & (table["seconds"] > 0)]
    theirs, ours = (_per_step(of[of["contender"] == name]) for name in (contender, OURS))
    return (theirs / ours).dropna()


def rows(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise repetitions: one row per workload and contender, in the order of the run.

    The table is as this module describes it. The columns of the summary are ``workload``,
    ``contender``, ``members``, ``setting``, ``steps``, ``repetitions``; ``median_s``, ``min_s``,
    ``max_s`` of the whole training loop; ``us_per_member_step``, the median in microseconds;
    ``ratio_to_ours`` (the median over repetitions of their time over ours, per member and step),
    ``ratio_min``, ``ratio_max``; ``floor_share`` (the floor's time over this one); ``mebibytes``;
    ``note``. A number without a meaning is NaN.
    """
    rate = best_rate(table)
    groups = table.groupby(_KEY, sort=False, dropna=False)
    return pd.DataFrame([_row(table, runs, rate) for _, runs in groups])


def _row(table: pd.DataFrame, runs: pd.DataFrame, rate: float) -> dict[str, Any]:
    first, seconds = runs.iloc[0], runs["seconds"]
    workload, contender = str(first["workload"]), str(first["contender"])
    each = _per_step(runs).median()
    compared = workload not in (PRODUCT, *GROWTH, *COSTS)
    ratio = ratios(table, workload, contender) if compared else pd.Series(dtype=float)
    return {
        **{name: first[name] for name in (*_KEY, "steps")},
        "repetitions": int(seconds.count()),
        "median_s": seconds.median(),
        "min_s": seconds.min(),
        "max_s": seconds.max(),
        "us_per_member_step": 1e6 * each,
        "ratio_to_ours": ratio.median(),
        "ratio_min": ratio.min(),
        "ratio_max": ratio.max(),
        "floor_share": first["gflop"] / rate / each,
        "mebibytes": runs["mebibytes"].median(),
        "note": first["note"],
    }


def _samples(table: pd.DataFrame, target: Target) -> list[float]:
    """Return a target's quantity in each repetition; nothing when it was not run."""
    of = table[table["workload"] == target.workload]
    if target.against == MEMORY:
        by_name = of.set_index("contender")["mebibytes"]
        return [] if len(by_name) < 2 else [by_name[OURS] / by_name[MEMORY]]
    if target.against == FLOOR:
        ours = of[of["contender"] == OURS]
        share = ours["gflop"].to_numpy() / best_rate(table) / _per_step(ours)
        return list(100 * share.dropna())
    if target.against == SINGLE_FLAG:
        found = [ratios(table, target.workload, name) for name in FLAGS]
        return list(min((r for r in found if len(r)), key=lambda r: r.median(), default=[]))
    if target.against == BEST:
        others = [n for n in of["contender"].unique() if n != OURS and not n.startswith("floor")]
        found = [ratios(table, target.workload, name) for name in others]
        return list(min((r for r in found if len(r)), key=lambda r: r.median(), default=[]))
    return list(ratios(table, target.workload, target.against))


def judged(table: pd.DataFrame) -> Iterator[tuple[Target, dict[str, Any]]]:
    """Yield every target with its value, extremes, number of repetitions, and whether it was met.

    ``value`` is the median, ``low`` and ``high`` are the extremes over repetitions, ``n`` is their
    number, and ``verdict`` is ``met``, ``missed`` or ``not run``.
    """
    measured = set(table["workload"])
    asked = TARGETS if any(each.workload in measured for each in TARGETS) else ()
    for target in (*asked, *(each for each in DEEP_TARGETS if each.workload in measured)):
        samples = pd.Series(_samples(table, target), dtype=float)
        if samples.empty:
            yield target, {"value": None, "low": None, "high": None, "n": 0, "verdict": "not run"}
            continue
        value = float(samples.median())
        met = value >= target.bound if target.direction == "above" else value <= target.bound
        yield (
            target,
            {
                "value": value,
                "low": float(samples.min()),
                "high": float(samples.max()),
                "n": len(samples),
                "verdict": "met" if met else "missed",
            },
        )


def targets(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Describe every target and what came out, for a JSON file."""
    return [{**target.__dict__, **found} for target, found in judged(table)]


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the prose needs: the targets', the floor's, and each contender's.

    A contender's are its ratio to ours, ``workload_contender``, with the extremes over repetitions
    as its ends; ``..._members``; ``..._floor``, the
    share of the floor's rate, and ``..._over_floor``, the time over the floor's. Of a matrix
    product, ``product_60_x_784_x_1600_floor``, it is the share of the best rate; of what is kept or
    held in memory ``..._mib``.
    """
    found = {
        "best_rate": fact([best_rate(table)], 0, " Gflop/s"),
        "repetitions": fact([float(table["repetition"].max() + 1)], 0),
    }
    for row in rows(table).to_dict("records"):
        if row["workload"] == PRODUCT:
            name = f"product_{slug(row['contender'])}"
            found[f"{name}_floor"] = fact([100 * row["floor_share"]], 0, " %")
        elif row["workload"] not in (*GROWTH, *COSTS) and not row["note"]:
            found |= _contender_facts({str(name): value for name, value in row.items()})
    for target, outcome in judged(table):
        ends = {name: outcome[name] for name in ("value", "low", "high")}
        found[target.name] = {**ends, "digits": target.digits, "unit": target.unit}
    outcomes = [outcome["verdict"] for _, outcome in judged(table)]
    found |= {f"targets_{v.replace(' ', '_')}": fact([outcomes.count(v)], 0) for v in
              ("met", "missed", "not run")}  # fmt: skip
    return found


def _contender_facts(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    workload = slug(row["workload"])
    name = f"{workload}_{slug(row['contender'])}"
    if not math.isnan(row["mebibytes"]):
        return {f"{name}_mib": fact([row["mebibytes"]], 0, " MiB")}
    found = {f"{name}_members": fact([row["members"]], 0)}
    share = row["floor_share"]
    if not math.isnan(share):
        found[f"{name}_floor"] = fact([100 * share], 0, " %")
        found[f"{name}_over_floor"] = fact([1 / share], 1, "×")
    if row["contender"] != OURS:
        ends = {"low": row["ratio_min"], "high": row["ratio_max"]}
        found[name] = {"value": row["ratio_to_ours"], **ends, "digits": 2, "unit": "×"}
    return found


def slug(name: str) -> str:
    """Turn a name into part of a fact's: ``loop, channels last`` becomes ``channels_last``."""
    words = name.lower().replace("jax.vmap", "jax").removeprefix("loop, ")
    return "_".join("".join(c if c.isalnum() else " " for c in words).split())


def bound_text(target: Mapping[str, Any]) -> str:
    """Write a target's bound, such as ``at least 3.0×``."""
    words = "at least" if target["direction"] == "above" else "at most"
    return f"{words} {format_value(target, target['bound'])}"
