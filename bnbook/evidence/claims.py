"""Claims: what a paper says, what would count for it and against it, and the verdict.

A claim is written before the run. It names a *measure* that turns a result table into numbers per
seed, a *bound*, a *direction*, and its *premises*: what must be true of the record for the claim to
be tested by it at all. It is judged from a 95 % interval:

* a premise fails, or no seed has a number: **not tested**, with the premise named;
* members of the record are missing: **provisional**;
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
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import pandas as pd
from scipy.special import bdtr, bdtrc, betaincinv, stdtr, stdtrit

from bnbook.errors import BnbookError

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
    "linear": "95 % interval over seeds (Student's t)",
    "log": "95 % interval over seeds (Student's t of the logarithm)",
    "share": "exact 95 % interval (Clopper and Pearson) of the share of seeds",
    "ratio": "95 % interval over seeds (Fieller's, of the ratio of two means)",
}
LEVEL = 0.95
"""Coverage of the intervals that claims are judged by."""
READABLE = 1e6
"""From this size on a number is written with a power of ten."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Finding = tuple[bool, str, str]
"""Whether a premise holds, what was found, and what was needed, in words."""
LATER = "Its premises were written after this record had been seen."
"""The sentence of claims that were recorded before claims had premises."""


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
        facts = {k: v for k, v in self.__dict__.items() if k != "measure"}
        premises = [premise.statement for premise in self.premises]
        return {**facts, "premises": premises, "criterion": self.criterion}


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the two-sided p value of the bound.

    ``low`` and ``high`` are None without an interval; ``unbounded`` when a ratio's has no ends.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    unbounded: bool = False


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


def student(samples: Sequence[float], bound: float, log: bool = False) -> Estimate:
    """`interval` with the p value of Student's test of the bound; of one sample no interval."""
    if len(samples) == 1:
        return Estimate(float(samples[0]))
    x = np.log(samples) if log else np.asarray(samples, dtype=float)
    error = float(x.std(ddof=1)) / math.sqrt(x.size)
    p = _two_sided(float(x.mean()) - (math.log(bound) if log else bound), error, x.size - 1)
    return Estimate(*interval(samples, "log" if log else "linear"), p)


def _two_sided(distance: float, error: float, freedom: float) -> float:
    """P value of Student's test; without spread 1 on the bound and 0 off it."""
    if error == 0:
        return float(distance == 0)
    return float(2 * stdtr(freedom, -abs(distance / error)))


def binomial(count: int, n: int, bound: float) -> Estimate:
    """Share with Clopper and Pearson's exact 95 % interval and the p value that agrees with it.

    Parameters
    ----------
    count, n : int
        Of n seeds, those with the property.
    bound : float
        The share that is tested, in [0, 1]; the smaller tail is doubled, as the interval has it.

    Returns
    -------
    Estimate

    Notes
    -----
    Clopper and Pearson 1934: the ends are quantiles of beta distributions.
    """
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    below = float(bdtr(count, n, bound))
    above = float(bdtrc(count - 1, n, bound)) if count else 1.0
    return Estimate(count / n, low, high, min(1.0, 2 * min(below, above)))


def fieller(part: Sequence[float], whole: Sequence[float], bound: float = 0.0) -> Estimate:
    """Ratio of the means of two paired samples with Fieller's 95 % interval.

    It never asks for the sign of a denominator: where the mean of `whole` is not clear of zero at
    this level the interval has no ends, and `Estimate.unbounded` says so.

    Parameters
    ----------
    part, whole : sequence of float
        Paired, one each per seed.
    bound : float
        The ratio whose p value is given.

    Returns
    -------
    Estimate
        Without interval for one seed, or when the mean of `whole` is 0.

    Notes
    -----
    Fieller 1954: the ratios r for which the mean of part - r whole does not differ from 0 by
    Student's test.
    """
    x, y = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    a, b, n = float(x.mean()), float(y.mean()), x.size
    value = a / b if b else None
    if n < 2:
        return Estimate(value)
    (xx, xy), (_, yy) = np.cov(x, y) / n
    square = float(stdtrit(n - 1, (1 + LEVEL) / 2)) ** 2
    first, middle, last = b * b - square * yy, a * b - square * xy, a * a - square * xx
    if first <= 0:
        return Estimate(value, unbounded=True)
    root = math.sqrt(max(0.0, middle * middle - first * last))
    error = float((x - bound * y).std(ddof=1)) / math.sqrt(n)
    p = _two_sided(a - bound * b, error, n - 1)
    return Estimate(value, (middle - root) / first, (middle + root) / first, p)


