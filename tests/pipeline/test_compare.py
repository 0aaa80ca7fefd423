"""The comparison of world models, all of it, on tiny settings."""

import json
import shutil

import numpy as np
import pytest

from pipeline.budget import FEWEST
from pipeline.command import main
from pipeline.compare import compare, world_models
from pipeline.presets import presets
from tests.pipeline.conftest import TOY
from worldmodels.envs import TASKS
from worldmodels.files import load_arrays
from worldmodels.report import comparison
from worldmodels.runs import Run
from worldmodels.worlds.gym import open_world

MODELS = ["gru", "rssm-jointly"]
WAYS = ["linear", "actor", "distilled", "planner", "guided"]


def compared(data, *more):
    main(compare, [*TOY, "--data", str(data), "--compare.models", *MODELS, *more])
    return Run(data / "toy" / "smoke")


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A run, its world models compared."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(finished("toy"), data / "toy" / "smoke")
    return compared(data)


def entries(run):
    return json.loads((run.report / "compare.json").read_text())["entries"]


def test_every_model_is_trained_scored_and_predicts(run):
    found = entries(run)
    assert [entry["name"] for entry in found] == MODELS
    for entry in found:
        assert {score["world"] for score in entry["scores"]} == {"real", "dream"}
        assert entry["prediction"].keys() == {"random", "controller"}
        assert entry["steps"] >= FEWEST and entry["seconds"] > 0 and entry["dream_steps_per_s"] > 0
    assert all(name in (run.report / "compare.md").read_text() for name in MODELS)
    pictures = {path.name for path in run.report.glob("compare-*")}
    assert pictures == {f"compare-{name}" for name in ("scores.png", "open-loop.png", "calibration.png",
                                                       "film-random.jpg", "film-controller.jpg")}
    assert comparison.table(found)


