"""The dream's speed on this machine, against its matrix products alone, the plain dreamer, and plain loops.

    python benchmarks/dream.py [--steps 160] [--rounds 5] [--peer FOLDER]

All on the CPU: 64 members × 16 episodes, V and M of the paper's sizes with random weights, everything included that a
generation of evolution includes (controllers, noise, rewards, deaths, sending jobs to worker processes). Lines take
turns for --rounds rounds; medians are shown. "Products alone" are the matrix products of a step and nothing else, the
better of: in worker processes as our dream has them; in this process with all threads. "Plain dreamer" is what a memory
without a fast dreamer of its own has (memory/dreamer.py): the MDN-RNN's own `imagine`, a GRU of as many units, and an
RSSM, h 200, s 30 (one that goes in place was 1.03 × as fast, and was not kept). Where the CPU has bfloat16, so has a
dream of ours, and the products beside it. --peer: a checkout of
github.com/ctallec/world-models, whose MDRNNCell then dreams as its simulated_carracing.py has it, without its decoder.
Where there is a GPU, its rates come at the end.
"""

import argparse
import importlib.util
import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from random_run import random_controllers, random_run
from turns import in_turns
from worldmodels.agent import Agent, load_agent
from worldmodels.controller import CMAES
from worldmodels.envs import TASKS
from worldmodels.executors import LocalExecutor
from worldmodels.memory import MDNRNN, RSSM
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.noise import OBSERVE, NoiseStream
from worldmodels.runs import Run
from worldmodels.training import cpu_has_bfloat16
from worldmodels.types import State
from worldmodels.worlds.dream import DreamConfig
from worldmodels.worlds.fitness import DreamFitness, DreamJob, worker_agent
from worldmodels.worlds.population import whole_widths

MEMBERS, EPISODES = 64, 16
BATCH = MEMBERS * EPISODES
NEVER = -1e4                    # logit of a death that does not come
LIVES = -9.2                    # of one that comes after 500 steps or so, as `dying` spreads it


class RandomStarts:
    """As much of a DreamWorld as a generation needs: latents to start from that no V has seen."""

    def __init__(self, agent: Agent, config: DreamConfig):
        self.memory, self.config = agent.memory, config
        self.device = next(agent.memory.parameters()).device

    def starts(self, seeds) -> State:
        z = np.stack([np.random.default_rng(seed).normal(size=self.memory.z_size) for seed in seeds])
        noise = NoiseStream(seeds, self.memory.observe_noise, next(self.memory.parameters()), OBSERVE)
        return self.memory.initial(torch.tensor(z, dtype=torch.float32, device=self.device), noise.step())


Shapes = tuple[tuple[int, int], ...]        # of the weights of a step's products, [outputs, inputs]


@lru_cache(maxsize=6)
def operands(shapes: Shapes, width: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, ...]]:
    """The products of a dream step, with room for their results: y = W x."""
    sizes = [((O, I), (I, width), (O, width)) for O, I in shapes]
    return [tuple(torch.randn(size).to(dtype) for size in product) for product in sizes]


@dataclass(frozen=True)
class Products:
    """A job: the matrix products of so many dream steps."""

    shapes: Shapes
    width: int
    steps: int
    dtype: torch.dtype = torch.float32

    def __call__(self):
        with torch.inference_mode():
            for _ in range(self.steps):
                for W, x, y in operands(self.shapes, self.width, self.dtype):
                    torch.mm(W, x, out=y)


def shapes_of(memory: nn.Module) -> Shapes:
    """Those of a dream step, each with a column of ones' weights, the biases."""
    Z, A, config = memory.z_size, memory.action_size, memory.config
    H = config.hidden_size
    if isinstance(memory, MDNRNN):
        return (4 * H, Z + A + H + 1), (memory.head.out_features, H + 1)
    S, U = config.stochastic_size, config.units
    return (U, S + A + 1), (3 * H, U + 1), (3 * H, H + 1), (U, H + 1), (2 * S, U + 1), (U, S + H + 1), (Z + 2, U + 1)


class PlainCell(nn.Module):
    """What one would write first: an LSTMCell, a linear head, torch's distributions, a controller for each rollout."""

    def __init__(self, hidden: int, z: int, actions: int, mixtures: int = 5):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(z + actions, hidden), nn.Linear(hidden, 3 * mixtures * z + 2)
        self.z_size, self.mixtures, self.actions = z, mixtures, actions

    @torch.no_grad()
    def dream(self, batch: int, steps: int):
        z, h, c = torch.randn(batch, self.z_size), *torch.zeros(2, batch, self.cell.hidden_size)
        weight = torch.randn(batch, self.z_size + len(h[0]), self.actions) * 0.1
        returns, alive = torch.zeros(batch), torch.ones(batch)
        for _ in range(steps):
            action = torch.tanh(torch.einsum("bf,bfa->ba", torch.cat([z, h], 1), weight))
            h, c = self.cell(torch.cat([z, action], 1), (h, c))
            out = self.head(h)
            logits, mu, log_sigma = out[:, :-2].view(batch, 3, self.z_size, self.mixtures).unbind(1)
            k = torch.distributions.Categorical(logits=logits).sample()[..., None]
            z = mu.gather(-1, k)[..., 0] + log_sigma.gather(-1, k)[..., 0].exp() * torch.randn(batch, self.z_size)
            returns += out[:, -2] * alive
            alive *= torch.rand(batch) >= (out[:, -1] + NEVER).sigmoid()
        return returns


