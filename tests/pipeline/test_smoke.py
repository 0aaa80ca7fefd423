"""Every task through all six stages, in the smallest preset, as a user calls it."""

import json

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import __main__ as stages
from pipeline.command import main
from worldmodels import episodes
from worldmodels.envs import TASKS
from worldmodels.files import load_arrays
from worldmodels.metrics import read_metrics
from worldmodels.report.scores import read_scores

FIELDS = {"task", "env_id", "world", "temperature", "controller", "episodes", "first_seed", "mean", "std", "ci95",
          "returns", "wall_s", "workers", "device", "git_commit"}
PICTURES = {"returns.png", "worst.png", "dream_vs_real.png", "sim_to_real_gap.png", "curves.png", "film_strip.png",
            "real.webp", "dream.webp", "report.html"}
CAPTION = 28            # rows of black with white letters above each frame of a video

STAGES = {"collect", "vision", "encode", "memory", "evaluate"}
SEARCH = {"car_racing": "behaviour"}            # what C's training is called where it is not "controller"

every_task = pytest.mark.parametrize("task", TASKS)


def scores(folder) -> list[dict]:
    return read_scores(folder / "report" / "scores.json")


@every_task
def test_a_run_leaves_its_files(task, finished):
    folder = finished(task)
    stored = json.loads((folder / "config.json").read_text())
    assert stored["config"]["task"] == task and {"python", "packages", "git_commit"} <= stored.keys()
    for name in ("vision", "memory", "controller"):
        tensors, info = load_arrays(folder / "checkpoints" / f"{name}.safetensors")
        assert info["task"] == task and all(np.isfinite(tensor).all() for tensor in tensors.values())
        assert json.loads((folder / "checkpoints" / f"{name}.json").read_text()).items() >= info.items()
    search = SEARCH.get(task, "controller")
    assert all(list((folder / "tensorboard" / name).iterdir()) for name in ("vision", "memory", search))
    assert [row["step"] for row in read_metrics(folder, search)] == ([2, 4] if task in SEARCH else [1, 2])
    assert {row["stage"] for row in read_metrics(folder)} == STAGES | {search}
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]    # nothing half-written,
    assert not list(folder.rglob("*.progress.*"))                               # nothing unfinished


@every_task
def test_every_stage_has_its_curves_in_tensorboard(task, finished):
    folder = finished(task)
    for stage in STAGES | {SEARCH.get(task, "controller")}:
        events = EventAccumulator(str(folder / "tensorboard" / stage)).Reload()
        rows = read_metrics(folder, stage)
        logged = set().union(*rows) - {"stage", "step"}
        assert set(events.Tags()["scalars"]) == {f"{stage}/{name}" for name in logged}
        for tag in events.Tags()["scalars"]:
            drawn = [(event.step, pytest.approx(event.value, rel=1e-5)) for event in events.Scalars(tag)]
            assert [(row["step"], row[tag.split("/", 1)[1]]) for row in rows if tag.split("/", 1)[1] in row] == drawn
    played = [episodes.read(path) for path in (folder / "episodes").glob(f"*{episodes.SUFFIX}")]
    for name, values in (("steps", [len(e.action) for e in played]), ("return", [e.reward.sum() for e in played])):
        assert sorted(row[name] for row in read_metrics(folder, "collect")) == pytest.approx(sorted(values), rel=1e-5)


@every_task
def test_the_page_of_a_run_has_its_scores_and_settings(task, finished):
    page = (finished(task) / "report" / "report.html").read_text()
    for s in scores(finished(task)):
        assert f"<td>{s['controller']}</td>" in page and f"{s['mean']:.0f}\u00a0±\u00a0{s['std']:.0f}" in page
    for section, values in json.loads((finished(task) / "config.json").read_text())["config"].items():
        for name in values if isinstance(values, dict) else (section,):
            assert f"<td>{name}</td>" in page or isinstance(values, dict) and isinstance(values[name], dict)
    assert str(finished(task).parents[2]) not in page               # no path of this machine


@every_task
def test_each_episode_has_its_latents(task, finished):
    folder = finished(task)
    paths = sorted((folder / "episodes").glob(f"*{episodes.SUFFIX}"))
    assert [path.name for path in paths] == [episodes.episode_path(folder, seed).name for seed in range(4)]
    for path in paths:
        episode = episodes.read(path)
        latents, _ = load_arrays(folder / "latents" / path.name.replace(episodes.SUFFIX, ".safetensors"))
        assert len(latents["mu"]) == len(latents["log_var"]) == len(episode.frames) == len(episode.action) + 1
        assert np.array_equal(latents["action"], episode.action) and np.array_equal(latents["reward"], episode.reward)


