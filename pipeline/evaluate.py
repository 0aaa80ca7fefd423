"""Stage 6: scores and pictures -> report/."""

import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
from tqdm import tqdm

from pipeline.command import clocked, controller_info, main, say, workers
from pipeline.presets import Config
from pipeline.report import draw
from pipeline.train_controller import checked_agent, encoded
from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.evaluate import RandomPolicy, score, table
from worldmodels.executors import LocalExecutor
from worldmodels.files import read_json, write_json
from worldmodels.memory.latents import Latents
from worldmodels.runs import Run, differences
from worldmodels.transfer import WatchJob
from worldmodels.types import Executor, UserError
from worldmodels.worlds.agent import Agent, DreamFitness, RealFitness, parts
from worldmodels.worlds.collect import CollectJob, env_settings
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.rollout import rollout


@clocked
def evaluate(config: Config, run: Run):
    """Stage 6: scores and pictures -> report/."""
    agent, digest = checked_agent(config, run)
    if is_scored(config, run, digest):
        say("evaluate: the report is there")
    else:
        report(config, run, agent, digest)
        write_json(run.report / "made_with.json", made_with(config, run))
    print(f"\n{TASKS[config.task].env_id}, run {run.folder}")
    print(table(read_json(run.report / "scores.json")))
    print(f"\nscores and pictures are in {run.report}/: " + ", ".join(sorted(p.name for p in run.report.glob("*.*"))))


def is_scored(config: Config, run: Run, digest: str) -> bool:
    """Whether the report is there, of the run's controller and by these settings; a UserError where there is no controller."""
    if not run.finished("controller", controller_info(config, digest)):
        raise UserError(f"no controller in {run.folder}: run `python -m pipeline.train_controller` first")
    scores, settings = run.report / "scores.json", run.report / "made_with.json"
    return scores.exists() and settings.exists() and not differences(read_json(settings), made_with(config, run))


def made_with(config: Config, run: Run) -> dict:
    """What a report depends on."""
    return {"controller": run.load("controller", "train_controller")[1], "evaluate": asdict(config.evaluate),
            "temperature": config.dream.temperature}


def report(config: Config, run: Run, agent: Agent, digest: str):
    """scores.json and the pictures, of the run's controller and of where its evolution started."""
    tensors, _ = run.load("controller", "train_controller")
    controller, start = tensors["parameters"].numpy(), tensors["start"].numpy()
    latents = encoded(config, run, digest)
    with LocalExecutor(workers(config)) as executor:
        scores = score_random(config, agent, latents, executor)
        if config.controller.start != "zero" and not np.array_equal(start, controller):
            scores += score_controller(config, run, agent, digest, latents, start, "before evolution (least squares)", executor)
        name = evolved_name(config)
        scores += score_controller(config, run, agent, digest, latents, controller, name, executor)
        for skill in config.evaluate.other_skills if "skill" in TASKS[config.task].settings else ():
            harder = replace(config, collect=replace(config.collect, skill=skill))
            scores.append(score_played(harder, run, digest, controller, f"{name}, skill {skill}", executor))
        played = watch(config, run, digest, controller, executor)
    scores.sort(key=lambda score: score["world"] == "dream")
    write_json(run.report / "scores.json", scores)
    with run.at(1).metrics("evaluate") as log:                  # a curve of all rounds
        for round in run.last("controller").until_now:
            if (round.report / "scores.json").exists():
                log.write(round.round, {f"{s['world']}/{s['controller']}": s["mean"] for s in read_json(round.report / "scores.json")})
    draw(config, run, agent, whole_dream(config, agent, latents), controller, name, scores, played)


