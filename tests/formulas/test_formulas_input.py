"""Every argument of every formula, spoiled in every way: the error names it and says why."""

import math

import numpy as np
import pytest
import torch

from bnbook import formulas
from bnbook.errors import BnbookError

EPS = 1e-5


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


X = normal(3, 2)
G, B = normal(2, 2, seed=1)
CACHE = formulas.batch_norm_forward(X, G, B, EPS)[1]
WHITE = formulas.whiten_forward(normal(5, 2))[1]
MAPS = normal(2, 2, 3, 3)
BATCHES = normal(3, 4, 2)
SMALL = np.array([0.2, 0.5])
NORM = (G, B, np.zeros(2), np.ones(2), EPS)
GOOD = {
    "minibatch_mean": (X,),
    "minibatch_variance": (X, G),
    "normalise": (X, G, np.ones(2), EPS),
    "scale_and_shift": (X, G, B),
    "batch_norm_forward": (X, G, B, EPS),
    "gradient_xhat": (X, G),
    "gradient_var": (X, X, G, np.ones(2), EPS),
    "gradient_mu_terms": (X, G, X, G, np.ones(2), EPS),
    "gradient_mu": (X, G, X, G, np.ones(2), EPS),
    "gradient_x": (X, G, B, X, G, np.ones(2), EPS),
    "gradient_gamma": (X, X),
    "gradient_beta": (X,),
    "batch_norm_backward": (X, CACHE),
    "batch_norm_backward_simplified": (X, CACHE),
    "gradient_norm_squared": (X, CACHE),
    "normalised_moments": (np.ones(2), EPS),
    "conv_batch_norm_forward": (MAPS, G, B, EPS),
    "conv_batch_norm_backward": (MAPS, formulas.conv_batch_norm_forward(MAPS, G, B, EPS)[1]),
    "effective_size": (2, 3, 4),
    "centred": (G, 1.0),
    "standardised": (G, 1.0, 2.0, EPS),
    "squared_loss": (G, 1.0),
    "bias_step_outside": (G, 1.0, 2.0, 0.1),
    "bias_after": (3, 1.0, 2.0, 0.1),
    "gradient_outside": (G, 1.0, 1.0, 2.0, EPS),
    "gradient_inside": (G, 1.0, 1.0, 2.0, EPS),
    "scaled_step_outside": (G, 1.0, 1.0, 2.0, 0.1, EPS),
    "covariance": (X,),
    "covariance_rank": (X,),
    "whitening_matrix": (np.eye(2),),
    "whiten_forward": (X,),
    "whiten_backward": (normal(5, 2), WHITE),
    "batch_statistics": (BATCHES,),
    "population_statistics": (BATCHES,),
    "pooled_statistics": (BATCHES,),
    "running_average": (G, B, 0.1),
    "running_statistics": (BATCHES, 0.1),
    "inference_affine": NORM,
    "inference": (X, *NORM),
    "fold_linear": (normal(2, 3), None, *NORM),
    "fold_conv": (normal(2, 3, 3, 3), None, *NORM),
    "linear_batch_norm": (X, normal(3, 2), EPS),
    "linear_batch_norm_backward": (X, X, normal(2, 2), CACHE),
    "rescaled_eps": (EPS, 2.0),
    "scale_factor": (np.ones(2), 2.0, EPS),
    "effective_rate": (0.1, G),
    "squared_norm_after_step": (np.array([3.0, 4.0]), np.array([4.0, -3.0]), 0.1),
    "equivalent_decay": (0.1, 2.0),
    "gradient_growth_relu": (),
    "gradient_growth_linear": (8,),
    "fuss_catalan_edge": (2,),
    "fuss_catalan_moment": (2, 3),
    "fuss_catalan_x": (SMALL, 2),
    "fuss_catalan_phi": (SMALL, 2),
    "fuss_catalan_density_phi": (SMALL, 2),
    "fuss_catalan_density_phi_simplified": (SMALL, 2),
    "fuss_catalan_density": (SMALL, 2),
    "fuss_catalan_cdf": (SMALL, 2),
    "fuss_catalan_quantile": (SMALL, 2),
    "singular_value_density": (SMALL, 2),
    "marchenko_pastur_density": (SMALL,),
}
SCALARS_OF_ANY_SIGN = {"b", "w"}


