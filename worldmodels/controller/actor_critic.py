"""C learned by gradients in M's imagination: Dreamer's actor and critic (Hafner et al. 2020, 2021, 2023: V1, V2, V3).

From states of the recorded episodes on, the actor acts for H imagined steps:

    c_t = gamma (1 - P(done_t))                                 what is certain of the future: M's survival
    R_t = r_t + c_t ((1 - lambda) v(f_t+1) + lambda R_t+1),     R_H = v(f_H)        lambda-returns
    w_t = prod_{k < t} c_k                                      the weight of a step

    critic  minimises  mean w_t loss(v(f_t), R_t)
    actor   maximises  mean w_t (objective_t + eta entropy_t)

    "dynamics"   objective_t = R_t / scale      its gradient goes back through M (V1)
    "reinforce"  objective_t = log pi(a_t | f_t) (R_t - v(f_t)) / scale     only M's numbers are needed (V3)

v in R and the baseline are a slow critic's, an average of the critic over its last steps (V2 and V3: 0.02 of the new
one a step). scale is the distance of the 5% and 95% percentiles of R, if above 1 (V3; V1 has none). The features are
standardised by the mean and std that they have on the recorded episodes.

Deliberate differences: one Adam for both (as V3) at one rate. A step begins at states drawn at random, not at those of
the batch that M was trained on. Entropy is that of the actions, after tanh.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Iterator, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.commandline import Count, Positive, Share, Weight
from worldmodels.controller.actor import CRITICS, ActorConfig, actor_sizes, critic_sizes, log_density, normal_of
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.controller.learner import LearnerConfig, Practice
from worldmodels.controller.network import forward, layers_of, random_parameters, with_scaling, without_scaling
from worldmodels.controller.policy import ControllerConfig, PolicySpec, visible
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import advance, recorded_states, unroll
from worldmodels.runs import Run, seed_of
from worldmodels.training import TrainConfig, train
from worldmodels.types import Noise, State, UserError

STATES = 60_000         # of the recorded episodes, about, that imagination begins at


@dataclass(frozen=True)
class ActorCriticConfig(TrainConfig, LearnerConfig):
    kind: str = "actor_critic"          # which of LEARNERS
    steps: Count = 3000                 # optimiser steps
    batch: Count = 256                  # imagined rollouts in each (Dreamer V1: 2500, V3: 1024)
    learning_rate: Positive = 3e-4      # Adam's (Dreamer V1: 8e-5, V3: 4e-5)
    final_anneal: Share = 0.5           # share of the steps, at the end, over which the rate falls to zero
    horizon: Count = 15                 # H, imagined steps (Dreamer)
    discount: Share = 0.99              # gamma (Dreamer V1: 0.99, V3: 0.997)
    trace: Share = 0.95                 # lambda (Dreamer)
    gradient: Literal["dynamics", "reinforce"] = "reinforce"    # how the actor learns (Dreamer V1, V3)
    entropy: Weight = 3e-4              # eta (Dreamer V1: 0, V3: 3e-4)
    return_scale: bool = True           # returns are divided by their spread (Dreamer V3; V1: no)
    slow_rate: Share = 0.02             # of the slow critic (Dreamer V2, V3; V1 has none: 1)
    # the actor begins as that of the round before or at random, or fitted to a teacher by distillation
    start: Literal["previous_or_random", "distilled"] = "previous_or_random"
    teacher: str = ""                   # its run, see controller/distill.py
    anchor: Weight = 0.0                # of the squared distance of its actions, before noise, from those it began with


class Dreamt(NamedTuple):
    """H imagined steps of B rollouts."""

    x: Tensor           # [H+1, B, F] what actor and critic see
    epsilon: Tensor     # [H, B, A] the noise in the actions, standard normal
    mean: Tensor        # [H, B, A] mu
    std: Tensor         # [H, B, A] sigma
    reward: Tensor      # [H, B]
    p_done: Tensor      # [H, B]

    @property
    def u(self) -> Tensor:
        return self.mean + self.std * self.epsilon


class ActorCritic(nn.Module):
    """Actor and critic, vectors of parameters of networks (controller/network.py), and how they learn."""

    def __init__(self, config: ActorCriticConfig, spec: ActorConfig, agent, temperature: float):
        super().__init__()
        self.config, self.agent, self.temperature, self.columns = config, agent, temperature, 0
        self.sizes, self.critic_sizes = actor_sizes(spec, agent), critic_sizes(spec, agent)
        self.visible, self.of_value = visible(spec.sees, agent.memory.feature_sizes), CRITICS[spec.critic]
        self.actor, self.critic = (nn.Parameter(torch.empty(0)) for _ in range(2))
        for name in ("slow", "mean", "std", "spread", "first"):
            self.register_buffer(name, torch.zeros(()))

    def begin(self, states: State, rng: np.random.Generator, arrays: dict[str, np.ndarray] = {}):
        """With the networks of a policy's arrays [1, n] or, where it has none, random ones; features are standardised
        as they are in these states."""
        seen = states.features[:, self.visible]
        self.mean, self.std = seen.mean(0), seen.std(0).clamp(min=1e-3)

        def network(name: str, sizes: list[int]) -> Tensor:
            if name in arrays:
                return with_scaling(torch.from_numpy(arrays[name][0]).to(seen), sizes, self.mean, self.std)
            return random_parameters(sizes, rng, 0.01).to(seen)

        self.actor.data, self.critic.data = network("parameters", self.sizes), network("critic", self.critic_sizes)
        self.slow, self.first = self.critic.data.clone(), self.actor.data.clone()

    def arrays(self) -> dict[str, Tensor]:
        """Of the policy, whose networks see features as they are."""
        plain = lambda network, sizes: without_scaling(network.detach(), sizes, self.mean, self.std).cpu()
        return {"parameters": plain(self.actor, self.sizes), "critic": plain(self.critic, self.critic_sizes)}

    def loss(self, start: State, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, and what is logged, of imagination from some states [B] on."""
        config = self.config
        dreamt = IMAGINE[config.gradient](self, start, generator)
        value = self.of_value.value(self._critic(dreamt.x, self.slow))                      # [H+1, B]
        certain, returns = config.discount * (1 - dreamt.p_done), [value[-1]]
        for r, c, v in zip(dreamt.reward.flip(0), certain.flip(0), value[1:].flip(0)):
            returns.append(r + c * ((1 - config.trace) * v + config.trace * returns[-1]))
        returns, x = torch.stack(returns[:0:-1]), dreamt.x[:-1].detach()                    # [H, B]
        self._follow(returns.detach())
        weight = torch.cat([torch.ones_like(certain[:1]), certain[:-1].detach().cumprod(0)])
        scale = self.spread.clamp(min=1) if config.return_scale else 1.0
        if config.gradient == "dynamics":
            mean, std, objective = dreamt.mean, dreamt.std, returns
        else:
            mean, std = self._actor(x)
            objective = log_density(dreamt.u, mean, std) * (returns - value[:-1])
        objective = objective / scale - config.entropy * log_density(mean + std * dreamt.epsilon, mean, std)
        if config.anchor:
            first, _ = normal_of(self._network(x, self.first, self.sizes))
            objective = objective - config.anchor * (mean.tanh() - first.tanh()).square().sum(-1)
        actor = -(weight * objective).mean()
        critic = (weight * self.of_value.loss(self._critic(x, self.critic), returns.detach())).mean()
        metrics = {"loss": actor + critic, "critic": critic, "return": returns.mean(), "reward": dreamt.reward.mean(),
                   "std": std.mean(), "spread": self.spread}
        return actor + critic, metrics

    def _follow(self, returns: Tensor):
        """The spread of returns, and the slow critic, go on by a step."""
        low, high = torch.quantile(returns.detach().flatten(), returns.new_tensor([0.05, 0.95]))
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

    def _imagine(self, start: State, generator: torch.Generator) -> Dreamt:
        """With the gradient that goes back through M."""
        drawn = []

        def act(state: State) -> Tensor:
            drawn.append(self._act(self._seen(state.features), generator))
            return drawn[-1][0]

        dreamt = unroll(self.agent.memory, act, start, self._noise(start, generator), self.config.horizon,
                        self.temperature)
        features, reward, p_done = (t.transpose(0, 1) for t in (dreamt.features, dreamt.reward, dreamt.p_done))
        return Dreamt(self._seen(features), *map(torch.stack, list(zip(*drawn))[1:]), reward, p_done)

    @torch.no_grad()
    def _imagine_in_place(self, start: State, generator: torch.Generator) -> Dreamt:
        """Without, at full speed."""
        x, drawn, moments, B = [], [], [], len(start.features)
        if self.columns != B:
            self.columns, self.dreamer = B, self.agent.memory.dreamer(B, self.temperature)
        self.dreamer.load(start)

        def act(features: Tensor) -> Tensor:
            x.append(self._seen(features[:-1].t()))
            drawn.append(self._act(x[-1], generator))
            return drawn[-1][0].t()

        noise = ({part: n.t() for part, n in step.items()} for step in self._noise(start, generator))
        for _, reward, p_done, _ in advance(self.dreamer, act, noise):
            moments.append(torch.stack([reward, p_done]))
        x.append(self._seen(self.dreamer.features()[:-1].t()))
        return Dreamt(torch.stack(x), *map(torch.stack, list(zip(*drawn))[1:]), *torch.stack(moments, 1))

    def _act(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Of what the actor sees [B, F]: an action, the standard normal numbers it was drawn with, mu and sigma, each
        [B, A]."""
        mean, std = self._actor(x)
        epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self.agent.task.smooth_squash(mean + std * epsilon), epsilon, mean, std

    def _noise(self, start: State, generator: torch.Generator) -> Iterator[Noise]:
        size, like = self.agent.memory.imagine_noise, start.features
        return islice(draw(size, len(like), generator, like), self.config.horizon)


IMAGINE = {"dynamics": ActorCritic._imagine, "reinforce": ActorCritic._imagine_in_place}


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
        model = ActorCritic(self.config, spec, agent, practice.temperature)
        rng, arrays = np.random.default_rng(seeds(1)), practice.previous.arrays if practice.previous else {}
        if self.config.start == "distilled":
            arrays = Distill(DistillConfig(teacher=self.config.teacher)).fitted(agent, practice, spec, run).arrays
        model.begin(states, rng, arrays)

        def batches(skip: int) -> Iterator[State]:
            for step in range(skip, self.config.steps):
                rows = np.random.default_rng(seeds(2, step)).integers(len(states.features), size=self.config.batch)
                yield states.select(torch.from_numpy(rows).to(states.features.device))

        def loss(start: State, carry: None, generator: torch.Generator):
            return *model.loss(start, generator), None

        train("actor_critic", model, self.config, batches, loss, run, info, seeds(3))
        arrays = model.arrays()
        run.save("controller", arrays, info)
        return PolicySpec(config, {name: t.numpy()[None] for name, t in arrays.items()})
