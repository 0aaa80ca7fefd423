"""Stage 6: scores and pictures -> report/."""

import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import torch
from tqdm import tqdm

from pipeline.command import controller_info, device, main, say, workers
from pipeline.presets import Config
from pipeline.train_controller import checked_agent
from worldmodels import plots
from worldmodels.envs import TASKS
from worldmodels.evaluate import RandomPolicy, dream_along, record, score, table
from worldmodels.executors import LocalExecutor
from worldmodels.files import read_json, write_json
from worldmodels.memory.latents import Latents, open_latents
from worldmodels.runs import Run, differences, read_metrics
from worldmodels.types import Executor, UserError
from worldmodels.worlds.agent import Agent, DreamFitness, RealFitness
from worldmodels.worlds.collect import CollectJob, env_settings
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.real import RealWorld
from worldmodels.worlds.rollout import rollout


def evaluate(config: Config, run: Run):
    """Stage 6: scores and pictures -> report/."""
    agent, digest = checked_agent(config, run)
    info = controller_info(config, digest)
    if not run.finished("controller", info):
        raise UserError(f"no controller in {run.folder}: run `python -m pipeline.train_controller` first")
    tensors, info = run.load("controller", "train_controller")
    made_with, settings = run.report / "made_with.json", {"controller": info, "evaluate": asdict(config.evaluate)}
    if made_with.exists() and not differences(read_json(made_with), settings):
        say("evaluate: the report is there")
    else:
        report(config, run, agent, digest, tensors["parameters"].numpy())
        write_json(made_with, settings)
    print(f"\n{TASKS[config.task].env_id}, run {run.folder}")
    print(table(read_json(run.report / "scores.json")))
    print(f"\nscores and pictures are in {run.report}/: " + ", ".join(sorted(p.name for p in run.report.glob("*.*"))))


def report(config: Config, run: Run, agent: Agent, digest: str, controller: np.ndarray):
    """scores.json and the pictures."""
    latents = open_latents(run, config.collect.min_steps, digest.split("-")[0])
    name = f"controller from the {config.world}"
    with LocalExecutor(workers(config)) as executor:
        scores = score_real(config, run, digest, controller, name, executor)
        scores += score_dream(config, run, agent, digest, latents, controller, name, executor)
    write_json(run.report / "scores.json", scores)
    draw(config, run, agent, latents, controller, scores)


def score_real(config: Config, run: Run, digest: str, controller: np.ndarray, name: str, executor: Executor) -> list[dict]:
    """The task's random policies, acting at every frame, then the collecting policy as it collected, then the controller."""
    task, e = TASKS[config.task], config.evaluate
    common = {"temperature": None, "first_seed": e.first_seed, "workers": workers(config), "device": "cpu"}
    random = {f"random ({policy})": replace(config.collect, policy=policy, repeat=1) for policy in task.baselines}
    random[collector(config)] = config.collect
    scores = []
    for label, settings in random.items():
        settings = replace(settings, max_steps=task.max_steps)
        jobs = [CollectJob(config.task, settings, e.first_seed + i) for i in range(e.random_episodes)]
        with timed(f"{label}, real game", e.random_episodes) as (bar, wall):
            returns = [total for _, total in executor.run(jobs, bar)]
        scores.append(score(config.task, "real", label, returns, wall(), **common))
    official = replace(config.collect, drawing="official")
    fitness = RealFitness(executor, run, digest, task.max_steps, env_settings(config.task, official))
    with timed(f"{name}, real game", e.episodes) as (bar, wall):
        returns = fitness(controller[None], range(e.first_seed, e.first_seed + e.episodes), bar)[0]
    scores.append(score(config.task, "real", name, returns, wall(), **common))
    return scores


def collector(config: Config) -> str:
    """The collecting policy's name in the scores."""
    times = "" if config.collect.repeat == 1 else f" × {config.collect.repeat}"
    return f"random ({config.collect.policy}{times})"


