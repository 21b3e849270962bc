r"""Folding batch normalisation into the linear map before it, for inference.

At inference BN is a fixed affine map of each feature, so that a linear layer or convolution
:math:`x = W u + b` and the BN after it are one map,

.. math::
    W' = \frac{\gamma}{\sqrt{Var[x] + \epsilon}} W, \qquad
    b' = \frac{\gamma}{\sqrt{Var[x] + \epsilon}} (b - E[x]) + \beta .

Source: follows from Ioffe & Szegedy 2015, algorithm 2, step 11.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.precise import batch_norms

Pair = tuple[nn.Module, nn.Module]
AXES = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5, ensemble.Linear: 2,
        ensemble.Conv2d: 4}  # fmt: skip
"""The maps into which BN is folded, torch's and those with a member axis, and the number of axes
of their outputs."""
_OURS = (ensemble.Linear, ensemble.Conv2d)
_TORCHS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DECLARED = "affine_in_evaluation"
"""What the body of a class says, set to True, of layers that in evaluation compute
``weight * (x - running_mean) / sqrt(running_var + eps) + bias`` and nothing else."""


def fold(model: nn.Module | Pair, example: Any = None) -> nn.Module:
    """Fold every batch normalisation into the linear map before it.

    Only what is known exactly is folded: torch's linear maps and BN layers and this book's, not
    their subclasses, not parametrised (such as by ``weight_norm``), pruned or hooked. A BN layer of
    your own is known when the body of its class says ``affine_in_evaluation = True``.

    Parameters
    ----------
    model : nn.Module or (nn.Module, nn.Module)
        A model in evaluation mode, or a linear map and the BN that follows it.
    example : Tensor, tuple or dict, optional
        An input of the model; a tuple holds positional inputs, a dict keyword ones. Needed but for
        an `nn.Sequential`, nested or not, whose BN layers stand right after their linear maps: in
        any other model what follows what is seen by running it.

    Returns
    -------
    nn.Module
        A copy: of the model, with `nn.Identity` where BN was, or of the linear map. The maps have
        a bias. With an example its outputs were seen to be equal to rounding; outputs are tensors,
        or tuples, lists or mappings of them. Without one, a linear layer is taken to be applied to
        (N, inputs), so that BN's features are its outputs.

    Raises
    ------
    BnbookError
        When a BN layer is in training mode, has no running statistics, or does not follow, with
        nothing between them, a linear map that feeds it alone; when either is not known exactly;
        when features do not match; when there is no BN layer; when outputs on the example differ.
        What was given is as it was.
    """
    if isinstance(model, tuple):
        return _folded_pair(*_checked_pair(model))
    norms = _checked_norms(model)
    before = _in_sequences(model) if example is None else _on_example(model, norms, example)
    _check_found(norms, before, example)
    for name, linear in before.items():
        _check_known(model, linear, name)
    folded = _replaced(model, before)
    if example is not None:
        _check_equal(model, folded, example)
    return folded


def _checked_norms(model: Any) -> dict[str, Any]:
    """Find the model's BN layers, each fit to be folded."""
    if not isinstance(model, nn.Module):
        raise BnbookError(f"model must be a torch.nn.Module, found {type(model).__name__}.")
    if hasattr(model, "_orig_mod"):
        raise BnbookError(
            "model must not be compiled, for compiled code keeps the layers that it was made of;"
            " fold the model itself and compile what comes out."
        )
    norms = batch_norms(model)
    if not norms:
        raise BnbookError(
            f"model must have a batch normalisation layer, found none in a {type(model).__name__}."
        )
    for name, norm in norms.items():
        _check_norm(name, norm)
    _check_shared(model)
    return norms


def _checked_pair(pair: tuple[nn.Module, ...]) -> Pair:
    if len(pair) != 2 or not isinstance(pair[0], tuple(AXES)) or pair[1] not in _norms_of(pair[1]):
        kinds = ", ".join(type(module).__name__ for module in pair)
        raise BnbookError(
            f"model must be a module, or a pair of a linear map and a batch normalisation layer,"
            f" found ({kinds})."
        )
    _check_norm("the layer", pair[1])
    for module in pair:
        _check_plain(f"the {type(module).__name__}", module)
    return pair[0], pair[1]


def _norms_of(module: Any) -> list[nn.Module]:
    return list(batch_norms(module).values()) if isinstance(module, nn.Module) else []


