"""The checks; the docstring of each says which bug it is there to catch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnbook import formulas
from bnbook.conformance.cases import (
    FEATURES,
    Array,
    Case,
    Make,
    accepted,
    cases,
    first_line,
    numpy,
    rows,
)

TRAP = "input gradient through a sum"
"""The check that proves next to nothing; it is here to be seen passing what is wrong."""


@dataclass(frozen=True)
class Check:
    """A named check.

    Attributes
    ----------
    name, holds : str
        Its name and what it holds a layer against, for a table.
    test : callable, (make, seed, sizes) -> None or str
        None when the layer passes, else what was expected and what was found. Raises whatever the
        layer raises. Seed and sizes are those of `cases`, and may be left out.
    """

    name: str
    holds: str
    test: Callable[..., str | None]


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes
    ----------
    name, holds : str
        Those of the check.
    found : str or None
        None when the layer passed.
    """

    name: str
    holds: str
    found: str | None

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return self.found is None


CHECKS: list[Check] = []
"""All checks, in the order of the table."""


def run(make: Make, seed: int = 0) -> list[Result]:
    """Hold a layer against every check.

    Parameters
    ----------
    make : callable
        num_features -> layer, such as a class.
    seed : int
        For other inputs, parameters and cotangents of the same shapes.

    Returns
    -------
    list of Result
        One for each of `CHECKS`; a layer that raises fails the check with the error's first line.
    """
    sizes: list[tuple[int, ...]] = []
    with contextlib.suppress(Exception):  # each check then finds out for itself, and says so
        sizes = accepted(make)
    return [Result(check.name, check.holds, _found(check, make, seed, sizes)) for check in CHECKS]


def _found(check: Check, *arguments: Any) -> str | None:
    try:
        return check.test(*arguments)
    except Exception as error:
        return f"raised {first_line(error)}"


def _check(name: str, holds: str) -> Callable[[Callable[[Case], str | None]], Check]:
    """Register what is looked at in one case as a check on every input that a layer takes."""

    def register(look: Callable[[Case], str | None]) -> Check:
        def test(make: Make, seed: int = 0, sizes: Sequence[tuple[int, ...]] = ()) -> str | None:
            return next(filter(None, map(look, cases(make, seed, sizes))), None)

        test.__doc__ = look.__doc__
        CHECKS.append(Check(name, holds, test))
        return CHECKS[-1]

    return register


@_check("initial state", "weight 1, bias 0, running mean 0, running variance 1, no batches seen")
def initial_state(case: Case) -> str | None:
    """Another start: running averages forget it slowly, evaluation sees it for long."""
    layer: Any = case.make(FEATURES)
    start = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, value in start.items():
        found = numpy(getattr(layer, name))
        if found.shape != (FEATURES,) or (found != value).any():
            return f"expected {name} = {value:g}, {FEATURES} times, found {found.tolist()}"
    seen = int(layer.num_batches_tracked)
    return f"expected num_batches_tracked = 0, found {seen}" if seen else None


@_check("training output", "mean and biased variance of the minibatch, each feature alone")
def training_output(case: Case) -> str | None:
    """Statistics over the wrong axes; the unbiased variance; the affine map misplaced."""
    return case.differ(case(), case.trained(case.x)[0])


@_check("features apart", "a feature does not change when another does")
def features_apart(case: Case) -> str | None:
    """Statistics pooled over features."""
    other = case.x.clone()
    other[:, 0] = other[:, 0] * 3 + 1
    return case.differ(case(other)[:, 1:], rows(case()[:, 1:]), 1e-9)


@_check("eps inside the root", "features whose variance is about eps")
def eps_inside_the_root(case: Case) -> str | None:
    """sqrt(var) + eps, invisible while the variance is about 1."""
    small = case.x * case.affine[2] ** 0.5 / 2
    return case.differ(case(small), case.trained(small)[0])


@_check("large mean in float32", "a mean of 10,000, deviations of 1 to 4; to 2 in 100")
def large_mean(case: Case) -> str | None:
    """The variance as E[x^2] - E[x]^2: in float32 no digit of it is left."""
    x = (case.x + 1e4).float()
    expected, _ = case.trained(x)
    return case.differ(case.layer.float()(x), expected, 0.02)


@_check("precision", "float64 stays float64, to 10 digits; float32 stays float32")
def precision(case: Case) -> str | None:
    """Float32 inside, which finite differences of the network then see as noise."""
    y, single = case(), case.make(FEATURES).train()(case.x.float())
    for given, found in ((torch.float64, y.dtype), (torch.float32, single.dtype)):
        if given != found:
            return f"expected {given}, found {found}"
    return case.differ(y, case.trained(case.x)[0], 1e-10)


@_check("input gradient", "all of dx, with a random cotangent")
def input_gradient(case: Case) -> str | None:
    """Statistics outside the gradient, whole or in part; any wrong backward pass."""
    _, cache = case.trained(case.x)
    dx, _, _ = formulas.batch_norm_backward(rows(case.dy), cache)
    return case.differ(case.gradients(case.dy)[0], dx)


