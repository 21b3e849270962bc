"""Findings about running statistics: whether they fit, and what it costs where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from bnbook.diagnose import layers as state
from bnbook.diagnose.findings import ERROR, NOTE, WARNING, Finding, Kind, make
from bnbook.diagnose.layers import Layer
from bnbook.diagnose.passes import (
    TINY,
    Batch,
    Call,
    Noise,
    Seen,
    Subject,
    noise,
    output_of,
    population,
)  # fmt: skip
from bnbook.layers.precise import Statistics

INFERENCE = "13-training-and-inference"
PRECISE = "from bnbook.layers.precise import PreciseBN; PreciseBN(model).update(batches)"

MEAN_OFF, VARIANCE_OFF = 0.25, math.log(1.5)
"""From where statistics count as off: a quarter of a standard deviation, a factor of 1.5."""
ERRORS_OFF = 4.0
"""And beyond so many standard errors of a running average of these batches."""
ONE_VALUE = 1 / 3
"""Share of a variance that one value may have: without it the variance would be 1.5 times less."""
SWAPS = 10
"""Passes that may be spent on swapping the statistics of one layer at a time."""

NEVER = Kind(
    "never updated", ERROR,
    "running statistics that have left mean 0 and variance 1, for no layer's inputs have these"
    " by chance",
    "evaluation normalises with numbers that have nothing to do with the data",
    PRECISE, INFERENCE,
)  # fmt: skip
START = Kind(
    "momentum too small", WARNING,
    "less than 5 % of the start (mean 0, variance 1) left in the running average: momentum times"
    " batches seen above 3",
    "evaluation normalises in part with the start, mean 0 and variance 1",
    PRECISE, INFERENCE,
)  # fmt: skip
OTHER = Kind(
    "other statistics", WARNING,
    "running and population statistics closer than a quarter of a standard deviation and a factor"
    " of 1.5 in variance, or than 4 standard errors of the running average",
    "evaluation normalises with the statistics of other data, or of other weights",
    PRECISE, INFERENCE,
)  # fmt: skip
LAST = Kind(
    "momentum too large", NOTE,
    "momentum of 0.1 or less, in torch the weight of the new batch, so that an average is worth 19"
    " batches or more; Keras and Flax count the other way round",
    "evaluation uses the statistics of the last batch or two",
    'model.get_submodule("{layer}").momentum = 0.1', INFERENCE,
)  # fmt: skip
INFINITE = Kind(
    "not finite", ERROR,
    "finite running statistics: one batch with an overflow spoils them for good",
    "every output in evaluation is NaN or constant",
    'model.get_submodule("{layer}").reset_running_stats(); ' + PRECISE, INFERENCE,
)  # fmt: skip
INPUTS = Kind(
    "inputs not finite", ERROR,
    "finite inputs of every layer in every batch",
    "the batch's statistics, and the running ones after one such step, are NaN",
    "torch.autograd.set_detect_anomaly(True)  # then one step on this batch", "34-how-it-diverges",
)  # fmt: skip
OUTLIERS = Kind(
    "outliers", WARNING,
    "no single value that makes up a third of a channel's variance over all batches, and so raises"
    " it by half; of m normal values the largest has a share of about 2 log(m) / m",
    "one value sets the scale, and the others shrink towards the mean",
    "batches = [x.clamp(-10, 10) for x in batches]  # on standardised inputs", "11-transform",
)  # fmt: skip
SMALL = Kind(
    "batches too small", WARNING,
    "8 or more independent values a batch, so that its mean is within 0.35 standard deviations of"
    " the population's; below 6 is reported",
    "training normalises with noise: an output depends on its companions, and evaluation is another"
    " function than training",
    "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # or GroupNorm, or larger batches",
    INFERENCE,
)  # fmt: skip
ONE = Kind(
    "batch of one", ERROR,
    "two examples or more in every training batch: one value has no variance",
    "torch refuses one value a feature; with maps, the layer normalises each example by itself",
    "DataLoader(..., drop_last=True)", INFERENCE,
)  # fmt: skip
SHARED = Kind(
    "shared", WARNING,
    "one use of a layer in a pass, or inputs that agree within half a standard deviation: there is"
    " one pair of running statistics for all uses",
    "in evaluation each use gets the average of all uses' statistics",
    "# give each use a layer of its own; they may share weight and bias", INFERENCE,
)  # fmt: skip
DROPOUT = Kind(
    "dropout before", WARNING,
    "the same variance with dropout and without: what is noise in training must not change the"
    " statistics that evaluation will use",
    "running variances belong to a network with dropout, which evaluation is not",
    "# move dropout behind the last batch normalisation, or: " + PRECISE, INFERENCE,
)  # fmt: skip


class Fit(NamedTuple):
    """How a layer's running statistics fit the population's.

    Attributes
    ----------
    mean, variance : float
        Root mean square over channels: of the difference of means in standard deviations, and of
        the logarithm of the ratio of variances.
    mean_error, variance_error : float
        The same that sampling lets expect of a running average.
    """

    mean: float
    variance: float
    mean_error: float
    variance_error: float

    @property
    def off(self) -> bool:
        """Whether they differ by more than is normal."""
        return (
            self.mean > max(MEAN_OFF, ERRORS_OFF * self.mean_error)
            or self.variance > max(VARIANCE_OFF, ERRORS_OFF * self.variance_error)
        )  # fmt: skip


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def fit(layer: Layer, calls: list[Call]) -> Fit:
    """Hold a layer's running statistics against the population's."""
    mean, var = population(calls)
    own = Statistics(*(b.double().cpu() for b in (layer.module.running_mean,
                                                  layer.module.running_var)))  # fmt: skip
    spread = var + layer.eps
    error = noise(calls)
    momentum = layer.momentum
    seen = layer.batches_seen or 1
    weight = 1 / seen if momentum is None else momentum / (2 - momentum)
    worth = weight + 1 / len(calls)
    return Fit(
        _rms((own.mean - mean) / spread.sqrt()),
        _rms(((own.var + layer.eps) / spread).clamp_min(TINY).log()),
        math.sqrt(float(error.mean.mean()) * worth),
        math.sqrt(float(error.log_var.mean()) * worth),
    )


@dataclass
class Gap:
    """How outputs and losses differ between ways to normalise, summed over batches.

    Attributes
    ----------
    losses : dict of str to float
        Mean over batches, for ``batch`` (the batch's statistics), ``running`` and ``population``.
    noise : float
        Distance between the outputs with the batch's statistics and with the population's, in
        units of the outputs' spread over examples.
    stale : float
        The same between running and population statistics.
    layers : dict of str to float
        The same of one layer alone with its running statistics; for layers that were tried.
    layer_losses : dict of str to float
        By how much the loss is higher then; NaN without a loss.
    """

    losses: dict[str, float] = field(default_factory=dict)
    noise: float = math.nan
    stale: float = math.nan
    layers: dict[str, float] = field(default_factory=dict)
    layer_losses: dict[str, float] = field(default_factory=dict)


class _Distance:
    """Squared differences of outputs over their squared spread, over several batches."""

    def __init__(self) -> None:
        self.apart = self.spread = 0.0

    def add(self, outputs: Tensor, reference: Tensor) -> None:
        """Count one batch."""
        off = reference.double() - reference.double().mean(0, keepdim=True)
        self.apart += float((outputs.double() - reference.double()).square().sum())
        self.spread += float(off.square().sum())

    def value(self) -> float:
        """Root of the quotient; infinite where outputs are not finite."""
        if not math.isfinite(self.apart):
            return math.inf
        return math.sqrt(self.apart / max(self.spread, TINY))


def gaps(subject: Subject, trained: Seen, still: Seen) -> Gap:
    """Measure what each layer's running statistics do to outputs and loss.

    One layer at a time gets its running statistics, all others those of the population. The layers
    whose statistics fit worst are tried first, on as many batches as `SWAPS` passes pay.
    """
    truth = {n: population(calls) for n, calls in still.items()
             if n in subject.live and subject.layers[n].tracked}  # fmt: skip
    own = {n: _own(subject.layers[n]) for n in truth}
    tried, batches = _tried(subject, trained, truth)
    found = _Sums({name: _Distance() for name in tried})
    for number, batch in enumerate(subject.batches):
        reference, loss = _with(subject, batch, truth)
        for name in tried if number < batches else ():
            outputs, its_loss = _with(subject, batch, truth | {name: own[name]})
            found.layers[name].add(outputs, reference)
            found.layer_losses.setdefault(name, []).append(its_loss - loss)
        outputs, running = _with(subject, batch, {})
        found.stale.add(outputs, reference)
        with subject.mode(subject.as_batch):
            given = subject.forward(batch)
            found.noise.add(output_of(given), reference)
            losses = {"batch": subject.loss_of(given, batch), "running": running}
        for name, value in (losses | {"population": loss}).items():
            found.losses.setdefault(name, []).append(value)
    return found.gap()


@dataclass
class _Sums:
    layers: dict[str, _Distance]
    stale: _Distance = field(default_factory=_Distance)
    noise: _Distance = field(default_factory=_Distance)
    layer_losses: dict[str, list[float]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)

    def gap(self) -> Gap:
        """Return what was found."""
        return Gap(
            {name: _mean(values) for name, values in self.losses.items()},
            self.noise.value(),
            self.stale.value(),
            {name: distance.value() for name, distance in self.layers.items()},
            {name: _mean(values) for name, values in self.layer_losses.items()},
        )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _own(layer: Layer) -> Statistics:
    return Statistics(layer.module.running_mean.clone(), layer.module.running_var.clone())


def _with(subject: Subject, batch: Batch, values: Mapping[str, Statistics]) -> tuple[Tensor, float]:
    """Outputs and loss in evaluation, with other statistics in some layers."""
    with subject.mode(subject.evaluation), state.statistics_set(subject.layers, values):
        outputs = subject.forward(batch)
        return output_of(outputs), subject.loss_of(outputs, batch)


def _tried(subject: Subject, seen: Seen, truth: Mapping[str, Statistics]) -> tuple[list[str], int]:
    """Layers to swap, the worst first, and on how many batches."""
    runs = SWAPS * len(subject.batches)

    def off(name: str) -> float:
        found = fit(subject.layers[name], seen[name])
        return -max(found.mean, found.variance) if math.isfinite(found.mean) else -math.inf

    chosen = sorted(truth, key=off)[:runs]
    return chosen, max(1, min(2, runs // max(len(chosen), 1)))


def findings(subject: Subject, trained: Seen, still: Seen, gap: Gap) -> list[Finding]:
    """Return what is wrong with the statistics.

    Parameters
    ----------
    subject : Subject
    trained, still : Seen
        What the layers saw as in training, and with all but them as in evaluation.
    gap : Gap
    """
    live = {n: c for n, c in trained.items() if n in subject.live}
    found = [*_not_finite(subject, still), *_fits(subject, live, gap), *_last(subject, live)]
    found += [*_outliers(still), *_small(subject, live), *_one(subject, trained)]
    return [*found, *_shared(live), *_dropout(live, still)]


def _not_finite(subject: Subject, still: Seen) -> list[Finding]:
    spoiled = [n for n, layer in subject.layers.items() if layer.kind != state.OTHER
               and layer.tracked and not _is_finite(layer)]  # fmt: skip
    found = []
    if spoiled:
        count = sum(int((~(m.running_mean + m.running_var).isfinite()).sum())
                    for m in (subject.layers[n].module for n in spoiled))  # fmt: skip
        found.append(make(INFINITE, spoiled, count, f"{count} channels with NaN or infinity"))
    reached = [n for n, calls in still.items() if not all(call.finite for call in calls)]
    if reached:
        batches = {call.batch for call in still[reached[0]] if not call.finite}
        text = f"NaN or infinity in {len(batches)} of {len(subject.batches)} batches"
        found.append(make(INPUTS, reached, len(batches), text))
    return found


def _is_finite(layer: Layer) -> bool:
    module = layer.module
    return bool(module.running_mean.isfinite().all() and module.running_var.isfinite().all())


def _fits(subject: Subject, live: Seen, gap: Gap) -> list[Finding]:
    """Return what is to be said of statistics that are off, by their cause."""
    groups: dict[str, list[tuple[str, Fit]]] = {}
    kinds = {kind.name: kind for kind in (NEVER, START, OTHER)}
    for name, calls in live.items():
        layer = subject.layers[name]
        finite = layer.tracked and _is_finite(layer) and all(call.finite for call in calls)
        if finite and (found := fit(layer, calls)).off and gap.layers.get(name, 1) > 0.1:
            groups.setdefault(_cause(layer).name, []).append((name, found))
    return [_said(kinds[kind], members, subject, gap) for kind, members in groups.items()]


def _said(kind: Kind, members: list[tuple[str, Fit]], subject: Subject, gap: Gap) -> Finding:
    members.sort(key=lambda member: -gap.layers.get(member[0], 0))
    (worst, found), names = members[0], [name for name, _ in members]
    value = max(found.mean, found.variance)
    text = (
        f"mean off by {found.mean:.2f} standard deviations, variance by a factor of"
        f" {math.exp(min(found.variance, 700)):.3g}; one batch's sampling lets expect"
        f" {found.mean_error:.2f} and {math.exp(min(found.variance_error, 700)):.3g}"
    )
    if kind is START:
        layer = subject.layers[worst]
        text += f"; {_start_left(layer):.0%} of the start left after {layer.batches_seen} batches"
    distance = gap.layers.get(worst)
    costs = kind.costs
    if distance is not None:
        costs += f"; this layer alone moves the outputs by {distance:.0%} of their spread"
        loss = gap.layer_losses.get(worst, math.nan)
        costs += f" and the loss by {loss:+.3g}" if math.isfinite(loss) else ""
    severity = ERROR if gap.stale > 0.5 else kind.severity
    return make(kind, names, value, text, severity=severity, costs=costs)


def _start_left(layer: Layer) -> float:
    """Share that the running average still has of its start."""
    if layer.momentum is None or layer.batches_seen is None:
        return 0.0
    return float((1 - layer.momentum) ** layer.batches_seen)


def _cause(layer: Layer) -> Kind:
    module = layer.module
    if bool((module.running_mean == 0).all() and (module.running_var == 1).all()):
        return NEVER
    return START if layer.batches_seen and _start_left(layer) > 0.05 else OTHER


def _last(subject: Subject, live: Seen) -> list[Finding]:
    """Momentum that keeps no more than the last batches."""
    large = [n for n in live if subject.layers[n].tracked
             and (subject.layers[n].momentum or 0) > 0.5]  # fmt: skip
    if not large:
        return []
    errors = {}
    for name in large:
        momentum = subject.layers[name].momentum or 0
        errors[name] = math.sqrt(float(noise(live[name]).mean.mean()) * momentum / (2 - momentum))
    large.sort(key=lambda name: -errors[name])
    momentum = subject.layers[large[0]].momentum or 0
    text = (
        f"momentum {momentum:g}: the average is worth {(2 - momentum) / momentum:.1f} batches, and"
        f" its mean strays by {errors[large[0]]:.2f} standard deviations"
    )
    severity = WARNING if errors[large[0]] > 0.1 else NOTE
    return [make(LAST, large, momentum, text, severity=severity)]


def _outliers(still: Seen) -> list[Finding]:
    """Channels of whose variance, over all batches, a third or more comes from one value."""
    shares = {}
    for name, calls in still.items():
        values = sum(call.values for call in calls)
        if values >= 100 and all(call.finite for call in calls):
            worst = torch.stack([call.share * call.var * call.values for call in calls]).amax(0)
            parts = worst / (population(calls).var * values).clamp_min(TINY)
            if float((parts > ONE_VALUE).double().mean()) >= 0.1:
                shares[name] = float(parts.max()), values
    if not shares:
        return []
    first = next(iter(shares))
    share, values = shares[first]
    text = f"one of {values} values makes up {share:.0%} of a channel's variance"
    return [make(OUTLIERS, list(shares), share, text)]


def worth(error: Noise) -> float:
    """Independent values that a batch is worth: the spread of batches' means, predicted."""
    predicted = float(error.predicted.nanmean())
    used = float(error.mean.mean()) if math.isnan(predicted) else predicted
    return 1 / max(used, TINY)


def _small(subject: Subject, live: Seen) -> list[Finding]:
    """Batches whose statistics are mostly noise."""
    few = {}
    for name, calls in live.items():
        varied = population(calls).var > subject.layers[name].eps
        if varied.any() and (found := worth(noise(calls))) < 6:
            few[name] = found
    if not few:
        return []
    names = sorted(few, key=lambda name: few[name])
    error = noise(live[names[0]])
    measured, predicted = (math.sqrt(float(v.nanmean())) for v in (error.mean, error.predicted))
    sizes = sorted({call.examples for call in live[names[0]]})
    text = (
        f"batches of {sizes[0]} to {sizes[-1]} are worth {few[names[0]]:.1f} independent values;"
        f" their means stray by {measured:.2f} standard deviations ({predicted:.2f} predicted)"
    )
    return [make(SMALL, names, few[names[0]], text)]


def _one(subject: Subject, trained: Seen) -> list[Finding]:
    """Batches of one example."""
    single = [n for n, calls in trained.items()
              if n in subject.live and any(call.values < 2 for call in calls)]  # fmt: skip
    of_one = sum(batch.size == 1 for batch in subject.batches)
    if not (single or of_one):
        return []
    text = f"{of_one} of {len(subject.batches)} batches have one example"
    names = single or [n for n in trained if n in subject.live]
    severity = ERROR if single else WARNING
    return [make(ONE, names, of_one, text, severity=severity)] if names else []


def _shared(live: Seen) -> list[Finding]:
    """Layers that are used several times in a pass, for inputs that differ."""
    found = {}
    for name, calls in live.items():
        uses = _uses(calls)
        if len(uses) > 1:
            spread = population(calls).var.clamp_min(TINY).sqrt()
            means = torch.stack([population(use).mean for use in uses])
            logs = torch.stack([population(use).var.clamp_min(TINY).log() for use in uses])
            apart = max(_rms((means.amax(0) - means.amin(0)) / spread),
                        0.5 * _rms(logs.amax(0) - logs.amin(0)))  # fmt: skip
            if apart > 0.5:
                found[name] = apart, len(uses)
    if not found:
        return []
    names = sorted(found, key=lambda name: -found[name][0])
    apart, count = found[names[0]]
    text = f"{count} uses in a pass, whose statistics differ by {apart:.2f} standard deviations"
    return [make(SHARED, names, apart, text)]


def _uses(calls: list[Call]) -> list[list[Call]]:
    """Calls by their place in a pass."""
    uses: list[list[Call]] = []
    place, batch = 0, -1
    for call in calls:
        place, batch = (place + 1, batch) if call.batch == batch else (0, call.batch)
        if place == len(uses):
            uses.append([])
        uses[place].append(call)
    return uses


def _dropout(live: Seen, still: Seen) -> list[Finding]:
    """Layers whose variance is another with dropout than without."""
    shifts = {}
    for name in live.keys() & still.keys():
        with_it, without = (population(seen[name]).var for seen in (live, still))
        varied = (without > TINY) & (with_it > TINY)
        logs = (with_it[varied] / without[varied]).log()
        if len(logs) and float(logs.abs().median()) > 0.05:
            shifts[name] = float(logs.median())
    if not shifts:
        return []
    names = [name for name in live if name in shifts]
    factor = math.exp(shifts[names[0]])
    text = f"the variance with dropout is {factor:.2f} times that without"
    severity = WARNING if abs(math.log(factor)) > 0.2 else NOTE
    return [make(DROPOUT, names, factor, text, severity=severity)]
