"""Which images were right: what goes in comes out, a bit an image."""

import numpy as np
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
