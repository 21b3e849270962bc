"""The benchmark: the same work by everybody, operations counted right, ratios taken right."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bnbook import files
from bnbook.bench import (
    backward,
    contenders,
    costs,
    deep,
    figures,
    floor,
    gpu,
    growth,
    measure,
    memory,
    recording,
    timing,
    workloads,
)
from bnbook.cli import bench as command
from bnbook.errors import BnbookError
from bnbook.evidence import records, timings
from bnbook.layers import ensemble
from bnbook.sweeps import planning
from bnbook.training import steps
from bnbook.training.deep import DeepStep
from bnbook.training.descent import SGD

TINY = replace(workloads.DIGITS, members=2, hidden=(20, 20), batch=30)
SMALL_RESNET = workloads.ResNet("resnet20", 1, batch=8)
ISSUE_FIELDS = (
    "workload", "contender", "members", "steps", "median_s", "min_s", "max_s", "ratio_to_ours",
    "floor_share",
)  # fmt: skip


def trained(contender, workload, steps):
    """What a contender has trained, its first member's alone."""
    runner = contender.prepare(workload, steps, 0, "cpu")
    try:
        runner.reset()
        runner.run()
        runner.reset()
        runner.run()  # again from the beginning
        return runner.members, runner.state()
    finally:
        runner.close()


def ours(workload, steps, members):
    """Our training in this process, through autograd or by hand as the plan says."""
    from bnbook.bench import our_fit

    rates = workload.rates(workload.members)[:members]
    runner = our_fit.prepare(workload, steps, 0, "cpu", rates)
    runner.run()
    return runner.state()


@pytest.mark.slow
@pytest.mark.parametrize("name", [c.name for c in contenders.CONTENDERS["digits"]])
def test_every_contender_does_the_same_work(name):
    """All weights and running statistics agree after some steps at a large rate."""
    (contender,) = (c for c in contenders.CONTENDERS["digits"] if c.name == name)
    if note := contender.missing():
        pytest.skip(note)
    steps = 8
    members, state = trained(contender, TINY, steps)
    expected = ours(TINY, steps, members)
    start = workloads.state([TINY.ours(members, 0)], [members])
    assert members in (1, TINY.members)
    assert len(state) == len(expected) == 2 * 5 + 2
    for theirs, mine, first in zip(state.values(), expected.values(), start.values(), strict=True):
        assert theirs.shape == mine.shape
        assert np.abs(mine - first).max() > 1e-3, "it must have moved"
        np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=2e-5)


LOOPS = {"tutorial": {}, "channels last": {"channels_last": True}, "in memory": {"in_memory": True}}


@pytest.mark.parametrize("flags", LOOPS.values(), ids=LOOPS.keys())
def test_the_loops_train_our_resnet(flags, monkeypatch):
    monkeypatch.setattr(workloads.ResNet, "plan", lambda *_: measure_plan())
    steps = 3
    loop = contenders.Loop(SMALL_RESNET, steps, 0, "cpu", **flags)
    loop.run()
    expected = ours(SMALL_RESNET, steps, 1)
    for theirs, mine in zip(loop.state().values(), expected.values(), strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-2, atol=1e-3)


def measure_plan():
    """Eager, so that no compiler is needed."""
    from bnbook.training.session import Plan

    return Plan(members=1)


TINY_DEEP = deep.Deep("resnet20-8", 1, batch=8, side=8)


def first_update(contender, workload):
    """What one step of a network does to its parameters."""
    _, state = trained(contender, workload, 1)
    start = workloads.state([workload.ours(1, 0)], [1])
    return np.concatenate([(a - b).ravel() for a, b in zip(state.values(), start.values(),
                                                           strict=True)])  # fmt: skip


@pytest.mark.parametrize("normed", [True, False], ids=["with BN", "without"])
def test_deep_networks_are_trained_alike(normed):
    """By a step in bfloat16 that is no further from float32's than autocast's, four times over."""
    workload = replace(TINY_DEEP, normed=normed)
    exact = first_update(contenders.INDEXED, workload)
    theirs, ours_ = (first_update(who, workload) for who in (deep.EAGER, contenders.OURS))
    error = np.linalg.norm(theirs - exact)
    assert 0 < np.linalg.norm(ours_ - exact) <= 4 * error < np.linalg.norm(exact)