def test_trainings_at_once_make_the_same_models(run, tmp_path):
    """Each in a copy of the folder: V, M, C, scores and predictions, with as many steps as were planned."""
    data = tmp_path / "data"
    shutil.copytree(run.root, data / "toy" / "smoke")
    again = Run(data / "toy" / "smoke")
    for model in MODELS:
        shutil.rmtree(again.root / "compare" / f"{model}-0")
    compared(data, "--trainings-at-once", "2", "--executor", "local", "--workers", "2")
    for one, other in zip(entries(run), entries(again), strict=True):
        assert one["prediction"] == other["prediction"] and one["steps"] == other["steps"]
        assert [score["returns"] for score in one["scores"]] == [score["returns"] for score in other["scores"]]
    for model in MODELS:
        for name in ("vision", "memory", "controller"):
            weights = [load_arrays(of.root / "compare" / f"{model}-0" / "checkpoints" / f"{name}.safetensors")[0]
                       for of in (run, again)]
            assert all(np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_all_models_have_the_same_episodes_and_a_v_of_their_own_where_it_is_trained_with_m(run):
    names = lambda folder, pattern: {path.name for path in folder.glob(pattern)}
    base = Run(run.root / "compare" / "base")
    assert len(names(base.episodes, "*.lz4")) == len(names(base.latents, "*.safetensors")) == 8
    for model in MODELS:
        place = run.root / "compare" / f"{model}-0"
        assert names(place / "episodes", "*.lz4") == names(base.episodes, "*.lz4")
        assert names(place / "latents", "*.safetensors") == names(base.latents, "*.safetensors")
    digest = lambda folder: json.loads((folder / "checkpoints/vision.json").read_text())["digest"]
    own, *compared = digest(run.root), *(digest(run.root / "compare" / f"{model}-0") for model in MODELS)
    assert [digest == own for digest in compared] == [True, False]


def test_an_entry_is_a_run_like_any_other(run):
    opened = open_world("toy", "dream", run=run.root / "compare" / "rssm-jointly-0")
    opened.world.reset([1, 2])


def test_an_entry_of_other_settings_is_not_taken(run, capsys):
    with pytest.raises(SystemExit):
        compared(run.root.parents[1], "--dream.temperature", "0.5")
    assert "gru-0 was made with dream.temperature=1.05 (now 0.5): delete it" in capsys.readouterr().err


@pytest.mark.parametrize("setting, told", (("--compare.weight-noise=0.5", "compare.weight_noise=0.0 (now 0.5)"),
                                           ("--compare.random-episodes=5", "compare.random_episodes=4 (now 5)"),
                                           ("--collect.explore-share=0.2", "explore_share=0.5 (now 0.2)")))
def test_world_models_trained_on_other_episodes_are_not_mixed(run, capsys, setting, told):
    with pytest.raises(SystemExit):
        compared(run.root.parents[1], setting)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in message and "delete the folder" in message


def test_a_published_run_will_do(run, tmp_path):
    shutil.copytree(run.root, tmp_path / "toy" / "smoke",
                    ignore=lambda folder, names: {"compare"} | {name for name in names if name.endswith(".lz4")})
    main(compare, [*TOY, "--data", str(tmp_path), "--compare.models", "gru"])
    assert [entry["name"] for entry in entries(Run(tmp_path / "toy" / "smoke"))] == ["gru"]


def test_what_is_there_is_taken_and_what_is_missing_made_again(run, capsys):
    before = entries(run)
    compared(run.root.parents[1])
    assert entries(run) == before
    shutil.rmtree(run.root / "compare" / "gru-0")
    compared(run.root.parents[1])
    (again, *_), (first, *_) = entries(run), before
    assert again["prediction"] == first["prediction"]                       # as many steps, the same weights
    assert [score["mean"] for score in again["scores"]] == [score["mean"] for score in first["scores"]]


def test_another_training_differs_and_stands_beside_the_first(run):
    compared(run.root.parents[1], "--compare.models", "gru", "--compare.trainings", "2")
    found = entries(run)
    assert [(entry["name"], entry["training"]) for entry in found] == [("gru", 0), ("gru", 1), ("rssm-jointly", 0)]
    assert found[0]["prediction"] != found[1]["prediction"]


def test_a_model_that_there_is_not_is_one_line(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(compare, [*TOY, "--data", str(run.root.parents[1]), "--compare.models", "gru", "lstm"])
    assert stop.value.code == 2
    assert "lstm: choose from gru, mdn_rnn" in capsys.readouterr().err


@pytest.mark.parametrize("task", ("car_racing", "take_cover", "toy"))
def test_all_are_trained_in_the_same_way_but_for_what_is_compared(task):
    for name, preset in presets(TASKS[task]).items():
        if name == "paper":
            continue
        config = preset()
        for model in world_models(config).values():
            assert model.memory.done_weight == config.memory.done_weight
            assert model.memory.batch == config.compare.batch and model.memory.sequence == config.memory.sequence
            assert model.memory.latent == ("sample" if model.training == "jointly" else config.compare.latent)
            assert model.learner == config.compare.learner and model.dream == config.dream
            assert model.vision.steps == config.vision.steps and model.vision.z_size == config.vision.z_size


def test_several_ways_to_act_are_compared_in_the_runs_own_world_model(run, tmp_path, capsys):
    shutil.copytree(run.root, tmp_path / "toy" / "smoke")
    before = entries(run)
    arguments = [*TOY, "--data", str(tmp_path), "--compare.models", "own", "--compare.controllers"]
    main(compare, [*arguments, "distilled", "planner", "guided"])           # of the actor, who comes along
    report = tmp_path / "toy" / "smoke" / "report"
    found = json.loads((report / "compare.json").read_text())
    assert [(e["model"], e["controller"]) for e in found["controllers"]] == [("own", way) for way in WAYS]
    assert found["entries"] == before
    for entry in found["controllers"]:
        assert {score["world"] for score in entry["scores"]} == {"real", "dream"} and entry["decide_ms"] > 0
    parameters = lambda model, way: load_arrays(
        tmp_path / "toy/smoke/compare" / model / "ways" / way / "checkpoints/controller.safetensors")[0]["parameters"]
    own = load_arrays(tmp_path / "toy/smoke/checkpoints/controller.safetensors")[0]["parameters"]
    assert np.array_equal(parameters("own-0", "linear"), own)
    assert np.array_equal(parameters("own-0", "guided"), parameters("own-0", "actor"))
    assert not np.array_equal(parameters("own-0", "distilled"), own)
    assert (report / "compare-controllers.png").exists() and "guided" in (report / "compare.md").read_text()
    for path in (tmp_path / "toy" / "smoke" / "compare").glob("*/entry.json"):           # of models that were trained
        path.unlink()
    main(compare, [*TOY, "--data", str(tmp_path), "--compare.models", "own", "--compare.controllers", "planner"])
    assert json.loads((report / "compare.json").read_text())["entries"] == []
    assert (report / "compare.md").read_text().count("| own | actor |") == 1
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(compare, [*arguments, "oracle"])
    assert "--compare.controllers oracle: choose from linear, actor" in capsys.readouterr().err
