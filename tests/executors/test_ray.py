"""A Ray cluster of several nodes on this machine: nodes that die and join, stopped workers, GPUs, and the same numbers
as in this process."""

import os
import signal
import time
from contextlib import suppress
from functools import partial

import numpy as np
import psutil
import pytest

from tests.conftest import counted_episode, make_latents
from tests.executors.jobs import LONG, Once, WithDeadline, die, wait_for
from worldmodels.agent import load_agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.envs import TASKS
from worldmodels.episodes import episode_path, read
from worldmodels.executors.inline import InlineExecutor
from worldmodels.memory.pessimism import Pessimism
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectConfig, CollectJob
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.explore import ExploreJob
from worldmodels.worlds.fitness import DreamFitness, DreamJob, RealFitness

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")
from worldmodels.executors import ray as executor_of_ray  # noqa: E402
from worldmodels.executors.ray import ENDS_CHILDREN, RayExecutor, check_versions  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """Its head, where this process is, has no cores."""
    ray.shutdown()
    os.environ[ENDS_CHILDREN] = "1"
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=2, num_gpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def executor(cluster):
    with RayExecutor(address=cluster.address) as executor:
        yield executor


@pytest.fixture(scope="module")
def agent(toy_run):
    return load_agent(toy_run)


@pytest.fixture(scope="module")
def world(agent, tmp_path_factory):
    """A dream that begins at random latents."""
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(size=(9, 4)).astype(np.float32), counted_episode(e, 8)[1]) for e in range(5)]
    latents = make_latents(tmp_path_factory.mktemp("latents"), drawn)
    return DreamWorld(agent.memory, latents, DreamConfig(max_steps=40))


def controllers(agent, count):
    parameters = np.random.default_rng(0).normal(size=(count, agent.parameter_count(LinearConfig()))) * 3
    return PolicySpec(LinearConfig(), {"parameters": parameters})


class Noted:
    """A job that notes in a file of its own on which node it was begun, and waits until a gate is open."""

    def __init__(self, job, folder, number):
        self.job, self.folder, self.number = job, folder, number

    def __call__(self):
        with open(self.folder / str(self.number), "a") as file:
            print(ray.get_runtime_context().get_node_id(), file=file)
        wait_for(self.folder / "gate")
        return self.job()

    def begun(self):
        path = self.folder / str(self.number)
        return path.read_text().split() if path.exists() else []


def test_all_cores_of_the_cluster_are_used_unless_fewer_are_asked_for(executor):
    assert executor.size == 2
    for workers, most, size in ((1, None, 1), (None, 1, 1), (None, 5, 2)):
        with RayExecutor(workers, most=most) as other:
            assert other.size == size


def test_dreams_and_games_are_those_of_this_process_to_the_last_bit(executor, agent, world):
    spec, seeds = controllers(agent, 9), range(30)
    for play in (lambda executor: DreamFitness(agent, world, executor).play(spec, seeds),
                 lambda executor: RealFitness(executor, agent, 40, ()).play(spec, seeds)):
        expected = play(InlineExecutor())
        assert len(np.unique(expected[0])) > 5
        np.testing.assert_array_equal(play(executor), expected)


def test_episodes_are_those_of_this_process_to_the_last_bit(executor, tmp_path):
    jobs = [CollectJob(TASKS["toy"], CollectConfig(max_steps=40, policy="fresh"), (seed,), kept=True)
            for seed in range(8)]
    for number, played in executor.each(jobs):
        stored = []
        for where, found in ("there", played), ("here", jobs[number]()):
            found.write(tmp_path / where)
            stored.append(read(episode_path(tmp_path / where, number)))
        for ours, theirs in zip(*stored):
            np.testing.assert_array_equal(ours, theirs)


def test_no_job_knows_of_a_folder(toy_run, agent, world):
    """So that it works on a machine that has none of them."""
    spec, config = controllers(agent, 2), CollectConfig(max_steps=9, policy="fresh")
    found = []
    for fitness in DreamFitness(agent, world, InlineExecutor()), RealFitness(InlineExecutor(), agent, 40, ()):
        fitness.executor.run = lambda jobs, *_, **__: found.extend(jobs) or [job() for job in jobs]
        fitness.play(spec, range(3))
    found += [CollectJob(TASKS["toy"], config, (0,), kept=True), ExploreJob(TASKS["toy"], agent.shared, 1, config, (),
                                                                       spec.select([0]), (0, 1))]
    assert {type(job).__name__ for job in found} == {"DreamJob", "RealJob", "CollectJob", "ExploreJob"}
    for job in found:
        message = executor_of_ray.message_of(job)
        for data in (message.job, *(value.data for value in message.shared.values())):
            assert str(toy_run.root).encode() not in data