def test_a_map_of_rates_trains_its_networks_one_by_one():
    both = ours(replace(TINY_DEEP, members=2), 2, 2)
    one = ours(replace(TINY_DEEP, members=1), 2, 1)
    weights, alone = next(iter(both.values())), next(iter(one.values()))
    assert len(weights) == 2
    np.testing.assert_array_equal(weights[0], alone[0])
    assert np.abs(weights[0] - weights[1]).max() > 1e-4


def test_deep_networks_are_measured_beside_their_floors(monkeypatch):
    """One thread each; two floors a round; the target is held to the best of the others."""
    small = replace(TINY_DEEP, name="resnet20-32")
    seen = []
    monkeypatch.setattr(deep, "QUICK_CONTENDERS", (contenders.OURS, deep.EAGER))
    monkeypatch.setattr(deep, "_COPIED", 1000)
    monkeypatch.setattr(deep, "steps", lambda _: seen.append(torch.get_num_threads()) or 1)
    rows = measure._deep_rows(small, measure.Effort(2, {}), True)
    assert seen == [1]
    table = pd.DataFrame(rows, columns=list(timings.COLUMNS))
    assert table.groupby("contender").size().to_dict() == dict.fromkeys(
        ("ours", deep.EAGER.name, *deep.FLOORS), 2
    )
    judged = {t.name: found for t, found in timings.judged(table)}
    assert "resnet56_16_bn" not in judged
    expected = timings.ratios(table, "resnet20-32", deep.EAGER.name)
    assert judged["resnet20_32_bn"]["value"] == pytest.approx(expected.median())


def test_the_quick_benchmark_has_the_two_shallower_networks():
    assert deep.QUICK == (
        "resnet20-32", "resnet20-32 without BN", "resnet56-16", "resnet56-16 without BN",
    )  # fmt: skip
    assert {t.workload for t in timings.DEEP_TARGETS} == {*deep.WORKLOADS, *deep.UNCOMPILED}


def test_bytes_that_must_move_are_counted(monkeypatch):
    """Products cost nothing here; each input moves three times, each output twice."""
    monkeypatch.setattr(deep, "_best_rate", lambda *_: math.inf)
    monkeypatch.setattr(deep, "_copy_seconds", lambda: 8.0 * deep._COPIED)
    each, _ = deep.floors(replace(TINY_DEEP, batch=1))(0)
    sizes = [(3, 8, 16, 8), (16, 8, 16, 8), (16, 8, 16, 8), (16, 8, 32, 4), (32, 4, 32, 4),
             (32, 4, 64, 2), (64, 2, 64, 2)]  # fmt: skip
    numbers = sum(3 * a * s * s + 2 * b * t * t for a, s, b, t in sizes)
    assert each["seconds"] == pytest.approx(2 * numbers)


@pytest.mark.skipif(not planning.has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize("workload", [SMALL_RESNET, TINY_DEEP], ids=["float32", "bfloat16"])
def test_residual_networks_are_trained_by_the_kernels(workload):
    settings = SGD([0.1], momentum=workload.momentum)
    plan = workload.plan("cpu")
    step = steps.choose(workload.ours(1, 0), ensemble.cross_entropy, settings, plan)
    assert isinstance(step, DeepStep)


def test_a_members_rate_is_its_own():
    together = ours(TINY, 5, 2)
    alone = ours(replace(TINY, members=1), 5, 1)
    first, second = next(iter(together.values()))
    np.testing.assert_allclose(first, next(iter(alone.values()))[0], rtol=1e-4, atol=1e-5)
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    "workload",
    [
        workloads.MNIST,
        replace(TINY, hidden=(7, 11, 5)),
        workloads.RESNET20,
        SMALL_RESNET,
        TINY_DEEP,
    ],
    ids=["mnist", "narrow", "resnet20", "small resnet", "deep"],
)
def test_operations_are_counted_as_torch_counts_them(workload):
    workload = replace(workload, batch=4)
    network = workload.single(0)
    images, labels = workload.data()
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.cross_entropy(network(images[:4]), labels[:4]).backward()
    assert counter.get_total_flops() == floor.flop(workload)


def test_only_known_workloads_are_counted():
    with pytest.raises(BnbookError, match="operations can be counted"):
        floor.flop(ensemble)


