"""Judging on tables with known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbook.errors import BnbookError
from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, conflict, interval, judge


def claim(**changes):
    fields = {
        "id": "made.up", "paper": "P", "section": "1", "statement": "S", "quantity": "Q",
        "measure": lambda table: table["x"], "bound": 0.0,
    }  # fmt: skip
    return Claim(**{**fields, **changes})


def table(*samples):
    return pd.DataFrame({"x": samples})


def test_interval_in_closed_form():
    # Mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445.
    value, low, high = interval([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert (value, low, high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-7)


def test_log_interval_is_the_linear_one_of_the_logarithms():
    x = [1.5, 2.0, 4.0]
    assert interval(x, "log") == pytest.approx([math.exp(v) for v in interval(np.log(x))])
    assert interval(x, "log")[0] == pytest.approx(12 ** (1 / 3))


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_or_not_finite(wrong):
    with pytest.raises(BnbookError, match="two or more finite samples"):
        interval(wrong)


def test_log_needs_positive():
    with pytest.raises(BnbookError, match="positive samples"):
        interval([1.0, 0.0], "log")


@pytest.mark.parametrize(
    ("scale", "n", "draw"),
    [
        ("linear", 3, lambda rng, shape: rng.normal(1.0, 2.0, shape)),
        ("linear", 6, lambda rng, shape: rng.normal(1.0, 2.0, shape)),
        ("log", 5, lambda rng, shape: np.exp(rng.normal(0.0, 0.7, shape))),
    ],
)
def test_coverage_over_many_draws(scale, n, draw):
    """The interval holds the truth (1 in each case) in 95 % of 4,000 draws, within 4 sigma."""
    samples = draw(np.random.default_rng(0), (4000, n))
    held = [low <= 1.0 <= high for _, low, high in (interval(row, scale) for row in samples)]
    assert abs(np.mean(held) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_false_verdicts_are_rare_where_the_truth_is_on_the_bound():
    rng = np.random.default_rng(1)
    verdicts = [judge(claim(), table(*rng.normal(0, 1, 5))).verdict for _ in range(1500)]
    wrong = np.mean([verdict != "inconclusive" for verdict in verdicts])
    assert abs(wrong - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.parametrize(
    ("samples", "direction", "verdict"),
    [
        ((1.0, 1.1, 1.2), "above", "reproduced"),
        ((1.0, 1.1, 1.2), "below", "not reproduced"),
        ((-1.0, -1.1, -1.2), "above", "not reproduced"),
        ((-1.0, -1.1, -1.2), "below", "reproduced"),
        ((-1.0, 1.1, 0.2), "above", "inconclusive"),
        ((1.0, 1.1, math.nan), "above", "inconclusive"),
        ((1.0, math.nan, math.nan), "above", "inconclusive"),
        ((math.nan, math.nan), "above", "not reproduced"),
        ((math.inf, -math.inf), "above", "not reproduced"),
        ((math.inf, 2.0, 2.1), "above", "inconclusive"),
    ],
)
def test_verdicts(samples, direction, verdict):
    judged = judge(claim(direction=direction), table(*samples))
    assert judged.verdict == verdict
    assert judged.n == len(samples)
    assert judged.undefined == sum(not math.isfinite(s) for s in samples)


def test_a_ratio_that_is_not_positive_counts_as_undefined():
    judged = judge(claim(scale="log", bound=1.0), table(2.0, 2.1, -0.5))
    assert (judged.undefined, judged.verdict) == (1, "inconclusive")


def judgement(verdict, low, high):
    return {"verdict": verdict, "low": low, "high": high}


def test_conflicts_need_another_verdict_and_intervals_apart():
    yes = judgement("reproduced", 1, 2)
    assert not conflict(yes, judgement("reproduced", 8, 9))
    assert not conflict(yes, judgement("inconclusive", -1, 1.5))
    assert conflict(yes, judgement("not reproduced", -2, -1))
    assert conflict(judgement("not reproduced", -2, -1), yes)
    never = judgement("not reproduced", None, None)
    assert conflict(yes, never)
    assert not conflict(never, judgement("inconclusive", 1, 2))
    assert not conflict(never, never)


def test_printing():
    about = claim(digits=1, unit="×").describe()
    assert claims.format_value(about, 3.14159) == "3.1×"
    assert claims.format_value(about, -0.04) == "0.0×"
    assert claims.format_value(about, -2.0) == "\N{MINUS SIGN}2.0×"
    assert claims.format_value(about, None) == "\N{EN DASH}"
    assert claims.format_interval(about, {"low": 2.04, "high": 4.96}) == "2.0 to 5.0×"
    assert claims.format_interval(about, {"low": None}) == "\N{EN DASH}"


EXACT = {"exact": True, "bound": 1e-12, "direction": "below"}


@pytest.mark.parametrize(
    ("samples", "verdict", "worst"),
    [
        ((0.0, 3e-15, 2e-16), "reproduced", 3e-15),
        ((0.0, 3e-12), "not reproduced", 3e-12),
        ((1e-12, 0.0), "not reproduced", 1e-12),
        ((1e-15, math.nan), "not reproduced", 1e-15),
        ((math.nan,), "not reproduced", None),
        ((1e-15,), "reproduced", 1e-15),
    ],
)
def test_an_exact_claim_is_judged_by_its_worst_case(samples, verdict, worst):
    judged = judge(claim(**EXACT), table(*samples))
    assert (judged.verdict, judged.value, judged.low, judged.high) == (verdict, worst, None, None)
    assert judged.n == len(samples)


def test_the_worst_case_from_below():
    judged = judge(claim(exact=True, bound=2.0), table(5.0, 3.0, 4.0))
    assert (judged.value, judged.verdict) == (3.0, "reproduced")


def test_printing_of_exact_claims():
    about = claim(**EXACT).describe()
    assert claims.format_value(about, 3.14e-15) == "3.1 × 10⁻¹⁵"
    assert claims.format_value(about, -2e-3) == "−2.0 × 10⁻³"
    assert claims.format_value(about, 0.0) == "0"
    assert claims.format_value(about, 2.5) == "2.50"
    assert claims.format_interval(about, {"low": None}) == "worst of all"
    assert claims.format_value(claims.fact([12345.0], None), 12345.0) == "1.2 × 10⁴"
    assert about["criterion"].startswith("Reproduced when every case lies below 1e-12, not")


@given(st.floats(-1e6, 1e6), st.integers(0, 4))
def test_printed_digits_round_from_the_value(number, digits):
    text = claims.format_value({"digits": digits, "unit": ""}, number)
    assert abs(float(text.replace("\N{MINUS SIGN}", "-")) - number) <= 0.500001 * 10**-digits


def test_the_criterion_is_written_out():
    text = claim(bound=1.5, direction="below", unit="×").criterion
    assert text.startswith("Reproduced when the 95 % interval over seeds lies below 1.5×")
    assert "measure" not in claim().describe()
