"""Checks that any implementation of batch normalisation can be held against.

A layer conforms when it is constructed as ``CLASS(num_features)``, has ``weight``, ``bias``,
``running_mean``, ``running_var`` and ``num_batches_tracked``, and passes every check of `CHECKS`.
If it calls them otherwise, `run` takes its names; their shape is free, such as (1, C). What a check
expects comes from `bnbook.formulas`, in NumPy.

A layer's own ``eps`` and ``momentum`` count when it has such attributes, else 1e-5 and 0.1;
``momentum`` weighs the new batch, or is None for the average of all. Inputs are (N, C), (N, C, L),
(N, C, H, W) and (N, C, D, H, W), those of them that the layer takes.

`bnbook.conformance.mutants` breaks a layer on purpose, so that each check has been seen to fail.
"""

from bnbook.conformance.cases import SIZES, Make, Subject, accepted, subject
from bnbook.conformance.checks import CHECKS, TRAP, Check, Result, run
from bnbook.conformance.loading import load

__all__ = [
    "CHECKS",
    "SIZES",
    "TRAP",
    "Check",
    "Make",
    "Result",
    "Subject",
    "accepted",
    "load",
    "run",
    "subject",
]