def test_a_resnet_has_as_many_convolutions_as_layers():
    for blocks in (1, 3, 18):
        assert len(floor.convolutions(blocks)) == 6 * blocks + 1
    slow, fast = (gpu.least_seconds(128, 18, rate, 1e12) for rate in (1e12, 1e15))
    assert slow > fast > 0


def test_memory_is_counted_by_hand():
    """Against the sizes of a real model's tensors."""
    workload = replace(TINY, members=3)
    model = workload.ours(3, 0)
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.dim())]
    activations = 3 * (3 * 30 * (20 + 20) + 2 * 30 * 10)
    assert memory.counted(workload) == 4 * (sum(t.numel() for t in tensors) + activations)


def row(workload, contender, members, repetition, taken, **changes):
    made = timing.row(workload, contender, members, 10, repetition, taken)
    return {**made, "gflop": 1.0, **changes}


@pytest.fixture
def table():
    """Two rounds at full speed, one at half; ours trains 2 members, the others 1."""
    rows = []
    for repetition, slowness in enumerate((1.0, 2.0, 1.0)):
        rows.append(row("mnist", "ours", 2, repetition, 2.0 * slowness))
        rows.append(row("mnist", "tutorial loop", 1, repetition, 4.0 * slowness))
        rows.append(row("mnist", "jax.vmap", 2, repetition, 1.8 * slowness))
        rows.append(row(timings.PRODUCT, "square", 1, repetition, 0.5 * slowness, steps=1))
    rows.append(timings.empty("mnist", "skorch", 1, "not installed"))
    rows.append(row("resnet20", "ours", 1, 0, 3.0))
    for name, taken in zip(timings.FLAGS, (6.0, 9.0, 4.5), strict=False):
        rows.append(row("resnet20", name, 1, 0, taken))
    for setting in (1.0, 16.0):
        rows += [row("growth members", "ours", 1, r, 1 / setting, setting=setting) for r in (0, 1)]
    for name, size in ((timings.OURS, 60.0), (timings.MEMORY, 50.0)):
        rows.append(timings.empty("memory", name, 64, "") | {"mebibytes": size})
    rows += gpu.absent(gpu.NAMES)
    return pd.DataFrame(rows, columns=list(timings.COLUMNS))


def test_ratios_are_paired_per_member_and_step(table):
    assert list(timings.ratios(table, "mnist", "tutorial loop")) == [4, 4, 4]
    assert list(timings.ratios(table, "mnist", "jax.vmap")) == pytest.approx([0.9] * 3)
    assert timings.ratios(table, "mnist", "skorch").empty


def test_the_summary_has_the_fields_asked_for(table):
    summary = timings.rows(table).set_index(["workload", "contender"])
    assert set(ISSUE_FIELDS) <= {*summary.columns, *summary.index.names}
    found = summary.loc[("mnist", "tutorial loop")]
    assert found[["median_s", "min_s", "max_s"]].tolist() == [4, 4, 8]
    assert (found["ratio_to_ours"], found["repetitions"], found["members"]) == (4, 3, 1)
    assert summary.loc[("mnist", "ours"), "ratio_to_ours"] == 1
    # 1 Gflop a step; the best product ran at 2 Gflop/s; ours took 0.1 s a member and step.
    assert summary.loc[("mnist", "ours"), "floor_share"] == pytest.approx(0.5 / 0.1)
    missing = summary.loc[("mnist", "skorch")]
    assert missing["note"] == "not installed"
    assert math.isnan(missing["median_s"])
    assert missing["repetitions"] == 0


def test_targets_are_judged_by_the_median(table):
    found = {target.name: outcome for target, outcome in timings.judged(table)}
    assert found["mnist_tutorial"] == {
        "value": 4.0, "low": 4.0, "high": 4.0, "n": 3, "verdict": "met",
    }  # fmt: skip
    assert found["mnist_jax"]["verdict"] == "missed"
    assert found["mnist_floor"]["value"] == pytest.approx(500)
    assert found["resnet20_flag"]["value"] == pytest.approx(1.5), "the fastest variant counts"
    assert found["memory"] == {"value": 1.2, "low": 1.2, "high": 1.2, "n": 1, "verdict": "met"}
    assert {name for name, o in found.items() if o["verdict"] == "not run"} == {
        "digits_tutorial", "digits_jax", "resnet20_tutorial", "resnet110_tutorial",
    }  # fmt: skip


