"""Claims: what a paper says, what would count for it and against it, and the verdict.

A claim is written before the run. It names a *measure* that turns a result table into numbers per
seed, a *bound*, a *direction*, and its *premises*: what must be true of the record for the claim to
be tested by it at all. It is judged from a 95 % interval:

* a premise fails, or no seed has a number: **not tested**, with the premise named;
* members of the record are missing that the claim may read: **provisional**;
* the whole interval on the claim's side of the bound: **reproduced**;
* the whole interval on the other side: **not reproduced**;
* otherwise, or when some seed has no number: **inconclusive**.

An *identity* is what mathematics or code decides and no training could; counted apart. An *exact*
claim has no interval: its measure gives the error of every case that was tried, and the worst of
them is judged.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence.intervals import Estimate, binomial, crossed, fieller, interval, student

T = TypeVar("T")

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not tested", "provisional"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
DECIDED = ("reproduced", "not reproduced")
Kind = Literal["experiment", "identity", "control"]
KINDS: dict[Kind, str] = {
    "experiment": "experiments",
    "identity": "identities and tests of our own code",
    "control": "controls of our own",
}
"""What a claim is about, and how the counts call it."""
Scale = Literal["linear", "log", "share", "ratio"]
METHODS: dict[Scale, str] = {
    "linear": "95 % interval over seeds, or over seeds and test images (Student's t),",
    "log": "95 % interval over seeds (Student's t of the logarithm)",
    "share": "exact 95 % interval (Clopper and Pearson) of the share of seeds",
    "ratio": "95 % interval over seeds (Fieller's, of the ratio of two means)",
}
Fact = dict[str, Any]
"""A number that the prose needs: ``value``, ``low``, ``high``, ``digits``, ``unit``; see `fact`."""
Facts = dict[str, Fact]
Finding = tuple[bool, str, str]
"""Whether a premise holds, what was found, and what was needed, in words."""
LATER = "Its premises were written after this record had been seen."
"""The sentence of claims that were recorded before claims had premises."""
IMAGES = (
    "An earlier record of the same seeds, seen before, did not hold which test images were right,"
    " and its interval was over seeds alone."
)
"""The sentence of claims that were judged over seeds alone before."""


@dataclass(frozen=True)
class Premise:
    """What must be true of a record for a claim to be tested by it, written before the run."""

    statement: str
    check: Callable[[pd.DataFrame], Finding]

    def find(self, table: pd.DataFrame) -> dict[str, Any]:
        """Check a table: ``statement``, ``holds``, ``found``, ``needed``."""
        holds, found, needed = self.check(table)
        return {
            "statement": self.statement, "holds": bool(holds), "found": found, "needed": needed,
        }  # fmt: skip


def at_least(found: float, needed: float, unit: str = "", digits: int = 0) -> Finding:
    """Check that a number is as large as a premise needs; NaN never is."""
    said = "no value" if math.isnan(found) else f"{found:.{digits}f}{unit}"
    return found >= needed, said, f"{needed:.{digits}f}{unit} or more"


def of_seeds(held: pd.Series) -> str:
    """Say at how many of the seeds something holds, from 1 or 0 by seed."""
    return f"{int(held.sum())} of {len(held)} seeds" if len(held) else "no run yet"


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
        Result table -> Series of one number per seed, NaN where a seed has none; of a ``share`` 1
        or 0; of a ``ratio`` a DataFrame of two columns, part and whole. A linear claim may give a
        DataFrame, seeds by test images: then both are taken as drawn. Of an exact claim one number
        per case, the seeds in the index level ``seed``.
    bound : float
        The number that the interval is held against.
    direction : {"above", "below"}
        On which side of the bound the claim says that the quantity lies.
    scale : {"linear", "log", "share", "ratio"}
        Which interval; ``log`` is for positive ratios that every seed gives well (a geometric
        mean), ``ratio`` for those whose denominator is noisy.
    digits : int
        Decimals shown; of an exact claim only from 0.01 on.
    unit : str
        Shown after the value.
    exact : bool
        Whether the worst case is judged in place of an interval over seeds.
    kind : {"experiment", "identity", "control"}
        Counted apart. Exact claims are identities.
    premises : tuple of Premise
        What must hold for the claim to be tested.
    revised : str
        A sentence that says what of criterion or data was changed after a look; empty when nothing.
    concerns : str
        A name for the quantity, the same in every claim about it; these are shown together.
    settled : callable, optional
        Result table and config (a mapping, as in the provenance) -> whether what a growing record
        still lacks is nothing that the claim reads; then it is judged as from a whole record.
    """

    id: str
    paper: str
    section: str
    statement: str
    quantity: str
    measure: Callable[[pd.DataFrame], pd.Series | pd.DataFrame]
    bound: float
    direction: Literal["above", "below"] = "above"
    scale: Scale = "linear"
    digits: int = 2
    unit: str = ""
    exact: bool = False
    kind: Kind = "experiment"
    premises: tuple[Premise, ...] = ()
    revised: str = ""
    concerns: str = ""
    settled: Callable[[pd.DataFrame, Mapping[str, Any]], bool] | None = None

    def __post_init__(self) -> None:
        if self.exact and self.kind != "identity":
            raise BnbookError(
                f"{self.id}: an exact claim is of kind 'identity', not {self.kind!r}."
            )

    @property
    def criterion(self) -> str:
        """The rule of the verdict, in words."""
        bound = f"{self.bound:g}{self.unit}"
        if self.exact:
            rule = (
                f"Reproduced when every case lies {self.direction} {bound}, not reproduced"
                " otherwise or when a case has no value."
            )
        else:
            rule = (
                f"Reproduced when the {METHODS[self.scale]} lies {self.direction} {bound},"
                f" not reproduced when it lies on the other side, inconclusive otherwise or when a"
                " seed has no value."
            )
        needed = "; ".join(premise.statement for premise in self.premises)
        return f"{rule} Not tested unless: {needed}." if needed else rule

    def describe(self) -> dict[str, Any]:
        """Everything about the claim except its code, for a JSON file."""
        facts = {k: v for k, v in self.__dict__.items() if k not in ("measure", "settled")}
        premises = [premise.statement for premise in self.premises]
        return {**facts, "premises": premises, "criterion": self.criterion}


