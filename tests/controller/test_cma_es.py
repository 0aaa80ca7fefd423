"""CMA-ES finds known optima, and a resumed search is the uninterrupted one, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.writers import Recorder, rows_of, steps_of
from worldmodels.controller import CMAES, EvolutionConfig, LinearConfig, PolicySpec, Practice, cma_es
from worldmodels.controller.cma_es import Evolution, evolve, generation_seeds, previous_or_zero, scored_means
from worldmodels.controller.mlp import MLPConfig
from worldmodels.files import load_arrays, save_arrays
from worldmodels.metrics import read_metrics
from worldmodels.runs import Run, episode_seeds
from worldmodels.types import StopTraining, UserError

OPTIMUM = np.array([0.5, -0.3, 0.2, 0.0, 1.0])


def sphere(x):
    return 7 - ((x - OPTIMUM) ** 2).sum(-1)


def ellipsoid(x):
    """Ill-conditioned: axes from 1 to 1,000, rotated."""
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    return 7 - (((x - OPTIMUM) @ rotation) ** 2 * np.logspace(0, 6, 5)).sum(-1)


@pytest.mark.parametrize("function, generations", ((sphere, 60), (ellipsoid, 250)))
def test_it_maximises_a_known_function(function, generations):
    search = CMAES(np.zeros(5), 16, 0.1, seed=0)
    for _ in range(generations):
        search.tell(function(search.ask()))
    np.testing.assert_allclose(search.mean, OPTIMUM, atol=1e-3)
    assert search.sigma < 0.05


def test_seldom_decompositions_find_the_same(monkeypatch):
    """Forty ill-conditioned, rotated dimensions: as near to the optimum after as many generations."""
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 40)))[0]
    distance, decompositions = {}, {}
    for laziness in (1, cma_es.LAZINESS):
        monkeypatch.setattr(cma_es, "LAZINESS", laziness)
        ends = []
        for seed in range(3):
            search = CMAES(np.zeros(40), 16, 0.1, seed=seed)
            for _ in range(500):
                search.tell(-(((search.ask() - 0.5) @ rotation) ** 2 * np.logspace(0, 2, 40)).sum(-1))
            ends.append(np.log10(np.linalg.norm(search.mean - 0.5)))
            decompositions[laziness] = search._es.sm.count_eigen
        distance[laziness] = np.array(ends)
    seldom, often = distance[cma_es.LAZINESS], distance[1]
    assert decompositions[cma_es.LAZINESS] < decompositions[1] / 4
    assert often.mean() < -1 and seldom.mean() < often.mean() + 2 * often.std()


def test_it_starts_at_zero_with_the_given_step_size():
    search = CMAES(np.zeros(200), 64, 0.1, seed=0)
    assert not search.mean.any() and search.sigma == 0.1
    population = search.ask()
    assert population.shape == (64, 200)
    assert population.std() == pytest.approx(0.1, rel=0.05) and population.mean() == pytest.approx(0, abs=0.005)


def test_a_search_restored_from_its_history_asks_bit_equal_populations():
    search = CMAES(np.zeros(5), 8, 0.1, seed=4)
    for _ in range(12):
        search.tell(ellipsoid(search.ask()))
    restored = CMAES(np.zeros(5), 8, 0.1, seed=4, history=np.stack(search.history))
    for _ in range(5):
        assert np.array_equal(search.mean, restored.mean) and search.sigma == restored.sigma
        a, b = search.ask(), restored.ask()
        assert np.array_equal(a, b)
        search.tell(sphere(a))
        restored.tell(sphere(b))
    assert not np.array_equal(CMAES(np.zeros(5), 8, 0.1, seed=5).ask(), CMAES(np.zeros(5), 8, 0.1, seed=4).ask())


def test_the_search_leaves_numpys_global_randomness_alone():
    np.random.seed(0)
    expected = np.random.random(3)
    np.random.seed(0)
    search = CMAES(np.zeros(5), 8, 0.1, seed=4)
    first = search.ask()
    assert np.array_equal(np.random.random(3), expected)
    np.random.seed(1)
    assert np.array_equal(CMAES(np.zeros(5), 8, 0.1, seed=4).ask(), first)


@pytest.mark.parametrize("bad", (np.nan, -np.inf, np.inf))
def test_a_fitness_that_is_not_finite_counts_as_the_worst(bad):
    broken, told = CMAES(np.zeros(5), 8, 0.1, seed=4), CMAES(np.zeros(5), 8, 0.1, seed=4)
    fitness = sphere(broken.ask())
    told.ask()
    with_bad, with_worst = fitness.copy(), fitness.copy()
    best = fitness.argmax()
    with_bad[best] = bad
    with_worst[best] = np.delete(fitness, best).min()
    broken.tell(with_bad)
    told.tell(with_worst)
    assert np.array_equal(broken.mean, told.mean) and np.array_equal(broken.ask(), told.ask())


def test_a_generation_without_any_finite_fitness_is_a_user_error():
    search = CMAES(np.zeros(5), 8, 0.1, seed=4)
    search.ask()
    with pytest.raises(UserError, match="generation 1"):
        search.tell(np.full(8, np.nan))


def test_a_flat_fitness_does_not_end_the_search():
    search = CMAES(np.zeros(5), 8, 0.1, seed=4)
    for _ in range(40):
        search.tell(np.full(len(search.ask()), 3.0))
    assert np.isfinite(search.ask()).all()


def test_every_generation_has_seeds_of_its_own():
    """Drawn among those of the run's round, so that one in some hundreds comes twice."""
    drawn = lambda seed, round: [number for generation in range(1, 50) for evaluation in (False, True)
                                 for number in generation_seeds(seed, round, generation, 16, evaluation)]
    seeds = drawn(0, 1)
    assert len(set(seeds)) > 0.99 * len(seeds) and set(seeds) <= set(episode_seeds(0, 1, "search"))
    assert seeds == drawn(0, 1)
    for seed, round in ((1, 1), (0, 2), (9, 5)):
        assert set(drawn(seed, round)).isdisjoint(seeds)
    assert generation_seeds(0, 1, 3, 16, training=1) != generation_seeds(0, 1, 3, 16)


