"""Play inside the dream: python -m worldmodels.play --task car_racing. The real game runs beside it, on the same
keys."""

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from worldmodels.agent import Agent, load_controller, open_agent
from worldmodels.commandline import Range, Weight, Whole, check_ranges, errors_in_one_line, parsed
from worldmodels.controller import PolicySpec
from worldmodels.envs import import_task
from worldmodels.executors import ctrl_c_waits
from worldmodels.report import plots
from worldmodels.runs import EVALUATION
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectConfig, env_settings
from worldmodels.worlds.dream import DreamConfig, DreamWorld
from worldmodels.worlds.real import real_world

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame  # noqa: E402

SIDE = 320              # pixels of each of the three pictures
TEXT = 20               # pixels of a line of text
TAU = 0.05              # what a key adds to the temperature
KEYS = {"left": pygame.K_LEFT, "right": pygame.K_RIGHT, "up": pygame.K_UP, "down": pygame.K_DOWN}  # as tasks name them
WITHOUT = "--headless 200 --actor dream --film FILE plays without one"
HELP = "arrows: act   space: dream on from the game's present   + -: tau   C: who acts   R: next episode   Esc: end"
ACTORS = {"you": "you act", "dream": "the controller acts, and sees the dream",
          "game": "the controller acts, and sees the game"}


@dataclass(frozen=True)
class PlayConfig:
    task: str = "take_cover"
    """The game; my_module:TASK for one of your own."""
    run: str = ""
    """A run's folder or its name in data/<task>/; the published one if not given."""
    seed: Annotated[int, Range(0, EVALUATION.stop - 1)] = 0
    """Seed of the first episode."""
    temperature: Weight = 0.0
    """tau at the beginning; 0: the run's own."""
    actor: Literal["you", "dream", "game"] = "you"
    """Who acts at the beginning: you, or the run's controller, which sees the dream or the game."""
    headless: Whole = 0
    """So many steps without a window, as fast as they come; 0: a window, at the game's own pace."""
    film: str = ""
    """Where to keep what was seen, FILE.webp; it is held in memory until the end."""


class Pair:
    """A dream and the real game from the same first frame on, given the same actions. What has ended stands still; a
    dream does so at the latest after as many steps as the game has."""

    def __init__(self, agent: Agent, collect: CollectConfig, temperature: float):
        self.agent, self.task = agent, agent.task
        self.game = real_world(agent, self.task.max_steps, env_settings(self.task, collect))
        self.dream = DreamWorld(agent.memory, None, DreamConfig(temperature, max_steps=self.task.steps(collect.repeat)))

    @property
    def temperature(self) -> float:
        return self.dream.config.temperature

    def change_temperature(self, by: float):
        """Adds to tau, which stays at TAU or above."""
        self.dream.config = replace(self.dream.config, temperature=max(TAU, self.temperature + by))

    @torch.inference_mode()
    def begin(self, seed: int):
        """The game of this seed, and the dream of what it shows first."""
        self.game.reset([seed])
        self.game_return, self.game_over, self.steps, self.seed = 0.0, False, 0, seed
        self.wake()

    def wake(self):
        """The dream goes on from the game's present: M has seen the real frames up to here."""
        self.dream.begin(self.game.state, [self.seed + self.steps])
        self.dream_return, self.dream_over, self.dream_steps = 0.0, False, 0

    @torch.inference_mode()
    def step(self, action: np.ndarray):
        """One action [A] in both."""
        action = torch.from_numpy(action[None])
        if not self.dream_over:
            step = self.dream.step(action)
            self.dream_return, self.dream_over = self.dream_return + step.reward.item(), step.done.item()
            self.dream_steps += 1
        if not self.game_over:
            step = self.game.step(action)
            self.game_return, self.game_over = self.game_return + step.reward.item(), step.done.item()
            self.steps += 1

    def pictures(self) -> dict[str, np.ndarray]:
        """The dream, the game as V keeps it, and the game, each [64, 64, 3] uint8, with what is to be said of each."""
        decoded, dreamt = (self.agent.decode(self.agent.memory.latent(world.state)[0])
                           for world in (self.game, self.dream))
        over = {True: ", over", False: ""}
        return {f"dream, {self.dream_steps} steps: {self.dream_return:.0f}{over[self.dream_over]}": dreamt,
                "the game as V keeps it": decoded,
                f"game, {self.steps} steps: {self.game_return:.0f}{over[self.game_over]}": self.game.frames[0]}