def peers_dream(folder: Path, steps: int):
    """One rollout of ctallec/world-models: its MDRNNCell, called and sampled as envs/simulated_carracing.py does."""
    spec = importlib.util.spec_from_file_location("mdrnn", folder / "models" / "mdrnn.py")
    mdrnn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mdrnn)
    memory, controller = mdrnn.MDRNNCell(32, 3, 256, 5), nn.Linear(288, 3)
    latent, hidden = torch.randn(1, 32), 2 * [torch.zeros(1, 256)]

    def run():
        nonlocal latent, hidden
        with torch.no_grad():
            for _ in range(steps):
                action = controller(torch.cat([latent, hidden[0]], 1))
                mu, _, log_pi, reward, done, hidden = memory(action, latent, hidden)
                component = torch.distributions.Categorical(log_pi.squeeze().exp()).sample().item()
                latent = mu[:, component, :]
                reward.item(), done.item() > 0

    return run


@dataclass(frozen=True)
class PlainDreamerJob:
    """A job of the dream, whose MDN-RNN has no fast dreamer."""

    job: DreamJob

    @property
    def deadline(self) -> float:
        return self.job.deadline

    def __call__(self):
        memory = worker_agent(self.job.task, self.job.agent).memory
        memory.dreamer = lambda batch, temperature, bfloat16: PlainDreamer(memory, temperature, bfloat16)
        try:
            return self.job()
        finally:
            del memory.dreamer              # the class's own again, for other jobs of this worker


def dying(run: Run, logit: float, spread: float = 0.0, **settings) -> Run:
    """The run, its M with other settings and another done head: its logit is this one, and spreads with h."""
    tensors, info = run.load("memory", "")
    generator = torch.Generator().manual_seed(0)
    weight, bias = (max(n for n in tensors if n.startswith("head") and n.endswith(kind)) for kind in ("weight", "bias"))
    tensors[weight][-1] = spread * torch.randn(tensors[weight].shape[1], generator=generator)
    tensors[bias][-1] = logit
    info["memory"] |= {"death": "sampled"} | settings
    changed = Run(run.folder / f"dying at {logit:.2f}, {settings}")
    vision, vision_info = run.load("vision", "")
    changed.save("vision", vision, vision_info)
    changed.save("memory", tensors, info)
    return changed


class Generation:
    """A generation's fitness in the dream of a run, and the population it scores."""

    def __init__(self, run: Run, config: DreamConfig, executor=None, device: str = "cpu", members: int = MEMBERS):
        self.agent = load_agent(run, device)
        self.controllers = random_controllers(self.agent, members)
        self.fitness = DreamFitness(self.agent, RandomStarts(self.agent, config), executor)

    def without_fast_dreamer(self) -> "Generation":
        """The same, by the plain dreamer."""
        job = self.fitness.job
        self.fitness.job = lambda *arguments: PlainDreamerJob(job(*arguments))
        return self

    def __call__(self) -> np.ndarray:
        """Lengths [P, E]."""
        return self.fitness.play(self.controllers, range(EPISODES))[1]


