"""Normalisation broken on purpose: a check that has never been seen to fail is no evidence.

The tests of values must reject each mutant of group normalisation (those of batch normalisation are
in `bnbook.conformance.mutants`, and test_conformance.py has them caught), and a layer that does
nothing must turn the claims red.
"""

import pytest
import torch
from torch import nn

from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1
from bnbook.layers import norm
from bnbook.layers.norm import BatchNorm, GroupNorm
from tests.judging import criterion


class StatisticsOfTheBatch(GroupNorm):
    """One mean and variance of a group for all examples."""

    def _reduced(self, groups):
        return (0, *super()._reduced(groups))


class PooledOverMembers(GroupNorm):
    """The groups of a single network, over the features of all members."""

    def _grouped(self, x):
        members, self.members = self.members, 1
        groups = super()._grouped(x)
        self.members = members
        return groups


class InterleavedMembers(GroupNorm):
    """The features taken as (C, E) where they are (E, C)."""

    def forward(self, x):
        def swap(x, members):
            return x.unflatten(1, (members, -1)).transpose(1, 2).flatten(1, 2)

        weight, bias = self.weight[None, :, None], self.bias[None, :, None]
        plain = GroupNorm(self.num_groups, self.num_features, self.members, self.eps)
        swapped = plain.double()(swap(x, self.num_features // self.members))
        return weight * swap(swapped, self.members) + bias


class PositionsApart(GroupNorm):
    """A mean and variance for each position, over the features of a group alone."""

    def _reduced(self, groups):
        return (2,)


GROUP_MUTANTS = {
    StatisticsOfTheBatch: {"output", "input gradient", "one example"},
    PooledOverMembers: {"output", "input gradient", "members"},
    InterleavedMembers: {"output", "input gradient", "members"},
    PositionsApart: {"output", "input gradient"},
}


def group_disagreements(layer_class):
    """What differs from torch's layer for each of two members, and what should not matter."""
    torch.manual_seed(0)
    ours = layer_class(3, 12, members=2).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    x = torch.randn(5, 12, 3, dtype=torch.float64) * torch.arange(1, 13)[:, None] + 1
    cotangent = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    y = ours(leaf)
    (to_x,) = torch.autograd.grad((y * cotangent).sum(), leaf)
    expected = []
    for weight, bias, part, c in zip(
        *(t.chunk(2) for t in (ours.weight, ours.bias)),
        *(t.chunk(2, 1) for t in (x, cotangent)),
        strict=True,
    ):
        leaf = part.clone().requires_grad_()
        z = nn.functional.group_norm(leaf, 3, weight, bias)
        expected.append((z, *torch.autograd.grad((z * c).sum(), leaf, retain_graph=True)))
    theirs = [torch.cat(parts, 1) for parts in zip(*expected, strict=True)]
    other = torch.cat([x[:, :6], torch.randn_like(x[:, 6:])], 1)
    pairs = {
        "output": (y, theirs[0]),
        "input gradient": (to_x, theirs[1]),
        "one example": (ours(x[:1]), y[:1]),
        "members": (ours(other)[:, :6], y[:, :6]),
    }
    return {n for n, (a, b) in pairs.items() if not torch.allclose(a, b, rtol=1e-10, atol=1e-10)}


def test_group_norm_itself_passes():
    assert group_disagreements(GroupNorm) == set()


@pytest.mark.parametrize("mutant", GROUP_MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_mutant_of_group_norm_is_caught_where_it_is_wrong(mutant):
    assert group_disagreements(mutant) == GROUP_MUTANTS[mutant]


class NoNormalisation(BatchNorm):
    """Scale and shift only."""

    def forward(self, x):
        return self.weight * x + self.bias


def verdicts():
    config = ioffe_fig1.configure(
        "quick",
        data="digits",
        steps=200,
        learning_rates=(0.01, 0.1),
        probe_intervals=10,
        seeds=(0, 1, 2, 3),
        hidden=(50, 50, 50),
        validation=300,
        probe_images=200,
    )
    table = ioffe_fig1.run(config, "cpu")
    return {c.id: criterion(c, table).verdict for c in ioffe_fig1.claims}


def test_claims_turn_red_for_a_layer_that_does_nothing(monkeypatch):
    """At rates too small for the plain network, BN wins; a layer that does nothing does not."""
    healthy = verdicts()
    monkeypatch.setattr(norm, "BatchNorm", NoNormalisation)
    broken = verdicts()
    assert healthy["ioffe.fig1a.accuracy"] == healthy["ioffe.fig1bc.stability"] == "reproduced"
    assert broken["ioffe.fig1a.accuracy"] != "reproduced"
    assert broken["ioffe.fig1bc.stability"] != "reproduced"
