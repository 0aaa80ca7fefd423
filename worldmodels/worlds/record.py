"""Rollouts that are remembered: whole episodes of a world, to be stored or looked at."""

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from worldmodels.agent import Agent
from worldmodels.controller import PolicySpec
from worldmodels.episodes import Episode, Track
from worldmodels.types import Memory, Policy, Seeds, State, Step, World
from worldmodels.worlds.real import real_world
from worldmodels.worlds.rollout import rollout


class Recorder:
    """A world whose episodes are handed to `end` as they end. `see()` gives what to keep of the rollouts as they are
    now, a list [B]."""

    def __init__(self, world: World, see: Callable[[], list[Any]], end: Callable[[Track], None]):
        self.world, self.see, self.end = world, see, end
        # what has ended goes at once, else it could end again
        self.max_batch, self.compact_above = world.max_batch, 0.0

    def reset(self, seeds: Seeds) -> State:
        state = self.world.reset(seeds)
        self.tracks = [Track(seed, [seen], []) for seed, seen in zip(seeds, self.see())]
        return state

    def step(self, action: Tensor) -> Step:
        step = self.world.step(action)
        for track, seen, *moment in zip(self.tracks, self.see(), *(t.cpu().numpy() for t in (action, *step[1:]))):
            track.seen.append(seen)
            track.moments.append(moment)
        for track, done in zip(self.tracks, step.done):
            if done:
                self.end(track)
        return step

    def select_and_reset(self, index: Tensor, seeds: Seeds) -> State:
        state = self.world.select_and_reset(index, seeds)
        self.tracks = [self.tracks[i] for i in index.tolist()]
        self.tracks += [Track(seed, [seen], []) for seed, seen in zip(seeds, self.see()[len(self.tracks):])]
        return state


def recorded(world: World, policy: Policy, seeds: Seeds, see: Callable[[], list[Any]]) -> list[Episode]:
    """Plays an episode for each seed; what `see` gives stands where an Episode has frames."""
    found = {}

    def end(track: Track):
        found[track.seed] = track.episode()

    rollout(Recorder(world, see, end), policy, seeds)
    return [found[seed] for seed in seeds]


class Recording(NamedTuple):
    """One episode, watched: what was seen, done and got."""

    features: np.ndarray    # [T+1, F]
    latent: np.ndarray      # [T+1, Z]
    frames: np.ndarray      # [T+1, h, w, 3] uint8: the game's picture, or the decoded dream
    seen: np.ndarray        # [T+1, 64, 64, 3] uint8: what V saw (in the dream: the same as `frames`)
    action: np.ndarray      # [T, A]
    reward: np.ndarray      # [T]
    terminated: np.ndarray  # [T] bool

    def encoded(self) -> Episode:
        """As an episode with latents where others have frames; the end of the watching counts as one by the clock."""
        last = np.arange(len(self.action)) == len(self.action) - 1
        return Episode(self.latent, self.action, self.reward, self.terminated, last & ~self.terminated)


def record_games(agent: Agent, controller: PolicySpec, settings: tuple, seeds: Seeds) -> list[Recording]:
    """An episode of the real game for each seed, one after the other; its pictures are what V saw. `settings` are the
    environment's beside max_steps."""
    task, policy = agent.task, agent.policy_of(controller)
    with closing(real_world(agent, task.max_steps, settings)) as world:
        seen = lambda: (world.frames[0],) * 2
        return [record(world, agent.memory, policy, seed, seen, task.max_steps) for seed in seeds]


def record(world: World, memory: Memory, policy: Policy, seed: int,
           picture: Callable[[], tuple[np.ndarray, np.ndarray]], steps: int) -> Recording:
    """Plays one episode of at most `steps` steps; `picture()` -> (frame, what V saw) of the world as it is now."""
    def see() -> list[tuple]:
        return [(world.state.features[0].cpu().numpy(), memory.latent(world.state)[0].cpu().numpy(), *picture())]

    recorder = Recorder(world, see, lambda track: None)
    rollout(recorder, policy, [seed], steps)
    track, = recorder.tracks
    episode = track.episode()
    return Recording(*map(np.stack, zip(*track.seen)), episode.action, episode.reward, episode.terminated)
