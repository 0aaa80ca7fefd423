"""A run's folder: its config, checkpoints, metrics and report. Every file in it is whole or absent."""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from worldmodels.commandline import check_values
from worldmodels.errors import UserError
from worldmodels.files import HALF_WRITTEN, digest, load_arrays, read_json, save_arrays, write_json
from worldmodels.metrics import MakeWriter, Metrics, TensorBoard

if TYPE_CHECKING:
    from torch import Tensor  # what lists runs starts without it

PACKAGE = Path(__file__).parent
INSTALLED = (PACKAGE / "published").exists()        # from a wheel, which has the published runs there (setup.cfg)
DATA = Path("data") if INSTALLED else PACKAGE.parent / "data"       # of a checkout
PUBLISHED = (PACKAGE if INSTALLED else DATA) / "published"
DEFAULT = "laptop"          # the published run that is meant where none is named, and that is shown first

# Seeds of episodes. Collecting and searching have their own in each round of each run; scores are made on those of
# EVALUATION.
RUNS, ROUNDS = 100, 10                      # run seeds, and rounds of each, whose episodes are apart
EPISODES_PER_STAGE = 500_000
STAGES = ("collect", "search")
EVALUATION = range(RUNS * ROUNDS * len(STAGES) * EPISODES_PER_STAGE, 2**31)     # every game takes seeds below 2^31


def episode_seeds(seed: int, round: int, stage: str) -> range:
    """The seeds of the episodes that a round of the run `seed` may collect, or its search may play; a UserError beyond
    RUNS or ROUNDS."""
    if not (0 <= seed < RUNS and 1 <= round <= ROUNDS):
        raise UserError(f"--seed {seed}, round {round}: seeds are 0 to {RUNS - 1} and rounds 1 to {ROUNDS}; the "
                        "episodes of others would be those of another run, or those that scores are made on")
    first = ((seed * ROUNDS + round - 1) * len(STAGES) + STAGES.index(stage)) * EPISODES_PER_STAGE
    return range(first, first + EPISODES_PER_STAGE)