def test_a_target_met_from_below():
    rows = [timings.empty("memory", n, 64, "") | {"mebibytes": m}
            for n, m in ((timings.OURS, 80.0), (timings.MEMORY, 50.0))]  # fmt: skip
    found = {t.name: o for t, o in timings.judged(pd.DataFrame(rows))}
    assert found["memory"]["verdict"] == "missed"


def test_targets_name_what_there_is():
    known = {name: {c.name for c in who} for name, who in contenders.CONTENDERS.items()}
    for target in timings.TARGETS:
        if target.workload in known and target.against not in (timings.FLOOR, timings.SINGLE_FLAG):
            assert target.against in known[target.workload]
    assert set(timings.FLAGS) <= known["resnet20"]
    assert set().union(*known.values()) == set(figures.COLOURS)
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_facts_are_numbers_with_ends(table):
    facts = timings.facts(table)
    assert facts["mnist_tutorial"]["value"] == 4
    assert facts["mnist_jax"]["low"] == pytest.approx(0.9)
    assert facts["best_rate"]["value"] == 2
    assert facts["targets_not_run"]["value"] == 4
    assert facts["memory_ours_mib"]["unit"] == " MiB"
    assert json.dumps(facts, allow_nan=False)


def test_a_record_flows_to_the_ledger(table, tmp_path):
    path = recording.write(
        table, "quick", device="cpu", threads=2, load=0.0, seconds=3.0, folder=tmp_path
    )
    assert path == tmp_path / "bench" / "quick.parquet"
    content = json.loads((tmp_path / "claims" / "bench.json").read_text())
    assert content["claims"] == []
    quick = content["profiles"]["quick"]
    assert quick["record"]["config"]["repetitions"] == 3
    assert {"jax", "lightning", "skorch", "torch"} <= set(quick["record"]["versions"])
    assert [t["name"] for t in quick["targets"]] == [t.name for t in timings.TARGETS]
    before = (tmp_path / "claims" / "bench.json").read_bytes()
    assert recording.rewrite(tmp_path) == [tmp_path / "claims" / "bench.json"]
    assert (tmp_path / "claims" / "bench.json").read_bytes() == before


@pytest.mark.parametrize("name", recording.TITLES)
def test_the_ledger_is_what_the_records_give(name):
    folder = records.recorded()
    made = recording.content(name, folder)
    path = folder / "claims" / f"{name}.json"
    if not made["profiles"] and not path.is_file():
        pytest.skip("nothing of the kind was recorded")
    assert files.as_json(made) == files.as_json(json.loads(path.read_text("utf-8")))


def test_figures_draw_what_was_measured(table):
    ratios, growth_ = (draw(table) for draw in figures.FIGURES.values())
    assert len(ratios.axes) == 2
    assert [t.get_text() for t in ratios.axes[0].get_yticklabels()] == ["jax.vmap", "tutorial loop"]
    assert len(growth_.axes) == 1
    without = table[~table["workload"].str.startswith("growth")]
    assert len(figures.growth(without).axes) == 1


def test_the_growth_curves():
    quick, full = list(growth.networks(True)), list(growth.networks(False))
    assert {curve for curve, *_ in quick} == {"growth members"}
    assert {curve for curve, *_ in full} == set(timings.GROWTH)
    assert [setting for curve, setting, _ in full if curve == "growth members"] == [
        2**k for k in range(9)
    ]


