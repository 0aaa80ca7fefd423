"""What is on disk stays usable and is not lost: runs that were copied, published, misspelled, or made by an earlier
version."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from pipeline import __main__ as stages
from pipeline.command import main, parse
from pipeline.compare import compare
from pipeline.presets import Config
from pipeline.publish import publish
from pipeline.sweep_temperature import sweep_temperature
from tests.pipeline.conftest import INLINE
from worldmodels import Agent, runs
from worldmodels.files import RENAMED, digest, load_arrays, pack, read_json, write_atomic
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run

OLD_NAMES = {new: old for old, new in RENAMED.items()}
OLD_STARTS = {"previous_or_zero": "zero", "least_squares_dream": "dreamt", "least_squares": "improved"}


def contents(folder) -> dict:
    """Every file below a folder but the lock, and what is in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# a run works where it is

def test_a_run_knows_no_folder_that_it_was_made_in(finished):
    assert "data" not in read_json(finished("toy") / "config.json")["config"]


@pytest.mark.parametrize("stored", (False, True), ids=("as it is", "as it was in format 1"))
@pytest.mark.parametrize("data", (None, "data"), ids=("without --data", "with --data"))
def test_a_copied_run_works_where_it_is(data, stored, finished, tmp_path, monkeypatch):
    """Also where its settings name the folder that it was made in."""
    made, copy = tmp_path / "made" / "toy" / "smoke", tmp_path / "data" / "toy" / "smoke"
    shutil.copytree(finished("toy"), made)
    if stored:
        values = json.loads((made / "config.json").read_text())
        values["config"]["data"] = str(tmp_path / "made")
        (made / "config.json").write_text(json.dumps(values))
    shutil.copytree(made, copy)
    before = contents(made)
    monkeypatch.chdir(tmp_path)
    arguments = ["--task", "toy", "--run", "smoke", *(["--data", data] if data else [])]
    assert parse(arguments).data == "data"
    main(stages.evaluate, [*arguments, "--sweep.episodes", "3"])
    assert contents(made) == before
    config = read_json(copy / "config.json")["config"]
    assert config["sweep"]["episodes"] == 3 and "data" not in config


# a name that no run has

@pytest.mark.parametrize("stage", [*stages.STAGED[1:], stages.train_jointly, sweep_temperature, publish, compare],
                         ids=lambda stage: stage.__name__)
@pytest.mark.parametrize("preset", ([], ["--preset", "smoke"]), ids=("by its name", "with a preset"))
def test_a_misspelled_run_is_answered_by_those_that_are_there(stage, preset, fails, finished, tmp_path, monkeypatch):
    shutil.copytree(finished("toy"), tmp_path / "toy" / "quick")
    monkeypatch.setattr(runs, "DATA", tmp_path / "nothing")
    said = fails(stage, "--task", "toy", "--run", "quik", *preset, "--data", tmp_path)
    assert "no run quik of toy; there are: quick" in said and "pipeline.collect`" in said
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["quick"]


# published runs

def test_what_is_published_is_not_replaced(copied, fails, tmp_path, capsys):
    folder, arguments = copied
    main(publish, arguments)
    assert "smoke has learnt next to nothing" in capsys.readouterr().err
    target = tmp_path / "published" / "toy" / "smoke"
    before = contents(target)
    assert before
    said = fails(publish, *arguments)
    assert str(target) in said and "delete it" in said and "--run" in said
    assert contents(target) == before


def test_collecting_for_a_copy_of_a_published_run_deletes_none_of_its_latents(copied, tmp_path):
    """Whose episodes were not given away."""
    main(publish, copied[1])
    shutil.copytree(tmp_path / "published", tmp_path / "again")
    again = Run(tmp_path / "again" / "toy" / "smoke")
    before = contents(again.latents)
    assert len(before) == 4
    main(stages.collect, ["--task", "toy", "--run", "smoke", "--data", str(tmp_path / "again"), *INLINE])
    assert contents(again.latents) == before and len(list(again.episodes.glob("*.lz4"))) == 4


