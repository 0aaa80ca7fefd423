"""World models compared: each trained on a run's episodes for as many seconds, a controller evolved in its dream, both
scored on episodes of the game that nothing was trained on -> compare/, report/compare.json, .md and pictures."""

import os
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.budget import plan
from pipeline.command import converted, main, open_executor, say, stage, task_of, write_settings
from pipeline.encode import encode
from pipeline.evaluate import dream_seeds, in_the_dream, score_played, trained_name, whole_dream
from pipeline.presets import Config
from pipeline.report import FILM_STEPS, compared
from pipeline.train_controller import checked_agent, encoded, train_controller
from pipeline.train_jointly import train_jointly
from pipeline.train_memory import train_memory
from pipeline.train_vision import train_vision
from worldmodels.agent import Agent, load_agent, load_controller
from worldmodels.episodes import SUFFIX, episode_path, read
from worldmodels.files import read_json, write_atomic, write_json
from worldmodels.memory import GRU, MDNRNN, RSSM, Ensemble, MemoryConfig
from worldmodels.report import comparison
from worldmodels.report.prediction import film, prediction
from worldmodels.report.scores import score
from worldmodels.runs import EVALUATION, RUNS, Run
from worldmodels.types import UserError
from worldmodels.vision import AutoencoderConfig
from worldmodels.worlds.collect import CollectJob, env_settings
from worldmodels.worlds.explore import ExploreJob
from worldmodels.worlds.fitness import DreamFitness, split_jobs
from worldmodels.worlds.population import WIDTH

HELD_OUT = EVALUATION.stop - 10**6      # seeds of the episodes that predictions are scored on, from here on
FILM_START = 20                         # the step at which the dreams of the film strips begin


def world_models(config: Config) -> dict[str, Config]:
    """What is compared, by name: the run's settings with another V, M or way of training."""
    config = replace(config, training="staged", rounds=1, world="dream", learner=config.compare.learner)
    common = {f.name: getattr(config.memory, f.name) for f in fields(MemoryConfig) if f.name != "kind"}
    of = lambda kind, **settings: replace(config, memory=kind.Config(**common | settings))
    dreamer_v3 = {"free_nats": 1.0, "free_nats_per": "step", "kl_posterior_weight": 0.1}
    jointly = lambda found: replace(found, training="jointly")
    made = {
        "gru": of(GRU),
        "mdn_rnn": replace(config, memory=config.memory if isinstance(config.memory, MDNRNN.Config)
                           else MDNRNN.Config(**common)),
        "rssm": of(RSSM),
        "rssm-categorical": of(RSSM, latents="categorical", stochastic_size=16, classes=16, **dreamer_v3),
        "rssm-heads": of(RSSM, prior_heads=5),
        "ensemble": of(Ensemble, member=GRU.Config(hidden_size=128)),      # as costly as the MDN-RNN of 256 cells
        "autoencoder-gru": replace(of(GRU), vision=converted(config.vision, AutoencoderConfig))}
    return made | {f"{name}-jointly": jointly(made[name]) for name in ("mdn_rnn", "rssm")}


@stage("compare", of_finished=True)
def compare(config: Config, run: Run):
    """Beside the stages: world models trained on the same episodes, compared -> report/compare.json, .md, pictures."""
    agent = checked_agent(config, run)
    models = world_models(config)
    if unknown := set(config.compare.models) - models.keys():
        raise UserError(f"--compare.models {' '.join(sorted(unknown))}: choose from {', '.join(models)}")
    chosen = config.compare.models or tuple(models)
    held_out = collect_held_out(config, run, agent)
    shared = shared_vision(replace(config, training="staged"), run, 0)
    steps = plan({name: models[name] for name in chosen}, run, shared)
    path, entries = run.report / "compare.json", []
    for training in range(config.compare.trainings):
        for name in chosen:
            say(f"\n{name}, training {training + 1} of {config.compare.trainings}")
            mine = models[name]
            mine = replace(mine, seed=(config.seed + training) % RUNS, memory=replace(mine.memory, steps=steps[name]),
                           joint=replace(mine.joint, steps=steps[name]))
            entries.append(entry(name, training, mine, run, held_out))
            write_json(path, {"task": config.task, "seconds": config.compare.seconds, "entries": entries})
    entries.sort(key=lambda e: chosen.index(e["name"]))
    write_atomic(run.report / "compare.md", f"{comparison.markdown(entries)}\n".encode())
    compared(entries, films(chosen, run, held_out), run.report)
    print(comparison.table(entries))
    print(f"\nin {run.report}/: compare.json, compare.md, compare-*.png")


def entry(name: str, training: int, config: Config, run: Run, held_out: dict[str, list]) -> dict:
    """Trains and scores one world model, or takes what is there."""
    place = Run(run.root / "compare" / f"{name}-{training}")
    done = place.folder / "entry.json"
    if done.exists():
        return read_json(done)["entry"]
    config = replace(config, run=place.root.name)
    prepare(config, run, place, training)
    write_settings(config, place)
    if config.training == "jointly":
        train_jointly(config, place)
        encode(config, place)
    else:
        train_memory(config, place)
    train_controller(config, place)
    agent, took = load_agent(place), place.seconds
    found = {
        "name": name, "training": training, "steps": config.memory.steps,
        "parameters": sum(p.numel() for p in agent.memory.parameters()),
        "seconds": sum(took.get(stage, 0) for stage in ("train_vision", "train_memory", "train_jointly")),
        **scored(config, place, agent),
        "prediction": {whose: prediction(agent, list(map(read, paths)), config.seed)
                       for whose, paths in held_out.items()}}
    write_json(done, {"entry": found})
    return found


