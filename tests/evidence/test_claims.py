"""Judging on tables with known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbook.errors import BnbookError
from bnbook.evidence import claims
from bnbook.evidence.claims import (
    Claim,
    Premise,
    binomial,
    conflict,
    crossed,
    fieller,
    holm,
    interval,
    judge,
)


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
        ((math.nan, math.nan), "above", "not tested"),
        ((math.inf, -math.inf), "above", "not tested"),
        ((math.inf, 2.0, 2.1), "above", "inconclusive"),
    ],
)
def test_verdicts(samples, direction, verdict):
    judged = judge(claim(direction=direction), table(*samples))
    assert judged.verdict == verdict
    assert judged.n == sum(math.isfinite(s) for s in samples)
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


EXACT = {"exact": True, "kind": "identity", "bound": 1e-12, "direction": "below"}


@pytest.mark.parametrize(
    ("samples", "verdict", "worst"),
    [
        ((0.0, 3e-15, 2e-16), "reproduced", 3e-15),
        ((0.0, 3e-12), "not reproduced", 3e-12),
        ((1e-12, 0.0), "not reproduced", 1e-12),
        ((1e-15, math.nan), "not reproduced", 1e-15),
        ((math.nan,), "not tested", None),
        ((1e-15,), "reproduced", 1e-15),
    ],
)
def test_an_exact_claim_is_judged_by_its_worst_case(samples, verdict, worst):
    judged = judge(claim(**EXACT), table(*samples))
    assert (judged.verdict, judged.value, judged.low, judged.high) == (verdict, worst, None, None)
    assert judged.cases == len(samples)


def test_cases_are_not_counted_as_seeds():
    index = pd.MultiIndex.from_product([[0, 1], range(40)], names=["seed", "case"])
    errors = pd.Series(1e-15, index=index)
    judged = judge(claim(**EXACT, measure=lambda table: errors), table())
    assert (judged.n, judged.cases, judged.verdict) == (2, 80, "reproduced")


def test_an_exact_claim_is_an_identity():
    with pytest.raises(BnbookError, match="of kind 'identity', not 'control'"):
        claim(exact=True, kind="control")


def test_the_worst_case_from_below():
    judged = judge(claim(exact=True, kind="identity", bound=2.0), table(5.0, 3.0, 4.0))
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


@given(st.floats(-999_999, 999_999), st.integers(0, 4))
def test_printed_digits_round_from_the_value(number, digits):
    text = claims.format_value({"digits": digits, "unit": ""}, number)
    assert abs(float(text.replace("\N{MINUS SIGN}", "-")) - number) <= 0.500001 * 10**-digits


def test_the_criterion_is_written_out():
    text = claim(bound=1.5, direction="below", unit="×").criterion
    assert text.startswith(
        "Reproduced when the 95 % interval over seeds (Student's t) lies below 1.5×"
    )
    assert "measure" not in claim().describe()


def test_p_value_of_student_in_closed_form():
    # With one degree of freedom t follows Cauchy: P(|t| > x) = 1 - 2 atan(x) / pi.
    found = claims.student([1.0, 2.0], 0.0)
    assert found.p == pytest.approx(1 - 2 * math.atan(3.0) / math.pi)
    logs = claims.student([math.e, math.e**2], 1.0, log=True)
    assert logs.p == pytest.approx(found.p)


@pytest.mark.parametrize(("samples", "p"), [((2.0, 2.0), 0.0), ((1.0, 1.0), 1.0)])
def test_p_value_without_spread(samples, p):
    assert claims.student(samples, 1.0).p == p


@pytest.mark.parametrize("n", [1, 5, 10])
def test_binomial_ends_in_closed_form(n):
    """Of none: (1 - high)^n = 0.025; of all: low^n = 0.025."""
    none, every = binomial(0, n, 0.5), binomial(n, n, 0.5)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / n)))
    assert (every.low, every.high) == (pytest.approx(0.025 ** (1 / n)), 1.0)
    assert none.p == every.p == pytest.approx(min(1.0, 2 * 0.5**n))


def test_none_of_five_does_not_exclude_a_half():
    judged = judge(claim(scale="share", bound=0.5, direction="below"), table(*[0.0] * 5))
    assert (round(judged.high, 2), judged.verdict, judged.n) == (0.52, "inconclusive", 5)


@pytest.mark.parametrize("share", [0.03, 0.3, 0.5])
@pytest.mark.parametrize("n", [5, 10, 40])
def test_binomial_covers_at_least_its_level(share, n):
    """Exactly: the probability of the counts whose interval holds the truth is 95 % or more."""
    probability = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    found = [binomial(k, n, share) for k in range(n + 1)]
    held = [p for p, e in zip(probability, found, strict=True) if e.low <= share <= e.high]
    assert sum(held) >= 0.95
    assert all((e.p < 0.05) == (not e.low <= share <= e.high) for e in found)


def test_fieller_with_an_exact_denominator_is_student():
    part = [1.0, 2.0, 4.0, 4.5]
    found = fieller(part, [2.0] * 4, 1.0)
    assert (found.value, found.low, found.high) == pytest.approx(
        [x / 2 for x in interval(part)], rel=1e-12
    )
    assert found.p == pytest.approx(claims.student(part, 2.0).p, rel=1e-12)


def test_fieller_ends_are_where_the_test_has_its_level():
    part, whole = [1.0, 1.4, 0.8, 1.3], [2.0, 2.9, 2.2, 2.6]
    found = fieller(part, whole)
    for end in (found.low, found.high):
        assert fieller(part, whole, end).p == pytest.approx(0.05, abs=1e-9)


def test_fieller_without_ends():
    """The denominator's interval holds 0: no ends, no verdict, whatever its sign."""
    for sign in (1, -1):
        judged = judge(
            claim(scale="ratio", bound=0.5, measure=lambda t, s=sign: t * s),
            pd.DataFrame({"part": [1.0, 2.0, 1.5], "whole": [3.0, -1.0, 0.5]}),
        )
        assert judged.unbounded
        assert (judged.low, judged.high, judged.verdict) == (None, None, "inconclusive")
        assert judged.value == pytest.approx(4.5 / 2.5)
        assert claims.format_interval(claim().describe(), judged.as_dict()) == "without ends"


