"""A last round in the real game: C alone goes on, with the V and M of the round before."""

import json
import shutil

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import current_round, main, parse
from pipeline.overview import described, listed
from pipeline.publish import publish
from pipeline.report import history
from tests.pipeline.conftest import INLINE
from worldmodels.agent import Agent
from worldmodels.files import load_arrays, write_json
from worldmodels.metrics import read_metrics
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run

ACTOR = ["--task", "toy", "--run", "tuned", *INLINE, "--device", "cpu", "--controller.kind", "actor",
         "--controller.units", "8", "--learner.kind", "ppo", "--learner.steps", "64", "--learner.batch", "4",
         "--learner.horizon", "3", "--real-learner.batch", "2", "--real-learner.steps", "64"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a toy run of one round, and one in the game after it, by one command."""
    data = tmp_path_factory.mktemp("real")
    main(stages.pipeline, [*ACTOR, "--preset", "smoke", "--data", str(data), "--real-round", "True"])
    return data


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Run(tmp_path / "toy" / "tuned", 2), [*ACTOR, "--data", str(tmp_path)]


def arrays(run, name):
    return load_arrays(run.own_path(name))


def test_v_and_m_are_those_of_the_round_before_and_nothing_is_collected(made):
    run = Run(made / "toy" / "tuned", 2)
    assert run.own_path("memory").read_bytes() == run.at(1).own_path("memory").read_bytes()
    assert not run.own_path("vision").exists() and not run.episodes.exists() and not run.latents.exists()
    assert run.seconds.keys() == {"train_controller", "evaluate"}


def test_the_controller_goes_on_from_the_dreams_in_the_game(copied, monkeypatch):
    run, arguments = copied
    found, info = arrays(run, "controller")
    assert (info["world"], info["learner"]["kind"]) == ("real", "ppo")
    assert not np.array_equal(found["parameters"], arrays(run.at(1), "controller")[0]["parameters"])
    shutil.rmtree(run.folder / "checkpoints")
    main(stages.train_controller, [*arguments, "--real-learner.learning-rate", "1e-12"])
    for name, array in arrays(run, "controller")[0].items():
        np.testing.assert_allclose(array, arrays(run.at(1), "controller")[0][name], atol=1e-4)


def test_advice_names_the_settings_of_this_round(copied, fails):
    run, arguments = copied
    shutil.rmtree(run.folder / "checkpoints")
    assert "lower --real-learner.learning-rate" in fails(stages.train_controller, *arguments,
                                                         "--real-learner.learning-rate", "1e30")


def test_all_stages_again_go_on_with_it_alone(copied):
    """As after a kill in it: what is finished stays as it is."""
    run, arguments = copied
    wanted = arrays(run, "controller")
    shutil.rmtree(run.folder)
    before = {path: path.read_bytes() for path in run.root.rglob("*.safetensors")}
    main(stages.pipeline, arguments)
    assert arrays(run, "controller")[1] == wanted[1]
    np.testing.assert_array_equal(arrays(run, "controller")[0]["parameters"], wanted[0]["parameters"])
    assert all(path.read_bytes() == content for path, content in before.items())


def test_it_is_scored_as_trained_in_the_game_and_loaded(made):
    run = Run(made / "toy" / "tuned", 2)
    assert "controller from the real" in {score["controller"] for score in read_scores(run.report / "scores.json")}
    assert read_metrics(run.folder, "behaviour")[-1]["step"] == 64
    agent = Agent.load(run.root)
    np.testing.assert_array_equal(agent.controller.arrays["parameters"][0], arrays(run, "controller")[0]["parameters"])


def test_the_settings_that_are_kept_are_those_that_were_typed(made):
    config = json.loads((made / "toy" / "tuned" / "config.json").read_text())["config"]
    assert (config["world"], config["rounds"], config["real_round"]) == ("dream", 1, True)
    assert config["learner"]["temperature"] == 1.0 and config["real_learner"]["batch"] == 2


@pytest.mark.parametrize("stage", (stages.collect, stages.train_vision, stages.encode, stages.train_memory),
                         ids=lambda stage: stage.__name__)
def test_stages_that_lead_to_v_and_m_have_nothing_to_do_in_it(stage, copied, fails):
    run, arguments = copied
    run.own_path("controller").unlink()
    before = sorted(run.root.rglob("*"))
    said = fails(stage, *arguments)
    assert "round 2" in said and "in the real game" in said and "pipeline.train_controller" in said
    assert sorted(run.root.rglob("*")) == before


def test_without_it_the_run_is_that_of_the_dream(copied):
    run, arguments = copied
    config = parse([*arguments, "--real-round", "False"])
    assert current_round(publish, config, run) == 1
    assert current_round(publish, parse(arguments), run) == 2


@pytest.mark.parametrize("real", ("True", "False"))
def test_it_is_published_and_scored_again(copied, tmp_path, capsys, real):
    run, arguments = copied
    main(stages.evaluate, [*arguments, "--real-round", real])       # on the way it was scored in short
    main(publish, [*arguments, "--real-round", real])
    given = tmp_path / "published" / "toy" / "tuned"
    assert ("and then in the real game" in (given / "README.md").read_text()) == (real == "True")
    assert (given / "round-2").exists() == (real == "True")
    shutil.rmtree(run.root)
    for world in {"dream", "real" if real == "True" else "dream"}:              # the one before goes along
        main(stages.evaluate, ["--task", "toy", "--run", "tuned", "--data", str(tmp_path / "published"), *INLINE,
                               "--real-round", str(world == "real"), "--evaluate.first-seed", "2000000000"])
        assert f"controller from the {world}" in capsys.readouterr().out


def test_the_minutes_of_a_round_are_those_of_learning(copied):
    """Not of scoring, nor of what stands beside the stages."""
    run, _ = copied
    write_json(run.wall, {"train_controller": 120.0, "evaluate": 60.0, "compare": 600.0, "publish": 60.0})
    (before, _), (minutes, _) = history(run)
    assert minutes - before == pytest.approx(2)


def test_it_is_listed_with_its_score(copied, tmp_path):
    row = next(line for line in listed(tmp_path).splitlines() if line.startswith("toy/tuned"))
    assert "2 of 2" in row and "±" in row
    told = "\n".join(described(copied[0]))
    assert "2 of 2 rounds finished" in told and "round 2: memory, controller, scores" in told


def test_linear_controllers_evolve_on_in_it(tmp_path):
    arguments = ["--task", "toy", "--preset", "smoke", "--run", "evolved", "--data", str(tmp_path), *INLINE,
                 "--real-learner.kind", "cma_es", "--real-learner.generations", "1", "--real-learner.population", "4",
                 "--real-learner.episodes", "2", "--real-learner.eval-episodes", "2"]
    for stage in (*stages.STAGED[:-1], stages.train_controller):
        main(stage, [*arguments, "--real-round", "True"])
    run = Run(tmp_path / "toy" / "evolved", 2)
    first = arrays(run.at(1), "controller")[0]["parameters"]
    np.testing.assert_array_equal(arrays(run, "controller")[0]["start"], first)


def test_more_rounds_than_there_are_seeds_for_are_refused(fails):
    assert "10 rounds are the most" in fails(stages.pipeline, *ACTOR, "--rounds", "10", "--real-round", "True")
