"""The noise of SGD: made-up tables with known answers, and a small real run."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.experiments.bjorck_noise import claims as analysis
from bnbook.experiments.bjorck_noise.claims import NOISE, RUN
from bnbook.experiments.bjorck_noise.experiment import EXPERIMENT as bjorck_noise
from bnbook.experiments.bjorck_noise.experiment import _probes
from bnbook.probes import gradient_noise
from bnbook.setups import residual
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session
from tests.judging import criterion

SMALL = {
    "data": "digits", "steps": 4, "seeds": (0, 1), "learning_rates": (0.02, 0.08),
    "batch_sizes": (4, 16), "train_images": 48, "test_images": 30, "validation": 30,
    "widths": (2, 2, 4), "side": 4, "noise_images": 16, "noise_sizes": (2, 8),
    "noise_draws": 2000, "trained_draws": 2, "curvature_images": 16, "lanczos_steps": 4,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"batch_sizes": (16, 4)}, "batch_sizes must be two or more and rise"),
    ({"noise_sizes": (1, 4)}, r"noise_sizes must lie in \[2, 48\)"),
    ({"lanczos_steps": 0}, "lanczos_steps must be at least 1, found 0"),
]
(BOUND,) = bjorck_noise.claims


def made_up(gain=2.0, factor=1.0, slope=-0.5, seeds=(0, 1, 2)):
    """A table whose truth is known: accuracy by α/|B|, noise by the exact law times a factor."""
    rows = []
    for seed in seeds:
        for arm in (WITHOUT, WITH):
            for size in (4, 16, 64):
                for rate in (0.1, 0.4):
                    scale = rate / size
                    value = 0.8 + 0.01 * gain / np.log(16) * np.log(scale) + 0.001 * seed
                    value -= 0.5 * (rate == 0.4 and size == 16)
                    common = {
                        "arm": arm, "seed": seed, "learning_rate": rate, "batch_size": size,
                        "step": 10, "diverged_at": -1,
                    }  # fmt: skip
                    rows.append({
                        **common, "kind": RUN, "training_accuracy": value,
                        "validation_accuracy": value, "test_accuracy": value,
                        "eigenvalue": scale**slope, "eigenvalue_error": 0.01 * scale**slope,
                    })  # fmt: skip
                    rows += [
                        {
                            **common, "kind": NOISE, "size": b, "images": 41, "c": 1.0,
                            "ratio": factor * (41 - b) / 40 + 1e-3 * seed,
                            "ratio_as_trained": 2.0 if arm == WITH else np.nan,
                        }
                        for b in (5, 21)
                    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.reference_batch(table) == 16
    assert analysis.tuned_rate(table) == 0.1
    assert analysis.small_batch_gain(table).tolist() == pytest.approx([2.0] * 3)
    assert analysis.noise_over_bound(table).tolist() == pytest.approx([0.9, 0.901, 0.902])
    assert analysis.flatness_slope(table).tolist() == pytest.approx([-0.5] * 3)
    assert criterion(BOUND, table).verdict == "reproduced"


def test_runs_that_guess_are_left_out_of_the_slope_of_those_that_learned():
    table = made_up()
    guesses = (table["kind"] == RUN) & (table["learning_rate"] == table["learning_rate"].max())
    table.loc[guesses, "eigenvalue"], table.loc[guesses, "test_accuracy"] = 1e-6, 0.1
    assert (analysis.flatness_slope(table) < -1).all()
    assert analysis.flatness_slope(table, 0.2).tolist() == pytest.approx([-0.5] * 3)


def test_the_claim_turns_red_when_the_truth_is_otherwise():
    assert analysis.small_batch_gain(made_up(gain=-1.0)).tolist() == pytest.approx([-1.0] * 3)
    assert criterion(BOUND, made_up(factor=1.3)).verdict == "not reproduced"


def test_diverged_networks_have_no_noise():
    table = made_up()
    table.loc[table["arm"] == WITHOUT, ["diverged_at", "ratio"]] = (3, 99.0)
    assert analysis.noise_over_bound(table).max() < 1


def test_accuracy_that_depends_on_the_ratio_alone_lies_between_lines():
    table = made_up()
    table["test_accuracy"] = np.log(table["learning_rate"] / table["batch_size"])
    assert analysis.share_between_lines(table).tolist() == pytest.approx([1.0] * 3)
    lines = analysis.along_lines(table)
    shared = lines[lines.notna().sum(axis=1) > 1]
    assert len(shared) == 2  # 0.1/4 and 0.4/16, 0.1/16 and 0.4/64
    assert (shared.max(axis=1) - shared.min(axis=1)).max() < 1e-12


def test_a_number_that_says_nothing_has_the_share_of_chance():
    """The mean over many ways to hand the accuracies to the runs is (k - 1)/(runs - 1)."""
    table = made_up(seeds=(0,))
    lines = analysis.on_lines(table)
    rng, shares = np.random.default_rng(0), []
    for _ in range(3000):
        mixed = lines.assign(test_accuracy=rng.permutation(lines["test_accuracy"]))
        shares.append(analysis.share_between(mixed, "scale").item())
    assert analysis.share_by_chance(lines, "scale").item() == pytest.approx(1 / 3)
    assert np.mean(shares) == pytest.approx(1 / 3, abs=0.02)


def test_the_square_of_the_rate_has_lines_of_its_own():
    table = made_up(seeds=(0,))
    table["test_accuracy"] = np.log(table["learning_rate"] ** 2 / table["batch_size"])
    squares = analysis.on_lines(table, 2)
    assert squares["scale"].nunique() == 1  # 0.1 squared over 4 is 0.4 squared over 64
    assert np.ptp(squares["test_accuracy"]) < 1e-12
    assert analysis.share_between_lines(table).item() < 0.9


def test_facts():
    facts = bjorck_noise.facts(made_up())
    assert facts["finite_population_error"]["value"] == pytest.approx(0.15, abs=0.01)
    assert facts["eigenvalue_error"]["value"] == pytest.approx(1)
    assert facts["as_trained"]["value"] == 2
    assert (facts["smallest_batch"]["value"], facts["largest_batch"]["value"]) == (4, 64)
    assert facts["small_batch_eigenvalue"]["value"] == pytest.approx((0.1 / 4) ** -0.5)


def test_ratios_coincide_at_every_profile():
    """Rates and sizes step by the same factor, so that there are lines of equal α/|B|."""
    for config in bjorck_noise.profiles.values():
        steps = {b / a for a, b in zip(config.batch_sizes, config.batch_sizes[1:], strict=False)}
        rates = np.diff(np.log(config.learning_rates))
        assert rates == pytest.approx([np.log(*steps)] * len(rates))


def test_without_bn_only_the_middle_size_is_trained():
    config = bjorck_noise.configure("quick")
    sizes = {(part.arms[0], part.batch_size) for part in bjorck_noise.parts(config)}
    assert sizes == {(WITH, 4), (WITH, 16), (WITH, 64), (WITHOUT, 16)}


def test_a_small_run_is_tidy(small_table):
    runs = small_table[small_table["kind"] == RUN]
    assert len(runs) == 2 * 2 * 3  # with BN two sizes, without one
    assert runs[["eigenvalue", "eigenvalue_error", "test_accuracy"]].notna().all().all()
    noise = small_table[small_table["kind"] == NOISE]
    assert len(noise) == 12 * 2 * 2
    keys = ["arm", "learning_rate", "batch_size", "seed", "step", "size"]
    assert not noise.duplicated(keys).any()
    assert (noise["ratio_as_trained"].notna() == (noise["arm"] == WITH)).all()


def test_a_small_run_has_the_noise_that_theory_has(small_table):
    noise = analysis.noise(small_table)
    expected = analysis.finite_population(noise["images"], noise["size"])
    assert (noise["ratio"] / expected - 1).abs().max() < 0.15
    assert analysis.noise_over_bound(small_table).max() < 1


def test_measuring_changes_no_bit_of_the_training(small, monkeypatch):
    """With the probes of noise and curvature and without: the same losses, accuracies, streams."""
    runs = [part for part in bjorck_noise.parts(small) if part.arms == (WITH,)][:2]
    make = functools.partial(residual.network, n=small.n, widths=small.widths)
    torch.manual_seed(0)
    plain = residual.train(runs, Session("cpu"), make)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    probed = residual.train(runs, Session("cpu"), make, lambda *of: _probes(runs[0], *of))
    assert torch.equal(torch.random.get_rng_state(), state)
    for without, with_probes in zip(plain, probed, strict=True):
        for name, values in without.items():
            torch.testing.assert_close(
                torch.as_tensor(with_probes[name]), torch.as_tensor(values),
                rtol=0, atol=0, equal_nan=True,
            )  # fmt: skip


def test_noise_without_the_division_by_the_size_breaks_the_bound(monkeypatch):
    """A minibatch gradient that is a sum where it should be a mean turns the claim."""
    right = gradient_noise.over_bound

    def summed(gradients, sizes, draws, seed=0):
        found = right(gradients, sizes, draws, seed)
        return found * found.new_tensor(sizes) ** 2

    monkeypatch.setattr(gradient_noise, "over_bound", summed)
    table = bjorck_noise.run(bjorck_noise.configure("quick", **SMALL), "cpu")
    assert criterion(BOUND, table).verdict == "not reproduced"
