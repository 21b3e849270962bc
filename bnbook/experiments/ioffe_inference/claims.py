"""What the statistics for inference cost: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Premise, control
from bnbook.tables import tuning
from bnbook.tables.arms import (
    ADAPTED,
    ALGORITHM_2,
    MIXED,
    NO_FACTOR,
    NO_SHIFT,
    POOLED,
    RUNNING,
    SHIFTS,
    SORTED,
)

MOMENTUM = 0.1
"""Weight of the new batch in torch's running statistics unless it is told otherwise."""
SMALLEST = 2
"""The batch size of `ioffe.sec3_1.inference_gap`, the smallest that has a variance."""


def tuned_rates(table: pd.DataFrame) -> dict[int, float]:
    """Each batch size's learning rate: best validation accuracy, averaged over seeds.

    Accuracy is that with the running average at torch's default momentum: what who trains sees.
    """
    rows = _under(table, RUNNING, MOMENTUM)
    mean = rows.pivot_table(
        index="learning_rate", columns="batch_size", values="validation_accuracy"
    )
    return {int(str(m)): float(mean.index[int(mean[m].argmax())]) for m in mean}


def at_tuned(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of each batch size at its tuned rate."""
    return table[table["learning_rate"] == table["batch_size"].map(tuned_rates(table))]


def per_seed(
    table: pd.DataFrame,
    column: str,
    statistics: str,
    batch_size: int,
    momentum: float | None = None,
    shift: str = NO_SHIFT,
) -> pd.Series:
    """Return a measurement at the tuned rate, one number per seed."""
    rows = _under(at_tuned(table), statistics, momentum)
    rows = rows[(rows["batch_size"] == batch_size) & (rows["shift"] == shift)]
    return rows.set_index("seed")[column]


def inference_gap(table: pd.DataFrame) -> pd.Series:
    """Test accuracy under Algorithm 2 minus under the running average, points, at `SMALLEST`."""
    return _gap(table, SMALLEST, MOMENTUM)


def _gap(table: pd.DataFrame, batch_size: int, momentum: float) -> pd.Series:
    population = per_seed(table, "test_accuracy", ALGORITHM_2, batch_size)
    running = per_seed(table, "test_accuracy", RUNNING, batch_size, momentum)
    return pd.Series(100 * (population - running))


def _under(table: pd.DataFrame, statistics: str, momentum: float | None) -> pd.DataFrame:
    rows = table["statistics"] == statistics
    if momentum is not None:
        rows &= table["momentum"] == momentum
    return table[rows]


def _inside(table: pd.DataFrame) -> claims.Finding:
    return tuning.inside(table, {f"m = {SMALLEST}": tuned_rates(table)[SMALLEST]})


def _trained(table: pd.DataFrame) -> claims.Finding:
    accuracy = per_seed(table, "test_accuracy", ALGORITHM_2, SMALLEST)
    return claims.at_least(100 * float(accuracy.mean()), 90.0, " %")


CLAIMS = (
    control(
        id="ioffe.sec3_1.inference_gap",
        section="a question that Ioffe & Szegedy's section 3.1 leaves open",
        statement="At small batches the running average is no full substitute for averages over"
        " minibatches of the frozen network.",
        quantity="test accuracy of the frozen network with Algorithm 2's statistics minus with the"
        f" running average at momentum {MOMENTUM}, torch's default, at the smallest batch, m ="
        f" {SMALLEST}",
        measure=inference_gap,
        bound=0.0,
        unit=" points",
        premises=(
            Premise("the tuned rate is no end of the grid", _inside),
            Premise("the frozen network's test accuracy is 90 % or more", _trained),
        ),
        revised=claims.LATER
        + " It was put down as the paper's at first; the paper compares neither.",
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    sizes = sorted(int(m) for m in table["batch_size"].unique())
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "rates": claims.count(table["learning_rate"].nunique()),
        "population": claims.count(table["population"].max()),
        "examples": claims.count(table["examples"].max()),
        "smallest_batch": claims.count(sizes[0]),
        "largest_batch": claims.count(sizes[-1]),
    }
    for name, m in (("small", sizes[0]), ("large", sizes[-1])):
        found |= _accuracies(table, name, m)
    return found | _errors(table, sizes[0]) | _shifted(table, sizes[-1])


def _accuracies(table: pd.DataFrame, name: str, m: int) -> claims.Facts:
    rhos = sorted(table["momentum"].dropna().unique())
    kinds: dict[str, tuple[str, float | None]] = {
        "running": (RUNNING, MOMENTUM),
        "slowest": (RUNNING, rhos[0]),
        "last_batch": (RUNNING, rhos[-1]),
        "algorithm_2": (ALGORITHM_2, None),
        "mixed": (MIXED, None),
        "sorted": (SORTED, None),
    }
    return {
        f"{name}_{key}": claims.fact(100 * per_seed(table, "test_accuracy", of, m, rho), 2, " %")
        for key, (of, rho) in kinds.items()
    }


def _errors(table: pd.DataFrame, m: int) -> claims.Facts:
    """Errors of the first layer's statistics at the smallest batch, in per cent."""
    kinds: tuple[tuple[str, str, str, float | None], ...] = (
        ("running_mean", "mean_error", RUNNING, MOMENTUM),
        ("running_variance", "variance_error", RUNNING, MOMENTUM),
        ("algorithm_2_variance", "variance_error", ALGORITHM_2, None),
        ("no_factor_variance", "variance_error", NO_FACTOR, None),
        ("pooled_variance", "variance_error", POOLED, None),
    )
    return {
        f"small_{key}": claims.fact(100 * per_seed(table, column, of, m, rho), 1, " %")
        for key, column, of, rho in kinds
    }


def _shifted(table: pd.DataFrame, m: int) -> claims.Facts:
    found = {
        "unshifted": claims.fact(100 * per_seed(table, "test_accuracy", ALGORITHM_2, m), 2, " %")
    }
    for shift in SHIFTS:
        before, adapted = (
            100 * per_seed(table, "test_accuracy", of, m, shift=shift)
            for of in (ALGORITHM_2, ADAPTED)
        )
        found |= {
            f"{shift}_before": claims.fact(before, 2, " %"),
            f"{shift}_adapted": claims.fact(adapted, 2, " %"),
            f"{shift}_gain": claims.fact(adapted - before, 1, " points"),
        }
    return found
