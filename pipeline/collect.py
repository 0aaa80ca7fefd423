"""Stage 1: rollouts of the real game, random or by the controller of the round before -> episodes/."""

from dataclasses import replace
from functools import partial

import numpy as np
from tqdm import tqdm

from pipeline.command import LATER, later_info, main, open_executor, say, stage, task_of
from pipeline.presets import Config
from pipeline.train_controller import checked_agent, train
from worldmodels.agent import controller_spec, load_agent, load_controller
from worldmodels.controller import PolicySpec
from worldmodels.episodes import SUFFIX, episode_path, length
from worldmodels.files import read_json, write_json
from worldmodels.runs import Run, differences, episode_seeds, plain
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectConfig, CollectJob, collect_jobs, env_settings
from worldmodels.worlds.explore import ExploreJob

CURVE = 100         # points of a curve, or as many as there are jobs
CHUNK = 128  # episodes that are played again together where one is missing: to rounding they depend on each other


@stage("collect", begins=True, of_models=True)
def collect(config: Config, run: Run):
    """Stage 1: rollouts of the real game, random or by the controller of the round before -> episodes/."""
    if config.collect.ignore_end and not task_of(config).goes_on:
        raise UserError(f"--collect.ignore-end True: {config.task} cannot be played on after its end")
    jobs, settings = random_jobs(config, run) if run.round == 1 else controller_jobs(config, run)
    recorded = run.episodes / "settings.json"
    if recorded.exists() and (different := differences(read_json(recorded), settings)):
        raise UserError(f"the episodes in {run.episodes} were collected with {different}: choose another --run, or "
                        "delete them")
    write_json(recorded, plain(settings))
    missing = [job for job in jobs if not all(episode_path(run.episodes, seed).exists() for seed in job.seeds)]
    total, left = count(config, run), sum(len(job.seeds) for job in missing)
    if not missing:
        return say(f"collect: {total} episodes are there")
    with run.metrics("collect", total - left) as log, open_executor(config, len(missing)) as executor, \
            tqdm(total=total, initial=total - left, desc="collecting", unit="episode") as bar:
        while missing:
            for _, played in executor.each(missing):
                played.write(run.episodes)
                log.gather([{"steps": steps, "return": gained} for steps, gained in zip(played.steps, played.returns)],
                           total // CURVE)
                bar.update(len(played.steps) if run.round > 1 else int((played.steps > config.collect.min_steps).sum()))
            missing = random_jobs(config, run)[0] if run.round == 1 else []         # in place of those too short


def check_collected(config: Config, run: Run):
    """A UserError where not all of this round's episodes are there."""
    wanted, there = len(seeds(config, run)), len(list(run.episodes.glob(f"*{SUFFIX}")))
    if there < wanted:
        raise UserError(f"{there} of {wanted} episodes in {run.episodes}: run `python -m pipeline.collect` first")


def random_jobs(config: Config, run: Run) -> tuple[list[CollectJob], dict]:
    """The first round's jobs, for the episodes that are not there yet, and what they are to be made with."""
    missing = [seed for seed in seeds(config, run) if not episode_path(run.episodes, seed).exists()]
    return collect_jobs(task_of(config), config.collect, missing, kept=True), common_settings(config)


def controller_jobs(config: Config, run: Run) -> tuple[list[ExploreJob], dict]:
    """The same of a later round."""
    before, task, settings = run.at(run.round - 1), task_of(config), config.collect
    agent, how = load_agent(before, task=task), later_info(config, run)
    spec = explorer(config, before) if settings.disagreement_bonus else load_controller(before, agent)
    chunks = np.array_split(seeds(config, run), -(-settings.episodes_per_round // CHUNK))
    job = partial(ExploreJob, task, agent.shared, before.round, settings, env_settings(task, settings), spec)
    return [job(tuple(chunk.tolist()), settings.weight_noise) for chunk in chunks], \
        common_settings(config) | {name: how[name] for name in how.keys() - {"episodes_per_round"}}


def explorer(config: Config, run: Run) -> PolicySpec:
    """A controller that is drawn to what M is uncertain of (Plan2Explore, Sekar et al. 2020): the round's own, where it
    plans; else one that is trained as it was, in dreams with a bonus, and kept beside it in explorer/."""
    agent, bonus = checked_agent(config, run), config.collect.disagreement_bonus
    own = load_controller(run, agent)
    if hasattr(own.config, "uncertainty_weight"):
        return own._replace(config=replace(own.config, uncertainty_weight=-bonus))
    dream, place = replace(config.dream, pessimism=-bonus), run.other(run.folder / "explorer")
    train(replace(config, world="dream", dream=dream), run, agent, place)
    return controller_spec(*place.load("controller", "train_controller"))


def common_settings(config: Config) -> dict:
    """What the episodes of every round are made with; the other settings of CollectConfig do not matter to one."""
    default = CollectConfig()
    later = ("episodes", "episodes_per_round", "explore_share", "min_steps", *LATER)
    others = {name: getattr(default, name) for name in later}
    return {"task": config.task, "collect": replace(config.collect, **others)}


def count(config: Config, run: Run) -> int:
    """The episodes of the round that are trained on; in a later round, that are played."""
    return config.collect.episodes if run.round == 1 else config.collect.episodes_per_round


def seeds(config: Config, run: Run) -> range:
    """The seeds of the round's episodes, which no other run or round plays: of the random ones one more for each that
    is there and too short to be trained on."""
    short, least = 0, config.collect.min_steps
    if run.round == 1 and least:
        short = sum(length(path) <= least for path in run.episodes.glob(f"*{SUFFIX}"))
    return episode_seeds(config.seed, run.round, "collect")[:count(config, run) + short]


if __name__ == "__main__":
    main(collect)