control = partial(Claim, paper="this book", kind="control")
"""A claim of our own about what else could explain what is seen, or what follows from it."""
exact = partial(Claim, exact=True, kind="identity", direction="below")
"""A claim of which no case may be further off than the bound."""
POINTS: dict[str, Any] = {"digits": 1, "unit": " points"}
"""Of a claim about a difference of two accuracies."""
TIMES: dict[str, Any] = {"scale": "log", "unit": "×"}
"""Of a claim about a ratio."""


@dataclass(frozen=True)
class Judgement:
    """What a table says of a claim.

    ``n`` counts the seeds used, ``undefined`` those without a value (of an exact claim: cases
    without one, of ``cases``), ``missing`` the members that a growing record still lacks. ``over``
    says what the interval is taken over.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    undefined: int
    verdict: Verdict
    p: float | None = None
    unbounded: bool = False
    cases: int | None = None
    over: str = "seeds"
    missing: int = 0
    premises: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for a JSON file."""
        return {**asdict(self), "premises": list(self.premises)}


def fact(samples: Iterable[float], digits: int | None, unit: str = "") -> Fact:
    """Describe a number that the prose needs beside the claims.

    `samples` holds one number per seed, or a single number, which has no interval and may be
    missing (NaN). `digits` counts the decimals shown; None writes the number with a power of ten.
    The result has ``value`` (the mean; None where there is none), ``low`` and ``high`` (95 %
    interval; None with fewer than two samples), ``digits`` and ``unit``.
    """
    x = [float(sample) for sample in samples]
    alone = None if not x or math.isnan(x[0]) else x[0]
    value, low, high = interval(x) if len(x) > 1 else (alone, None, None)
    return {"value": value, "low": low, "high": high, "digits": digits, "unit": unit}


def count(number: float) -> Fact:
    """Describe a number of things that the prose needs: `fact` without decimals or interval."""
    return fact([number], 0)


def points_fact(
    points: pd.DataFrame | pd.Series, digits: int | None, unit: str = " points"
) -> Fact:
    """Describe a difference in points, by seed or by seed and test image, as claims judge it."""
    rows = (points.to_frame() if isinstance(points, pd.Series) else points).dropna()
    if min(rows.shape) < 2:
        return fact(rows.mean(axis=1), digits, unit)
    found = crossed(rows.to_numpy(dtype=float))
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {**ends, "digits": digits, "unit": unit}


def loss_facts(kind: str, ends: Iterable[float], digits: int, unit: str) -> Facts:
    """Describe the training losses that networks of a kind end at: the least and the most.

    `ends` has one number for each network, NaN for one without. Tables of settings print them.
    """
    there = [each for each in map(float, ends) if math.isfinite(each)]
    least, most = (take(there, default=math.nan) for take in (min, max))
    of = "_".join(["end_loss", *kind.split()])
    return {
        f"{of}_{name}": fact([end], digits, unit)
        for name, end in (("least", least), ("most", most))
    }


def ratio_fact(part: pd.Series, whole: pd.Series, digits: int, unit: str = "") -> Fact:
    """Describe a ratio of two means over the seeds that have both: `fact`, with Fieller's ends."""
    pair = pd.DataFrame({"part": part, "whole": whole}).dropna()
    found = fieller(pair["part"].tolist(), pair["whole"].tolist()) if len(pair) else Estimate()
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {**ends, "digits": digits, "unit": unit, "unbounded": found.unbounded}


def if_possible(compute: Callable[[], T], missing: int, otherwise: T) -> T:
    """Return what a table gives; `otherwise`, where a growing record lacks what that is made of."""
    if not missing:
        return compute()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compute()
    except (ArithmeticError, LookupError, ValueError, BnbookError):
        return otherwise


