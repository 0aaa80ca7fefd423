"""What a cluster costs: a Ray cluster simulated on this machine against local worker processes, and the load of the
process that deals the jobs out.

    python benchmarks/cluster.py efficiency [--cores 2] [--rounds 5]
    python benchmarks/cluster.py load [--workers 5000] [--seconds 20] [--jobs-last 20] [--episodes 16]

`efficiency` plays the published CarRacing run: episodes to collect, a generation in the game and one in the dream, on
as many Ray nodes of one core as there are local workers, in turns. `load` has fake workers, each of which answers a job
after a time drawn around --jobs-last seconds; jobs, messages, answers and the executor are the real ones. What Ray
itself needs for a task, in the same process, is measured on a real cluster of one node and added.
"""

import argparse
import os
import threading
import time
from concurrent.futures import Future
from functools import partial
from heapq import heappop, heappush
from queue import Empty, SimpleQueue

import numpy as np
import ray
from ray.cluster_utils import Cluster

from turns import in_turns
from worldmodels.agent import Agent, open_agent
from worldmodels.controller import LinearConfig, PolicySpec
from worldmodels.executors import LocalExecutor
from worldmodels.executors import ray as executor_of_ray
from worldmodels.executors.ray import RayExecutor
from worldmodels.latents import open_latents
from worldmodels.worlds.collect import CollectConfig, collect_jobs
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.fitness import DreamFitness, RealFitness

MEMBERS, EPISODES = 64, 16          # of a generation
TASKS = 2000                        # that Ray's own cost is measured on


def population(agent: Agent, members: int) -> PolicySpec:
    parameters = np.random.default_rng(0).normal(size=(members, agent.parameter_count(LinearConfig())))
    return PolicySpec(LinearConfig(), {"parameters": parameters})


def efficiency(cores: int, rounds: int):
    run, agent = open_agent("car_racing")
    latents = open_latents(run, 0, agent.vision_digest, agent.memory.config.latent)
    world = DreamWorld(agent.memory, latents, DreamConfig(max_steps=250))
    settings = (("repeat", 4), ("drawing", "fast"))
    config = CollectConfig(max_steps=400, policy="smooth", repeat=4)
    jobs = collect_jobs(agent.task, config, range(512), kept=True)
    spec = population(agent, MEMBERS)
    works = {"collecting": lambda executor: [*executor.each(jobs)],
             "a generation in the game": lambda executor: RealFitness(executor, agent, 400, settings).play(
                 spec, range(cores)),
             "a generation in the dream": lambda executor: DreamFitness(agent, world, executor).play(
                 spec, range(EPISODES))}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(cores):
        cluster.add_node(num_cpus=1)
    with LocalExecutor(cores) as local, RayExecutor(address=cluster.address) as on_ray:
        for name, work in works.items():
            found = in_turns({"local": partial(work, local), "ray": partial(work, on_ray)}, rounds)
            print(f"{name:28} local {found['local']:6.2f} s   ray {found['ray']:6.2f} s   efficiency "
                  f"{found['local'] / found['ray']:.2f}", flush=True)
    ray.shutdown()
    cluster.shutdown()


class FakeReference:
    """What a fake worker has taken: its future ends at a time."""

    def __init__(self):
        self.answer: Future = Future()

    def future(self) -> Future:
        return self.answer


class FakeWorkers:
    """Stands where Ray's task does. Each job is answered after a time; the answer is that of one real job."""

    def __init__(self, answer: bytes, lasts: float):
        self.answer, self.lasts, self.count = answer, lasts, 0
        self.rng, self.begun, self.cpu, self.number = np.random.default_rng(0), SimpleQueue(), 0.0, 0
        threading.Thread(target=self.work, daemon=True).start()

    def options(self, **_):
        return self

    def remote(self, *_):
        reference = FakeReference()
        self.begun.put((time.monotonic() + self.lasts * self.rng.uniform(0.5, 1.5), reference))
        return reference

    def work(self):
        due = []
        while True:
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 0.01
            try:
                at, reference = self.begun.get(timeout=min(wait, 0.01) or 0.001)
                self.number += 1
                heappush(due, (at, self.number, reference))
            except Empty:
                pass
            while due and due[0][0] <= time.monotonic():
                heappop(due)[2].answer.set_result(self.answer)
                self.count += 1
            self.cpu = time.thread_time()


def load(workers: int, seconds: float, lasts: float, episodes: int):
    _, agent = open_agent("car_racing")
    spec, fitness = population(agent, MEMBERS), RealFitness(None, agent, 1000, (("repeat", 4), ("drawing", "fast")))
    some = spec.select(np.arange(episodes) % MEMBERS)
    message = executor_of_ray.message_of(fitness.job(some, tuple(range(episodes)))).job
    task_cost = cost_of_a_task(agent, message)
    answer = bytes(executor_of_ray.answer(executor_of_ray.message_of(
        lambda: (np.zeros(episodes, np.float32), np.zeros(episodes, np.int64))).job, {}))
    fake = FakeWorkers(answer, lasts)
    executor_of_ray.perform = fake
    executor_of_ray.ray.put = lambda data: "reference"
    executor = RayExecutor(workers)
    jobs = (fitness.job(some, tuple(range(i, i + episodes))) for i in range(10**9))
    results = executor.each(jobs, ahead=1.2)
    end = time.monotonic() + 2 * lasts                      # all workers are at work
    for _ in results:
        if time.monotonic() > end:
            break
    begun, cpu, fakes, count = time.monotonic(), time.process_time(), fake.cpu, fake.count
    for _ in results:
        if time.monotonic() > begun + seconds:
            break
    wall, used, done = time.monotonic() - begun, time.process_time() - cpu - (fake.cpu - fakes), fake.count - count
    rate, own = done / wall, used / wall
    print(f"{workers} fake workers, jobs of {episodes} episodes that last {lasts:g} s: {rate:.0f} jobs a second; "
          f"the driver's own code {own:.1%} of a core ({1e3 * used / done:.2f} ms a job); "
          f"with Ray's {1e3 * task_cost:.2f} ms a task {own + rate * task_cost:.1%}")
    os._exit(0)                                             # thousands of jobs are under way


def cost_of_a_task(agent: Agent, message: bytes) -> float:
    """Seconds of this process's CPU that Ray needs for a task with this message."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    echo = ray.remote(num_cpus=1, max_retries=0)(lambda message, *_: message[:400])
    stored = ray.put(agent.shared.data)
    send = lambda count: ray.get([echo.remote(message, stored) for _ in range(count)])
    send(100)
    before = time.process_time()
    send(TASKS)
    return (time.process_time() - before) / TASKS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("efficiency", help="a simulated cluster against local workers")
    one.add_argument("--cores", type=int, default=2)
    one.add_argument("--rounds", type=int, default=5)
    other = commands.add_parser("load", help="what the driver needs for thousands of workers")
    other.add_argument("--workers", type=int, default=5000)
    other.add_argument("--seconds", type=float, default=20, help="that are measured")
    other.add_argument("--jobs-last", type=float, default=20, help="seconds")
    other.add_argument("--episodes", type=int, default=16, help="in a job")
    options = parser.parse_args()
    if options.what == "efficiency":
        efficiency(options.cores, options.rounds)
    else:
        load(options.workers, options.seconds, options.jobs_last, options.episodes)


if __name__ == "__main__":
    main()
