"""The controller that another one learns from (controller/distill.py), with its own V and M."""

from functools import partial
from pathlib import Path

from pipeline.command import device, task_of
from pipeline.presets import Config
from worldmodels import episodes
from worldmodels.agent import Agent, load_agent, load_controller, open_agent
from worldmodels.controller import Teacher
from worldmodels.latents import Encoded, Latents, latent_path, open_latents
from worldmodels.runs import Run
from worldmodels.types import UserError, Vision
from worldmodels.vision.train import encode


class SeenBy:
    """A run's episodes as another V encodes them, each when it is asked for, in the order of the latents by its own."""

    def __init__(self, vision: Vision, run: Run, latents: Latents, latent: str):
        self.vision, self.latent = vision, latent
        recorded = [path for round in run.until_now for path in round.episodes.glob(f"*{episodes.SUFFIX}")]
        by_name = {latent_path(Path(), path).name: path for path in recorded}
        self.paths = [by_name.get(path.name) for path in latents.paths]
        if None in self.paths:
            raise UserError(f"the frames of episodes of {run.root} are gone: a teacher with another V has to see them")

    def episode(self, number: int) -> Encoded:
        episode = episodes.read(self.paths[number])
        mean, log_var = encode(self.vision, episode.frames).as_latent(self.latent)
        return Encoded(mean.numpy(), episode.action, episode.reward, episode.terminated,
                       None if log_var is None else log_var.numpy())


def teacher(config: Config, run: Run, agent: Agent, name: str) -> Teacher:
    """The last controller of the run of this name, in --data first, or folder; without one, that of the round
    before."""
    if not name and run.round == 1:
        raise UserError("--learner.teacher: name the run whose controller is to be learned from; in the first round "
                        "there is none before")
    if name:
        beside = Path(config.data) / config.task / name
        where = beside if (beside / "config.json").exists() else name
        run_of_it, theirs = open_agent(config.task, where, device(config), "controller")
    else:
        run_of_it = run.at(run.round - 1)
        theirs = load_agent(run_of_it, device(config), task_of(config))
    return Teacher(theirs, load_controller(run_of_it, theirs), partial(seen, config, run, agent, theirs))


def seen(config: Config, run: Run, agent: Agent, theirs: Agent) -> Latents | SeenBy:
    """The run's episodes as a teacher's V encodes them, in the order in which the student's V's latents are."""
    opened = partial(open_latents, run, config.collect.min_steps, agent.vision_digest)
    latent = theirs.memory.config.latent
    if theirs.vision_digest == agent.vision_digest:
        return opened(latent)
    return SeenBy(theirs.vision, run, opened(agent.memory.config.latent), latent)
