"""A linear controller without a search: policy improvement by least squares (Lagoudakis & Parr 2003).

Advantage regression: fit A(f, a) = sum_j a_j (w_j . f + b_j), where f are the features and a the action. Then act along
its slope, a_j ~ w_j . f + b_j. It is fitted twice:

- on the recorded episodes (`from_episodes`), by the discounted return that followed each action. These returns are the
  game's own, but they are noisy, they are those of whoever played, and actions must have been chosen partly at random.
- on dreams (`from_dreams`) that begin at moments of these episodes, by the return of the controller itself. Two dreams
  of a moment differ in their first few actions only. M may be wrong, the more so the longer a dream lasts.

The sum of both controllers is better than either (docs/experiments.md). The second fit is repeated with what came out,
ITERATIONS times.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from worldmodels.controller.learner import LearnerConfig, Practice
from worldmodels.controller.linear import LinearConfig, LinearPolicy
from worldmodels.controller.policy import PolicySpec, visible
from worldmodels.latents import Encoded, Latents
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import EPISODES, advance, joined, observed_steps
from worldmodels.runs import Run, seed_of
from worldmodels.types import State, UserError

GAIN = 3.0              # root mean square of the controller's outputs, before they are squashed to actions
RIDGE = 1e-3            # of each regressor's own mean square
EPISODE_DISCOUNT = 31 / 32      # of a recorded reward, a step

ITERATIONS = 3
MOMENTS = 40_000        # of the recorded episodes, about, at which dreams begin in each iteration
HOLD = 2                # steps in which the two dreams of a moment do opposite things
HORIZON = 48            # steps that they are compared over
DREAM_DISCOUNT = 0.98   # of an imagined reward, a step
PAIRS = 1024            # dreamt at once


@dataclass(frozen=True)
class LeastSquaresConfig(LearnerConfig):
    kind: str = "least_squares"         # which of LEARNERS
    fit_episodes: bool = True           # fit on the recorded episodes' returns too, not on dreams alone


class Regression:
    """y = sum_j a_j (w_j . f + b_j), fitted to what was added."""

    covariance: Any = 0.0       # tensors, when something was added
    response: Any = 0.0
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
        used = torch.ones(len(self.response) // self.width, self.width, dtype=torch.bool)
        used[:, -1] = torch.tensor(bias)
        which = used.flatten()
        covariance, response = self.covariance.cpu()[which][:, which], self.response.cpu()[which]
        ridge = RIDGE * covariance.diag().clamp(1e-9).diag()
        solution = torch.linalg.solve(covariance + ridge, response)
        return torch.zeros(used.shape, dtype=response.dtype).masked_scatter(used, solution)

    def second_moments(self) -> Tensor:
        """E[(f, 1) (f, 1)^T], [F + 1, F + 1], where the first a is 1."""
        return (self.covariance[:self.width, :self.width] / self.count).cpu()


class LeastSquares:
    """The learner: fits, stores, and returns the controller."""

    Config = LeastSquaresConfig

    def __init__(self, config: LeastSquaresConfig):
        self.config = config

    def learn(self, agent, practice: Practice, config: LinearConfig, run: Run, info: dict) -> PolicySpec:
        parameters = self.fit(agent, practice, config, run, info)
        run.save("controller", {name: torch.from_numpy(parameters) for name in ("parameters", "start")}, info)
        run.progress_path("start").unlink(missing_ok=True)
        return PolicySpec(config, {"parameters": parameters[None]})

    @torch.no_grad()
    def fit(self, agent, practice: Practice, config: LinearConfig, run: Run, info: dict) -> np.ndarray:
        """The parameters [n] of a linear controller. Goes on where it was interrupted: "start" among the run's
        checkpoints, which stays until someone has used what it returns."""
        if not isinstance(config, LinearConfig):
            raise UserError(f"least squares fit a linear controller, not --controller.kind {config.kind}")
        seeds = lambda *index: seed_of(practice.seed, run.round, "least squares", practice.training, *index)
        slope, second, moments = from_episodes(agent, practice.latents(), config, seeds(0))
        by_episodes = normalised(slope, second) if self.config.fit_episodes else torch.zeros_like(slope)
        progress = run.load_progress("start", info)
        by_dreams, begun = (progress[0]["dreamt"], progress[1]) if progress else (torch.zeros_like(slope), 0)

        def controller() -> PolicySpec:
            weights = GAIN * normalised(by_episodes + by_dreams, second)
            parameters = weights.t()[:None if config.bias else -1].flatten().numpy()
            return PolicySpec(config, {"parameters": parameters[None]})

        for iteration in range(begun, ITERATIONS):
            mine = moments.select(torch.arange(iteration, len(moments.features), ITERATIONS))
            slope = from_dreams(agent, controller(), practice.temperature, mine, seeds(1, iteration))
            by_dreams = normalised(by_dreams + normalised(slope, second), second)
            run.save_progress("start", {"dreamt": by_dreams}, info | {"step": iteration + 1})
        return controller().arrays["parameters"][0]


def normalised(slope: Tensor, second: Tensor) -> Tensor:
    """Controllers [A, F + 1] whose outputs have a root mean square of 1 where features have the second moments [F + 1,
    F + 1]."""
    return slope / (slope @ second * slope).sum(1, keepdim=True).sqrt().clamp(1e-12)


def from_episodes(agent, latents: Latents, config: LinearConfig, seed: int) -> tuple[Tensor, Tensor, State]:
    """Fits the recorded episodes' returns: w_j and b_j [A, F + 1] in

        return = v . f + u + sum_j a_j (w_j . f + b_j),

    where b_j = 0 without a bias; the second moments of the features; and some states of the episodes, chosen at
    random."""
    fit, moments, share = Regression(), [], MOMENTS * ITERATIONS / int(latents.lengths.sum())
    seen, generator = visible(config.sees, agent.memory.feature_sizes), torch.Generator().manual_seed(seed)
    for batch in tqdm(latents.by_length(EPISODES), desc="least squares on the episodes", unit="batch"):
        states, action, returns = features_of(agent.memory, [latents.episode(i) for i in batch], generator)
        fit.add(torch.cat([torch.ones_like(returns)[:, None], action], 1), states.features[:, seen], returns)
        chosen = (torch.rand(len(returns), generator=generator) < share).nonzero()[:, 0]
        moments.append(states.select(chosen.to(returns.device)))
    return fit.solve([True] + [config.bias] * action.shape[1])[1:], fit.second_moments(), State.cat(moments)


def features_of(memory, episodes: list[Encoded], generator: torch.Generator) -> tuple[State, Tensor, Tensor]:
    """Of all N steps of the episodes: the state before the step, the action taken [N, A], and the discounted return [N]
    until the episode ends or is cut."""
    states = observed_steps(memory, episodes, generator)
    returns = pad_sequence([torch.from_numpy(e.reward) for e in episodes])                      # [T, E]
    for t in reversed(range(len(returns) - 1)):
        returns[t] += EPISODE_DISCOUNT * returns[t + 1]
    returns = joined([row[:len(e.reward)] for row, e in zip(returns.t(), episodes)])
    action = joined([torch.from_numpy(e.action) for e in episodes])
    return states, action.to(states.features), returns.to(states.features)


def from_dreams(agent, spec: PolicySpec, temperature: float, moments: State, seed: int) -> Tensor:
    """Fits pairs of dreams that begin at `moments`: for HOLD steps one does all it can of each action, or as little
    (±GAIN, at random), and the other the opposite; then the controller acts. Half the difference of their returns is

        sum_j ±_j (w_j . f + b_j)."""
    fit, generator = Regression(), torch.Generator().manual_seed(seed)
    policy = LinearPolicy(spec.config, agent, spec.arrays)
    device = moments.features.device
    for part in tqdm(torch.arange(len(moments.features)).split(PAIRS), desc="least squares on dreams", unit="batch"):
        sign = 2.0 * torch.randint(2, (len(part), agent.task.action_size), generator=generator).to(device) - 1
        state = moments.select(part.repeat(2).to(device))
        one, other = imagined_returns(agent, policy, state, torch.cat([sign, -sign]), temperature, generator)
        fit.add(sign, state.features[:len(part), policy.visible], (one - other) / 2)
    return fit.solve(spec.config.bias)


def imagined_returns(agent, policy: LinearPolicy, state: State, sign: Tensor, temperature: float,
                     generator: torch.Generator) -> Tensor:
    """The discounted returns of dreams [2N] from there on, [2, N]; the second half has the noise of the first. Dreams
    do not end: each reward is weighed with the probability of having survived so far."""
    memory, count = agent.memory, len(sign) // 2
    alive, total = sign.new_ones(()), sign.new_zeros(())
    policy.reset(range(2 * count))
    dreamer = memory.dreamer(2 * count, temperature)
    dreamer.load(state)
    forced = [agent.task.squash(GAIN * sign).t()] * HOLD
    act = lambda features: forced.pop() if forced else policy.act(features)
    noise = ({part: n.t().repeat(1, 2) for part, n in step.items()}
             for step in draw(memory.imagine_noise, count, generator, state.features))
    for step, (_, reward, p_done, _) in enumerate(advance(dreamer, act, islice(noise, HORIZON))):
        total = total + DREAM_DISCOUNT**step * alive * reward
        alive = alive * (1 - p_done)
    return total.view(2, count)
