"""The way of a number from a run to a page, as one picture: a step in each box, with its file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from bnbook import files

PICTURE = Path("book/_static/way-of-a-number.svg")
_WIDTH, _ROW, _LEFT, _BOX = 760, 58, 20, 720


class Step(NamedTuple):
    """What happens to the number, the file in which it does, and what that leaves."""

    does: str
    file: str
    leaves: str


STEPS = (
    Step("bnbook run X --profile P --record", "bnbook/cli/main.py", "an experiment, a value"),
    Step("configure, split into single runs", "bnbook/experiments/experiment.py", "configs"),
    Step("leave out what is finished", "bnbook/sweeps/sweep.py", "batches to train"),
    Step("train or measure one batch", "bnbook/sweeps/worker.py", "a table for each run"),
    Step("keep it under its key", "bnbook/sweeps/store.py", "_build/sweeps/X/KEY.parquet"),
    Step("record, with its provenance", "bnbook/evidence/records.py", "results/X/P.parquet"),
    Step("judge what was claimed before", "bnbook/evidence/claims.py", "value, interval, verdict"),
    Step("write the ledger", "bnbook/evidence/ledger.py", "results/claims/X.json"),
    Step("draw figures from the record", "bnbook/book/build.py", "_build/figures/X-*.svg"),
    Step("put numbers into sentences", "bnbook/book/pages/roles.py", "a page"),
)


def picture(steps: tuple[Step, ...] = STEPS) -> str:
    """Draw the steps from top to bottom: what happens, where, and what comes out, as SVG text."""
    rows = [_row(at, step) for at, step in enumerate(steps)]
    height = _ROW * len(steps) + 14
    title = "The way of a number: " + "; ".join(f"{s.does} ({s.file})" for s in steps)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
            ' font-family="sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            *rows,
            "</svg>\n",
        ]
    )


def _row(at: int, step: Step) -> str:
    top = 12 + _ROW * at
    arrow = f'<path d="M{_WIDTH // 2} {top - 14}v10m-4 -5l4 5l4 -5" fill="none" stroke="#555"/>'
    return "\n".join(
        [
            *([arrow] if at else []),
            f'<rect x="{_LEFT}" y="{top}" width="{_BOX}" height="40" rx="5" fill="#eef4fa"'
            ' stroke="#0072b2"/>',
            f'<text x="{_LEFT + 12}" y="{top + 25}" fill="#111">{escape(step.does)}</text>',
            f'<text x="{_LEFT + 268}" y="{top + 25}" fill="#333" font-family="monospace"'
            f' font-size="12">{escape(step.file)}</text>',
            f'<text x="{_LEFT + _BOX - 12}" y="{top + 25}" fill="#333" text-anchor="end"'
            f' font-size="13">{escape(step.leaves)}</text>',
        ]
    )


def write(root: Path) -> Path:
    """Write the picture under the project's folder and return its path."""
    path = root / PICTURE
    files.write_changed(path, picture().encode())
    return path