@pytest.mark.parametrize("mean", [0.3, 1.0, 4.0])
def test_fieller_covers_the_ratio_whatever_the_denominator(mean):
    """Over 3,000 draws; an interval without ends counts as one that holds the truth."""
    rng = np.random.default_rng(2)
    noise = rng.multivariate_normal([0, 0], [[1.0, 0.4], [0.4, 1.0]], (3000, 5))
    draws = noise + np.array([0.7 * mean, mean])
    found = [fieller(d[:, 0].tolist(), d[:, 1].tolist()) for d in draws]
    held = [e.unbounded or e.low <= 0.7 <= e.high for e in found]
    assert np.mean(held) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 3000)


@pytest.mark.parametrize(
    ("of_seeds", "of_images", "rest"), [(1.0, 0.0, 1.0), (0.3, 2.0, 1.0), (0.0, 0.0, 1.0)]
)
def test_seeds_and_images_drawn_together_are_covered(of_seeds, of_images, rest):
    """Over 2,000 draws of 5 seeds and 40 images, two-way effects of known size."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(2000):
        values = (
            of_seeds * rng.normal(size=(5, 1))
            + of_images * rng.normal(size=(1, 40))
            + rest * rng.normal(size=(5, 40))
        )
        found = crossed(values)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_images_widen_the_interval_and_the_judgement_says_so():
    rng = np.random.default_rng(4)
    hits = pd.DataFrame(
        rng.normal(0, 0.01, (5, 1)) + rng.normal(0.5, 1, (1, 30)) + np.zeros((5, 30))
    )
    both = judge(claim(measure=lambda table: hits), table())
    alone = judge(claim(measure=lambda table: hits.mean(axis=1)), table())
    assert (both.over, alone.over) == ("seeds and test images", "seeds")
    assert both.value == pytest.approx(alone.value)
    # The images' spread: 1 / sqrt(30), against seeds that hardly differ.
    assert (both.high - both.low) / (alone.high - alone.low) > 5


def test_crossed_in_closed_form():
    # Row means 1, 3; column means 1, 3; no rest: MS of seeds 4, of images 4.
    found = crossed(np.array([[0.0, 2.0], [2.0, 4.0]]), 2.0)
    assert (found.value, found.p) == (2.0, pytest.approx(1.0))
    # whole 8, degrees 8^2 / (16 + 16) = 2, t(0.975, 2) = 4.302653, error sqrt(8 / 4).
    assert found.high - found.value == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6)


def test_holm_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    assert holm({}) == {}


def test_holm_keeps_the_chance_of_any_false_verdict():
    rng = np.random.default_rng(5)
    wrong = [min(holm(dict(enumerate(p))).values()) < 0.05 for p in rng.random((4000, 20))]
    assert abs(np.mean(wrong) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4000)


TRAINED = Premise(
    "trained to the end", lambda table: (table["x"].min() > 2, f"{table['x'].min():g}", "above 2")
)


def test_a_premise_that_fails_leaves_the_claim_untested_and_is_named():
    about = claim(premises=(TRAINED,))
    judged = judge(about, table(1.0, 1.1, 1.2))
    assert judged.verdict == "not tested"
    assert (judged.n, judged.value) == (3, pytest.approx(1.1))
    assert claims.reasons(about.describe(), judged.as_dict()) == [
        "Premise that fails: trained to the end (found 1, needed above 2)."
    ]
    assert judge(about, table(3.0, 3.1, 3.2)).verdict == "reproduced"
    assert "Not tested unless: trained to the end." in about.criterion
    assert about.describe()["premises"] == ["trained to the end"]


def test_a_record_that_still_grows_is_provisional():
    judged = judge(claim(), table(1.0, 1.1, 1.2), missing=2)
    assert (judged.verdict, judged.missing) == ("provisional", 2)
    assert claims.reasons(claim().describe(), judged.as_dict()) == [
        "2 members of the record missing."
    ]


@pytest.mark.parametrize("exact", [False, True])
def test_a_record_that_still_lacks_what_a_claim_is_about_gives_no_value(exact):
    kind = "identity" if exact else "experiment"
    about = claim(measure=lambda table: table.set_index("seed")["not yet"], exact=exact, kind=kind)
    judged = judge(about, table(1.0, 1.1, 1.2), missing=2)
    assert (judged.verdict, judged.value, judged.n) == ("provisional", None, 0)
    with pytest.raises(KeyError):
        judge(about, table(1.0, 1.1, 1.2))


def test_what_qualifies_a_verdict_is_said():
    about = claim(revised="The bound was 2 before a look.").describe()
    judged = judge(claim(), table(1.0, 1.1, 1.2)).as_dict()
    assert claims.reasons(about, judged, 0.2) == [
        "Inconclusive when adjusted over the claims of its paper.",
        "The bound was 2 before a look.",
    ]
    assert claims.reasons(claim().describe(), judged, 0.04) == []
    undecided = judge(claim(), table(-1.0, 1.0, 0.5)).as_dict()
    assert claims.reasons(claim().describe(), undecided, 0.9) == []
    nothing = judge(claim(), table(math.nan)).as_dict()
    assert claims.reasons(claim().describe(), nothing) == ["No seed has a value."]


def test_untested_and_growing_judgements_contradict_nothing():
    yes = judgement("reproduced", 1, 2)
    for verdict in ("not tested", "provisional"):
        assert not conflict(yes, judgement(verdict, -2, -1))


def test_numbers_too_large_to_read_take_a_power_of_ten():
    about = claim(digits=2).describe()
    ends = {"low": 0.001, "high": 1516518711812763892412579840.0}
    assert claims.format_interval(about, ends) == "0.00 to 1.5 × 10²⁷"
    assert [claims.format_p(p) for p in (None, 0.0004, 0.0312)] == ["–", "< 0.001", "0.031"]  # noqa: RUF001
