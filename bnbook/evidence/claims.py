"""Claims: what a paper says, what would count for it and against it, and the verdict.

A claim is written before the run. It names a *measure* that turns a result table into one number
per seed, a *bound* and a *direction*. It is judged from the 95 % Student-t interval over seeds:

* the whole interval on the claim's side of the bound: **reproduced**;
* the whole interval on the other side: **not reproduced**;
* otherwise, or when some seed has no number: **inconclusive**.

An *exact* claim is about an identity, not about an average: its measure gives the error of every
case that was tried, the judged value is the worst of them, and there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from bnbook.errors import BnbookError

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LEVEL = 0.95
"""Coverage of the intervals that claims are judged by."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Claim:
    """One sentence that a run can contradict.

    Attributes
    ----------
    id : str
        ``paper.place.what``, such as ``ioffe.fig1a.speed``.
    paper, section : str
        Where the sentence stands, or, for a control of our own, what it answers.
    statement : str
        What the paper says, in our words.
    quantity : str
        What is measured for each seed, in words, with its unit.
    measure : callable
        Result table -> Series of one number per seed, NaN where a seed has none; of an exact claim
        one number per case.
    bound : float
        The number that the interval is held against.
    direction : {"above", "below"}
        On which side of the bound the claim says that the quantity lies.
    scale : {"linear", "log"}
        On which scale the interval is computed; ratios take ``log`` (a geometric mean).
    digits : int
        Decimals shown; of an exact claim only from 0.01 on.
    unit : str
        Shown after the value.
    exact : bool
        Whether the worst case is judged in place of an interval over seeds.
    """

    id: str
    paper: str
    section: str
    statement: str
    quantity: str
    measure: Callable[[pd.DataFrame], pd.Series]
    bound: float
    direction: Literal["above", "below"] = "above"
    scale: Literal["linear", "log"] = "linear"
    digits: int = 2
    unit: str = ""
    exact: bool = False

    @property
    def criterion(self) -> str:
        """The rule of the verdict, in words."""
        bound = f"{self.bound:g}{self.unit}"
        if self.exact:
            return (
                f"Reproduced when every case lies {self.direction} {bound}, not reproduced"
                " otherwise or when a case has no value."
            )
        return (
            f"Reproduced when the 95 % interval over seeds lies {self.direction} {bound},"
            f" not reproduced when it lies on the other side, inconclusive otherwise or when a"
            " seed has no value."
        )

    def describe(self) -> dict[str, Any]:
        """Everything about the claim except its code, for a JSON file."""
        facts = {k: v for k, v in self.__dict__.items() if k != "measure"}
        return {**facts, "criterion": self.criterion}


@dataclass(frozen=True)
class Judgement:
    """A claim's value, its 95 % interval over seeds, and the verdict; or, exact, its worst case."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    undefined: int
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for a JSON file."""
        return asdict(self)


def interval(
    samples: Sequence[float], scale: Literal["linear", "log"] = "linear"
) -> tuple[float, float, float]:
    """Mean and two-sided 95 % Student-t interval of independent samples.

    Parameters
    ----------
    samples : sequence of float
        At least two finite numbers; positive when `scale` is ``log``.
    scale : {"linear", "log"}
        ``log`` gives the geometric mean and an interval that is symmetric in the logarithm.

    Returns
    -------
    value, low, high : float

    Raises
    ------
    BnbookError
        With fewer than two samples, a sample that is not finite, or one that is not positive on
        the log scale.
    """
    x = np.asarray(samples, dtype=float)
    if x.ndim != 1 or x.size < 2 or not np.isfinite(x).all():
        raise BnbookError(f"an interval needs two or more finite samples, found {x.tolist()}.")
    if scale == "log":
        if (x <= 0).any():
            raise BnbookError(f"a log interval needs positive samples, found {x.tolist()}.")
        value, low, high = interval(np.log(x).tolist())
        return math.exp(value), math.exp(low), math.exp(high)
    mean = float(x.mean())
    half = float(stdtrit(x.size - 1, (1 + LEVEL) / 2) * x.std(ddof=1) / math.sqrt(x.size))
    return mean, mean - half, mean + half


def fact(samples: Iterable[float], digits: int | None, unit: str = "") -> dict[str, Any]:
    """Describe a number that the prose needs beside the claims.

    Parameters
    ----------
    samples : iterable of float
        One per seed, or a single number that has no interval.
    digits : int or None
        Decimals shown; None writes the number with a power of ten.
    unit : str
        Shown after the value.

    Returns
    -------
    dict
        ``value`` (the mean; None without samples), ``low`` and ``high`` (95 % interval; None with
        fewer than two samples), ``digits``, ``unit``.
    """
    x = [float(sample) for sample in samples]
    value, low, high = interval(x) if len(x) > 1 else (x[0] if x else None, None, None)
    return {"value": value, "low": low, "high": high, "digits": digits, "unit": unit}


