"""The loss along the negative gradient: what its table says (Bjorck et al. 2018, figure 3).

The claims, their measures and bounds were written before the recorded runs.
"""

import math

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Facts, Premise, control
from bnbook.tables import papers
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import DEEP, NAMES, PAPER, by_arm, significant


def searches(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, seed and minibatch, with two more columns.

    ``largest_length`` is the largest helpful step times the gradient's norm: how far the parameters
    may move; ``best_ratio`` is the smallest relative loss.
    """
    keys = ["arm", "seed", "minibatch"]
    columns = ["loss", "gradient_norm", "largest_step", "batch_size", "depth", "rate"]
    found = table.groupby(keys, sort=False)[columns].first()
    found["best_ratio"] = table.groupby(keys, sort=False)["loss_ratio"].min()
    found["largest_length"] = found["largest_step"] * found["gradient_norm"]
    return found.reset_index()


def step_ratio(table: pd.DataFrame, column: str = "largest_step") -> pd.Series:
    """Largest helpful step with BN divided by without, per seed: geometric mean over minibatches.

    Missing where a minibatch has no largest helpful step.
    """
    largest = by_arm(searches(table), column)
    return pd.Series(largest[WITH] / largest[WITHOUT])


def recrossings(table: pd.DataFrame) -> int:
    """Count the curves that come back below the old loss after they have left it."""
    count = 0
    for _, run in table.sort_values("step_size").groupby(["arm", "seed", "minibatch"]):
        helps = (run["loss_ratio"] < 1).to_numpy()
        count += bool((helps[1:] & ~helps[:-1]).any())
    return count


def beyond(table: pd.DataFrame, factor: float = 10.0) -> pd.DataFrame:
    """Relative loss at the first step that is so many times the largest helpful one, by arm.

    Infinite where the loss is no number, missing where the grid ends before.
    """
    far = table[table["step_size"] >= 0.999 * factor * table["largest_step"]]
    far = far.assign(loss_ratio=far["loss_ratio"].fillna(math.inf)).sort_values("step_size")
    first = far.groupby(["arm", "seed", "minibatch"])["loss_ratio"].agg(lambda x: x.iloc[0])
    return pd.DataFrame(first.unstack("arm")).reindex(columns=list(NAMES))


def length_ratio(table: pd.DataFrame) -> pd.Series:
    """`step_ratio` with each step measured as the distance that the parameters move."""
    return step_ratio(table, "largest_length")


def _bracketed(table: pd.DataFrame) -> claims.Finding:
    steps, grid = searches(table)["largest_step"], table["step_size"]
    inside = int(((steps > grid.min()) & (steps < grid.max())).sum())
    return inside == len(steps), f"{inside} of {len(steps)}", "all"


PREMISES = (DEEP, Premise("every largest helpful step lies inside the grid", _bracketed))


CLAIMS = (
    Claim(
        id="bjorck.fig3.step_size",
        paper=PAPER,
        section="3, figure 3",
        statement="In the first minibatches, a BN network's loss falls along the negative gradient"
        " up to larger step sizes; without BN only small steps reduce it.",
        quantity="largest step size along the negative gradient that still reduces the loss on the"
        " same minibatch: with BN divided by without, geometric mean over the first minibatches",
        measure=step_ratio,
        bound=1.0,
        digits=0,
        premises=PREMISES,
        revised=claims.LATER,
        **TIMES,
    ),
    control(
        id="bjorck.fig3.step_length",
        section="a control for figure 3",
        statement="The difference is more than the gradient's size: measured as the distance that"
        " the parameters move, the largest helpful step is longer with BN too.",
        quantity="largest helpful step size times the gradient's norm: with BN divided by without,"
        " geometric mean over the first minibatches",
        measure=length_ratio,
        bound=1.0,
        digits=1,
        premises=PREMISES,
        revised=claims.LATER,
        **TIMES,
    ),
)


def _reached(steps: pd.Series, ratio: pd.Series, level: float) -> float:
    """First step size beyond the best one at which the relative loss is at a level; log scale."""
    x, y = np.log(steps.to_numpy(float)), np.log(ratio.to_numpy(float))
    best = int(np.nanargmin(y))
    x, y = x[best:], np.where(np.isfinite(y[best:]), y[best:], np.inf)
    above = y >= np.log(level)
    if not above.any() or above[0]:
        return float("nan")
    at = int(above.argmax())
    if not np.isfinite(y[at]):
        return float(np.exp(x[at]))
    share = (np.log(level) - y[at - 1]) / (y[at] - y[at - 1])
    return float(np.exp(x[at - 1] + share * (x[at] - x[at - 1])))


def landmarks(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the step sizes where curves have their best step, are back at 1, and pass 1000.

    Index ``run``, columns ``best``, ``back`` and ``burst``; missing beyond the curve's ends.
    """
    found = {}
    for run, curve in curves.sort_values("step_size").groupby("run"):
        steps, ratio = curve["step_size"], curve["loss_ratio"]
        lowest = int(np.nanargmin(ratio.to_numpy(float)))
        best = float(steps.iloc[lowest]) if 0 < lowest < len(steps) - 1 else float("nan")
        back, burst = _reached(steps, ratio, 1.0), _reached(steps, ratio, 1000.0)
        found[run] = {"best": best, "back": back, "burst": burst}
    return pd.DataFrame(found).T


MARKS = {
    "best": "best step size", "back": "where the loss is back at its old value",
    "burst": "where the loss has grown a thousandfold",
}  # fmt: skip


LOSS_READ = {WITHOUT: 0.1, WITH: 0.02}
"""Reading error of the paper's curves in powers of ten of the relative loss, by arm."""
STEP_READ = 0.02
"""The same of the step size: 5 %."""


def reading_errors(curve: pd.DataFrame, loss_error: float) -> dict[str, float]:
    """Tell how far off the landmarks of one curve may be, in powers of ten of the step size.

    The best step may be any whose loss is within the reading error of the lowest; the others are
    read again with the whole curve moved up and down by it. A flat curve tells little.
    """
    steps, ratio = curve["step_size"], curve["loss_ratio"]
    near = np.log10(steps[ratio <= ratio.min() * 10**loss_error].to_numpy(float))
    best = np.log10(steps.iloc[int(ratio.to_numpy(float).argmin())])
    found = {"best": float(np.abs(near - best).max())}
    for mark, level in (("back", 1.0), ("burst", 1000.0)):
        read = [_reached(steps, ratio, level * 10**moved) for moved in (-loss_error, 0, loss_error)]
        found[mark] = float(np.nanmax(np.abs(np.diff(np.log10(read))), initial=0.0))
    return {mark: max(error, STEP_READ) for mark, error in found.items()}


def _beside_paper(table: pd.DataFrame) -> Facts:
    """Describe the landmarks of both figures before any update, in powers of ten."""
    paper = papers.read("bjorck_fig3")
    paper = paper[paper["minibatch"] == paper["minibatch"].min()]
    paper = paper.assign(loss_ratio=10 ** paper["log10_relative_loss"], run=0)
    start, found = table[table["minibatch"] == table["minibatch"].min()], []
    for arm in NAMES:
        ours = landmarks(start[start["arm"] == arm].assign(run=start["seed"])).map(np.log10)
        curve = paper[paper["network"] == papers.ARMS[arm]].sort_values("step_size")
        theirs = landmarks(curve).map(np.log10)
        errors = reading_errors(curve, LOSS_READ[arm])
        for mark, what in MARKS.items():
            paper_mark = float(theirs[mark].mean())  # of one curve, or NaN
            if np.isfinite(paper_mark):
                said = f"{arm}: {what}, power of ten"
                own = ours[mark].dropna()
                found.append(papers.beside(said, paper_mark, errors[mark], own, 2))
    return papers.rows(found)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    rows = searches(table)
    first = rows[rows["minibatch"] == 0]
    last = rows[rows["minibatch"] == rows["minibatch"].max()]
    norms = by_arm(rows, "gradient_norm")
    at_start, at_last = by_arm(first, "largest_step"), by_arm(last, "largest_step")
    far = beyond(table)
    least = far[WITHOUT].min()
    changes = table[table["step_size"] == table["step_size"].min()]["loss_ratio"].sub(1).abs()
    found = {
        "seeds": claims.count(rows["seed"].nunique()),
        "minibatches": claims.count(rows["minibatch"].nunique()),
        "batch_size": claims.count(rows["batch_size"].iloc[0]),
        "depth": claims.count(rows["depth"].iloc[0]),
        "curves": claims.count(len(rows)),
        "recrossings": claims.count(recrossings(table)),
        "norm_ratio": significant(norms[WITHOUT] / norms[WITH]),
        "start_ratio": significant(at_start[WITH] / at_start[WITHOUT]),
        "last_ratio": significant(at_last[WITH] / at_last[WITHOUT]),
        "least_change": claims.fact([changes.min()], None),
        "with_beyond_most": claims.fact([far[WITH].max()], 0),
        "without_beyond_least": claims.fact([least] if math.isfinite(least) else [], None),
    }
    found |= _beside_paper(table)
    for arm, name in NAMES.items():
        found |= {
            f"{name}_largest": significant(by_arm(rows, "largest_step")[arm]),
            f"{name}_length": significant(by_arm(rows, "largest_length")[arm]),
            f"{name}_norm": significant(norms[arm]),
            f"{name}_best": significant(by_arm(rows, "best_ratio")[arm]),
            f"{name}_loss": significant(by_arm(first, "loss")[arm]),
            f"{name}_last_loss": significant(by_arm(last, "loss")[arm]),
        }
    return found
