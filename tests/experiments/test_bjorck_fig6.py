"""Gradients of the outputs at initialisation: made-up tables, closed forms, small runs."""

import numpy as np
import pandas as pd
import pytest

from bnbook.evidence import claims
from bnbook.experiments.bjorck_fig6 import claims as analysis
from bnbook.experiments.bjorck_fig6.experiment import EXPERIMENT as bjorck_fig6
from bnbook.setups import first_steps
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT
from tests import rounding
from tests.judging import by_name, criterion

SMALL = {"data": "digits", "seeds": (0, 1), "batch_size": 6, "n": 1}
IMPOSSIBLE = [
    ({"n": 0}, "n must be at least 1, found 0"),
    ({"batch_size": 1}, "batch_size must be at least 2, found 1"),
]
CLAIMS = by_name(bjorck_fig6.claims)


def made_up(without=19, with_bn=4, seeds=(0, 1, 2), images=20, soft=0.5):
    """A table whose truth is known: so many images are given class 0, the others class 1 to 3.

    `soft` is the probability of the class that the network with BN predicts.
    """
    rows = []
    for seed in seeds:
        for arm, top in ((WITHOUT, without), (WITH, with_bn), (LAST_ONLY, 5)):
            for image in range(images):
                predicted = 0 if image < top - seed % 2 else 1 + image % 3
                label = 3 + image % 2
                probability = soft - 0.01 * seed if arm == WITH else 1.0
                gradient = np.full(5, (1 - probability) / 4)
                gradient[predicted] = probability
                gradient[label] -= 1
                columns = {f"gradient_{j}": value for j, value in enumerate(gradient)}
                rows.append({
                    "arm": arm, "seed": seed, "image": image, "label": label,
                    "predicted": predicted, "probability": probability, **columns,
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    shares = analysis.top_shares(made_up())
    assert shares[WITHOUT].tolist() == pytest.approx([95, 90, 95])
    assert analysis.certainty_gap(made_up()).tolist() == pytest.approx([50, 51, 52])


OTHER = {WITH: WITHOUT, WITHOUT: WITH, LAST_ONLY: LAST_ONLY}


@pytest.mark.parametrize("name", CLAIMS)
def test_the_claims_turn_with_the_truth(name):
    table = made_up(images=40, without=39, with_bn=10)
    assert criterion(CLAIMS[name], table).verdict == "reproduced"
    swapped = table.assign(arm=table["arm"].map(OTHER))
    assert criterion(CLAIMS[name], swapped).verdict == "not reproduced"


def test_fewer_than_32_images_test_nothing():
    for claim in CLAIMS.values():
        assert claims.judge(claim, made_up(images=31, without=30)).verdict == "not tested"
        assert claims.judge(claim, made_up(images=32, without=30)).verdict != "not tested"


def test_the_claims_of_two_equal_networks_are_not_reproduced():
    table = made_up(images=40, without=30)
    other = table[table["arm"] == WITHOUT].assign(arm=WITH)
    equal = pd.concat([table[table["arm"] != WITH], other])
    for claim in CLAIMS.values():
        assert criterion(claim, equal).verdict != "reproduced"


def test_the_norm_of_the_mean_gradient_counts_what_cancels():
    table = made_up(40, 40, images=40)
    own = analysis.gradients(table, WITHOUT, 0)  # rows e0 - e3 and e0 - e4, half each
    assert analysis.mean_norm(own) == pytest.approx(1.5**0.5)
    assert analysis.mean_norm(np.vstack([own, -own])) == pytest.approx(0, abs=1e-15)


def test_correlation_of_rows_is_the_mean_over_pairs():
    g = np.random.default_rng(0).normal(size=(7, 5))
    g -= g.mean(1, keepdims=True)
    matrix = np.corrcoef(g)
    expected = matrix[~np.eye(7, dtype=bool)].mean()
    assert analysis.row_correlation(g) == pytest.approx(expected)
    silent = np.vstack([g, np.zeros(5)])
    assert analysis.row_correlation(silent) == pytest.approx(expected)
    assert np.isnan(analysis.row_correlation(silent[-2:]))


def test_one_class_and_two_labels():
    """Rows e0 - e3 and e0 - e4, half each: cosines 1 and 1/2, the mean row 3/4 of the square."""
    g = np.zeros((20, 5))
    g[:, 0] = 1
    g[::2, 3] = g[1::2, 4] = -1
    pairs = (2 * 10 * 9 * 1 + 2 * 10 * 10 * 0.5) / (20 * 19)
    assert analysis.row_correlation(g) == pytest.approx(pairs)
    assert analysis.surviving_share(g) == pytest.approx(0.75**0.5)


def test_facts_on_a_table_with_known_truth():
    facts = bjorck_fig6.facts(made_up(20, 4, seeds=(0, 2)))
    assert facts["without_share"]["value"] == 100
    assert facts["last_share"]["value"] == pytest.approx(25)
    assert facts["without_surviving"]["value"] == pytest.approx(100 * 0.75**0.5)
    assert facts["without_confidence"]["value"] == 100
    assert facts["batch_size"]["value"] == 20


def test_a_small_run_has_a_row_for_each_image(small_table):
    assert not small_table.duplicated(["arm", "seed", "image"]).any()
    assert len(small_table) == 3 * 2 * 6
    labels = small_table.pivot_table(index=["seed", "image"], columns="arm", values="label")
    assert (labels.nunique(axis="columns") == 1).all()


def test_gradients_are_softmax_less_indicator(small_table):
    gradients = small_table[analysis.gradient_columns(small_table)].to_numpy()
    terms = 1 + np.abs(gradients).sum(1)  # probabilities add up to 1
    rounding.assert_close(gradients.sum(1), 0 * terms, terms, roundings=20, dtype=np.float32)
    own = gradients[np.arange(len(gradients)), small_table["label"]]
    assert (own <= 0).all()
    of_predicted = gradients[np.arange(len(gradients)), small_table["predicted"]]
    right = small_table["predicted"] == small_table["label"]
    np.testing.assert_allclose(of_predicted + right, small_table["probability"])


def test_a_network_without_bn_in_bns_place_turns_the_claim(monkeypatch):
    plain = first_steps.network
    monkeypatch.setattr(first_steps, "network", lambda _, *rest: plain(WITHOUT, *rest))
    table = bjorck_fig6.run(bjorck_fig6.configure("quick", **SMALL), "cpu")
    assert (analysis.certainty_gap(table) == 0).all()
    assert (analysis.mean_gradient_ratio(table) == 1).all()
    assert (analysis.correlation_gap(table) == 0).all()


def test_the_heat_map_shows_the_first_seeds_gradients(small_table):
    heatmap = bjorck_fig6.figures["heatmap"](small_table)
    assert [len(ax.images) for ax in heatmap.axes[:3]] == [1, 1, 1]
    shown = heatmap.axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown, analysis.gradients(small_table, WITH, 0))
