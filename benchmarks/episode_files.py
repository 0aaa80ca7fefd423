"""Is writing episodes cheap beside playing them, and does reading outrun training? Prints both ratios, from one run.

    python benchmarks/episode_files.py [take_cover|car_racing] [episodes]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from worldmodels import episodes
from worldmodels.envs import TASKS
from worldmodels.vision import VAE, VAEConfig


def play(task, env, seed: int) -> episodes.Episode:
    frame, _ = env.reset(seed=seed)
    track = episodes.Track(seed, [frame], [])
    for action in next(iter(task.policies.values()))(np.random.default_rng(seed)):
        frame, reward, terminated, truncated, _ = env.step(action)
        track.seen.append(frame)
        track.moments.append((action, reward, terminated, truncated))
        if terminated or truncated:
            return track.episode()


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(name: str = "take_cover", count: str = "20"):
    torch.set_num_threads(1)
    task = TASKS[name]
    env = task.env(max_steps=400)
    played = []
    playing = seconds(lambda: played.extend(play(task, env, seed) for seed in range(int(count))))
    frames = sum(len(e.frames) for e in played)
    with tempfile.TemporaryDirectory() as folder:
        paths = [episodes.episode_path(Path(folder), i) for i in range(len(played))]
        writing = seconds(lambda: [episodes.write(p, e, {}) for p, e in zip(paths, played)])
        reading = seconds(lambda: [episodes.read(p) for p in paths])
        stored = sum(p.stat().st_size for p in paths)
    vision = VAE(VAEConfig())
    batch = torch.from_numpy(np.concatenate([e.frames for e in played])[:100])
    step = lambda: vision.loss(batch, torch.Generator())[0].backward()
    step()
    training = min(seconds(step) for _ in range(3)) / len(batch)
    print(f"{name}: {frames} frames, {stored / frames:.0f} bytes each on disk "
          f"({12288 * frames / stored:.1f} times smaller)")
    print(f"playing {1e6 * playing / frames:.0f} µs a frame, writing {1e6 * writing / frames:.0f}: "
          f"{100 * writing / (playing + writing):.1f}% of collecting")
    print(f"reading {1e6 * reading / frames:.0f} µs a frame, a training step of V {1e6 * training:.0f}: "
          f"reading is {training * frames / reading:.0f} times faster")


if __name__ == "__main__":
    main(*sys.argv[1:])