def crossed(values: np.ndarray, bound: float = 0.0) -> Estimate:
    """Mean of a table of seeds by test images, both taken as drawn, with its 95 % interval.

    Parameters
    ----------
    values : ndarray, (seeds, images)
        Two or more of both, such as the difference of two networks' hits in points.
    bound : float
        The mean whose p value is given.

    Returns
    -------
    Estimate

    Notes
    -----
    Two-way analysis of variance without replication: the variance of the mean is estimated by
    (MS_seeds + MS_images - MS_rest) / (seeds images), never less than its larger part, with
    Satterthwaite's degrees of freedom.
    """
    seeds, images = values.shape
    mean = float(values.mean())
    rows, columns = values.mean(1), values.mean(0)
    of_seeds = images * float(rows.var(ddof=1))
    of_images = seeds * float(columns.var(ddof=1))
    rest = values - rows[:, None] - columns[None, :] + mean
    freedom = (seeds - 1) * (images - 1)
    of_rest = float(np.square(rest).sum()) / freedom
    whole = max(of_seeds + of_images - of_rest, of_seeds, of_images)
    if whole == 0:
        return Estimate(mean, mean, mean, float(mean == bound))
    spread = of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1) + of_rest**2 / freedom
    degrees = max(seeds - 1.0, whole**2 / spread)
    error = math.sqrt(whole / values.size)
    half = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    return Estimate(mean, mean - half, mean + half, _two_sided(mean - bound, error, degrees))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjust p values of several claims so that the chance of any false verdict stays at its level.

    Holm 1979: the k-th smallest of m is multiplied by m - k + 1; none falls below one before it.
    """
    adjusted, worst = {}, 0.0
    for k, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, (len(p) - k) * p[name]))
        adjusted[name] = worst
    return adjusted


def fact(samples: Iterable[float], digits: int | None, unit: str = "") -> dict[str, Any]:
    """Describe a number that the prose needs beside the claims.

    Parameters
    ----------
    samples : iterable of float
        One per seed, or a single number that has no interval and may be missing (NaN).
    digits : int or None
        Decimals shown; None writes the number with a power of ten.
    unit : str
        Shown after the value.

    Returns
    -------
    dict
        ``value`` (the mean; None where there is none), ``low`` and ``high`` (95 % interval; None
        with fewer than two samples), ``digits``, ``unit``.
    """
    x = [float(sample) for sample in samples]
    alone = None if not x or math.isnan(x[0]) else x[0]
    value, low, high = interval(x) if len(x) > 1 else (alone, None, None)
    return {"value": value, "low": low, "high": high, "digits": digits, "unit": unit}


def ratio_fact(part: pd.Series, whole: pd.Series, digits: int, unit: str = "") -> dict[str, Any]:
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


def judge(claim: Claim, table: pd.DataFrame, missing: int = 0) -> Judgement:
    """Judge a claim from a result table.

    Parameters
    ----------
    claim : Claim
        The claim.
    table : pandas.DataFrame
        The experiment's table.
    missing : int
        Members that a growing record still lacks.

    Returns
    -------
    Judgement
        ``undefined`` counts the seeds whose measure is no finite number (the event never happened,
        or a ratio is over zero). With any of them the verdict is at most inconclusive, of an exact
        claim not reproduced; with none defined the claim is not tested.
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
    if missing:
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

    Parameters
    ----------
    recorded, fresh : mapping
        `Judgement.as_dict` of the two.

    Returns
    -------
    bool
    """
    verdicts = {recorded["verdict"], fresh["verdict"]}
    if len(verdicts) == 1 or verdicts & {"not tested", "provisional"}:
        return False
    if recorded["low"] is None or fresh["low"] is None:
        return "inconclusive" not in verdicts
    return bool(recorded["high"] < fresh["low"] or fresh["high"] < recorded["low"])


def reasons(
    claim: Mapping[str, Any], judgement: Mapping[str, Any], adjusted: float | None = None
) -> list[str]:
    """Say in sentences what qualifies a verdict: premises, members, the adjustment, revisions.

    Parameters
    ----------
    claim, judgement : mapping
        `Claim.describe` and `Judgement.as_dict`.
    adjusted : float, optional
        The p value adjusted over the claims of the paper.

    Returns
    -------
    list of str
    """
    said = [
        f"Premise that fails: {premise['statement']} (found {premise['found']}, needed"
        f" {premise['needed']})."
        for premise in judgement.get("premises", ())
        if not premise["holds"]
    ]
    if not judgement["n"]:
        said.append("No seed has a value.")
    if missing := judgement.get("missing", 0):
        said.append(f"{missing} member{'s' * (missing > 1)} of the record missing.")
    if judgement.get("unbounded"):
        said.append("The interval has no ends, for what it divides by is not clear of zero.")
    changed = adjusted is not None and adjusted > 1 - LEVEL
    if changed and judgement["verdict"] in DECIDED:
        said.append("Inconclusive when adjusted over the claims of its paper.")
    if claim.get("revised"):
        said.append(claim["revised"])
    return said


def place(claim: Mapping[str, Any]) -> str:
    """Say where in its paper a claim stands: a section by its number, anything else as it is."""
    section = claim["section"]
    return f"section {section}" if section[:1].isdigit() else str(section)


def format_value(claim: Mapping[str, Any], number: float | None) -> str:
    """Round a claim's number to its digits, with its unit; an en dash when there is none.

    Without digits, when it is too large to read, and of exact claims where it is small, it is
    written with a power of ten.
    """
    if number is None:
        return "–"  # noqa: RUF001
    digits = claim["digits"]
    small = claim.get("exact") and abs(number) < 0.01
    if digits is None or small or abs(number) >= READABLE:
        return f"{_power_of_ten(number)}{claim['unit']}"
    text = f"{number:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return f"{text.replace('-', '−')}{claim['unit']}"


def format_p(p: float | None) -> str:
    """Write a p value: three decimals, below 0.001 as that; an en dash when there is none."""
    if p is None:
        return "–"  # noqa: RUF001
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


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
    if judgement.get("unbounded"):
        return "without ends"
    if judgement["low"] is None:
        return "–"  # noqa: RUF001
    bare = {**claim, "unit": ""}
    low, high = (format_value(bare, judgement[end]) for end in ("low", "high"))
    return f"{low} to {high}{claim['unit']}"


def assess(
    claims: Sequence[Claim], table: pd.DataFrame, missing: int = 0
) -> dict[str, dict[str, Any]]:
    """Judge claims from one table: claim id -> `Judgement.as_dict`."""
    return {claim.id: judge(claim, table, missing).as_dict() for claim in claims}
