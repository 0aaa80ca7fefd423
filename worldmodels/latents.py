"""Encoded episodes: what M is trained on, and where dreams start.

One file an episode: mu and log-variance of each frame as V encoded them, at half precision, with the actions, rewards
and ends beside them, so that no frame is read again. 10,000 rollouts of 1,000 frames with 32 dimensions take 1.45 GB on
disk and CACHE in memory: episodes are read and verified when they are needed (0.35 ms each), and those that were used
last are kept.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldmodels.episodes import SUFFIX, Episode, checksum
from worldmodels.files import ARRAYS_BYTES, Header, described, load_arrays, opened, read_header, save_arrays
from worldmodels.runs import Run, seed_of
from worldmodels.types import Posterior, Transitions, UserError

CACHE = 2**29       # bytes of episodes kept in memory


def latent_path(folder: Path, episode: Path) -> Path:
    """Where the latents of an episode's file are kept."""
    return folder / episode.name.replace(SUFFIX, ".safetensors")


def write_latents(path: Path, posterior: Posterior, episode: Episode, vision_digest: str, checksum: str = ""):
    """Stores V's posterior [T+1, Z] of an episode at half precision, with what M needs beside it. `checksum`: of the
    episode's file."""
    encoded = {name: t.numpy().astype(np.float16) for name, t in zip(("mu", "log_var"), posterior) if t is not None}
    save_arrays(path, encoded | {"action": episode.action, "reward": episode.reward, "terminated": episode.terminated},
                {"vision": vision_digest, "episode": checksum})


def open_latents(run: Run, min_steps: int, vision_digest: str, latent: str = "sample") -> "Latents":
    """The latents of the episodes of more than `min_steps` steps that a run has collected up to this round; `latent` is
    the setting of the memory that is to see them.

    Where the episodes themselves are gone, as in a published run, those latents that are there.
    """
    paths = {}
    for round in run.until_now:
        episodes = sorted(round.episodes.glob(f"*{SUFFIX}"))
        folder = run.latents_of(round)
        encoded = {latent_path(folder, path): checksum(path) for path in episodes}
        paths |= encoded or dict.fromkeys(sorted(folder.glob("*.safetensors")), "")
    return Latents(paths, vision_digest, min_steps, latent)


class Encoded(NamedTuple):
    """An episode as it is stored."""

    mu: np.ndarray                  # [T+1, Z] float16
    action: np.ndarray              # [T, A] float32
    reward: np.ndarray              # [T] float32
    terminated: np.ndarray          # [T] bool
    log_var: np.ndarray | None = None   # [T+1, Z] float16; None where V gives points

    def sample(self, generator: torch.Generator, frames=slice(None)) -> Tensor:
        """z [N, Z] of some of its frames, on the CPU, float32."""
        return sample(self.mu[frames], self.log_var if self.log_var is None else self.log_var[frames], generator)


def sample(mu: np.ndarray, log_var: np.ndarray | None, generator: torch.Generator) -> Tensor:
    """z of stored posteriors, on the CPU, shaped like `mu`, float32."""
    mu, log_var = (None if a is None else torch.from_numpy(a).float() for a in (mu, log_var))
    return Posterior(mu, log_var).sample(torch.randn(mu.shape, generator=generator))


