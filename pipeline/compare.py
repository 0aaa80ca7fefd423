"""World models compared: each trained on the same episodes for as many seconds, a controller evolved in its dream, both
scored on episodes of the game that nothing was trained on -> compare/, report/compare.json, .md and pictures.

The episodes are played anew, by the random policy and by the run's controller, and encoded with the run's V. So a copy
of a published run will do, which has no episodes, and what is trained later stands beside what was trained before.
"""

import json
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.acting import WAYS, WITHOUT_TRAINING, act, chosen_ways
from pipeline.at_once import all_files, train_at_once, within_a_job
from pipeline.budget import trains_vision, within_budget
from pipeline.collect import common_settings
from pipeline.command import converted, main, open_executor, say, stage, task_of, write_settings
from pipeline.encode import encode, encode_episodes
from pipeline.evaluate import dream_seeds, in_the_dream, score_played, whole_dream
from pipeline.presets import Config
from pipeline.report import FILM_STEPS, compared
from pipeline.train_controller import checked_agent, encoded, train_controller
from pipeline.train_jointly import train_jointly
from pipeline.train_memory import train_on_latents
from pipeline.train_vision import train_vision
from worldmodels.agent import Agent, load_agent, load_controller
from worldmodels.episodes import SUFFIX, episode_path, read
from worldmodels.files import link, read_json, write_atomic, write_json
from worldmodels.memory import GRU, MDNRNN, RSSM, Ensemble, MemoryConfig
from worldmodels.report import comparison, plots, ways_to_act
from worldmodels.report.prediction import film, prediction
from worldmodels.report.scores import score, trained_name
from worldmodels.runs import EVALUATION, RUNS, Run, differences, episode_seeds, plain
from worldmodels.types import UserError
from worldmodels.vision import AutoencoderConfig
from worldmodels.worlds.collect import CollectConfig, collect_jobs, env_settings
from worldmodels.worlds.explore import ExploreJob
from worldmodels.worlds.fitness import DreamFitness, split_jobs
from worldmodels.worlds.population import WIDTH

HELD_OUT = EVALUATION.stop - 10**6      # seeds of the episodes that predictions are scored on, from here on
FILM_START = 20                         # the step at which the dreams of the film strips begin
OWN = "own"                             # the run's world model as it is
# sections of the settings that an entry depends on
SETTINGS = ("seed", "training", "vision", "memory", "joint", "dream", "controller", "learner", "evaluate")


def world_models(config: Config) -> dict[str, Config]:
    """What is compared, by name: the run's settings with another V, M or way of training."""
    given = config.compare
    collect = replace(config.collect, episodes=given.random_episodes + given.controller_episodes)
    memory = replace(config.memory, batch=given.batch, latent=given.latent)
    config = replace(config, training="staged", rounds=1, world="dream", learner=given.learner, collect=collect,
                     memory=memory, controller=given.controller)
    common = {f.name: getattr(config.memory, f.name) for f in fields(MemoryConfig) if f.name != "kind"}
    of = lambda kind, **settings: replace(config, memory=kind.Config(**common | settings))
    dreamer_v3 = {"free_nats": 1.0, "free_nats_per": "step", "kl_posterior_weight": 0.1}
    jointly = lambda found: replace(found, training="jointly", memory=replace(found.memory, latent="sample"))
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
    agent, ways = checked_agent(config, run), chosen_ways(config)
    models = world_models(config)
    if unknown := set(config.compare.models) - {*models, OWN}:
        raise UserError(f"--compare.models {' '.join(sorted(unknown))}: choose from {', '.join([*models, OWN])}")
    check_same_episodes(config, run, agent)
    base = collect_base(config, run, agent)
    held_out = collect_held_out(config, run, agent)
    wanted = config.compare.models or models
    chosen = within_budget({name: models[name] for name in wanted if name != OWN}, base,
                           run.root / "compare" / "plan.json")
    trained_with = lambda name, training: replace(chosen.get(name, config), seed=(config.seed + training) % RUNS)
    if config.trainings_at_once > 1:
        works = [partial(entry_in, name, training, within_a_job(trained_with(name, training)))
                 for training in range(config.compare.trainings) for name in chosen
                 if not entry_path(base, name, training).exists()]
        paths = [path for name in ("base", "held-out") for path in all_files(base.root.parent / name)]
        train_at_once(config, base.root.parent, paths, works)
    for training in range(config.compare.trainings):
        for name in wanted:
            mine = trained_with(name, training)
            say(f"\n{name}, training {training + 1} of {config.compare.trainings}")
            place = own(training, mine, run, base) if name == OWN else entry(name, training, mine, base, held_out)
            act(mine, name, training, [way for way in ways if not (name == OWN and training)
                                       or way not in WITHOUT_TRAINING], place)
            entries, matrix = all_entries(run, list(models)), all_ways(run, [*models, OWN])
            write_json(run.report / "compare.json", {"task": config.task, "seconds": config.compare.seconds,
                                                     "entries": entries, "controllers": matrix})
    tables = [of.markdown(found) for of, found in ((comparison, entries), (ways_to_act, matrix)) if found]
    write_atomic(run.report / "compare.md", "\n\n".join([*tables, ""]).encode())
    if entries:
        compared(entries, films(tuple(comparison.groups(entries)), run, held_out), run.report)
        print(comparison.table(entries))
    if matrix:
        size = 9, 1.6 + 1.1 * len({entry["model"] for entry in matrix})
        plots.save(plots.sheet([ways_to_act.matrix(matrix)], "What acts in which world model", 1, size),
                   run.report / "compare-controllers.png")
        print(ways_to_act.table(matrix))
    print(f"\nin {run.report}/: compare.json, compare.md, compare-*.png, *.jpg")