CONFIG = EvolutionConfig(generations=11, population=8, episodes=3, sigma=0.3, eval_every=4, eval_episodes=5)


def noisy(parameters, seeds):
    """Returns [P, E]: the sphere, with noise of the episode's seed."""
    noise = np.array([np.random.default_rng(seed).normal() for seed in seeds])
    return sphere(parameters)[:, None] + 0.1 * noise


def test_evolve_stores_the_best_mean_that_it_scored(run):
    means = []

    def fitness(parameters, seeds):
        if len(parameters) == 1:
            assert len(seeds) == 5
            means.append((noisy(parameters, seeds).mean(), parameters[0]))
        else:
            assert parameters.shape == (8, 5) and len(seeds) == 3
        return noisy(parameters, seeds)

    best = evolve(CONFIG, lambda: np.zeros(5), fitness, run, {"seed": 0}, 0)
    assert len(means) == 4                                      # the start, generations 4, 8 and the last
    assert np.array_equal(best, max(means, key=lambda m: m[0])[1])
    assert sphere(best) > sphere(np.zeros(5))
    tensors, _ = run.load("controller", "train_controller")
    assert torch.equal(tensors["parameters"], torch.from_numpy(best))
    assert tensors["generations"].tolist() == [0, 4, 8, 11]
    assert np.array_equal(tensors["means"].numpy(), [mean for _, mean in means])
    rows = read_metrics(run.folder, "controller")
    assert [row["step"] for row in rows] == list(range(1, 12))
    assert [row["step"] for row in rows if "mean_controller" in row] == [4, 8, 11]
    assert not run.progress_path("controller").exists()


def test_pairs_of_members_can_have_episodes_of_their_own(run):
    """Members i and i + half the population the same, as in the released code."""
    asked = []

    def fitness(parameters, seeds):
        if len(parameters) == 1:
            return noisy(parameters, seeds)
        asked.append(seeds)
        return np.concatenate([noisy(row[None], own) for row, own in zip(parameters, seeds)])

    evolve(replace(CONFIG, same_episodes="pairs"), lambda: np.zeros(5), fitness, run, {"seed": 0}, 0)
    assert len(asked) == 11
    for seeds in asked:
        assert seeds.shape == (8, 3) and np.array_equal(seeds[:4], seeds[4:]) and len(np.unique(seeds)) == 12
    assert len(np.unique(asked)) > 11 * 11


def test_a_mean_that_gets_worse_is_not_kept(run):
    scores = iter((2.0, 3.0, 9.0, 1.0))
    means = []

    def fitness(parameters, seeds):
        if len(parameters) > 1:
            return noisy(parameters, seeds)
        means.append(parameters[0])
        return np.full((1, len(seeds)), next(scores))

    assert np.array_equal(evolve(CONFIG, lambda: np.zeros(5), fitness, run, {}, 0), means[2])


def test_a_start_that_the_search_only_makes_worse_is_kept(run):
    scores = iter((3.0, 2.0, 1.0, 0.0))

    def fitness(parameters, seeds):
        return noisy(parameters, seeds) if len(parameters) > 1 else np.full((1, len(seeds)), next(scores))

    assert np.array_equal(evolve(CONFIG, OPTIMUM.copy, fitness, run, {}, 0), OPTIMUM)


