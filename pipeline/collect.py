"""Stage 1: rollouts of the real game, random or by the controller of the round before -> episodes/."""

from dataclasses import replace
from functools import partial

import numpy as np
from tqdm import tqdm

from pipeline.command import main, open_executor, say, stage, task_of
from pipeline.presets import Config
from worldmodels.agent import controller_spec, load_agent
from worldmodels.episodes import SUFFIX, episode_path
from worldmodels.files import read_json, write_json
from worldmodels.runs import Run, differences, episode_seeds, plain
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectConfig, CollectJob, env_settings
from worldmodels.worlds.explore import ExploreJob

CURVE = 100         # points of a curve, or as many as there are jobs
CHUNK = 128  # episodes that are played again together where one is missing: to rounding they depend on each other


@stage("collect", begins=True)
def collect(config: Config, run: Run):
    """Stage 1: rollouts of the real game, random or by the controller of the round before -> episodes/."""
    jobs, settings = random_jobs(config, run) if run.round == 1 else controller_jobs(config, run)
    recorded = run.episodes / "settings.json"
    if recorded.exists() and (different := differences(read_json(recorded), settings)):
        raise UserError(f"the episodes in {run.episodes} were collected with {different}: choose another --run, or "
                        "delete them")
    write_json(recorded, plain(settings))
    missing = [job for job in jobs if not all(episode_path(run.episodes, seed).exists() for seed in job.seeds)]
    total, left = (sum(len(job.seeds) for job in some) for some in (jobs, missing))
    if not missing:
        return say(f"collect: {total} episodes are there")
    with run.metrics("collect", total - left) as log, open_executor(config, len(missing)) as executor, \
            tqdm(total=total, initial=total - left, desc="collecting", unit="episode") as bar:
        def count(played: tuple) -> int:
            """The episodes of a job, (steps, return) of one or of each; their means are logged in the order in which
            they end."""
            rows = [{"steps": steps, "return": gained} for steps, gained in zip(*map(np.atleast_1d, played))]
            log.gather(rows, total // CURVE)
            return len(rows)

        executor.run(missing, bar, weight=count)


def check_collected(config: Config, run: Run):
    """A UserError where not all of this round's episodes are there."""
    wanted, there = len(seeds(config, run)), len(list(run.episodes.glob(f"*{SUFFIX}")))
    if there < wanted:
        raise UserError(f"{there} of {wanted} episodes in {run.episodes}: run `python -m pipeline.collect` first")


def random_jobs(config: Config, run: Run) -> tuple[list[CollectJob], dict]:
    """The first round's jobs, and what their episodes are to be made with."""
    jobs = [CollectJob(task_of(config), config.collect, seed, run.episodes) for seed in seeds(config, run)]
    return jobs, common_settings(config)


def controller_jobs(config: Config, run: Run) -> tuple[list[ExploreJob], dict]:
    """The same of a later round."""
    before = run.at(run.round - 1)
    tensors, info = before.load("controller", "train_controller")
    task, spec = task_of(config), controller_spec(tensors, info)
    chunks = np.array_split(seeds(config, run), -(-config.collect.episodes_per_round // CHUNK))
    job = partial(ExploreJob, task, before, load_agent(before, task=task).digest, config.collect,
                  env_settings(task, config.collect), spec)
    how = {"explore_share": config.collect.explore_share, "controller_before": info["digest"]}
    return [job(tuple(chunk.tolist()), run.episodes) for chunk in chunks], common_settings(config) | how


def common_settings(config: Config) -> dict:
    """What the episodes of every round are made with; the other settings of CollectConfig do not matter to one."""
    default = CollectConfig()
    others = {name: getattr(default, name) for name in ("episodes", "episodes_per_round", "explore_share", "min_steps")}
    return {"task": config.task, "collect": replace(config.collect, **others)}


def seeds(config: Config, run: Run) -> range:
    """The seeds of the round's episodes, which no other run or round plays."""
    count = config.collect.episodes if run.round == 1 else config.collect.episodes_per_round
    return episode_seeds(config.seed, run.round, "collect")[:count]


if __name__ == "__main__":
    main(collect)
