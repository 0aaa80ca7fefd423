"""Beside the stages: the gallery. Both games as each published world model dreams them, the dream beside the game, and
a page that shows all of it -> docs/gallery.md, docs/pictures/gallery/, docs/pictures/hero.webp."""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from worldmodels import runs
from worldmodels.commandline import Count, check_ranges, errors_in_one_line, parsed
from worldmodels.envs import Task
from worldmodels.episodes import Episode
from worldmodels.files import read_json, write_atomic
from worldmodels.report.plots import film
from worldmodels.report.prediction import film as dream_along
from worldmodels.report.scores import spread
from worldmodels.types import UserError
from worldmodels.web.choices import Choice, choices
from worldmodels.worlds.collect import env_settings
from worldmodels.worlds.pair import Pair, Progress
from worldmodels.worlds.real import real_world
from worldmodels.worlds.record import record

SEED = 1_000_000_000        # of every episode that is shown: the first one that scores are made on
PIXELS = 192                # of a panel's side
GAP = 8                     # pixels between panels
TEXT = 24                   # pixels of the line above a panel
FPS = 10                    # steps a second of every film, whatever the game's
BEFORE = 20                 # steps of the game that M has seen when its dream begins

PAGE = """# Gallery

Two games, and how each published world model dreams them. `python -m pipeline.gallery` makes this page and its films
(two minutes). All episodes are of one seed, {seed}, which was fixed before anybody looked. Films run at {fps} steps a
second. A step is four frames of the game.

{games}
"""
GAME = """## {env}

### One moment, dreamt by all

![The game, and what each world model dreams of it](pictures/gallery/{task}-all.webp)

Every world model has seen the first {before} steps of this episode of the game, and dreams on from there, given the
recorded actions. What it cannot know, such as the next bend or whether a monster throws, it makes up.

{models}"""
MODEL = """### {name}

![The dream of {name} beside the game](pictures/gallery/{film}.webp)

The controller that was trained in this dream acts in it (left). The game gets the same actions (right), so the two part
where the dream is wrong. {numbers}
"""


@dataclass(frozen=True)
class GalleryConfig:
    data: str = ""
    """The folder of the runs to show; the published ones if not given."""
    out: str = "docs"
    """Where gallery.md and pictures/ are written."""
    steps: Count = 100
    """Steps of a film."""


def gallery(config: GalleryConfig):
    """Makes the films and the page."""
    found, out = choices([Path(config.data) if config.data else runs.PUBLISHED]), Path(config.out)
    games: dict[str, dict[str, Choice]] = {}
    for name, choice in found.items():
        games.setdefault(choice.agent.task.name, {})[name] = choice
    if not games:
        raise UserError(f"there is no run in {config.data or runs.PUBLISHED}")
    pictures, sections = out / "pictures" / "gallery", []
    pictures.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(found) + 2 * len(games), desc="filming", unit="film") as bar:
        for task, models in games.items():
            film(all_dreams(list(models.values()), config.steps), pictures / f"{task}-all.webp", FPS)
            bar.update()
            texts = []
            for name, choice in models.items():
                film(side_by_side(choice, config.steps), pictures / f"{file_name(name)}.webp", FPS)
                bar.update()
                texts.append(MODEL.format(name=title(choice), film=file_name(name), numbers=numbers_of(choice)))
            env = next(iter(models.values())).agent.task.env_id
            sections.append(GAME.format(env=env, task=task, before=BEFORE, models="\n".join(texts)))
        firsts = [next(iter(models.values())) for models in games.values()]
        film(hero(firsts, config.steps), out / "pictures" / "hero.webp", FPS)
        bar.update(len(games))
    page = PAGE.format(seed=f"{SEED:,}", fps=FPS, games="\n".join(sections))
    write_atomic(out / "gallery.md", (page.rstrip() + "\n").encode())
    print(f"in {out}/: gallery.md, pictures/hero.webp, pictures/gallery/")


def title(choice: Choice) -> str:
    """What a world model is called on the page: as pipeline.compare does, or by its kind."""
    _, _, *model = choice.id.split("/")
    return model[0].rsplit("-", 1)[0] if model else choice.agent.memory.config.kind


def file_name(name: str) -> str:
    return name.replace("/", "-").replace("_", "-")


def numbers_of(choice: Choice) -> str:
    """How it was trained and what it scored, from its files."""
    kind, stored = choice.agent.memory.config.kind, choice.run.root / "entry.json"
    if stored.exists():
        entry = read_json(stored)["entry"]
        game, dream = entry["scores"]
        return (f"M ({kind}, {entry['parameters']:,} parameters) was trained for {entry['seconds']:.0f} seconds, and "
                f"one controller in its dream: {spread(game)} in the game ({game['episodes']} episodes), "
                f"{spread(dream)} in the dream.")
    return f"M is of the kind {kind}. Its scores stand in [results](results.md)."