# settings that came later

def without(values: dict, section: str, name: str) -> dict:
    """Nested settings without the one of this name in sections of that name."""
    return {key: without({k: v for k, v in value.items() if (key, k) != (section, name)}, section, name)
            if isinstance(value, dict) else value for key, value in values.items()}


# of which the smoke run has the default
@pytest.mark.parametrize("section, name", [
    ("collect", "explore_share"), ("vision", "clip_value"), ("memory", "head_size"), ("controller", "sees"),
    ("dream", "start"), ("dream", "pessimism"), ("dream", "uncertainty_quantile"), ("learner", "start"),
    ("evaluate", "other_skills"), ("config", "executor"), ("config", "training"), ("config", "joint"),
    ("config", "compare")])
def test_a_setting_that_an_older_run_does_not_know_has_its_default(section, name, copied, capsys):
    """So a setting added later neither damages a run nor has anything made again."""
    folder, arguments = copied
    for path in (folder / "config.json", folder / "episodes" / "settings.json", folder / "report" / "made_with.json"):
        path.write_text(json.dumps({"format": 2} | without(read_json(path), section, name)))
    for path in (folder / "checkpoints").glob("*.safetensors"):
        tensors, info = load_arrays(path)
        write_atomic(path, pack(tensors, without(info, section, name)))
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors*")}
    for stage in stages.STAGED:
        main(stage, ["--task", "toy", "--run", "smoke", *arguments[-4:]])
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "evaluate: the report is there" in capsys.readouterr().err
    assert Agent.load(folder).controller is not None


# format 1

def old_info(values: dict) -> dict:
    """Settings and infos as format 1 wrote them: other names, one kind of V and C, C and its search in one section."""
    values = {OLD_NAMES.get(key, key): old_info(value) if isinstance(value, dict) else value
              for key, value in values.items()}
    for later in ("executor", "training", "joint", "compare"):
        values.pop(later, None)
    if isinstance(values.get("vision"), dict):
        values["vision"].pop("kind")
    if "learner" in values:
        search, controller = values.pop("learner"), values.pop("controller", {"bias": True})
        values["controller"] = {name: value for name, value in search.items() if name != "kind"} | {
            "start": OLD_STARTS[search["start"]], "bias": controller["bias"]}
    return values


def old_file(path):
    """Writes a safetensors file as format 1 had it: without a number, its digest over its text alone."""
    arrays, info = load_arrays(path)
    text = json.dumps({key: value for key, value in old_info(info).items() if key != "episode"}, sort_keys=True)
    path.write_bytes(safetensors.numpy.save(dict(arrays), {"info": text, "digest": digest(arrays, text)}))


@pytest.fixture
def of_format_1(copied):
    """A copy of the toy run as an earlier version would have left it, with the data folder that it was made in."""
    folder, arguments = copied
    for path in [*folder.glob("checkpoints/*.safetensors"), *folder.glob("latents/*")]:
        old_file(path)
    for path in folder.glob("checkpoints/*.json"):
        path.write_text(json.dumps(old_info(read_json(path))))
    config = old_info(read_json(folder / "config.json"))
    config["config"]["data"] = "/where/it/was/made"
    (folder / "config.json").write_text(json.dumps(config))
    settings = read_json(folder / "episodes" / "settings.json")
    played = {name: settings["collect"][name] for name in ("max_steps", "repeat", "policy", "skill", "drawing")}
    (folder / "episodes" / "settings.json").write_text(json.dumps(played | {"task": "toy"}))
    (folder / "report" / "scores.json").write_text(json.dumps(read_scores(folder / "report" / "scores.json")))
    for path in (folder / "report" / "made_with.json", folder / "wall.json"):
        path.write_text(json.dumps(old_info(read_json(path))))
    return folder, ["--task", "toy", "--run", "smoke", *arguments[-4:], *INLINE]


