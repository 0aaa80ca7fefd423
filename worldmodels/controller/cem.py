"""C: a planner. The cross-entropy method over sequences of actions in M's imagination (PlaNet, Hafner et al. 2019).

At every step, for each rollout:

    mean, std of H actions: what the last plan has left (`warm_start`), or the middle of the task's box and half of it
    I times:  N sequences of N(mean, std^2), within the box; the K that earn most give the next mean and std
    act:      the mean's first action

    a sequence earns  mean over P dreams of  sum_t gamma^t alive_t (r_t - lambda u_t)
                      alive_t = prod_{k < t} (1 - P(done_k))

With a guide, an actor and its critic (`guided`), a sequence is what is added to what the actor does in the dream, to do
nothing else is one of them, and it also earns gamma^H alive_H v(f_H). (In TD-MPC2, Hansen et al. 2024, the actor's own
sequences are among the candidates, with nothing that answers to what comes.)

Deliberate differences: a reward counts as far as the rollout is alive to get it; PlaNet's planner ignores ends, and so
would plan nothing in TakeCover. The first std is half the box, which PlaNet's is too where actions are in -1..1. All
sequences of a step have the same chance (common random numbers), so that they differ by what they do. It is drawn by
the rollout's own seed: no plan depends on those beside it.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldmodels.commandline import Count, Number, Share, Temperature, Weight
from worldmodels.controller.actor import ActorConfig, ActorPolicy
from worldmodels.controller.policy import ControllerConfig
from worldmodels.memory.noise import PLAN
from worldmodels.memory.unroll import advance
from worldmodels.types import Dreamer, Seeds, State, UserError

LARGEST = 10**7         # steps that a decision may imagine, for each rollout (PlaNet: 120,000)


@dataclass(frozen=True)
class CEMConfig(ControllerConfig):
    kind: str = "cem"                   # which of CONTROLLERS
    horizon: Count = 10                 # H, steps that are imagined (PlaNet: 12)
    iterations: Count = 2               # I (PlaNet: 10)
    candidates: Count = 8               # N, sequences in each iteration (PlaNet: 1000)
    elites: Count = 2                   # K, those that the next are drawn around (PlaNet: 100)
    dreams: Count = 2                   # P, of each sequence (PlaNet: 1)
    hold: Count = 3                     # steps of a sequence that share their noise (iCEM's is correlated too)
    warm_start: bool = True             # a plan goes on from the last one, a step later (PlaNet: no)
    noise: Weight = 0.0                 # std of noise on actions, in halves of the box (PlaNet, collecting: 0.3)
    temperature: Temperature = 1.0      # of the imagination
    discount: Share = 1.0               # of a reward, a step (PlaNet: 1); of a guide: what its critic learnt with
    uncertainty_weight: Number = 0.0    # lambda, what a unit of uncertainty costs; below zero it earns
    # changes of an actor's actions are planned, and its critic says what the end is worth
    guided: bool = False
    guided_std: Share = 0.2             # of what is added to its actions at first, in halves of the box
    actor: ActorConfig = field(default_factory=ActorConfig)     # the guide's settings

    @property
    def guide(self) -> ActorConfig | None:
        """The actor whose parameters the controller has, if it has one."""
        return self.actor if self.guided else None


class CEMPolicy:
    """Has no parameters: M is all that it knows of the game."""

    Config = CEMConfig

    def __init__(self, config: CEMConfig, agent, arrays: dict[str, np.ndarray]):
        steps = config.horizon * config.iterations * config.candidates * config.dreams
        if steps > LARGEST:
            raise UserError(f"a planner that imagines {steps:,} steps for a decision: {LARGEST:,} are the most, lower "
                            "its candidates")
        self.config, self.agent = config, agent
        like = next(agent.memory.parameters())
        low, high = (torch.as_tensor(bound, dtype=like.dtype, device=like.device)
                     for bound in (agent.task.action_space.low, agent.task.action_space.high))
        self.low, self.high, self.half = low, high, (high - low) / 2
        self.guide = ActorPolicy(config.guide, agent, arrays) if config.guide else None
        # of what is tried first: actions over all the box, or small changes of the guide's
        self.centre = torch.zeros_like(low) if self.guide else (low + high) / 2
        self.std = (config.guided_std if self.guide else 1.0) * self.half
        self.dreamers = {}              # by the width of their batch

    @staticmethod
    def size(config: CEMConfig, agent) -> int:
        return ActorPolicy.size(config.guide, agent) if config.guide else 0

    def reset(self, seeds: Seeds):
        self.rngs = []
        self.plan = self.centre.new_zeros(0, self.config.horizon, len(self.centre))             # [B, H, A]
        if self.guide:
            self.guide.reset(())
        self.select_and_reset(torch.zeros(0, dtype=torch.int64), seeds)

    def select_and_reset(self, index: Tensor, seeds: Seeds):
        self.rngs = [self.rngs[i] for i in index.tolist()] + [np.random.default_rng([seed, PLAN]) for seed in seeds]
        self.plan = torch.cat([self.plan[index], self.centre.expand(len(seeds), self.config.horizon, -1)])
        if self.guide:
            self.guide.select_and_reset(index, seeds)

    @torch.no_grad()
    def __call__(self, state: State) -> Tensor:
        config, B, (H, A) = self.config, len(self.rngs), self.plan.shape[1:]
        uniform, normal = self.agent.memory.imagine_noise.total()
        chance = torch.cat([self._drawn("random", H, uniform, config.dreams),
                            self._drawn("standard_normal", H, normal, config.dreams)], 2)       # [B, H, U + N, P]
        mean = self.plan if config.warm_start else self.centre.expand_as(self.plan)
        std, unchanged = self.std.expand_as(mean), mean.new_zeros(B, 1 if self.guide else 0, H, A)
        blocks = self._drawn("standard_normal", config.iterations, config.candidates, -(-H // config.hold), A)
        for deviation in blocks.repeat_interleave(config.hold, 3)[:, :, :, :H].unbind(1):
            tried = torch.cat([mean[:, None] + std[:, None] * deviation, unchanged], 1)         # [B, N, H, A]
            if not self.guide:
                tried = self._within_box(tried)
            best = self._earned(state, tried, chance).topk(min(config.elites, tried.shape[1]), 1).indices
            elites = tried[torch.arange(B, device=best.device)[:, None], best]                  # [B, K, H, A]
            mean, std = elites.mean(1), elites.std(1, unbiased=False)
        self.plan = torch.cat([mean[:, 1:], self.centre.expand(B, 1, A)], 1)
        action = mean[:, 0]
        if self.guide:
            action = self._within_box(self.guide(state) + action)
        if config.noise:
            action = self._within_box(action + config.noise * self.half * self._drawn("standard_normal", A))
        return action

    def _earned(self, state: State, tried: Tensor, chance: Tensor) -> Tensor:
        """What sequences [B, N, H, A] earn, [B, N]: of actions or, with a guide, of what is added to its own; `chance`
        [B, H, U + N, P] is that of each rollout's P dreams."""
        config, memory, (B, N), P = self.config, self.agent.memory, tried.shape[:2], chance.shape[-1]
        dreamer = self._dreamer(B * N * P)
        dreamer.load(state.select(torch.arange(B, device=tried.device).repeat_interleave(N * P)))
        rows = lambda t: t[..., None].expand(*t.shape, P).flatten(1)        # [A, B, N] -> [A, B N P]
        steps = map(rows, tried.permute(2, 3, 0, 1))
        act = lambda features: next(steps)
        if self.guide:
            act = lambda features: self._within_box((self.guide.act(features) + next(steps)).t()).t()
        numbers = chance.permute(1, 2, 0, 3)[:, :, :, None].expand(-1, -1, -1, N, -1).flatten(2)    # [H, U + N, B N P]
        noise = (memory.imagine_noise.split(step, 0) for step in numbers)
        weight, earned = 1.0, 0.0
        for _, reward, p_done, uncertainty in advance(dreamer, act, noise):
            earned = earned + weight * (reward - config.uncertainty_weight * uncertainty)
            weight = config.discount * weight * (1 - p_done)
        if self.guide:
            earned = earned + weight * self.guide.value(dreamer.features())
        return earned.view(B, N, P).mean(2)

    def _dreamer(self, width: int) -> Dreamer:
        """For batches of this width; those of the last two widths are kept."""
        if width not in self.dreamers:
            kept = list(self.dreamers.items())[-1:]
            self.dreamers = dict(kept) | {width: self.agent.memory.dreamer(width, self.config.temperature)}
        return self.dreamers[width]

    def _within_box(self, action: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(action, self.low), self.high)

    def _drawn(self, kind: str, *shape: int) -> Tensor:
        """Random numbers of each rollout's own, [B, *shape]."""
        drawn = [getattr(rng, kind)(shape, np.float32) for rng in self.rngs]
        return torch.from_numpy(np.stack(drawn)).to(self.centre)
