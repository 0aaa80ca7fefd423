"""A controller without a search, where that for C may begin: policy improvement by least squares (Lagoudakis & Parr 2003).

How much more of an action would have brought is estimated as w_j·f + b_j, from the features f that a controller sees, twice:

- from the recorded episodes (`recorded`), by the returns that followed what was done there. These are the game's own, but noisy,
  and tell of whoever played, and only as far as actions were partly chosen at random.
- from dreams (`dreamt`), as many as it takes, by what the controller itself would get: two that differ in nothing but what is done in
  the first few steps. But M may be wrong.

Each is a linear controller, and both together are a better one than either (docs/experiments.md). The dreams are dreamt anew from
there, ITERATIONS times.
"""

from typing import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodels.envs import TASKS
from worldmodels.memory.latents import Encoded, Latents, observed, sample
from worldmodels.runs import Run
from worldmodels.types import Memory, State
from worldmodels.worlds.agent import Agent
from worldmodels.worlds.dream import DreamWorld

ITERATIONS = 5
GAIN = 3.0              # the root mean square of what the controller puts out, before it is squashed to actions
RIDGE = 1e-3            # of each regressor's own mean square

RECORDED_DISCOUNT = 31 / 32     # of the return, a step
TOGETHER = 128                  # episodes that M observes at once

DREAMS = 1024           # of the controller, along which moments are chosen ...
SHARE = 1 / 7           # ... this part of all
HOLD = 2                # steps in which the two dreams of a moment do opposite things
HORIZON = 48            # steps that they are compared over
DISCOUNT = 0.98         # of their rewards, a step
PAIRS = 1024            # dreamt at once


class LeastSquares:
    """y = sum_j a_j (w_j·f + b_j), fitted to what was added."""

    covariance = response = 0.0
    count = 0

    def add(self, a: Tensor, features: Tensor, y: Tensor):
        """a [N, J], features [N, F], y [N]."""
        x = torch.cat([features, features.new_ones(len(features), 1)], 1)
        regressors = (a[:, :, None] * x[:, None]).flatten(1)            # [N, J (F + 1)]
        self.covariance = self.covariance + (regressors.t() @ regressors).double()
        self.response = self.response + (regressors.t() @ y).double()
        self.count, self.width = self.count + len(y), x.shape[1]

    def solve(self) -> Tensor:
        """w_j and b_j, [J, F + 1]."""
        ridge = RIDGE * self.covariance.diag().clamp(1e-9).diag()
        return torch.linalg.solve(self.covariance + ridge, self.response).view(-1, self.width).cpu()

    def second(self) -> Tensor:
        """The second moments [F + 1, F + 1] of (f, 1), where the first a is 1 or -1."""
        return (self.covariance[:self.width, :self.width] / self.count).cpu()