def judge(claim: Claim, table: pd.DataFrame) -> Judgement:
    """Judge a claim from a result table.

    Parameters
    ----------
    claim : Claim
        The claim.
    table : pandas.DataFrame
        The experiment's table.

    Returns
    -------
    Judgement
        ``undefined`` counts the seeds whose measure is no finite number (the event never happened,
        or a ratio is over zero). With any of them the verdict is at most inconclusive, of an exact
        claim not reproduced; with none defined it is not reproduced.
    """
    samples = claim.measure(table).astype(float)
    if claim.exact:
        return _judge_exactly(claim, samples)
    samples = samples.where(np.isfinite(samples) & ((samples > 0) | (claim.scale != "log")))
    defined = samples.dropna()
    undefined = int(len(samples) - len(defined))
    if defined.empty:
        return Judgement(None, None, None, len(samples), undefined, "not reproduced")
    if len(defined) == 1:
        value = float(defined.iloc[0])
        return Judgement(value, None, None, len(samples), undefined, "inconclusive")
    value, low, high = interval(defined.tolist(), claim.scale)
    verdict = "inconclusive" if undefined else _verdict(claim, low, high)
    return Judgement(value, low, high, len(samples), undefined, verdict)


def _judge_exactly(claim: Claim, samples: pd.Series) -> Judgement:
    defined = samples[np.isfinite(samples)]
    undefined = int(len(samples) - len(defined))
    if defined.empty:
        return Judgement(None, None, None, len(samples), undefined, "not reproduced")
    worst = float(defined.max() if claim.direction == "below" else defined.min())
    verdict = "not reproduced" if undefined else _verdict(claim, worst, worst)
    verdict = "not reproduced" if verdict == "inconclusive" else verdict
    return Judgement(worst, None, None, len(samples), undefined, verdict)


def _verdict(claim: Claim, low: float, high: float) -> Verdict:
    if low > claim.bound:
        return "reproduced" if claim.direction == "above" else "not reproduced"
    if high < claim.bound:
        return "reproduced" if claim.direction == "below" else "not reproduced"
    return "inconclusive"


def conflict(recorded: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Tell whether a fresh judgement contradicts the recorded one.

    It does when the verdicts differ and the difference is beyond the intervals, that is, when
    these do not overlap. Where one of the two has no interval, only "reproduced" and "not
    reproduced" contradict each other.

    Parameters
    ----------
    recorded, fresh : mapping
        `Judgement.as_dict` of the two.

    Returns
    -------
    bool
    """
    verdicts = {recorded["verdict"], fresh["verdict"]}
    if len(verdicts) == 1:
        return False
    if recorded["low"] is None or fresh["low"] is None:
        return "inconclusive" not in verdicts
    return bool(recorded["high"] < fresh["low"] or fresh["high"] < recorded["low"])


def place(claim: Mapping[str, Any]) -> str:
    """Say where in its paper a claim stands: a section by its number, anything else as it is."""
    section = claim["section"]
    return f"section {section}" if section[:1].isdigit() else str(section)


def format_value(claim: Mapping[str, Any], number: float | None) -> str:
    """Round a claim's number to its digits, with its unit; an en dash when there is none.

    Without digits, and of exact claims where it is small, it is written with a power of ten.
    """
    if number is None:
        return "–"  # noqa: RUF001
    digits = claim["digits"]
    if digits is None or (claim.get("exact") and abs(number) < 0.01):
        return f"{_power_of_ten(number)}{claim['unit']}"
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return f"{text.replace('-', '−')}{claim['unit']}"


def _power_of_ten(number: float) -> str:
    """Write a number with two digits, such as ``1.2 × 10⁻¹⁵``."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".replace("-", "−").split("e")
    raised = str(int(exponent.replace("−", "-"))).translate(SUPERSCRIPTS)
    return f"{mantissa} × 10{raised}"


def format_interval(claim: Mapping[str, Any], judgement: Mapping[str, Any]) -> str:
    """Write the interval as ``low to high``, rounded as the value is."""
    if claim.get("exact"):
        return "worst of all"
    if judgement["low"] is None:
        return "–"  # noqa: RUF001
    bare = {**claim, "unit": ""}
    low, high = (format_value(bare, judgement[end]) for end in ("low", "high"))
    return f"{low} to {high}{claim['unit']}"


def assess(claims: Sequence[Claim], table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Judge claims from one table: claim id -> `Judgement.as_dict`."""
    return {claim.id: judge(claim, table).as_dict() for claim in claims}
