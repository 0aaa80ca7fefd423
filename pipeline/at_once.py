"""Trainings that run at the same time, each as one job on one core: --trainings-at-once."""

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.command import open_executor
from pipeline.presets import Config
from worldmodels.executors import Shared
from worldmodels.files import write_atomic

DAY = 86_400.0      # seconds: the deadline of a training


@dataclass(frozen=True, repr=False)
class FolderJob:
    """Does `work(folder)` in a copy of a folder; returns the files that it made or changed, by their paths there."""

    files: Shared               # the folder, as `packed_folder` packs it
    work: Callable[[Path], None]
    deadline: float = DAY

    def __call__(self) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()), \
                contextlib.redirect_stdout(io.StringIO()):      # progress bars of several would overwrite each other
            folder = Path(name)
            with tarfile.open(fileobj=io.BytesIO(self.files.data)) as archive:
                archive.extractall(folder, filter="data")
            given = set(map(state, all_files(folder)))
            self.work(folder)
            made = [path for path in all_files(folder) if state(path) not in given]
            return {path.relative_to(folder).as_posix(): path.read_bytes() for path in made}


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def state(path: Path) -> tuple:
    """Of a file's contents, whatever its name is: a link to a given file is not a new one."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def packed_folder(folder: Path, paths: Iterable[Path]) -> Shared:
    """Files below a folder: the same bytes for the same files, whenever they were written."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in sorted(paths):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with open(path, "rb") as file:
                archive.addfile(entry, file)
    return Shared(data.getvalue())


def within_a_job(config: Config) -> Config:
    """The settings of a training that is itself a job: it has one core, and no workers of its own."""
    return replace(config, executor="inline", address="", workers=1, gpus=0, device="cpu")


def train_at_once(config: Config, folder: Path, paths: Iterable[Path], works: Sequence[Callable[[Path], Any]]):
    """Does each work in a copy of these files of a folder; the files that it makes there are then in the folder."""
    if not works:
        return
    files = packed_folder(folder, paths)
    with open_executor(config, min(config.trainings_at_once, len(works))) as executor, \
            tqdm(total=len(works), desc="trainings at once", unit="training") as bar:
        for _, made in executor.each(FolderJob(files, work) for work in works):
            for path, data in made.items():
                write_atomic(folder / path, data)
            bar.update()