def whole_dream(config: Config, agent: Agent, latents: Latents) -> DreamWorld:
    """The dream from first frames on, as long as the game."""
    length = -(-TASKS[config.task].max_steps // config.collect.repeat)
    return DreamWorld(agent.memory, latents, DreamConfig(config.dream.temperature, max_steps=length))


def score_dream(config: Config, run: Run, agent: Agent, digest: str, latents: Latents, controller: np.ndarray, name: str,
                executor: Executor) -> list[dict]:
    """The collecting policy and the controller in the dream."""
    e, world = config.evaluate, whole_dream(config, agent, latents)
    seeds = range(e.first_seed, e.first_seed + e.dream_episodes)
    stream = TASKS[config.task].policies[config.collect.policy]
    fitness = DreamFitness(agent, world, executor, run, digest)
    random = lambda: rollout(world, RandomPolicy.seeded(stream, seeds, world.device), seeds).returns.cpu()
    players = {collector(config): (random, 1),
               name: (lambda: fitness(controller[None], seeds)[0], fitness.executor.size if fitness.executor else 1)}
    common = {"temperature": config.dream.temperature, "first_seed": e.first_seed, "device": str(world.device)}
    scores = []
    for label, (play, processes) in players.items():
        with timed(f"{label}, dream", len(seeds)) as (bar, wall):
            returns = play()
            bar.update(len(seeds))
        scores.append(score(config.task, "dream", label, returns, wall(), workers=processes, **common))
    return scores


@contextmanager
def timed(description: str, total: int):
    """A progress bar, and a function that tells the seconds since it began."""
    start = time.monotonic()
    with tqdm(total=total, desc=description, unit="episode") as bar:
        yield bar, lambda: time.monotonic() - start


def draw(config: Config, run: Run, agent: Agent, latents: Latents, controller: np.ndarray, scores: list[dict]):
    """All pictures of the report."""
    say("drawing")
    task, folder, tau, repeat = TASKS[config.task], run.report, config.dream.temperature, config.collect.repeat
    plots.returns(scores, folder / "returns.png")
    plots.dream_vs_real(scores, folder / "dream_vs_real.png")
    plots.curves(read_metrics(run.folder), folder / "curves.png")

    make_env = lambda: task.env(max_steps=task.max_steps, render_mode="rgb_array",
                                **dict(env_settings(config.task, config.collect)))
    real = RealWorld(make_env, agent.vision, agent.memory)
    seed, steps = config.evaluate.first_seed, config.evaluate.video_steps
    played = record(real, agent.policy(controller[None]), seed, lambda: (real.envs[0].render(), real.frames[0]), steps)
    dream = whole_dream(config, agent, latents)
    z_size = agent.vision.config.z_size

    def decode(z) -> np.ndarray:
        with torch.inference_mode():
            return agent.vision.decode(torch.as_tensor(z, device=device(config))).cpu().numpy()

    def dreamed_picture():
        frame = decode(dream.state.features[:, :z_size])[0]
        return frame, frame

    dreamed = record(dream, agent.policy(controller[None]), seed, dreamed_picture, steps)
    stride = 2 if repeat == 1 else 1                            # a gif plays 50 pictures a second at most
    fps = real.pool[0].metadata["render_fps"] / repeat / stride
    plots.video(played.frames[::stride], folder / "real.gif", fps, "real game", stride * repeat)
    plots.video(dreamed.frames[::stride], folder / "dream.gif", fps, f"dream, tau {tau:g}", stride * repeat)
    start = min(len(played.action) // 4, 60)
    along = dream_along(agent, played, tau, seed, start)
    times = np.linspace(start, min(start + 90, len(played.action)), 10).astype(int)
    rows = {"real": played.seen, "reconstructed by V": decode(played.features[:, :z_size]), "dreamed by M": decode(along)}
    plots.film_strip(rows, times, folder / "film_strip.png",
                     f"M sees the real game up to step {start}, then dreams on, given the same actions")


if __name__ == "__main__":
    main(evaluate)