def score_random(config: Config, agent: Agent, latents: Latents, executor: Executor) -> list[dict]:
    """The task's random policies in the real game, acting at every frame; then the collecting policy as it collected, in the real
    game and in the dream."""
    task, e = TASKS[config.task], config.evaluate
    random = {f"random ({policy})": replace(config.collect, policy=policy, repeat=1) for policy in task.baselines}
    random[collector(config)] = config.collect
    scores = []
    for label, settings in random.items():
        settings = replace(settings, max_steps=task.max_steps)
        jobs = [CollectJob(config.task, settings, e.first_seed + i) for i in range(e.random_episodes)]
        with timed(f"{label}, real game", e.random_episodes) as (bar, wall):
            returns = [total for _, total in executor.run(jobs, bar)]
        scores.append(score(config.task, "real", label, returns, wall_s=wall(), **in_the_game(config)))
    world, seeds = whole_dream(config, agent, latents), dream_seeds(config)
    with timed(f"{collector(config)}, dream", len(seeds)) as (bar, wall):
        policy = RandomPolicy.seeded(task.policies[config.collect.policy], seeds, world.device)
        returns = rollout(world, policy, seeds).returns.cpu()
        bar.update(len(seeds))
    return scores + [score(config.task, "dream", collector(config), returns, wall_s=wall(), **in_the_dream(config, world), workers=1)]


def score_controller(config: Config, run: Run, agent: Agent, digest: str, latents: Latents, controller: np.ndarray, name: str,
                     executor: Executor) -> list[dict]:
    """A controller in the real game and in the dream."""
    real = score_played(config, run, digest, controller, name, executor)
    world, seeds = whole_dream(config, agent, latents), dream_seeds(config)
    dream = DreamFitness(agent, world, executor, run, digest)
    with timed(f"{name}, dream", len(seeds)) as (bar, wall):
        returns = dream(controller[None], seeds)[0]
        bar.update(len(seeds))
    processes = dream.executor.size if dream.executor else 1
    return [real, score(config.task, "dream", name, returns, wall_s=wall(), **in_the_dream(config, world), workers=processes)]


def score_played(config: Config, run: Run, digest: str, controller: np.ndarray, name: str, executor: Executor) -> dict:
    """A controller in the real game."""
    task, e = TASKS[config.task], config.evaluate
    official = replace(config.collect, drawing="official")
    game = RealFitness(executor, run, digest, task.max_steps, env_settings(config.task, official))
    with timed(f"{name}, real game", e.episodes) as (bar, wall):
        returns = game(controller[None], range(e.first_seed, e.first_seed + e.episodes), bar)[0]
    return score(config.task, "real", name, returns, wall_s=wall(), **in_the_game(config))


def watch(config: Config, run: Run, digest: str, controller: np.ndarray, executor: Executor) -> list[Episode]:
    """Episodes of the controller in the real game, with latents where they have frames."""
    seeds = range(config.evaluate.first_seed, config.evaluate.first_seed + config.evaluate.transfer_episodes)
    settings = env_settings(config.task, config.collect)
    jobs = [WatchJob(run, digest, TASKS[config.task].max_steps, settings, controller, tuple(seeds[part])) for part in parts(len(seeds))]
    with timed("episodes to compare the dream with", len(seeds)) as (bar, _):
        return sum(executor.run(jobs, bar, weight=len), [])


def in_the_game(config: Config) -> dict:
    """What a score in the real game says beside its numbers."""
    return {"temperature": None, "first_seed": config.evaluate.first_seed, "workers": workers(config), "device": "cpu"}


def in_the_dream(config: Config, world: DreamWorld) -> dict:
    return {"temperature": config.dream.temperature, "first_seed": config.evaluate.first_seed, "device": str(world.device)}


def dream_seeds(config: Config) -> range:
    return range(config.evaluate.first_seed, config.evaluate.first_seed + config.evaluate.dream_episodes)


def collector(config: Config) -> str:
    """The collecting policy's name in the scores."""
    times = "" if config.collect.repeat == 1 else f" × {config.collect.repeat}"
    return f"random ({config.collect.policy}{times})"


def evolved_name(config: Config) -> str:
    """The run's controller's name in the scores."""
    return f"controller from the {config.world}"


def whole_dream(config: Config, agent: Agent, latents: Latents) -> DreamWorld:
    """The dream from first frames on, as long as the game."""
    steps = TASKS[config.task].steps(config.collect.repeat)
    return DreamWorld(agent.memory, latents, DreamConfig(config.dream.temperature, max_steps=steps))


@contextmanager
def timed(description: str, total: int):
    """A progress bar, and a function that tells the seconds since it began, to a hundredth."""
    start = time.monotonic()
    with tqdm(total=total, desc=description, unit="episode") as bar:
        yield bar, lambda: round(time.monotonic() - start, 2)


if __name__ == "__main__":
    main(evaluate)
