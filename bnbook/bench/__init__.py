"""How fast the package trains, against what a reader would use instead, measured in one run."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd


def run(
    quick: bool, device: str = "auto", only: Collection[str] = (), all_deep: bool = False
) -> pd.DataFrame:
    """Measure; see `bnbook.bench.measure.run`, which is imported only now: it needs torch."""
    from bnbook.bench import measure

    return measure.run(quick, device, only, all_deep)
