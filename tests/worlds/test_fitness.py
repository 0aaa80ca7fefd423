"""RealFitness over worker processes: the same numbers as in this process, members by episodes."""

import io

import numpy as np
import pytest
from tqdm import tqdm

from worldmodels.agent import load_agent
from worldmodels.executors import LocalExecutor
from worldmodels.worlds.fitness import RealFitness


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1) as executor:
        yield executor


@pytest.mark.parametrize("workers", (1, 2, 3))
def test_real_fitness_is_bit_equal_whatever_the_number_of_workers(workers, toy_run):
    """The reference is played in this process."""
    parameters = np.random.default_rng(0).normal(size=(5, 13)) * 3
    _, digest = load_agent(toy_run)

    class Here:
        def run(self, jobs, progress, weight):
            return [job() for job in jobs]

    seeds = list(range(1, 11))
    expected = RealFitness(Here(), toy_run, digest, 40, ())(parameters, seeds)
    with LocalExecutor(workers) as executor, tqdm(total=50, file=io.StringIO()) as progress:
        returns = RealFitness(executor, toy_run, digest, 40, ())(parameters, seeds, progress)
        assert progress.n == 50
    assert np.array_equal(returns, expected) and returns.shape == (5, 10)
    assert len(np.unique(returns)) > 5


def test_real_fitness_is_members_by_episodes(executor, toy_run):
    parameters = np.random.default_rng(0).normal(size=(3, 13)) * 3
    fitness = RealFitness(executor, toy_run, load_agent(toy_run)[1], 40, ())
    returns = fitness(parameters, [1, 2, 3, 4])
    for member, p in zip(returns, parameters):
        for got, seed in zip(member, (1, 2, 3, 4)):
            assert fitness(p[None], [seed]).item() == pytest.approx(got, rel=1e-5)
