"""Which images were right: what goes in comes out, a bit an image."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbook.tables import right


@given(st.lists(st.booleans(), max_size=40))
def test_what_is_packed_comes_out(values):
    assert right.unpack(right.pack(values)).tolist() == values


def test_a_bit_an_image():
    text = right.pack(np.random.default_rng(0).random(10_000) < 0.9)
    assert len(text) == len("10000:") + 4 * -(-1250 // 3)
    assert right.unpack("").tolist() == []
    assert right.pack([True, False, True]) == "3:oA=="  # 0b10100000


def runs(**bits):
    """Last rows of runs: index seed, the bits of each."""
    seeds = {int(name[1:]): text for name, text in bits.items()}
    found = pd.DataFrame({"right": seeds}).rename_axis("seed")
    return found.assign(
        test_accuracy=[np.mean(right.unpack(b)) if b else 0.1 for b in found["right"]]
    )


def test_a_lead_is_by_seed_and_image_and_a_dead_run_guesses():
    more = runs(s0=right.pack([True, True, False]), s1="")
    less = runs(s0=right.pack([False, True, True]), s1=right.pack([True, False, False]))
    points = right.lead(more, less)
    assert points.loc[0].tolist() == [100, 0, -100]
    assert points.loc[1].tolist() == pytest.approx([-90, 10, 10])
    assert right.by_seed(points).tolist() == pytest.approx([0, 10 - 100 / 3])
    dead = right.lead(runs(s0="", s1=""), runs(s0="", s1=""))
    assert dead.tolist() == right.by_seed(dead).tolist() == [0, 0]


def test_one_lead_minus_another_keeps_the_images_where_both_have_them():
    more, less = runs(s0=right.pack([True, True])), runs(s0=right.pack([False, True]))
    lead, back = right.lead(more, less), right.lead(less, more)
    assert right.minus(lead, back).loc[0].tolist() == [200, 0]
    guesses = right.lead(runs(s0=""), runs(s0=""))
    assert right.minus(lead, guesses).tolist() == [50]
    other = runs(s0=right.pack([True, True]), s7=right.pack([True, True]))
    assert right.minus(right.lead(other, other), lead).index.tolist() == [0]
