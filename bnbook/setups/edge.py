"""Short runs at a constant rate, for the largest that trains, and what the start predicts of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bnbook.formulas.stability import largest_rate
from bnbook.layers import ensemble
from bnbook.networks import models
from bnbook.probes import curvature, measurements
from bnbook.setups import dead, residual
from bnbook.setups.images import Splits
from bnbook.setups.settings import ResidualSetting
from bnbook.training import fit
from bnbook.training.session import OutOfTimeError, Session

SHOWN = 1000
"""Training images on which the loss is measured, as one batch with its own statistics."""
PRODUCTS = 16
"""Products with the Hessian from which its largest eigenvalue is estimated, by Lanczos."""

EXCESS = ("half", "later", "end")
"""The loss on the images shown, less that of the best constant guess, on the way of a run."""
MEASURED = (
    *("diverged_at", "loss", *EXCESS, "spread"),
    *("growth", "size", "sharpness", "residual", "classifier_rate", "network_rate"),
)
"""What `run` and `start` return."""

Make = Callable[..., models.ResNet]
"""Makes the network of an arm and of seeds; see `bnbook.setups.residual.train`."""


def images(run: ResidualSetting, device: torch.device) -> Splits:
    """Load the images of a run."""
    sizes = run.train_images, run.validation, run.test_images
    return residual.splits(run.data, run.side, *sizes, str(device))


def start(run: ResidualSetting, make: Make, session: Session) -> dict[str, float]:
    """Measure a network before its first update, and predict its largest rate.

    The result has ``growth`` as `bnbook.setups.residual.growth` has it; of the first minibatch
    ``loss``, ``size`` (mean squared norm of the features), ``sharpness`` (largest eigenvalue of the
    whole Hessian) and ``residual`` (its error, by Lanczos); ``classifier_rate`` and
    ``network_rate``, the largest rates that the classifier's bound and the sharpness allow.
    """
    if session.trial is not None:
        raise OutOfTimeError("the start has no steps to be timed.")
    device = fit.choose_device(session.device)
    train = images(run, device).train
    model = make(run.arms[0], run.seeds, in_channels=train[0].shape[1]).to(device).train()
    batch = fit.minibatches(len(train[1]), run.batch_size, 1, run.seeds[0])[0].to(device)
    found = of_network(model, train[0][batch], train[1][batch])
    safe = {
        "classifier_rate": largest_rate(found["size"] / 2, run.momentum),
        "network_rate": largest_rate(found["sharpness"], run.momentum),
    }
    (growth,) = residual.growth([run], make, session)
    return {"growth": growth, **found, **safe}


def of_network(model: models.ResNet, x: Tensor, y: Tensor) -> dict[str, float]:
    """Measure the loss of one network on a minibatch, its features and its Hessian."""
    features = measurements.inputs_to(model.output, model, x)
    with measurements.undisturbed(model):
        losses = ensemble.cross_entropy(model(x), y)
        parameters = list(model.parameters())
        product = curvature.hessian(losses, parameters)
        generator = torch.Generator().manual_seed(0)
        number = sum(p.numel() for p in parameters)
        begin = torch.randn(1, number, generator=generator).to(x.device)
        top = curvature.largest_eigenvalue(product, begin, min(PRODUCTS, number))
    return {
        "loss": losses.item(),
        "size": features.square().sum(-1).mean().item(),
        "sharpness": top.value.item(),
        "residual": top.error.item(),
    }


def run(one: ResidualSetting, make: Make, session: Session) -> dict[str, float]:
    """Train one network at a constant rate, until it has diverged or to the end.

    It has diverged where the loss of a minibatch is no number or a thousand times the first one's:
    at 110 layers without BN the first loss itself can be near a thousand.

    The result has ``diverged_at`` (step, from 1; -1 for none), ``loss`` (of the first minibatch),
    and `EXCESS` after half of the steps, three quarters and all, with the outputs' ``spread`` at
    the end; NaN after a divergence.
    """
    device = fit.choose_device(session.device)
    train = images(one, device).train
    model = make(one.arms[0], one.seeds, in_channels=train[0].shape[1]).to(device)
    shown = train[0][:SHOWN], train[1][:SHOWN]
    rows = fit.fit(
        model,
        *train,
        fit.minibatches(len(train[1]), one.batch_size, one.steps, one.seeds[0]),
        fit.SGD([one.learning_rates[0]], momentum=one.momentum, weight_decay=one.weight_decay),
        ensemble.cross_entropy,
        probes=(lambda: on_shown(model, *shown),),
        at=[-(-one.steps * quarter // 4) for quarter in (0, 2, 3, 4)],
        ends=lambda losses: (~(losses <= dead.THRESHOLD * losses[0])).any(0),
        session=session,
    )
    losses, rows = rows[-1]["losses"][0], rows[1:]
    diverged_at = dead.diverged_at(losses / losses[0])
    found = {name: float(row["excess"][0]) for name, row in zip(EXCESS, rows, strict=True)}
    found["spread"] = float(rows[-1]["spread"][0])
    if diverged_at >= 0:
        found = dict.fromkeys(found, math.nan)
    return {"diverged_at": diverged_at, "loss": float(losses[0]), **found}


def on_shown(model: models.ResNet, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Measure each member on images as one training batch: ``excess`` and ``spread``, (E,).

    The excess is its loss less that of the best guess that is the same for all images, which gives
    each class its share among them; the spread the mean over outputs of their standard deviation
    over images.
    """
    shares = torch.bincount(y) / len(y)
    least = -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum()
    with measurements.undisturbed(model), torch.no_grad():
        model.train()
        outputs = model(x)
    loss = ensemble.cross_entropy(outputs, y)
    return {"excess": loss - least, "spread": outputs.std(0).mean(-1)}
