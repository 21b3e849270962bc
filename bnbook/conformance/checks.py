"""The checks; the docstring of each says which bug it is there to catch."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bnbook import formulas
from bnbook.conformance.cases import (
    COUNTER,
    FEATURES,
    TENSORS,
    Array,
    Case,
    Make,
    Subject,
    first_line,
    rows,
    subject,
)

TRAP = "input gradient through a sum"
"""The check that proves next to nothing; it is here to be seen passing what is wrong."""
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Check:
    """A named check.

    Attributes
    ----------
    name, holds : str
        Its name and what it holds a layer against, for a table.
    test : callable, Subject -> None or str
        None when the layer passes, else what was expected and what was found. Raises whatever the
        layer raises.
    """

    name: str
    holds: str
    test: Callable[[Subject], str | None]


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


def run(make: Make, seed: int = 0, names: Mapping[str, str] | None = None) -> list[Result]:
    """Hold a layer against every check.

    Parameters
    ----------
    make : callable
        num_features -> layer, such as a class.
    seed : int
        For other inputs, parameters and cotangents of the same shapes.
    names : mapping, optional
        A layer's own names, by torch's: ``weight``, ``bias``, ``running_mean``, ``running_var``,
        ``num_batches_tracked``, ``eps`` and ``momentum``. An empty one for a counter that the layer
        does not have; what it would hold is then not looked at.

    Returns
    -------
    list of Result
        One for each of `CHECKS`; a layer that raises fails the check with the error's first line.

    Raises
    ------
    BnbookError
        When the layer cannot be looked at, for want of a name or of an input that it takes.
    """
    layers = subject(make, names, seed)
    return [look(check, layers) for check in CHECKS]


def look(check: Check, layers: Subject) -> Result:
    """Hold layers against one check."""
    return Result(check.name, check.holds, _found(check, layers))


def _found(check: Check, layers: Subject) -> str | None:
    with _torch_as_it_was():
        try:
            return check.test(layers)
        except (Exception, SystemExit) as error:
            return f"raised {first_line(error)}"


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[list[str]]:
    """Put torch's gradients, random numbers and default type back; list what was found moved."""
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    left: list[str] = []
    with torch.enable_grad():
        yield left
        if not torch.is_grad_enabled():
            left.append("expected autograd as it was, found it switched off by a forward pass")
    if not torch.equal(state, torch.get_rng_state()):
        left.append("expected torch's random numbers untouched, found them drawn")
    torch.set_rng_state(state)
    if torch.get_default_dtype() != dtype:
        left.append(f"expected the default type {dtype}, found {torch.get_default_dtype()}")
        torch.set_default_dtype(dtype)


def _check(name: str, holds: str) -> Callable[[Callable[[Subject], str | None]], Check]:
    """Register a check."""

    def register(test: Callable[[Subject], str | None]) -> Check:
        CHECKS.append(Check(name, holds, test))
        return CHECKS[-1]

    return register


def _each(name: str, holds: str) -> Callable[[Callable[[Case], str | None]], Check]:
    """Register what is looked at in one case as a check on every input that a layer takes."""

    def register(look: Callable[[Case], str | None]) -> Check:
        def test(layers: Subject) -> str | None:
            return next(filter(None, map(look, layers.cases())), None)

        test.__doc__ = look.__doc__
        return _check(name, holds)(test)

    return register


# What a layer is made of


@_check("initial state", "weight 1, bias 0, running mean 0, running variance 1, no batches seen")
def initial_state(layers: Subject) -> str | None:
    """Another start: running averages forget it slowly, evaluation sees it for long."""
    case = layers.case().with_layer(layers.layer())
    start = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for role, value in start.items():
        found = case.vector(role)
        if found.shape != (FEATURES,) or (found != value).any():
            return f"expected {role} = {value:g}, {FEATURES} times, found {found.tolist()}"
    seen = int(case.tensor(COUNTER)) if case.counts else 0
    return f"expected {COUNTER} = 0, found {seen}" if seen else None