def prepare(config: Config, run: Run, place: Run, training: int):
    """Links the run's episodes into a run of their own, with a trained V and its latents where V is trained first."""
    link_episodes(run, place)
    if config.training == "jointly":
        return
    if isinstance(config.vision, AutoencoderConfig):
        train_vision(config, place)
        encode(config, place)
    else:
        take_vision(shared_vision(config, run, training), place)


def shared_vision(config: Config, run: Run, training: int) -> Run:
    """The V of a training, which all world models have whose V is trained first; the run's own in the first one."""
    shared = Run(run.root / "compare" / f"vae-{training}")
    link_episodes(run, shared)
    if training == 0:
        take_vision(run, shared)
    train_vision(config, shared)
    encode(config, shared)
    return shared


def link_episodes(run: Run, place: Run):
    link([path for round in run.until_now for path in round.episodes.glob(f"*{SUFFIX}")], place.episodes)


def take_vision(of: Run, place: Run):
    """Links the V of a run, with the latents of its episodes, and takes over the seconds that its training took."""
    link([path for round in of.until_now for path in round.latents.glob("*.safetensors")], place.latents)
    link([of.path("vision"), of.path("vision").with_suffix(".json")], place.path("vision").parent)
    if not place.wall.exists():
        write_json(place.wall, {"train_vision": of.at(1).seconds.get("train_vision", 0)})


def link(files: list[Path], folder: Path):
    """The same files in another folder: without a copy where the file system can."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        if not (folder / path.name).exists():
            try:
                os.link(path, folder / path.name)
            except OSError:
                shutil.copyfile(path, folder / path.name)


def scored(config: Config, place: Run, agent: Agent) -> dict:
    """The controller's scores in the game and in the dream, and the dream's speed."""
    controller, name = load_controller(place, agent), trained_name(config)
    with open_executor(config) as executor:
        real = score_played(config, place, agent, controller, name, executor)
        world = whole_dream(config, agent, encoded(config, place, agent))
        dream, seeds = DreamFitness(agent, world, executor, place), dream_seeds(config)
        dream(controller, seeds[:WIDTH * executor.size])        # every worker opens V and M
        start = time.monotonic()
        returns, lengths = dream.play(controller, seeds)
        took = time.monotonic() - start
    about = in_the_dream(config, world) | {"wall_s": round(took, 2)}
    return {"scores": [real, score(agent.task, "dream", name, returns[0], **about)],
            "dream_steps_per_s": float(lengths.sum() / took)}


def films(chosen: tuple[str, ...], run: Run, held_out: dict[str, list[Path]]) -> dict[str, dict[str, np.ndarray]]:
    """A held-out episode of each policy and what each world model dreams of it, from step FILM_START on and given the
    same actions: frames at FILM_STEPS, by whose episode and by name."""
    agents = {name: load_agent(Run(run.root / "compare" / f"{name}-0")) for name in chosen}
    found, times = {}, FILM_START + np.array(FILM_STEPS)
    for whose, paths in held_out.items():
        episode = max(map(read, paths), key=lambda episode: len(episode.action))
        dreamt = {name: film(agent, episode, FILM_START, FILM_STEPS[-1], 0) for name, agent in agents.items()}
        last = min(map(len, dreamt.values())) - 1
        rows = {"the game": episode.frames} | dreamt
        found[whose] = {name: frames[times.clip(max=last)] for name, frames in rows.items()}
    return found


def collect_held_out(config: Config, run: Run, agent: Agent) -> dict[str, list[Path]]:
    """Episodes of the random policy that collects first, and of the run's controller, each as long as the game."""
    task, count = task_of(config), config.compare.episodes
    collect = replace(config.collect, max_steps=task.max_steps, explore_share=0.0)
    folders = {whose: run.root / "compare" / "held-out" / whose for whose in ("random", "controller")}
    seeds = range(HELD_OUT, HELD_OUT + count)
    missing = {whose: [seed for seed in seeds if not episode_path(folder, seed).exists()]
               for whose, folder in folders.items()}
    random = [CollectJob(task, collect, seed, folders["random"]) for seed in missing["random"]]
    spec = load_controller(run, agent)
    own = [ExploreJob(task, run, agent.digest, collect, env_settings(task, collect), spec,
                      tuple(missing["controller"][part]), folders["controller"])
           for part in split_jobs(len(missing["controller"]))]
    total = sum(map(len, missing.values()))
    if total:
        with open_executor(config) as executor, tqdm(total=total, desc="held-out episodes", unit="episode") as bar:
            executor.run([*random, *own], bar, weight=lambda played: int(np.size(played[0])))
    return {whose: [episode_path(folder, seed) for seed in seeds] for whose, folder in folders.items()}


if __name__ == "__main__":
    main(compare)
