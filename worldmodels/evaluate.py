"""Stage 6: scores of controllers in the real game and in the dream, with intervals, on seeds that nothing was trained on."""

import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from worldmodels.envs import TASKS
from worldmodels.episodes import Episode
from worldmodels.types import State, World


@dataclass(frozen=True)
class EvaluateConfig:
    episodes: int = 100             # of the controller, in the real game
    random_episodes: int = 100      # of each random policy, in the real game
    dream_episodes: int = 1024      # of the controllers and of the collecting policy, in the dream
    other_skills: tuple[int, ...] = ()  # TakeCover: of Doom's skills, at which the last controller plays as many episodes too
    first_seed: int = 1_000_000_000     # episodes take the seeds from here on; collecting starts at 0, evolution draws from all
    transfer_episodes: int = 100    # of the controller, from which transfer.png is drawn
    video_steps: int = 300          # length of each video


def score(task: str, world: str, controller: str, returns: np.ndarray, **more) -> dict:
    """One entry of scores.json, with what `more` says (the dream's temperature, or None in the game; wall_s, first_seed and so on);
    ci95 is the normal interval of the mean."""
    returns = np.asarray(returns, np.float64)
    mean, std = float(returns.mean()), float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    half = 1.96 * std / math.sqrt(len(returns))
    return {"task": task, "env_id": TASKS[task].env_id, "world": world, "controller": controller, "episodes": len(returns),
            "mean": mean, "std": std, "ci95": [mean - half, mean + half], "returns": returns.round(4).tolist(),
            "git_commit": git_commit(), **more}


def table(scores: Sequence[dict]) -> str:
    """The scores as text, a line each."""
    names = [s["controller"] + ("" if s["temperature"] is None else f" (tau {s['temperature']:g})") for s in scores]
    width = max(map(len, names))
    lines = [f"{'world':6} {'controller':{width}} {'mean':>8} {'± std':>8}   {'95% interval of the mean':>24}   episodes"]
    for name, s in zip(names, scores):
        low, high = s["ci95"]
        lines.append(f"{s['world']:6} {name:{width}} {s['mean']:8.1f} {s['std']:8.1f}   {low:11.1f} to {high:9.1f}   {s['episodes']:8d}")
    return "\n".join(lines)


def git_commit() -> str | None:
    """The commit of this code, with '+' where the tree differs from it; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        run = lambda *args: subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
        return run("rev-parse", "--short=12", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class RandomPolicy:
    """One of a task's random policies, for each rollout its own."""

    def __init__(self, streams: list, device):
        self.streams, self.device = streams, device

    @classmethod
    def seeded(cls, policy: Callable, seeds: Sequence[int], device) -> "RandomPolicy":
        return cls([policy(np.random.default_rng([seed, 1])) for seed in seeds], device)

    def __call__(self, state: State) -> Tensor:
        return torch.from_numpy(np.stack([next(stream) for stream in self.streams])).to(self.device)

    def rows(self, index: Tensor) -> "RandomPolicy":
        return RandomPolicy([self.streams[i] for i in index.tolist()], self.device)


@dataclass
class Recording:
    """One episode, watched: what was seen, done and got."""

    features: np.ndarray    # [T+1, F], z first
    action: np.ndarray      # [T, A]
    reward: np.ndarray      # [T]
    terminated: np.ndarray  # [T] bool
    frames: np.ndarray      # [T+1, h, w, 3] uint8: the game's picture, or the decoded dream
    seen: np.ndarray        # [T+1, 64, 64, 3] uint8: what V saw (in the dream: the same as `frames`)

    def encoded(self, z_size: int) -> Episode:
        """As an episode with latents where others have frames; an end of the watching counts as one by the clock."""
        end = np.arange(len(self.action)) == len(self.action) - 1
        return Episode(self.features[:, :z_size], self.action, self.reward, self.terminated, end & ~self.terminated)


@torch.inference_mode()
def record(world: World, policy, seed: int, picture: Callable[[], tuple[np.ndarray, np.ndarray]], steps: int) -> Recording:
    """Plays one episode of at most `steps` steps; `picture()` -> (frame, what V saw) of the world as it is now."""
    state = world.reset([seed])
    features, pictures, moments = [state.features[0]], [picture()], []
    for _ in range(steps):
        action = policy(state)
        step = world.step(action)
        state = step.state
        features.append(state.features[0])
        pictures.append(picture())
        moments.append((action[0], step.reward[0], step.terminated[0]))
        if step.done:
            break
    frames, seen = (np.stack(column) for column in zip(*pictures))
    return Recording(*(torch.stack(column).cpu().numpy() for column in (features, *zip(*moments))), frames, seen)