def judge(
    claim: Claim, table: pd.DataFrame, missing: int = 0, config: Mapping[str, Any] | None = None
) -> Judgement:
    """Judge a claim from a result table.

    `missing` counts the members that a growing record still lacks, and `config` is what it is to
    become, by which a claim may tell that it reads none of them. ``undefined`` of the judgement
    counts the seeds whose measure is no finite number (the event never happened, or a ratio is over
    zero). With any of them the verdict is at most inconclusive, of an exact claim not reproduced;
    with none defined the claim is not tested.
    """
    nothing: tuple[Any, pd.Series | pd.DataFrame] = (), pd.Series(dtype=float)

    def measure() -> tuple[Any, pd.Series | pd.DataFrame]:
        return tuple(each.find(table) for each in claim.premises), claim.measure(table)

    premises, measured = if_possible(measure, missing, nothing)
    if claim.exact and isinstance(measured, pd.Series):
        found, counts = _worst(claim, measured.astype(float))
    else:
        found, counts = _estimated(claim, measured.astype(float))
    verdict = _verdict(claim, found, counts["undefined"])
    if not counts["n"] or not all(premise["holds"] for premise in premises):
        verdict = "not tested"
    if missing and not (config and claim.settled and claim.settled(table, config)):
        verdict = "provisional"
    return Judgement(
        found.value, found.low, found.high, counts["n"], counts["undefined"], verdict, found.p,
        found.unbounded, counts.get("cases"), counts.get("over", "seeds"), missing, premises,
    )  # fmt: skip


def _worst(claim: Claim, samples: pd.Series) -> tuple[Estimate, dict[str, Any]]:
    """Return the worst case of an exact claim, and how many seeds and cases there were."""
    defined = samples[np.isfinite(samples)]
    counts = {"undefined": len(samples) - len(defined), "cases": len(samples), "over": "cases"}
    if defined.empty:
        return Estimate(), {**counts, "n": 0}
    worst = float(defined.max() if claim.direction == "below" else defined.min())
    named = "seed" in samples.index.names
    n = samples.index.get_level_values("seed").nunique() if named else len(samples)
    return Estimate(worst), {**counts, "n": int(n)}


def _estimated(claim: Claim, measured: pd.Series | pd.DataFrame) -> tuple[Estimate, dict[str, Any]]:
    """Return the value and interval of the seeds that have a value, and how many these are."""
    rows = measured.to_frame() if isinstance(measured, pd.Series) else measured
    x = rows.to_numpy(dtype=float)
    x = x[np.isfinite(x).all(axis=1) & ((x > 0).all(axis=1) | (claim.scale != "log"))]
    counts: dict[str, Any] = {"n": len(x), "undefined": len(rows) - len(x)}
    if not len(x):
        return Estimate(), counts
    if claim.scale == "ratio":
        return fieller(x[:, 0].tolist(), x[:, 1].tolist(), claim.bound), counts
    if claim.scale == "share":
        return binomial(int(x[:, 0].sum()), len(x), claim.bound), counts
    if min(x.shape) > 1:
        return crossed(x, claim.bound), {**counts, "over": "seeds and test images"}
    return student(x.mean(1).tolist(), claim.bound, claim.scale == "log"), counts


def _verdict(claim: Claim, found: Estimate, undefined: int) -> Verdict:
    """Hold an estimate against the bound."""
    low, high = (found.value, found.value) if claim.exact else (found.low, found.high)
    sides: dict[str, Verdict] = {"above": "reproduced", "below": "not reproduced"}
    if claim.direction == "below":
        sides = {"above": "not reproduced", "below": "reproduced"}
    if low is None or high is None or (undefined and not claim.exact):
        return "inconclusive"
    if low > claim.bound and not undefined:
        return sides["above"]
    if high < claim.bound and not undefined:
        return sides["below"]
    return "not reproduced" if claim.exact else "inconclusive"


def conflict(recorded: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Tell whether a fresh judgement contradicts the recorded one.

    It does when both are decided, the verdicts differ and the difference is beyond the intervals,
    that is, when these do not overlap. Where one of the two has no interval, only "reproduced" and
    "not reproduced" contradict each other.

    Both come from `Judgement.as_dict`.
    """
    verdicts = {recorded["verdict"], fresh["verdict"]}
    if len(verdicts) == 1 or verdicts & {"not tested", "provisional"}:
        return False
    if recorded["low"] is None or fresh["low"] is None:
        return "inconclusive" not in verdicts
    return bool(recorded["high"] < fresh["low"] or fresh["high"] < recorded["low"])


def assess(
    claims: Sequence[Claim],
    table: pd.DataFrame,
    missing: int = 0,
    config: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Judge claims from one table, as `judge` does: claim id -> `Judgement.as_dict`."""
    return {claim.id: judge(claim, table, missing, config).as_dict() for claim in claims}
