"""C: a learned actor, and the critic that it learned from (Hafner et al. 2020, Dreamer). A network whose first outputs
are the mean of a normal distribution, which tanh brings into the task's box:

    u ~ N(mu(f), sigma(f)^2),   a = middle + half tanh(u)

It acts by the mean; the noise is what it learns by. mu lies in -5..5 (Dreamer V1), sigma in 0.1..1 (V3).

A task whose `squash` has no gradient everywhere has another one for it (envs/): CarRacing's brake is clipped, to
nothing for half of all outputs, and is smooth here. TakeCover's player moves or stands still, by whether the action is
beyond ±1/3: there the gradient is that of M, which was shown all actions and knows the step as a smooth one;
"reinforce" needs none.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.commandline import Range, Size
from worldmodels.controller.network import forward, layers_of, parameter_count, random_parameters
from worldmodels.controller.policy import ParameterConfig, ParameterPolicy, visible
from worldmodels.types import Seeds, State

MEAN = 5.0                  # bound on |mu|, before tanh (Dreamer V1)
SHIFT = 10.0                # of an output, so that an ELU does nothing to it
MIN_STD, MAX_STD = 0.1, 1.0 # bounds on sigma (Dreamer V3)
BINS, LARGEST = 127, 10.0   # values of a two-hot critic, and the largest symlog of a value (Dreamer V3: 255, 20)


@dataclass(frozen=True)
class ActorConfig(ParameterConfig):
    kind: str = "actor"                 # which of CONTROLLERS
    units: Size = 64                    # ELUs of each hidden layer, of the critic's too (Dreamer V1: 400)
    layers: Annotated[int, Range(1, 100)] = 2   # hidden ones (Dreamer V1: 4 and 3)
    # what the critic puts out: the value, its symlog, or probabilities of BINS values of it (Dreamer V1, -, V3)
    critic: Literal["value", "symlog", "two_hot"] = "two_hot"

    @property
    def guide(self) -> "ActorConfig":
        """The actor whose parameters the controller has."""
        return self


class ActorPolicy(ParameterPolicy):
    """A row of parameters is an actor's. Arrays may hold its critic beside it, {"critic": [N, m]}."""

    Config = ActorConfig
    shared = True               # it has many parameters

    def __init__(self, config: ActorConfig, agent, arrays: dict[str, np.ndarray]):
        super().__init__(config, agent, arrays)
        self.critic = None
        if "critic" in arrays:
            self.critic = torch.as_tensor(arrays["critic"], dtype=torch.float32, device=self.parameters.device)

    @staticmethod
    def size(config: ActorConfig, agent) -> int:
        return parameter_count(actor_sizes(config, agent))

    @staticmethod
    def start(config: ActorConfig, agent, linear: Tensor, rng: np.random.Generator) -> Tensor:
        """A network with the linear layer in it: a unit of each layer for each action, where an ELU does nothing."""
        sizes, actions = actor_sizes(config, agent), linear.shape[1]
        parameters = random_parameters(sizes, rng, 0.01).to(linear)
        if config.units < actions:
            return parameters
        layers = [(weight[0], bias[0, 0]) for weight, bias in layers_of(parameters[None], sizes)]
        for (weight, bias), before in zip(layers, [linear[:-1], *[torch.eye(actions).to(linear)] * config.layers]):
            weight[:, :actions], bias[:actions] = 0, 0
            weight[:len(before), :actions] = before
        layers[0][1][:actions] = linear[-1] + SHIFT
        layers[-1][1][:actions] = -SHIFT
        return parameters

    def prepare(self, rows: Tensor):
        self.layers = layers_of(rows, actor_sizes(self.config, self.agent))
        if self.critic is not None:
            self.critic_rows = self.critic if len(self.critic) == 1 else self.critic[self.row]
            self.critic_layers = layers_of(self.critic_rows, critic_sizes(self.config, self.agent))

    def normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and sigma, each [B, A], where the features that it sees are x [B, F]."""
        return normal_of(forward(self.layers, x, F.elu))

    def output(self, x: Tensor) -> Tensor:
        return self.normal(x)[0]

    def value(self, features: Tensor) -> Tensor:
        """The critic's, of features with the batch last [F + 1, B] -> [B]."""
        x = features[self.visible].t()
        return CRITICS[self.config.critic].value(forward(self.critic_layers, x, F.elu))

    def squash(self, x: Tensor) -> Tensor:
        return self.agent.task.smooth_squash(x)


