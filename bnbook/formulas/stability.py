r"""The largest stable rate of gradient descent with momentum on a quadratic loss.

On :math:`\tfrac12 \lambda w^2` the heavy ball is
:math:`v \leftarrow \mu v + \lambda w, \; w \leftarrow w - \alpha v`, a linear map of (w, v) with
the determinant :math:`\mu` and the trace :math:`1 + \mu - \alpha\lambda`.
"""

from __future__ import annotations


def largest_rate(curvature: float, momentum: float = 0.0) -> float:
    r"""Return the rate above which the heavy ball leaves a quadratic's minimum.

    .. math::
        \alpha = \frac{2 (1 + \mu)}{\lambda}

    Source: Polyak 1964; the Jury conditions of the map above.

    Parameters
    ----------
    curvature : float
        :math:`\lambda > 0`, the largest eigenvalue of the Hessian.
    momentum : float
        :math:`\mu` in [0, 1).

    Returns
    -------
    float
        Infinity where nothing curves upwards.
    """
    return 2 * (1 + momentum) / curvature if curvature > 0 else float("inf")
