"""Files that someone could send: a run of the toy task, one of its files replaced in many ways, and all that reads it.

`python -m tests.malicious FOLDER` walks through them, with GIGABYTES of memory more than it begins with, and prints
what came of each as a line of JSON: [family, file, reader, outcome].
"""

import json
import math
import os
import pickle
import random
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import lz4.frame
import numpy as np
import torch

from pipeline.collect import common_settings
from pipeline.command import controller_info, main, memory_info, parse, task_of, vision_info, write_settings
from pipeline.encode import encode_episodes
from pipeline.finished import compared, finished
from pipeline.presets import KINDS, Config
from worldmodels import Agent, episodes, register_worlds
from worldmodels.agent import build_memory, build_vision, load_agent, load_controller
from worldmodels.commandline import leaves
from worldmodels.errors import UserError
from worldmodels.files import ITEM_BYTES, load_arrays, pack, read_json, write_json
from worldmodels.latents import open_latents
from worldmodels.metrics import read_metrics
from worldmodels.report.scores import read_scores, score, write_scores
from worldmodels.runs import Run, episode_seeds, plain
from worldmodels.worlds.collect import CollectConfig, CollectJob

GIGABYTES = 2
LONGEST = 20        # seconds for one file; only what waits without an end takes them
EPISODE, LATENTS = "episodes/000000000.safetensors.lz4", "latents/000000000.safetensors"
VISION, MEMORY, CONTROLLER = (f"checkpoints/{name}.safetensors" for name in ("vision", "memory", "controller"))
CONFIG, SCORES, WALL, METRICS, COMPARE = ("config.json", "report/scores.json", "wall.json", "metrics.jsonl",
                                          "report/compare.json")
MARKER = "code-was-run"         # the file that code in a malicious file would make


def make_run(data: Path) -> Run:
    """A small run with all that a finished one has, but untrained."""
    config = parse(["--task", "toy", "--preset", "smoke", "--run", "victim", "--data", str(data), "--device", "cpu",
                    "--workers", "1", "--vision.z-size", "4", "--vision.channels", "2", "--memory.hidden-size", "4"])
    run, task = Run(data / "toy" / "victim"), task_of(config)
    write_settings(config, run)
    for seed in episode_seeds(config.seed, 1, "collect")[:config.collect.episodes]:
        CollectJob(task, config.collect, (seed,), kept=True)().write(run.episodes)
    write_json(run.episodes / "settings.json", plain(common_settings(config)))
    run.save("vision", build_vision(plain(vision_info(config))).state_dict(), vision_info(config))
    encode_episodes(config, run)
    info = memory_info(config, run)
    run.save("memory", build_memory(plain(info), task).state_dict(), info)
    agent = load_agent(run)
    zeros = torch.zeros(agent.parameter_count(config.controller))
    search = {"start": zeros, "means": zeros[None], "generations": torch.zeros(1, dtype=torch.int64)}
    run.save("controller", {"parameters": zeros} | search, controller_info(config, agent.digest))
    write_scores(run.report / "scores.json", [score(task, "real", "controller from the dream", np.arange(12.0),
                                                    temperature=None)])
    write_json(run.report / "compare.json", {"task": "toy", "seconds": 1, "entries": [{"name": "gru"}]})
    write_json(run.wall, {"collect": 1.5})
    return run


# what reads the files

def opened(run: Run):
    """All that opens a run's V, M, C and latents."""
    agent = load_agent(run)
    load_controller(run, agent)
    open_latents(run, 0, agent.vision_digest).episode(0)


def acts(run: Run):
    agent = Agent.load(run.root)
    agent.reset()
    agent.act(np.zeros((64, 64, 3), np.uint8))


def dreams(run: Run):
    env = gymnasium.make("worldmodels/ToyDream-v0", run=run.root, disable_env_checker=True)
    env.reset(seed=0)
    env.step(env.action_space.low)
    env.close()


