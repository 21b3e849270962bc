"""The largest rate that trains: the search in made-up worlds, claims on known truth, mutants."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbook.experiments.bjorck_edge import claims, search
from bnbook.experiments.bjorck_edge.experiment import EXPERIMENT, rounds
from bnbook.experiments.bjorck_edge.search import DIVERGED, LEARNED, ON_ITS_WAY, START, STUCK
from bnbook.layers import ensemble
from bnbook.setups import edge as setup
from bnbook.setups import residual
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training import fit
from bnbook.training.session import Session
from tests.judging import by_id, criteria

SMALL = {
    "steps": 4, "seeds": (0, 1), "networks": ((1, 1.0), (2, 1.0), (1, 2.0)),
    "learning_rates": (0.01, 0.1, 1.0), "train_images": 64, "test_images": 30, "validation": 30,
    "widths": (2, 2, 4), "side": 4, "batch_size": 16, "within": 4.0,
}  # fmt: skip
IMPOSSIBLE = [
    ({"learning_rates": (0.1, 0.01)}, "learning_rates must be positive and rising"),
    ({"learning_rates": (0.0, 0.1)}, "learning_rates must be positive and rising"),
    ({"arms": ("GroupNorm",)}, "arms must be among"),
    ({"side": 0}, "side must be at least 1"),
    ({"within": 1.0}, "within must be more than 1"),
]
CLAIMS = by_id(EXPERIMENT.claims)
GRID = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-10, 3))
WITHIN = 1.4


TOP = 12


def play(world, start=TOP, grid=GRID, within=WITHIN):
    """Search in a made-up world, rate -> outcome: the outcomes of the rates tried."""
    tried = {}
    while (rate := search.next_rate(tried, grid, start, within)) is not None:
        assert rate not in tried
        tried[rate] = world(rate)
    return tried


def monotone(threshold, breaks=DIVERGED, slow=0.0):
    """A world in which rates up to a threshold train, those up to `slow` slowly."""
    slow = min(slow, threshold)
    return lambda rate: ON_ITS_WAY if rate <= slow else LEARNED if rate <= threshold else breaks


@given(
    st.floats(GRID[0], GRID[-1], exclude_max=True), st.integers(0, TOP),
    st.sampled_from((DIVERGED, STUCK)),
)  # fmt: skip
def test_of_a_monotone_world_the_edge_is_found_wherever_the_search_begins(threshold, start, breaks):
    tried = play(monotone(threshold, breaks), start)
    found = search.edge(tried)
    assert found.rate <= threshold < found.above <= WITHIN * found.rate * 1.001
    assert found == search.edge(play(monotone(threshold, breaks)))


@given(st.floats(0.001, 9.0), st.floats(0, 2))
def test_rates_that_are_on_their_way_train_too(threshold, share):
    found = search.edge(play(monotone(threshold, slow=share * threshold)))
    assert found.rate <= threshold < found.above


@given(st.floats(0.0001, 0.009), st.integers(7, TOP))
def test_a_lone_survivor_is_no_edge(threshold, survivor):
    def world(rate):
        return LEARNED if rate == GRID[survivor] else monotone(threshold)(rate)

    found = search.edge(play(world))
    assert found.rate <= threshold < found.above


@settings(max_examples=60)
@given(st.lists(st.sampled_from((DIVERGED, STUCK, ON_ITS_WAY, LEARNED)), min_size=13, max_size=13),
       st.randoms(use_true_random=False))  # fmt: skip
def test_in_any_world_the_search_ends_and_the_edge_is_what_it_is_said_to_be(on_grid, random):
    of = dict(zip(GRID, on_grid, strict=True))

    def world(rate):
        return of.get(rate) or random.choice((DIVERGED, STUCK, ON_ITS_WAY, LEARNED))

    tried = play(world)
    found = search.edge(tried)

    def holds(rate):
        near = [said for r, said in tried.items() if 0.99 * rate / search.REACH < r < rate]
        return tried[rate] in search.TRAINS and not set(near) & {DIVERGED, STUCK}

    edges = [rate for rate in tried if holds(rate)]
    assert found.rate == max(edges) if edges else math.isnan(found.rate)
    if edges:
        reached = [rate for rate in GRID if 0.99 * found.rate / search.REACH < rate < found.rate]
        assert set(reached) <= set(tried), "a rate that must not break was not tried"


def test_the_definition_sees_what_a_largest_rate_does_not():
    """A mutant that takes the largest rate that trains, and one that takes the first from below."""
    tried = {0.001: LEARNED, 0.00316: LEARNED, 0.01: STUCK, 0.0316: LEARNED, 0.1: DIVERGED}
    assert search.edge(tried) == (0.00316, 0.01)
    assert max(rate for rate, said in tried.items() if said == LEARNED) != search.edge(tried).rate
    far = {0.00001: STUCK, 0.001: LEARNED, 0.01: LEARNED, 0.1: DIVERGED}
    assert search.edge(far) == (0.01, 0.1), "what breaks far below the edge is too slow"
    assert search.edge({0.1: LEARNED})[0] == 0.1
    assert math.isnan(search.edge({0.1: LEARNED}).above)
    assert search.edge({0.0: START}) == search.edge({}) or math.isnan(search.edge({}).rate)


@pytest.mark.parametrize(
    ("diverged", "excess", "spread", "said"),
    [
        (True, (math.nan,) * 3, math.nan, DIVERGED),
        (False, (0.5, 0.4, math.nan), 1.0, DIVERGED),
        (False, (0.5, 0.3, -0.02), 1.0, LEARNED),
        (False, (-0.5, -0.3, -0.02), 0.0, LEARNED),
        (False, (0.5, 0.45, 0.4), 0.1, ON_ITS_WAY),
        (False, (0.5, 0.45, 0.4), 0.0, STUCK),
        (False, (0.5, 0.3, 0.4), 0.1, STUCK),
        (False, (0.001, 0.0005, 0.0), 0.1, STUCK),
        (False, (-0.02, 0.0, 0.02), 0.1, STUCK),
    ],
)
def test_what_a_run_came_to(diverged, excess, spread, said):
    assert search.outcome(diverged, excess, spread) == said


def test_seeds_after_the_first_begin_above_its_edge_and_bn_runs_with_xaviers_weights_alone():
    networks, arms, seeds = ((5, 1.0), (5, 2.0)), (WITHOUT, WITH), (0, 1, 2)
    truth = {(5, 1.0, WITHOUT): 0.05, (5, 2.0, WITHOUT): 0.002, (5, 1.0, WITH): 0.4}
    table = pd.DataFrame()
    for _ in range(60):
        asked = search.wanted(table, networks, arms, seeds, GRID, WITHIN)
        if not asked:
            break
        assert len(set(asked)) == len(asked)
        rows = [
            {**run._asdict(), "outcome": START if run.learning_rate == 0
             else monotone(truth[run[:3]])(run.learning_rate)}
            for run in asked
        ]  # fmt: skip
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    assert {tuple(key) for key in table[search.NETWORK].to_numpy().tolist()} == set(truth)
    tops = table.groupby([*search.NETWORK, "seed"])["learning_rate"].max()
    assert tops[5, 1.0, WITH, 0] == 10.0
    assert tops[5, 1.0, WITH, 1] == 1.0
    assert tops[5, 2.0, WITHOUT, 2] == 0.00316
    for key, threshold in truth.items():
        for seed in seeds:
            found = search.edge(search.outcomes(table)[*key, seed])
            assert found.rate <= threshold < found.above


# --- claims on tables with a known truth ---

N = (1, 3, 5, 9, 18)
GAINS = (0.5, 1.4, 2.0)


def power(n, gain):
    return 3.0 * (6 * n + 2) ** -1.5


def exponential(n, gain):
    return 0.5 * 0.9 ** (3 * n) * gain**-2.0


def made_up(without, with_bn=lambda n, gain: 1.0, seeds=(0, 1, 2), slope=1.0, factor=1.0):
    """A table whose edges are functions of n and gain; predictions have this slope and factor."""
    rows, falling = [], {"half": 0.03, "later": 0.02, "end": 0.01, "spread": 0.1}
    for arm, rate in ((WITHOUT, without), (WITH, with_bn)):
        for n, gain in [(n, 1.0) for n in N] + [(5, gain) for gain in GAINS if arm == WITHOUT]:
            for seed in seeds:
                best = rate(n, gain) * (1 + 0.01 * seed * (n % 4))
                predicted = (best / factor) ** (1 / slope)
                start = {
                    "growth": 1.2 * gain, "size": 7.6 / predicted, "sharpness": 3.8 / predicted,
                    "residual": 1e-6, "classifier_rate": predicted, "network_rate": predicted,
                }  # fmt: skip
                one = {"arm": arm, "n": n, "gain": gain, "seed": seed, "diverged_at": -1}
                rows.append({**one, "learning_rate": 0.0, "step": 0, "outcome": START, **start})
                for factor_, said in ((0.5, LEARNED), (1.0, LEARNED), (1.3, DIVERGED)):
                    rows.append({**one, "learning_rate": best * factor_, "step": 9,
                                 "outcome": said, **falling})  # fmt: skip
    return pd.DataFrame(rows)


def premises(table, name):
    return [premise.find(table)["holds"] for premise in CLAIMS[name].premises]


def test_each_law_finds_its_own():
    one = made_up(power, seeds=(0,))
    assert claims.exponents(one, WITHOUT).tolist() == pytest.approx([-1.5])
    assert (claims.error_ratio(made_up(power)) < 1).all()
    assert (claims.error_ratio(made_up(exponential, seeds=(1, 2))) > 1).all()
    exact = claims.errors(made_up(exponential, seeds=(0,)), WITHOUT)
    assert exact["exponential"].tolist() == pytest.approx([0], abs=1e-9)
    assert claims.error_ratio(made_up(exponential, seeds=(0,))).isna().all()


@pytest.mark.parametrize("law", claims.LAWS)
def test_the_error_of_a_law_is_that_of_the_textbook(law):
    """Of a least-squares line the miss at a point left out is its residual over 1 - leverage."""
    rates = pd.Series((1.0, 0.3, 0.4, 0.05, 0.02), index=N)
    x = np.log(6 * np.array(N) + 2) if law == "power" else 3.0 * np.array(N)
    design = np.stack([np.ones(5), x], 1)
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    y = np.log10(rates.to_numpy())
    misses = (y - hat @ y) / (1 - np.diag(hat))
    assert claims._left_out(rates, law) == pytest.approx(np.sqrt(np.mean(misses**2)))


def test_slope_and_level_of_the_predictions_are_read_as_they_were_made():
    table = made_up(exponential, slope=0.6, factor=2.0, seeds=(0,))
    found = claims.fits(table, "classifier_rate")
    assert found["slope"].tolist() == pytest.approx([0.6])
    assert found["intercept"].tolist() == pytest.approx([math.log10(2)])
    equal = claims.fits(made_up(exponential, factor=2.0, seeds=(0,)), "network_rate")
    assert equal["level"].tolist() == pytest.approx([math.log10(2)])
    assert claims.fits(table, "classifier_rate", WITH)["slope"].isna().all()  # all edges are equal


def test_verdicts_follow_the_truth():
    seeds = (1, 2, 3)
    found = criteria(CLAIMS, made_up(exponential, seeds=seeds))
    assert set(found.values()) == {"reproduced"}
    assert criteria(CLAIMS, made_up(power, seeds=seeds))["bjorck.depth.law"] == "not reproduced"
    steep = criteria(CLAIMS, made_up(lambda n, gain: 1.0, power, seeds))
    assert steep["bjorck.depth"] == "not reproduced"
    assert steep["bjorck.depth.larger_rates"] == "not reproduced"
    off = criteria(CLAIMS, made_up(exponential, seeds=seeds, slope=0.6, factor=10.0))
    for name in ("classifier", "sharpness"):
        assert off[f"bjorck.edge.{name}_slope"] == "not reproduced"
    far = criteria(CLAIMS, made_up(exponential, seeds=seeds, factor=10.0))
    for name in ("classifier", "sharpness"):
        assert far[f"bjorck.edge.{name}_slope"] == "reproduced"
        assert far[f"bjorck.edge.{name}_level"] == "not reproduced"
    grows = criteria(CLAIMS, made_up(lambda n, gain: exponential(n, 1 / gain), seeds=seeds))
    assert grows["bjorck.edge.growth"] == "not reproduced"


def test_premises():
    table = made_up(exponential)
    for claim in EXPERIMENT.claims:
        assert all(premises(table, claim.id)), claim.id
    gone = table[~((table["n"] == 18) & (table["seed"] == 1) & (table["arm"] == WITHOUT)
                   & (table["outcome"] != START))]  # fmt: skip
    assert premises(gone, "bjorck.depth") == [False]
    assert premises(gone, "bjorck.edge.growth") == [False]
    end = table[~((table["arm"] == WITH) & (table["outcome"] == DIVERGED))]
    assert premises(end, "bjorck.depth") == [False]
    assert premises(end, "bjorck.depth.law") == [True], "it is not about BN"
    assert premises(table[table["n"] < 18], "bjorck.depth.larger_rates")[0] is False
    flat = made_up(lambda n, gain: 0.1 * gain)
    assert premises(flat, "bjorck.edge.classifier_slope") == [True, False]
    blunt = table.assign(residual=0.2 * table["sharpness"])
    assert premises(blunt, "bjorck.edge.sharpness_level") == [True, False]


def test_facts():
    found = EXPERIMENT.facts(made_up(exponential, seeds=(0,), factor=2.0))
    assert found["deepest"]["value"] == 110
    assert found["without_fall"]["value"] == pytest.approx(0.9**-51)
    assert found["without_classifier_level"]["value"] == pytest.approx(2.0)
    assert found["without_diverge"]["value"] == found["without_edges"]["value"] == 8
    assert found["rise_110"]["value"] == pytest.approx(1 / exponential(18, 1.0))
    assert found["dose_2_0_growth"]["value"] == pytest.approx(2.4)
    assert found["without_block"]["value"] == pytest.approx(0.9)
    assert found["without_sharpness_shallowest"]["value"] == pytest.approx(2.0)
    assert (found["without_deepest_train"]["value"], found["without_deepest_learned"]["value"]) == (
        2, 2,
    )  # fmt: skip


def test_how_much_rests_on_the_deepest_networks_is_told():
    bent = made_up(lambda n, gain: exponential(n, gain) / (1 if n < 18 else 100), seeds=(0, 1, 2))
    slow = bent.replace({"outcome": {LEARNED: ON_ITS_WAY}}).where(bent["n"] == 18, bent)
    found = EXPERIMENT.facts(slow)
    layers, rates = 6 * np.array(N[:4]) + 2, exponential(np.array(N[:4]), 1.0)
    truth = np.polyfit(np.log(layers), np.log(rates), 1)[0]
    assert found["but_deepest"]["value"] == pytest.approx(truth)
    assert found["but_deepest"]["value"] > claims.exponent_difference(slow).mean() + 0.5
    assert found["without_deepest_train"]["value"] == 6
    assert found["without_deepest_learned"]["value"] == 0


# --- the measurements ---


def tiny(arm, rate, **changes):
    asked = {**SMALL, "networks": ((1, 1.0),), "arms": (arm,), "seeds": (0,),
             "learning_rates": (rate,), **changes}  # fmt: skip
    config = EXPERIMENT.configure("quick")
    return type(config)(**{**vars(config), **asked})


def test_the_excess_of_a_constant_guess_is_that_of_its_divergence():
    """Cross-entropy of a constant q against shares p is H(p) + KL(p || q)."""
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    p = torch.tensor([3, 2, 1]) / 6

    class Constant(torch.nn.Module):
        def __init__(self, q):
            super().__init__()
            self.logits = q.log()

        def forward(self, x):
            return self.logits.expand(len(x), 1, 3)

    assert setup.on_shown(Constant(p), torch.zeros(6, 1), y)["excess"].item() == pytest.approx(
        0, abs=1e-6
    )
    q = torch.tensor([0.2, 0.3, 0.5])
    found = setup.on_shown(Constant(q), torch.zeros(6, 1), y)
    assert found["excess"].item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert found["spread"].item() == 0


def test_the_start_is_what_its_definitions_say():
    """Features by hand; the sharpness from the whole Hessian, column by column."""
    run = tiny(WITHOUT, 0.0)
    train = setup.images(run, torch.device("cpu")).train
    model = residual.network(WITHOUT, (0,), n=1, widths=(1, 1, 2), in_channels=train[0].shape[1])
    x, y = train[0][:8], train[1][:8]
    found = setup.of_network(model.train(), x, y)
    stream = model.stem_norm(model.stem(x)).relu()
    features = model.blocks(stream).mean((2, 3))
    assert found["size"] == pytest.approx(features.square().sum(1).mean().item(), rel=1e-5)
    parameters = list(model.parameters())
    loss = ensemble.cross_entropy(model(x), y).sum()
    gradient = torch.cat([
        g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)
    ])  # fmt: skip
    rows = [
        torch.cat([h.flatten() for h in torch.autograd.grad(
            each, parameters, retain_graph=True, materialize_grads=True)])
        for each in gradient
    ]  # fmt: skip
    top = torch.linalg.eigvalsh(torch.stack(rows).double()).max().item()
    assert abs(found["sharpness"] - top) <= found["residual"] + 1e-4 * top


def test_a_start_predicts_by_its_own_momentum():
    make = lambda arm, seeds, in_channels: residual.network(  # noqa: E731
        arm, seeds, n=1, widths=(2, 2, 4), in_channels=in_channels
    )
    for momentum in (0.9, 0.0):
        found = setup.start(tiny(WITHOUT, 0.0, momentum=momentum), make, Session("cpu"))
        assert set(found) == set(setup.MEASURED) - {"diverged_at", *setup.EXCESS, "spread"}
        assert found["classifier_rate"] == pytest.approx(4 * (1 + momentum) / found["size"])
        assert found["network_rate"] == pytest.approx(2 * (1 + momentum) / found["sharpness"])


def test_a_run_is_trained_at_a_constant_rate_and_ends_where_its_loss_explodes(monkeypatch):
    seen, plain = [], fit.fit
    monkeypatch.setattr(fit, "fit", lambda *a, **k: seen.append(a[4]) or plain(*a, **k))
    fine, gone = (EXPERIMENT.run(tiny(WITHOUT, rate), "cpu") for rate in (0.01, 1e6))
    fine, gone = (t[t["learning_rate"] > 0].iloc[0] for t in (fine, gone))
    assert seen[0].schedule is None
    assert seen[0].learning_rate == [0.01]
    assert (fine["diverged_at"], gone["outcome"]) == (-1, DIVERGED)
    assert gone["diverged_at"] > 1
    assert math.isnan(gone["end"])
    assert fine["loss"] == gone["loss"], "the first minibatch's loss is before any update"
    long = EXPERIMENT.run(tiny(WITHOUT, 1e6, steps=120), "cpu").iloc[-1]
    assert (long["outcome"], long["diverged_at"]) == (DIVERGED, gone["diverged_at"])


def test_networks_without_bn_in_bns_place_do_not_differ(monkeypatch):
    plain = residual.network
    monkeypatch.setattr(residual, "network", lambda _, *a, **k: plain(WITHOUT, *a, **k))
    found = EXPERIMENT.run(EXPERIMENT.configure("quick", **SMALL), "cpu")
    one, other = (
        found[(found["arm"] == arm) & (found["gain"] == 1)].drop(columns="arm")
        .sort_values(["n", "seed", "learning_rate"]).reset_index(drop=True)
        for arm in (WITH, WITHOUT)
    )  # fmt: skip
    pd.testing.assert_frame_equal(one, other)
    assert criteria(CLAIMS, found)["bjorck.depth"] != "reproduced"


def test_profiles_hold_the_papers_network_and_the_doses():
    standard = EXPERIMENT.profiles["standard"]
    assert {n for n, gain in standard.networks if gain == 1} == set(N)
    assert {gain for n, gain in standard.networks if n == 5} == {0.5, 1.0, 1.4, 1.7, 2.0}
    assert (standard.widths, standard.batch_size, standard.side) == ((16, 32, 64), 128, 16)
    first = rounds(standard, pd.DataFrame())
    assert {run.learning_rates for run in first} == {(0.0,)}


def test_figures_draw_what_the_table_says():
    table = made_up(exponential)
    left = EXPERIMENT.figures["depth"](table).axes[0]
    assert left.lines[0].get_ydata()[0] == pytest.approx(exponential(1, 1.0), rel=0.02)
    hollow = EXPERIMENT.figures["predicted"](table).axes[0].lines[1]
    assert len(hollow.get_xdata()) == 3 * len(GAINS)
    shown = EXPERIMENT.figures["outcomes"](table).axes[0]
    assert sum(len(line.get_xdata()) for line in shown.lines) == 3 * 3 * (len(N) + len(GAINS))


def test_a_distance_from_zero_is_that_of_the_mean_and_keeps_what_lies_on_the_other_side():
    signed = claims._off(pd.Series([-0.2, 0.1, -0.2]))
    assert signed.tolist() == pytest.approx([0.2, -0.1, 0.2])


def test_runs_are_read_anew_with_another_fall_and_those_that_learned_or_diverged_are_not():
    table = pd.DataFrame({
        "outcome": [search.STUCK, search.ON_ITS_WAY, search.STUCK, search.LEARNED, search.DIVERGED],
        "half": [0.011, 0.013, 0.011, -0.1, math.nan], "later": [0.0105, 0.0115, 0.012, -0.2, 1.0],
        "end": [0.010, 0.0105, 0.010, -0.3, math.inf], "spread": [0.1, 0.1, 0.1, 0.1, math.nan],
    })  # fmt: skip
    fast = [search.STUCK, search.STUCK, search.STUCK, search.LEARNED, search.DIVERGED]
    slow = [search.ON_ITS_WAY, search.ON_ITS_WAY, search.STUCK, search.LEARNED, search.DIVERGED]
    assert claims.asked_to_fall(table, 0.003)["outcome"].tolist() == fast
    assert claims.asked_to_fall(table, 0.0)["outcome"].tolist() == slow
    assert claims.asked_to_fall(table, search.FALL)["outcome"].tolist() == table["outcome"].tolist()
