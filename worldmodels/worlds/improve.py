"""A controller without a search, where that for C may begin: policy improvement by least squares (Lagoudakis & Parr 2003).

How much more of an action would have brought is estimated as w_j·f + b_j, from the features f that a controller sees, twice:

- from the recorded episodes (`recorded`), by the returns that followed what was done there. These are the game's own, but noisy,
  and tell of whoever played, and only as far as actions were partly chosen at random.
- from short dreams that begin at moments of these episodes (`dreamt`), by what the controller itself would get: two that differ in
  nothing but what is done in the first few steps. But M may be wrong, the more so the longer a dream lasts.

Each is a linear controller, and both together are a better one than either (docs/experiments.md). The dreams are dreamt anew for
what came out, ITERATIONS times.
"""

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

GAIN = 3.0              # the root mean square of what the controller puts out, before it is squashed to actions
RIDGE = 1e-3            # of each regressor's own mean square
TOGETHER = 128          # episodes that M observes at once
RECORDED_DISCOUNT = 31 / 32     # of the return, a step

ITERATIONS = 3
MOMENTS = 40_000        # of the recorded episodes, about, at which dreams begin in each iteration
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

    def solve(self, bias: bool | list[bool]) -> Tensor:
        """w_j and b_j, [J, F + 1]; b_j = 0 where `bias`, one for all j or one for each, is False."""
        kept = torch.ones(len(self.response) // self.width, self.width, dtype=torch.bool)
        kept[:, -1] = torch.tensor(bias)
        covariance, response = self.covariance.cpu()[kept.flatten()][:, kept.flatten()], self.response.cpu()[kept.flatten()]
        ridge = RIDGE * covariance.diag().clamp(1e-9).diag()
        return torch.zeros(kept.shape, dtype=response.dtype).masked_scatter(kept, torch.linalg.solve(covariance + ridge, response))

    def second(self) -> Tensor:
        """The second moments [F + 1, F + 1] of (f, 1), where the first a is 1."""
        return (self.covariance[:self.width, :self.width] / self.count).cpu()


@torch.inference_mode()
def improved(agent: Agent, world: DreamWorld, bias: bool, episodes: bool, run: Run, info: dict, seed: int) -> np.ndarray:
    """The parameters [n] of a controller for `agent`, as LinearPolicy takes them, by the recorded episodes and dreams, or by dreams alone.
    Goes on where it was interrupted: "start" among the run's checkpoints, which stays until someone has used what it returns."""
    slope, second, moments = recorded(agent.memory, world.latents, bias, seed)
    by_episodes = unit(slope, second) if episodes else torch.zeros_like(slope)
    progress = run.load_progress("start", info)
    by_dreams, begun = (progress[0]["dreamt"], progress[1]) if progress else (torch.zeros_like(slope), 0)

    def controller() -> np.ndarray:
        weights = GAIN * unit(by_episodes + by_dreams, second)
        return weights.t()[:None if bias else -1].flatten().numpy()

    for iteration in range(begun, ITERATIONS):
        mine = moments.rows(torch.arange(iteration, len(moments.features), ITERATIONS))
        slope = dreamt(agent, controller(), world, bias, mine, [seed, iteration, 2])
        by_dreams = unit(by_dreams + unit(slope, second), second)
        run.save_progress("start", {"dreamt": by_dreams}, info | {"step": iteration + 1})
    return controller()


def unit(slope: Tensor, second: Tensor) -> Tensor:
    """Controllers [A, F + 1] whose outputs have a root mean square of 1 where features have the second moments [F + 1, F + 1]."""
    return slope / (slope @ second * slope).sum(1, keepdim=True).sqrt().clamp(1e-12)


def recorded(memory: Memory, latents: Latents, bias: bool, seed: int) -> tuple[Tensor, Tensor, State]:
    """Of the recorded episodes: w_j and b_j [A, F + 1] in

        return = v·f + u + sum_j a_j (w_j·f + b_j),

    (b_j = 0 without `bias`), the second moments [F + 1, F + 1] of what a controller saw in them, and some of their moments, chosen at
    random."""
    fit, moments, share = LeastSquares(), [], MOMENTS * ITERATIONS / int(latents.lengths.sum())
    generator = torch.Generator().manual_seed(seed)
    by_length = np.argsort(latents.lengths, kind="stable")
    for chosen in tqdm(np.array_split(by_length, -(-len(by_length) // TOGETHER)), desc="improving on the episodes", unit="batch"):
        states, action, returns = seen(memory, [latents.episode(i) for i in chosen], generator)
        fit.add(torch.cat([torch.ones_like(returns)[:, None], action], 1), states.features, returns)
        moments.append(states.rows((torch.rand(len(returns), generator=generator) < share).nonzero()[:, 0].to(returns.device)))
    return fit.solve([True] + [bias] * action.shape[1])[1:], fit.second(), State.joined(moments)


def seen(memory: Memory, episodes: list[Encoded], generator: torch.Generator) -> tuple[State, Tensor, Tensor]:
    """Of all their N steps: what M made of the episode so far, the action taken [N, A], the discounted return [N] until the episode's
    end, or its cut."""
    device = next(memory.parameters()).device
    padded = lambda rows: torch.nn.utils.rnn.pad_sequence(list(rows)).to(device)
    z = padded(sample(e.mu, e.log_var, generator) for e in episodes)                            # [T+1, B, Z]
    action, returns = (padded(torch.from_numpy(a) for a in rows) for rows in zip(*((e.action, e.reward) for e in episodes)))
    played = padded(torch.ones(len(e.action)) for e in episodes) > 0                            # [T, B]
    states = State.joined(list(observed(memory, z.transpose(0, 1), action.transpose(0, 1))))
    for t in reversed(range(len(action) - 1)):
        returns[t] += RECORDED_DISCOUNT * returns[t + 1]
    return states.rows(played.flatten().nonzero()[:, 0]), action[played], returns[played]


def dreamt(agent: Agent, controller: np.ndarray, world: DreamWorld, bias: bool, moments: State, seed: list[int]) -> Tensor:
    """The same w_j and b_j of pairs of dreams that begin at `moments`: for HOLD steps one does all it can of each action, or as little
    (±GAIN, at random), and the other the opposite; then the controller [n] acts. Half of how much more the one brings is

        sum_j ±_j (w_j·f + b_j)."""
    fit, generator = LeastSquares(), torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**31)))
    for part in tqdm(torch.arange(len(moments.features)).split(PAIRS), desc="improving in the dream", unit="batch"):
        sign = 2.0 * torch.randint(2, (len(part), TASKS[agent.task].action_size), generator=generator).to(world.device) - 1
        state = moments.rows(part.repeat(2).to(world.device))
        one, other = paid(agent, controller, world, state, torch.cat([sign, -sign]), generator)
        fit.add(sign, state.features[:len(part)], (one - other) / 2)
    return fit.solve(bias)


def paid(agent: Agent, controller: np.ndarray, world: DreamWorld, state: State, sign: Tensor, generator: torch.Generator) -> Tensor:
    """What dreams [2N] from there on pay, [2, N]; the second half's chance is that of the first. They do not die: each reward is weighed
    with the probability that the dream has come so far."""
    count, (U, N) = len(sign) // 2, agent.memory.noise_size
    policy, alive, total = agent.policy(controller[None], 2 * count), 1.0, 0.0
    dreamer = agent.memory.dreamer(2 * count, sign.shape[1], world.config.temperature)
    dreamer.load(state, policy.weight, policy.bias)
    for step in range(HORIZON):
        wanted = dreamer.look().t()
        action = policy.squash(GAIN * sign if step < HOLD else wanted)
        noise = torch.cat([torch.rand(U, count, generator=generator), torch.randn(N, count, generator=generator)])
        reward, risk = dreamer.step(action.t(), noise.repeat(1, 2).to(world.device))
        total = total + DISCOUNT**step * alive * reward
        alive = alive * (1 - risk)
    return total.view(2, count)