def nothing(config: Config, run: Run):
    """A stage that does nothing."""


def command(run: Run):
    """The command line goes on with a stored run."""
    main(nothing, ["--task", "toy", "--run", run.root.name, "--data", str(run.root.parents[1])])


def stored(run: Run):
    run.settings(Config, kinds=KINDS)
    run.settings(CollectConfig, "collect")


def of(read: Callable[[Path], Any], name: str) -> Callable[[Run], Any]:
    return lambda run: read(run.root / name)


def frames(run: Run):
    next(episodes.EpisodeFolder(run.episodes).frame_batches(4, 0))


RUN = {"agent": opened, "Agent.load": acts, "gymnasium.make": dreams,
       "finished": lambda run: finished("toy", run.root)}
READERS = {
    CONFIG: {"read_json": of(read_json, CONFIG), "Run.settings": stored, "pipeline": command} | RUN,
    VISION: {"load_arrays": of(load_arrays, VISION)} | RUN,
    MEMORY: {"load_arrays": of(load_arrays, MEMORY)} | RUN,
    CONTROLLER: {"load_arrays": of(load_arrays, CONTROLLER)} | RUN,
    LATENTS: {"load_arrays": of(load_arrays, LATENTS), "agent": opened, "gymnasium.make": dreams},
    EPISODE: {"episodes.read": of(episodes.read, EPISODE), "episodes.length": of(episodes.length, EPISODE),
              "EpisodeFolder": frames},
    SCORES: {"read_scores": of(read_scores, SCORES)},
    WALL: {"Run.seconds": lambda run: run.seconds},
    METRICS: {"read_metrics": lambda run: read_metrics(run.folder)},
    COMPARE: {"compared": lambda run: compared("toy", run.root)}}


class Case(NamedTuple):
    family: str
    file: str
    place: Callable[[Path], Any]        # puts it in the place of the file
    readers: tuple[str, ...] = ()       # all of the file's, if none is named


# what is put in a file's place

