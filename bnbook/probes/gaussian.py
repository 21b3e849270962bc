"""How far the distributions of units are from Gaussian ones."""

from __future__ import annotations

import torch
from torch import Tensor


def shapes(values: Tensor) -> dict[str, Tensor]:
    r"""Compare each unit's distribution with the Gaussian of its mean and deviation.

    Parameters
    ----------
    values : Tensor, (N, ...)
        N values of each unit.

    Returns
    -------
    dict of Tensor, (...)
        ``distance``: the Wasserstein distance from the Gaussian, in the unit's standard deviations,

        .. math::
            \frac1N \sum_{k=1}^N \Bigl| \frac{x_{(k)} - \mu}{\sigma}
            - \Phi^{-1}\Bigl(\frac{k - 1/2}{N}\Bigr) \Bigr| ,

        with the values in rising order; ``skewness`` and ``kurtosis``: magnitudes of the skewness
        and of the excess kurtosis; ``near_zero``: the share of values below a twentieth of the
        root mean square, which is 0.04 for a Gaussian of mean 0. NaN for a unit that is constant.
    """
    values = values.double()
    mean, deviation = values.mean(0), values.std(0, correction=0)
    scaled = (values - mean) / deviation
    ranks = (torch.arange(len(values), device=values.device, dtype=values.dtype) + 0.5).div(
        len(values)
    )
    quantiles = torch.special.ndtri(ranks).view(-1, *(1,) * (values.dim() - 1))
    small = values.abs() < 0.05 * values.square().mean(0).sqrt()
    found = {
        "distance": (scaled.sort(0).values - quantiles).abs().mean(0),
        "skewness": scaled.pow(3).mean(0).abs(),
        "kurtosis": (scaled.pow(4).mean(0) - 3).abs(),
        "near_zero": small.double().mean(0),
    }
    constant = deviation <= 1e-6 * values.abs().amax(0)
    return {name: value.masked_fill(constant, torch.nan) for name, value in found.items()}