@_check("parameters and buffers", "what the optimiser sees, and what is saved; their types")
def parameters_and_buffers(layers: Subject) -> str | None:
    """Averages that an optimiser moves; a scale that it does not; what is lost when saved."""
    case = layers.case()
    case()
    saved = {t.data_ptr() for t in case.layer.state_dict().values()}
    parameters = {id(p) for p in case.layer.parameters()}
    for role in TENSORS if case.counts else TENSORS[:-1]:
        tensor, learned = case.tensor(role), role in ("weight", "bias")
        kind = "parameter" if learned else "buffer"
        if (id(tensor) in parameters) != learned:
            return f"expected {role} to be a {kind}, found it is not"
        if tensor.requires_grad != learned:
            return f"expected {role}.requires_grad = {learned}, found {tensor.requires_grad}"
        if tensor.data_ptr() not in saved:
            return f"expected {role} in the state dict, found it missing"
        if role != COUNTER and tensor.dtype != torch.float64:
            return f"expected {role} in float64 after double(), found {tensor.dtype}"
    if case.counts and case.tensor(COUNTER).dtype.is_floating_point:
        return f"expected a whole {COUNTER}, found {case.tensor(COUNTER).dtype}"
    return None


@_check("layers apart", "two layers, and a layer and its copy, share nothing")
def layers_apart(layers: Subject) -> str | None:
    """Tensors made once for all layers; a deepcopy that keeps the original's."""
    case, layer = layers.case(), layers.layer()
    made = {"another layer": (layer, layers.layer()), "a deepcopy": (layer, copy.deepcopy(layer))}
    for what, pair in made.items():
        mine, theirs = (one.state_dict() for one in pair)
        shared = [n for n, t in theirs.items() if n in mine and t.data_ptr() == mine[n].data_ptr()]
        if shared:
            return f"expected {what} with tensors of its own, found {', '.join(shared)} shared"
    kept = [case.vector(role) for role in STATISTICS]
    case.with_layer(copy.deepcopy(case.layer))()
    moved = _moved(case, kept)
    return f"expected {moved} to stay while a copy is trained, found it moved" if moved else None


@_check("saved and loaded", "the state dict and a pickle give the layer back")
def saved_and_loaded(layers: Subject) -> str | None:
    """State that a checkpoint does not have, or that loading does not take."""
    case = layers.case()
    case()
    loaded = layers.layer().double()
    loaded.load_state_dict(copy.deepcopy(case.layer.state_dict()))
    others = {"a layer that was loaded": loaded, "a deepcopy": copy.deepcopy(case.layer)}
    with contextlib.suppress(pickle.PicklingError, AttributeError, TypeError):  # a local class
        others["a pickle"] = pickle.loads(pickle.dumps(case.layer))  # noqa: S301
    for what, layer in others.items():
        other = case.with_layer(layer)
        for role in TENSORS if case.counts else TENSORS[:-1]:
            if (case.vector(role) != other.vector(role)).any():
                return (
                    f"expected {role} of {what} = {case.vector(role).tolist()},"
                    f" found {other.vector(role).tolist()}"
                )
    return None


# Values in training


@_each("training output", "mean and biased variance of the minibatch, each feature alone")
def training_output(case: Case) -> str | None:
    """Statistics over the wrong axes; the unbiased variance; the affine map misplaced."""
    return case.differ(case(), case.trained()[0])


@_each("features apart", "a feature does not change when another does")
def features_apart(case: Case) -> str | None:
    """Statistics pooled over features."""
    other = case.x.clone()
    other[:, 0] = other[:, 0] * 3 + 1
    return case.differ(case(other)[:, 1:], rows(case()[:, 1:]), 1e-9)


@_check("lengths alike", "every axis as long as there are features")
def lengths_alike(layers: Subject) -> str | None:
    """The features' axis found by its length."""
    sizes = tuple((FEATURES,) * len(size) for size in layers.sizes)
    for case in layers.cases(sizes):
        if wrong := case.differ(case(), case.trained()[0]):
            return wrong
        if wrong := case.differ_in_three(case.gradients(), case.backward()):
            return wrong
    return None


@_check("other numbers of features", "1, 3 and 70 features")
def other_numbers_of_features(layers: Subject) -> str | None:
    """A single feature squeezed away; features in blocks, the last of which is not whole."""
    for features in (1, 3, 70):
        sizes = tuple((size[0], features, *size[2:]) for size in layers.sizes)
        for case in layers.cases(sizes, features=features):
            if wrong := case.differ(case(), case.trained()[0]):
                return wrong
    return None