def seed_of(seed: int, round: int, stage: str, *index: int) -> int:
    """The seed of a random stream, 63 bits: of the run `seed`, a round, a stage's name, and what tells its streams
    apart."""
    # with its length: SeedSequence takes [a] and [a, 0] for the same
    mixed = np.random.SeedSequence([seed, round, zlib.crc32(stage.encode()), len(index), *index])
    return int(mixed.generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Run:
    """data/<task>/<run>, see data/README.md for what is in it; and which round of it (the paper's iterative procedure).

    What a round makes lies in a folder of its own, the first one's in the run's. V is the first round's, unless later
    rounds have trained it on.
    """

    root: Path
    round: int = 1
    # told of what its stages do (metrics.py)
    writers: Sequence[MakeWriter] = field(default=(TensorBoard,), compare=False, repr=False)

    def __reduce__(self):
        """A copy in a worker process has no writers."""
        return Run, (self.root, self.round, ())

    def at(self, round: int) -> "Run":
        return replace(self, round=round)

    def other(self, root: Path) -> "Run":
        """Another run, with the same writers."""
        return replace(self, root=root, round=1)

    @property
    def folder(self) -> Path:
        return self.root if self.round == 1 else self.root / f"round-{self.round}"

    @property
    def until_now(self) -> "list[Run]":
        """The rounds up to this one, on whose episodes it is trained."""
        return [self.at(round) for round in range(1, self.round + 1)]

    def last(self, name: str) -> "Run":
        """The last round that has the checkpoint `name`; the first one where none has."""
        rounds = (self.at(round) for round in range(ROUNDS, 1, -1))
        return next((round for round in rounds if round.own_path(name).exists()), self.at(1))

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    def settings(self, cls, section: str | None = None, kinds: Mapping[str, Any] = MappingProxyType({})):
        """The settings that the run was last worked on with, or a section of them, as the dataclass `cls`; a UserError
        names a damaged file. `kinds` are the registries of sections that have kinds."""
        try:
            values = read_json(self.config)["config"]
            return from_dict(cls, values if section is None else values[section], kinds)
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{self.config} is damaged, or of another version ({error}): delete it, and name the run's "
                            "--preset again") from None

    @property
    def episodes(self) -> Path:
        return self.folder / "episodes"

    @property
    def latents(self) -> Path:
        return self.folder / "latents"

    def latents_of(self, round: "Run") -> Path:
        """Where the latents of an earlier round's episodes, or its own, are by this round's V: beside the episodes by
        the first round's V, in one folder by another."""
        seen_by = self.vision_round
        return round.latents if seen_by.round == 1 else seen_by.latents

    @property
    def report(self) -> Path:
        return self.folder / "report"

    @property
    def wall(self) -> Path:
        return self.folder / "wall.json"

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage of the round has taken so far."""
        found = read_json(self.wall) if self.wall.exists() else {}
        if not all(type(seconds) in (int, float) for seconds in found.values()):
            raise UserError(f"{self.wall} is damaged (its values are no seconds): delete it")
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Takes the run for this process and sweeps what a kill left half-written; a UserError where another one works
        on it, or where a link in it leads out of it: what is written there would replace a user's other files."""
        self.root.mkdir(parents=True, exist_ok=True)
        inside = os.path.realpath(self.root) + os.sep
        for path in self.root.rglob("*"):
            if path.is_symlink() and not os.path.realpath(path).startswith(inside):
                raise UserError(f"{path} is a link out of the run's folder, in which nothing may be written: put what "
                                "it leads to in its place")
        lock = FileLock(self.root / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"another process is working on {self.root}: wait for it, or choose another --run") from None
        try:
            for leftover in self.root.rglob(".*"):
                if HALF_WRITTEN.fullmatch(leftover.name):
                    leftover.unlink()
            yield
        finally:
            lock.release()

    # checkpoints: <name>.safetensors when finished, <name>.progress.safetensors before

    def own_path(self, name: str) -> Path:
        """Where the round keeps what it makes."""
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def path(self, name: str) -> Path:
        """Of what the round uses: its own, but V is the last one that was trained."""
        return (self.vision_round if name == "vision" else self).own_path(name)

    @property
    def vision_round(self) -> "Run":
        """The round whose V this one uses. A published world model of a comparison has no V of its own where it shares
        that of the run it was compared in; one that is still being trained gets one."""
        trained = [round for round in self.until_now if round.own_path("vision").exists()]
        if not trained and self.root.parent.name == "compare" and (self.root / "entry.json").exists():
            return Run(self.root.parent.parent).last("memory").vision_round
        return trained[-1] if trained else self.at(1)

    @property
    def compared(self) -> "dict[str, Run]":
        """The finished world models that pipeline.compare trained beside the run's own, by name: <kind>-<training>."""
        return {path.parent.name: Run(path.parent) for path in sorted(self.root.glob("compare/*/entry.json"))}

    def progress_path(self, name: str) -> Path:
        return self.own_path(name).with_suffix(".progress.safetensors")

    def finished(self, name: str, info: dict) -> bool:
        """Whether the checkpoint exists; a UserError if it was made with other settings than `info`."""
        if not self.path(name).exists():
            return False
        _, found = load_arrays(self.path(name))
        self._check(name, self.path(name), found, info)
        return True

    def save(self, name: str, tensors: "dict[str, Tensor]", info: dict):
        """The finished checkpoint, and its description beside it for people to read."""
        arrays, info = to_arrays(tensors), plain(info)
        save_arrays(self.own_path(name), arrays, info)
        write_json(self.own_path(name).with_suffix(".json"), info | {"digest": digest(arrays)})

    def load(self, name: str, stage: str) -> "tuple[dict[str, Tensor], dict]":
        """Tensors and info of a finished checkpoint; `stage` is the command that makes it."""
        if not self.path(name).exists():
            raise UserError(f"no {name} in {self.folder}: run `python -m pipeline.{stage}` first")
        arrays, info = load_arrays(self.path(name))
        return to_tensors(arrays), info | {"digest": digest(arrays)}

    def save_progress(self, name: str, tensors: "dict[str, Tensor]", info: dict):
        save_arrays(self.progress_path(name), to_arrays(tensors), plain(info))

    def load_progress(self, name: str, info: dict) -> "tuple[dict[str, Tensor], int] | None":
        """An interrupted stage's tensors and step, if it was begun with the same settings; None if there are none."""
        if not self.progress_path(name).exists():
            return None
        arrays, found = load_arrays(self.progress_path(name))
        step = found.pop("step", None)
        if type(step) is not int or step < 0:
            raise UserError(f"{self.progress_path(name)} is damaged (step {step}): delete it to begin anew")
        self._check(name, self.progress_path(name), found, info)
        return to_tensors(arrays), step

    def _check(self, name: str, path: Path, found: dict, wanted: dict):
        different = differences(found, wanted)
        if different:
            raise UserError(f"{name} in {self.folder} was made with {different}: choose another --run, "
                            f"or delete {path.parent}/{name}.* to make it anew")

    def metrics(self, stage: str, step: int = 0) -> Metrics:
        return Metrics(self, stage, step)


