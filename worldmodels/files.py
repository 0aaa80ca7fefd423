"""Files that are whole or absent: atomic writes, and arrays with a description that are checked when read.

Only safetensors and JSON are ever read, so that no file a user is given can run code. How large a file may be is
checked before memory is taken for it.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from worldmodels.errors import UserError

# What is read at most
HEADER_BYTES = 2**20        # of a safetensors file's names, shapes and description: ours have 4,000
ARRAYS_BYTES = 2**31        # of a safetensors file: with Adam's state, of 178 million parameters (the paper's M: 2)
DIMENSIONS = 8              # of an array: ours have 4
JSON_BYTES = 2**25          # of a JSON file: published ones have up to 1 MB; in memory it is up to 25 times as large
JSON_DEPTH = 40             # lists and objects within each other: ours have 7
ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8,
              "I64": 8, "F64": 8}       # of a number, by safetensors' name of its type

HALF_WRITTEN = re.compile(r"\..+\.\d+")            # write_atomic's temporary names

FORMAT = 3          # of every file; those without a number are of format 1
RENAMED = {"again": "episodes_per_round", "explore": "explore_share", "dreamt": "scheduled_sampling",
           "peek": "sees_current_frame", "transfer_episodes": "gap_episodes"}           # settings of format 1
STARTS = {"zero": "previous_or_zero", "dreamt": "least_squares_dream", "improved": "least_squares"}


def write_atomic(path: Path, data: bytes):
    """Writes beside `path`, then renames: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb") as file:         # a file of its own, and not what a link of this name leads to
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: dict):
    write_atomic(path, (json.dumps({"format": FORMAT} | value, indent=2) + "\n").encode())