@_check("large minibatches", "600 values of a feature or more, one of them far off")
def large_minibatches(layers: Subject) -> str | None:
    """Statistics of a part, parts normalised apart, normalised values clipped."""
    sizes = {2: (600, FEATURES), 3: (60, FEATURES, 40), 4: (40, FEATURES, 8, 9),
             5: (20, FEATURES, 4, 5, 6)}  # fmt: skip
    for case in layers.cases(tuple(sizes[len(size)] for size in layers.sizes)):
        case.x.view(-1)[0] = 300.0
        expected = case.trained()[0]
        if wrong := case.differ(case(), expected):
            return wrong
        variance = rows(case.x).var(0, ddof=1)
        moved = 1 + case.weigh(1) * (variance - 1)
        if wrong := case.differ(case.tensor("running_var"), moved):
            return f"running variance: {wrong}"
    return None


@_each("eps inside the root", "features whose variance is about eps")
def eps_inside_the_root(case: Case) -> str | None:
    """sqrt(var) + eps, invisible while the variance is about 1."""
    small = case.x * case.eps**0.5 / 2
    return case.differ(case(small), case.trained(small)[0])


@_each("large mean in float32", "a mean of 10,000, deviations of 1 to 4; to 2 in 100")
def large_mean(case: Case) -> str | None:
    """The variance as E[x^2] - E[x]^2: in float32 no digit of it is left."""
    x = (case.x + 1e4).float()
    expected, _ = case.trained(x)
    return case.differ(case.layer.float()(x), expected, 0.02)


@_each("precision", "float64 stays float64, to 10 digits; float32 stays float32")
def precision(case: Case) -> str | None:
    """Float32 inside, which finite differences of the network then see as noise."""
    y, single = case(), case.subject.layer().train()(case.x.float())
    for given, found in ((torch.float64, y.dtype), (torch.float32, single.dtype)):
        if given != found:
            return f"expected {given}, found {found}"
    if wrong := case.differ(y, case.trained()[0], 1e-10):
        return wrong
    case.set_statistics()
    wrong = case.differ(case(), case.evaluated(), 1e-10)
    return wrong and f"evaluation: {wrong}"


@_check("half precision", "float16 and bfloat16, values of 300; to 4 roundings; their type stays")
def half_precision(layers: Subject) -> str | None:
    """Squares of 300, which float16 does not have; statistics rounded before they are averaged."""
    for dtype in (torch.float16, torch.bfloat16):
        case, close = layers.case(), 4 * torch.finfo(dtype).eps
        layer = case.layer.to(dtype)
        x = (case.x * (100 if dtype == torch.float16 else 1e5)).to(dtype)
        expected = case.trained(x)[0]
        y = layer(x)
        if y.dtype != dtype:
            return f"expected {dtype}, found {y.dtype}"
        if wrong := case.differ(y, expected, close):
            return f"{dtype}: {wrong}"
        moved = 1 + case.weigh(1) * (rows(x).var(0, ddof=1) - 1)
        fits = moved < torch.finfo(dtype).max  # else infinite, as it has to be
        kept = torch.as_tensor(case.vector("running_var")[fits])
        if wrong := case.differ(kept, moved[fits], close):
            return f"running variance, {dtype}: {wrong}"
    return None


@_each("scale of zero and below", "gamma of -2, 0, 0.5 and -0.1: outputs and gradients")
def scale_of_zero_and_below(case: Case) -> str | None:
    """The magnitude of gamma; a division by it."""
    case.put("weight", [-2.0, 0.0, 0.5, -0.1])
    if wrong := case.differ(case(), case.trained()[0]):
        return wrong
    return case.differ_in_three(case.gradients(), case.backward())


@_check("no history in training", "running statistics far away, and what came before, do not count")
def no_history_in_training(layers: Subject) -> str | None:
    """Training that leans on the running statistics."""
    case = layers.case()
    for _ in range(4):
        case()
    case.put("running_mean", [300.0, -300.0, 70.0, 0.0])
    case.put("running_var", [0.1, 10.0, 1e-3, 1e3])
    return case.differ(case(), case.trained()[0])


@_check("one image", "a minibatch of one example with positions has statistics")
def one_image(layers: Subject) -> str | None:
    """The running statistics, or nothing, in place of those over positions."""
    sizes = tuple((1, *size[1:]) for size in layers.sizes if len(size) > 2)
    for case in layers.cases(sizes) if sizes else ():
        if wrong := case.differ(case(), case.trained()[0]):
            return wrong
    return None


# Gradients


@_each("input gradient", "all of dx, with a random cotangent")
def input_gradient(case: Case) -> str | None:
    """Statistics outside the gradient, whole or in part; any wrong backward pass."""
    return case.differ(case.gradients()[0], case.backward()[0])


