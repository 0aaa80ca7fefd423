"""Rollouts on disk: one compressed, checksummed file for each episode, read back in bounded memory.

A file is an lz4 frame (content checksum on) around a safetensors file. lz4 because writing must cost next to nothing
beside playing (30 µs a frame where a TakeCover tic takes 670 µs) and reading must outrun training.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import lz4.frame
import numpy as np
import safetensors
import safetensors.numpy

from worldmodels.files import FORMAT, HEADER_BYTES, Header, opened, read_header, upgraded, write_atomic
from worldmodels.types import UserError

SUFFIX = ".safetensors.lz4"
# that an episode has in memory at most, 87,000 frames; it is 41 times as long as TakeCover
BYTES = 2**30


class Episode(NamedTuple):
    frames: np.ndarray          # [T+1, 64, 64, 3] uint8
    action: np.ndarray          # [T, A] float32
    reward: np.ndarray          # [T] float32
    terminated: np.ndarray      # [T] bool
    truncated: np.ndarray       # [T] bool


class FrameWindows(NamedTuple):
    """T consecutive steps of B streams of episodes with their N frames; `restart` marks an episode's first step, and a
    window's."""

    frames: np.ndarray          # [N, 64, 64, 3] uint8
    now: np.ndarray             # [B, T] which frame a step is taken from ...
    then: np.ndarray            # [B, T] ... and which it leads to
    action: np.ndarray          # [B, T, A] float32
    reward: np.ndarray          # [B, T] float32
    terminated: np.ndarray      # [B, T] bool
    restart: np.ndarray         # [B, T] bool


class Track(NamedTuple):
    """An episode that is being played."""

    seed: int
    seen: list              # T + 1 frames, or what stands for them
    moments: list           # action, reward, terminated, truncated of each step

    def episode(self) -> Episode:
        """What was seen stands where an episode has frames: as an array, if it is arrays."""
        action, reward, terminated, truncated = zip(*self.moments)
        seen = np.stack(self.seen) if isinstance(self.seen[0], np.ndarray) else self.seen
        return Episode(seen, np.stack(action), np.array(reward, np.float32), np.array(terminated, bool),
                       np.array(truncated, bool))