@pytest.mark.parametrize("calls", (1, 2, 6, 7, 10))
def test_an_interrupted_evolution_goes_on_bit_for_bit(run, tmp_path, calls):
    """Interrupted while scoring a generation or a mean, it asks for the same and ends at the same."""
    whole, parts = [], []

    def recorded(record, limit=None):
        def fitness(parameters, seeds):
            if limit is not None and len(record) == limit:
                raise KeyboardInterrupt
            record.append((parameters.tobytes(), tuple(seeds)))
            return noisy(parameters, seeds)
        return fitness

    expected = evolve(CONFIG, lambda: np.zeros(5), recorded(whole), Run(tmp_path / "whole"), {"seed": 0}, 0)
    with pytest.raises(KeyboardInterrupt):
        evolve(CONFIG, lambda: np.zeros(5), recorded(parts, calls), run, {"seed": 0}, 0)
    resumed = []
    best = evolve(CONFIG, lambda: np.zeros(5), recorded(resumed), run, {"seed": 0}, 0)
    assert np.array_equal(best, expected)
    assert resumed == whole[-len(resumed):] and len(resumed) < len(whole)
    assert read_metrics(run.folder) == read_metrics(tmp_path / "whole")
    stored, expected = (r.load("controller", "train_controller")[0] for r in (run, Run(tmp_path / "whole")))
    assert stored.keys() == expected.keys() and all(torch.equal(stored[name], expected[name]) for name in stored)


@pytest.mark.parametrize("asked", (("on_generation", 1), ("write", 4), ("on_generation", 7), ("write", 11)), ids=str)
def test_a_stopped_evolution_is_resumed_to_the_same_and_every_generation_is_told_once(run, tmp_path, asked):
    """With the returns of its members in its episodes."""
    whole, recorder, rest = Recorder(), Recorder([asked]), Recorder()
    search = lambda run: evolve(CONFIG, lambda: np.zeros(5), noisy, run, {"seed": 0}, 0)
    expected = search(Run(tmp_path / "whole", writers=(whole,)))
    with pytest.raises(StopTraining, match=f"enough at {asked[1]}"):
        search(Run(run.root, writers=(recorder,)))
    assert run.load_progress("controller", {"seed": 0})[1] == asked[1] and not run.path("controller").exists()
    assert np.array_equal(search(Run(run.root, writers=(rest,))), expected)
    assert steps_of(recorder, "on_generation") + steps_of(rest, "on_generation") == list(range(1, 12))
    assert rows_of(recorder, "controller") + rows_of(rest, "controller") == read_metrics(run.folder)
    assert read_metrics(run.folder) == read_metrics(tmp_path / "whole")
    told = [values for r in (recorder, rest) for method, *_, values in r.events if method == "on_generation"]
    wanted = [values for method, *_, values in whole.events if method == "on_generation"]
    assert np.array_equal(told, wanted) and np.shape(told) == (11, 8, 3)
    assert [returns.mean(1).max() for returns in told] == [row["best"] for row in read_metrics(run.folder)]


def interrupted(run, info):
    """An evolution that ends as its first mean is to be scored."""
    def fitness(parameters, seeds):
        if len(parameters) == 1 and parameters.any():           # not the start, which is zero
            raise KeyboardInterrupt
        return noisy(parameters, seeds)

    with pytest.raises(KeyboardInterrupt):
        evolve(CONFIG, lambda: np.zeros(5), fitness, run, info, 0)


def test_an_evolution_under_other_settings_is_refused(run):
    interrupted(run, {"seed": 0})
    with pytest.raises(UserError, match=r"seed=0 \(now 1\)"):
        evolve(CONFIG, lambda: np.zeros(5), noisy, run, {"seed": 1}, 1)


def test_a_checkpoint_without_means_has_its_start(run):
    means, generations = scored_means({"start": torch.ones(5), "parameters": torch.zeros(5)})
    assert np.array_equal(means, np.ones((1, 5))) and generations.tolist() == [0]


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_a_start_without_a_finite_score_gives_way_to_the_best_mean(run, bad):
    """A score that is not a number is never the best: nothing could be better than it."""
    def fitness(parameters, seeds):
        returns = noisy(parameters, seeds)
        returns[~parameters.any(1)] = bad                       # of the start, which is zero
        return returns

    best = evolve(CONFIG, lambda: np.zeros(5), fitness, run, {}, 0)
    assert np.isfinite(best).all() and sphere(best) > sphere(np.zeros(5))
    stored = run.load("controller", "train_controller")[0]
    assert np.array_equal(stored["parameters"].numpy(), best) and not stored["start"].any()


