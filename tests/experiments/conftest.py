"""The smallest run of each experiment: its quick profile with the changes that its tests name."""

import functools
import importlib

import pytest

from bnbook import experiments


def own_file(name):
    """The file of the experiment's own tests, which holds its SMALL and IMPOSSIBLE."""
    return importlib.import_module(f"tests.experiments.test_{name}")


@functools.cache
def smallest(name):
    """The experiment's smallest config."""
    return experiments.find(name).configure("quick", **own_file(name).SMALL)


@functools.cache
def tiny_table(name):
    """The table of the smallest config."""
    return experiments.find(name).run(smallest(name), "cpu")


def tested(request):
    """Name of the experiment whose own tests ask."""
    return request.module.__name__.rpartition(".test_")[2]


@pytest.fixture(scope="module")
def small(request):
    """The smallest config of the experiment that the file tests."""
    return smallest(tested(request))


@pytest.fixture(scope="module")
def small_table(request):
    """The table of the smallest config, the file's own copy."""
    return tiny_table(tested(request)).copy()
