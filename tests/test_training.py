"""The training loop on problems with known answers."""

import pytest
import torch
from torch import nn

from bnbook import training
from bnbook.errors import BnbookError


class Scalar(nn.Module):
    """E numbers theta; the output repeats them for each image."""

    def __init__(self, start):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x):
        return self.theta.expand(len(x), -1)


def half_square(outputs, labels):
    return 0.5 * (outputs - labels[:, None]).square().mean(0)


def test_sgd_on_a_quadratic_in_closed_form():
    # theta - 3 shrinks by (1 - alpha) a step; at alpha = 2 it flips sign for ever.
    model = Scalar([1.0, 1.0, 1.0])
    rates = torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    data = torch.zeros(4, 1), torch.full((4,), 3.0, dtype=torch.float64)
    batches = torch.zeros(7, 2, dtype=torch.int64)
    seen = []
    history = training.fit(
        model, *data, batches, rates, half_square,
        probes=[lambda: seen.append(model.theta.clone()) or {"theta": seen[-1]}], at=(0, 1, 7),
    )  # fmt: skip
    expected = 3 - 2 * (1 - rates) ** 7
    torch.testing.assert_close(model.theta.detach(), expected)
    assert [int(row["step"]) for row in history] == [0, 1, 7]
    assert history[0]["loss"].isnan().all()
    torch.testing.assert_close(history[1]["loss"], torch.full((3,), 2.0, dtype=torch.float64))
    mean_loss = (2 * (1 - rates[0]) ** (2 * torch.arange(1, 7))).mean()
    torch.testing.assert_close(history[2]["loss"][0], mean_loss)
    torch.testing.assert_close(history[2]["theta"], expected)


def test_probes_run_in_evaluation_mode_and_training_goes_on_in_training_mode():
    flags = []

    class Modes(Scalar):
        def forward(self, x):
            flags.append(self.training)
            return super().forward(x)

    model = Modes([0.0])
    data = torch.zeros(4, 1), torch.zeros(4, dtype=torch.float64)
    training.fit(
        model, *data, torch.zeros(2, 2, dtype=torch.int64), torch.ones(1).double(), half_square,
        probes=[lambda: {"seen": model(data[0])}], at=(0, 1, 2),
    )  # fmt: skip
    assert flags == [False, True, False, True, False]


def test_minibatches_are_permutations_and_repeat():
    batches = training.minibatches(10, 3, 8, seed=5)
    assert batches.shape == (8, 3)
    for epoch in (batches[:3], batches[3:6]):
        assert len(set(epoch.flatten().tolist())) == 9
    assert torch.equal(batches, training.minibatches(10, 3, 8, seed=5))
    assert not torch.equal(batches, training.minibatches(10, 3, 8, seed=6))
    assert not torch.equal(batches[:3], batches[3:6])


@pytest.mark.parametrize(("n", "size"), [(3, 4), (3, 0)])
def test_impossible_batches(n, size):
    with pytest.raises(BnbookError, match=r"batch_size must lie in \[1, 3\]"):
        training.minibatches(n, size, 1, seed=0)


@pytest.mark.parametrize("at", [(2, 1), (0, 0), (0, 4), (-1, 2)])
def test_impossible_probe_steps(at):
    data = torch.zeros(4, 1), torch.zeros(4)
    with pytest.raises(BnbookError, match=r"at must increase within \[0, 3\]"):
        training.fit(
            Scalar([0.0]), *data, torch.zeros(3, 2, dtype=torch.int64), torch.ones(1), half_square,
            at=at,
        )  # fmt: skip


def test_learning_rates_that_do_not_fit():
    data = torch.zeros(4, 1), torch.zeros(4)
    with pytest.raises(BnbookError, match="learning_rate has 2 members"):
        training.fit(
            Scalar([0.0] * 3), *data, torch.zeros(3, 2, dtype=torch.int64), torch.ones(2),
            half_square,
        )  # fmt: skip


def test_devices():
    assert training.choose_device("cpu").type == "cpu"
    with pytest.raises(BnbookError, match="must be auto, cpu or cuda, found 'abacus'"):
        training.choose_device("abacus")
    if not torch.cuda.is_available():
        assert training.choose_device("auto").type == "cpu"
        with pytest.raises(BnbookError, match="torch sees none"):
            training.choose_device("cuda")
