"""The one training loop of the package; measurements plug in as probes."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from bnbook import files
from bnbook.errors import BnbookError
from bnbook.layers import ensemble, members
from bnbook.training import steps
from bnbook.training.descent import SGD, Loss
from bnbook.training.session import Every, OutOfTimeError, Session

__all__ = ["SGD", "choose_device", "fit", "minibatches", "streams"]

_BATCH_STREAM = 0xBA7C_0000  # keeps the batches of a seed apart from its initial weights; torch's
# generator on the CPU takes the low 32 bits of a seed

_CHUNK = 50  # steps between looks at the clock

Probe = Callable[[], Mapping[str, Tensor]]
"""Measures the model as it stands: names -> tensors whose first axis is the member."""

Ends = Callable[[Tensor], Tensor]
"""Losses of the steps so far, (t, E) -> which members' runs end there, (E,)."""

Row = dict[str, Tensor]


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; ``auto`` takes the GPU if there is one.

    Raises
    ------
    BnbookError
        When the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BnbookError(f"device must be auto, cpu or cuda, found {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BnbookError("device cuda was asked for, torch sees none. Try `--device cpu`.")
    return device


def minibatches(num_examples: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Indices of the minibatches of a run: each epoch is one random permutation.

    The last, incomplete batch of an epoch is dropped. Drawn on the CPU, so that a seed means the
    same batches on every device.

    Parameters
    ----------
    num_examples, batch_size, steps, seed : int
        Size of the training set, of a batch, number of batches, and seed.

    Returns
    -------
    Tensor, (steps, batch_size), int64

    Raises
    ------
    BnbookError
        When a batch is larger than the training set.
    """
    if not 1 <= batch_size <= num_examples:
        raise BnbookError(f"batch_size must lie in [1, {num_examples}], found {batch_size}.")
    per_epoch = num_examples // batch_size
    generator = torch.Generator().manual_seed(_BATCH_STREAM + seed)
    epochs = [
        torch.randperm(num_examples, generator=generator)[: per_epoch * batch_size]
        for _ in range(-(-steps // per_epoch))
    ]
    return torch.cat(epochs).view(-1, batch_size)[:steps].contiguous()


def streams(
    num_examples: int, batch_size: int, steps: int, seeds: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Return the `minibatches` of an ensemble's seeds, each seed's once, as `fit` takes them.

    Parameters
    ----------
    num_examples, batch_size, steps : int
        As for `minibatches`.
    seeds : sequence of int
        Of the E members.

    Returns
    -------
    batches : Tensor, (steps, batch_size) or (steps, S, batch_size), int64
        Of the S distinct seeds, in rising order.
    streams : list of int
        Which of them each member sees.
    """
    distinct = sorted(set(seeds))
    each = [minibatches(num_examples, batch_size, steps, seed) for seed in distinct]
    batches = torch.stack(each, 1) if len(distinct) > 1 else each[0]
    return batches, [distinct.index(seed) for seed in seeds]


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batches: Tensor,
    optimiser: SGD,
    loss: Loss,
    probes: Sequence[Probe] = (),
    at: Sequence[int] = (),
    *,
    streams: Sequence[int] | None = None,
    transform: Callable[[Tensor, int], Tensor] | None = None,
    drop: bool = True,
    ends: Ends | None = None,
    session: Session = Session(),  # noqa: B008, it is frozen
) -> list[Row]:
    r"""Train E members on the minibatches given, and measure them on the way.

    A member whose training loss stops being finite has diverged. It never touches the others. At
    the next measurement it is measured a last time; then, with `drop`, it leaves the computation
    and its later rows repeat that measurement.

    Parameters
    ----------
    model : nn.Module
        Maps (N, ...) images, or (N, E*C, ...) when each member has its own, to E members' outputs.
        The first axis of its parameters and of its buffers, other than scalars, holds the members,
        E or E*C long.
    images, labels : Tensor, (M, ...) and (M,)
        The training set, on the model's device.
    batches : Tensor, (steps, N) or (steps, S, N), int64
        Indices of each step's images: the same for all members, or S streams of minibatches.
    optimiser : SGD
        Learning rates and the other settings of the members.
    loss : callable
        ``(outputs, labels) -> (E,)``, such as `bnbook.layers.ensemble.cross_entropy`.
    probes : sequence of callable
        Each returns names and tensors, the member first. They run in evaluation mode.
    at : sequence of int
        Steps, from 0 (before the first update) to ``len(batches)``, at which the probes run; the
        last step unless told otherwise.
    streams : sequence of int, length E, optional
        Which of S streams each member sees; the e-th unless told otherwise.
    transform : callable, optional
        ``(images of a batch, step) -> images``: augmentation.
    drop : bool
        Whether diverged members leave the computation.
    ends : callable, optional
        ``(losses (t, E) of the steps so far) -> (E,)``, whether a member's run ends there. Asked
        every few steps; a member that ends leaves the computation at once, unmeasured, and its
        later rows repeat the last measurement. One that ends before the first step in `at` is
        measured as it leaves.
    session : Session
        Plan, checkpoint, deadline and progress. With a checkpoint file an interrupted run goes on
        where it was and ends, on a CPU, with the same bits; the file stays for its owner to remove.

    Returns
    -------
    list of dict
        One per step in `at`: ``step``, ``loss`` (E,) (mean training loss since the row before; NaN
        for the row of step 0), ``diverged_at`` (E,) (the step, from 1, whose loss was not finite;
        -1 for none) and what the probes return, all detached. With `ends`, the last row has
        ``losses`` (E, steps), NaN after a run's end. The model is left as trained; members that
        were dropped are no longer in it.

    Raises
    ------
    BnbookError
        When `at` is not increasing within [0, steps], the settings do not fit the model, or the
        checkpoint is another run's.
    OutOfTimeError
        When the session's deadline passes: the state is in the checkpoint, if there is one. When
        the session is a trial, as soon as its steps are timed.
    """
    count = len(batches)
    at = at or (count,)
    if list(at) != sorted(set(at)) or not 0 <= at[0] <= at[-1] <= count:
        raise BnbookError(f"at must increase within [0, {count}], found {list(at)}.")
    optimiser.check(count)
    if session.plan.channels_last and images.dim() == 4:
        ensemble.channels_last(model)
        images = images.contiguous(memory_format=torch.channels_last)
    batches = batches.to(images.device)
    of = list(streams or range(len(optimiser.learning_rate)))
    run = _Run(model, optimiser, loss, probes, at, drop, ends, session)

    def advance(first: int, stop: int) -> None:
        model.train()
        own = torch.tensor([of[e] for e in run.kept], device=images.device)
        for step in range(first, stop if run.kept else first):
            batch = batches[step] if batches.dim() == 2 else batches[step, own]
            x = images[batch]
            run.step(step, x if transform is None else transform(x, step), labels[batch])
            if step + 1 < stop and session.out_of_time():
                run.pause(step + 1)

    with _matmul_precision(session.plan.precision):
        if session.trial is not None:
            session.trial.total = count
            session.trial.seconds = _timed(advance, min(session.trial.steps, count), images.device)
            raise OutOfTimeError("the steps of the trial are timed.")
        run.begin(count)
        for stop in sorted({*at, *range(_CHUNK, count, _CHUNK), count} - {0}):
            if stop > run.done:
                advance(run.done, stop)
                run.close(stop)
    return run.history


def _timed(
    advance: Callable[[int, int], None], steps: int, device: torch.device, repeats: int = 3
) -> float:
    """Warm up, time the same steps a few times, and return the best time of one."""
    best = float("inf")
    for _ in range(1 + repeats):
        started = time.perf_counter()
        advance(0, steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best / steps


class _Run:
    """The state of a `fit`, between chunks of steps."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: SGD,
        loss: Loss,
        probes: Sequence[Probe],
        at: Sequence[int],
        drop: bool,
        ends: Ends | None,
        session: Session,
    ) -> None:
        self.model, self.optimiser, self.loss = model, optimiser, loss
        self.probes, self.at, self.drop, self.ends = probes, at, drop, ends
        self.session = session
        first, count = next(model.parameters()), len(optimiser.learning_rate)
        self.kept = list(range(count))  # members that still train
        self.held = self.kept  # members in the model: the last to leave stay in it
        self.done, self.measured = 0, 0
        self.total = torch.zeros(count, dtype=first.dtype, device=first.device)
        self.diverged_at = torch.full((count,), -1, device=first.device)
        self.history: list[Row] = []
        self.last: Row = {}  # the last measurement: of the last row, or of members without one
        self.losses: list[Tensor] = []
        self.all_losses = torch.empty(0, count, dtype=first.dtype, device=first.device)
        self.update = steps.choose(model, loss, optimiser, session.plan)
        self.safe, self.beat = Every(session.interval), Every(1.0)

    def begin(self, count: int) -> None:
        """Take up what the checkpoint holds, or measure at step 0 if that is asked for."""
        self.count = count
        path = self.session.checkpoint
        if path is not None and path.is_file():
            self._load(_read(path))
        elif self.at[0] == 0:
            self._measure(0)

    def step(self, step: int, x: Tensor, y: Tensor) -> None:
        schedule = self.optimiser.schedule
        factor = None if schedule is None else schedule[step]
        if factor is not None and factor.dim() == 1:
            factor = factor[self.kept]
        self.losses.append(self.update(x, y, factor).clone())

    def close(self, stop: int) -> None:
        """Account for the steps since the last call; measure, report and save as is due."""
        if self.losses:
            self._account(torch.stack(self.losses), stop - len(self.losses))
            self.losses = []
        self.done = stop
        if stop in self.at:
            self._measure(stop)
        if self.ends is not None:
            self._end(self.ends)
        if self.beat.due():
            diverged = int((self.diverged_at >= 0).sum())
            self.session.report(stop, len(self.diverged_at), diverged)
        if stop < self.count and self.session.out_of_time():
            self.pause(stop)
        if stop < self.count and self.safe.due():
            self._save()

    def pause(self, done: int) -> None:
        """Leave the state in the checkpoint and stop, in the midst of a chunk if need be."""
        self.done = done
        self._save()
        raise OutOfTimeError(
            f"the time was up after {done} of {self.count} steps. Run the same command again to go"
            " on from there."
        )

    def _account(self, losses: Tensor, before_them: int) -> None:
        """Add up losses, (steps, E kept), and mark the members that diverged in these steps."""
        kept = torch.tensor(self.kept, device=losses.device)
        self.total[kept] += losses.cumsum(0)[-1]  # in order, whatever the number of members
        if self.ends is not None:
            every = torch.full((len(losses), len(self.total)), torch.nan).to(losses)
            every[:, kept] = losses
            self.all_losses = torch.cat((self.all_losses, every))
        bad = ~losses.isfinite()
        first = before_them + 1 + bad.to(torch.uint8).argmax(0)
        before = self.diverged_at[kept]
        self.diverged_at[kept] = torch.where((before < 0) & bad.any(0), first, before)

    def _measure(self, stop: int) -> None:
        row = {"step": torch.tensor(stop)}
        since = stop - self.measured
        gone = torch.ones_like(self.total, dtype=torch.bool)
        gone[self.kept] = False
        row["loss"] = (self.total / (since or torch.nan)).masked_fill(gone, torch.nan)
        row["diverged_at"] = self.diverged_at.clone()
        if self.kept:
            row |= self._probed()
        else:
            row |= {k: v.clone() for k, v in self.last.items() if k not in row}
        self.history.append(row)
        self.last = row
        self.total.zero_()
        self.measured = stop
        if self.drop:
            self._drop()

    def _probed(self) -> Row:
        """Run the probes on the members kept; those that left keep their last measurement."""
        self.model.eval()
        with torch.no_grad(), self.update.evaluating():
            found = {name: value for probe in self.probes for name, value in probe().items()}
        return {name: self._full(name, value) for name, value in found.items()}

    def _end(self, ends: Ends) -> None:
        """Let the members leave whose run ends here; with the last row give all their losses."""
        if self.kept:
            over = ends(self.all_losses)[self.held].tolist()
            if any(over):
                self.last = self.last if self.history else self._probed()
                self._narrow([i for i, is_over in enumerate(over) if not is_over])
        if self.done == self.count:
            missing = self.count - len(self.all_losses)
            self.history[-1]["losses"] = nn.functional.pad(
                self.all_losses.T, (0, missing), value=torch.nan
            )

    def _full(self, name: str, value: Tensor) -> Tensor:
        """Complete a measurement of the members kept by the last one of those dropped."""
        if len(self.kept) == len(self.diverged_at):
            return value.detach().clone()
        full = self.last[name].clone()
        full[self.kept] = value.detach().to(full)
        return full

    def _drop(self) -> None:
        """Let diverged members leave the model and the step."""
        if not bool((self.diverged_at[self.kept] >= 0).any()):
            return
        diverged = self.diverged_at.tolist()
        positions = [i for i, e in enumerate(self.kept) if diverged[e] < 0]
        self._narrow(positions)

    def _narrow(self, positions: list[int]) -> None:
        if not positions:
            self.kept = []
            return
        velocity, before = self.update.velocity, len(self.held)
        members.keep(self.model, positions, before)
        if self.session.plan.channels_last:
            ensemble.channels_last(self.model)
        self.kept = self.held = [self.held[i] for i in positions]
        optimiser = self.optimiser.of(self.kept)
        self.update = steps.choose(self.model, self.loss, optimiser, self.session.plan)
        for new, old in zip(self.update.velocity, velocity, strict=True):
            new.copy_(members.narrowed(old, positions, before))

    def _state(self) -> list[Tensor]:
        """Return the tensors that a checkpoint holds, in a fixed order."""
        own = [*self.model.parameters(), *self.model.buffers()]
        return [*own, *self.update.velocity, self.total, self.diverged_at]

    def _save(self) -> None:
        if self.session.checkpoint is None:
            return
        content = {
            "done": self.done,
            "measured": self.measured,
            "count": self.count,
            "kept": self.kept,
            "held": self.held,
            "losses": [loss.cpu() for loss in self.losses],
            "all_losses": self.all_losses.cpu(),
            "state": [tensor.detach().cpu() for tensor in self._state()],
            "history": [{k: v.cpu() for k, v in row.items()} for row in self.history],
            "last": {k: v.cpu() for k, v in self.last.items()},
        }
        sink = io.BytesIO()
        torch.save(content, sink)
        files.write_bytes(self.session.checkpoint, sink.getvalue())

    def _load(self, content: dict[str, Any]) -> None:
        if content["count"] != self.count or not set(content["held"]) <= set(self.held):
            raise BnbookError(
                f"the checkpoint {self.session.checkpoint} is of a run of {content['count']} steps"
                f" that holds the members {content['held']}, this one has {self.count} steps and"
                f" {len(self.held)} members. It was left as it is; remove it to start afresh."
            )
        if content["held"] != self.held:
            self._narrow(content["held"])
        self.kept = content["kept"]
        self._check_sizes(content["state"])
        device = self.total.device
        with torch.no_grad():
            for tensor, value in zip(self._state(), content["state"], strict=True):
                tensor.copy_(value)
        self.history = [{k: v.to(device) for k, v in row.items()} for row in content["history"]]
        self.last = {k: v.to(device) for k, v in content["last"].items()}
        self.losses = [loss.to(device) for loss in content["losses"]]
        self.all_losses = content["all_losses"].to(device)
        self.done, self.measured = content["done"], content["measured"]

    def _check_sizes(self, state: Sequence[Tensor]) -> None:
        expected, found = ([tuple(t.shape) for t in each] for each in (self._state(), state))
        if expected != found:
            raise BnbookError(
                f"the checkpoint {self.session.checkpoint} is of another network or optimiser:"
                f" expected tensors of shapes {expected}, found {found}. It was left as it is;"
                " remove it to start afresh."
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError) as error:
        raise BnbookError(
            f"the checkpoint {path} cannot be read ({error}). It was left as it is; remove it to"
            " start that run afresh."
        ) from error
    return content


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    """Allow a GPU's matrix products and convolutions tf32, or forbid it, and put it back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
