"""A member of an ensemble is, after training, the network it would be alone.

Rounding differs between a fused and a plain operation, and training amplifies it, by how much is a
matter of rate, size and luck, not of correctness: after 100 steps in float32 two ResNets with BN
were 1.6e-2 apart on one processor, and 1e-6 on another, while the float64 pair stayed within 4e-15.
So members are compared after 100 steps in float64 and after 4 in float32, and by a bound that the
network itself gives. All the rounding of a run is made at its start, at once: by as much the
initial parameters of a second run in float64 are moved, and what that changes at the end bounds
what rounding may change. A wrong rate shows: members 0 and 2 differ in nothing but a factor of 2 in
the rate, and end further apart.
"""

from functools import partial

import pytest
import torch

from bnbook.layers import ensemble, members, norm
from bnbook.networks.models import MLP, ConvNet, ResNet
from bnbook.training import fit
from tests import rounding

SEEDS = (3, 4, 3)
RATES = (0.002, 0.004, 0.001)
STEPS = {torch.float32: 4, torch.float64: 100}
BATCH, EXAMPLES, PIXELS = 16, 48, 64

MODELS = {
    "MLP": partial(MLP, num_inputs=64, hidden=(8, 8), init_std=0.5),
    "plain conv net": partial(ConvNet, in_channels=1, widths=(4, 8)),
    "ResNet": partial(ResNet, in_channels=1, n=1, widths=(4, 4, 8)),
}
NORMS = {
    "without": lambda members: None,
    "BN": lambda members: norm.BatchNorm,
    "GN": lambda members: partial(norm.GroupNorm, 2, members=members),
    "LN": lambda members: partial(norm.LayerNorm, members=members),
}
LONGEST_SUM = BATCH * PIXELS  # a statistic of BN, or a kernel's gradient, of one channel


def trained(make, normalisation, dtype, batches, chosen, moved=0.0):
    """Scores in evaluation, parameters and buffers of these members after training."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(EXAMPLES, 1, 8, 8, generator=generator).to(dtype)
    labels = torch.randint(10, (EXAMPLES,), generator=generator)
    model = make(normalisation(len(chosen)), [SEEDS[e] for e in chosen]).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += moved * torch.randn(parameter.shape, generator=generator)
    optimiser = fit.SGD([RATES[e] for e in chosen], momentum=0.9)
    fit.fit(model, images, labels, batches, optimiser, ensemble.cross_entropy)
    state = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    with torch.no_grad():
        return model.eval()(images), state


def all_batches(own, steps):
    """Batches of all members: one for all, or one for each, the first and third alike."""
    draws = [fit.minibatches(EXAMPLES, BATCH, steps, seed) for seed in SEEDS]
    return torch.stack(draws, 1) if own else draws[0]


def largest(ours, theirs):
    """Largest difference of scores, parameters and buffers."""
    pairs = [(ours[0], theirs[0]), *zip(ours[1].values(), theirs[1].values(), strict=True)]
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def member(found, e, count=3):
    """What `trained` returned of one member."""
    scores, state = found
    return scores[:, [e]], {n: members.narrowed(t, [e], count) for n, t in state.items()}


@pytest.mark.parametrize("own", [False, True], ids=["shared batches", "own batches"])
@pytest.mark.parametrize("dtype", STEPS, ids=["float32", "float64"])
@pytest.mark.parametrize("normalisation", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_member_equals_its_run_alone(make, normalisation, dtype, own):
    steps = STEPS[dtype]
    batches = all_batches(own, steps)
    one = (batches[:, 1:2] if own else batches, (1,))  # another seed and rate than its neighbours
    together = trained(make, normalisation, dtype, batches, (0, 1, 2))
    alone = trained(make, normalisation, dtype, *one)
    by = rounding.of_training(steps, LONGEST_SUM, dtype)
    still, moved = (trained(make, normalisation, torch.float64, *one, m) for m in (0.0, by))
    allowed = 2 * largest(still, moved)  # two computations, each off by as much
    assert largest(member(together, 1), alone) <= allowed
    assert largest(member(together, 0), member(together, 2)) > 4 * allowed
