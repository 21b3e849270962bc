"""When a run is dead: a rule written before the runs, under which it ends and fails to train.

A run is dead at the first step at which one of these holds:

* its loss is not finite;
* its loss is above `THRESHOLD`;
* the first tenth of the run is over, and in the tenth that ends there fewer than half of the
  minibatches had a loss below log(classes) - `MARGIN`: it was no better than guessing. Minibatches
  are counted, and their losses not averaged, so that a few high ones do not end a run that learns.

Whether it *diverged*, as Bjorck et al. 2018 (section 3) have it, is another question, with two
readings of their sentence: see `diverged_at` and `jumped_at`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLD = 1e3
"""Loss of a minibatch, in nats, above which a run has diverged (Bjorck et al. 2018, section 3)."""
MARGIN = 0.05
"""By how much less than log(classes), in nats, a loss is better than guessing."""
RULES = ("not finite", f"above {THRESHOLD:g}", "guessing")
"""What ends a run; of those that hold at one step, the first counts."""


class Death(NamedTuple):
    """The step, from 1, at which a run died, and the rule, of `RULES`."""

    step: int
    rule: str


def dead(losses: Tensor, classes: int, steps: int) -> Death | None:
    """Say where a run of so many steps died, by its minibatches' losses; None while it lives."""
    rules = _rules(losses, classes, steps)
    step = _first(rules.any(0))
    return None if step < 0 else Death(step, RULES[_first(rules[:, step - 1]) - 1])


def ends(losses: Tensor, classes: int, steps: int) -> Tensor:
    """Say which of E runs are dead, (E,), by their losses so far, (t, E)."""
    return _rules(losses, classes, steps).any(0).any(0)


def diverged_at(losses: Tensor) -> int:
    """Return the first step whose loss is above `THRESHOLD` or not finite; -1 for none."""
    return _first(~(losses <= THRESHOLD))


def jumped_at(losses: Tensor) -> int:
    """Return the first step whose loss is not finite or above `THRESHOLD` times the one before."""
    jumps = losses[1:] > THRESHOLD * losses[:-1]
    return _first(~losses.isfinite() | torch.cat((torch.zeros_like(losses[:1]).bool(), jumps)))


def _rules(losses: Tensor, classes: int, steps: int) -> Tensor:
    """Say which of the `RULES` hold at each step: (3, t, ...)."""
    window = max(1, steps // 10)
    better = (losses < math.log(classes) - MARGIN).long().cumsum(0)
    in_window = better.clone()
    in_window[window:] -= better[:-window]
    guessing = 2 * in_window < window
    guessing[: 2 * window - 1] = False
    return torch.stack((~losses.isfinite(), losses > THRESHOLD, guessing))


def _first(found: Tensor) -> int:
    """Return the place, from 1, of the first True; -1 for none."""
    return 1 + int(found.to(torch.uint8).argmax()) if bool(found.any()) else -1
