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
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bnbook import ensemble
from bnbook.errors import BnbookError
from bnbook.precise import batch_norms

Pair = tuple[nn.Module, nn.Module]
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, ensemble.Linear, ensemble.Conv2d)
"""The maps into which BN is folded: torch's, and those with a member axis."""
_OURS = (ensemble.Linear, ensemble.Conv2d)


def fold(model: nn.Module | Pair, example: Tensor | None = None) -> nn.Module:
    """Fold every batch normalisation into the linear map before it.

    Parameters
    ----------
    model : nn.Module or (nn.Module, nn.Module)
        A model in evaluation mode, or a linear map and the BN that follows it. In a model the BN
        layers stand right after their linear maps in an `nn.Sequential`, at any depth.
    example : Tensor, optional
        An input of a model that is put together otherwise, such as a residual network: what
        follows what is then seen by running it, and the outputs on it are compared.

    Returns
    -------
    nn.Module
        A copy: of the model, with `nn.Identity` where BN was, or of the linear map. Its outputs
        are equal to rounding. The maps have a bias. A linear layer is taken to be applied to
        (N, inputs), so that BN's features are its outputs.

    Raises
    ------
    BnbookError
        When a BN layer is in training mode, has no running statistics, or does not follow a linear
        map that feeds it alone; when features do not match; when there is no BN layer; when outputs
        on the example differ. What was given is as it was.
    """
    if isinstance(model, tuple):
        return _folded_pair(*_checked_pair(model))
    if not isinstance(model, nn.Module):
        raise BnbookError(f"model must be a torch.nn.Module, found {type(model).__name__}.")
    norms = batch_norms(model)
    if not norms:
        raise BnbookError(
            f"model must have a batch normalisation layer, found none in a {type(model).__name__}."
        )
    for name, norm in norms.items():
        _check_norm(name, norm)
    _check_shared(model)
    before = _in_sequences(model) if example is None else _on_example(model, norms, example)
    _check_found(norms, before, example)
    folded = _replaced(model, before)
    if example is not None:
        _check_equal(model, folded, example)
    return folded


def _checked_pair(pair: tuple[nn.Module, ...]) -> Pair:
    if len(pair) != 2 or not isinstance(pair[0], LINEAR) or pair[1] not in _norms_of(pair[1]):
        kinds = ", ".join(type(module).__name__ for module in pair)
        raise BnbookError(
            f"model must be a module, or a pair of a linear map and a batch normalisation layer,"
            f" found ({kinds})."
        )
    _check_norm("the layer", pair[1])
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


def _check_shared(model: nn.Module) -> None:
    places: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LINEAR) or module in _norms_of(module):
            places.setdefault(module, []).append(name)
    if shared := [names for names in places.values() if len(names) > 1]:
        raise BnbookError(
            "each linear map and each batch normalisation layer must stand in one place, found one"
            f" that is {' and '.join(shared[0])}."
        )


def _in_sequences(model: nn.Module) -> dict[str, str]:
    """Map each BN's name to that of the linear map before it in the same sequence."""
    before = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            items = module._modules.items()  # named_children() leaves out what stands there twice
            children = [(f"{name}.{child}".lstrip("."), layer) for child, layer in items]
            for (first, linear), (second, norm) in pairwise(children):
                if isinstance(linear, LINEAR) and norm in _norms_of(norm):
                    before[second] = first
    return before


def _on_example(model: nn.Module, norms: Mapping[str, Any], example: Tensor) -> dict[str, str]:
    """Map each BN's name to that of the linear map whose output it was given."""
    made: dict[int, tuple[str, Tensor]] = {}
    before: dict[str, str] = {}

    def produced(name: str) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            made[id(output)] = name, output  # kept, so that no other tensor takes its place

        return hook

    def consumed(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if id(inputs[0]) in made:
                before[name] = made[id(inputs[0])][0]

        return hook

    linear = {n: m for n, m in model.named_modules() if isinstance(m, LINEAR)}
    hooks = [module.register_forward_hook(produced(name)) for name, module in linear.items()]
    hooks += [norm.register_forward_pre_hook(consumed(name)) for name, norm in norms.items()]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return before


def _check_found(norms: Mapping[str, Any], before: Mapping[str, str], example: Any) -> None:
    hint = (
        "In a model that is no plain sequence, pass an example input."
        if example is None
        else "On the example its input came from elsewhere."
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
    folded = copy.deepcopy(model)
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


@torch.no_grad()
def _check_equal(model: nn.Module, folded: nn.Module, example: Tensor) -> None:
    expected, found = model(example), folded(example)
    close = torch.finfo(expected.dtype).eps ** 0.5
    worst = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not worst <= close:
        raise BnbookError(
            f"the folded model must give the model's outputs, found a relative difference of"
            f" {worst:.2g} on the example; some output before a batch normalisation layer is used"
            " elsewhere too."
        )
