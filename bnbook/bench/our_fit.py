"""Our contender: `bnbook.training.fit.fit`."""

from __future__ import annotations

import numpy as np
from torch import nn

from bnbook.bench import workloads
from bnbook.bench.runner import Runner
from bnbook.bench.workloads import State, Workload
from bnbook.layers import ensemble
from bnbook.training import fit
from bnbook.training.session import Session


class Fit:
    """Training by the package, of any model of the workload.

    The first four arguments are those of `bnbook.bench.runner.Prepare`. `rates` has one for each
    member.
    """

    def __init__(
        self, workload: Workload, steps: int, seed: int, device: str, rates: list[float]
    ) -> None:
        self.images, self.labels = (tensor.to(device) for tensor in workload.data())
        self.batches = workloads.minibatches(workload, self.labels.cpu(), steps, seed)
        self.optimiser = fit.SGD(rates, momentum=workload.momentum)
        self.session = Session(device, plan=workload.plan(device))

    def run(self, model: nn.Module) -> None:
        """Train a model over all minibatches."""
        fit.fit(
            model,
            self.images,
            self.labels,
            self.batches,
            self.optimiser,
            ensemble.cross_entropy,
            session=self.session,
        )


def prepare(workload: Workload, steps: int, seed: int, device: str, rates: list[float]) -> Runner:
    """Build the model of these members, or a model of each where the plan is so; load the data."""
    if workload.plan(device).members == 1 < len(rates):
        return _in_turn([prepare(workload, steps, seed, device, [rate]) for rate in rates])
    ours = Fit(workload, steps, seed, device, rates)
    model = workload.ours(len(rates), seed).to(device)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def reset() -> None:
        model.load_state_dict(initial)

    def state() -> State:
        return workloads.state([model], [len(rates)])

    return Runner(len(rates), reset, lambda: ours.run(model), state)


def _in_turn(runners: list[Runner]) -> Runner:
    """Return the runner that trains networks one after the other."""

    def reset() -> None:
        for runner in runners:
            runner.reset()

    def run() -> None:
        for runner in runners:
            runner.run()

    def state() -> State:
        each = [runner.state() for runner in runners]
        return {name: np.concatenate([part[name] for part in each]) for name in each[0]}

    return Runner(len(runners), reset, run, state)