def stored_sizes(path: Path, vision_digest: str, episode: str = "") -> tuple[int, int, int]:
    """T, Z and A of a file, from its header only; a UserError where it is missing, or damaged, or made by another V, or
    of another episode than the one of this checksum."""
    try:
        with opened(path, ARRAYS_BYTES) as (file, size):
            header = read_header(file, size)
        sizes, info = sizes_of(header), described(header.metadata["info"])
        vision, of = info["vision"], info.get("episode")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `python -m pipeline.encode`") from None
    except (KeyError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run `python -m pipeline.encode`") from None
    if vision != vision_digest:
        raise UserError(f"{path} was encoded by another V: delete {path.parent} and run `python -m pipeline.encode`")
    if of and episode and of != episode:
        raise UserError(f"{path} is of an episode that has been collected again since: run `python -m pipeline.encode`")
    return sizes


def sizes_of(header: Header) -> tuple[int, int, int]:
    """T, Z and A of a file with this header; a ValueError where it is none of an encoded episode."""
    (_, (_, Z)), (_, (T, A)) = header.arrays["mu"], header.arrays["action"]
    mu = {name: ("F16", (T + 1, Z)) for name in ("mu", "log_var") if name in header.arrays}
    if header.arrays != mu | {"action": ("F32", (T, A)), "reward": ("F32", (T,)), "terminated": ("BOOL", (T,))}:
        raise ValueError(f"its arrays are not those of an encoded episode: {header.arrays}")
    return T, Z, A


def load_encoded(path: Path, latent: str) -> Encoded:
    """The episode of a file, without `log_var` where z is the mean; a UserError where it is damaged."""
    episode = Encoded(**load_arrays(path)[0])
    if not all(np.isfinite(array).all() for array in episode if array is not None):
        raise UserError(f"{path} is damaged (its numbers are not finite): delete it and run `python -m "
                        "pipeline.encode`")
    return episode if latent == "sample" else episode._replace(log_var=None)


class Latents:
    """The episodes of some files; of these only how many transitions each has, `lengths` [E], is in memory from the
    start."""

    def __init__(self, paths: dict[Path, str], vision_digest: str, min_steps: int = 0, latent: str = "sample"):
        """Of files with the checksums of their episodes, "" where these are gone."""
        sizes = [stored_sizes(path, vision_digest, checksum) for path, checksum in paths.items()]
        if different := [path for path, size in zip(paths, sizes) if size[1:] != sizes[0][1:]]:
            raise UserError(f"{different[0]} has other numbers of latents or actions than the files beside it: delete "
                            "them and run `python -m pipeline.encode`")
        lengths = np.array([steps for steps, _, _ in sizes], int)
        paths = [path for path, steps in zip(paths, lengths) if steps > min_steps]
        self.paths, self.lengths = paths, lengths[lengths > min_steps]
        if not paths:
            raise UserError(f"no encoded episodes of more than {min_steps} steps: run `python -m pipeline.collect`, "
                            "then `python -m pipeline.encode`, or lower --collect.min-steps")
        # of mean size: what is used is shuffled
        kept = CACHE * len(paths) // sum(path.stat().st_size for path in paths)
        self._episode = lru_cache(max(1, kept))(lambda number: load_encoded(paths[number], latent))

    def episode(self, number: int) -> Encoded:
        """An episode, from memory or from its file; a UserError names a damaged one."""
        return self._episode(int(number))

    def by_length(self, count: int, last: int | None = None) -> list[np.ndarray]:
        """The numbers of all episodes, or of the last so many, in batches of at most `count` that are about as long as
        each other."""
        numbers = np.arange(len(self.lengths))[-(last or len(self.lengths)):]
        numbers = numbers[np.argsort(self.lengths[numbers], kind="stable")]
        return np.array_split(numbers, -(-len(numbers) // count))

    def windows(self, batch: int, sequence: int, seed: int, skip: int = 0,
                bootstraps: int = 0) -> Iterator[Transitions]:
        """Endless windows of `sequence` steps from `batch` parallel streams, one following the other in time.

        Each epoch shuffles the episodes, joins them end to end and cuts the whole into `batch` equal streams. z and
        next_z are sampled anew in every window. The order is a function of `seed` alone, and `skip` starts at a later
        window. With `bootstraps` a window has as many batches of streams, one after the other, each of its own sample
        of as many episodes, drawn with replacement.
        """
        count = len(self.lengths)
        if not bootstraps:
            return self._windows(np.arange(count), batch, sequence, seed, skip)
        seeds = [seed_of(seed, member, "bootstrap") for member in range(bootstraps)]
        samples = [np.random.default_rng(seed).integers(count, size=count) for seed in seeds]
        streams = [self._windows(sample, batch, sequence, seed, skip) for sample, seed in zip(samples, seeds)]
        return (Transitions(*map(torch.cat, zip(*windows))) for windows in zip(*streams))

    def _windows(self, sample: np.ndarray, batch: int, sequence: int, seed: int, skip: int) -> Iterator[Transitions]:
        """The same of the episodes `sample`."""
        steps = int(self.lengths[sample].sum())
        per_epoch = steps // (batch * sequence)
        if not per_epoch:
            raise UserError(f"{steps} transitions do not fill one batch of {batch} × {sequence}: "
                            "collect more episodes, or lower --memory.batch or --memory.sequence")
        epoch, first = divmod(skip, per_epoch)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(sample)
            for number in range(first, per_epoch):
                begins = (np.arange(batch) * per_epoch + number) * sequence
                generator = torch.Generator().manual_seed(seed_of(seed, epoch, "window", number))
                window = self.transitions(order, begins, sequence, generator)
                if number == 0:
                    window.restart[:, 0] = 1            # what came before is not what this epoch's streams begin with
                yield window
            epoch, first = epoch + 1, 0

    def transitions(self, order: np.ndarray, begins: np.ndarray, sequence: int,
                    generator: torch.Generator) -> Transitions:
        """T = `sequence` transitions from each of the places `begins` [B] on, in the episodes `order` joined end to
        end."""
        ends, pieces = np.cumsum(self.lengths[order]), []                               # [E] where each episode ends
        first, last = (np.searchsorted(ends, place, side="right") for place in (begins, begins + sequence - 1))
        for row, begin in enumerate(begins):
            for i in range(first[row], last[row] + 1):
                episode, start = self.episode(order[i]), ends[i] - self.lengths[order[i]]
                t, end = max(0, begin - start), min(begin + sequence, ends[i]) - start  # the row's part of the episode
                now, then = slice(t, end), slice(t + 1, end + 1)
                both = (episode.mu, episode.log_var)
                posteriors = [a if a is None else a[part] for part in (now, then) for a in both]
                pieces.append((*posteriors, episode.action[now], episode.reward[now], episode.terminated[now],
                               np.arange(t, end) == 0))

        def window(parts: tuple) -> np.ndarray | None:
            """The pieces of all rows, [B, T, ...]."""
            if parts[0] is None:
                return None
            joined = np.concatenate(parts)
            return joined.reshape(len(begins), sequence, *joined.shape[1:])

        mu, log_var, next_mu, next_log_var, action, *rest = map(window, zip(*pieces))
        z, next_z = sample(mu, log_var, generator), sample(next_mu, next_log_var, generator)
        return Transitions(z, torch.from_numpy(action), next_z, *(torch.from_numpy(a).float() for a in rest))