@torch.inference_mode()
def improved(agent: Agent, world: DreamWorld, bias: bool, episodes: bool, run: Run, info: dict, seed: int) -> np.ndarray:
    """The parameters [n] of a controller for `agent`, as LinearPolicy takes them, by the recorded episodes and dreams, or by dreams alone.
    Goes on where it was interrupted."""
    progress = run.load_progress("start", info)
    if progress:
        state, begun = progress
    else:
        width = agent.memory.feature_size + 1
        nothing = torch.zeros(TASKS[agent.task].action_size, width, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
        slope, second = recorded(agent.memory, world.latents) if episodes else nothing
        state, begun = {"recorded": unit(slope, second), "dreamt": torch.zeros_like(slope), "second": second}, 0

    def controller() -> np.ndarray:
        weights = GAIN * unit(state["recorded"] + state["dreamt"], state["second"])
        return weights.t()[:None if bias else -1].flatten().numpy()

    for iteration in range(begun + 1, ITERATIONS + 1):
        run.save_progress("start", state, info | {"step": iteration - 1})
        slope, second = dreamt(agent, controller(), world, [seed, iteration, 2])
        state |= {"dreamt": unit(state["dreamt"] + unit(slope, second), second), "second": second}
    run.progress_path("start").unlink(missing_ok=True)
    return controller()


def unit(slope: Tensor, second: Tensor) -> Tensor:
    """Controllers [A, F + 1] whose outputs have a root mean square of 1 where features have the second moments [F + 1, F + 1]."""
    return slope / (slope @ second * slope).sum(1, keepdim=True).sqrt().clamp(1e-12)


def recorded(memory: Memory, latents: Latents) -> tuple[Tensor, Tensor]:
    """Of the recorded episodes: w_j and b_j [A, F + 1] in

        return = v·f + u + sum_j a_j (w_j·f + b_j),

    and the second moments [F + 1, F + 1] of what a controller saw in them."""
    fit = LeastSquares()
    by_length = np.argsort(latents.lengths, kind="stable")
    for chosen in tqdm(np.array_split(by_length, -(-len(by_length) // TOGETHER)), desc="improving on the episodes", unit="batch"):
        features, action, returns = seen(memory, [latents.episode(i) for i in chosen], int(chosen[0]))
        fit.add(torch.cat([features.new_ones(len(features), 1), action], 1), features, returns)
    return fit.solve()[1:], fit.second()


def seen(memory: Memory, episodes: list[Encoded], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of all their steps: the features [N, F] a controller would have seen, the action taken [N, A], the discounted return [N] until
    the episode's end, or its cut."""
    device, generator = next(memory.parameters()).device, torch.Generator().manual_seed(seed)
    padded = lambda rows: torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True).to(device)
    z = padded(sample(e.mu, e.log_var, generator) for e in episodes)                            # [B, T+1, Z]
    action, returns = (padded(torch.from_numpy(a) for a in rows) for rows in zip(*((e.action, e.reward) for e in episodes)))
    played = padded(torch.ones(len(e.action)) for e in episodes) > 0                            # [B, T]
    features = [state.features for state in observed(memory, z, action)]
    for t in reversed(range(action.shape[1] - 1)):
        returns[:, t] += RECORDED_DISCOUNT * returns[:, t + 1]
    return torch.stack(features, 1)[played], action[played], returns[played]


def dreamt(agent: Agent, controller: np.ndarray, world: DreamWorld, seed: list[int]) -> tuple[Tensor, Tensor]:
    """The same of pairs of dreams that begin where the controller [n] comes by in its own: for HOLD steps one does all it can of each
    action, or as little (±GAIN, at random), and the other the opposite; then the controller acts. Half of how much more the one
    brings is

        sum_j ±_j (w_j·f + b_j)."""
    rng, fit = np.random.default_rng(seed), LeastSquares()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    moments = State.joined(list(visited(agent, controller, world, rng)))
    for part in tqdm(torch.arange(len(moments.features)).split(PAIRS), desc="improving in the dream", unit="batch"):
        state = moments.rows(part.to(world.device))
        sign = 2.0 * torch.randint(2, (len(part), TASKS[agent.task].action_size), generator=generator).to(world.device) - 1
        one, other = paid(agent, controller, world, state.rows(torch.arange(len(part)).repeat(2)), torch.cat([sign, -sign]), generator)
        fit.add(sign, state.features, (one - other) / 2)
    return fit.solve(), fit.second()


def visited(agent: Agent, controller: np.ndarray, world: DreamWorld, rng: np.random.Generator) -> Iterator[State]:
    """A SHARE of the moments of DREAMS dreams of the controller."""
    policy, state = agent.policy(controller[None], DREAMS), world.reset(rng.integers(2**31, size=DREAMS).tolist())
    alive = torch.ones(DREAMS, dtype=torch.bool)
    while len(alive):
        yield state.rows(torch.from_numpy(np.flatnonzero(rng.random(len(alive)) < SHARE)).to(world.device))
        alive = (~world.step(policy(state)).done).nonzero()[:, 0]
        state, policy = world.go_on(alive, []), policy.rows(alive)


def paid(agent: Agent, controller: np.ndarray, world: DreamWorld, state: State, sign: Tensor, generator: torch.Generator) -> Tensor:
    """What dreams [2N] from there on pay, [2, N]; the second half's chance is that of the first. They do not die: each reward is weighed
    with the probability that the dream has come so far."""
    count, (U, N) = len(sign) // 2, agent.memory.noise_size
    policy, alive, total = agent.policy(controller[None], 2 * count), 1.0, 0.0
    dreamer = agent.memory.dreamer(2 * count, sign.shape[1], world.config.temperature)
    dreamer.load(state, policy.weight, policy.bias)
    for step in range(HORIZON):
        action = policy.squash(GAIN * sign if step < HOLD else dreamer.look().t())
        noise = torch.cat([torch.rand(U, count, generator=generator), torch.randn(N, count, generator=generator)])
        reward, risk = dreamer.step(action.t(), noise.repeat(1, 2).to(world.device))
        total = total + DISCOUNT**step * alive * reward
        alive = alive * (1 - risk)
    return total.view(2, count)