@contextlib.contextmanager
def opened(path: Path, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """A file to be read, and its size; a ValueError where it is another thing, or has more than `most` bytes."""
    size = path.stat().st_size
    if not path.is_file():                  # a FIFO would be waited for without an end
        raise ValueError("it is not a file")
    if size > most:
        raise ValueError(f"it has {size:,} bytes, and at most {most:,} are read")
    with open(path, "rb") as file:
        yield file, size


def read_json(path: Path) -> dict:
    """What `write_json` wrote, settings under today's names; a UserError names a file that cannot be read."""
    try:
        with opened(path, JSON_BYTES) as (file, size):
            value = from_json(file.read(size))
        value = {"scores": value} if isinstance(value, list) else value         # as format 1 had them
        return upgraded(value, value.pop("format", 1))
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore or delete it") from None


def from_json(text: bytes) -> Any:
    """What JSON says; a ValueError where it is none, has a key twice, or is deeper than JSON_DEPTH."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=without_twins)
        shallow = within_depth(value, JSON_DEPTH)
    except RecursionError:
        shallow = False
    if not shallow:
        raise ValueError(f"more than {JSON_DEPTH} lists and objects are within each other")
    return value


def without_twins(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def within_depth(value: Any, depth: int) -> bool:
    """Whether at most so many lists and dicts are within each other."""
    level = [value]
    while level and depth >= 0:
        inner = []
        for outer in level:
            inner += outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
        level, depth = [v for v in inner if isinstance(v, (list, dict))], depth - 1
    return not level


def upgraded(values: dict, format: int) -> dict:
    """The contents of a file of this format as FORMAT has them; a ValueError where it is newer, or where they are no
    contents of it."""
    if format > FORMAT:
        raise ValueError(f"format {format}: this version of the program knows {FORMAT} at most")
    try:
        values = from_format_1(values) if format < 2 else values
        return values if format == FORMAT else from_format_2(values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not of format {format}: {error!r}") from None


def from_format_2(values: dict) -> dict:
    """Format 3 names the rounds in which V is trained on, where format 2 said whether all later ones do."""
    config = values.get("config")
    if isinstance(config, dict) and isinstance(config.get("retrain_vision"), bool):
        config["retrain_vision"] = list(range(2, 11)) if config["retrain_vision"] else []
    return values


def from_format_1(values: dict) -> dict:
    """Format 2 renamed settings, told kinds of V and C apart, and the search for C from C."""
    upgrade = lambda value: from_format_1(value) if isinstance(value, dict) else value
    new = {RENAMED.get(key, key): upgrade(value) for key, value in values.items()}
    if isinstance(new.get("vision"), dict):
        new["vision"] |= {"kind": "vae"}
    search = new.get("controller")
    if isinstance(search, dict) and "population" in search:
        new["controller"] = {"kind": "linear", "bias": search.pop("bias", True)}
        new["learner"] = search | {"kind": "cma_es", "start": STARTS.get(search.get("start"), "previous_or_zero")}
    if {"policy", "drawing", "task"} <= new.keys():         # settings.json of episodes
        collect = {key: new.pop(key) for key in ("max_steps", "repeat", "policy", "skill", "drawing")}
        new["collect"] = collect
    if "temperatures" in new:                       # a sweep evolves the run's own kind of controller
        new.pop("controller", None)
    return new


def pack(arrays: dict[str, np.ndarray], info: dict) -> bytes:
    """Arrays and a JSON-able description as safetensors bytes, with a digest over both."""
    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    text = json.dumps(info, sort_keys=True)
    metadata = {"format": str(FORMAT), "info": text, "digest": digest(arrays, digested(text, FORMAT))}
    return safetensors.numpy.save(arrays, metadata)


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict]:
    """Undoes `pack`, settings under today's names. Raises ValueError where the digest does not fit."""
    metadata = read_header(io.BytesIO(data), len(data)).metadata
    try:
        arrays = safetensors.numpy.load(data)
        text, format = metadata["info"], int(metadata.get("format", 1))
        # a newer format, whose digest may be another, is refused below
        fits = format > FORMAT or digest(arrays, digested(text, format)) == metadata["digest"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"not a whole safetensors file: {error}") from None
    if not fits:
        raise ValueError("its contents do not fit its digest")
    return arrays, upgraded(described(text), format)


def described(text: str) -> dict:
    """The description in a file's metadata; a ValueError where it is none."""
    info = from_json(text.encode())
    if not isinstance(info, dict):
        raise ValueError("its description is no object")
    return info


def digested(text: str, format: int) -> str:
    """The text that a file's digest covers: its description and, from format 2 on, the number of its format."""
    return text if format == 1 else f"{format} {text}"


class Header(NamedTuple):
    """What a safetensors file begins with."""

    arrays: dict[str, tuple[str, tuple[int, ...]]]      # dtype and shape of each
    metadata: dict[str, str]
    size: int                                           # of the whole file, bytes


def read_header(file: BinaryIO, size: int | None = None) -> Header:
    """The header of a safetensors file, of which no more is read; a ValueError where it is none, or the file has
    another `size` than it says."""
    length, = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
    if length > HEADER_BYTES:
        raise ValueError("its beginning is not that of a safetensors file")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("it ends within its header")
    try:
        found = from_json(text)
        metadata = found.pop("__metadata__", {})
        ends = [checked_end(**array) for array in found.values()]
        arrays = {name: (array["dtype"], tuple(array["shape"])) for name, array in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its header is not that of a safetensors file: {error!r}") from None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    stated = 8 + length + max(ends, default=0)
    if size not in (None, stated):
        raise ValueError(f"it has {size:,} bytes and not {stated:,}, as its header says")
    return Header(arrays, metadata, stated)


def checked_end(dtype: str, shape: list[int], data_offsets: list[int]) -> int:
    """Where an array of a header ends, in bytes; a ValueError where its numbers contradict each other."""
    begin, end = data_offsets
    numbers = all(type(number) is int and 0 <= number < 2**63 for number in [*shape, begin, end])
    if not numbers or len(shape) > DIMENSIONS or math.prod(shape) * ITEM_BYTES[dtype] != end - begin:
        raise ValueError(f"its header has an array {dtype} of shape {shape} in bytes {begin} to {end}")
    return end


def digest(arrays: dict[str, np.ndarray], text: str = "") -> str:
    """A fingerprint of names, shapes, values and text."""
    fingerprint = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        fingerprint.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        fingerprint.update(arrays[name].tobytes())
    return fingerprint.hexdigest()[:16]


def save_arrays(path: Path, arrays: dict[str, np.ndarray], info: dict):
    """One safetensors file, with `info` inside it."""
    write_atomic(path, pack(arrays, info))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and info of a file that `save_arrays` wrote; a UserError names a damaged one."""
    try:
        with opened(path, ARRAYS_BYTES) as (file, size):
            read_header(file, size)
            file.seek(0)
            return unpack(file.read(size))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run its stage again") from None


def link(files: Iterable[Path], folder: Path):
    """The same files in another folder: without a copy where the file system can."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        if not (folder / path.name).exists():
            try:
                os.link(path, folder / path.name)
            except OSError:
                shutil.copyfile(path, folder / path.name)
