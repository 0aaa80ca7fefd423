"""Does memory stay the same however many rollouts there are, and do 10,000 fit on a small disk?

    python benchmarks/memory.py [--rollouts 100 300 1000] [--run data/car_racing/paper]

Prints, for each number of rollouts, what they occupy on disk and the peak memory of training V on them, of encoding
them and of training M. Each stage has a process of its own on the CPU. Its memory is all that was resident (VmHWM) and,
of that, what is not pages of files (RssAnon). Sizes are those of the paper's preset. V and M are trained for a few
steps only, spread over all rollouts: the batches between them are read and left out, so that the steps see an epoch end
and the next one begin. Where the rollouts don't fill M's windows (random driving leaves the track's grounds, on average
after 640 frames), these are shorter than the paper's.

Without --run it first collects CarRacing's rollouts in a temporary folder, of 999 actions at most. A run that is given
is not changed; `python -m pipeline.collect --preset paper --task car_racing --run many --collect.episodes 1000` makes
one.
"""

import argparse
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch

from pipeline.collect import collect
from pipeline.command import memory_info, vision_info
from pipeline.encode import encode
from pipeline.presets import PRESETS, Config
from worldmodels.agent import build_memory, build_vision
from worldmodels.envs import TASKS
from worldmodels.episodes import SUFFIX, EpisodeFolder
from worldmodels.files import read_json
from worldmodels.latents import open_latents
from worldmodels.memory.train import train_memory
from worldmodels.runs import Run, plain
from worldmodels.vision.train import train_vision

GOAL = {"memory": 8, "disk": 25}        # GB, at 10,000 rollouts of 1,000 frames


def spread(batches: Callable[..., Iterator], epoch: int, steps: int) -> Callable[..., Iterator]:
    """The batches at regular distances, so that `steps` of them lead through an epoch of this many into the next."""
    return lambda *args, **settings: islice(batches(*args, **settings), 0, None, epoch // max(1, steps - 1) + 1)


def vision(config: Config, run: Run):
    episodes = EpisodeFolder(run.episodes)
    epoch = int((episodes.lengths + 1).sum()) // config.vision.batch
    episodes.frame_batches = spread(episodes.frame_batches, epoch, config.vision.steps)
    info = vision_info(config)
    train_vision(build_vision(plain(info)), episodes, run, info, config.seed)


def memory(config: Config, run: Run):
    info = memory_info(config, run)
    latents, m = open_latents(run, 0, info["vision_digest"], config.memory.latent), config.memory
    latents.windows = spread(latents.windows, int(latents.lengths.sum()) // (m.batch * m.sequence), m.steps)
    train_memory(build_memory(plain(info), TASKS[config.task]), latents, run, info, config.seed)


STAGES = {"imports": lambda config, run: None, "V's training": vision, "encoding": encode, "M's training": memory}


def peaks(stage: str, config: Config, folder: Path) -> tuple[float, float]:
    """Runs a stage in this process -> MB of memory that were resident at most, and of anonymous memory (sampled)."""
    anonymous, done = [status("RssAnon")], threading.Event()

    def watch():
        while not done.wait(0.01):
            anonymous.append(status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        STAGES[stage](config, Run(folder))
    finally:
        done.set()
        watcher.join()
    return status("VmHWM"), max(anonymous)


def status(name: str) -> float:
    """A line of this process's status in /proc, in MB."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024 / 1e6


def measure(config: Config, episodes: list[Path], run: Run) -> dict:
    """A row of the table: these episodes' stages, one after the other, in the folder of `run`."""
    run.episodes.mkdir(parents=True)
    for path in episodes:
        (run.episodes / path.name).symlink_to(path.absolute())
    lengths, m = EpisodeFolder(run.episodes).lengths, config.memory
    config = replace(config, collect=replace(config.collect, episodes=len(episodes)),
                     memory=replace(m, sequence=max(1, min(m.sequence, int(lengths.sum()) // m.batch))))
    row = {"frames": int((lengths + 1).sum()), "window": f"{m.batch} × {config.memory.sequence}", "peaks": []}
    for stage in STAGES:
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            row["peaks"].append(executor.submit(peaks, stage, config, run.folder).result())
    return row | {"episodes": megabytes(run.episodes), "latents": megabytes(run.latents)}


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--run", type=Path, help="a run's folder, with at least as many episodes")
    parser.add_argument("--actions", type=int, default=999, help="in a rollout that is collected here, at most")
    parser.add_argument("--steps", type=int, default=60, help="that V is trained for")
    parser.add_argument("--memory-steps", type=int, default=4, help="that M is trained for")
    parser.add_argument("--workers", type=int, default=0, help="that collect; 0: one for each core")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        source = Run(options.run or Path(folder) / "all")
        task = read_json(source.episodes / "settings.json")["task"] if options.run else "car_racing"
        config = PRESETS[task]["paper"]()
        config = replace(config, device="cpu", workers=options.workers,
                         collect=replace(config.collect, episodes=max(options.rollouts), max_steps=options.actions,
                                         min_steps=0),
                         vision=replace(config.vision, steps=options.steps),
                         memory=replace(config.memory, steps=options.memory_steps))
        if not options.run:
            collect(config, source)
        episodes = sorted(source.episodes.glob(f"*{SUFFIX}"))
        if len(episodes) < max(options.rollouts):
            parser.error(f"{source.episodes} holds {len(episodes)} episodes only")
        rows = {count: measure(config, episodes[:count], Run(Path(folder) / str(count))) for count in options.rollouts}

    print(f"\n{task}, {torch.get_num_threads()} threads; MB on disk, and of memory at the peak: all (anonymous)")
    print(f"{'rollouts':>8} {'frames':>10} {'episodes':>9} {'latents':>8}"
          + "".join(f"{stage:>16}" for stage in STAGES))
    for count, row in rows.items():
        print(f"{count:8,} {row['frames']:10,} {row['episodes']:9,.1f} {row['latents']:8,.1f}"
              + "".join(f"{f'{peak:,.0f} ({anonymous:,.0f})':>16}" for peak, anonymous in row["peaks"])
              + f"   M's windows: {row['window']}")
    large = rows[max(rows)]
    # GB for 10 million frames
    stored, encoded = (large[kind] / large["frames"] * 1e4 for kind in ("episodes", "latents"))
    highest = max(peak for row in rows.values() for peak, _ in row["peaks"]) / 1e3
    print(f"10,000 rollouts of 1,000 frames take {stored:.1f} + {encoded:.1f} GB on disk (goal: {GOAL['disk']}); "
          f"the highest peak of memory is {highest:.1f} GB (goal: {GOAL['memory']})")


if __name__ == "__main__":
    main()