class Bomb:
    """Makes the marker when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def written(data: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(data)


def large(size: int) -> Callable[[Path], Any]:
    """A file of so many bytes, without any on the disk."""
    def make(path: Path):
        with open(path, "wb") as file:
            file.truncate(size)
    return make


SPECIAL = {"a FIFO": os.mkfifo, "a folder": os.mkdir,
           "a link to a password file": lambda path: path.symlink_to("/etc/passwd"),
           "a link to an endless file": lambda path: path.symlink_to("/dev/zero"),
           "a link to itself": lambda path: path.symlink_to(path), "8 GB": large(8 * 2**30),
           "1 GB of zeros": large(2**30)}


def contents(good: bytes, rng: random.Random) -> dict[str, bytes]:
    """Contents of any file, which is `good`."""
    flipped = bytearray(good)
    flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    code = f"__import__('os').system('touch {MARKER}')"
    return {"nothing": b"", "zeros": bytes(1000), "noise": rng.randbytes(5000), "half": good[:len(good) // 2],
            "more": good + rng.randbytes(100), "a bit flipped": bytes(flipped), "a pickle": pickle.dumps(Bomb()),
            "Python": code.encode(), "YAML": f"!!python/object/apply:os.system ['touch {MARKER}']".encode(),
            "not UTF-8": good.replace(b"a", b"\xff"), "UTF-16": good.decode("latin1").encode("utf-16")}


def json_texts() -> dict[str, str]:
    deep = 100_000
    return {"deep lists": "[" * deep + "]" * deep, "deep objects": '{"config":' * deep + "1" + "}" * deep,
            "deep but for one": '{"config":' * 900 + "1" + "}" * 900, "unclosed": '{"config":' * deep,
            "a huge number": '{"format": 2, "config": ' + "9" * 1_000_000 + "}",
            "an infinite format": '{"format": 1e999}',
            "a format of NaN": '{"format": NaN}', "a huge format": '{"format": ' + "9" * 4000 + "}",
            "a key twice": '{"format": 2, "config": {}, "config": 1}',
            "a lone surrogate": '{"format": 2, "\\ud800": 1}',
            "terminal codes": '{"format": 2, "config": {"\\u001b[2J\\n\\nerror: ": 1}}',
            "many lists": "[" + "[]," * 300_000 + "[]]", "60 MB": '{"a": "' + "a" * 60_000_000 + '"}',
            "format 1": '{"config": {"controller": {"population": 1, "start": []}}}',
            "settings of format 1": '{"policy": 1, "drawing": 1, "task": 1}',
            "a list": "[[], 1, {}]", "null": "null",
            "wrong values": '{"format": 2, "config": [], "scores": [{}, 1], "a": "b"}'}


def headers() -> dict[str, Any]:
    """Headers of safetensors files: bytes as they are, or an object and how many bytes follow."""
    array = lambda shape, dtype="F32", begin=0, end=8: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    named = lambda *arrays: {f"a{i}": one for i, one in enumerate(arrays)}
    return {"2^63 bytes": struct.pack("<Q", 2**63) + b"{}", "2^64 - 1 bytes": b"\xff" * 8 + b"{}",
            "1 GB": struct.pack("<Q", 10**9) + b"{}", "2 MB": struct.pack("<Q", 2**21) + b" " * 2**21,
            "a deep one": b"[" * 50_000, "no object": b"[1, 2]", "a name twice": b'{"a": 1, "a": 2}',
            "negative": named(array([-2, -1])), "huge": named(array([2**62, 4])),
            "huge and none": named(array([2**63, 0], end=0)),
            "NaN": b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', "a float": named(array([2.0])),
            "true": named(array([True], end=4)), "texts": named(array(["2"])), "a text": named(array("22")),
            "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "more": {"a": array([2]) | {"code": "1"}},
            "no list": {"a": {"dtype": "F32", "shape": 2, "data_offsets": 8}},
            "backwards": named(array([2], begin=8, end=0)),
            "the same bytes": named(array([2]), array([2])), "a gap": named(array([2], begin=4, end=12)),
            "an unknown type": named(array([2], "PICKLE")), "another type": named(array([4], "BF16")),
            "1,000 dimensions": named(array([1] * 998 + [2])), "10 PB": named(array([10**15 // 4], end=10**15)),
            "huge dimensions": named(array([10**18] * 5000)), "no numbers": {"__metadata__": {"format": 2, "info": {}}},
            "a format": {"__metadata__": {"format": "1e5", "info": "{}", "digest": ""}},
            "a later format": {"__metadata__": {"format": "99", "info": "{}", "digest": ""}},
            "metadata": {"__metadata__": [1]}, "deep info": {"__metadata__": {"info": "[" * 100_000, "digest": ""}}}


def with_header(header: Any, follow: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = isinstance(header, bytes) and text[:1] not in (b"[", b"{")
    return text if whole else struct.pack("<Q", len(text)) + text + bytes(follow)


def bombs(good: bytes) -> dict[str, bytes]:
    """lz4 frames that are small, and large when decompressed; `good` is an episode."""
    block = 4 * 2**20

    def frame(first: bytes, zeros: int, stated: int = 0) -> bytes:
        """`first` and then so many zeros, in blocks that are all the same, and the end mark."""
        compressor = lz4.frame.LZ4FrameCompressor(block_size=lz4.frame.BLOCKSIZE_MAX4MB, block_linked=False,
                                                  auto_flush=True)
        begin = compressor.begin(source_size=stated) + compressor.compress(first)
        return begin + compressor.compress(bytes(block)) * (zeros // block) + bytes(4)

    def episode(T: int, size: int) -> bytes:
        """The header of an episode of T steps whose data are stated to be so large."""
        arrays, at = {}, 0
        shapes = {"frames": ("U8", [T + 1, 64, 64, 3]), "action": ("F32", [T, 1]), "reward": ("F32", [T]),
                  "terminated": ("BOOL", [T]), "truncated": ("BOOL", [T])}
        for name, (dtype, shape) in shapes.items():
            end = at + math.prod(shape) * ITEM_BYTES[dtype]
            arrays[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            at = end
        text = json.dumps(arrays).encode()
        return struct.pack("<Q", len(text)) + text + bytes(size)

    plain = lz4.frame.decompress(good)
    return {"4 GB of zeros": frame(b"", 4 * 2**30), "4 GB behind an episode": frame(plain, 4 * 2**30),
            "4 GB of frames": frame(episode(300_000, 0), 4 * 2**30), "10 GB stated": frame(b"abc", block, 10 * 2**30),
            "10^18 steps": frame(episode(10**18, 100), block),
            "1 GB of frames, none there": frame(episode(80_000, 0), 0),
            "3 GB behind a small header": frame(episode(5, 0), 3 * 2**30), "two frames": good * 2,
            "another file within": lz4.frame.compress(pickle.dumps(Bomb())), "more": lz4.frame.compress(plain + b"a"),
            "a skippable frame": struct.pack("<II", 0x184D2A50, 2**32 - 1) + bytes(100),
            "a frame in a frame": lz4.frame.compress(frame(b"", 2**32))}


WRONG = (None, "x", [], {}, -1, 10**9 + 1, 10**400, -10**400, float("nan"), float("inf"), True, ["x", {}], [[10**9]],
         "../../../etc/passwd", f"__import__('os').system('touch {MARKER}')", "os:system", "\x00", "a\nb", 1e300)


def changed(values: dict, name: str, value: Any) -> dict:
    """The same nested dicts with another value at a dotted name."""
    first, _, rest = name.partition(".")
    return values | {first: changed(values[first], rest, value) if rest else value}


def infos() -> Iterator[tuple[str, str, Any]]:
    """What the description of a checkpoint could say: file, dotted name, value."""
    for file, section in ((VISION, "vision"), (MEMORY, "memory"), (MEMORY, "vision"), (CONTROLLER, "controller")):
        yield from ((file, section, value) for value in (7, [], "vae", {}, None))
        for kind in ("os.system", [], None, "actor", "cem", "rssm", "mlp"):
            yield file, f"{section}.kind", kind
    for value in (10**9, 65_536, 4096, 0, -1, "4", 2.5):
        yield from ((VISION, f"vision.{name}", value) for name in ("z_size", "channels"))
        yield from ((MEMORY, name, value) for name in ("vision.z_size", "memory.hidden_size", "memory.mixtures"))
    for value in ("os:system", "../toy", [], None, 3, "take_cover"):
        yield MEMORY, "task", value
    for value in ([], "x", {"repeat": 0}, {"repeat": 10**400}, {"repeat": "2"}, {"repeat": True}, None):
        yield MEMORY, "collect", value
    yield MEMORY, "vision_digest", ["x"]
    members: dict = {"kind": "gru"}
    for _ in range(30):
        members = {"kind": "ensemble", "member": members}
    yield MEMORY, "memory", members
    yield MEMORY, "memory", {"kind": "rssm", "prior_heads": 10**9}
    yield MEMORY, "memory", {"kind": "ensemble", "members": 10, "member": {"kind": "rssm", "prior_heads": 30}}
    yield MEMORY, "memory", {"kind": "gru", "hidden_size": 65_536}
    yield CONTROLLER, "agent_digest", None
    yield CONTROLLER, "controller", {"kind": "actor", "layers": 10**9}
    yield CONTROLLER, "controller", {"kind": "actor", "units": 65_536, "layers": 100}
    yield CONTROLLER, "controller", {"kind": "mlp", "hidden_size": 65_536}
    for name in ("horizon", "candidates", "dreams", "iterations"):
        yield CONTROLLER, "controller", {"kind": "cem", name: 10**9}


ARRAYS = {"of another shape": lambda a: a.reshape(-1)[:-1], "of no size": lambda a: a.reshape(-1)[:0],
          "scalar": lambda a: a.sum(), "of whole numbers": lambda a: a.astype(np.int64), "NaN": lambda a: a * np.nan,
          "infinite": lambda a: a + np.inf,
          "truths": lambda a: a.astype(bool), "of another dimension": lambda a: a[None]}


def cases(run: Run) -> Iterator[Case]:
    rng = random.Random(0)
    good = {file: (run.root / file).read_bytes() for file in READERS}
    for file in READERS:
        yield from (Case(f"contents: {name}", file, written(data)) for name, data in contents(good[file], rng).items())
        yield from (Case(f"special: {name}", file, make) for name, make in SPECIAL.items())
        other = rng.choice([f for f in READERS if f != file])
        yield Case(f"contents: {other}", file, written(good[other]))
    for file, (name, text) in product((CONFIG, SCORES, WALL, METRICS, COMPARE), json_texts().items()):
        yield Case(f"JSON: {name}", file, written(text.encode("utf-8", "surrogatepass")))
    for (name, header), file in product(headers().items(), (VISION, LATENTS, EPISODE)):
        data = with_header(header)
        yield Case(f"header: {name}", file, written(lz4.frame.compress(data) if file == EPISODE else data))
    for name, data in bombs(good[EPISODE]).items():
        yield Case(f"bomb: {name}", EPISODE, written(data))
    config = json.loads(good[CONFIG])
    for name, _ in leaves(run.settings(Config, kinds=KINDS)):
        if name != "data":
            for value in rng.sample(WRONG, 3):
                text = json.dumps(changed(config, f"config.{name}", value)).encode()
                more = ("Run.settings", "pipeline") if rng.random() < 0.1 else ("Run.settings",)
                yield Case(f"setting: {name}", CONFIG, written(text), more)
    for file, name, value in infos():
        arrays, info = load_arrays(run.root / file)
        yield Case(f"info: {name}", file, written(pack(arrays, changed(info, name, value))))
    for file, (what, change) in product((VISION, MEMORY, CONTROLLER, LATENTS), ARRAYS.items()):
        arrays, info = load_arrays(run.root / file)
        name = rng.choice(sorted(arrays)) if file != CONTROLLER else "parameters"
        yield Case(f"array {name} {what}", file, written(pack(arrays | {name: change(arrays[name])}, info)))
    for file in (VISION, MEMORY, CONTROLLER, LATENTS):
        arrays, info = load_arrays(run.root / file)
        less = {name: arrays[name] for name in sorted(arrays)[1:]}
        yield Case("an array less", file, written(pack(less, info)))
        yield Case("an array more", file, written(pack(arrays | {"code": np.frombuffer(b"import os", np.uint8)}, info)))


def outcome(read: Callable[[Run], Any], run: Run) -> str:
    """"loads", "refused" with one line, or what else came."""
    signal.alarm(LONGEST)
    try:
        read(run)
        return "loads"
    except UserError as error:
        return "refused" if str(error).isprintable() else f"not one line: {error!r}"
    except SystemExit as stop:
        return "refused" if stop.code == 2 else f"exit {stop.code}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)


def walk(run: Run) -> Iterator[list[str]]:
    """Every case and reader, each on a run whose other files are good."""
    for case in cases(run):
        path = run.root / case.file
        kept = path.with_name("kept")
        path.rename(kept)
        case.place(path)
        for name in case.readers or READERS[case.file]:
            yield [case.family, case.file, name, outcome(READERS[case.file][name], run)]
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)


def limit_memory():
    """GIGABYTES more than this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def hangs(*_):
    raise TimeoutError(f"more than {LONGEST} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    register_worlds("toy", "Toy")
    made = make_run(Path(sys.argv[1]))
    signal.signal(signal.SIGALRM, hangs)
    acts(made)
    dreams(made)
    limit_memory()
    for line in walk(made):
        print(json.dumps(line), flush=True)