@_each(TRAP, "dx of y.sum(), which is zero: passes nearly any dx")
def input_gradient_through_a_sum(case: Case) -> str | None:
    """Next to nothing: the true gradient is zero, and so are most wrong ones.

    Written as it is usually met, on a new layer. It sees a gradient that lacks the mean, and
    neither one that lacks the variance nor one that is any multiple of the true one.
    """
    new = case.with_layer(case.subject.layer().double().train())
    ones = torch.ones_like(case.x)
    return new.differ(new.gradients(ones)[0], new.backward(dy=ones)[0])


@_each("weight gradient", "the sum of dy xhat over the values of a feature")
def weight_gradient(case: Case) -> str | None:
    """The gradient of gamma with x for xhat, or over the wrong axes."""
    dgamma = formulas.gradient_gamma(rows(case.dy), case.trained()[1].xhat)
    return case.differ(case.gradients()[1], dgamma)


@_each("bias gradient", "the sum of dy over the values of a feature")
def bias_gradient(case: Case) -> str | None:
    """The gradient of beta over the wrong axes."""
    return case.differ(case.gradients()[2], formulas.gradient_beta(rows(case.dy)))


@_check("gradient where eps counts", "features whose variance is about eps; all three gradients")
def gradient_where_eps_counts(layers: Subject) -> str | None:
    """A backward pass that forgets eps."""
    case = layers.case()
    case = Case(layers, case.layer, case.x * case.eps**0.5 / 2, case.dy * case.eps**0.5)
    return case.differ_in_three(case.gradients(), case.backward())


@_check("second derivatives", "differences of the formulas' dx, with random cotangents")
def second_derivatives(layers: Subject) -> str | None:
    """Statistics that are constants when the gradient is differentiated again."""
    case, h = layers.case(), 1e-5
    v = torch.randn(case.x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    leaf = case.x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(case.layer(leaf), leaf, case.dy, create_graph=True)
    (found,) = torch.autograd.grad(dx, leaf, v)
    after, before = (case.backward(case.x + sign * h * v)[0] for sign in (1, -1))
    # The product of the Hessian, which is symmetric, with v: a difference along v.
    return case.differ(found, (after - before) / (2 * h), 1e-5)


@_check("two calls, two backward passes", "gradients of an earlier call, twice; dy as it was")
def two_calls(layers: Subject) -> str | None:
    """What a backward pass needs kept on the layer, or spent; work in place on dy."""
    case = layers.case()
    leaf, dy = case.x.clone().requires_grad_(), case.dy.clone()
    expected = case.backward()
    y = case.layer(leaf)
    case.layer((case.x * 2 - 1).requires_grad_())
    wanted = [leaf, case.tensor("weight"), case.tensor("bias")]
    for which in ("first", "second"):
        found = torch.autograd.grad(y, wanted, dy, retain_graph=True, allow_unused=True)
        if not torch.equal(dy, case.dy):
            return "expected dy as it was, found it overwritten by the backward pass"
        if wrong := case.differ_in_three(found, expected):
            return f"{which} backward pass: {wrong}"
    return None


@_each("memory layout", "x and dy laid out otherwise, dy of one number: the same values")
def memory_layout(case: Case) -> str | None:
    """Memory read in its order, whatever the strides say."""
    laid_out = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in (case.x, case.dy)]
    for x, dy in (laid_out, (case.x, torch.ones((), dtype=torch.float64).expand_as(case.x))):
        other = Case(case.subject, case.layer, x, dy)
        if wrong := other.differ(case.layer(x), case.trained()[0]):
            return wrong
        if wrong := other.differ_in_three(other.gradients(), other.backward()):
            return wrong
    return None


# Running statistics


def _follow(case: Case, batches: int) -> tuple[Array, Array]:
    """Train on so many batches; return the mean and variance that the formulas keep."""
    mean, var = np.zeros(FEATURES), np.ones(FEATURES)
    for step in range(1, batches + 1):
        x = case.x * (step % 10 + 1) / 3 - step % 10
        case(x)
        mean, var = formulas.running_statistics(rows(x)[None], case.weigh(step), mean, var)
    return mean, var


def _statistics_differ(case: Case, expected: tuple[Array, Array]) -> str | None:
    for role, right in zip(STATISTICS, expected, strict=True):
        if wrong := case.differ(case.tensor(role), right):
            return f"{role}: {wrong}"
    return None