def find(task: str, run: str | Path | None = None) -> Run:
    """A run by its folder, or by its name: in data/ here or of the checkout, or among the published ones. Without
    either, the published one of the name DEFAULT. A UserError where there is none."""
    published = PUBLISHED / task
    places = [published / DEFAULT]
    if run is not None:
        places = [Path(run), *(data / task / run for data in (Path("data"), DATA)), published / run]
    for folder in places:
        if (folder / "config.json").exists():
            return Run(folder)
    raise no_run(task, published / DEFAULT if run is None else run, Path("data"))


def no_run(task: str, run: str | Path, data: Path) -> UserError:
    """What to say of a run that is not there."""
    names = lambda place: [path.parent.name for path in sorted((place / task).glob("*/config.json"))]
    mine = dict.fromkeys([*names(data), *names(DATA)])
    there = [*mine, *(f"{name} (published)" for name in names(PUBLISHED))] or [f"none in {data}"]
    return UserError(f"no run {run} of {task}; there are: {', '.join(there)}. `python -m pipeline --task {task} "
                     "--preset smoke` makes one in a minute; `python -m pipeline.collect` begins one stage by stage")


def from_dict(cls, values: dict, kinds: Mapping[str, Any] = MappingProxyType({})):
    """A dataclass from nested dicts; settings that `values` does not have keep their defaults. A TypeError names one
    that is unknown, or that the command line would not take: of a wrong type, or outside its Range."""
    made, given = cls(), {}
    if unknown := values.keys() - {f.name for f in fields(cls)}:
        raise TypeError(f"unknown setting {', '.join(sorted(unknown))}")
    for key, value in values.items():
        default = getattr(made, key)
        if is_dataclass(default):
            stored = config_of(kinds[key], value) if key in kinds else from_dict(type(default), value, kinds)
            given[key] = stored
        else:
            given[key] = tuple(value) if isinstance(default, tuple) else value
            if key == "kind" and value != default:          # another one has other settings: see config_of
                raise TypeError(f"kind: {value!r} and not {default!r}")
            if type(given[key]) is not type(default) and not (isinstance(default, float) and type(value) is int):
                raise TypeError(f"{key}: {value!r}")
    try:
        check_values(cls, {key: value for key, value in given.items() if not is_dataclass(value)}, {})
    except UserError as error:
        raise TypeError(error) from None
    return replace(made, **given)


def config_of(kinds: Mapping[str, Any], values: dict) -> Any:
    """The Config of the kind that stored settings name, from a registry; a KeyError where it has none of that name. A
    kind within it is of the same registry."""
    cls = kinds[values["kind"]].Config
    return from_dict(cls, values, dict.fromkeys(kinds_within(cls()), kinds))


def kinds_within(config) -> list[str]:
    """The settings of a config that are themselves a kind's."""
    return [f.name for f in fields(config) if hasattr(getattr(config, f.name), "kind")]


def differences(found: dict, wanted: dict, prefix: str = "") -> str:
    """What differs between stored settings and those wanted now, as 'a.b=1 (now 2)', comma-separated; empty where
    nothing does.

    Settings that the stored ones do not know have the defaults of the dataclasses in `wanted`.
    """
    parts = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if is_dataclass(b):
            if isinstance(a, dict) and a.get("kind") == getattr(b, "kind", None):
                a = plain(type(b)()) | a
            b = {f.name: getattr(b, f.name) for f in fields(b)}         # what is within them has its defaults too
        if isinstance(a, dict) and isinstance(b, dict) and a.get("kind") == b.get("kind"):
            parts.append(differences(a, b, f"{prefix}{key}."))
        elif isinstance(a, dict) and isinstance(b, dict):
            parts.append(f"{prefix}{key}.kind={a.get('kind')} (now {b.get('kind')})")
        elif a != plain(b):
            parts.append(f"{prefix}{key}={a} (now {plain(b)})")
    return ", ".join(part for part in parts if part)


def plain(value):
    """Dicts of dataclasses as JSON would give them back: dicts and lists."""
    return json.loads(json.dumps(value, default=asdict))


def to_arrays(tensors: "dict[str, Tensor]") -> dict:
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}


def to_tensors(arrays: dict) -> "dict[str, Tensor]":
    import torch
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
