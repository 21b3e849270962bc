"""Lightning and skorch, with what a user has by default unless it only slows them down.

Both get the tutorial's DataLoader. Off in Lightning: logger, checkpoints, progress bar and model
summary. Off in skorch: the validation split, which would be other work, and printing.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from skorch import NeuralNetClassifier
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.bench import workloads
from bnbook.bench.runner import Runner, loader
from bnbook.bench.workloads import Workload


class _Lit(pl.LightningModule):
    """The network as a Lightning module."""

    def __init__(self, network: nn.Module, rate: float) -> None:
        super().__init__()
        self.network, self.rate = network, rate

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class _Stopwatch(pl.Callback):
    """Times the training loop, without the checks that Lightning makes before it."""

    seconds = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.began


class _Lightning:
    """A Lightning run that can start again."""

    def __init__(self, workload: Workload, steps: int, seed: int, device: str) -> None:
        self.workload, self.steps, self.seed, self.device = workload, steps, seed, device
        self.loader = loader(workload, steps, seed)
        self.reset()

    def reset(self) -> None:
        logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
        self.watch = _Stopwatch()
        self.module = _Lit(
            self.workload.single(self.seed), self.workload.rates(self.workload.members)[0]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = pl.Trainer(
                max_steps=self.steps,
                accelerator="gpu" if self.device == "cuda" else "cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[self.watch],
            )

    def run(self) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that more loader workers might be faster
            self.trainer.fit(self.module, self.loader)
        return self.watch.seconds

    def state(self) -> workloads.State:
        return workloads.state([self.module.network], [1])


def lightning(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare PyTorch Lightning; its seconds are those from ``on_train_start`` to the end."""
    made = _Lightning(workload, steps, seed, device)
    return Runner(1, made.reset, made.run, made.state)


class _Skorch:
    """A skorch net that can start again."""

    def __init__(self, workload: Workload, steps: int, seed: int, device: str) -> None:
        self.workload, self.seed, self.device = workload, seed, device
        self.images, self.labels = workload.data()
        self.order = workloads.minibatches(workload, self.labels, steps, seed).flatten().tolist()
        self.reset()

    def reset(self) -> None:
        self.net = NeuralNetClassifier(
            self.workload.single(self.seed),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.SGD,
            lr=self.workload.rates(self.workload.members)[0],
            batch_size=self.workload.batch,
            max_epochs=1,
            iterator_train__sampler=self.order,
            iterator_train__drop_last=True,
            train_split=None,
            verbose=0,
            device=self.device,
        ).initialize()

    def run(self) -> None:
        self.net.partial_fit(self.images, self.labels)

    def state(self) -> workloads.State:
        return workloads.state([self.net.module_], [1])


def skorch(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare skorch: one epoch of so many steps."""
    made = _Skorch(workload, steps, seed, device)
    return Runner(1, made.reset, made.run, made.state)