@_each("running mean", "momentum weighs the new batch; after ten batches")
def running_mean(case: Case) -> str | None:
    """Momentum the other way round; statistics of the wrong axes."""
    expected, _ = _follow(case, 10)
    return case.differ(case.tensor("running_mean"), expected)


@_each("running variance", "unbiased, m/(m-1), of every batch; after ten batches")
def running_variance(case: Case) -> str | None:
    """The biased variance kept for evaluation."""
    _, expected = _follow(case, 10)
    return case.differ(case.tensor("running_var"), expected)


@_each("batches counted", "num_batches_tracked after three batches")
def batches_counted(case: Case) -> str | None:
    """A counter that stands still, wrong once momentum is None."""
    for _ in range(3):
        case()
    seen = int(case.tensor(COUNTER)) if case.counts else 3
    return None if seen == 3 else f"expected {COUNTER} = 3, found {seen}"


@_check("long run", "statistics and counter after 150 batches")
def long_run(layers: Subject) -> str | None:
    """A momentum that changes on the way; a counter that runs over."""
    case = layers.case()
    if wrong := _statistics_differ(case, _follow(case, 150)):
        return wrong
    seen = int(case.tensor(COUNTER)) if case.counts else 150
    return None if seen == 150 else f"expected {COUNTER} = 150, found {seen}"


@_check("momentum given", "0, 0.3 and None, where the constructor takes them; after four batches")
def momentum_given(layers: Subject) -> str | None:
    """`momentum or 0.1`; None taken for the default; what was given left aside."""
    return next(filter(None, (_with_momentum(layers, given) for given in (0.3, 0.0, None))), None)


def _with_momentum(layers: Subject, momentum: float | None) -> str | None:
    try:
        case = layers.case(momentum=momentum)
        expected = _follow_with(case, momentum)
    except Exception:  # refused: the layer does not take it
        return None
    wrong = _statistics_differ(case, expected)
    return wrong and f"momentum={momentum}: {wrong}"


def _follow_with(case: Case, momentum: float | None) -> tuple[Array, Array]:
    mean, var = np.zeros(FEATURES), np.ones(FEATURES)
    for step in range(1, 5):
        x = case.x * step / 3 - step
        case(x)
        share = 1 / step if momentum is None else momentum
        mean, var = formulas.running_statistics(rows(x)[None], share, mean, var)
    return mean, var


@_check("eps given", "0.1, where the constructor takes it; training and evaluation")
def eps_given(layers: Subject) -> str | None:
    """An eps that is fixed somewhere."""
    try:
        case = layers.case(eps=0.1)
    except Exception:  # refused: the constructor does not take it
        return None
    gamma, beta, _ = case.affine
    expected, _ = formulas.batch_norm_forward(rows(case.x), gamma, beta, 0.1)
    if wrong := case.differ(case(), expected):
        return wrong
    case.set_statistics()
    statistics = case.vector("running_mean"), case.vector("running_var")
    wrong = case.differ(case(), formulas.inference(rows(case.x), gamma, beta, *statistics, 0.1))
    return wrong and f"evaluation: {wrong}"


@_check("statistics without gradients", "they move under no_grad, and keep no graph")
def statistics_without_gradients(layers: Subject) -> str | None:
    """Averages that stand still, or that are part of the graph."""
    case = layers.case()
    with torch.no_grad():
        expected = _follow(case, 3)
    if wrong := _statistics_differ(case, expected):
        return f"under no_grad(): {wrong}"
    case.layer(case.x.clone().requires_grad_())
    kept = [role for role in STATISTICS if case.tensor(role).grad_fn is not None]
    return f"expected no graph, found one kept by {', '.join(kept)}" if kept else None


# Evaluation


@_each("evaluation output", "the running statistics, whatever the batch; without gradients")
def evaluation_output(case: Case) -> str | None:
    """Batch statistics at test time."""
    case.set_statistics()
    with torch.no_grad():
        return case.differ(case(), case.evaluated())


@_each("batch mates", "in evaluation an example alone gives what it gives among others")
def batch_mates(case: Case) -> str | None:
    """Any dependence on the batch at test time."""
    case.set_statistics()
    with torch.no_grad():
        return case.differ(case(case.x[:1]), rows(case()[:1]), 1e-9)


