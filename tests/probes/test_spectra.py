"""Singular values of products against 60 digits; Jacobians against torch's own and closed forms."""

import mpmath
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.probes import spectra


def exact(matrices):
    """Singular values of a product in 60 digits."""
    with mpmath.workdps(60):
        product = mpmath.matrix(matrices[0].tolist())
        for matrix in matrices[1:]:
            product = product * mpmath.matrix(matrix.tolist())
        values = [float(s) for s in mpmath.svd_r(product, compute_uv=False)]
    return torch.tensor(sorted(values, reverse=True), dtype=torch.float64)


@pytest.fixture(scope="module")
def many():
    return spectra.gaussian_matrices(10, 30, torch.Generator().manual_seed(1))


def test_small_singular_values_are_not_lost(many):
    theirs = exact(many)
    assert theirs[0] / theirs[-1] > 1e13
    assert (spectra.product_singular_values(many) / theirs - 1).abs().max() < 1e-11
    # Mutant: the product formed, then decomposed.
    formed = torch.linalg.svdvals(torch.linalg.multi_dot(many))
    assert (formed / theirs - 1).abs().max() > 1e-5


def test_known_products():
    d = torch.tensor([3.0, 1.0, 1e-2], dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    found = spectra.product_singular_values([Q * d @ Q.T] * 12)
    assert found.tolist() == pytest.approx([3**12, 1, 1e-24], rel=1e-10)
    found = spectra.product_singular_values([torch.diag(d), torch.diag(1 / d)])
    assert found.tolist() == pytest.approx([1, 1, 1], rel=1e-12)


def test_the_order_of_the_factors_matters():
    A, B = torch.tensor([[1.0, 1], [0, 1]]), torch.diag(torch.tensor([1.0, 1e-3]))
    found = spectra.product_singular_values([A, B])
    assert found == pytest.approx(torch.linalg.svdvals((A @ B).double()), rel=1e-6)
    assert found != pytest.approx(torch.linalg.svdvals((B @ A).double()), rel=1e-6)


@pytest.mark.parametrize(
    ("matrices", "says"),
    [
        ([], "one or more"),
        ([torch.ones(2, 3)], "square"),
        ([torch.eye(2), torch.eye(3)], "one size"),
        ([torch.zeros(2, 2)], "full rank"),
    ],
)
def test_impossible_products(matrices, says):
    with pytest.raises(BnbookError, match=says):
        spectra.product_singular_values(matrices)


def test_gaussian_matrices_have_variance_one_over_n():
    drawn = spectra.gaussian_matrices(200, 3, torch.Generator().manual_seed(0))
    for matrix in drawn:
        assert matrix.var().item() * 200 == pytest.approx(1, rel=0.03)
    assert not torch.equal(drawn[0], drawn[1])


def network(normalised, n=2):
    return models.ResNet(
        norm.BatchNorm if normalised else None,
        (3,),
        n=n,
        in_channels=1,
        widths=(4, 6, 8),
        init_std=ensemble.xavier,
    ).double()


@pytest.fixture
def images():
    return torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def plain_by_hand(model, x):
    x = model.stem_norm(model.stem(x)).relu()
    for block in model.blocks:
        for conv, bn in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
            y = torch.nn.functional.conv2d(x, conv.weight[0], None, conv.stride, 1)
            x = torch.nn.functional.relu(bn(y))
    return x.mean((2, 3)) @ model.output.weight[0].T + model.output.bias[0]


@pytest.mark.parametrize("normalised", [True, False])
def test_scores_with_and_without_shortcuts(images, normalised):
    model = network(normalised)
    model.train()
    assert torch.equal(spectra.scores(model, images), model(images))
    found = spectra.scores(model, images, shortcuts=False)
    torch.testing.assert_close(found[:, 0], plain_by_hand(model, images))
    assert (found - model(images)).abs().max() > 1e-3


@pytest.mark.parametrize("shortcuts", [True, False])
def test_held_statistics_are_those_of_the_batch_as_in_training(images, shortcuts):
    model = network(True)
    model.train()
    as_in_training = spectra.scores(model, images, shortcuts)
    spectra.hold_statistics(model, images, shortcuts)
    assert not model.training
    held = spectra.scores(model, images, shortcuts)
    torch.testing.assert_close(held, as_in_training)
    # Each image is now on its own: the others may change.
    other = torch.cat([images[:1], torch.randn_like(images[1:])])
    torch.testing.assert_close(spectra.scores(model, other, shortcuts)[0], held[0])
    # Mutant: the running statistics of one training step are not the batch's.
    model = network(True).train()
    spectra.scores(model, images, shortcuts)
    model.eval()
    assert (spectra.scores(model, images, shortcuts) - as_in_training).abs().max() > 1e-2


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("shortcuts", [True, False])
def test_jacobians_are_torchs(images, normalised, shortcuts):
    model = network(normalised)
    spectra.hold_statistics(model, images, shortcuts)
    found = spectra.jacobians(model, images[:2], shortcuts)
    for i in range(2):
        theirs = torch.func.jacrev(
            lambda x: spectra.scores(model, x[None], shortcuts)[0, 0]
        )(images[i])  # fmt: skip
        torch.testing.assert_close(found[i], theirs.reshape(10, -1))


def test_the_jacobian_of_a_linear_network_is_the_product_of_its_maps(images):
    """Identity kernels and shortcuts cut: all that is left is averaging and the last layer."""
    model = models.ResNet(None, (0,), n=1, in_channels=2, widths=(2, 2, 2)).double().eval()
    with torch.no_grad():
        for conv in model.convolutions:
            conv.weight.zero_()
            for channel in range(2):
                conv.weight[0, channel, channel, 1, 1] = 0.5
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64) + 0.1  # positive: ReLU does nothing
    found = spectra.jacobians(model, x, shortcuts=False)[0].view(10, 2, 8, 8)
    expected = torch.zeros_like(found)
    # Seven layers halve; the two strides of 2 keep every fourth row and column of 8, 4 in all.
    expected[:, :, ::4, ::4] = (model.output.weight[0] * 0.5**7 / 4)[:, :, None, None]
    torch.testing.assert_close(found, expected)


def test_jacobians_want_one_member_in_evaluation_mode(images):
    model = network(True)
    with pytest.raises(BnbookError, match=r"one member and be in evaluation mode, found 1, .*True"):
        spectra.jacobians(model, images)
    pair = models.ResNet(None, (0, 1), n=1, in_channels=1).double().eval()
    with pytest.raises(BnbookError, match="found 2"):
        spectra.jacobians(pair, images)