def test_a_start_without_a_finite_score_gives_way_after_an_interruption_too(run):
    fitness = lambda parameters, seeds: np.where(parameters.any(1, keepdims=True), noisy(parameters, seeds), np.nan)
    calls = iter(range(4))

    def stopping(parameters, seeds):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return fitness(parameters, seeds)

    with pytest.raises(KeyboardInterrupt):
        evolve(CONFIG, lambda: np.zeros(5), stopping, run, {}, 0)
    best = evolve(CONFIG, lambda: np.zeros(5), fitness, run, {}, 0)
    assert np.isfinite(best).all() and sphere(best) > sphere(np.zeros(5))


def test_a_search_that_does_not_come_to_the_mean_it_had_is_refused(run):
    """As where another number of threads rounds otherwise; what it was is in the message."""
    interrupted(run, {"seed": 0})
    path = run.progress_path("controller")
    arrays, info = load_arrays(path)
    save_arrays(path, arrays | {"mean": np.nextafter(arrays["mean"], 9.0)}, info)
    with pytest.raises(UserError, match="controller.progress.safetensors.*threads"):
        evolve(CONFIG, lambda: np.zeros(5), noisy, run, {"seed": 0}, 0)
    save_arrays(path, arrays, info)
    assert np.isfinite(evolve(CONFIG, lambda: np.zeros(5), noisy, run, {"seed": 0}, 0)).all()


def test_the_progress_of_format_1_which_has_no_mean_is_refused(run):
    interrupted(run, {"seed": 0})
    path = run.progress_path("controller")
    arrays, info = load_arrays(path)
    del arrays["mean"]
    save_arrays(path, arrays, info)
    with pytest.raises(UserError, match="controller.progress.safetensors.*older version"):
        evolve(CONFIG, lambda: np.zeros(5), noisy, run, {"seed": 0}, 0)


@pytest.mark.parametrize("name", ["start", "best", "mean", "means", "generations", "history", "best_score"])
def test_progress_of_other_sizes_is_refused(run, name):
    interrupted(run, {"seed": 0})
    path = run.progress_path("controller")
    arrays, info = load_arrays(path)
    for other in (np.stack([arrays[name]] * 3), None):
        save_arrays(path, {key: array for key, array in (arrays | {name: other}).items() if array is not None}, info)
        with pytest.raises(UserError, match="controller.progress.safetensors"):
            evolve(CONFIG, lambda: np.zeros(5), noisy, run, {"seed": 0}, 0)


class Counting:
    """An agent whose controllers have five parameters."""

    def parameter_count(self, config):
        return 5


def practice(previous=None, seed=0):
    fitness = lambda spec, seeds: noisy(spec.arrays["parameters"], seeds)
    return Practice(fitness, latents=None, temperature=1.0, seed=seed, training=0, previous=previous)


def test_a_search_begins_at_zero_or_at_the_controller_of_the_round_before(run):
    previous = PolicySpec(LinearConfig(), {"parameters": OPTIMUM[None]})
    for before, expected in ((None, np.zeros(5)), (previous, OPTIMUM)):
        assert np.array_equal(previous_or_zero(Counting(), practice(before), LinearConfig(), run, {}), expected)
    found = Evolution(CONFIG).learn(Counting(), practice(previous), LinearConfig(), run, {})
    assert np.array_equal(run.load("controller", "train_controller")[0]["start"].numpy(), OPTIMUM)
    assert found.config == LinearConfig() and found.arrays["parameters"].shape == (1, 5)


@pytest.mark.parametrize("config", (LinearConfig(bias=False), LinearConfig(sees="z"), MLPConfig()), ids=str)
def test_another_kind_of_controller_in_the_round_before_is_refused(run, config):
    previous = PolicySpec(config, {"parameters": OPTIMUM[None]})
    with pytest.raises(UserError, match="--controller"):
        Evolution(CONFIG).learn(Counting(), practice(previous), LinearConfig(), run.at(2), {})


def test_searches_of_other_seeds_rounds_and_trainings_are_apart(tmp_path):
    def calls(seed, round, training, folder=""):
        """What a search asks for: seeds, and the first generation."""
        asked, members = [], []

        def fitness(parameters, seeds):
            asked.append(tuple(seeds))
            members.append(parameters)
            return noisy(parameters, seeds)

        run = Run(tmp_path / f"{seed}-{round}-{training}{folder}", round)
        evolve(CONFIG, lambda: np.zeros(5), fitness, run, {}, seed, training)
        return asked, members[1].tobytes()

    found = [calls(*numbers) for numbers in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))]
    assert calls(0, 1, 0, "again") == found[0]
    assert len({first for _, first in found}) == 4
    assert len({seeds for asked, _ in found for seeds in asked}) == sum(len(asked) for asked, _ in found)