def test_a_node_that_dies_costs_its_jobs_another_run_and_nothing_else(cluster, agent, tmp_path):
    """Three nodes of a core, one of which dies when all are at work."""
    first, = cluster.worker_nodes
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    cluster.remove_node(first)
    cluster.wait_for_nodes()
    spec, seeds = controllers(agent, 8), range(16)
    fitness = RealFitness(InlineExecutor(), agent, 40, ())
    expected = fitness.play(spec, seeds)
    with RayExecutor() as executor:
        noted = []

        def run(jobs, *_, **__):
            noted.extend(Noted(job, tmp_path, number) for number, job in enumerate(jobs))
            futures = [executor.submit(job) for job in noted]
            while sum(len(job.begun()) for job in noted) < 3:
                time.sleep(0.05)
            cluster.remove_node(nodes[0], allow_graceful=False)
            (tmp_path / "gate").touch()
            return [future.result(LONG) for future in futures]

        fitness.executor = type("Executor", (), {"run": staticmethod(run)})
        try:
            np.testing.assert_array_equal(fitness.play(spec, seeds), expected)
        finally:
            cluster.add_node(num_cpus=2, num_gpus=1)
            for node in nodes[1:]:
                cluster.remove_node(node)
    twice = [job for job in noted if len(job.begun()) > 1]
    assert len(noted) > 4 and len(twice) == 1
    assert twice[0].begun()[0] == nodes[0].node_id and all(job.begun()[-1] != nodes[0].node_id for job in noted)


def test_nodes_that_join_are_used(cluster, monkeypatch):
    monkeypatch.setattr(executor_of_ray, "REFRESH", 0.0)
    with RayExecutor() as executor:
        before = executor.size
        node = cluster.add_node(num_cpus=3)
        waited = time.monotonic() + LONG
        while executor.size != before + 3 and time.monotonic() < waited:
            time.sleep(0.1)
        assert executor.size == before + 3
        cluster.remove_node(node)


def test_a_stopped_worker_holds_up_no_job(executor, tmp_path, monkeypatch):
    """It cannot end itself at its deadline."""
    monkeypatch.setattr(executor_of_ray, "PATIENCE", 0.2)
    stopped = tmp_path / "stopped"

    def stop():
        stopped.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

    other = executor.submit(WithDeadline(Once(tmp_path / "marker", stop), 50.0)).result(LONG)
    assert other != int(stopped.read_text())
    with suppress(ProcessLookupError):
        os.kill(int(stopped.read_text()), signal.SIGKILL)


def test_what_a_crashed_worker_started_ends_with_it(executor, tmp_path):
    def start_a_child():
        import subprocess
        (tmp_path / "child").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        die()

    assert executor.submit(Once(tmp_path / "marker", start_a_child)).result(LONG)
    child, waited = int((tmp_path / "child").read_text()), time.monotonic() + LONG
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < waited, "it lives on"
        time.sleep(0.2)


def test_a_job_that_asks_for_a_gpu_gets_one_and_dreams_the_same(executor, agent, world):
    """The node's GPU is one in name only, so the job dreams on its CPU."""
    spec, seeds = controllers(agent, 9), range(30)
    fitness = DreamFitness(agent, world, executor, gpus=1)
    assert fitness.job.args[2:4] == ("cuda", 1)
    fitness.job = partial(DreamJob, agent.task, agent.shared, "cpu", 1, Pessimism(), world.config)
    asked = type("Asks", (), {"gpus": 1, "__call__": lambda self: ray.get_gpu_ids()})()
    assert executor.submit(asked).result(LONG) == [0]
    np.testing.assert_array_equal(fitness.play(spec, seeds),
                                  DreamFitness(agent, world, InlineExecutor()).play(spec, seeds))


def test_a_node_with_other_versions_is_refused_by_name(executor, monkeypatch):
    with pytest.raises(UserError, match="torch .*not 0.1"):
        check_versions(executor_of_ray.versions() | {"torch": "0.1"})
    monkeypatch.setattr(executor_of_ray, "versions", lambda: {name: "0.1" for name in executor_of_ray.PACKAGES})
    with pytest.raises(UserError, match="node .* has .*torch .*not 0.1.*same versions"):
        executor.submit(lambda: 1).result(LONG)


def test_a_process_joins_one_cluster(executor, cluster):
    with RayExecutor(1, "auto"), RayExecutor(1, cluster.address):
        pass
    with pytest.raises(UserError, match="127.0.0.1:1: .*has joined"):
        RayExecutor(1, "127.0.0.1:1")


@pytest.mark.parametrize("address", ("127.0.0.1:1", "nonsense", "127.0.0.1:99999999", "ray://127.0.0.1:1"))
def test_an_address_where_nothing_answers_is_refused_at_once(address):
    with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
        executor_of_ray.check_answers(address)
