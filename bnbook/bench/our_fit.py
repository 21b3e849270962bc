"""Our contender: `bnbook.training.fit.fit`."""

from __future__ import annotations

from torch import nn

from bnbook.bench import workloads
from bnbook.bench.runner import Runner
from bnbook.bench.workloads import State, Workload
from bnbook.layers import ensemble
from bnbook.training import fit
from bnbook.training.session import Session


class Fit:
    """Training by the package, of any model of the workload.

    Parameters
    ----------
    workload, steps, seed, device
        See `bnbook.bench.runner.Prepare`.
    rates : list of float
        Of the members.
    """

    def __init__(
        self, workload: Workload, steps: int, seed: int, device: str, rates: list[float]
    ) -> None:
        self.images, self.labels = (tensor.to(device) for tensor in workload.data())
        self.batches = workloads.minibatches(workload, self.labels.cpu(), steps, seed)
        self.rates, self.session = rates, Session(device, plan=workload.plan(device))

    def run(self, model: nn.Module) -> None:
        """Train a model over all minibatches."""
        fit.fit(
            model,
            self.images,
            self.labels,
            self.batches,
            fit.SGD(self.rates),
            ensemble.cross_entropy,
            session=self.session,
        )


def prepare(workload: Workload, steps: int, seed: int, device: str, rates: list[float]) -> Runner:
    """Build the model of these members and load the data."""
    ours = Fit(workload, steps, seed, device, rates)
    model = workload.ours(len(rates), seed).to(device)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def reset() -> None:
        model.load_state_dict(initial)

    def state() -> State:
        return workloads.state([model], [len(rates)])

    return Runner(len(rates), reset, lambda: ours.run(model), state)