def test_the_costs_vary_one_thing_each(monkeypatch):
    found = list(costs.networks())
    assert tuple(dict.fromkeys(curve for curve, *_ in found)) == timings.COSTS
    for curve in timings.COSTS:
        assert [network for of, _, network in found if of == curve].count(costs.BASE) == 1
    wide = replace(costs.BASE, blocks=1, width=32)
    assert [conv.out_channels for conv in wide.ours(1, 0).convolutions] == [32] * 3 + [64] * 2 + [
        128
    ] * 2
    twice = [("cost side", 8, wide), ("cost width", 32, wide)]
    monkeypatch.setattr(costs, "networks", lambda: iter(twice))
    calls = []
    monkeypatch.setattr(
        memory, "measured", lambda *_, threads: calls.append(1) or (12.5, 3.0 * threads)
    )
    row, other = costs.rows()
    assert calls == [1], "a network of two curves is measured once"
    assert (other["workload"], other["setting"], other["seconds"]) == ("cost width", 32.0, 3.0)
    assert (row["setting"], row["mebibytes"], row["seconds"], row["steps"]) == (8.0, 12.5, 3.0, 4)
    about = timings.rows(pd.DataFrame([row, *measure.product_rows([floor.Product((8, 8, 8))], 0)]))
    assert about.loc[0, "us_per_member_step"] == pytest.approx(750_000)
    assert math.isnan(about.loc[0, "ratio_to_ours"])


@pytest.mark.slow
@pytest.mark.skipif(not memory._STATUS.is_file(), reason="needs Linux's /proc")
def test_a_steps_memory_holds_its_activations_and_not_many_times_them():
    """The kernels keep each convolution's output in bfloat16, and as much again on the way."""
    network = replace(costs.BASE, batch=512)
    convolutions = floor.convolutions(network.blocks, network.side)
    numbers = network.batch * sum(each.outputs * each.positions for each in convolutions)
    mebibytes, seconds = memory.measured(network, 1, threads=1)
    assert 2 * numbers <= mebibytes * 2**20 <= 8 * numbers
    assert seconds > 0


def test_what_is_missing_is_named(monkeypatch):
    absent = contenders.Contender("other", contenders.torch_loop(), package="no_such_package")
    assert absent.missing() == "not installed: no-such-package, of the extra bench"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert contenders.COMPILED.missing() == "not run: no C++ compiler"
    rows = measure.workload_rows(TINY, 1, 1, [absent])
    assert [r["note"] for r in rows if r["workload"] == "digits"] == [absent.missing()]


def test_a_process_that_fails_says_why():
    with pytest.raises(BnbookError, match="batch_size must lie"):
        contenders.ours(replace(TINY, batch=10**6), 1, 0, "cpu")


def test_names_are_checked():
    with pytest.raises(BnbookError, match="among mnist; digits"):
        measure.run(True, only=["mnits"])
    with pytest.raises(BnbookError, match="one of mnist"):
        contenders.of("mnits")
    with pytest.raises(BnbookError, match="leave out --only"):
        command.bench(record=True, only=["mnist"])
    with pytest.raises(BnbookError, match="--again is for --deep --record"):
        command.bench(deep=True, again=True)


@pytest.fixture
def growing(monkeypatch, tmp_path):
    """A folder for a record of deep networks, and the names timed so far; nothing is computed."""
    timed = []

    def run(quick, device, only, all_deep):
        (name,) = only
        timed.append(name)
        assert (quick, device, all_deep) == (False, "cpu", True)
        of = ("cost side", "cost depth") if name == "costs" else (name,)
        rows = [row(each, "ours", 1, r, len(timed)) for each in of for r in range(9)]
        return pd.DataFrame([*rows, row(timings.PRODUCT, "square", 1, 0, 0.5)])[[*timings.COLUMNS]]

    monkeypatch.setattr(measure, "run", run)
    monkeypatch.setattr(command, "load", lambda: 0.25 * len(timed))
    monkeypatch.setattr(records, "recorded", lambda: tmp_path)
    return tmp_path, timed


def recorded_deep(folder):
    return records.read(records.path(folder, recording.DEEP, "standard"))


