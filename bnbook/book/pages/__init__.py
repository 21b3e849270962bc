"""The Sphinx side of the book: results in prose, executed notebooks, offline assets.

Load it as the Sphinx extension ``bnbook.book.pages``. Pages read the ledger files under
``results/claims`` and the executed notebooks under ``_build/executed``; building them needs neither
torch nor the experiments.

================================================  =================================================
In a page                                         What is printed
================================================  =================================================
``{claim}`ioffe.fig1a.speed```                    value and 95 % interval, linked to the ledger
``{claim}`ioffe.fig1a.speed verdict @quick```     one field, of one profile's record
``{fact}`ioffe_fig1.with_accuracy```              a number that is no claim
``{fact}`ioffe_fig1.with_accuracy interval```     its 95 % interval
``{provenance}`ioffe_fig1```                      where, when and how it was recorded
``{took}`ioffe_fig1 ioffe_settings```             how long their records took to compute
``{claims} ioffe_fig1``                           table of an experiment's claims
``{provenance} ioffe_fig1``                       the same, as a paragraph
``{paper} ioffe_fig1``                            numbers read off the paper's figure, beside ours
``{settings} ioffe_fig1``                         table of networks and training, beside the paper's
``{ledger}``                                      every claim at every recorded profile
``{coverage} ioffe``                              everything that a paper says, and its verdicts
``{targets} bench``                               table of the benchmark's targets, met or missed
``{timings} bench mnist``                         table of a workload's contenders
``{costs} bench_deep``                            time and memory of deep networks
``{explorable} rates``                            a piece to play with, from records
================================================  =================================================
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

import bnbook
from bnbook.book.pages import (
    accessible,
    assets,
    coverage,
    download,
    explorables,
    figures,
    launch,
    ledger,
    numbers,
    outputs,
    overlay,
    roles,
    search,
    settings,
    speed,
    tables,
)
from bnbook.evidence import sources

PARTS = (
    overlay, accessible, outputs, figures, numbers, roles, tables, ledger, coverage, settings,
    speed, explorables, assets, launch, search, download,
)  # fmt: skip


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_config_value("bnbook_results", "results", "env", str)
    app.add_config_value("bnbook_executed", "_build/executed", "env", str)
    app.add_config_value("bnbook_ledger_page", "book/ledger", "env", str)
    for part in PARTS:
        part.setup(app)
    # Pages that other code has read are read again.
    version = int(sources.source_digest(__name__)[:12], 16)
    return {"version": bnbook.__version__, "parallel_read_safe": False, "env_version": version}