# ---- what is filmed: lists of pictures [h, w, 3] uint8


def side_by_side(choice: Choice, steps: int) -> list[np.ndarray]:
    """The controller in the dream, and the game given the same actions, from the same moment."""
    with closing(Pair(choice.agent, choice.collect, choice.temperature)) as pair:
        policy = choice.agent.policy_of(choice.controller)
        policy.reset([SEED])
        pair.begin(SEED)
        for _ in range(BEFORE):
            pair.step(pair.act(policy, "game"))
        pair.wake()
        seen = []
        for _ in range(steps):
            shown = pair.pictures()
            seen.append(row([(f"dream{ended(pair.dreamed, pair.task)}", shown["dream"]),
                             (f"game{ended(pair.played, pair.task)}", shown["game"])]))
            pair.step(pair.act(policy, "dream"))
    return seen


def all_dreams(models: Sequence[Choice], steps: int) -> list[np.ndarray]:
    """An episode of the first one's controller in the game, and what each world model dreams of it."""
    episode = played(models[0], BEFORE + steps)
    start, dreams = min(BEFORE, len(episode.action) // 2), {"the game": episode.frames}
    for choice in models:
        dreams[title(choice)] = dream_along(choice.agent, episode, start, steps, SEED)
    length = min(map(len, dreams.values()))
    return [grid([(name if t < start or i == 0 else f"{name}, dreamt", frames[t])
                  for i, (name, frames) in enumerate(dreams.items())]) for t in range(length)]


def hero(shown: Sequence[Choice], steps: int) -> list[np.ndarray]:
    """Of each game: the controller in its dream, and the same controller in the game."""
    columns = [lives(choice, world, steps) for choice in shown for world in ("dream", "game")]
    return [row(panels) for panels in zip(*columns)]


def lives(choice: Choice, world: str, steps: int) -> list[tuple[str, np.ndarray]]:
    """The controller in the "dream" or in the "game", episode after episode: `steps` pictures, and what to say of
    each."""
    name, seed, seen = choice.agent.task.name, SEED, []
    with closing(Pair(choice.agent, choice.collect, choice.temperature)) as pair:
        policy = choice.agent.policy_of(choice.controller)
        while len(seen) < steps:
            pair.begin(seed)
            policy.reset([seed])
            progress = {"dream": pair.dreamed, "game": pair.played}[world]
            while not progress.over:
                seen.append((f"{name}: {world}", pair.pictures()[world]))
                pair.step(pair.act(policy, world))
            seen += [(f"{name}: {world}{ended(progress, pair.task)}", pair.pictures()[world])] * FPS
            seed += 1
    return seen[:steps]


def played(choice: Choice, steps: int) -> Episode:
    """The controller's episode of the game, as V sees it."""
    task = choice.agent.task
    with closing(real_world(choice.agent, task.max_steps, env_settings(task, choice.collect))) as world:
        seen = record(world, choice.agent.memory, choice.agent.policy_of(choice.controller), SEED,
                      lambda: (world.frames[0],) * 2, steps)
    return seen.encoded()._replace(frames=seen.seen)


def ended(progress: Progress, task: Task) -> str:
    """How an episode has ended, to be said behind its name."""
    if not progress.over:
        return ""
    return ", time over" if progress.truncated else ", died" if task.survival else ", ended"


def panel(text: str, frame: np.ndarray) -> np.ndarray:
    """A frame enlarged, with a line of text above it."""
    large = cv2.resize(frame, (PIXELS, PIXELS), interpolation=cv2.INTER_NEAREST)
    large = cv2.copyMakeBorder(large, TEXT, 0, 0, 0, cv2.BORDER_CONSTANT, value=(24, 24, 28))
    cv2.putText(large, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (240, 240, 240), 1, cv2.LINE_AA)
    return large


def row(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Panels beside each other."""
    between = np.full((PIXELS + TEXT, GAP, 3), 24, np.uint8)
    parts = [part for text, frame in panels for part in (between, panel(text, frame))]
    return np.concatenate([*parts[1:]], 1)


def grid(panels: Sequence[tuple[str, np.ndarray]], columns: int = 3) -> np.ndarray:
    """Rows of panels, the last one filled up with black ones."""
    black = ("", np.full((64, 64, 3), 24, np.uint8))
    padded = [*panels, *[black] * (-len(panels) % columns)]
    return np.concatenate([row(padded[i:i + columns]) for i in range(0, len(padded), columns)])


def main():
    """The command line."""
    with errors_in_one_line("makes everything anew"):
        config = parsed(GalleryConfig(), sys.argv[1:], __doc__)
        check_ranges(config)
        gallery(config)


if __name__ == "__main__":
    main()