def spoiled(name, value):
    """Return bad values of an argument, and what the error must say besides its name."""
    if isinstance(value, formulas.Cache | formulas.WhiteningCache):
        return [("a cache", "found str")]
    if isinstance(value, int):
        return [(0.5, "found 0.5"), (-1, "found -1"), (True, "found True")]
    if isinstance(value, float):
        bad = [(math.nan, "found nan"), (math.inf, "found inf"), ("one", "found 'one'")]
        if name == "target":
            return [*bad[:2], (np.array([math.nan, 1.0]), "found nan")]
        if name not in SCALARS_OF_ANY_SIGN:
            bad.append((-1.0, "found -1.0"))
        return bad if name in SCALARS_OF_ANY_SIGN | {"momentum"} else [*bad, (0.0, "found 0.0")]
    nan, inf = value.copy(), value.copy()
    nan.flat[-1], inf.flat[0] = math.nan, -math.inf
    return [
        (nan, "found nan at"),
        (inf, "found -inf at"),
        (value.astype(int), "found dtype int64"),
        (value.astype(complex), "found dtype complex128"),
        (value[None], f"found shape {value[None].shape}"),
        (value[:0], f"found shape {value[:0].shape}"),
        ([[1.0], [1.0, 2.0]], "NumPy cannot read"),
    ]


def bad_calls():
    for name, good in GOOD.items():
        code = getattr(formulas, name).__code__
        for i, value in enumerate(good):
            if value is not None:
                argument = code.co_varnames[i]
                for bad, says in spoiled(argument, value):
                    yield name, argument, (*good[:i], bad, *good[i + 1 :]), says


def test_every_formula_is_listed_and_takes_good_arguments():
    assert set(GOOD) == set(formulas.__all__) - {"Cache", "WhiteningCache"}
    for name, arguments in GOOD.items():
        getattr(formulas, name)(*arguments)


def test_every_argument_of_every_formula_is_checked():
    calls = list(bad_calls())
    assert len(calls) > 500
    for name, argument, arguments, says in calls:
        with pytest.raises(BnbookError) as error:
            getattr(formulas, name)(*arguments)
        text = str(error.value)
        assert text.startswith(argument), f"{name}({argument}): {text}"
        assert says in text, f"{name}({argument}): {text}"
        assert "must" in text, f"{name}({argument}): {text}"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("minibatch_mean", (X[:1],), "x must have m >= 2 values of each feature.*found m = 1"),
        ("batch_norm_forward", (X[:1], G, B, EPS), "found m = 1, shape \\(1, 2\\)"),
        ("conv_batch_norm_forward", (MAPS[:1, :, :1, :1], G, B, EPS), "m' = 1"),
        ("population_statistics", (BATCHES[:, :1],), "x must have m >= 2.*\\(3, 1, 2\\)"),
        ("centred", (G[:1], 1.0), "u must have m >= 2"),
        ("batch_norm_forward", (X, G[:1], B, EPS), "gamma must have shape.*\\(2,\\).*\\(1,\\)"),
        ("gradient_gamma", (X[:2], X), "dy must have shape.*\\(3, 2\\), found shape \\(2, 2\\)"),
        ("normalise", (X, G, -np.ones(2), EPS), "var must hold variances.*found -1.0 at \\[0\\]"),
        ("conv_batch_norm_backward", (MAPS, CACHE), "dy must have the shape of y, 3 values"),
        ("minibatch_mean", (torch.ones(3, 2, requires_grad=True),), "found Tensor, which NumPy"),
        ("whiten_forward", (X, "svd"), "method must be one of zca, cholesky, found 'svd'"),
        ("whiten_forward", (X, "zca", 0.0), "eps must be a finite number above 0, found 0.0"),
        ("whitening_matrix", (np.array([[1.0, 2.0], [0.0, 1.0]]),), "cov must be a symmetric"),
        ("whitening_matrix", (np.ones((2, 2)),), "cov must have full rank d = 2.*found rank 1"),
        ("whitening_matrix", (np.zeros((2, 2)),), "cov must have full rank d = 2.*found rank 0"),
        ("linear_batch_norm", (X, np.ones((2, 5)), EPS), "W must have shape.*inputs = 2"),
        ("running_average", (G, B, 1.5), "momentum must be a number in \\[0, 1\\], found 1.5"),
        ("effective_rate", (0.1, np.zeros(3)), "w must not be zero, found 3 zeros"),
        ("squared_norm_after_step", (G, G, 0.1), "dw must be orthogonal to w.*cosine of 1"),
        (
            "squared_norm_after_step",
            (np.array([3.0, 4.0]), np.array([4.0, -3.0]), 0.1, -1.0),
            "decay must be at least 0, found -1.0",
        ),
        ("gradient_growth_linear", (3,), "batch must be a whole number, at least 4, found 3"),
        ("fold_linear", (normal(2, 3), np.ones(3), *NORM), "b must have shape"),
        ("fold_linear", (normal(3, 3), None, *NORM), "gamma must have shape"),
        ("bias_step_outside", (G, 0.0, np.ones(3), 0.1), "target must have shape"),
    ],
)
def test_what_the_errors_say(name, arguments, says):
    with pytest.raises(BnbookError, match=says):
        getattr(formulas, name)(*arguments)
