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
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.commandline import Count, Positive, Share, Temperature, Weight
from worldmodels.controller.actor import CRITICS, ActorConfig, actor_sizes, critic_sizes, log_density, normal_of
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.controller.learner import LearnerConfig, Practice
from worldmodels.controller.network import forward, layers_of, random_parameters, with_scaling, without_scaling
from worldmodels.controller.policy import ControllerConfig, PolicySpec, visible
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import recorded_states, unroll_features, unroll_in_place
from worldmodels.runs import Run, seed_of
from worldmodels.training import TrainConfig, train
from worldmodels.types import State, UserError

STATES = 60_000         # of the recorded episodes, about, that imagination begins at


@dataclass(frozen=True)
class ActorCriticConfig(TrainConfig, LearnerConfig):
    kind: str = "actor_critic"          # which of LEARNERS
    steps: Count = 3000                 # optimiser steps
    batch: Count = 64                   # imagined rollouts in each (Dreamer V1: 2500, V3: 1024)
    learning_rate: Positive = 1e-3      # Adam's (Dreamer V1: 8e-5, V3: 4e-5)
    final_anneal: Share = 0.5           # share of the steps, at the end, over which the rate falls to zero
    horizon: Count = 60                 # H, imagined steps (Dreamer: 15)
    discount: Share = 0.99              # gamma (Dreamer V1: 0.99, V3: 0.997)
    trace: Share = 0.95                 # lambda (Dreamer)
    gradient: Literal["dynamics", "reinforce"] = "reinforce"    # how the actor learns (Dreamer V1, V3)
    entropy: Weight = 3e-4              # eta (Dreamer V1: 0, V3: 3e-4)
    return_scale: bool = True           # returns are divided by their spread (Dreamer V3; V1: no)
    slow_rate: Share = 0.02             # of the new critic in the slow one, a step
    temperature: Temperature = 2.0      # of imagination: above 1, to exploit M's errors pays less
    distilled: bool = False             # the actor begins fitted to a teacher (controller/distill.py)
    teacher: str = ""                   # its run; none: the round before
    anchor: Weight = 0.0                # of the squared distance of its actions, before noise, from those it began with


class ActorCritic(nn.Module):
    """Actor and critic, vectors of parameters of networks (controller/network.py), and how they learn."""

    def __init__(self, config: ActorCriticConfig, spec: ActorConfig, agent):
        super().__init__()
        self.config, self.agent = config, agent
        self.sizes, self.critic_sizes = actor_sizes(spec, agent), critic_sizes(spec, agent)
        self.visible, self.of_value = visible(spec.sees, agent.memory.feature_sizes), CRITICS[spec.critic]
        self.actor, self.critic = (nn.Parameter(torch.empty(0)) for _ in range(2))
        for name in ("slow", "mean", "std", "spread", "first"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def begin(self, states: State, rng: np.random.Generator,
              arrays: Mapping[str, np.ndarray] = MappingProxyType({})):
        """With the networks of a policy's arrays [1, n] or, where it has none, random ones; features are standardised
        as they are in these states."""
        seen = states.features[:, self.visible]
        self.mean, self.std = seen.mean(0), seen.std(0).clamp(min=1e-3)

        def network(name: str, sizes: list[int], last: float) -> Tensor:
            if name in arrays:
                return with_scaling(torch.from_numpy(arrays[name][0]).to(seen), sizes, self.mean, self.std)
            return random_parameters(sizes, rng, last).to(seen)

        self.actor.data = network("parameters", self.sizes, 0.01)
        self.critic.data = network("critic", self.critic_sizes, 0.0)                        # all values 0 (Dreamer V3)
        self.slow, self.first, self.spread = self.critic.data.clone(), self.actor.data.clone(), seen.new_zeros(())

    def arrays(self) -> dict[str, Tensor]:
        """Of the policy, whose networks see features as they are."""
        plain = lambda network, sizes: without_scaling(network.detach(), sizes, self.mean, self.std).cpu()
        return {"parameters": plain(self.actor, self.sizes), "critic": plain(self.critic, self.critic_sizes)}

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

    def _actor(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and sigma, each [..., A]."""
        return normal_of(self._network(x, self.actor, self.sizes))

    def _critic(self, x: Tensor, parameters: Tensor) -> Tensor:
        return self._network(x, parameters, self.critic_sizes)

    def _network(self, x: Tensor, parameters: Tensor, sizes: list[int]) -> Tensor:
        return forward(layers_of(parameters[None], sizes), x.flatten(0, -2), F.elu).unflatten(0, x.shape[:-1])

    def _seen(self, features: Tensor) -> Tensor:
        return (features[..., self.visible] - self.mean) / self.std

    def _imagine(self, start: State, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What the networks see [H+1, B, F], reward and p_done [H, B]; and of each action the noise in it, mu and
        sigma, [H, B, A]. Gradients go back through M by "dynamics"."""
        config, size, drawn = self.config, self.agent.memory.imagine_noise, []

        def act(features: Tensor) -> Tensor:
            mean, std = self._actor(self._seen(features))
            epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
            drawn.append((epsilon, mean, std))
            return self.agent.task.smooth_squash(mean + std * epsilon)

        noise = draw(size, len(start.features), generator, start.features)
        features, reward, p_done = UNROLL[config.gradient](self.agent.memory, act, start, noise, config.horizon,
                                                           config.temperature)
        return self._seen(features), reward, p_done, *map(torch.stack, zip(*drawn))


UNROLL = {"dynamics": unroll_features, "reinforce": unroll_in_place}


class ActorCriticLearner:
    """The learner."""

    Config = ActorCriticConfig

    def __init__(self, config: ActorCriticConfig):
        self.config = config

    def learn(self, agent, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> PolicySpec:
        spec = getattr(config, "guide", None)
        if spec is None:
            raise UserError(f"--controller.kind {config.kind} has no critic to learn: take {ActorConfig.kind}, or a "
                            "planner with --controller.guided True")
        seeds = lambda *index: seed_of(practice.seed, run.round, "actor and critic", practice.training, *index)
        states = recorded_states(agent.memory, practice.latents(), STATES, seeds(0))
        model = ActorCritic(self.config, spec, agent)
        rng, arrays, before = np.random.default_rng(seeds(1)), {}, practice.previous
        if self.config.distilled:
            arrays = Distill(DistillConfig(teacher=self.config.teacher)).fitted(agent, practice, spec, run).arrays
        elif before and getattr(before.config, "guide", None) != spec:
            raise UserError(f"the controller of the round before is {before.config}: go on with its --controller "
                            "settings, or take --learner.distilled True")
        elif before:
            arrays = before.arrays
        model.begin(states, rng, arrays)

        def batches(skip: int) -> Iterator[State]:
            for step in range(skip, self.config.steps):
                rows = np.random.default_rng(seeds(2, step)).integers(len(states.features), size=self.config.batch)
                yield states.select(torch.from_numpy(rows).to(states.features.device))

        def loss(start: State, carry: None, generator: torch.Generator):
            return *model.loss(start, generator), None

        train("behaviour", model, self.config, batches, loss, run, info, seeds(3), "learner")
        arrays = model.arrays()
        run.save("controller", arrays, info)
        return PolicySpec(config, {name: t.numpy()[None] for name, t in arrays.items()})
