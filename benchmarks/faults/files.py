"""What becomes of damaged files: a finished run of the toy task, one of its files damaged at a time, and what reads it.

    python -m benchmarks.faults.files --count 1000

Each case is a copy of the run, a damage and a command (or, where a command would take workers or minutes, the loader
that it calls). It ends well (exit 0: the file was not needed, is made again, or is right all the same), with exit code
2 and one line, or otherwise, which is a bug and is listed.
"""

import argparse
import contextlib
import io
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice, product
from pathlib import Path

from tqdm import tqdm

from pipeline.__main__ import pipeline
from pipeline.collect import collect
from pipeline.command import main
from pipeline.encode import encode
from pipeline.evaluate import evaluate
from worldmodels import Agent, episodes
from worldmodels.agent import load_agent
from worldmodels.commandline import errors_in_one_line
from worldmodels.latents import open_latents
from worldmodels.metrics import read_metrics
from worldmodels.runs import Run

NONSENSE = 500_000      # bytes


def command(stage: Callable) -> Callable[[Run], None]:
    return lambda run: main(stage, arguments(run))


def arguments(run: Run) -> list[str]:
    return ["--task", "toy", "--run", run.root.name, "--data", str(run.root.parents[1]), "--device", "cpu"]


def frames(run: Run):
    next(episodes.EpisodeFolder(run.episodes).frame_batches(16, 0))


def latents(run: Run):
    opened = open_latents(run, 0, load_agent(run).vision_digest)
    for number in range(len(opened.lengths)):
        opened.episode(number)


def acts(run: Run):
    Agent.load(run.root).reset()


# what reads the files of a run, by their names
READERS = {
    "config.json": {"evaluate": command(evaluate)},
    "wall.json": {"evaluate": command(evaluate)},
    "checkpoints/vision.safetensors": {"evaluate": command(evaluate), "Agent.load": acts},
    "checkpoints/memory.safetensors": {"evaluate": command(evaluate), "Agent.load": acts},
    "checkpoints/controller.safetensors": {"evaluate": command(evaluate), "Agent.load": acts},
    "report/scores.json": {"evaluate": command(evaluate)},
    "report/made_with.json": {"evaluate": command(evaluate)},
    "episodes/settings.json": {"collect": command(collect)},
    "episodes/000000001.safetensors.lz4": {"frames": frames, "encode": command(encode)},
    "latents/000000001.safetensors": {"latents": latents, "encode": command(encode)},
    "metrics.jsonl": {"metrics": lambda run: read_metrics(run.folder), "evaluate": command(evaluate)}}


# damages: (what is in the file, chance, what is in other files of the run) -> what is in it then

def truncated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data[:rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def zeroed(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A part of it, as a disk loses it."""
    begin = rng.randrange(len(data))
    size = rng.randrange(1, len(data) - begin + 1)
    return data[:begin] + bytes(size) + data[begin + size:]


def extended(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 5000))


def repeated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data + data


DAMAGES = {damage.__name__: damage for damage in (truncated, flipped, zeroed, extended, repeated)} | {
    "nonsense": lambda data, rng, others: rng.randbytes(NONSENSE), "emptied": lambda data, rng, others: b"",
    "another file": lambda data, rng, others: rng.choice(others)}


def outcome(read: Callable[[Run], None], run: Run) -> tuple[str, str]:
    """"exit 0", "exit 2 with one line" or "otherwise", and what was said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), errors_in_one_line("goes on"):
            read(run)
        return "exit 0", ""
    except SystemExit as stop:
        errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
        one = stop.code == 2 and len(errors) == 1 and said.getvalue().splitlines()[-1] == errors[0]
        return "exit 2 with one line" if one else "otherwise", said.getvalue()[-2000:]
    except Exception:
        return "otherwise", traceback.format_exc()[-2000:]


def run_cases(count: int, seed: int, folder: Path) -> Counter:
    """Damages `count` files; how often each outcome came, by file and damage."""
    whole, found = Run(folder / "whole" / "toy" / "smoke"), Counter()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        main(pipeline, ["--task", "toy", "--preset", "smoke", "--data", str(folder / "whole"), "--device", "cpu"])
    contents = {name: (whole.root / name).read_bytes() for name in READERS}
    readers = [(name, reader, damage) for name in READERS for reader, damage in product(READERS[name], DAMAGES)]
    for number, (name, reader, damage) in enumerate(tqdm(islice(cycle(readers), count), total=count, unit="file")):
        run = Run(folder / "damaged" / "toy" / "smoke")
        shutil.rmtree(run.root, ignore_errors=True)
        shutil.copytree(whole.root, run.root)
        others = [data for other, data in contents.items() if other != name]
        data = DAMAGES[damage](contents[name], random.Random(f"{seed} {number}"), others)
        (run.root / name).write_bytes(data)
        result, said = outcome(READERS[name][reader], run)
        found[name, result] += 1
        if result == "otherwise":
            print(f"{name} {damage}, {reader}, case {number}: {said}", flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = run_cases(options.count, options.seed, Path(place))
    outcomes = ("exit 0", "exit 2 with one line", "otherwise")
    for name in [*READERS, "all"]:
        counts = [sum(n for (of, what), n in found.items() if what == result and name in (of, "all"))
                  for result in outcomes]
        print(f"{name:38}" + "   ".join(f"{what} {n:4d}" for what, n in zip(outcomes, counts)))