class Player:
    """The window, and who acts: keys, or the controller if there is one."""

    def __init__(self, pair: Pair, controller: PolicySpec | None, actor: str, seed: int):
        self.pair, self.space = pair, pair.task.action_space
        self.keys = {KEYS[name]: change for name, change in pair.task.keys.items()}
        self.policy = None if controller is None else pair.agent.policy_of(controller)
        self.actor, self.seed, self.held, self.open = actor, seed, set(), True
        self.window = pygame.display.set_mode((3 * SIDE, SIDE + 4 * TEXT))
        pygame.display.set_caption("World Models: the dream and the game")
        pygame.font.init()
        self.font = pygame.font.Font(None, TEXT + 2)
        with ctrl_c_waits():                        # starts a game engine
            self.begin()

    def begin(self):
        """An episode of the seed of now."""
        self.pair.begin(self.seed)
        if self.policy:
            self.policy.reset([self.seed])

    def listen(self):
        """Takes the keys that were pressed and let go."""
        for event in pygame.event.get():
            if event.type == pygame.QUIT or event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE:
                self.end()
            elif event.type == pygame.KEYUP:
                self.held.discard(event.key)
            elif event.type == pygame.KEYDOWN:
                self.held.add(event.key)
                self.press(event.key)

    def end(self):
        self.open = False

    def press(self, key: int):
        if key == pygame.K_SPACE:
            self.pair.wake()
        elif key == pygame.K_r:
            self.seed += 1
            self.begin()
        elif key == pygame.K_c:
            actors = list(ACTORS) if self.policy else ["you"]
            self.actor = actors[(actors.index(self.actor) + 1) % len(actors)]
        elif key in (pygame.K_PLUS, pygame.K_KP_PLUS, pygame.K_EQUALS):
            self.pair.change_temperature(TAU)
        elif key in (pygame.K_MINUS, pygame.K_KP_MINUS):
            self.pair.change_temperature(-TAU)

    def action(self) -> np.ndarray:
        """[A]"""
        if self.actor != "you":
            with torch.inference_mode():
                return self.policy({"dream": self.pair.dream, "game": self.pair.game}[self.actor].state)[0].numpy()
        total = sum((np.array(self.keys[key], np.float32) for key in self.held & self.keys.keys()),
                    np.zeros(self.space.shape, np.float32))
        return np.clip(total, self.space.low, self.space.high)

    def show(self) -> np.ndarray:
        """Draws the window; returns its picture [h, w, 3] uint8."""
        self.window.fill("black")
        for i, (text, frame) in enumerate(self.pair.pictures().items()):
            picture = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
            self.window.blit(pygame.transform.scale(picture, (SIDE, SIDE)), (i * SIDE, TEXT + 8))
            self.write(text, i * SIDE + 6, 6)
        self.write(f"tau {self.pair.temperature:.2f}   episode {self.seed}   {ACTORS[self.actor]}", 6, SIDE + TEXT + 16)
        self.write(HELP, 6, SIDE + 2 * TEXT + 18)
        pygame.display.flip()
        return pygame.surfarray.array3d(self.window).swapaxes(0, 1)

    def write(self, text: str, x: int, y: int):
        self.window.blit(self.font.render(text, True, "white"), (x, y))


def open_display(headless: bool):
    """pygame's display; a UserError where there is none to be seen."""
    if headless:
        os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        pygame.display.init()
    except pygame.error as error:
        raise UserError(f"no window can be opened here ({error}): {WITHOUT}") from None
    if not headless and pygame.display.get_driver() in ("dummy", "offscreen"):
        raise UserError(f"there is no display here for a window: {WITHOUT}")


def check(config: PlayConfig):
    """Raises UserError for what cannot be played."""
    check_ranges(config)
    film = Path(config.film)
    if config.film and (film.suffix != ".webp" or film.is_dir() or not os.access(film.absolute().parent, os.W_OK)):
        raise UserError(f"--film {film}: must be a FILE.webp in a folder that can be written to")


def play(config: PlayConfig):
    """Plays until the window is closed, or for --headless steps, episode after episode."""
    check(config)
    run, agent = open_agent(import_task(config.task).name, config.run or None)
    collect = run.settings(CollectConfig, "collect")
    temperature = config.temperature or run.settings(DreamConfig, "dream").temperature
    controller = None
    if config.actor != "you" or run.path("controller").exists():
        controller = load_controller(run, agent)
    open_display(config.headless > 0)
    pair, fps = Pair(agent, collect, temperature), agent.task.fps / collect.repeat
    player, clock, seen, steps = Player(pair, controller, config.actor, config.seed), pygame.time.Clock(), [], 0
    before = signal.signal(signal.SIGINT, lambda *_: player.end())      # Ctrl-C: the step in flight is the last one
    try:
        while player.open and steps < (config.headless or np.inf):
            picture = player.show()
            if config.film:
                seen.append(picture)
            if config.headless and pair.dream_over and pair.game_over:
                player.press(pygame.K_r)
            elif not config.headless:
                clock.tick(fps)
            player.listen()
            pair.step(player.action())
            steps += 1
    finally:
        signal.signal(signal.SIGINT, before)
        pair.game.close()
        pygame.quit()
    if seen:
        plots.film(seen, Path(config.film), fps)
    print("; ".join(text for text in pair.pictures() if ":" in text))


def main():
    """The command line."""
    with errors_in_one_line("begins anew"):
        play(parsed(PlayConfig(), sys.argv[1:], "Play inside the dream, the real game beside it. " + HELP))


if __name__ == "__main__":
    main()
