"""BN as a regulariser: made-up tables with known answers, and what each arm differs in."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from bnbook.evidence import claims
from bnbook.experiments.regulariser import claims as analysis
from bnbook.experiments.regulariser import experiment as module
from bnbook.experiments.regulariser.claims import ARMS, FEW, FULL, WEAK, Arm, name
from bnbook.experiments.regulariser.experiment import EXPERIMENT
from bnbook.layers import ensemble, renorm
from bnbook.layers.dropout import Dropout
from bnbook.tables import choosing, right
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training import fit
from tests.judging import by_accuracy, by_id, criterion, hits, verdicts

SMALL = {
    "seeds": (0, 1), "steps": 6, "points": 1, "train_images": 64, "test_images": 30,
    "validation": 30, "hidden": (4, 4), "learning_rates": (0.1, 1.0),
}  # fmt: skip
IMPOSSIBLE = [
    ({"arms": (WITH, WITHOUT)}, "arms must hold"),
    ({"arms": (*ARMS, "none")}, "arms must be among"),
    ({"batch_size": 20}, "multiple of the 8 images"),
    ({"seeds": (0, 100)}, "would do both"),
]
CLAIMS = by_id(EXPERIMENT.claims)
RATES = (0.01, 0.1, 1.0)
TRUTH = {
    Arm(False): 0.80, Arm(True): 0.85, Arm(False, WEAK): 0.83, Arm(False, FULL): 0.82,
    Arm(True, WEAK): 0.86, Arm(True, FULL): 0.80, Arm(True, together=FEW): 0.88,
    Arm(True, fixed=True): 0.84, Arm(False, fixed=True): 0.80,
    Arm(True, together=FEW, fixed=True): 0.85,
}  # fmt: skip


def made_up(known=1.0, images=1000, **truth):
    """A table whose truth is known: test accuracies by arm, best at the middle rate."""
    share = {name(arm): 0.7 for arm in ARMS.values()} | {name(a): v for a, v in TRUTH.items()}
    share |= {name(arm_of(key)): value for key, value in truth.items()}
    rows = []
    for arm in ARMS:
        for seed in (0, 1, 2, 100):
            for rate in RATES if seed == 100 else (0.1,):
                own = share[arm] + 0.001 * (seed % 100)
                rows.append({
                    "arm": arm, "seed": seed, "learning_rate": rate, "tunes": seed == 100,
                    "step": 10, "validation": 1 - own + (rate != 0.1), "training_accuracy": known,
                    "test_accuracy": own, "right": "" if seed == 100 else hits(own, images),
                })  # fmt: skip
    return pd.DataFrame(rows)


def arm_of(key):
    return {
        "plain": Arm(False), "plain_weak": Arm(False, WEAK), "plain_full": Arm(False, FULL),
        "bn": Arm(True), "bn_weak": Arm(True, WEAK), "few": Arm(True, together=FEW),
        "fixed": Arm(True, fixed=True), "few_fixed": Arm(True, together=FEW, fixed=True),
    }[key]  # fmt: skip


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.gap(table)[WITHOUT].tolist() == pytest.approx([20.0, 19.9, 19.8])
    for measured, points in (
        (analysis.gap_closed(table), 5.0),
        (analysis.noise_gain(table), 3.0),
        (analysis.dropout_gain(table, False), 3.0),
        (analysis.dropout_gain(table, True), 1.0),
        (analysis.dropout_interaction(table), -2.0),
        (analysis.shuffling_gain(table), 1.0),
        (analysis.shuffling_gain(table, False), 0.0),
        (analysis.shuffling_gain(table, together=FEW), 3.0),
    ):
        assert measured.shape == (3, 1000)
        assert right.by_seed(measured).tolist() == pytest.approx([points] * 3)
    assert set(verdicts(CLAIMS, table).values()) == {"reproduced"}
    facts = EXPERIMENT.facts(table)
    assert facts["without_weak_dropout_accuracy"]["value"] == pytest.approx(83.1)
    assert facts["bn_accuracy"]["value"] == pytest.approx(5.0)


def test_few_test_images_leave_open_what_seeds_agree_on(monkeypatch):
    """One of 100 images is right with new minibatches only, at every seed.

    Its standard error is a point: of the images' spread, 10 points, one in sqrt(100) is left.
    """
    claim, few = CLAIMS["ioffe.sec4_2_1.shuffling"], made_up(images=100)
    found = claims.judge(claim, few)
    assert (found.verdict, found.over) == ("inconclusive", "seeds and test images")
    assert (found.low, found.high) == pytest.approx((1 - 1.984, 1 + 1.984), abs=0.001)
    fact = EXPERIMENT.facts(few)["bn_accuracy"]
    assert fact["high"] - fact["low"] == pytest.approx(2 * 1.984 * 2.19, abs=0.01)
    monkeypatch.setattr(right, "lead", by_accuracy)
    assert claims.judge(claim, few).verdict == "reproduced"


def test_the_figure_has_the_bars_that_the_claim_is_judged_by():
    few = made_up(images=100)
    found = claims.judge(CLAIMS["ioffe.sec4_2_1.shuffling"], few)
    _, right_panel = EXPERIMENT.figures["noise"](few).axes
    bars = [container.lines[2][0].get_segments()[0][:, 1] for container in right_panel.containers]
    assert bars[1].tolist() == pytest.approx([found.low, found.high])


def test_what_is_known_by_heart_counts_whatever_the_images():
    """Training accuracies move the gap that is closed, and give it no spread."""
    table = made_up(known=0.995)
    worse = table.assign(training_accuracy=table["training_accuracy"].mask(table["arm"] == WITH, 1))
    gaps = [analysis.gap_closed(each) for each in (table, worse)]
    assert (gaps[0] - gaps[1]).to_numpy() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"bn": 0.75}, "ioffe.sec3_4.regularises"),
        ({"few": 0.84}, "ioffe.sec3_4.noise"),
        ({"bn_weak": 0.92}, "ioffe.sec3_4.dropout"),
        ({"fixed": 0.86}, "ioffe.sec4_2_1.shuffling"),
        ({"few_fixed": 0.89}, "ioffe.sec4_2_1.shuffling_few"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, claim):
    assert criterion(CLAIMS[claim], made_up()).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**changes)).verdict == "not reproduced"


def test_nothing_is_tested_where_a_premise_fails():
    at_end = made_up()
    at_end = at_end[at_end["learning_rate"] != 1.0]
    assert set(verdicts(CLAIMS, at_end).values()) == {"not tested"}
    unknown = made_up(known=0.95)
    found = verdicts(CLAIMS, unknown)
    assert found.pop("ioffe.sec3_4.dropout") == "reproduced"
    assert set(found.values()) == {"not tested"}
    idle = made_up(plain_weak=0.80, plain_full=0.80)
    assert claims.judge(CLAIMS["ioffe.sec3_4.dropout"], idle).verdict == "not tested"


def run_of(arm, **changes):
    config = EXPERIMENT.configure("quick", **SMALL)
    given = {"arms": (name(arm),), "seeds": (1,), "learning_rates": (0.1,)} | changes
    return replace(config, **given)


def dropped(model):
    return [layer for layer in model.modules() if isinstance(layer, Dropout)]


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_an_arms_network_has_what_its_name_says(arm):
    model = module.network(run_of(arm), (1, 2), 64)
    norms = [layer for layer in model.modules() if isinstance(layer, renorm.ReplicaBatchNorm)]
    assert len(norms) == 2 * arm.bn
    assert {layer.batch_size for layer in norms} <= {arm.together}
    config = run_of(arm)
    share = {"": 0.0, WEAK: config.weak_dropout, FULL: config.dropout}[arm.dropout]
    assert [layer.p for layer in dropped(model)] == [share] * 2
    assert [layer.layer for layer in dropped(model)] == [0, 1]
    linears = [layer for layer in model.hidden if isinstance(layer, ensemble.Linear)]
    assert all((layer.bias is None) == arm.bn for layer in linears)


def test_all_arms_start_from_the_same_weights():
    first = {
        name(arm): module.network(run_of(arm), (7,), 64).hidden[0].weight for arm in ARMS.values()
    }
    assert all(torch.equal(weight, first[WITHOUT]) for weight in first.values())


def test_images_normalised_together_are_the_minibatches_next_to_each_other():
    """The mutant is a layer that ignores their number."""
    model = module.network(run_of(Arm(True, together=FEW)), (1,), 64)
    whole = module.network(run_of(Arm(True)), (1,), 64)
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    parts = torch.cat([whole(part) for part in x.split(FEW)])
    torch.testing.assert_close(model(x), parts, rtol=1e-4, atol=1e-5)
    assert (model(x) - whole(x)).abs().max() > 0.01


def pairs(batches):
    """Pairs of examples that share a minibatch, of each step."""
    return [frozenset(batch.tolist()) for batch in batches]


def test_fixed_minibatches_come_again_each_epoch_in_another_order():
    first = pairs(module.fixed_minibatches(70, 8, 24, seed=3))
    epochs = [first[at : at + 8] for at in (0, 8, 16)]
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1]
    assert len(frozenset().union(*epochs[0])) == 64  # no example twice
    assert len(set(first)) == 8
    other = module.fixed_minibatches(70, 8, 24, seed=4)
    assert not set(pairs(other)) & set(first)


def test_shuffled_minibatches_do_not():
    """The mutant is a shuffling that does nothing."""
    assert len(set(pairs(fit.minibatches(70, 8, 24, seed=3)))) == 24


def test_the_fixed_arms_alone_see_fixed_minibatches(monkeypatch):
    seen = {}

    def note(kind, compose):
        def noted(*args):
            seen[current] = kind
            return compose(*args)

        return noted

    for home, kind in ((module, "fixed_minibatches"), (fit, "minibatches")):
        monkeypatch.setattr(home, kind, note(kind, getattr(home, kind)))
    for arm in (Arm(True), Arm(True, together=FEW), *analysis.COMPOSED):
        current = arm
        EXPERIMENT.run(run_of(arm), "cpu")
    assert {arm for arm, kind in seen.items() if kind == "fixed_minibatches"} == set(
        analysis.COMPOSED
    )


@pytest.mark.parametrize("arm", [Arm(True, decay=True), Arm(False, decay=True), Arm(False)])
def test_training_is_that_of_a_plain_torch_network(arm):
    run = run_of(arm)
    (x, y), _, (test, labels) = module.splits("digits", 1, 30, 64, 30, "cpu")
    ours = module.network(run, (1,), 64)
    layers = []
    for fan_in in (64, 4):
        layers.append(nn.Linear(fan_in, 4, bias=not arm.bn))
        layers += [nn.BatchNorm1d(4)] * arm.bn + [nn.ReLU()]
        layers = [*layers[:-2], nn.BatchNorm1d(4), nn.ReLU()] if arm.bn else layers
    net = nn.Sequential(*layers, nn.Linear(4, 10))
    with torch.no_grad():
        for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    decays = [run.weight_decay if arm.decay and p.dim() > 1 else 0.0 for p in net.parameters()]
    groups = [
        {"params": [p], "weight_decay": d} for p, d in zip(net.parameters(), decays, strict=True)
    ]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=run.momentum)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / run.steps)
    for batch in fit.minibatches(64, 32, 6, seed=1):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[batch].flatten(1)), y[batch]).backward()
        optimiser.step()
        falling.step()
    net.eval()
    scores = net(test.flatten(1))
    last = EXPERIMENT.run(run, "cpu").iloc[-1]
    assert last["test_loss"] == pytest.approx(
        nn.functional.cross_entropy(scores, labels).item(), rel=1e-4
    )
    assert right.unpack(last["right"]).tolist() == (scores.argmax(1) == labels).tolist()


def test_a_small_run_has_every_arm_at_a_rate_that_the_tuning_seed_chose(small_table):
    rates = choosing.chosen(small_table)
    assert set(rates) == set(ARMS)
    judged = small_table[~small_table["tunes"]]
    assert (judged["learning_rate"] == judged["arm"].map(rates)).all()
    assert set(judged["seed"]) == {0, 1}


def test_the_last_row_of_a_run_that_judges_says_which_images_are_right(small_table):
    last = choosing.last(small_table)
    judges = last[~last["tunes"]]
    shares = [right.unpack(text).mean() for text in judges["right"]]
    assert shares == pytest.approx(judges["test_accuracy"].tolist())
    others = small_table.drop(judges.index)
    assert set(others["right"]) == {""}


def test_a_run_that_diverged_guesses():
    """Its images are not told apart, and count a tenth each in a difference."""
    history = [{
        "step": 6, "diverged_at": torch.tensor([3]), "right": torch.ones(1, 30, dtype=torch.bool),
        **{name: torch.tensor([0.5]) for name in module.MEASURED},
    }]  # fmt: skip
    table = module._table(run_of(Arm(True)), history, 0)
    assert table[["test_accuracy", "right"]].to_numpy().tolist() == [[0.1, ""]]
