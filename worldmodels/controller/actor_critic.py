"""C learned by gradients in M's imagination: Dreamer's actor and critic (Hafner et al. 2020, 2021, 2023: V1, V2, V3).

From states of the recorded episodes on, the actor acts for H imagined steps:

    c_t = gamma (1 - P(done_t))                                 what is certain of the future: M's survival
    R_t = r_t + c_t ((1 - lambda) v(f_t+1) + lambda R_t+1),     R_H = v(f_H)        lambda-returns
    w_t = prod_{k < t} c_k                                      the weight of a step

    critic  minimises  mean w_t loss(v(f_t), R_t)
    actor   maximises  mean w_t (objective_t + eta entropy_t)

    "dynamics"   objective_t = R_t / scale      its gradient goes back through M (V1)
    "reinforce"  objective_t = log pi(a_t | f_t) (R_t - v(f_t)) / scale     only M's numbers are needed (V3)

v in R and the baseline are a slow critic's, an average of the critic over its last steps. (V1: the critic's; V2: those
of a copy made every 100 steps; V3 @e3f0224: the critic's, which a slow one holds back.) scale is the distance of the 5%
and 95% percentiles of R, if above 1 (V3; V1 and V2 have none). The features are standardised by the mean and std that
they have on the recorded episodes.

Deliberate differences: one Adam for both (as V3) at one rate. A step begins at states drawn at random, not at those of
the batch that M was trained on; nothing is learned from recorded rewards (V3 does). Through M the gradient also takes
the way by what the actor sees (V1 and V2 stop it there). The entropy is that of tanh(u).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worldmodels.commandline import Count, Positive, Share, Temperature, Weight
from worldmodels.controller.actor import ActorConfig, log_density, normal_of
from worldmodels.controller.gradients import GradientConfig, GradientLearner, Networks, stream
from worldmodels.controller.learner import Practice
from worldmodels.memory.unroll import unroll_features, unroll_in_place
from worldmodels.types import State


@dataclass(frozen=True)
class ActorCriticConfig(GradientConfig):
    kind: str = "actor_critic"          # which of LEARNERS
    steps: Count = 3000                 # optimiser steps
    batch: Count = 64                   # imagined rollouts in each (Dreamer V1: 2500, V3: 1024)
    learning_rate: Positive = 1e-3      # Adam's (Dreamer V1: 8e-5, V3: 4e-5)
    final_anneal: Share = 0.5           # share of the steps, at the end, over which the rate falls to zero
    horizon: Count = 60                 # H, imagined steps (Dreamer: 15)
    gradient: Literal["dynamics", "reinforce"] = "reinforce"    # how the actor learns (Dreamer V1, V3)
    return_scale: bool = True           # returns are divided by their spread (Dreamer V3; V1: no)
    slow_rate: Share = 0.02             # of the new critic in the slow one, a step
    temperature: Temperature = 2.0      # of imagination: above 1, to exploit M's errors pays less
    anchor: Weight = 0.0                # of the squared distance of its actions, before noise, from those it began with


class ActorCritic(Networks):
    """The two as they learn in imagination."""

    def __init__(self, config: ActorCriticConfig, spec: ActorConfig, agent):
        super().__init__(config, spec, agent)
        for name in ("slow", "spread", "first"):
            self.register_buffer(name, torch.zeros(()))

    def begin(self, states: State, rng: np.random.Generator,
              arrays: Mapping[str, np.ndarray] = MappingProxyType({})):
        super().begin(states, rng, arrays)
        self.slow, self.first = self.critic.data.clone(), self.actor.data.clone()
        self.spread = self.actor.data.new_zeros(())

    def loss(self, start: State, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, and what is logged, of imagination from some states [B] on."""
        config = self.config
        x, reward, p_done, epsilon, mean, std = self._imagine(start, generator)
        value = self.of_value.value(self._critic(x, self.slow))                             # [H+1, B]
        certain, returns = config.discount * (1 - p_done), [value[-1]]
        for r, c, v in zip(reward.flip(0), certain.flip(0), value[1:].flip(0)):
            returns.append(r + c * ((1 - config.trace) * v + config.trace * returns[-1]))
        returns, x = torch.stack(returns[:0:-1]), x[:-1].detach()                           # [H, B]
        self._follow(returns.detach())
        weight = torch.cat([torch.ones_like(certain[:1]), certain[:-1].detach().cumprod(0)])
        scale = self.spread.clamp(min=1) if config.return_scale else 1.0
        objective = returns
        if config.gradient == "reinforce":
            u = mean + std * epsilon
            mean, std = self._actor(x)
            objective = log_density(u, mean, std) * (returns - value[:-1])
        objective = objective / scale - config.entropy * log_density(mean + std * epsilon, mean, std)
        if config.anchor:
            first, _ = normal_of(self._network(x, self.first, self.sizes))
            objective = objective - config.anchor * (mean.tanh() - first.tanh()).square().sum(-1)
        actor = -(weight * objective).mean()
        critic = (weight * self.of_value.loss(self._critic(x, self.critic), returns.detach())).mean()
        metrics = {"loss": actor + critic, "critic": critic, "return": returns.mean(), "reward": reward.mean(),
                   "std": std.mean(), "spread": self.spread}
        return actor + critic, metrics

    def _follow(self, returns: Tensor):
        """The spread of returns, and the slow critic, go on by a step."""
        low, high = torch.quantile(returns.flatten(), returns.new_tensor([0.05, 0.95]))
        begun = self.spread > 0
        self.spread = torch.where(begun, 0.99 * self.spread + 0.01 * (high - low), high - low)
        self.slow = self.slow + self.config.slow_rate * (self.critic.detach() - self.slow)

    def _imagine(self, start: State, generator: torch.Generator) -> tuple[Tensor, ...]:
        """See `_imagined`. Gradients go back through M by "dynamics"."""
        return self._imagined(UNROLL[self.config.gradient], start, self.config.temperature, generator)


UNROLL = {"dynamics": unroll_features, "reinforce": unroll_in_place}


class ActorCriticLearner(GradientLearner):
    """The learner."""

    Config = ActorCriticConfig
    made = ActorCritic

    def __init__(self, config: ActorCriticConfig):
        self.config = config

    def batches(self, model: ActorCritic, states: State, practice: Practice, spec: ActorConfig, round: int,
                skip: int) -> Iterator[State]:
        for step in range(skip, self.config.steps):
            yield self.starts(states, stream(practice, round, 2, step))