def _check_norm(name: str, norm: Any) -> None:
    if norm.training:
        raise BnbookError(
            f"{name} must be in evaluation mode, found training mode, in which BN depends on the"
            " batch; call eval() first."
        )
    if norm.running_mean is None or norm.running_var is None:
        raise BnbookError(f"{name} must have running statistics, found none.")
    if not hasattr(norm, "eps"):
        raise BnbookError(f"{name} must have an attribute eps, found none.")


def _check_known(model: nn.Module, linear: str, norm: str) -> None:
    for name in (linear, norm):
        _check_plain(name, model.get_submodule(name))


def _check_plain(name: str, module: nn.Module) -> None:
    """Refuse a layer that may compute anything but what its parameters and buffers say."""
    if reason := _not_plain(module):
        raise BnbookError(
            f"{name} must be exactly a layer that is known, found {reason}; fold would leave out"
            " what that adds. Remove it first, or leave this layer unfolded."
        )


def _not_plain(module: Any) -> str | None:
    kind = type(module)
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "a parametrised one"
    known = kind in AXES or kind in _TORCHS or vars(kind).get(DECLARED) is True
    if not known:
        return f"a {kind.__name__}, whose forward may do something else"
    if module._forward_hooks or module._forward_pre_hooks:
        return f"a {kind.__name__} with a forward hook (weight_norm and pruning set one)"
    if "forward" in vars(module):
        return f"a {kind.__name__} whose forward was replaced"
    return None


def _check_shared(model: nn.Module) -> None:
    places: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, tuple(AXES)) or module in _norms_of(module):
            places.setdefault(module, []).append(name)
    if shared := [names for names in places.values() if len(names) > 1]:
        raise BnbookError(
            "each linear map and each batch normalisation layer must stand in one place, found one"
            f" that is {' and '.join(shared[0])}."
        )


def _in_sequences(model: nn.Module, name: str = "") -> dict[str, str]:
    """Map each BN's name to that of the linear map before it, in plain sequences alone.

    The body of any other module says what follows what, and only running it shows that.
    """
    if type(model) is not nn.Sequential or "forward" in vars(model):
        return {}
    before = {}
    items = model._modules.items()  # named_children() leaves out what stands there twice
    children = [(f"{name}.{child}".lstrip("."), layer) for child, layer in items]
    for (first, linear), (second, norm) in pairwise(children):
        if isinstance(linear, tuple(AXES)) and norm in _norms_of(norm):
            before[second] = first
    for child, layer in children:
        before |= _in_sequences(layer, child) if isinstance(layer, nn.Module) else {}
    return before