@_each("evaluation gradient", "dx in evaluation: the slope of a fixed affine map")
def evaluation_gradient(case: Case) -> str | None:
    """Running statistics treated in the backward pass as those of the batch."""
    case.set_statistics()
    return case.differ(case.gradients()[0], _evaluation_gradients(case)[0])


def _evaluation_gradients(case: Case) -> tuple[Array, Array, Array]:
    gamma, beta, eps = case.affine
    statistics = case.vector("running_mean"), case.vector("running_var")
    slope, _ = formulas.inference_affine(gamma, beta, *statistics, eps)
    x_hat = formulas.inference(
        rows(case.x), np.ones_like(gamma), np.zeros_like(beta), *statistics, eps
    )
    dy = rows(case.dy)
    return slope * dy, (dy * x_hat).sum(0), dy.sum(0)


@_each("evaluation gradients of weight and bias", "as in training, with the running statistics")
def evaluation_gradients_of_weight_and_bias(case: Case) -> str | None:
    """Scale and shift left out, or with x for its normalised value: fine tuning needs them."""
    case.set_statistics()
    return case.differ_in_three(case.gradients(), _evaluation_gradients(case))


@_check("evaluation after more training", "there and back: through a parent, and after loading")
def evaluation_after_more_training(layers: Subject) -> str | None:
    """What evaluation remembers; what train() resets; a mode that a parent does not set."""
    case = layers.case()
    parent = nn.Sequential(case.layer)
    for turn in ("first", "second"):
        for training in (True, False):
            kept = [case.vector(role) for role in STATISTICS]
            parent.train(training)
            if moved := _moved(case, kept):
                return f"expected {moved} to stay, found it moved by a parent's train({training})"
            if training:
                case(case.x * 2)
                case()
        if wrong := case.differ(case(), case.evaluated()):
            return f"{turn} time: {wrong}"
    state = copy.deepcopy(case.layer.state_dict())
    case.set_statistics()
    case.layer.load_state_dict(state)
    wrong = case.differ(case(), case.evaluated())
    return wrong and f"loaded: {wrong}"


def _moved(case: Case, kept: list[Array]) -> str:
    """Name the first running statistic that is not as it was, if there is one."""
    same = {r: (case.vector(r) == old).all() for r, old in zip(STATISTICS, kept, strict=True)}
    return next((role for role, as_it_was in same.items() if not as_it_was), "")


@_each("evaluation leaves the state", "no buffer or parameter moves in evaluation")
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


@_each("train() and eval() decide", "training without gradients, evaluation with them")
def train_and_eval_decide(case: Case) -> str | None:
    """The mode taken from the state of autograd."""
    with torch.no_grad():
        y = case()
    trained = case.differ(y, case.trained()[0])
    if trained:
        return f"train() under no_grad(): {trained}"
    case.set_statistics()
    evaluated = case.differ(case(), case.evaluated())
    return evaluated and f"eval() with gradients: {evaluated}"


# What a call leaves behind


@_each("one value of a feature", "refused in training, or everything stays finite")
def one_value(case: Case) -> str | None:
    """m/(m-1) with m = 1: a running variance that is not a number, for ever."""
    try:
        case.layer(case.x[(slice(1), slice(None), *(slice(1),) * (case.x.dim() - 2))])
    except Exception:
        return None
    bad = [role for role in STATISTICS if not np.isfinite(case.vector(role)).all()]
    return (
        f"expected an error or finite buffers, found {' and '.join(bad)} not finite"
        if bad
        else None
    )


@_each("input and outputs untouched", "the input, and earlier outputs, are as they were")
def input_and_outputs_untouched(case: Case) -> str | None:
    """Work in place on the caller's tensor; one buffer for all outputs."""
    for mode in ("training", "evaluation"):
        given = case.x.clone()
        with torch.no_grad():
            first = case.layer(given)
            kept = first.clone()
            case.layer(given * 2 + 1)
        if wrong := case.differ(given, rows(case.x), 0):
            return f"input, {mode}: {wrong}"
        if wrong := case.differ(first, rows(kept), 0):
            return f"an earlier output, {mode}: {wrong}"
        case.set_statistics()
    return None


@_check("torch as it was", "autograd stays on, random numbers are not drawn")
def torch_as_it_was(layers: Subject) -> str | None:
    """A forward pass that switches something off for everybody."""
    case = layers.case()
    with _torch_as_it_was() as left:
        case()
        case.set_statistics()
        case()
    return next(iter(left), None)
