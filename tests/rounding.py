"""Tolerances from the size of the terms, so that no test knows one processor's rounding.

Processors add in other orders, in more or fewer lanes, with or without fused multiply-adds. What
they all keep (Higham 2002, sections 3.1 and 4.2) is this: a number computed as a sum, each of whose
terms is rounded at most k times on its way into it, is off by at most k eps/2 times the sum of the
terms' absolute values. Two such numbers differ by at most twice that, whatever the order.
"""

import numpy as np
import torch


def epsilon(dtype):
    """Spacing of the numbers at 1, of a torch or NumPy type."""
    return (torch.finfo if isinstance(dtype, torch.dtype) else np.finfo)(dtype).eps


def exact(values):
    """Any array or tensor as a NumPy array of float64."""
    return np.asarray(values.detach().cpu().double() if torch.is_tensor(values) else values, float)


def assert_close(found, expected, terms, roundings, dtype=None):
    """Hold two computations of the same numbers against each other.

    Parameters
    ----------
    found, expected : array or Tensor
        Of one shape.
    terms : array, Tensor or float
        Sum of the absolute values of the terms that each number is the sum of.
    roundings : int
        How often a term is rounded on its way: the additions and the operations before them.
    dtype : torch or NumPy type, optional
        In which was computed; the type of ``found`` unless told otherwise.
    """
    eps = epsilon(dtype or getattr(found, "dtype", np.float64))
    difference = np.abs(exact(found) - exact(expected))
    allowed = np.broadcast_to(roundings * eps * exact(terms), difference.shape)
    worst = np.argmax(difference - allowed)
    assert (difference <= allowed).all(), (
        f"{exact(found).flat[worst]} and {exact(expected).flat[worst]} differ by"
        f" {difference.flat[worst]:.3g}, rounding accounts for {allowed.flat[worst]:.3g}"
    )


def gradient_terms(x, dxhat, s):
    """Sum of the absolute values of the three terms of BN's input gradient, which may cancel.

    Parameters
    ----------
    x, dxhat : array or Tensor, (m, C)
        Inputs, and gradient by the normalised ones.
    s : array or Tensor, (C,)
        Root of variance and eps. Inputs that are large beside it are rounded on its scale.
    """
    x, dxhat, s = map(exact, (x, dxhat, s))
    xhat = (x - x.mean(0)) / s
    terms = np.abs(dxhat) + np.abs(dxhat).mean(0) + np.abs(xhat) * np.abs(dxhat * xhat).mean(0)
    return terms / s * (1 + np.abs(x).max(0) / s)


def of_training(steps, longest_sum, dtype):
    """How far rounding moves parameters of size 1 in some steps, relative to them.

    A sum of n terms rounds by some sqrt(n) eps (Higham & Mary 2019), in each of the steps. What
    training makes of it is another matter: move the initial parameters so and train again.
    """
    return steps * longest_sum**0.5 * epsilon(dtype)