def test_the_record_of_deep_networks_grows(growing, capsys):
    """What is there is not timed again unless asked; order, provenance and ledger follow."""
    folder, timed = growing
    command.bench(deep=True, record=True, only=["costs", "resnet56-16"])
    assert timed == ["resnet56-16", "costs"]
    found = recorded_deep(folder)
    assert list(found.table["workload"].unique()) == ["resnet56-16", "cost side", "cost depth"]
    config = found.provenance["config"]
    assert set(config["parts"]) == {"resnet56-16", "costs"}
    assert config["left_out"].split(", resnet")[0] == "resnet20-32"
    command.bench(deep=True, record=True, only=["costs", "resnet20-32"])
    assert timed[2:] == ["resnet20-32"]
    first = recorded_deep(folder)
    assert first.table["workload"].iloc[0] == "resnet20-32"
    command.bench(deep=True, record=True, only=["resnet56-16"], again=True)
    last = recorded_deep(folder)
    assert len(last.table) == len(first.table)
    seconds = last.table.groupby("workload")["seconds"].first()
    assert seconds.to_dict() == {
        "cost depth": 2, "cost side": 2, "resnet20-32": 3, "resnet56-16": 4,
    }  # fmt: skip
    parts = last.provenance["config"]["parts"]
    assert [parts[name]["load"] for name in ("costs", "resnet20-32", "resnet56-16")] == [
        0.25, 0.5, 0.75,
    ]  # fmt: skip
    assert last.provenance["config"]["load"] == 0.75
    ledger = json.loads((folder / "claims" / "bench_deep.json").read_text())
    assert ledger["profiles"]["standard"]["record"]["digest"] == last.digest
    assert {r["workload"] for r in ledger["profiles"]["standard"]["rows"]} == set(seconds.index)
    command.bench(deep=True, record=True)
    whole = recorded_deep(folder)
    assert "left_out" not in whole.provenance["config"]
    assert set(whole.provenance["config"]["parts"]) == set(measure.OF_DEEP)
    before = len(timed)
    command.bench(deep=True, record=True)
    assert len(timed) == before
    assert "nothing, the record has it all" in capsys.readouterr().err


def test_a_record_of_another_processor_is_left_alone(growing, monkeypatch):
    folder, timed = growing
    command.bench(deep=True, record=True, only=["costs"])
    path = records.path(folder, recording.DEEP, "standard")
    before = path.read_bytes()
    monkeypatch.setattr(records, "processor", lambda: "another")
    with pytest.raises(BnbookError, match="times of two are not mixed"):
        command.bench(deep=True, record=True, only=["resnet20-32"])
    with pytest.raises(BnbookError, match="expected names among resnet20-32"):
        command.bench(deep=True, record=True, only=["mnist"])
    assert timed == ["costs"]
    assert path.read_bytes() == before


def test_what_was_recorded_before_parts_were_named_counts(growing):
    """The record then says of each network what it says of itself."""
    folder, timed = growing
    table = pd.DataFrame([row("resnet20-32", "ours", 1, r, 1.0) for r in range(9)])
    recording.write(table[[*timings.COLUMNS]], "standard", device="cpu", threads=1, load=0.1,
                    seconds=5.0, folder=folder, deep=True)  # fmt: skip
    command.bench(deep=True, record=True, only=["resnet20-32", "resnet56-16"])
    assert timed == ["resnet56-16"]
    about = recorded_deep(folder).provenance
    assert about["config"]["parts"]["resnet20-32"]["load"] == 0.1
    assert about["seconds"] >= 5


@pytest.mark.parametrize("workload", deep.ALL.values(), ids=list(deep.ALL))
def test_where_there_is_no_compiler_nobody_needs_one(workload):
    """Ours then has the plan that it has on a machine without; its target is no more than a tie."""
    people = deep.who(workload, False)
    assert people[0] is contenders.OURS
    if workload.compiles:
        assert deep.EVERYTHING in people
        return
    assert not any(each.compiles for each in people)
    assert not workload.plan("cpu").compiled
    assert workload.plan("cpu").channels_last
    (target,) = (t for t in timings.DEEP_TARGETS if t.workload == workload.name)
    assert target.bound == 1.0


SMALL_EFFORT = {"digits": 5, "growth": 3, "backward-2d": 1, "backward-4d": 1}
TINY_INPUTS = (
    backward.Input("2d", (6, 4)),
    backward.Input("4d", (3, 4, 5, 6)),
    backward.Input("4d-bfloat16", (3, 4, 5, 6), torch.bfloat16, timed=False),
)