@every_task
def test_scores(task, finished):
    folder = finished(task)
    entries = scores(folder)
    collect = json.loads((folder / "config.json").read_text())["config"]["collect"]
    collector = f"random ({collect['policy']}" + (f" × {collect['repeat']})" if collect["repeat"] > 1 else ")")
    random = dict.fromkeys([*(f"random ({policy})" for policy in TASKS[task].baselines), collector])
    tensors, _ = load_arrays(folder / "checkpoints" / "controller.safetensors")
    # else there is one controller to score
    evolved = task == "take_cover" and not np.array_equal(tensors["start"], tensors["parameters"])
    controllers = ["start of the search (least_squares)"] * evolved + ["controller from the dream"]
    played = [*random, *controllers, *([f"{controllers[-1]}, skill 5"] if task == "take_cover" else [])]
    assert [(s["world"], s["controller"]) for s in entries] == [
        *(("real", name) for name in played), *(("dream", name) for name in [collector, *controllers])]
    for s in entries:
        assert s.keys() == FIELDS | ({"settings"} if s["world"] == "real" else set())
        assert (s["task"], s["env_id"]) == (task, TASKS[task].env_id)
        assert s["episodes"] == len(s["returns"]) == {"real": 2, "dream": 8}[s["world"]]
        assert np.isfinite(s["returns"]).all()
        assert s["mean"] == pytest.approx(np.mean(s["returns"]), abs=1e-3)
        assert s["std"] == pytest.approx(np.std(s["returns"], ddof=1), abs=1e-3)
        assert s["ci95"] is None                        # of so few episodes an interval says nothing
        assert (s["temperature"] is None) == (s["world"] == "real")
        assert s["first_seed"] >= 1_000_000_000         # far from any that was trained on
        assert s["wall_s"] >= 0 and s["workers"] >= 1 and s["device"] == "cpu"
        assert s["git_commit"] is None or len(s["git_commit"]) >= 7


@every_task
def test_scores_in_the_game_say_how_it_was_played(task, finished):
    collect = json.loads((finished(task) / "config.json").read_text())["config"]["collect"]
    for s in (s for s in scores(finished(task)) if s["world"] == "real"):
        random, every_frame = s["controller"].startswith("random"), "×" not in s["controller"]
        said = {"drawing": "fast" if random else "official", "skill": 5 if "skill 5" in s["controller"] else 4,
                "repeat": 1 if random and every_frame else collect["repeat"]}
        assert s["settings"] == {name: value for name, value in said.items() if name in TASKS[task].settings}


@every_task
def test_pictures_open_and_show_something(task, finished):
    report = finished(task) / "report"
    assert {path.name for path in report.iterdir()} >= PICTURES
    for path in report.glob("*.png"):
        picture = np.asarray(Image.open(path).convert("L"), float)
        assert min(picture.shape) > 200 and picture.std() > 5, path
    for path in report.glob("*.webp"):
        frames = [np.asarray(frame.convert("L"), float)[CAPTION:] for frame in ImageSequence.Iterator(Image.open(path))]
        assert min(frames[0].shape) >= 200 and all(frame.std() > 1 for frame in frames), path
    film = ImageSequence.Iterator(Image.open(report / "real.webp"))
    moving = [np.asarray(frame.convert("L"), float)[CAPTION:] for frame in film]
    assert len(moving) > 3 and not np.array_equal(moving[0], moving[-1])


def test_a_second_call_skips_what_is_finished(copied, capsys):
    folder, arguments = copied
    kept = [path for kind in ("checkpoints", "episodes", "latents", "report")
            for path in sorted((folder / kind).rglob("*")) if path.name != "settings.json"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept]
    main(stages.pipeline, arguments)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept] == before
    err = capsys.readouterr().err
    assert "training" not in err and "evolving" not in err and "encoding" not in err


def test_scores_are_the_same_with_another_number_of_workers(copied):
    folder, arguments = copied
    before = scores(folder)
    main(stages.evaluate, [*arguments, "--executor", "local", "--evaluate.dream-episodes", "12"])
    after = scores(folder)
    assert {s["workers"] for s in before if s["world"] == "real"} == {2}
    assert {s["workers"] for s in after if s["world"] == "real"} == {1}
    played = lambda scores: [s["returns"] for s in scores if s["world"] == "real"]
    assert played(after) == played(before)
    for s in (s for s in after if s["world"] == "dream"):
        low, high = s["ci95"]
        assert s["episodes"] == 12 and (low + high) / 2 == pytest.approx(s["mean"]) and low <= s["mean"] <= high


def test_the_controller_evolves_in_the_real_game_too(copied):
    folder, arguments = copied
    for path in (folder / "checkpoints").glob("controller.*"):
        path.unlink()
    main(stages.train_controller, [*arguments, "--world", "real"])
    tensors, info = load_arrays(folder / "checkpoints" / "controller.safetensors")
    assert info["world"] == "real" and np.isfinite(tensors["parameters"]).all()
    rows = read_metrics(folder, "controller")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 <= row["worst"] <= row["mean"] <= row["best"] for row in rows)     # the toy rewards with its position


@pytest.mark.parametrize("start", ("least_squares", "least_squares_dream"))
def test_the_search_may_start_at_what_dreams_say(copied, start):
    folder, arguments = copied
    for path in (folder / "checkpoints").glob("controller.*"):
        path.unlink()
    arguments += ["--learner.start", start]
    main(stages.train_controller, arguments)
    tensors, _ = load_arrays(folder / "checkpoints" / "controller.safetensors")
    assert tensors["start"].shape == tensors["parameters"].shape and tensors["start"].any()
    main(stages.evaluate, arguments)
    kept = np.array_equal(tensors["start"], tensors["parameters"])          # then there is one controller to score
    assert {s["world"] for s in scores(folder) if s["controller"] == f"start of the search ({start})"} == (
        set() if kept else {"real", "dream"})
