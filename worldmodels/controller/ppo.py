"""C learned by gradients, several from each piece of experience: proximal policy optimisation (PPO; Schulman et al.
2017), of the actor and critic of actor.py.

In a dream, each iteration imagines H steps from states of the recorded episodes on, as actor_critic.py does; in the
real game it plays whole episodes. The actor acts with its noise. Then some passes over all these steps in small parts,
an optimiser step for each:

    delta_t = r_t + c_t v(f_t+1) - v(f_t),   c_t = gamma (1 - P(done_t))      an end that has come is certain
    A_t = delta_t + lambda c_t A_t+1                                          GAE (Schulman et al. 2016)
    rho = pi(a_t | f_t) / pi_old(a_t | f_t)

    actor   maximises  mean min(rho A_t, clip(rho, 1 ± epsilon) A_t) + eta entropy_t
    critic  minimises  mean loss(v(f_t), A_t + v_old(f_t))

The rate is adapted: where an iteration has changed the actor by more than twice the `kl` that it should have, it is
divided by STEP, and where by less than half, multiplied. What it should change falls to zero as the rate of the config
does. An actor that has learned to act with little noise changes much by small steps.

A are standardised in each iteration. An episode that the clock cuts is worth what the critic says of its last state:
the actor cannot see the clock. The features are standardised as in actor_critic.py.

Deliberate differences: the critic has a network of its own, and its loss is not clipped; the entropy is that of
tanh(u), from one sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from worldmodels.commandline import Count, Positive, Share, Temperature
from worldmodels.controller.actor import ActorConfig, log_density
from worldmodels.controller.cma_es import Episodes, generation_seeds
from worldmodels.controller.gradients import GradientConfig, GradientLearner, Networks, stream
from worldmodels.controller.learner import OnPolicyEpisode, Practice
from worldmodels.controller.policy import PolicySpec
from worldmodels.memory.unroll import unroll_in_place
from worldmodels.types import State


@dataclass(frozen=True)
class PPOConfig(GradientConfig):
    kind: str = "ppo"                   # which of LEARNERS
    steps: Count = 6400                 # optimiser steps: passes × parts in each iteration
    batch: Episodes = 64                # of an iteration: imagined rollouts, or episodes of the game
    learning_rate: Positive = 1e-4      # Adam's at first (Schulman et al.: 3e-4); then it is adapted:
    kl: Positive = 0.01                 # nats that an iteration is to change the actor by, at first
    final_anneal: Share = 1.0           # share of the steps, at the end, over which the rate falls to zero
    horizon: Count = 60                 # H, imagined steps
    temperature: Temperature = 1.0      # of imagination: lower, it is sharper; higher, M is exploited less
    first_temperature: Temperature = 1.0    # the same in a first round
    passes: Count = 4                   # over an iteration's steps (Schulman et al.: 10)
    parts: Count = 16                   # that these are cut into at random
    clip_ratio: Share = 0.2             # epsilon (Schulman et al.)


STEP = 1.5              # by which the rate is adapted, within ...
RATES = 0.01, 100.0     # ... these multiples of the config's


class Experience(NamedTuple):
    """Steps of B rollouts beside each other, T of the longest."""

    x: Tensor               # what the networks see [T+1, B, F]
    u: Tensor               # actions before they were squashed [T, B, A]
    reward: Tensor          # [T, B]
    p_done: Tensor          # [T, B]
    there: Tensor           # whether the rollout had not ended before [T, B] bool


class Steps(NamedTuple):
    """Of all rollouts together."""

    x: Tensor               # [N, F]
    u: Tensor               # [N, A]
    log_density: Tensor     # of u by the actor that acted [N]
    advantage: Tensor       # standardised [N]
    returns: Tensor         # [N], that the critic is to foretell


class PPO(Networks):
    """The two as they learn."""

    config: PPOConfig

    def __init__(self, config: PPOConfig, spec: ActorConfig, agent):
        super().__init__(config, spec, agent)
        self.register_buffer("rate_scale", torch.ones(()))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))       # optimiser steps so far

    def policy(self, spec: ActorConfig) -> PolicySpec:
        """The actor as it is now."""
        return PolicySpec(spec, {"parameters": self.arrays()["parameters"].numpy()[None]})

    @torch.no_grad()
    def imagined(self, start: State, temperature: float, generator: torch.Generator) -> Experience:
        """What the actor does from these states [B] on."""
        x, reward, p_done, epsilon, mean, std = self._imagined(unroll_in_place, start, temperature, generator)
        return Experience(x, mean + std * epsilon, reward, p_done, torch.ones_like(reward).bool())

    def played(self, episodes: list[OnPolicyEpisode]) -> Experience:
        """Whole episodes of the game."""
        padded = lambda arrays: pad_sequence([torch.from_numpy(array) for array in arrays]).to(self.mean)
        features, u, reward, terminated = zip(*episodes)
        there = padded(map(np.ones_like, reward))
        p_done = torch.zeros_like(there)
        for row, (end, rewards) in enumerate(zip(terminated, reward)):
            p_done[len(rewards) - 1, row] = end
        return Experience(self._seen(padded(features)), padded(u), padded(reward), p_done, there.bool())

    @torch.no_grad()
    def judged(self, experience: Experience) -> Steps:
        """All steps that there were, with what they were worth."""
        x, u, reward, p_done, there = experience
        value, certain = self.of_value.value(self._critic(x, self.critic)), self.config.discount * (1 - p_done)
        surprise, found = reward + certain * value[1:] - value[:-1], [torch.zeros_like(value[0])]
        goes_on = certain * self.config.trace * torch.cat([there[1:], there[:1]])       # the last row's is not used
        for delta, share in zip(surprise.flip(0), goes_on.flip(0)):
            found.append(delta + share * found[-1])
        advantage, x = torch.stack(found[:0:-1]), x[:-1]
        density = log_density(u, *self._actor(x))
        steps = Steps(*(part[there] for part in (x, u, density, advantage, advantage + value[:-1])))
        std, mean = torch.std_mean(steps.advantage, correction=0)
        return steps._replace(advantage=(steps.advantage - mean) / std.clamp(1e-6))

    def loss(self, steps: Steps, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, and what is logged, of some steps."""
        x, u, before, advantage, returns = steps
        mean, std = self._actor(x)
        ratio = (log_density(u, mean, std) - before).exp()
        clipped = ratio.clamp(1 - self.config.clip_ratio, 1 + self.config.clip_ratio)
        epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
        entropy = -log_density(mean + std * epsilon, mean, std)
        actor = -(torch.minimum(ratio * advantage, clipped * advantage) + self.config.entropy * entropy).mean()
        critic = self.of_value.loss(self._critic(x, self.critic), returns).mean()
        self._adapt(ratio.detach())
        metrics = {"loss": actor + critic, "critic": critic, "clipped": (ratio != clipped).float().mean(),
                   "return": returns.mean(), "std": std.mean(), "rate_scale": self.rate_scale}
        return actor + critic, metrics

    def _adapt(self, ratio: Tensor):
        """Adapts the rate by the ratios rho of an iteration's last part; called at every step."""
        config = self.config
        wanted = config.kl * config.rate(int(self.taken)) / config.learning_rate
        self.taken = self.taken + 1
        if self.taken % (config.passes * config.parts) == 0:
            changed = float((ratio - 1 - ratio.log()).mean())                   # KL(old || new) (Schulman 2020)
            factor = 1 / STEP if changed > 2 * wanted else STEP if changed < wanted / 2 else 1.0
            self.rate_scale = (self.rate_scale * factor).clamp(*RATES)


class PPOLearner(GradientLearner):
    """The learner."""

    Config = PPOConfig
    made = PPO

    def __init__(self, config: PPOConfig):
        self.config, self.together = config, config.passes * config.parts

    def batches(self, model: PPO, states: State, practice: Practice, spec: ActorConfig, round: int,
                skip: int) -> Iterator[Steps]:
        seeds = partial(generation_seeds, practice.seed, round, episodes=self.config.batch, training=practice.training)
        temperature = self.config.first_temperature if round == 1 else self.config.temperature
        for iteration in range(skip // self.together, -(-self.config.steps // self.together)):
            seed = stream(practice, round, 2, iteration)
            generator = torch.Generator(states.features.device).manual_seed(seed)
            if practice.on_policy:
                experience = model.played(practice.on_policy(model.policy(spec), seeds(iteration)))
            else:
                experience = model.imagined(self.starts(states, seed), temperature, generator)
            steps = model.judged(experience)
            for _ in range(self.config.passes):
                order = torch.randperm(len(steps.u), generator=generator, device=generator.device)
                order = order.repeat(-(-self.config.parts // len(order)))               # no part is empty
                for rows in order.tensor_split(self.config.parts):
                    yield Steps(*(part[rows] for part in steps))