def _on_example(model: nn.Module, norms: Mapping[str, Any], example: Any) -> dict[str, str]:
    """Map each BN's name to that of the linear map whose output, untouched, it was given."""
    copied = _copied(model)
    linear = {n: m for n, m in copied.named_modules() if type(m) in AXES}
    made: dict[int, tuple[str, Tensor, int]] = {}
    before: dict[str, str] = {}

    def produced(name: str) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            made[id(output)] = name, output, output._version  # kept, so that its id is not reused

        return hook

    def consumed(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            given = next(iter((*inputs, *named.values())), None)
            if id(given) in made:
                first, x, version = made[id(given)]
                _check_untouched(first, name, x, version, AXES[type(linear[first])])
                before[name] = first

        return hook

    for name, module in linear.items():
        module.register_forward_hook(produced(name))
    for name in norms:
        copied.get_submodule(name).register_forward_pre_hook(consumed(name), with_kwargs=True)
    _outputs(copied, example)
    return before


def _check_untouched(linear: str, norm: str, x: Tensor, version: int, axes: int) -> None:
    if x._version != version:
        raise BnbookError(
            f"{norm} must be given the output of {linear} as it is, found it changed in place"
            " between them."
        )
    if x.dim() != axes:
        raise BnbookError(
            f"the output of {linear} must have {axes} axes, features second, found shape"
            f" {tuple(x.shape)}: what {norm} takes for its features are not {linear}'s."
        )


def _check_found(norms: Mapping[str, Any], before: Mapping[str, str], example: Any) -> None:
    hint = (
        "In a model that is no plain sequence, pass an example input."
        if example is None
        else "On the example its input came from elsewhere, or a parametrised layer or a subclass."
    )
    for name in norms:
        if name not in before:
            raise BnbookError(
                f"{name or 'the model'} must follow a linear layer or a convolution, found none"
                f" before it. {hint}"
            )
    feeds = list(before.values())
    if twice := sorted({name for name in feeds if feeds.count(name) > 1}):
        raise BnbookError(
            f"each linear map must feed one batch normalisation layer, found {', '.join(twice)}"
            " before more than one."
        )


def _replaced(model: nn.Module, before: Mapping[str, str]) -> nn.Module:
    folded: nn.Module = _copied(model)
    for norm, linear in before.items():
        pair = folded.get_submodule(linear), folded.get_submodule(norm)
        folded.set_submodule(linear, _folded_pair(*pair))
        folded.set_submodule(norm, nn.Identity().eval())
    return folded


@torch.no_grad()
def _folded_pair(linear: Any, norm: Any) -> nn.Module:
    rows = linear.weight.flatten(0, 1) if isinstance(linear, _OURS) else linear.weight
    if len(rows) != len(norm.running_mean):
        raise BnbookError(
            f"the linear map must make as many features as BN normalises, found {len(rows)} and"
            f" {len(norm.running_mean)}."
        )
    slope = (norm.running_var.double() + norm.eps).rsqrt()
    slope = slope if norm.weight is None else norm.weight.double() * slope
    b = 0.0 if linear.bias is None else linear.bias.double().flatten()
    shift = slope * (b - norm.running_mean.double())
    shift = shift if norm.bias is None else shift + norm.bias.double()
    folded: Any = copy.deepcopy(linear)
    weight = rows.double() * slope.view(-1, *(1,) * (rows.dim() - 1))
    folded.weight.copy_(weight.view_as(linear.weight))
    like = linear.weight if linear.bias is None else linear.bias
    shape = linear.weight.shape[: 2 if isinstance(linear, _OURS) else 1]
    folded.bias = nn.Parameter(shift.view(shape).to(like), requires_grad=like.requires_grad)
    made: nn.Module = folded.eval()
    return made


def _check_equal(model: nn.Module, folded: nn.Module, example: Any) -> None:
    expected, again, found = (_outputs(module, example) for module in (model, model, folded))
    if not expected:
        raise BnbookError(
            "the model must return a tensor, or tuples, lists or mappings of tensors, found none;"
            " wrap it in a module that returns its tensors."
        )
    if _difference(expected, again):
        raise BnbookError(
            "the model must give the same outputs for the same input twice, found others the second"
            " time, or values that are not a number; call eval() on all of it."
        )
    worst = _difference(expected, found)
    if not worst <= 1:
        raise BnbookError(
            f"the folded model must give the model's outputs, found a difference {worst:.2g} times"
            " what rounding explains, on the example; some output before a batch normalisation"
            " layer is used elsewhere too."
        )


@torch.inference_mode(False)
@torch.no_grad()
def _outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Run a copy of the model on a copy of the example; list the tensors that it returns."""
    model, example = _copied(model), _copied(example)
    if isinstance(example, Mapping):
        return list(_tensors(model(**example)))
    return list(_tensors(model(*example) if isinstance(example, tuple) else model(example)))


def _copied(given: Any) -> Any:
    try:
        return copy.deepcopy(given)
    except RuntimeError as error:  # tensors with a history, such as the old weight_norm leaves
        raise BnbookError(
            f"fold works on a copy, and a {type(given).__name__} could not be copied, for a layer"
            " in it is parametrised (by the old weight_norm) or it holds a tensor with a history:"
            f" {str(error).splitlines()[0]}"
        ) from error


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(tuple(output.values()))
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
    elif not (output is None or isinstance(output, (bool, int, float, str))):
        raise BnbookError(
            "the model must return tensors, or tuples, lists or mappings of them, found a"
            f" {type(output).__name__}; wrap it in a module that returns its tensors."
        )


def _difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """Return the largest difference, in roots of the precision of the largest value; 0 if equal."""
    if [(x.shape, x.dtype) for x in expected] != [(x.shape, x.dtype) for x in found]:
        return float("inf")
    return max(map(_difference_of_two, expected, found), default=0.0)


def _difference_of_two(x: Tensor, y: Tensor) -> float:
    if torch.equal(x, y):
        return 0.0
    if not x.is_floating_point():
        return float("inf")
    largest = x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    off = float(torch.where(x == y, 0.0, (x - y).abs() / largest).max())
    return off / torch.finfo(x.dtype).eps ** 0.5 if off < float("inf") else float("inf")
