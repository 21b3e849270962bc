r"""The papers' equations: one NumPy float64 function each, with the papers' letters.

Independent of torch and of `bnbook.layers.norm`, so that the two derivations can be held against
each other. Every function takes finite floating point arrays and raises `BnbookError` otherwise;
none changes its arguments.

* `transform`, `backward`: Algorithm 1 and the six backward equations (section 3)
* `maps`: the same in feature maps (section 3.2)
* `outside`: normalisation that the gradient ignores (section 2)
* `whitening`: full whitening (section 2)
* `population`: Algorithm 2, running averages, folding (section 3.1)
* `invariance`: scales of the weights and effective learning rates (section 3.3)
* `products`: products of random matrices (Bjorck et al. 2018, section 4)
"""

from bnbook.formulas.backward import (
    batch_norm_backward,
    batch_norm_backward_simplified,
    gradient_beta,
    gradient_gamma,
    gradient_mu,
    gradient_mu_terms,
    gradient_norm_squared,
    gradient_var,
    gradient_x,
    gradient_xhat,
)
from bnbook.formulas.invariance import (
    effective_rate,
    equivalent_decay,
    gradient_growth_linear,
    gradient_growth_relu,
    linear_batch_norm,
    linear_batch_norm_backward,
    rescaled_eps,
    scale_factor,
    squared_norm_after_step,
)
from bnbook.formulas.maps import conv_batch_norm_backward, conv_batch_norm_forward, effective_size
from bnbook.formulas.outside import (
    bias_after,
    bias_step_outside,
    centred,
    gradient_inside,
    gradient_outside,
    scaled_step_outside,
    squared_loss,
    standardised,
)
from bnbook.formulas.population import (
    batch_statistics,
    fold_conv,
    fold_linear,
    inference,
    inference_affine,
    pooled_statistics,
    population_statistics,
    running_average,
    running_statistics,
)
from bnbook.formulas.products import (
    fuss_catalan_cdf,
    fuss_catalan_density,
    fuss_catalan_density_phi,
    fuss_catalan_density_phi_simplified,
    fuss_catalan_edge,
    fuss_catalan_moment,
    fuss_catalan_phi,
    fuss_catalan_quantile,
    fuss_catalan_x,
    marchenko_pastur_density,
    singular_value_density,
)
from bnbook.formulas.transform import (
    Cache,
    batch_norm_forward,
    minibatch_mean,
    minibatch_variance,
    normalise,
    normalised_moments,
    scale_and_shift,
)
from bnbook.formulas.whitening import (
    WhiteningCache,
    covariance,
    covariance_rank,
    whiten_backward,
    whiten_forward,
    whitening_matrix,
)

__all__ = [
    "Cache",
    "WhiteningCache",
    "batch_norm_backward",
    "batch_norm_backward_simplified",
    "batch_norm_forward",
    "batch_statistics",
    "bias_after",
    "bias_step_outside",
    "centred",
    "conv_batch_norm_backward",
    "conv_batch_norm_forward",
    "covariance",
    "covariance_rank",
    "effective_rate",
    "effective_size",
    "equivalent_decay",
    "fold_conv",
    "fold_linear",
    "fuss_catalan_cdf",
    "fuss_catalan_density",
    "fuss_catalan_density_phi",
    "fuss_catalan_density_phi_simplified",
    "fuss_catalan_edge",
    "fuss_catalan_moment",
    "fuss_catalan_phi",
    "fuss_catalan_quantile",
    "fuss_catalan_x",
    "gradient_beta",
    "gradient_gamma",
    "gradient_growth_linear",
    "gradient_growth_relu",
    "gradient_inside",
    "gradient_mu",
    "gradient_mu_terms",
    "gradient_norm_squared",
    "gradient_outside",
    "gradient_var",
    "gradient_x",
    "gradient_xhat",
    "inference",
    "inference_affine",
    "linear_batch_norm",
    "linear_batch_norm_backward",
    "marchenko_pastur_density",
    "minibatch_mean",
    "minibatch_variance",
    "normalise",
    "normalised_moments",
    "pooled_statistics",
    "population_statistics",
    "rescaled_eps",
    "running_average",
    "running_statistics",
    "scale_and_shift",
    "scale_factor",
    "scaled_step_outside",
    "singular_value_density",
    "squared_loss",
    "squared_norm_after_step",
    "standardised",
    "whiten_backward",
    "whiten_forward",
    "whitening_matrix",
]
