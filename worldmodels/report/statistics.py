"""Intervals of what was measured, and differences between what was measured on the same episodes."""

from typing import NamedTuple

import numpy as np
import scipy  # whose parts are imported when they are first used: scipy.stats takes a second

FEWEST = 10         # episodes, below which an interval of their mean says nothing
RESAMPLES = 2000    # of a bootstrap


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


def student(count: int) -> float:
    """Student's t, 97.5%: how many standard errors half of the 95% interval of a mean of so many numbers is."""
    return float(scipy.special.stdtrit(count - 1, 0.975))


def half_width(values: np.ndarray) -> np.ndarray:
    """Half of the 95% interval of the mean over the last axis, by Student's t; nan of fewer than FEWEST."""
    if values.shape[-1] < FEWEST:
        return np.full(values.shape[:-1], np.nan)
    return student(values.shape[-1]) * values.std(-1, ddof=1) / values.shape[-1]**0.5


def of_share(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95% interval of a share of so many (Wilson 1927)."""
    share, count = np.broadcast_arrays(share, count)
    tests = (scipy.stats.binomtest(round(s * n), n) for s, n in zip(share.flat, count.flat))
    found = [test.proportion_ci(method="wilson") for test in tests]
    low, high = (np.reshape([ci[end] for ci in found], share.shape) for end in (0, 1))
    return low, high


def iqm(returns: np.ndarray) -> Estimate:
    """The interquartile mean of returns [E]: the mean of the middle half, which outliers do not move (Agarwal et al.
    2021), with its 95% percentile bootstrap interval."""
    if len(returns) < FEWEST:
        return Estimate(float(middle_mean(returns, -1)), np.nan, np.nan)
    found = scipy.stats.bootstrap((returns,), middle_mean, n_resamples=RESAMPLES, method="percentile", rng=0)
    return Estimate(float(middle_mean(returns, -1)), *map(float, found.confidence_interval))


def middle_mean(values: np.ndarray, axis: int) -> np.ndarray:
    return scipy.stats.trim_mean(values, 0.25, axis=axis)


def paired_difference(one: np.ndarray, other: np.ndarray) -> Estimate:
    """The mean of `one` less `other`, returns [E] of the same episodes, with its 95% interval by Student's t."""
    difference = np.asarray(one, float) - np.asarray(other, float)
    mean, half = float(difference.mean()), float(half_width(difference))
    return Estimate(mean, mean - half, mean + half)


def difference_of_means(mean: float, error: float, other: float, other_error: float) -> Estimate:
    """The difference of two means of different episodes, by their standard errors."""
    half = 1.96 * (error**2 + other_error**2)**0.5
    return Estimate(mean - other, mean - other - half, mean - other + half)
