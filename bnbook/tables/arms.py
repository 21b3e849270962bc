"""Names of the arms that experiments compare; figures give each its colour."""


def of_groups(groups: int) -> str:
    """Name GroupNorm with so many groups, in layers of any width."""
    return f"{GROUP_NORM}, {groups} groups"


def of_channels(channels: int) -> str:
    """Name GroupNorm with groups of so many channels."""
    return f"{GROUP_NORM}, {channels} channels a group"


WITHOUT, WITH = "without BN", "with BN"
OUTSIDE = "statistics outside the gradient"
MEAN_OUTSIDE, VARIANCE_OUTSIDE = "mean outside the gradient", "variance outside the gradient"
AFTER = "BN after the nonlinearity"
BN, BN_KERNEL, LINEAR = "BN", "BN, torch's kernel", "linear layer"
ZCA, CHOLESKY = "ZCA whitening", "Cholesky whitening"
DECAYED = "BN with weight decay"
RESIDUAL = "with BN and skips"
LSUV, HE = "LSUV start, without BN", "He start, without BN"
AS_LONG = "with BN, update as long"
LAST_ONLY = "BN at the last layer only"
WARM_UP, CLIPPED = "warm-up, without BN", "clipped gradients, without BN"
FIXUP, SKIPINIT = "Fixup, without BN", "SkipInit, without BN"
NOISY, NOISE = "noisy BN", "the noise without BN"
MEANS_ONLY, VARIANCES_ONLY = "means only", "variances only"
FROZEN = "statistics frozen at the start"
GROUP_NORM, LAYER_NORM = "GroupNorm", "LayerNorm"
INSTANCE_NORM, RENORM = "InstanceNorm", "Batch Renormalization"
LATE_FROZEN = "BN, frozen for the last fifth"
WITH_MIXUP, FIXUP_MIXUP = "with BN and mixup", "Fixup and mixup, without BN"
NORMALISER_FREE = "standardised weights, without BN"
SELF_NORMALISING = "SELU, without BN"
AFFINE_ONLY, OTHERS_ONLY = "only gamma and beta", "only as many weights"
SIGMOID, RELU = "sigmoid", "ReLU"
"""Nonlinearities."""

RUNNING = "running average"
ALGORITHM_2 = "Algorithm 2"
LAYER_BY_LAYER = "Algorithm 2, layer by layer"
NO_FACTOR = "Algorithm 2 without m/(m-1)"
POOLED = "precise BN"
BOTH = "m/(m-1) and the variance of the means"
WHOLE = "one large minibatch"
MIXED = "test minibatch"
SORTED = "test minibatch of one class"
ADAPTED = "recomputed on shifted images"
"""Statistics that a frozen network is evaluated with; see
`bnbook.experiments.ioffe_inference.experiment`."""
NO_SHIFT = "none"
SHIFTS = ("contrast", "brightness", "noise", "inversion")
"""What is done to the test images."""
