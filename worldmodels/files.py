"""Files that are whole or absent: atomic writes, and arrays with a description that are checked when read.

Only safetensors and JSON are ever read, so that no file a user is given can run code.
"""

import hashlib
import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Iterable

import numpy as np
import safetensors
import safetensors.numpy

from worldmodels.errors import UserError

HALF_WRITTEN = re.compile(r"\..+\.\d+")            # write_atomic's temporary names

FORMAT = 2          # of every file; those without a number are of format 1
RENAMED = {"again": "episodes_per_round", "explore": "explore_share", "dreamt": "scheduled_sampling",
           "peek": "sees_current_frame", "transfer_episodes": "gap_episodes"}           # settings of format 1
STARTS = {"zero": "previous_or_zero", "dreamt": "least_squares_dream", "improved": "least_squares"}


def write_atomic(path: Path, data: bytes):
    """Writes beside `path`, then renames: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: dict):
    write_atomic(path, (json.dumps({"format": FORMAT} | value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict:
    """What `write_json` wrote, settings under today's names; a UserError names a file that cannot be read."""
    try:
        value = json.loads(path.read_text())
        value = {"scores": value} if isinstance(value, list) else value         # as format 1 had them
        return upgraded(value, value.pop("format", 1))
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore or delete it") from None


def upgraded(values: dict, format: int) -> dict:
    """The contents of a file of this format as FORMAT has them; a ValueError where it is newer."""
    if format > FORMAT:
        raise ValueError(f"format {format}: this version of the program knows {FORMAT} at most")
    return values if format == FORMAT else from_format_1(values)


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
    try:
        arrays = safetensors.numpy.load(data)
        metadata = header(data)["__metadata__"]
        format = int(metadata.get("format", 1))
        # a newer format, whose digest may be another, is refused below
        fits = format > FORMAT or digest(arrays, digested(metadata["info"], format)) == metadata["digest"]
    except (safetensors.SafetensorError, KeyError, struct.error) as error:
        raise ValueError(f"not a whole safetensors file: {error}") from None
    if not fits:
        raise ValueError("its contents do not fit its digest")
    return arrays, upgraded(json.loads(metadata["info"]), format)


def digested(text: str, format: int) -> str:
    """The text that a file's digest covers: its description and, from format 2 on, the number of its format."""
    return text if format == 1 else f"{format} {text}"


def header(data: bytes) -> dict:
    """The header of a safetensors file, from its first bytes: shapes, dtypes and metadata."""
    size, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size])


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
        return unpack(path.read_bytes())
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