class NoisyActor:
    """An actor with the noise that it learns by, of each rollout's own seed. What it says is u, not yet squashed."""

    def __init__(self, actor: ActorPolicy):
        self.actor = actor

    def reset(self, seeds: Seeds):
        self.actor.reset(seeds)
        self.rngs = [np.random.default_rng([seed, 8]) for seed in seeds]

    def __call__(self, state: State) -> Tensor:
        mean, std = self.actor.normal(state.features[:, self.actor.visible])
        noise = np.stack([rng.standard_normal(mean.shape[1], np.float32) for rng in self.rngs])
        return mean + std * torch.from_numpy(noise).to(mean)

    def select_and_reset(self, index: Tensor, seeds: Seeds):
        self.actor.select_and_reset(index, seeds)
        self.rngs = [self.rngs[i] for i in index.tolist()] + [np.random.default_rng([seed, 8]) for seed in seeds]


def normal_of(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """mu and sigma, each [..., A], of an actor's outputs [..., 2A]."""
    mean, std = outputs.chunk(2, -1)
    return MEAN * torch.tanh(mean / MEAN), MIN_STD + (MAX_STD - MIN_STD) * torch.sigmoid(std + 2)


def log_density(u: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log pi(a) of a = tanh(u), u ~ N(mean, std^2) [..., A], but for a constant -> [...]."""
    # log N(u) - log(1 - tanh(u)^2), which is 2 (log 2 - u - softplus(-2 u))
    normal = -0.5 * ((u - mean) / std).square() - std.log()
    return (normal + 2 * (u + F.softplus(-2 * u))).sum(-1)


def hidden_sizes(config: ActorConfig, agent) -> list[int]:
    """Inputs and hidden layers of actor and critic."""
    seen = visible(config.sees, agent.memory.feature_sizes)
    return [seen.stop - seen.start] + config.layers * [config.units]


def actor_sizes(config: ActorConfig, agent) -> list[int]:
    return [*hidden_sizes(config, agent), 2 * agent.task.action_size]


def critic_sizes(config: ActorConfig, agent) -> list[int]:
    return [*hidden_sizes(config, agent), CRITICS[config.critic].outputs]


def symlog(x: Tensor) -> Tensor:
    return x.sign() * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    return x.sign() * torch.expm1(x.abs())


class Value:
    """The value itself, and half its squared error (Dreamer V1)."""

    outputs = 1

    @staticmethod
    def value(outputs: Tensor) -> Tensor:
        """[..., outputs] -> [...]."""
        return outputs[..., 0]

    @staticmethod
    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        """Of outputs [..., outputs] for returns [...], [...]."""
        return 0.5 * (outputs[..., 0] - target).square()


class Symlog:
    """symlog(x) = sign(x) log(1 + |x|) of the value, within ±LARGEST."""

    outputs = 1

    @staticmethod
    def value(outputs: Tensor) -> Tensor:
        return symexp(outputs[..., 0].clamp(-LARGEST, LARGEST))

    @staticmethod
    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (outputs[..., 0] - symlog(target)).square()


class TwoHot:
    """Probabilities of values symexp(-LARGEST..LARGEST); a return lies between two of them, which share it (Dreamer
    V3)."""

    outputs = BINS
    bins = symexp(torch.linspace(-LARGEST, LARGEST, BINS))

    @classmethod
    def value(cls, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1) @ cls.bins.to(outputs)

    @classmethod
    def loss(cls, outputs: Tensor, target: Tensor) -> Tensor:
        bins = cls.bins.to(outputs)
        above = torch.searchsorted(bins, target.contiguous()).clamp(1, BINS - 1)
        low, high = bins[above - 1], bins[above]
        share = ((target - low) / (high - low)).clamp(0, 1)
        log_p = outputs.log_softmax(-1)
        at = lambda index: log_p.gather(-1, index[..., None])[..., 0]
        return -(share * at(above) + (1 - share) * at(above - 1))


CRITICS: dict[str, Any] = {"value": Value, "symlog": Symlog, "two_hot": TwoHot}
