"""Judging on tables with known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbook.errors import BnbookError
from bnbook.evidence import claims, wording
from bnbook.evidence.claims import Claim, Premise, conflict, judge


def claim(**changes):
    fields = {
        "id": "made.up", "paper": "P", "section": "1", "statement": "S", "quantity": "Q",
        "measure": lambda table: table["x"], "bound": 0.0,
    }  # fmt: skip
    return Claim(**{**fields, **changes})


def table(*samples):
    return pd.DataFrame({"x": samples})


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
    assert wording.format_value(about, 3.14159) == "3.1×"
    assert wording.format_value(about, -0.04) == "0.0×"
    assert wording.format_value(about, -2.0) == "\N{MINUS SIGN}2.0×"
    assert wording.format_value(about, None) == "\N{EN DASH}"
    assert wording.format_interval(about, {"low": 2.04, "high": 4.96}) == "2.0 to 5.0×"
    assert wording.format_interval(about, {"low": None}) == "\N{EN DASH}"


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
    assert wording.format_value(about, 3.14e-15) == "3.1 × 10⁻¹⁵"
    assert wording.format_value(about, -2e-3) == "−2.0 × 10⁻³"
    assert wording.format_value(about, 0.0) == "0"
    assert wording.format_value(about, 2.5) == "2.50"
    assert wording.format_interval(about, {"low": None}) == "worst of all"
    assert wording.format_value(claims.fact([12345.0], None), 12345.0) == "1.2 × 10⁴"
    assert about["criterion"].startswith("Reproduced when every case lies below 1e-12, not")


@given(st.floats(-999_999, 999_999), st.integers(0, 4))
def test_printed_digits_round_from_the_value(number, digits):
    text = wording.format_value({"digits": digits, "unit": ""}, number)
    assert abs(float(text.replace("\N{MINUS SIGN}", "-")) - number) <= 0.500001 * 10**-digits


def test_the_criterion_is_written_out():
    text = claim(bound=1.5, direction="below", unit="×").criterion
    assert text.startswith(
        "Reproduced when the 95 % interval over seeds, or over seeds and test images (Student's t),"
        " lies below 1.5×"
    )
    assert "measure" not in claim().describe()


def test_none_of_five_does_not_exclude_a_half():
    judged = judge(claim(scale="share", bound=0.5, direction="below"), table(*[0.0] * 5))
    assert (round(judged.high, 2), judged.verdict, judged.n) == (0.52, "inconclusive", 5)


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
        assert wording.format_interval(claim().describe(), judged.as_dict()) == "without ends"


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


TRAINED = Premise(
    "trained to the end", lambda table: (table["x"].min() > 2, f"{table['x'].min():g}", "above 2")
)


def test_a_fact_in_points_has_the_ends_that_a_claim_has():
    hits = np.random.default_rng(0).random((3, 40)) < 0.6
    points = pd.DataFrame(100.0 * hits)
    of_images, judged = (
        claims.points_fact(points, 1),
        judge(claim(measure=lambda _: points), pd.DataFrame()),
    )
    assert (of_images["low"], of_images["high"]) == (judged.low, judged.high)
    by_seed = claims.points_fact(points.mean(axis=1), 1)
    assert by_seed == claims.fact(100 * hits.mean(1), 1, " points")
    alone = claims.points_fact(points.iloc[:1], 1)
    assert (alone["value"], alone["low"]) == (pytest.approx(100 * hits[0].mean()), None)
    half_way = points.iloc[:2].copy()  # of the second seed one of the two runs is missing
    half_way.iloc[1] = math.nan
    assert claims.points_fact(half_way, 1) == alone


def test_a_premise_that_fails_leaves_the_claim_untested_and_is_named():
    about = claim(premises=(TRAINED,))
    judged = judge(about, table(1.0, 1.1, 1.2))
    assert judged.verdict == "not tested"
    assert (judged.n, judged.value) == (3, pytest.approx(1.1))
    assert wording.reasons(about.describe(), judged.as_dict()) == [
        "Premise that fails: trained to the end (found 1, needed above 2)."
    ]
    assert judge(about, table(3.0, 3.1, 3.2)).verdict == "reproduced"
    assert "Not tested unless: trained to the end." in about.criterion
    assert about.describe()["premises"] == ["trained to the end"]


def test_a_record_that_still_grows_is_provisional():
    judged = judge(claim(), table(1.0, 1.1, 1.2), missing=2)
    assert (judged.verdict, judged.missing) == ("provisional", 2)
    assert wording.reasons(claim().describe(), judged.as_dict()) == [
        "2 members of the record missing."
    ]


def test_a_growing_record_is_judged_where_a_claim_reads_nothing_that_it_lacks():
    about = claim(settled=lambda table, config: len(table) >= config["enough"])
    rows = table(1.0, 1.1, 1.2)
    judged = judge(about, rows, 2, {"enough": 3})
    assert (judged.verdict, judged.missing) == (judge(about, rows).verdict, 2)
    assert wording.reasons(about.describe(), judged.as_dict()) == [
        "2 members of the record missing, and none that this claim reads."
    ]
    assert judge(about, rows, 2, {"enough": 4}).verdict == "provisional"
    assert judge(about, rows, 2).verdict == "provisional"
    assert "settled" not in about.describe()


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
    assert wording.reasons(about, judged, 0.2) == [
        "Inconclusive when adjusted over the claims of its paper.",
        "The bound was 2 before a look.",
    ]
    assert wording.reasons(claim().describe(), judged, 0.04) == []
    undecided = judge(claim(), table(-1.0, 1.0, 0.5)).as_dict()
    assert wording.reasons(claim().describe(), undecided, 0.9) == []
    nothing = judge(claim(), table(math.nan)).as_dict()
    assert wording.reasons(claim().describe(), nothing) == ["No seed has a value."]


def test_untested_and_growing_judgements_contradict_nothing():
    yes = judgement("reproduced", 1, 2)
    for verdict in ("not tested", "provisional"):
        assert not conflict(yes, judgement(verdict, -2, -1))


def test_numbers_too_large_to_read_take_a_power_of_ten():
    about = claim(digits=2).describe()
    ends = {"low": 0.001, "high": 1516518711812763892412579840.0}
    assert wording.format_interval(about, ends) == "0.00 to 1.5 × 10²⁷"
    assert [wording.format_p(p) for p in (None, 0.0004, 0.0312)] == ["–", "< 0.001", "0.031"]  # noqa: RUF001


def test_the_losses_that_networks_end_at_leave_out_what_is_no_number():
    found = claims.loss_facts("raw table", [0.5, float("nan"), 0.2, float("inf")], 2, " nats")
    assert {name: fact["value"] for name, fact in found.items()} == {
        "end_loss_raw_table_least": 0.2,
        "end_loss_raw_table_most": 0.5,
    }
    assert claims.loss_facts("", [float("nan")], 2, "")["end_loss_least"]["value"] is None
