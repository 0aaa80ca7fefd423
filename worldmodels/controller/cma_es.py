"""CMA-ES finds C (Hansen 2016; Ha & Schmidhuber 2018, app. A.4).

Deliberate differences: unless `same_episodes` says otherwise, all members of a generation live through the same
episodes, so that they are compared on equal terms. The mean is scored on fresh episodes each time (released code: on
the same 1,024). The released code's weight decay, negligible and of the wrong sign, is left out.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from worldmodels.commandline import Count, Positive, Range
from worldmodels.controller.learner import LearnerConfig, Practice
from worldmodels.controller.least_squares import LeastSquares, LeastSquaresConfig
from worldmodels.controller.policy import ControllerConfig, ParameterConfig, PolicySpec
from worldmodels.runs import EPISODES_PER_STAGE, Run, episode_seeds, seed_of
from worldmodels.types import Fitness, UserError

Episodes = Annotated[int, Range(1, EPISODES_PER_STAGE)]


@dataclass(frozen=True)
class EvolutionConfig(LearnerConfig):
    kind: str = "cma_es"                # which of LEARNERS
    generations: Count = 1800           # of the search
    population: Annotated[int, Range(4, 100_000)] = 64  # members of a generation
    episodes: Episodes = 16             # of each member in each generation
    # the members that live through the same episodes: all of a generation, or each i and i + half the population
    # (released code)
    same_episodes: Literal["all", "pairs"] = "all"
    # where the search begins: at the controller of the round before or zero, at least squares fitted on dreams, or on
    # dreams and episodes
    start: Literal["previous_or_zero", "least_squares_dream", "least_squares"] = "previous_or_zero"
    sigma: Positive = 0.1               # initial step size
    eval_every: Count = 25              # generations between scores of the CMA mean
    eval_episodes: Episodes = 1024      # fresh ones, for each such score


SEARCH = ("start", "means", "generations")      # what a checkpoint has beside the controller


LAZINESS = 10           # times as many generations between eigendecompositions as pycma would have


class CMAES:
    """ask / tell around pycma, maximising, resumable to the bit.

    pycma decomposes the covariance every 1 / (10 n (c1 + cmu)) generations (Hansen 2016, sec. B.2), which at 867
    parameters takes two thirds of all its time; the covariance hardly changes meanwhile, and LAZINESS times as seldom
    finds the same.

    Its state is what it was told: `history`, the fitness of each generation so far. Given that, `ask` and `tell` are
    repeated from the start (20 ms a generation at 867 parameters), which restores mean, covariance, paths and random
    state exactly and depends on none of the library's internals.
    """

    def __init__(self, start: np.ndarray, population: int, sigma: float, seed: int, history: np.ndarray | None = None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # it mentions optional plotting libraries when imported
            import cma  # here: it brings scipy.stats and pyplot, which workers would start with
        rng = np.random.default_rng(seed)
        options = {"popsize": population, "verbose": -9, "seed": np.nan, "maxiter": np.inf, "tolfun": 0, "tolx": 0,
                   "tolfunhist": 0, "tolstagnation": np.inf, "tolflatfitness": np.inf,
                   "randn": lambda *shape: rng.standard_normal(shape)}
        self._es = cma.CMAEvolutionStrategy(start, sigma, options)
        self._es.sm.lazy_update_gap *= LAZINESS
        self.history: list[np.ndarray] = []
        for fitness in () if history is None else tqdm(history, desc="restoring CMA-ES", unit="gen", leave=False):
            self.ask()
            self.tell(fitness)

    def ask(self) -> np.ndarray:
        """The next generation, [P, n]."""
        self._asked = self._es.ask()
        return np.array(self._asked)

    def tell(self, fitness: np.ndarray):
        """The fitness [P] of the generation last asked for; more is better. Raises UserError when none is finite."""
        fitness = np.asarray(fitness, np.float64)
        finite = np.isfinite(fitness)
        if not finite.any():
            raise UserError(f"generation {len(self.history) + 1}: no member has a finite fitness; is M trained well?")
        if not finite.all():
            tqdm.write(f"generation {len(self.history) + 1}: fitness of members {np.flatnonzero(~finite).tolist()} "
                       "is not finite and counts as the worst")
            fitness = np.where(finite, fitness, fitness[finite].min())
        self._es.tell(self._asked, -fitness)
        self.history.append(fitness)

    @property
    def mean(self) -> np.ndarray:
        """The centre of the search distribution, [n]."""
        return np.array(self._es.mean)

    @property
    def sigma(self) -> float:
        return float(self._es.sigma)


def generation_seeds(seed: int, round: int, generation: int, episodes: int, evaluation: bool = False,
                     training: int = 0) -> list[int]:
    """Fresh seeds of a generation's episodes, or of the scores of its mean, among those of the round's search."""
    block = episode_seeds(seed, round, "search")
    rng = np.random.default_rng(seed_of(seed, round, "search", generation, evaluation, training))
    return (block.start + rng.choice(len(block), size=episodes, replace=False)).tolist()


GROUPS = {                  # population -> how many groups of members there are that have the same episodes
    "all": lambda population: 1,
    "pairs": lambda population: -(-population // 2),
}


def scored_means(tensors: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The means [N, n] that were scored on the way to a checkpoint, and their generations [N]; of one that does not
    have them, the start, or what was found without a search."""
    start = tensors["start" if "start" in tensors else "parameters"]
    known = {"means": start[None], "generations": torch.zeros(1, dtype=torch.int64)} | tensors
    return known["means"].numpy(), known["generations"].numpy()


