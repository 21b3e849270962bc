"""A member of an ensemble is, after 100 steps of training, the network it would be alone.

Rounding differs between a fused and a plain operation, and training amplifies it; by how much is a
matter of rate and size, not of correctness. At five times these rates a ResNet with GroupNorm in
float32 left its twin by 0.5, while the float64 pair stayed within 1e-13. Here the networks are
small and the rates low, so that float32 pairs stay within a few 1e-6. A wrong rate still shows:
members 0 and 2 differ in nothing but a factor of 2 in the rate, and end more than 1e-2 apart.
"""

from functools import partial

import pytest
import torch

from bnbook import ensemble, norm, training
from bnbook.models import MLP, ConvNet, ResNet, RNNClassifier

SEEDS = (3, 4, 3)
RATES = (0.002, 0.004, 0.001)
STEPS, BATCH, EXAMPLES = 100, 16, 48

MODELS = {
    "MLP": partial(MLP, num_inputs=64, hidden=(8, 8), init_std=0.5),
    "plain conv net": partial(ConvNet, in_channels=1, widths=(4, 8)),
    "ResNet": partial(ResNet, in_channels=1, n=1, widths=(4, 4, 8)),
    "RNN": partial(RNNClassifier, num_inputs=8, hidden=8),
}
NORMS = {
    "without": lambda members: None,
    "BN": lambda members: norm.BatchNorm,
    "GN": lambda members: partial(norm.GroupNorm, 2, members=members),
    "LN": lambda members: partial(norm.LayerNorm, members=members),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def trained(make, normalisation, dtype, batches, members):
    """Scores in evaluation, parameters and buffers of these members after training."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(EXAMPLES, 1, 8, 8, generator=generator).to(dtype)
    labels = torch.randint(10, (EXAMPLES,), generator=generator)
    model = make(normalisation(len(members)), [SEEDS[e] for e in members]).to(dtype)
    optimiser = training.SGD([RATES[e] for e in members], momentum=0.9)
    training.fit(model, images, labels, batches, optimiser, ensemble.cross_entropy)
    state = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    with torch.no_grad():
        return model.eval()(images), state


def all_batches(own):
    """Batches of all members: one for all, or one for each, the first and third alike."""
    draws = [training.minibatches(EXAMPLES, BATCH, STEPS, seed) for seed in SEEDS]
    return torch.stack(draws, 1) if own else draws[0]


@pytest.mark.parametrize("own", [False, True], ids=["shared batches", "own batches"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize("normalisation", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_member_equals_its_run_alone_after_100_steps(make, normalisation, dtype, own):
    batches, close = all_batches(own), {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    together, states = trained(make, normalisation, dtype, batches, (0, 1, 2))
    # One in the middle, with another seed and rate than its neighbours.
    alone, state = trained(make, normalisation, dtype, batches[:, 1:2] if own else batches, (1,))
    torch.testing.assert_close(together[:, [1]], alone, **close)
    for name, mine in states.items():
        torch.testing.assert_close(
            mine.unflatten(0, (3, -1))[1].reshape(state[name].shape), state[name], **close
        )
    assert (together[:, 0] - together[:, 2]).abs().max() > 1e-2