def locate(moments: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in episodes of these lengths joined end to end -> which episode each is in, and the step within it."""
    ends = np.cumsum(lengths)
    episode = np.searchsorted(ends, moments, side="right")
    return episode, moments - (ends - lengths)[episode]


def episode_path(folder: Path, seed: int) -> Path:
    return folder / f"{seed:09d}{SUFFIX}"


def packed(episode: Episode, info: dict) -> bytes:
    """An episode's file; `info` (seed, policy, ...) must be JSON-able."""
    arrays = {name: np.ascontiguousarray(value) for name, value in episode._asdict().items()}   # strides are not stored
    if sum(array.nbytes for array in arrays.values()) > BYTES - HEADER_BYTES:
        raise UserError(f"an episode of {len(episode.action):,} steps is too long to be read again: lower "
                        "--collect.max-steps")
    data = safetensors.numpy.save(arrays, {"format": str(FORMAT), "info": json.dumps(info)})
    return lz4.frame.compress(data, content_checksum=True, store_size=True)


def write(path: Path, episode: Episode, info: dict):
    """Writes an episode atomically."""
    write_atomic(path, packed(episode, info))


def read(path: Path) -> Episode:
    """Reads an episode and verifies its checksum; a UserError names a damaged file. No more is decompressed than its
    header speaks of."""
    try:
        with opened(path, BYTES) as (file, size):
            with lz4.frame.open(file) as unpacked:
                header = read_header(unpacked)
            steps_of(header)
            file.seek(0)
            compressed = file.read(size)
        frame = lz4.frame.LZ4FrameDecompressor()
        data = frame.decompress(compressed, max_length=header.size + 1)
        if len(data) != header.size or not frame.eof or frame.unused_data:
            raise ValueError(f"it has another size than the {header.size:,} bytes that its header speaks of")
        upgraded({}, int(header.metadata.get("format", 1)))
        return Episode(**safetensors.numpy.load(data))
    except (EOFError, OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise damaged(path, error) from None


def length(path: Path) -> int:
    """The number of actions T in an episode, from the file's beginning only."""
    try:
        with opened(path, BYTES) as (file, _), lz4.frame.open(file) as unpacked:
            return steps_of(read_header(unpacked))
    except (EOFError, OSError, RuntimeError, ValueError) as error:
        raise damaged(path, error) from None


def steps_of(header: Header) -> int:
    """The number of actions T in an episode with this header; a ValueError where it is none of an episode."""
    if header.arrays.keys() != set(Episode._fields):
        raise ValueError(f"its arrays are {', '.join(sorted(header.arrays))} and not {', '.join(Episode._fields)}")
    if header.size > BYTES:
        raise ValueError(f"it would have {header.size:,} bytes in memory, and at most {BYTES:,} are read")
    _, (T, A) = header.arrays["action"]
    wanted = {"frames": ("U8", (T + 1, 64, 64, 3)), "action": ("F32", (T, A)), "reward": ("F32", (T,)),
              "terminated": ("BOOL", (T,)), "truncated": ("BOOL", (T,))}
    if header.arrays != wanted:
        raise ValueError(f"its arrays are {header.arrays} and not {wanted}")
    return T


def checksum(path: Path) -> str:
    """What an lz4 frame ends with: four bytes over the episode's contents; a UserError where it is no file."""
    try:
        with opened(path, BYTES) as (file, size):
            file.seek(max(0, size - 4))
            return file.read().hex()
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error) -> UserError:
    return UserError(f"episode {path} is damaged ({error}): delete it and run `python -m pipeline.collect` again")


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
            del item


class EpisodeFolder:
    """The episodes in one folder or in several, shortest ones left out: those of at most `min_steps` actions (released
    code: 100)."""

    def __init__(self, folder: Path | Sequence[Path], min_steps: int = 0):
        folders = [folder] if isinstance(folder, Path) else folder
        paths = [path for one in folders for path in sorted(one.glob(f"*{SUFFIX}"))]
        lengths = [length(path) for path in paths]
        self.paths = [path for path, steps in zip(paths, lengths) if steps > min_steps]
        self.lengths = np.array([steps for steps in lengths if steps > min_steps], int)
        if not self.paths:
            short = f" ({len(paths)} shorter ones: lower --collect.min-steps)" if paths else ""
            raise UserError(
                f"no episodes of more than {min_steps} steps in {folders[-1]}{short}: run `python -m pipeline.collect`")

    def frame_batches(self, batch: int, seed: int, pool_frames: int = 50_000, skip: int = 0) -> Iterator[np.ndarray]:
        """Endless shuffled batches [batch, 64, 64, 3] uint8 from every frame of every episode.

        Episodes are shuffled each epoch and read in pools of about `pool_frames` frames (12 KB each in memory), one
        ahead of the one in use; batches are drawn without replacement within a pool. The order is a function of `seed`
        alone; `skip` starts at a later batch of the same order, without reading what lies before it.
        """
        def cut(rng: np.random.Generator, lengths: np.ndarray) -> list[np.ndarray]:
            order = rng.permutation(int((lengths + 1).sum()))
            batches = max(1, len(order) // batch)
            return np.array_split(order[:batches * batch], batches)

        for pool, _, batches in ahead(self._read_pools(cut, seed, max(pool_frames, batch), skip)):
            for index in batches:
                yield pool.frames[index]

    def windows(self, batch: int, sequence: int, seed: int, pool_frames: int = 50_000,
                skip: int = 0) -> Iterator[FrameWindows]:
        """Endless shuffled batches of `sequence` consecutive steps, in pools as those of `frame_batches`. A pool's
        episodes are joined end to end and cut into windows, from another step on in each epoch."""
        def cut(rng: np.random.Generator, lengths: np.ndarray) -> list[np.ndarray]:
            first = np.arange(rng.integers(sequence), int(lengths.sum()) - sequence + 1, sequence)
            count = len(first) // batch
            return np.split(rng.permutation(first)[:count * batch], count) if count else []

        if self.lengths.sum() < (batch + 1) * sequence:
            raise UserError(f"{self.lengths.sum()} steps do not fill one batch of {batch} × {sequence}: collect more "
                            "episodes, or lower --joint.batch or --joint.sequence")
        pool_frames = max(pool_frames, 2 * (batch + 2) * sequence)
        for pool, lengths, batches in ahead(self._read_pools(cut, seed, pool_frames, skip)):
            ends = np.cumsum(lengths)
            begins = np.zeros(ends[-1], bool)
            begins[np.append(0, ends[:-1])] = True
            episode = np.repeat(np.arange(len(lengths)), lengths)
            for first in batches:
                step = first[:, None] + np.arange(sequence)                     # [B, T] of the pool's steps
                now = step + episode[step]                                      # an episode has a frame more than steps
                used, place = np.unique(np.stack([now, now + 1]), return_inverse=True)
                now, then = place.reshape(2, *step.shape)
                restart = begins[step]
                restart[:, 0] = True
                yield FrameWindows(pool.frames[used], now, then, pool.action[step], pool.reward[step],
                                   pool.terminated[step], restart)

    def _read_pools(self, cut: Callable[[np.random.Generator, np.ndarray], list[np.ndarray]], seed: int,
                    pool_frames: int, skip: int) -> Iterator[tuple[Episode, np.ndarray, list[np.ndarray]]]:
        """Each pool's episodes joined end to end, their lengths, and what its batches are made of: `cut(rng,
        lengths)`."""
        epoch = 0
        while True:
            rng = np.random.default_rng([seed, epoch])
            for pool in self._pools(rng.permutation(len(self.paths)), pool_frames):
                batches = cut(rng, self.lengths[pool])
                if skip >= len(batches):
                    skip -= len(batches)
                    continue
                yield self._joined(pool), self.lengths[pool], batches[skip:]
                skip = 0
            epoch += 1

    def _joined(self, pool: np.ndarray) -> Episode:
        """Some episodes, end to end. Frames are read into their place, so that no more memory is needed than theirs."""
        lengths = self.lengths[pool]
        frames, rest = np.empty((int((lengths + 1).sum()), 64, 64, 3), np.uint8), []
        for i, place in zip(pool, np.split(frames, np.cumsum(lengths + 1)[:-1])):
            place[:], *others = read(self.paths[i])         # whose own frames are gone before the next are read
            rest.append(others)
        return Episode(frames, *map(np.concatenate, zip(*rest)))

    def _pools(self, order: np.ndarray, pool_frames: int) -> list[np.ndarray]:
        """Splits an order of episodes where the running number of frames passes a multiple of `pool_frames`."""
        pool = np.cumsum(self.lengths[order] + 1) // pool_frames
        pool = np.minimum(pool, max(pool[-1] - 1, 0))      # a small remainder joins the last pool
        return np.split(order, np.flatnonzero(np.diff(pool)) + 1)
