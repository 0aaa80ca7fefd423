"""A controller fitted to another one: regression of its actions on recorded episodes.

    parameters = argmin  mean_t | (squash(output(f_t)) - a_t) / half |^2  +  ridge |parameters|^2

f_t is what the student's V and M make of an episode until its step t, and a_t what the teacher does there, by its own V
and M. So a controller outlives the V and M that it was trained with; and what a planner or a network knows becomes a
linear controller, as far as that can say it. By L-BFGS: of a linear layer from zero on, then of the controller, which
begins with that layer if it can have it in it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from worldmodels.commandline import Count, Weight
from worldmodels.controller.learner import LearnerConfig, Practice, Teacher
from worldmodels.controller.policy import ControllerConfig, ParameterConfig, PolicySpec
from worldmodels.latents import Latents
from worldmodels.memory.unroll import EPISODES, followed, observed_steps
from worldmodels.runs import Run, seed_of
from worldmodels.types import UserError

ITERATIONS = 200        # of L-BFGS, at most
STEPS = 40_000          # of the episodes, chosen at random, that are fitted


@dataclass(frozen=True)
class DistillConfig(LearnerConfig):
    kind: str = "distill"               # which of LEARNERS
    teacher: str = ""                   # a run whose last controller it is, by folder or name; none: the round before's
    episodes: Count = 500               # that it is fitted on, those that were collected last
    ridge: Weight = 1e-8                # of the parameters; those of the published controllers are 2 on average


class Distill:
    """The learner."""

    Config = DistillConfig

    def __init__(self, config: DistillConfig):
        self.config = config

    def learn(self, agent, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> PolicySpec:
        if not isinstance(config, ParameterConfig):
            raise UserError(f"--controller.kind {config.kind} is no vector of parameters to fit: take another one")
        spec = self.fitted(agent, practice, config, run)
        run.save("controller", {name: torch.from_numpy(array[0]) for name, array in spec.arrays.items()}, info)
        return spec

    def fitted(self, agent, practice: Practice, config: ParameterConfig, run: Run) -> PolicySpec:
        """The controller, of a round of a run."""
        seed = seed_of(practice.seed, run.round, "distillation", practice.training)
        features, action = self.examples(agent, practice.latents(), practice.teacher(self.config.teacher), seed)
        parameters = self.fit(agent, config, features, action, np.random.default_rng(seed))
        return PolicySpec(config, {"parameters": parameters.numpy()[None]})

    @torch.no_grad()
    def examples(self, agent, latents: Latents, teacher: Teacher, seed: int) -> tuple[Tensor, Tensor]:
        """What the student sees [N, F] and the teacher does [N, A] at steps of the episodes, at most STEPS of them."""
        theirs, found = teacher.latents(), []
        batches = latents.by_length(EPISODES, self.config.episodes)
        for number, batch in enumerate(tqdm(batches, desc="watching the teacher", unit="batch")):
            generator = torch.Generator().manual_seed(seed + number)
            states = observed_steps(agent.memory, [latents.episode(i) for i in batch], generator)
            policy = teacher.agent.policy_of(teacher.spec)
            policy.reset(range(len(batch)))
            generator = torch.Generator().manual_seed(seed + number)        # the same z, where V is the same
            steps = followed(teacher.agent.memory, [theirs.episode(i) for i in batch], generator)
            found.append((states.features, torch.cat([policy(state)[rows] for state, rows in steps])))
        features, action = map(torch.cat, zip(*found))
        chosen = torch.randperm(len(action), generator=torch.Generator().manual_seed(seed))[:STEPS].to(action.device)
        return features[chosen], action[chosen]

    def fit(self, agent, config: ParameterConfig, features: Tensor, action: Tensor,
            rng: np.random.Generator) -> Tensor:
        """The parameters [n] of a controller that does `action` [N, A] where it sees `features` [N, F]."""
        empty = np.zeros((1, agent.parameter_count(config)), np.float32)
        policy = agent.policy_of(PolicySpec(config, {"parameters": empty}))
        seen, (low, high) = features[:, policy.visible], (agent.task.action_space.low, agent.task.action_space.high)
        half = torch.from_numpy((high - low) / 2).to(features)
        inputs = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)

        def output(parameters: Tensor) -> Tensor:
            policy.prepare(parameters[None])
            return policy.output(seen)

        def minimised(start: Tensor, output: Callable[[Tensor], Tensor]) -> Tensor:
            parameters = start.clone().requires_grad_()
            optimizer = torch.optim.LBFGS([parameters], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

            def loss() -> Tensor:
                optimizer.zero_grad()
                error = (policy.squash(output(parameters)) - action) / half
                value = error.square().sum(1).mean() + self.config.ridge * parameters.square().sum()
                value.backward()
                return value

            optimizer.step(loss)
            return parameters.detach()

        linear = minimised(seen.new_zeros(inputs.shape[1], action.shape[1]), lambda layer: inputs @ layer)
        return minimised(policy.start(config, agent, linear, rng), output).cpu()
