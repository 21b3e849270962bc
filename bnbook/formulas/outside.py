r"""Section 2's example: a normalisation that the gradient step does not know of.

A layer adds a bias, or scales and shifts, :math:`x = w u + b`, and is normalised over the
training set. The step that takes the statistics for constants moves :math:`w` and :math:`b`
although the normalised output cannot change. The loss is
:math:`\ell = \frac1N \sum_i \frac12 (\hat x_i - t_i)^2`; section 2 leaves it open.

Source: Ioffe & Szegedy 2015, section 2, seen in the paper: the example with the bias and the
remark that scaling makes it worse. What happens with the scale is derived here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array


def centred(u: Any, b: float) -> Array:
    r"""Section 2: :math:`\hat x = x - E[x]` with :math:`x = u + b`; b cancels.

    Parameters
    ----------
    u : array_like, (N,)
        The layer's input over the training set, N >= 2.
    b : float
        The bias.

    Returns
    -------
    ndarray, (N,)
    """
    x = _inputs(u) + read.number("b", b)
    xhat: Array = x - x.mean()
    return xhat


def standardised(u: Any, w: float, b: float, eps: float) -> Array:
    r""":math:`\hat x = (x - E[x]) / \sqrt{Var[x] + \epsilon}` with :math:`x = w u + b`.

    Parameters
    ----------
    u : array_like, (N,)
        The layer's input over the training set, N >= 2.
    w, b : float
        Scale and bias.
    eps : float
        Above 0.

    Returns
    -------
    ndarray, (N,)
    """
    x = read.number("w", w) * _inputs(u) + read.number("b", b)
    normalised: Array = (x - x.mean()) / np.sqrt(x.var() + read.positive("eps", eps))
    return normalised


def squared_loss(xhat: Any, target: Any) -> float:
    r""":math:`\ell = \frac1N \sum_i \frac12 (\hat x_i - t_i)^2`.

    Parameters
    ----------
    xhat : array_like, (N,)
        The layer's output.
    target : float or array_like, (N,)
        What it should be.
    """
    xhat = read.array("xhat", xhat, "N")
    return float(((xhat - _target(target, xhat)) ** 2).mean() / 2)


def bias_step_outside(u: Any, b: float, target: Any, alpha: float) -> tuple[float, float]:
    r"""One step of section 2's example: :math:`b \leftarrow b - \alpha\, \overline{d\hat x}`.

    The step takes :math:`E[x]` for a constant. As :math:`\hat x` has mean zero, b moves by
    :math:`\alpha \bar t` at every step, for ever, and the loss stays.

    Parameters
    ----------
    u : array_like, (N,)
        The layer's input over the training set, N >= 2.
    b : float
        The bias before the step.
    target : float or array_like, (N,)
        What the output should be.
    alpha : float
        Learning rate, above 0.

    Returns
    -------
    b : float
        After the step.
    loss : float
        Before the step.
    """
    xhat = centred(u, b)
    db = (xhat - _target(target, xhat)).mean()
    return float(b - read.positive("alpha", alpha) * db), squared_loss(xhat, target)


def bias_after(steps: int, b: float, target: Any, alpha: float) -> float:
    r"""The bias after so many steps of `bias_step_outside`: :math:`b + n \alpha \bar t`.

    Derived: each step adds the same.

    Parameters
    ----------
    steps : int
        n, at least 0.
    b : float
        The bias before the first step.
    target : float or array_like, (N,)
        What the output should be.
    alpha : float
        Learning rate, above 0.
    """
    mean = float(np.mean(_target(target, None)))
    n = read.count("steps", steps, 0)
    return read.number("b", b) + n * read.positive("alpha", alpha) * mean


def gradient_outside(u: Any, w: float, b: float, target: Any, eps: float) -> tuple[float, float]:
    r"""Gradient that takes :math:`E[x]` and :math:`Var[x]` for constants.

    With :math:`s = \sqrt{w^2 Var[u] + \epsilon}`,

    .. math::
        dw = \frac1s \Bigl( \frac{w Var[u]}{s} - \overline{t u} \Bigr), \qquad
        db = - \frac{\bar t}{s} .

    The bias grows by :math:`\alpha \bar t / s` a step. The step in w is of order 1/w, so a small w
    makes a large step. Derived.

    Parameters
    ----------
    u : array_like, (N,)
        The layer's input over the training set, N >= 2.
    w, b : float
        Scale and bias.
    target : float or array_like, (N,)
        What the output should be.
    eps : float
        Above 0.

    Returns
    -------
    dw, db : float
    """
    xhat, u = standardised(u, w, b, eps), _inputs(u)
    dx = (xhat - _target(target, xhat)) / len(u) / np.sqrt(w**2 * u.var() + eps)
    return float((dx * u).sum()), float(dx.sum())


def gradient_inside(u: Any, w: float, b: float, target: Any, eps: float) -> tuple[float, float]:
    r"""The true gradient, through the statistics.

    With :math:`s = \sqrt{w^2 Var[u] + \epsilon}`, :math:`\hat x = w (u - \bar u) / s` and

    .. math::
        dw = \frac{\epsilon}{s^3} \cdot \frac1N \sum_i (\hat x_i - t_i)(u_i - \bar u), \qquad
        db = 0 .

    Derived. The output does not depend on b, nor, but for eps, on the size of w.

    Parameters
    ----------
    u : array_like, (N,)
        The layer's input over the training set, N >= 2.
    w, b : float
        Scale and bias.
    target : float or array_like, (N,)
        What the output should be.
    eps : float
        Above 0.

    Returns
    -------
    dw, db : float
        The second is 0.
    """
    xhat, u = standardised(u, w, b, eps), _inputs(u)
    dxhat = (xhat - _target(target, xhat)) / len(u)
    return float(eps * (w**2 * u.var() + eps) ** -1.5 * (dxhat * (u - u.mean())).sum()), 0.0


def scaled_step_outside(
    u: Any, w: float, b: float, target: Any, alpha: float, eps: float
) -> tuple[float, float, float]:
    """One step of the example with the scale included, along `gradient_outside`.

    Parameters
    ----------
    u : array_like, (N,)
        The layer's input over the training set, N >= 2.
    w, b : float
        Scale and bias before the step.
    target : float or array_like, (N,)
        What the output should be.
    alpha : float
        Learning rate, above 0.
    eps : float
        Above 0.

    Returns
    -------
    w, b : float
        After the step.
    loss : float
        Before the step.
    """
    dw, db = gradient_outside(u, w, b, target, eps)
    loss = squared_loss(standardised(u, w, b, eps), target)
    alpha = read.positive("alpha", alpha)
    return float(w - alpha * dw), float(b - alpha * db), loss


def _inputs(u: Any) -> Array:
    return read.minibatch("u", u, "m")


def _target(target: Any, xhat: Array | None) -> Array:
    """Read the target: a number, or one for each example."""
    if np.ndim(target) == 0:
        return np.asarray(read.number("target", target))
    if xhat is None:
        return read.array("target", target, "N")
    return read.shaped("target", target, xhat, "N")