def test_the_hand_made_old_run_is_old(of_format_1):
    """It has the names of then, and none of today's."""
    folder, _ = of_format_1
    text = (folder / "config.json").read_text() + (folder / "checkpoints" / "controller.json").read_text()
    has = lambda name: f'"{name}"' in text
    assert all(map(has, ("transfer_episodes", "explore", "again", "dreamt", "peek", "population", "bias")))
    assert not any(map(has, ("format", "learner", "gap_episodes", "explore_share", "episodes_per_round",
                             "scheduled_sampling", "sees_current_frame", "executor", "training", "joint", "compare")))


def test_a_run_of_format_1_has_todays_settings_and_weights(of_format_1, finished):
    """Sections that it does not know have their defaults."""
    folder, arguments = of_format_1
    wanted = parse(["--task", "toy", "--run", "smoke", "--data", str(finished("toy").parents[1])])
    later = {name: getattr(Config(), name) for name in ("joint", "compare")}
    assert parse(arguments) == replace(wanted, data=str(folder.parents[1]), device="cpu", executor="inline", workers=1,
                                       **later)
    for name in ("vision", "memory", "controller"):
        (found, info), (expected, expected_info) = Run(folder).load(name, ""), Run(finished("toy")).load(name, "")
        assert info["digest"] == expected_info["digest"]
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_run_of_format_1_is_opened_and_goes_on(of_format_1, finished, capsys):
    """No stage makes anything again; the agent acts as it did."""
    folder, arguments = of_format_1
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors*")}
    for stage in [*stages.STAGED, stages.pipeline]:
        main(stage, arguments)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "evaluate: the report is there" in capsys.readouterr().err
    old, new = Agent.load(folder), Agent.load(finished("toy"))
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    for agent in (old, new):
        agent.reset(seed=1)
    assert [old.act(frame).tolist() for frame in frames] == [new.act(frame).tolist() for frame in frames]


def test_a_run_of_format_1_is_scored_as_it_was(of_format_1, finished):
    folder, arguments = of_format_1
    before = contents(finished("toy"))
    (folder / "report" / "made_with.json").unlink()
    main(stages.evaluate, arguments)
    returns = lambda folder: [s["returns"] for s in read_scores(folder / "report" / "scores.json")]
    assert returns(folder) == returns(finished("toy"))
    assert read_json(folder / "report" / "made_with.json")["evaluate"]["gap_episodes"] == 2
    assert contents(finished("toy")) == before


def test_a_run_of_format_1_is_trained_on(of_format_1):
    """Its later stages are made again, under today's names, on what it has."""
    folder, arguments = of_format_1
    for name in ("memory", "controller"):
        (folder / "checkpoints" / f"{name}.safetensors").unlink()
    main(stages.train_memory, arguments)
    main(stages.train_controller, arguments)
    tensors, info = Run(folder).load("controller", "")
    assert info["learner"]["kind"] == "cma_es" and info["controller"]["kind"] == "linear"
    assert read_json(folder / "config.json")["config"].keys() & {"data", "learner"} == {"learner"}


def test_a_search_of_format_1_is_not_gone_on_with(of_format_1, fails):
    """It drew other random numbers, so its members are not those whose fitness it knows."""
    folder, arguments = of_format_1
    path = folder / "checkpoints" / "controller.safetensors"
    arrays, info = load_arrays(path)
    path.unlink()
    state = {"start": arrays["start"], "best": arrays["parameters"], "history": np.ones((1, 4)),
             "best_score": np.float64(1), "means": arrays["means"][:1], "generations": arrays["generations"][:1]}
    progress = path.with_suffix(".progress.safetensors")
    write_atomic(progress, pack(state, info | {"step": 1}))
    old_file(progress)
    assert str(progress) in (said := fails(stages.train_controller, *arguments)) and "delete it" in said
    progress.unlink()
    main(stages.train_controller, arguments)


def test_a_newer_format_is_refused(copied, fails):
    folder, arguments = copied
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 99}))
    said = fails(stages.evaluate, "--task", "toy", "--run", "smoke", *arguments[-4:])
    assert "format 99" in said and str(folder / "config.json") in said
