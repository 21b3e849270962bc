"""What every experiment must satisfy, whatever it measures.

Its own test file says what is special to it, and gives changes to its quick profile: in SMALL those
that make a run a matter of a second, in IMPOSSIBLE some that are refused, each with what the error
says.
"""

import copy
import fnmatch
import functools
import itertools
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import pandas as pd
import pytest

from bnbook import experiments
from bnbook.errors import BnbookError
from bnbook.evidence import claims, records
from bnbook.experiments.experiment import single_runs
from bnbook.training.session import Session
from tests.experiments.conftest import own_file, smallest, tiny_table


@functools.cache
def found(name):
    """The experiment of that name."""
    return experiments.find(name)


@functools.cache
def quick_table(name):
    """The recorded quick table."""
    return records.read(records.path(records.recorded(), name, "quick")).table


def draws(figure):
    """Whether a figure can be laid out, and shows something in a panel of its own."""
    figure.draw_without_rendering()
    return any(ax.lines or ax.images or ax.collections or ax.patches for ax in figure.axes)


def documented(table, columns):
    """Keys of `columns` that a table's columns are, in order; `*` stands for several."""
    keys = [[key for key in columns if fnmatch.fnmatchcase(name, key)][-1:] for name in table]
    return [key for [key], _ in itertools.groupby(keys)] if all(keys) else list(table)


each = pytest.mark.parametrize("name", experiments.names())


@each
def test_it_is_called_what_its_folder_is_called_and_has_a_title(name):
    experiment = found(name)
    assert experiment.name == name
    assert pickle.loads(pickle.dumps(experiment)) is experiment
    assert experiment.title
    assert {"quick", "standard"} <= set(experiment.profiles)


def test_an_experiment_is_imported_without_torch():
    code = "import sys; from bnbook import experiments as e; [e.find(n) for n in e.names()];"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@each
def test_an_unknown_profile_or_field_is_told_the_right_ones(name):
    with pytest.raises(BnbookError, match="quick"):
        found(name).configure("fast")
    with pytest.raises(BnbookError, match="seeds"):
        found(name).configure("quick", no_such_field=1)


@each
def test_a_config_with_an_empty_axis_or_a_value_twice_is_refused(name):
    for axis in found(name).axes:
        first = getattr(smallest(name), axis)[0]
        for impossible in ((), (first, first)):
            with pytest.raises(BnbookError, match=axis):
                replace(smallest(name), **{axis: impossible})


REFUSED = [
    pytest.param(name, changes, says, id="-".join((name, *changes)))
    for name in experiments.names()
    for changes, says in getattr(own_file(name), "IMPOSSIBLE", ())
]


@pytest.mark.parametrize(("name", "changes", "says"), REFUSED)
def test_an_impossible_config_is_refused(name, changes, says):
    with pytest.raises(BnbookError, match=says):
        found(name).configure("quick", **changes)


@each
def test_a_config_is_frozen_and_its_seeds_are_shifted(name):
    experiment = found(name)
    for profile, config in experiment.profiles.items():
        shifted = experiment.configure(profile, 7, data=config.data.split(" or ")[0])
        assert shifted.seeds == tuple(7 + seed for seed in config.seeds)
        assert hash(shifted) == hash(replace(shifted))
        with pytest.raises(FrozenInstanceError):
            config.seeds = (0,)


@each
def test_parts_are_every_combination_of_the_axes_with_one_value_each(name):
    experiment, config = found(name), smallest(name)
    parts = experiment.parts(config)
    assert len(set(parts)) == len(parts) > 0
    for axis in experiment.axes:
        assert {len(getattr(part, axis)) for part in parts} == {1}
        assert {getattr(part, axis)[0] for part in parts} == set(getattr(config, axis))
    product = single_runs(config, experiment.axes)
    assert parts == product if experiment.split is None else len(parts) <= len(product)


@each
def test_parts_of_a_part_are_itself(name):
    for part in found(name).parts(smallest(name)):
        assert found(name).parts(part) == [part]


@each
def test_runs_fuse_that_differ_in_the_fused_fields_alone(name):
    experiment = found(name)
    assert set(experiment.fused) <= set(experiment.axes)
    others = [f.name for f in fields(smallest(name)) if f.name not in experiment.fused]
    parts = experiment.parts(smallest(name))
    for one in parts:
        for other in parts:
            alike = all(getattr(one, field) == getattr(other, field) for field in others)
            assert (experiment.fuses(one) == experiment.fuses(other)) == alike
    odd = copy.copy(parts[0])
    object.__setattr__(odd, "data", "another")  # some configs refuse it
    with pytest.raises(BnbookError, match="one ensemble"):
        experiment.together([parts[0], odd], Session("cpu"))


@each
def test_a_tiny_run_is_tidy_and_has_the_columns_that_are_documented(name):
    table = tiny_table(name)
    assert documented(table, found(name).columns) == list(found(name).columns)
    assert all(found(name).columns.values())
    assert table.index.equals(pd.RangeIndex(len(table)))
    assert not table.duplicated().any()


@each
def test_a_tiny_run_repeats_with_the_same_bits(name):
    times = [n for n, what in found(name).columns.items() if what.startswith("seconds")]
    again = found(name).run(smallest(name), "cpu").drop(columns=times)
    pd.testing.assert_frame_equal(again, tiny_table(name).drop(columns=times), check_exact=True)


@each
def test_the_quick_record_has_the_columns_that_are_documented(name):
    assert documented(quick_table(name), found(name).columns) == list(found(name).columns)


@each
@pytest.mark.parametrize("table", [tiny_table, quick_table])
def test_claims_and_facts_judge_the_table(name, table):
    experiment = found(name)
    judged = claims.assess(experiment.claims, table(name))
    assert set(judged) == {claim.id for claim in experiment.claims}
    facts = experiment.facts(table(name))
    assert all({"value", "digits", "unit"} <= set(fact) for fact in facts.values())
    json.dumps(facts, allow_nan=False)


@each
@pytest.mark.parametrize("table", [tiny_table, quick_table])
def test_every_figure_draws_the_table(name, table):
    for figure, draw in found(name).figures.items():
        assert draws(draw(table(name))), figure
