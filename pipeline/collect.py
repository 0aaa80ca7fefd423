"""Stage 1: rollouts of the real game, random or by the controller of the round before -> episodes/."""

import shutil
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from pipeline.command import SEEDS, clocked, main, say, workers
from pipeline.presets import Config
from worldmodels.episodes import SUFFIX, episode_path
from worldmodels.executors import LocalExecutor
from worldmodels.files import read_json, write_json
from worldmodels.runs import Run, differences
from worldmodels.types import UserError
from worldmodels.worlds.agent import load_agent
from worldmodels.worlds.collect import CollectJob, env_settings
from worldmodels.worlds.explore import ExploreJob

CURVE = 100         # points of a curve, or as many as there are jobs
CHUNK = 128         # episodes that are played again together where one is missing: to rounding they depend on each other


@clocked
def collect(config: Config, run: Run):
    """Stage 1: rollouts of the real game, random or by the controller of the round before -> episodes/."""
    jobs, settings = random_jobs(config, run) if run.round == 1 else controller_jobs(config, run)
    recorded = run.episodes / "settings.json"
    if not recorded.exists():
        shutil.rmtree(run.latents, ignore_errors=True)      # of episodes that are gone
    elif different := differences(read_json(recorded), settings):
        raise UserError(f"the episodes in {run.episodes} were collected with {different}: choose another --run, or delete them")
    write_json(recorded, settings)
    missing = [job for job in jobs if not all(episode_path(run.episodes, seed).exists() for seed in job.seeds)]
    total, left = (sum(len(job.seeds) for job in some) for some in (jobs, missing))
    if not missing:
        return say(f"collect: {total} episodes are there")
    with run.metrics("collect", total - left) as log, LocalExecutor(min(workers(config), len(missing))) as executor, \
            tqdm(total=total, initial=total - left, desc="collecting", unit="episode") as bar:
        def count(played: tuple) -> int:
            """The episodes of a job, (steps, return) of one or of each; their means are logged in the order in which they end."""
            rows = [{"steps": steps, "return": gained} for steps, gained in zip(*map(np.atleast_1d, played))]
            log.gather(rows, total // CURVE)
            return len(rows)

        executor.run(missing, bar, weight=count)


def check_collected(config: Config, run: Run):
    """A UserError where not all of this round's episodes are there."""
    wanted, there = len(seeds(config, run)), len(list(run.episodes.glob(f"*{SUFFIX}")))
    if there < wanted:
        again = "" if run.round == config.rounds else f" --rounds {run.round}"
        raise UserError(f"{there} of {wanted} episodes in {run.episodes}: run `python -m pipeline.collect{again}` first")


def random_jobs(config: Config, run: Run) -> tuple[list[CollectJob], dict]:
    """The first round's jobs, and what their episodes are to be made with."""
    jobs = [CollectJob(config.task, config.collect, seed, run.episodes) for seed in seeds(config, run)]
    return jobs, common_settings(config)


def controller_jobs(config: Config, run: Run) -> tuple[list[ExploreJob], dict]:
    """The same of a later round."""
    before = run.at(run.round - 1)
    tensors, info = before.load("controller", f"train_controller --rounds {before.round}")
    _, digest = load_agent(before)
    chunks = np.array_split(seeds(config, run), -(-config.collect.again // CHUNK))
    jobs = [ExploreJob(before, digest, config.collect, env_settings(config.task, config.collect), tensors["parameters"].numpy(),
                       tuple(chunk.tolist()), run.episodes) for chunk in chunks]
    return jobs, common_settings(config) | {"explore": config.collect.explore, "controller_before": info["digest"]}


def common_settings(config: Config) -> dict:
    """What the episodes of every round are made with."""
    others = ("episodes", "again", "explore", "min_steps")
    return {key: value for key, value in asdict(config.collect).items() if key not in others} | {"task": config.task}


def seeds(config: Config, run: Run) -> range:
    """Neither seeds of runs nor their rounds share an episode."""
    first = config.seed * SEEDS + (run.round - 1) * 1_000_000
    return range(first, first + (config.collect.episodes if run.round == 1 else config.collect.again))


if __name__ == "__main__":
    main(collect)