@_check(TRAP, "dx of y.sum(), which is zero: passes nearly any dx")
def input_gradient_through_a_sum(case: Case) -> str | None:
    """Next to nothing: the true gradient is zero, and so are most wrong ones.

    Written as it is usually met, on a new layer. It sees a gradient that lacks the mean, and
    neither one that lacks the variance nor one that is any multiple of the true one.
    """
    new = Case(case.make, case.make(FEATURES).double().train(), case.x, case.dy)
    dx, _, _ = formulas.batch_norm_backward(rows(torch.ones_like(case.x)), new.trained(new.x)[1])
    return new.differ(new.gradients(torch.ones_like(case.x))[0], dx)


@_check("weight gradient", "the sum of dy xhat over the values of a feature")
def weight_gradient(case: Case) -> str | None:
    """The gradient of gamma with x for xhat, or over the wrong axes."""
    dgamma = formulas.gradient_gamma(rows(case.dy), case.trained(case.x)[1].xhat)
    return case.differ(case.gradients(case.dy)[1], dgamma)


@_check("bias gradient", "the sum of dy over the values of a feature")
def bias_gradient(case: Case) -> str | None:
    """The gradient of beta over the wrong axes."""
    return case.differ(case.gradients(case.dy)[2], formulas.gradient_beta(rows(case.dy)))


def _after_batches(case: Case) -> tuple[list[Tensor], list[Array]]:
    """Running mean and variance after ten batches, the layer's and the formulas'."""
    mean, var = np.zeros(FEATURES), np.ones(FEATURES)
    for step in range(1, 11):
        x = case.x * step / 3 - step
        case(x)
        mean, var = formulas.running_statistics(rows(x)[None], case.weigh(step), mean, var)
    return [case.layer.running_mean, case.layer.running_var], [mean, var]


@_check("running mean", "momentum weighs the new batch; after ten batches")
def running_mean(case: Case) -> str | None:
    """Momentum the other way round; statistics of the wrong axes."""
    (found, _), (expected, _) = _after_batches(case)
    return case.differ(found, expected)


@_check("running variance", "unbiased, m/(m-1), of every batch; after ten batches")
def running_variance(case: Case) -> str | None:
    """The biased variance kept for evaluation."""
    (_, found), (_, expected) = _after_batches(case)
    return case.differ(found, expected)


@_check("batches counted", "num_batches_tracked after three batches")
def batches_counted(case: Case) -> str | None:
    """A counter that stands still, wrong once momentum is None."""
    for _ in range(3):
        case()
    seen = int(case.layer.num_batches_tracked)
    return None if seen == 3 else f"expected num_batches_tracked = 3, found {seen}"


@_check("evaluation output", "the running statistics, whatever the batch; without gradients")
def evaluation_output(case: Case) -> str | None:
    """Batch statistics at test time."""
    case.set_statistics()
    with torch.no_grad():
        return case.differ(case(), case.evaluated())


@_check("batch mates", "in evaluation an example alone gives what it gives among others")
def batch_mates(case: Case) -> str | None:
    """Any dependence on the batch at test time."""
    case.set_statistics()
    with torch.no_grad():
        return case.differ(case(case.x[:1]), rows(case()[:1]), 1e-9)


@_check("evaluation gradient", "dx in evaluation: the slope of a fixed affine map")
def evaluation_gradient(case: Case) -> str | None:
    """Running statistics treated in the backward pass as those of the batch."""
    case.set_statistics()
    gamma, beta, eps = case.affine
    statistics = numpy(case.layer.running_mean), numpy(case.layer.running_var)
    slope, _ = formulas.inference_affine(gamma, beta, *statistics, eps)
    return case.differ(case.gradients(case.dy)[0], slope * rows(case.dy))


@_check("evaluation leaves the state", "no buffer or parameter moves in evaluation")
def evaluation_leaves_the_state(case: Case) -> str | None:
    """Running statistics moved by a forward pass in eval(), as measurements make."""
    case.set_statistics()
    before = {name: tensor.clone() for name, tensor in case.layer.state_dict().items()}
    case()
    with torch.no_grad():
        case()
    now = case.layer.state_dict()
    moved = [name for name, old in before.items() if not torch.equal(now[name], old)]
    return f"expected nothing to move, found {', '.join(moved)} moved" if moved else None


@_check("train() and eval() decide", "training without gradients, evaluation with them")
def train_and_eval_decide(case: Case) -> str | None:
    """The mode taken from the state of autograd."""
    with torch.no_grad():
        y = case()
    trained = case.differ(y, case.trained(case.x)[0])
    if trained:
        return f"train() under no_grad(): {trained}"
    case.set_statistics()
    evaluated = case.differ(case(), case.evaluated())
    return evaluated and f"eval() with gradients: {evaluated}"


@_check("one value of a feature", "refused in training, or everything stays finite")
def one_value(case: Case) -> str | None:
    """m/(m-1) with m = 1: a running variance that is not a number, for ever."""
    try:
        case.layer(case.x[(slice(1), slice(None), *(slice(1),) * (case.x.dim() - 2))])
    except Exception:
        return None
    names = ("running_mean", "running_var")
    bad = [name for name in names if not getattr(case.layer, name).isfinite().all()]
    return (
        f"expected an error or finite buffers, found {' and '.join(bad)} not finite"
        if bad
        else None
    )


@_check("input untouched", "the input is as it was after a forward pass")
def input_untouched(case: Case) -> str | None:
    """Work in place on the caller's tensor."""
    given = case.x.clone()
    with torch.no_grad():
        case.layer(given)
    return case.differ(given, rows(case.x), 0)
