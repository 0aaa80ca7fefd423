"""CMA-ES finds C (Hansen 2016; Ha & Schmidhuber 2018, app. A.4).

Deliberate difference: all members of a generation live through the same episodes (in the released code 32 pairs of members
each have their own), so that they are compared on equal terms. The released code's weight decay, negligible and of the
wrong sign, is left out.
"""

import warnings
from dataclasses import dataclass
from typing import Callable, Literal

import numpy as np
import torch
from tqdm import tqdm

from worldmodels.runs import Run
from worldmodels.types import Fitness, UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")         # cma mentions optional plotting libraries when imported
    import cma


@dataclass(frozen=True)
class ControllerConfig:
    generations: int = 1800
    population: int = 64
    episodes: int = 16              # of each member in each generation
    start: Literal["zero", "dreamt", "improved"] = "zero"   # of the search: zero, or where the round before ended | what least squares
                                    # makes of dreams: dreamt | of these and the recorded episodes: improved (worlds/improve.py)
    sigma: float = 0.1              # initial step size
    bias: bool = True               # the linear layer has one (paper: CarRacing yes, TakeCover no)
    eval_every: int = 25            # generations between scores of the CMA mean
    eval_episodes: int = 1024       # fresh ones, for each such score


LAZINESS = 10           # times as many generations between eigendecompositions as pycma would have


class CMAES:
    """ask / tell around pycma, maximising, resumable to the bit.

    pycma decomposes the covariance every 1 / (10 n (c1 + cmu)) generations (Hansen 2016, sec. B.2), which at 867 parameters takes
    two thirds of all its time; the covariance hardly changes meanwhile, and LAZINESS times as seldom finds the same.

    Its state is what it was told: `history`, the fitness of each generation so far. Given that, `ask` and `tell` are repeated
    from the start (20 ms a generation at 867 parameters), which restores mean, covariance, paths and random state exactly
    and depends on none of the library's internals.
    """

    def __init__(self, start: np.ndarray, population: int, sigma: float, seed: int, history: np.ndarray | None = None):
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
            tqdm.write(f"generation {len(self.history) + 1}: fitness of members {np.flatnonzero(~finite).tolist()} is not "
                       "finite and counts as the worst")
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


def generation_seeds(seed: int, generation: int, episodes: int, evaluation: bool = False) -> list[int]:
    """Fresh seeds of a generation's episodes, or of the scores of its mean; below 2^31, as every game takes them."""
    return np.random.default_rng([seed, generation, evaluation]).integers(2**31, size=episodes).tolist()


def scored_means(tensors: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """The means [N, n] that were scored on the way to a checkpoint, and their generations [N]; of one that does not have them, the
    start."""
    known = {"means": tensors["start"][None], "generations": torch.zeros(1, dtype=torch.int64)} | tensors
    return known["means"].numpy(), known["generations"].numpy()


def evolve(config: ControllerConfig, start: Callable[[], np.ndarray], fitness: Fitness, run: Run, info: dict,
           seed: int) -> np.ndarray:
    """Evolves a controller from the parameters start() [n] on; stores the best CMA mean as the checkpoint "controller" and returns it.

    At the start, every `eval_every` generations and at the end, the mean is scored on fresh episodes and kept where it is the best
    so far. The checkpoint also has the start, and all means that were scored, [N, n], with their generations [N].
    """
    def score(mean: np.ndarray, generation: int) -> float:
        return float(fitness(mean[None], generation_seeds(seed, generation, config.eval_episodes, evaluation=True)).mean())

    def keep(generation: int):
        history = np.array(search.history).reshape(-1, config.population)
        state = {"start": start, "best": best, "history": history, "best_score": np.float64(best_score),
                 "means": means, "generations": generations}
        run.save_progress("controller", {name: torch.tensor(value) for name, value in state.items()}, info | {"step": generation})

    progress = run.load_progress("controller", info)
    if progress:
        state, begun = progress
        start, history, best, best_score = (state[name].numpy() for name in ("start", "history", "best", "best_score"))
        means, generations = scored_means(state)
    else:
        start, history, begun = start(), None, 0
        best, best_score = start, score(start, 0)
        means, generations = start[None], np.array([0])
    search = CMAES(start, config.population, config.sigma, seed, history)
    keep(begun)
    with run.metrics("controller", begun) as log, \
            tqdm(total=config.generations, initial=begun, desc="evolving controller", unit="gen") as bar:
        for generation in range(begun + 1, config.generations + 1):
            returns = fitness(search.ask(), generation_seeds(seed, generation, config.episodes))     # [P, E]
            scores = returns.mean(1)
            search.tell(scores)
            values = {"mean": scores.mean(), "best": scores.max(), "worst": scores.min(), "sigma": search.sigma}
            if generation % config.eval_every == 0 or generation == config.generations:
                values["mean_controller"] = score(search.mean, generation)
                means, generations = np.concatenate([means, search.mean[None]]), np.append(generations, generation)
                if values["mean_controller"] > best_score:
                    best, best_score = search.mean, values["mean_controller"]
            values = {key: float(value) for key, value in values.items()}
            log.write(generation, values)
            bar.update()
            bar.set_postfix(mean=f"{values['mean']:.1f}", best=f"{values['best']:.1f}", kept=f"{best_score:.1f}")
            keep(generation)
    found = {"parameters": best, "start": start, "means": means, "generations": generations}
    run.save("controller", {name: torch.from_numpy(value) for name, value in found.items()}, info)
    run.progress_path("controller").unlink(missing_ok=True)
    return best
