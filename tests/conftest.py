"""What several tests share: runs in a temporary folder, a tiny V and M, encoded episodes whose latents name them."""

import numpy as np
import pytest
import torch

from worldmodels.envs.toy import POSITIONS, Toy
from worldmodels.episodes import Episode
from worldmodels.latents import Latents, write_latents
from worldmodels.memory import MDNRNN, MDNRNNConfig
from worldmodels.runs import Run
from worldmodels.types import Posterior
from worldmodels.vision import VAE, VAEConfig

torch.set_num_threads(1)        # the networks here are tiny: a second thread costs more than it does


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """A run of the toy task with a random V (4 latents) and M (8 cells)."""
    torch.manual_seed(1)
    run = Run(tmp_path_factory.mktemp("toy"))
    vision, memory = VAEConfig(z_size=4), MDNRNNConfig(hidden_size=8)
    info = {"task": "toy", "vision": vision}
    run.save("vision", VAE(vision).state_dict(), info)
    run.save("memory", MDNRNN(memory, 4, 1).state_dict(), info | {"memory": memory})
    return run


def make_latents(folder, episodes, log_var=-30.0):
    """Latents of (mu [T+1, Z], Episode) pairs; with the given variance, next to none, a sampled z is mu."""
    paths = []
    for number, (mu, episode) in enumerate(episodes):
        paths.append(folder / f"{number}.safetensors")
        write_latents(paths[-1], Posterior(*map(torch.from_numpy, (mu, np.full_like(mu, log_var)))), episode, "v")
    return Latents(dict.fromkeys(paths, ""), "v")


def counted_episode(number, steps):
    """An episode in which z_t = (number, t) / 10, a_t = t / 10, r_t = 100 number + t; the last step terminates."""
    t = np.arange(steps + 1)
    mu = np.stack([np.full(steps + 1, number), t], 1).astype(np.float32) / 10
    return mu, Episode(None, t[:-1, None].astype(np.float32) / 10, (100 * number + t[:-1]).astype(np.float32),
                       t[1:] == steps, np.zeros(steps, bool))


@pytest.fixture(scope="session")
def counted_latents(tmp_path_factory):
    """Eight episodes of 3 to 17 steps whose latents name their episode and time."""
    return make_latents(tmp_path_factory.mktemp("counted"), [counted_episode(e, 3 + 2 * e) for e in range(8)])


def toy_episode(seed):
    """A toy episode that drifts to the right, with the position one-hot as its latent."""
    env, rng = Toy(), np.random.default_rng(seed)
    env.reset(seed=seed)
    positions, actions, rewards, ends = [env.position], [], [], []
    while not (ends and any(ends[-1])):
        actions.append(rng.choice([-1.0, 1.0], 1, p=(0.25, 0.75)).astype(np.float32))
        _, reward, *end, _ = env.step(actions[-1])
        positions.append(env.position)
        rewards.append(reward)
        ends.append(end)
    terminated, truncated = np.array(ends).T
    mu = np.eye(POSITIONS, dtype=np.float32)[positions]
    return mu, Episode(None, np.stack(actions), np.array(rewards, np.float32), terminated, truncated)


@pytest.fixture(scope="session")
def toy_latents(tmp_path_factory):
    """Eighty toy episodes; their latents have a standard deviation of 0.14."""
    return make_latents(tmp_path_factory.mktemp("toy_latents"), [toy_episode(seed) for seed in range(80)], -4.0)