class Evolution:
    """The learner: CMA-ES over the parameters of any controller that is made of a vector."""

    Config = EvolutionConfig

    def __init__(self, config: EvolutionConfig):
        self.config = config

    def learn(self, agent, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> PolicySpec:
        if not isinstance(config, ParameterConfig):
            raise UserError(f"--controller.kind {config.kind} has no parameters to evolve: take another --learner.kind")
        spec = lambda parameters: PolicySpec(config, {"parameters": parameters})
        start = lambda: STARTS[self.config.start](agent, practice, config, run, info)
        fitness = lambda parameters, seeds: practice.fitness(spec(parameters), seeds)
        best = evolve(self.config, start, fitness, run, info, practice.seed, practice.training)
        run.progress_path("start").unlink(missing_ok=True)
        return spec(best[None])


def previous_or_zero(agent, practice: Practice, config: ControllerConfig, run: Run, info: dict) -> np.ndarray:
    """The parameters [n] of the round before, or zeros."""
    if practice.previous is None:
        return np.zeros(agent.parameter_count(config))
    if practice.previous.config != config:
        raise UserError(f"the controller of round {run.round - 1} is {practice.previous.config}: go on with its "
                        "--controller settings")
    return practice.previous.arrays["parameters"][0]


STARTS: dict[str, Any] = {"previous_or_zero": previous_or_zero, "least_squares": LeastSquares(LeastSquaresConfig()).fit,
          "least_squares_dream": LeastSquares(LeastSquaresConfig(fit_episodes=False)).fit}


def check_sizes(state: dict[str, torch.Tensor], generation: int, population: int, path: Path):
    """A UserError where these are not the tensors of a search that was interrupted after this generation."""
    if "mean" not in state:                             # format 1, whose search drew other random numbers
        raise UserError(f"{path} was written by an older version: delete it to begin anew")
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    one, scored = found.get("start", ()), found.get("generations", (1,))
    wanted = {"start": one[:1], "best": one, "mean": one, "best_score": (), "history": (generation, population)}
    if found != wanted | {"means": scored + one, "generations": scored[:1]}:
        raise UserError(f"{path} is damaged (its arrays are of the sizes {found}): delete it to begin anew")


def evolve(config: EvolutionConfig, start: Callable[[], np.ndarray], fitness: Fitness, run: Run, info: dict,
           seed: int, training: int = 0) -> np.ndarray:
    """Evolves a controller from the parameters start() [n] on; stores the best CMA mean as the checkpoint "controller"
    and returns it.

    At the start, every `eval_every` generations and at the end, the mean is scored on fresh episodes and kept where it
    is the best so far. The checkpoint also has SEARCH: the start, and all means that were scored, [N, n], with their
    generations [N]. Raises StopTraining where a writer of the run asks for it; the same call goes on from there.
    """
    seeds = partial(generation_seeds, seed, run.round, training=training)

    def score(mean: np.ndarray, generation: int) -> float:
        found = float(fitness(mean[None], seeds(generation, config.eval_episodes, evaluation=True)).mean())
        return found if np.isfinite(found) else -np.inf         # never the best

    def keep(generation: int):
        history = np.array(search.history).reshape(-1, config.population)
        state = {"start": start, "best": best, "history": history, "best_score": np.float64(best_score),
                 "means": means, "generations": generations, "mean": search.mean}
        run.save_progress("controller", {name: torch.tensor(value) for name, value in state.items()},
                          info | {"step": generation})

    def members_seeds(generation: int) -> list[int] | np.ndarray:
        """Of the episodes of all members [E], or of each [P, E]."""
        groups = GROUPS[config.same_episodes](config.population)
        drawn = seeds(generation, groups * config.episodes)
        if groups == 1:
            return drawn
        return np.reshape(drawn, (groups, config.episodes))[np.arange(config.population) % groups]

    progress = run.load_progress("controller", info)
    if progress:
        state, begun = progress
        check_sizes(state, begun, config.population, run.progress_path("controller"))
        start, history, best, best_score = (state[name].numpy() for name in ("start", "history", "best", "best_score"))
        means, generations = scored_means(state)
    else:
        start, history, begun = start(), None, 0
        best, best_score = start, score(start, 0)
        means, generations = start[None], np.array([0])
    search = CMAES(start, config.population, config.sigma, seed_of(seed, run.round, "cma", training), history)
    if progress and not np.array_equal(search.mean, state["mean"].numpy()):
        threads = os.environ.get("OMP_NUM_THREADS", "not set")
        raise UserError(f"CMA-ES does not come to the mean that {run.progress_path('controller')} has, as happens with "
                        f"another number of threads (OMP_NUM_THREADS is {threads}): set it as before, or delete the "
                        "file to begin anew")
    keep(begun)
    with run.metrics("controller", begun) as log, \
            tqdm(total=config.generations, initial=begun, desc="evolving controller", unit="gen") as bar:
        for generation in range(begun + 1, config.generations + 1):
            returns = fitness(search.ask(), members_seeds(generation))              # [P, E]
            scores = returns.mean(1)
            search.tell(scores)
            values = {"mean": scores.mean(), "best": scores.max(), "worst": scores.min(), "sigma": search.sigma}
            if generation % config.eval_every == 0 or generation == config.generations:
                values["mean_controller"] = score(search.mean, generation)
                means, generations = np.concatenate([means, search.mean[None]]), np.append(generations, generation)
                if values["mean_controller"] > best_score:
                    best, best_score = search.mean, values["mean_controller"]
            values = {key: float(value) for key, value in values.items()}
            log.on_generation(generation, returns)
            log.write(generation, values)
            bar.update()
            bar.set_postfix(mean=f"{values['mean']:.1f}", best=f"{values['best']:.1f}", best_mean=f"{best_score:.1f}")
            keep(generation)
            log.check_stop()
    found = {"parameters": best, "start": start, "means": means, "generations": generations}
    run.save("controller", {name: torch.from_numpy(value) for name, value in found.items()}, info)
    run.progress_path("controller").unlink(missing_ok=True)
    return best
