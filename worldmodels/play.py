"""Play inside the dream: python -m worldmodels.play --task car_racing. The real game runs beside it, on the same
keys."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from worldmodels.agent import load_controller, open_agent
from worldmodels.commandline import Range, Weight, Whole, check_ranges, errors_in_one_line, parsed
from worldmodels.controller import PolicySpec
from worldmodels.envs import Task, import_task
from worldmodels.executors import ctrl_c_waits
from worldmodels.report import plots
from worldmodels.runs import EVALUATION
from worldmodels.types import UserError
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.dream import DreamConfig
from worldmodels.worlds.pair import Pair, Progress

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
import pygame  # noqa: E402

SIDE = 320              # pixels of each of the three pictures
GAP = 12                # pixels between them
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


class Player:
    """The window, and who acts: keys, or the controller if there is one."""

    def __init__(self, pair: Pair, controller: PolicySpec | None, actor: str, seed: int, show_help: bool = True):
        self.pair, self.space = pair, pair.task.action_space
        self.keys = {KEYS[name]: change for name, change in pair.task.keys.items()}
        self.policy = None if controller is None else pair.agent.policy_of(controller)
        self.actor, self.seed, self.held, self.open = actor, seed, set(), True
        self.help = show_help
        self.window = pygame.display.set_mode((3 * SIDE + 2 * GAP, SIDE + (4 if show_help else 3) * TEXT))
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
            self.pair.temperature += TAU
        elif key in (pygame.K_MINUS, pygame.K_KP_MINUS):
            self.pair.temperature -= TAU

    def action(self) -> np.ndarray:
        """[A]"""
        if self.actor != "you":
            return self.pair.act(self.policy, self.actor)
        total = sum((np.array(self.keys[key], np.float32) for key in self.held & self.keys.keys()),
                    np.zeros(self.space.shape, np.float32))
        return np.clip(total, self.space.low, self.space.high)

    def show(self) -> np.ndarray:
        """Draws the window; returns its picture [h, w, 3] uint8."""
        self.window.fill("black")
        titles = self.titles()
        for i, (name, frame) in enumerate(self.pair.pictures().items()):
            picture = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
            self.window.blit(pygame.transform.scale(picture, (SIDE, SIDE)), (i * (SIDE + GAP), TEXT + 8))
            self.write(titles[name], i * (SIDE + GAP) + 6, 6)
        self.write(f"tau {self.pair.temperature:.2f}   episode {self.seed}   {ACTORS[self.actor]}", 6, SIDE + TEXT + 16)
        if self.help:
            self.write(HELP, 6, SIDE + 2 * TEXT + 18)
        pygame.display.flip()
        return pygame.surfarray.array3d(self.window).swapaxes(0, 1)

    def titles(self) -> dict[str, str]:
        """What is to be said of each picture."""
        pair = self.pair
        return {"dream": f"dream: {describe(pair.dreamed, pair.task)}", "kept": "the game as V keeps it",
                "game": f"game: {describe(pair.played, pair.task)}"}

    def write(self, text: str, x: int, y: int):
        self.window.blit(self.font.render(text, True, "white"), (x, y))


def describe(progress: Progress, task: Task) -> str:
    """An episode's score so far, and how it ended."""
    ended = {progress.truncated: ", time over", progress.terminated: ", died" if task.survival else ", ended"}
    unit = "frames survived" if task.survival else "points"
    return f"{progress.score:.0f} {unit}, {progress.steps} steps{ended.get(True, '')}"


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
    player = Player(pair, controller, config.actor, config.seed, not config.headless)
    clock, seen, steps = pygame.time.Clock(), [], 0
    before = signal.signal(signal.SIGINT, lambda *_: player.end())      # Ctrl-C: the step in flight is the last one
    try:
        while player.open and steps < (config.headless or np.inf):
            picture = player.show()
            if config.film:
                seen.append(picture)
            if config.headless and pair.dreamed.over and pair.played.over:
                player.press(pygame.K_r)
            elif not config.headless:
                clock.tick(fps)
            player.listen()
            pair.step(player.action())
            steps += 1
    finally:
        signal.signal(signal.SIGINT, before)
        pair.close()
        pygame.quit()
    if seen:
        plots.film(seen, Path(config.film), fps)
    print("; ".join(text for text in player.titles().values() if ":" in text))


def main():
    """The command line."""
    with errors_in_one_line("begins anew"):
        play(parsed(PlayConfig(), sys.argv[1:], "Play inside the dream, the real game beside it. " + HELP))


if __name__ == "__main__":
    main()
