"""An actor and its critic as gradients train them: what the learners that do so share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.commandline import Positive, Share, Weight, Whole
from worldmodels.controller.actor import CRITICS, ActorConfig, actor_sizes, critic_sizes, normal_of
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.controller.learner import LearnerConfig, Practice
from worldmodels.controller.network import forward, layers_of, random_parameters, with_scaling, without_scaling
from worldmodels.controller.policy import ControllerConfig, PolicySpec, visible
from worldmodels.memory.noise import draw
from worldmodels.memory.unroll import recorded_states
from worldmodels.runs import Run, seed_of
from worldmodels.training import TrainConfig, train
from worldmodels.types import State, UserError

STATES = 60_000         # of the recorded episodes, about, that features are standardised by


@dataclass(frozen=True)
class GradientConfig(TrainConfig, LearnerConfig):
    # whose states imagination begins at, and features are standardised by: those collected last; 0: all
    last_episodes: Whole = 0
    discount: Share = 0.99              # gamma (Dreamer V1: 0.99, V3: 0.997; PPO: 0.99)
    trace: Share = 0.95                 # lambda (Dreamer, PPO)
    entropy: Weight = 3e-4              # eta (Dreamer V1: 0, V3: 3e-4)
    # a reward below zero counts so many times in imagination. CarRacing's lap has an end, which M's road has not: a
    # tile that is missed is lost there, and time is cheap; here the next one comes as soon, and only speed pays
    penalty_scale: Positive = 1.0
    distilled: bool = False             # the actor begins fitted to a teacher (controller/distill.py)
    teacher: str = ""                   # its run; none: the round before


class Networks(nn.Module):
    """Actor and critic, vectors of parameters of networks (controller/network.py)."""

    def __init__(self, config, spec: ActorConfig, agent):
        super().__init__()
        self.config, self.agent = config, agent
        self.sizes, self.critic_sizes = actor_sizes(spec, agent), critic_sizes(spec, agent)
        self.visible, self.of_value = visible(spec.sees, agent.memory.feature_sizes), CRITICS[spec.critic]
        self.actor, self.critic = (nn.Parameter(torch.empty(0)) for _ in range(2))
        for name in ("mean", "std"):
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

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, and what is logged."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Tensor]:
        """Of the policy, whose networks see features as they are."""
        plain = lambda network, sizes: without_scaling(network.detach(), sizes, self.mean, self.std).cpu()
        return {"parameters": plain(self.actor, self.sizes), "critic": plain(self.critic, self.critic_sizes)}

    def _imagined(self, unroll: Callable, start: State, temperature: float,
                  generator: torch.Generator) -> tuple[Tensor, ...]:
        """H steps by the actor and its noise: what the networks see [H+1, B, F], reward and p_done [H, B]; and of each
        action the noise in it, mu and sigma, [H, B, A]."""
        memory, drawn = self.agent.memory, []

        def act(features: Tensor) -> Tensor:
            mean, std = self._actor(self._seen(features))
            epsilon = torch.randn(mean.shape, generator=generator, device=mean.device)
            drawn.append((epsilon, mean, std))
            return self.agent.task.smooth_squash(mean + std * epsilon)

        noise = draw(memory.imagine_noise, len(start.features), generator, start.features)
        features, reward, p_done = unroll(memory, act, start, noise, self.config.horizon, temperature)
        reward = torch.where(reward < 0, self.config.penalty_scale * reward, reward)
        return self._seen(features), reward, p_done, *map(torch.stack, zip(*drawn))

    def _actor(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and sigma, each [..., A]."""
        return normal_of(self._network(x, self.actor, self.sizes))

    def _critic(self, x: Tensor, parameters: Tensor) -> Tensor:
        """What `of_value` makes values of."""
        return self._network(x, parameters, self.critic_sizes)

    def _network(self, x: Tensor, parameters: Tensor, sizes: list[int]) -> Tensor:
        return forward(layers_of(parameters[None], sizes), x.flatten(0, -2), F.elu).unflatten(0, x.shape[:-1])

    def _seen(self, features: Tensor) -> Tensor:
        return (features[..., self.visible] - self.mean) / self.std


class GradientLearner:
    """A learner of both. A subclass has the Networks that it trains, `made` of (config, spec, agent), and the batches
    that they learn from."""

    config: Any                         # of the subclass's Config
    made: type[Networks]
    together = 1                        # steps whose batches come of one actor

    def batches(self, model: Any, states: State, practice: Practice, spec: ActorConfig, round: int,
                skip: int) -> Iterator[Any]:
        """What `model.loss` takes, from the step `skip` on. `states` are some of the recorded episodes'."""
        raise NotImplementedError

    def starts(self, states: State, seed: int) -> State:
        """As many of the states as a batch has, drawn at random."""
        rows = np.random.default_rng(seed).integers(len(states.features), size=self.config.batch)
        return states.select(torch.from_numpy(rows).to(states.features.device))

    def learn(self, agent, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> PolicySpec:
        spec = getattr(config, "guide", None)
        if spec is None:
            raise UserError(f"--controller.kind {config.kind} has no critic to learn: take {ActorConfig.kind}, or a "
                            "planner with --controller.guided True")
        states = recorded_states(agent.memory, practice.latents(), STATES, stream(practice, run.round, 0),
                                 self.config.last_episodes)
        model = self.made(self.config, spec, agent)
        rng, arrays, before = np.random.default_rng(stream(practice, run.round, 1)), {}, practice.previous
        if self.config.distilled:
            arrays = Distill(DistillConfig(teacher=self.config.teacher)).fitted(agent, practice, spec, run).arrays
        elif before and getattr(before.config, "guide", None) != spec:
            raise UserError(f"the controller of the round before is {before.config}: go on with its --controller "
                            "settings, or take --learner.distilled True")
        elif before:
            arrays = before.arrays
        model.begin(states, rng, arrays)

        def loss(batch, carry: None, generator: torch.Generator):
            return *model.loss(batch, generator), None

        train("behaviour", model, self.config, lambda skip: self.batches(model, states, practice, spec, run.round,
              skip), loss, run, info, stream(practice, run.round, 3), practice.section, self.together)
        found = model.arrays()
        run.save("controller", found, info)
        return PolicySpec(config, {name: t.numpy()[None] for name, t in found.items()})


def stream(practice: Practice, round: int, *index: int) -> int:
    """The seed of a random stream of a training."""
    return seed_of(practice.seed, round, "actor and critic", practice.training, *index)