def steps_a_second(task: str, executor: LocalExecutor, folder: Path, steps: int, rounds: int, peer: Path | None):
    run, config = dying(random_run(task, folder / "lstm"), NEVER), DreamConfig(max_steps=steps)
    ours, plainly = Generation(run, config, executor), Generation(run, config, executor).without_fast_dreamer()
    sees_current = Generation(dying(run, NEVER, sees_current_frame=True), config, executor)
    hidden, width = ours.agent.memory.config.hidden_size, whole_widths(-(-BATCH // executor.size))
    gru = Generation(dying(random_run(task, folder / "gru", GRUConfig(hidden_size=hidden)), NEVER), config, executor)
    rssm = Generation(dying(random_run(task, folder / "rssm", RSSM.Config()), NEVER), config, executor)
    loop = PlainCell(hidden, ours.agent.memory.z_size, TASKS[task].action_size)
    all_steps, few = BATCH * steps, max(1, steps // 8)
    works = {
        "our dream": (all_steps, ours),
        "our dream, sees_current_frame": (all_steps, sees_current),
        "plain dreamer, the same MDN-RNN": (all_steps, plainly),
        "plain dreamer, GRU": (all_steps, gru),
        "plain dreamer, RSSM": (all_steps, rssm),
        "LSTMCell loop, batch 1,024": (BATCH * few, lambda: loop.dream(BATCH, few)),
        "LSTMCell loop, one rollout": (steps, lambda: loop.dream(1, steps))}
    jobs = {"our dream": Products(shapes_of(ours.agent.memory), width, steps),
            "plain dreamer, RSSM": Products(shapes_of(rssm.agent.memory), width, steps)}
    if cpu_has_bfloat16():
        works["our dream, bfloat16"] = all_steps, Generation(run, replace(config, precision="bfloat16"), executor)
        jobs["our dream, bfloat16"] = replace(jobs["our dream"], dtype=torch.bfloat16)
    for name, job in jobs.items():
        works |= {f"{name}: products, workers": (all_steps, partial(in_workers, executor, job)),
                  f"{name}: products, threads": (all_steps, replace(job, width=BATCH))}
    if peer and task == "car_racing":
        works["ctallec/world-models, one rollout"] = steps, peers_dream(peer, steps)
    # our dream takes turns with its products alone: a worker that has dreamt of another M would open this one anew
    of_ours = [name for name in works if name in jobs and "RSSM" not in name or ": products" in name]
    turns = of_ours, [name for name in works if name not in of_ours]
    found = {name: seconds for names in turns
             for name, seconds in in_turns({name: works[name][1] for name in names}, rounds).items()}
    rates = {name: count / found[name] for name, (count, _) in works.items()}
    print(f"\n{task}: {hidden} cells; {BATCH} rollouts × {steps} steps")
    for name, rate in rates.items():
        print(f"  {name:36} {rate:10,.0f} steps/s   our dream is {rates['our dream'] / rate:7.2f} ×")
    for name, job in jobs.items():
        flops, workers = 2 * sum(O * I for O, I in job.shapes), rates[f"{name}: products, workers"]
        alone = max(workers, rates[f"{name}: products, threads"])
        print(f"  {name}: {flops / 1e6:.2f} MFLOP a step, {rates[name] / alone:.0%} of the rate of its products alone "
              f"({alone * flops / 1e9:.0f} GFLOP/s);\n  in the same processes, {rates[name] / workers:.0%}")


def in_workers(executor: LocalExecutor, job: Products):
    """The job in every worker at the same time."""
    executor.run([job] * executor.size)


def generation(executor: LocalExecutor, folder: Path, rounds: int):
    """TakeCover, lives of about 500 steps and at most 2,100: against a batch that goes on to the end."""
    run, config = random_run("take_cover", folder), DreamConfig(max_steps=2100)
    real = Generation(dying(run, LIVES, spread=1.0), config, executor)
    padded = Generation(dying(run, NEVER), replace(config, max_steps=525), executor)        # a quarter of its steps
    found, lengths = in_turns({"ours": real, "padded": padded}, rounds), real()
    search = CMAES(np.zeros(real.controllers.arrays["parameters"].shape[1]), MEMBERS, 0.1, seed=0)
    start = time.perf_counter()
    for _ in range(60):
        search.tell(-np.square(search.ask()).sum(1))
    cma = (time.perf_counter() - start) / 60
    print(f"\na TakeCover generation, {MEMBERS} × {EPISODES}, mean life {lengths.mean():.0f}, "
          f"longest {lengths.max():.0f}: {found['ours']:.1f} s, {lengths.sum() / found['ours']:,.0f} steps/s")
    print(f"  padded to 2,100 steps (4 × the time of 525): {4 * found['padded']:.1f} s, "
          f"{4 * found['padded'] / found['ours']:.2f} × ours")
    print(f"  CMA-ES, ask and tell: {1e3 * cma:.0f} ms, {cma / (found['ours'] + cma):.1%} of a generation")


def gpu(folder: Path, rounds: int):
    run, config = dying(random_run("car_racing", folder), NEVER), DreamConfig(max_steps=512)
    print(f"\n{torch.cuda.get_device_name()}, 256 cells")
    for members in (64, 256, 1024, 4096):
        found = in_turns({"dream": Generation(run, config, device="cuda", members=members)}, rounds)["dream"]
        rate = members * EPISODES * config.max_steps / found
        print(f"  {members * EPISODES:6} rollouts: {rate:12,.0f} steps/s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160, help="of each rollout")
    parser.add_argument("--rounds", type=int, default=5, help="each line is measured so often; the median counts")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes of our dream")
    parser.add_argument("--peer", type=Path, help="a checkout of ctallec/world-models")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(options.workers) as executor:
        folder = Path(folder)
        for task in ("car_racing", "take_cover"):
            steps_a_second(task, executor, folder / task, options.steps, options.rounds, options.peer)
        generation(executor, folder / "generation", min(options.rounds, 3))
        if torch.cuda.is_available():
            gpu(folder / "gpu", options.rounds)


if __name__ == "__main__":
    main()
