"""Claims judged on tables that are made up to turn them."""

from dataclasses import replace

import numpy as np

from bnbook.evidence import claims
from bnbook.tables import right


def hits(share, images=1000):
    """Packed bits of which the first ones are right, so many that they make a share."""
    return right.pack(np.arange(images) < round(images * share))


def by_accuracy(more, less):
    """A mutant of `right.lead` that takes no account of single images."""
    return 100 * (more["test_accuracy"] - less["test_accuracy"])


def by_id(given):
    """Claims by their ids."""
    return {claim.id: claim for claim in given}


def by_name(given):
    """Claims by the last part of their ids."""
    return {claim.id.rpartition(".")[2]: claim for claim in given}


def verdicts(named, table):
    """The verdict on each of the named claims."""
    return {name: claims.judge(claim, table).verdict for name, claim in named.items()}


def criterion(claim, table):
    """Judge a claim as though it had no premises, on a table that is too small for them."""
    return claims.judge(replace(claim, premises=()), table)


def criteria(named, table):
    """The verdict on each of the named claims' criteria alone."""
    return {name: criterion(claim, table).verdict for name, claim in named.items()}


def assert_begun(experiment, whole, parts):
    """Parts of a whole table have all its facts and figures, and nothing is judged for good."""
    for part in parts:
        assert experiment.facts(part).keys() == experiment.facts(whole).keys()
        for draw in experiment.figures.values():
            draw(part).draw_without_rendering()
        judged = claims.assess(experiment.claims, part, missing=1)
        assert {each["verdict"] for each in judged.values()} == {"provisional"}
