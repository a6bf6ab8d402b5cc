"""Tests of what a network sees of a photograph, tile by tile."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnseg.inference.tiles import tiles

lengths = st.integers(1, 200)


@given(lengths, lengths, st.integers(8, 64), st.data())
def test_every_pixel_is_kept_once_and_seen_where_it_is(height, width, side, data):
    overlap = data.draw(st.integers(0, side // 2))
    place = np.arange(height * width).reshape(height, width)
    found = np.full((height, width), -1)
    times = np.zeros((height, width), dtype=int)
    for tile in tiles(height, width, side, overlap):
        assert tile.size == place[tile.seen].shape == (min(side, height), min(side, width))
        found[tile.kept] = place[tile.seen][tile.inner]
        times[tile.kept] += 1
    assert (times == 1).all()
    assert (found == place).all()


@pytest.mark.parametrize(("overlap", "context"), [(16, 8), (8, 4), (0, 0)])
def test_what_is_kept_has_half_the_overlap_around_it(overlap, context):
    for tile in tiles(300, 300, 32, overlap):
        for seen, kept in zip(tile.seen, tile.kept, strict=True):
            assert seen.start == 0 or kept.start - seen.start >= context
            assert seen.stop == 300 or seen.stop - kept.stop >= context