@pytest.mark.parametrize("given", TINY_INPUTS, ids=lambda given: given.name)
def test_the_layers_alone_do_the_same_work(given, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    contenders_ = backward.passes(given)
    assert list(contenders_) == ["ours", "written out", "torch's kernel"]
    digits = {"rtol": 0.05, "atol": 0.05} if given.dtype == torch.bfloat16 else {}
    expected = contenders_["written out"]()
    for one in contenders_.values():
        torch.testing.assert_close(one(), expected, **digits)


@pytest.mark.slow
@pytest.mark.skipif(not planning.has_compiler(), reason="no C++ compiler for torch.compile")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_compiled_layer_does_the_same_work_and_keeps_no_more():
    contenders_ = backward.passes(TINY_INPUTS[0])
    compiled, plain = contenders_[backward.COMPILED], contenders_["ours"]
    torch.testing.assert_close(compiled(), plain())
    assert compiled.kept()[1] <= plain.kept()[1]


def test_what_is_kept_is_counted_once_and_the_input_apart(monkeypatch):
    """360 numbers: ours keeps them as given; the layer written out a copy, in float32."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    kept = {
        given.name: {name: one.kept() for name, one in backward.passes(given).items()}
        for given in TINY_INPUTS[1:]
    }
    features = 4 * 4
    assert kept["4d"]["ours"] == (2 * features, 2 * features + 4 * 360)
    assert kept["4d-bfloat16"]["ours"] == (2 * features, 2 * features + 2 * 360)
    for name in ("4d", "4d-bfloat16"):
        beside, whole = kept[name]["written out"]
        assert beside == whole
        assert 4 * 360 <= beside < 4 * 360 + 6 * features, "the centred values, once"


def test_bn_alone_is_recorded_as_the_others_are(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(backward, "INPUTS", TINY_INPUTS)
    rows = backward.rows(3, {"backward-2d": 2, "backward-4d": 2})
    rows += [row(timings.PRODUCT, "square", 1, 0, 0.5, steps=1)]
    table = pd.DataFrame(rows, columns=list(timings.COLUMNS))
    summary = timings.rows(table).set_index(["workload", "contender"])
    ours = summary.loc[("backward-4d", "ours")]
    assert (ours["ratio_to_ours"], ours["repetitions"], ours["steps"]) == (1, 3, 2)
    assert summary.loc[("backward-2d", "written out"), "ratio_to_ours"] > 0
    assert summary.loc[("backward-2d", backward.COMPILED), "note"] == "not run: no C++ compiler"
    facts = timings.facts(table)
    assert json.dumps(facts, allow_nan=False)
    assert facts["kept_4d_bfloat16_whole_ours_mib"]["value"] == pytest.approx(752 / 2**20)
    assert "backward_4d_written_out_floor" not in facts
    assert {"backward_2d_torch_s_kernel", "backward_4d_written_out"} <= set(facts)
    json.dumps(recording.as_rows(timings.rows(table)), allow_nan=False)


@pytest.mark.slow
def test_a_whole_benchmark_in_small(monkeypatch, capsys, tmp_path):
    """Ours, the loops and memory, from the command to the record."""
    monkeypatch.setattr(measure, "CPU", {"digits": TINY})
    who = (contenders.OURS, contenders.TUTORIAL, contenders.INDEXED)
    monkeypatch.setitem(contenders.CONTENDERS, "digits", who)
    monkeypatch.setattr(measure, "QUICK", measure.Effort(5, SMALL_EFFORT))
    monkeypatch.setattr(growth, "QUICK_MEMBERS", (1, 2))
    monkeypatch.setattr(deep, "QUICK", ())  # minutes; they have tests of their own
    monkeypatch.setattr(planning, "has_compiler", lambda: False)
    monkeypatch.setattr(backward, "INPUTS", TINY_INPUTS)
    monkeypatch.setattr(records, "recorded", lambda: tmp_path)
    command.bench(quick=True, as_json=True, device="cpu", record=True)
    rows = json.loads(capsys.readouterr().out)
    assert all(set(ISSUE_FIELDS) <= set(r) for r in rows)
    timed = {r["contender"]: r for r in rows if r["workload"] == "digits"}
    assert set(timed) == {c.name for c in who}
    for found in timed.values():
        assert found["min_s"] <= found["median_s"] <= found["max_s"]
        assert found["floor_share"] > 0
        assert found["repetitions"] == 5
    assert {r["note"] for r in rows if r["workload"] in gpu.NAMES} == {"not run: no GPU"}
    assert any(r["mebibytes"] for r in rows if r["workload"] == "memory")
    kept = records.read(tmp_path / "bench" / "quick.parquet")
    command.show(kept.table, timings.rows(kept.table))
