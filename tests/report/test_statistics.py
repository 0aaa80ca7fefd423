"""Intervals hold what they should as often as they say, and agree with closed forms."""

import numpy as np
import pytest

from worldmodels.report.statistics import FEWEST, half_width, iqm, of_share, paired_difference, student


def test_students_t_is_that_of_the_tables():
    assert student(2) == pytest.approx(12.706, abs=1e-3) and student(10) == pytest.approx(2.262, abs=1e-3)
    assert student(10**6) == pytest.approx(1.96, abs=1e-3)


def test_nineteen_of_twenty_intervals_of_a_mean_hold_it():
    values = np.random.default_rng(0).normal(5, 2, (4000, 12))
    held = np.abs(values.mean(1) - 5) <= half_width(values)
    assert held.mean() == pytest.approx(0.95, abs=0.012)


def test_wilsons_interval():
    """Of 1 in 10: 0.018 to 0.404 (Brown, Cai, DasGupta 2001)."""
    low, high = of_share(np.array([0.1, 0.5]), np.array([10, 100]))
    assert (low[0], high[0]) == pytest.approx((0.0179, 0.4042), abs=1e-4)
    assert low[1] + high[1] == pytest.approx(1)
    assert of_share(0.1, 10)[0] == pytest.approx(low[0])


def test_outliers_do_not_move_the_interquartile_mean():
    returns = np.arange(40.0)
    found, moved = iqm(returns), iqm(np.append(returns[:-1], 1e6))
    assert found.value == moved.value == pytest.approx(19.5) and found.low < 19.5 < found.high
    assert np.isnan(iqm(returns[:FEWEST - 1]).low)


def test_pairing_finds_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(1)
    episodes = rng.normal(0, 100, 50)
    one, other = episodes + 5 + rng.normal(0, 2, 50), episodes
    mean, low, high = paired_difference(one, other)
    assert mean == pytest.approx(5, abs=1) and 0 < low < mean < high < 2 * half_width(one)