def all_entries(run: Run, order: list[str]) -> list[dict]:
    """What has been compared so far, also by earlier commands."""
    found = [read_json(path)["entry"] for path in (run.root / "compare").glob("*/entry.json")]
    return sorted(found, key=lambda entry: (order.index(entry["name"]), entry["training"]))


def all_ways(run: Run, order: list[str]) -> list[dict]:
    """The same of the ways to act."""
    found = [read_json(path)["entry"] for path in (run.root / "compare").glob("*/ways/*/entry.json")]
    ways = list(WAYS)
    return sorted(found, key=lambda e: (order.index(e["model"]), ways.index(e["controller"]), e["training"]))


def own(training: int, config: Config, run: Run, base: Run) -> Run:
    """The run's own V, M and controller as one of the compared world models -> compare/own-<training>/."""
    place = base.other(base.root.parent / f"{OWN}-{training}")
    take_vision(run, place)
    link([run.path(name).with_suffix(suffix) for name in ("memory", "controller")
          for suffix in (".safetensors", ".json")], place.path("memory").parent)
    link(base.episodes.glob(f"*{SUFFIX}"), place.episodes)
    link(base.latents.glob("*.safetensors"), place.latents)
    write_settings(config, place)
    of_rounds = sum(round.seconds.get("train_controller", 0) for round in run.until_now)
    write_json(place.wall, {"train_controller": of_rounds})
    return place


def entry_in(name: str, training: int, config: Config, folder: Path):
    """`entry` in a copy of compare/."""
    entry(name, training, config, Run(folder / "base"), held_out_in(config, folder))


def entry_path(base: Run, name: str, training: int) -> Path:
    return base.root.parent / f"{name}-{training}" / "entry.json"


def entry(name: str, training: int, config: Config, base: Run, held_out: dict[str, list[Path]]) -> Run:
    """Trains and scores one world model, if it is not there already -> compare/<name>-<training>/entry.json."""
    done, own_vision = entry_path(base, name, training), trains_vision(config, base)
    place = base.other(done.parent)
    config = replace(config, run=place.root.name)
    link(base.episodes.glob(f"*{SUFFIX}"), place.episodes)
    if not own_vision:
        take_vision(base, place)
        link(base.latents.glob("*.safetensors"), place.latents)
    settings = {name: getattr(config, name) for name in SETTINGS}
    if done.exists():
        if different := differences(read_json(done)["entry"]["settings"], settings):
            raise UserError(f"{place.root} was made with {different}: delete it, or choose the settings that it has")
        return place
    write_settings(config, place)
    if config.training == "jointly":
        train_jointly(config, place)
        encode(config, place)
    else:
        if own_vision:
            train_vision(config, place)
            encode(config, place)
        train_memory(config, place)
    train_controller(config, place)
    agent, took = load_agent(place), place.seconds
    write_json(done, {"entry": {
        "name": name, "training": training, "settings": plain(settings),
        "steps": (config.joint if config.training == "jointly" else config.memory).steps,
        "parameters": sum(p.numel() for p in agent.memory.parameters()),
        "seconds": sum(took.get(stage, 0) for stage in ("train_vision", "train_memory", "train_jointly")),
        **scored(config, place, agent),
        "prediction": {whose: of_five_digits(prediction(agent, list(map(read, paths)), config.seed))
                       for whose, paths in held_out.items()}}})
    return place


