import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiprobe.store.localization import intervals, smooth


def test_smoothing_is_a_gaussian_in_segments():
    scores = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / 0.4) ** 2)
    np.testing.assert_allclose(smooth(scores, 0.4), kernel / kernel.sum(), atol=1e-12)


def test_smoothing_keeps_a_constant_and_a_lonely_segment():
    np.testing.assert_allclose(smooth(np.full(5, 0.3)), 0.3)
    assert smooth(np.array([0.7])) == pytest.approx([0.7])
    np.testing.assert_array_equal(smooth(np.array([0.1, 0.9]), 0), [0.1, 0.9])


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_intervals_cover_exactly_the_flagged_segments(flags):
    flags = np.array(flags)
    starts = np.arange(len(flags)) * 24
    found = intervals(flags, starts, starts + 24)
    covered = np.zeros(len(flags) * 24, dtype=bool)
    for start, stop in found:
        covered[start:stop] = True
    np.testing.assert_array_equal(covered, np.repeat(flags, 24))
    assert all(a < b for (_, a), (b, _) in itertools.pairwise(found))
