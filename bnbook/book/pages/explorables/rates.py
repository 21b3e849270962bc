"""The map of learning rates: accuracy of both arms over rates, by growth at the start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnbook.evidence.records import Record
from bnbook.experiments.bjorck_dose import cells
from bnbook.experiments.bjorck_dose.claims import doses
from bnbook.plots.style import mean_band
from bnbook.tables import papers, tuning
from bnbook.tables.arms import WITH, WITHOUT

RECORDS = ("bjorck_dose", "bjorck_fig1", "bjorck_map")
TITLE = "Explore: both networks over learning rates"
COLUMNS = (
    "Networks", "without BN: rate", "test accuracy (%)", "with BN: rate", "test accuracy (%)",
)  # fmt: skip
CAPTION = "Rates chosen on validation images, and the mean test accuracy there."
FAMILIES = {
    "bjorck_dose": "by growth at the start",
    "bjorck_fig1": "one network, a short training",
    "bjorck_map": "the same, shorter still",
}
"""Record -> what its networks are, in the order of the choice."""
DASH = "\N{EN DASH}"


def data(found: Mapping[str, Record]) -> dict[str, Any]:
    """Return every family's networks with the curves of both arms, and the paper's points."""
    groups = {
        "bjorck_dose": _by_growth(found["bjorck_dose"].table),
        **{
            name: [_network(found[name].table, found[name].provenance["config"]["n"])]
            for name in ("bjorck_fig1", "bjorck_map")
        },
    }
    families = [
        {"record": name, "name": FAMILIES[name], "networks": groups[name]} for name in FAMILIES
    ]
    return {"families": families, "paper": paper_points()}


def _by_growth(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Describe the networks of the dose's record, in the order of their growth.

    Their rates are those that the seeds that choose rates have chosen.
    """
    ended, found = cells.settled(cells.ends(table)), []
    for dose in doses(table).reset_index().to_dict("records"):
        own = ended[(ended["n"] == dose["n"]) & (ended["gain"] == dose["gain"])]
        layers, growth = 6 * dose["n"] + 2, float(dose["growth"])
        about = {"name": f"{layers} layers, growth {growth:.2f} a block", "growth": growth}
        arms = _arms(own)
        for arm, rate in ((WITHOUT, dose["small"]), (WITH, dose["large"])):
            arms[arm]["tuned"] = _number(rate)
        found.append({**about, "mark": f"{growth:.2f}, {layers} layers", "arms": arms})
    return found


def _network(table: pd.DataFrame, n: int) -> dict[str, Any]:
    """Describe one network by its table: what diverged is lost."""
    last = tuning.final(table)
    name = f"{6 * n + 2} layers"
    return {"name": name, "mark": name, "arms": _arms(last.assign(dead_at=last["diverged_at"]))}


def _arms(last: pd.DataFrame) -> dict[str, Any]:
    """Return both arms' curves from the last rows of their runs."""
    return {arm: _curve(last[last["arm"] == arm]) for arm in (WITHOUT, WITH)}


def _curve(last: pd.DataFrame) -> dict[str, Any]:
    """Return an arm's points (rate, mean, low, high, runs, failed runs) in per cent, and its rate.

    The rate is the one with the best mean validation accuracy among those at which a run lives;
    None where none does.
    """
    last = last.assign(percent=100 * last["test_accuracy"], failed=last["dead_at"] >= 0)
    band, groups = mean_band(last, "learning_rate", "percent"), last.groupby("learning_rate")
    runs, dead = groups.size(), groups["failed"].sum()
    rates = [float(rate) for rate in band.index]
    intervals = band[["mean", "low", "high"]].to_numpy()
    points = [
        [rate, *(_number(value) for value in line), int(many), int(lost)]
        for rate, line, many, lost in zip(rates, intervals, runs, dead, strict=True)
    ]
    means = groups["validation_accuracy"].mean()[dead < runs]
    return {"points": points, "tuned": float(str(means.idxmax())) if len(means) else None}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def paper_points() -> list[dict[str, Any]]:
    """Return the final test accuracies of the paper's figure 1, read off its picture."""
    curves = papers.read("bjorck_fig1").query("panel == 'test'")
    found = []
    for name in curves["network"].unique():
        rate = float(name.rpartition("rate ")[2])
        arm = WITHOUT if name.startswith(papers.ARMS[WITHOUT]) else WITH
        found.append({"arm": arm, "rate": rate, "accuracy": papers.final_accuracy(name)})
    return found


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the static table: each network's arms at their chosen rates."""
    lines = []
    for family in found["families"]:
        for network in family["networks"]:
            cells_ = [f"{family['name']}: {network['name']}"]
            for arm in (WITHOUT, WITH):
                cells_ += _chosen(network["arms"][arm])
            lines.append(cells_)
    return lines


def _chosen(curve: Mapping[str, Any]) -> list[str]:
    """Write an arm's chosen rate and the accuracy there, or why there is none."""
    at = {point[0]: point[1] for point in curve["points"]}
    if curve["tuned"] is None:
        runs = sum(point[4] for point in curve["points"])
        return [f"no run learns, of {runs}" if at else "not run yet", DASH]
    return [f"{curve['tuned']:g}", f"{at[curve['tuned']]:.1f}"]
