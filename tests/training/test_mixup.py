"""Mixup: means of pairs, losses of both labels, weights as they are drawn."""

import pytest
import torch

from bnbook.layers import ensemble
from bnbook.training.mixup import Mixup


def test_images_and_losses_are_those_of_pairs():
    """Against cross-entropy with soft labels, written out."""
    generator = torch.Generator().manual_seed(0)
    mixup = Mixup(ensemble.cross_entropy, 5)
    x = torch.randn(6, 1, 2, 2, generator=generator)
    labels = torch.randint(3, (6,), generator=generator)
    logits = torch.randn(6, 2, 3, generator=generator)
    for step in (3, 1):
        share = mixup.shares[step].item()
        mixed = mixup.transform(x, step)
        torch.testing.assert_close(mixed[1], share * x[1] + (1 - share) * x[4])
        one_hot = torch.eye(3)[labels]
        soft = share * one_hot + (1 - share) * one_hot.flip(0)
        expected = -(soft[:, None] * logits.log_softmax(-1)).sum(-1).mean(0)
        torch.testing.assert_close(mixup.loss(logits, labels), expected)


def test_members_with_their_own_images_mix_within_them():
    mixup = Mixup(ensemble.cross_entropy, 1)
    x = torch.randn(2, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    each = [mixup.transform(own, 0) for own in x]
    assert torch.equal(mixup.transform(x, 0), torch.stack(each))
    labels = torch.tensor([[0, 1], [1, 1], [2, 0], [0, 2]])
    logits = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    apart = [mixup.loss(logits[:, [e]], labels[:, e])[0] for e in range(2)]
    torch.testing.assert_close(mixup.loss(logits, labels), torch.stack(apart))


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / (4 * 1.4))])
def test_weights_have_the_moments_of_a_beta_distribution(alpha, variance):
    """Var Beta(a, a) = 1 / (4 (2a + 1)); 20,000 draws, five standard errors of mean."""
    shares = Mixup(ensemble.cross_entropy, 20_000, alpha).shares
    assert shares.mean().item() == pytest.approx(0.5, abs=5 * (variance / 20_000) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.03)
    assert 0 <= shares.min() <= shares.max() <= 1
