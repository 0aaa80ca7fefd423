"""Where a controller does worst: episodes and moments of which it is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.report.test_sim_to_real_gap import Counter
from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.report.worst import BAR, TIMES, bars, lost_at, moments, worst
from worldmodels.worlds.record import Recording


def test_the_worst_are_those_of_lowest_return_first():
    returns = np.random.default_rng(0).permutation(40)
    watched = [Episode(None, None, np.array([r, 0.0]), None, None) for r in returns]
    assert [int(returns[number]) for number in worst(watched)] == [0, 1, 2, 3]
    assert [int(returns[number]) for number in worst(watched[:3])] == [min(returns[:3])]


@pytest.mark.parametrize("reward, survival, at", (
    ([3, -1, 3, -1, -1, -1, 3, -1], False, 2),      # the longest stretch without a gain
    ([3, -1, 3, -1, -1, -1], False, 2),             # to the end
    ([-1, -1, -1], False, 0),                       # nothing was ever gained
    ([1, 1, 1, 1], True, 3)))                       # where time is what counts, the end
def test_an_episode_is_lost_where_its_longest_stretch_without_a_gain_begins(reward, survival, at):
    assert lost_at(np.array(reward, np.float32), survival) == at


def test_bars_go_from_zero_to_the_action():
    """Steering full left, half the gas; and of a box that begins at zero nothing for zero."""
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 1.0])
    pictures = bars(np.array([[-1.0, 0.5], [0.0, 0.0]]), low, high)
    assert pictures.shape == (3, 2 * BAR, 64, 3) and (pictures[2] == 255).all()
    filled = lambda t, a: (pictures[t, a * BAR + BAR // 2] != 255).any(-1).nonzero()[0].tolist()
    assert filled(0, 0) == [*range(33)] and filled(0, 1) == [*range(33)]
    assert filled(1, 0) == [32] and filled(1, 1) == [0]


@pytest.mark.parametrize("around, first, count", ((20, 12, len(TIMES)), (2, 1, 5), (29, 21, 5)))
def test_rows_are_of_the_same_steps_and_m_is_asked_one_step_before(around, first, count):
    """The memory expects the next z to be the last one and the action."""
    rng, steps = np.random.default_rng(0), 30
    z = rng.normal(size=(steps + 1, 1)).astype(np.float32)
    action = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
    frames = np.zeros((steps + 1, 64, 64, 3), np.uint8)
    memory = Counter()
    memory.parameters = lambda: iter([torch.zeros(1)])
    decoded = lambda z: np.asarray(z)[:, :1]
    agent = SimpleNamespace(memory=memory, task=TASKS["toy"], decode=decoded)
    played = Recording(z, z, frames, frames, action, np.ones(steps, np.float32), np.zeros(steps, bool))
    rows, times = moments(agent, played, around)
    assert (times[0], len(times)) == (first, count) and all(len(row) == steps + 1 for row in rows.values())
    _, kept, expected, done = rows.values()
    np.testing.assert_array_equal(kept, z)
    np.testing.assert_allclose(expected[1:], z[:-1] + action, rtol=1e-6)
    assert done.shape == (steps + 1, BAR, 64, 3)