def of_five_digits(numbers: dict) -> dict:
    """The same, at a third of the size in a file."""
    return json.loads(json.dumps(numbers), parse_float=lambda number: float(f"{float(number):.5g}"))


@stage()
def train_memory(config: Config, place: Run):
    """M with a seed of its own, whatever that of V is."""
    train_on_latents(config, place)


def take_vision(of: Run, place: Run):
    link([of.path("vision"), of.path("vision").with_suffix(".json")], place.own_path("vision").parent)


def scored(config: Config, place: Run, agent: Agent) -> dict:
    """The controller's scores in the game and in the dream, and the dream's speed."""
    controller, name = load_controller(place, agent), trained_name(config.world)
    with open_executor(config) as executor:
        real = score_played(config, agent, controller, name, executor)
        world = whole_dream(config, agent, encoded(config, place, agent))
        dream, seeds = DreamFitness(agent, world, executor, config.gpus), dream_seeds(config)
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


def check_same_episodes(config: Config, run: Run, agent: Agent):
    """A UserError where earlier entries were trained on other episodes than this command's."""
    recorded, collected = run.root / "compare" / "episodes.json", common_settings(config)
    given = ("random_episodes", "controller_episodes", "weight_noise")
    collected |= {"explore_share": config.collect.explore_share, "vision": agent.vision_digest,
                  "controller": run.load("controller", "train_controller")[1]["digest"],
                  "compare": {name: getattr(config.compare, name) for name in given}}
    if recorded.exists() and (different := differences(read_json(recorded).get("made_with", {}), collected)):
        raise UserError(f"the world models in {recorded.parent} were trained on episodes of {different}: delete the "
                        "folder, or choose the settings that it has")
    write_json(recorded, {"made_with": plain(collected)})


def collect_base(config: Config, run: Run, agent: Agent) -> Run:
    """The episodes that all world models are trained on, encoded with the run's V."""
    base, counts = run.other(run.root / "compare" / "base"), config.compare
    play(config, run, agent, config.collect, "episodes to train on", {
        "random": (base.episodes, episode_seeds(config.seed, 1, "collect")[:counts.random_episodes]),
        "controller": (base.episodes, episode_seeds(config.seed, 2, "collect")[:counts.controller_episodes])},
        counts.weight_noise)
    take_vision(run, base)
    encode_episodes(config, base)
    return base


def collect_held_out(config: Config, run: Run, agent: Agent) -> dict[str, list[Path]]:
    """Episodes that predictions are scored on, by whose they are, each as long as the game."""
    settings = replace(config.collect, max_steps=task_of(config).max_steps, explore_share=0.0)
    folder = run.root / "compare"
    wanted = {whose: (folder / "held-out" / whose, held_out_seeds(config)) for whose in comparison.EPISODES}
    play(config, run, agent, settings, "held-out episodes", wanted)
    return held_out_in(config, folder)


def held_out_in(config: Config, folder: Path) -> dict[str, list[Path]]:
    """The held-out episodes of compare/ or of a copy of it."""
    return {whose: [episode_path(folder / "held-out" / whose, seed) for seed in held_out_seeds(config)]
            for whose in comparison.EPISODES}


def held_out_seeds(config: Config) -> range:
    return range(HELD_OUT, HELD_OUT + config.compare.episodes)


def play(config: Config, run: Run, agent: Agent, settings: CollectConfig, what: str,
         wanted: dict[str, tuple[Path, range]], weight_noise: float = 0.0):
    """Collects what is missing of the episodes of these seeds in these folders, of the "random" policy that collects
    first and of the run's "controller", with noise on its weights."""
    task, spec = task_of(config), load_controller(run, agent)
    missing = {whose: [seed for seed in seeds if not episode_path(folder, seed).exists()]
               for whose, (folder, seeds) in wanted.items()}
    jobs: list[tuple[Path, Callable]] = [
        (wanted["random"][0], job) for job in collect_jobs(task, settings, missing["random"], kept=True)]
    jobs += [(wanted["controller"][0], ExploreJob(task, agent.shared, run.round, settings, env_settings(task, settings),
                                                  spec, tuple(missing["controller"][part]), weight_noise))
             for part in split_jobs(len(missing["controller"]))]
    total = sum(map(len, missing.values()))
    if total:
        with open_executor(config) as executor, tqdm(total=total, desc=what, unit="episode") as bar:
            for number, played in executor.each(job for _, job in jobs):
                folder, _ = jobs[number]
                played.write(folder)
                bar.update(len(played.steps))


if __name__ == "__main__":
    main(compare)
