"""RealFitness over worker processes: the same numbers as in this process, members by episodes."""

import io

import numpy as np
import pytest
from tqdm import tqdm

from worldmodels.agent import load_agent
from worldmodels.controller import CONTROLLERS, PolicySpec
from worldmodels.executors import LocalExecutor
from worldmodels.worlds.fitness import LARGEST, SMALLEST, RealFitness, split_jobs


@pytest.fixture(scope="module")
def executor():
    with LocalExecutor(1) as executor:
        yield executor


def controllers(agent, count, kind="linear"):
    config = CONTROLLERS[kind].Config()
    parameters = np.random.default_rng(0).normal(size=(count, agent.parameter_count(config))) * 3
    return PolicySpec(config, {"parameters": parameters})


@pytest.mark.parametrize("workers", (1, 2, 3))
def test_real_fitness_is_bit_equal_whatever_the_number_of_workers(workers, toy_run):
    """The reference is played in this process."""
    agent = load_agent(toy_run)
    spec, seeds = controllers(agent, 5), list(range(1, 11))

    class Here:
        def run(self, jobs, progress, weight):
            return [job() for job in jobs]

    expected = RealFitness(Here(), toy_run, agent, 40, ())(spec, seeds)
    with LocalExecutor(workers) as executor, tqdm(total=50, file=io.StringIO()) as progress:
        returns = RealFitness(executor, toy_run, agent, 40, ())(spec, seeds, progress)
        assert progress.n == 50
    assert np.array_equal(returns, expected) and returns.shape == (5, 10)
    assert len(np.unique(returns)) > 5


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_real_fitness_is_members_by_episodes(kind, executor, toy_run):
    agent = load_agent(toy_run)
    spec, fitness = controllers(agent, 3, kind), RealFitness(executor, toy_run, agent, 40, ())
    returns = fitness(spec, [1, 2, 3, 4])
    for member, of_member in enumerate(returns):
        for got, seed in zip(of_member, (1, 2, 3, 4)):
            assert fitness(spec.select([member]), [seed]).item() == pytest.approx(got, rel=1e-5)


@pytest.mark.parametrize("count", (1, 15, 16, 40, 100, 1024, 5000))
def test_jobs_shrink_towards_the_end(count):
    """Each episode is in one job; large ones come first, and the last worker waits for a small one."""
    sizes = [len(range(count)[part]) for part in split_jobs(count)]
    assert [i for part in split_jobs(count) for i in range(count)[part]] == list(range(count))
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= LARGEST and (count < SMALLEST or sizes[-2:][0] <= 2 * SMALLEST)
