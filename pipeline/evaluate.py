"""Stage 6: scores and pictures -> report/."""

import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from pipeline.command import all_rounds, controller_info, main, open_executor, say, stage, task_of
from pipeline.presets import Config
from pipeline.report import draw
from pipeline.train_controller import checked_agent, encoded
from worldmodels.agent import Agent, controller_spec
from worldmodels.controller import PolicySpec
from worldmodels.episodes import Episode
from worldmodels.files import read_json, write_json
from worldmodels.latents import Latents
from worldmodels.report.scores import read_scores, score, table, trained_name, write_scores
from worldmodels.report.sim_to_real_gap import WatchJob
from worldmodels.runs import Run, differences, plain
from worldmodels.types import Executor, UserError
from worldmodels.worlds.collect import CollectConfig, RandomPolicy, collect_jobs, env_settings
from worldmodels.worlds.dream import DreamWorld
from worldmodels.worlds.fitness import DreamFitness, RealFitness, split_jobs
from worldmodels.worlds.rollout import rollout


@stage("evaluate", of_finished=True)
def evaluate(config: Config, run: Run):
    """Stage 6: scores and pictures -> report/."""
    agent, on_the_way = checked_agent(config, run), run.round < all_rounds(config)
    if is_scored(config, run, agent.digest) or on_the_way and is_scored(in_short(config), run, agent.digest):
        say("evaluate: the report is there")
    else:
        config = in_short(config) if on_the_way else config
        report(config, run, agent)
        with run.at(1).metrics("evaluate") as log:              # a curve of all rounds
            for round in run.last("controller").until_now:
                if (round.report / "scores.json").exists():
                    known = read_scores(round.report / "scores.json")
                    log.write(round.round, {f"{s['world']}/{s['controller']}": s["mean"] for s in known})
            write_json(run.report / "made_with.json", plain(made_with(config, run)))
            log.check_stop()
    print(f"\n{task_of(config).env_id}, run {run.folder}")
    print(table(read_scores(run.report / "scores.json")))
    print(f"\nscores and pictures are in {run.report}/: " + ", ".join(sorted(p.name for p in run.report.glob("*.*"))))


def in_short(config: Config) -> Config:
    """How rounds before the last are scored: in fewer episodes, drawn as episodes are collected."""
    e = config.evaluate
    fewer = {name: min(getattr(e, name), e.episodes_on_the_way) for name in ("episodes", "random_episodes",
                                                                              "gap_episodes")}
    return replace(config, evaluate=replace(e, **fewer, drawing=config.collect.drawing))


def is_scored(config: Config, run: Run, digest: str) -> bool:
    """Whether the report is there, of the run's controller and by these settings; a UserError where there is no
    controller."""
    if not run.finished("controller", controller_info(config, digest)):
        raise UserError(f"no controller in {run.folder}: run `python -m pipeline.train_controller` first")
    scores, settings = run.report / "scores.json", run.report / "made_with.json"
    return scores.exists() and settings.exists() and not differences(read_json(settings), made_with(config, run))


def made_with(config: Config, run: Run) -> dict:
    """What a report depends on."""
    return {"controller": run.load("controller", "train_controller")[1], "evaluate": config.evaluate,
            "temperature": config.dream.temperature}


def report(config: Config, run: Run, agent: Agent):
    """scores.json and the pictures, of the run's controller and of where its search began."""
    tensors, info = run.load("controller", "train_controller")
    controller, name = controller_spec(tensors, info), trained_name(config.world)
    latents = encoded(config, run, agent)
    with open_executor(config) as executor:
        scores = score_random(config, agent, latents, executor)
        if begins_elsewhere(config, tensors):
            start = controller_spec({"parameters": tensors["start"]}, info)
            scores += score_controller(config, agent, latents, start,
                                       f"start of the search ({config.learner.start})", executor)
        scores += score_controller(config, agent, latents, controller, name, executor)
        for skill in config.evaluate.other_skills if "skill" in agent.task.settings else ():
            harder = replace(config, collect=replace(config.collect, skill=skill))
            scores.append(score_played(harder, agent, controller, f"{name}, skill {skill}", executor))
        played = watch(config, agent, controller, executor)
    scores.sort(key=lambda score: score["world"] == "dream")
    write_scores(run.report / "scores.json", scores)
    draw(config, run, agent, whole_dream(config, agent, latents), controller, scores, played)


def begins_elsewhere(config: Config, tensors: dict) -> bool:
    """Whether the search began at a controller worth a score of its own, and found another."""
    begun = getattr(config.learner, "start", "previous_or_zero") != "previous_or_zero"
    return begun and "start" in tensors and not np.array_equal(tensors["start"].numpy(), tensors["parameters"].numpy())


def score_random(config: Config, agent: Agent, latents: Latents, executor: Executor) -> list[dict]:
    """The task's random policies in the real game, acting at every frame; then the collecting policy as it collected,
    in the real game and in the dream."""
    task, e = agent.task, config.evaluate
    random = {f"random ({policy})": replace(config.collect, policy=policy, repeat=1) for policy in task.baselines}
    random[collector(config)] = config.collect
    scores = []
    for label, settings in random.items():
        settings = replace(settings, max_steps=task.max_steps)
        jobs = collect_jobs(task, settings, range(e.first_seed, e.first_seed + e.random_episodes))
        with timed(f"{label}, real game", e.random_episodes) as (bar, wall):
            played = executor.run(jobs, bar, weight=lambda found: len(found.steps))
        returns = np.concatenate([found.returns for found in played])
        about = in_the_game(config, settings, executor)
        scores.append(score(task, "real", label, returns, wall_s=wall(), **about))
    world, seeds = whole_dream(config, agent, latents), dream_seeds(config)
    with timed(f"{collector(config)}, dream", len(seeds)) as (bar, wall):
        returns = rollout(world, RandomPolicy(task.policies[config.collect.policy], world.device), seeds).returns.cpu()
        bar.update(len(seeds))
    about = in_the_dream(config, world) | {"wall_s": wall(), "workers": 1}
    return scores + [score(task, "dream", collector(config), returns, **about)]


def score_controller(config: Config, agent: Agent, latents: Latents, controller: PolicySpec, name: str,
                     executor: Executor) -> list[dict]:
    """A controller in the real game and in the dream."""
    real = score_played(config, agent, controller, name, executor)
    world, seeds = whole_dream(config, agent, latents), dream_seeds(config)
    dream = DreamFitness(agent, world, executor, config.gpus)
    with timed(f"{name}, dream", len(seeds)) as (bar, wall):
        returns = dream(controller, seeds)[0]
        bar.update(len(seeds))
    workers = config.gpus or (dream.executor.size if dream.executor else 1)
    about = in_the_dream(config, world) | {"wall_s": wall(), "workers": workers}
    return [real, score(agent.task, "dream", name, returns, **about)]


def score_played(config: Config, agent: Agent, controller: PolicySpec, name: str, executor: Executor) -> dict:
    """A controller in the real game, drawn as `evaluate` has it."""
    task, e = agent.task, config.evaluate
    played = replace(config.collect, drawing=e.drawing)
    game = RealFitness(executor, agent, task.max_steps, env_settings(task, played))
    with timed(f"{name}, real game", e.episodes) as (bar, wall):
        returns = game(controller, range(e.first_seed, e.first_seed + e.episodes), bar)[0]
    return score(task, "real", name, returns, wall_s=wall(), **in_the_game(config, played, executor))


def watch(config: Config, agent: Agent, controller: PolicySpec, executor: Executor) -> list[Episode]:
    """Episodes of the controller in the real game, with latents where they have frames."""
    seeds = range(config.evaluate.first_seed, config.evaluate.first_seed + config.evaluate.gap_episodes)
    settings = env_settings(agent.task, config.collect)
    jobs = [WatchJob(agent.task, agent.shared, agent.task.max_steps, settings, controller, tuple(seeds[part]))
            for part in split_jobs(len(seeds))]
    with timed("episodes to compare the dream with", len(seeds)) as (bar, _):
        return sum(executor.run(jobs, bar, weight=len), [])


def in_the_game(config: Config, played: CollectConfig, executor: Executor) -> dict:
    """What a score in the real game says beside its numbers, with the settings of the environment that was played (how
    it was drawn, the skill, the frames an action is held)."""
    return {"temperature": None, "first_seed": config.evaluate.first_seed, "workers": executor.size, "device": "cpu",
            "settings": dict(env_settings(task_of(config), played))}


def in_the_dream(config: Config, world: DreamWorld) -> dict:
    return {"temperature": config.dream.temperature, "first_seed": config.evaluate.first_seed,
            "device": str(world.device)}


def dream_seeds(config: Config) -> range:
    return range(config.evaluate.first_seed, config.evaluate.first_seed + config.evaluate.dream_episodes)


def collector(config: Config) -> str:
    """The collecting policy's name in the scores."""
    times = "" if config.collect.repeat == 1 else f" × {config.collect.repeat}"
    return f"random ({config.collect.policy}{times})"


def whole_dream(config: Config, agent: Agent, latents: Latents) -> DreamWorld:
    """The dream from first frames on, as long as the game."""
    return DreamWorld(agent.memory, latents, config.dream.plain(agent.task.steps(config.collect.repeat)))


@contextmanager
def timed(description: str, total: int):
    """A progress bar, and a function that tells the seconds since it began, to a hundredth."""
    start = time.monotonic()
    with tqdm(total=total, desc=description, unit="episode") as bar:
        yield bar, lambda: round(time.monotonic() - start, 2)


if __name__ == "__main__":
    main(evaluate)
