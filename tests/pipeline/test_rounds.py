"""The iterative procedure: a second round plays with the first one's controller, and trains its M and C on."""

import json
import shutil

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import current_round, main, parse
from pipeline.compare import compare
from pipeline.publish import publish
from pipeline.sweep_temperature import sweep_temperature
from pipeline.teacher import teacher
from tests.pipeline.conftest import INLINE
from worldmodels import episodes
from worldmodels.agent import load_agent, load_controller
from worldmodels.files import load_arrays
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run

SETTINGS = ["--task", "toy", "--run", "two", "--rounds", "2", "--collect.episodes-per-round", "5", *INLINE,
            "--device", "cpu"]


@pytest.fixture(scope="session")
def two_rounds(tmp_path_factory):
    """The folder of a toy run of two rounds, made by the stages one after the other, as their table reads, twice."""
    data = tmp_path_factory.mktemp("rounds")
    for stage in 2 * stages.STAGED:
        main(stage, [*SETTINGS, "--preset", "smoke", "--data", str(data)])
    return data


@pytest.fixture
def copied(two_rounds, tmp_path):
    shutil.copytree(two_rounds, tmp_path, dirs_exist_ok=True)
    return tmp_path / "toy" / "two", [*SETTINGS, "--data", str(tmp_path)]


def arrays(folder, name):
    return load_arrays(folder / "checkpoints" / f"{name}.safetensors")


def test_the_first_rounds_controller_collects_for_the_second(two_rounds):
    run = two_rounds / "toy" / "two"
    assert {path.name for path in (run / "round-2" / "episodes").glob("*.lz4")} == {
        f"{1_000_000 + i:09d}.safetensors.lz4" for i in range(5)}
    assert len(list((run / "round-2" / "latents").glob("*"))) == 5 and len(list((run / "latents").glob("*"))) == 4
    digest = json.loads((run / "checkpoints" / "controller.json").read_text())["digest"]
    assert json.loads((run / "round-2" / "episodes" / "settings.json").read_text())["controller_before"] == digest
    assert arrays(run / "round-2", "memory")[1]["controller_before"] == digest


def test_m_and_c_of_the_second_round_go_on_from_the_first(copied):
    """With a learning rate and a step size of next to nothing they end where they begin."""
    run, arguments = copied
    shutil.rmtree(run / "round-2" / "checkpoints")
    for stage in (stages.train_memory, stages.train_controller):
        main(stage, [*arguments, "--memory.learning-rate", "1e-9", "--learner.sigma", "1e-9"])
    for name in ("memory", "controller"):
        before, after = arrays(run, name)[0], arrays(run / "round-2", name)[0]
        assert all(np.allclose(before[key], after[key], atol=1e-6) for key in before if key not in ("start", "means"))
    assert np.array_equal(after["start"], before["parameters"])
    assert not np.allclose(arrays(run, "memory")[0]["head.weight"], 0, atol=1e-6)


def test_a_controller_that_is_made_anew_does_not_begin_as_the_first_one(copied):
    run, arguments = copied
    before = arrays(run, "controller")[0]["parameters"]
    for path in (run / "round-2" / "checkpoints").glob("controller*"):
        path.unlink()
    main(stages.train_controller, [*arguments, "--learner.sigma", "1e-9", "--learner.anew", "2", "3"])
    assert before.any() and not arrays(run / "round-2", "controller")[0]["start"].any()


def test_m_of_the_second_round_is_trained_on_the_episodes_of_both(copied, capsys):
    run, arguments = copied
    for path in run.glob("latents/*"):                      # the first round's become unreadable
        path.write_bytes(b"")
    shutil.rmtree(run / "round-2" / "checkpoints")
    with pytest.raises(SystemExit):
        main(stages.train_memory, arguments)
    assert "latents" in capsys.readouterr().err


def test_collecting_goes_on_where_it_stopped(copied):
    """Episodes played together are played together again, so that what was not lost comes out the same."""
    run, arguments = copied
    paths = sorted((run / "round-2" / "episodes").glob("*.lz4"))
    before = [episodes.read(path) for path in paths]
    for path in paths[1:3]:
        path.unlink()
    main(stages.collect, arguments)
    for one, other in zip(before, map(episodes.read, paths)):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))


def test_what_is_collected_anew_is_encoded_anew(copied, fails):
    """Under the same seeds, so that the latents have the names that they had."""
    run, arguments = copied
    arguments += ["--collect.explore-share", "0.9"]
    shutil.rmtree(run / "round-2" / "episodes")
    shutil.rmtree(run / "round-2" / "checkpoints")
    latents = {path: path.read_bytes() for path in run.rglob("latents/*")}
    main(stages.collect, arguments)
    assert len(list(run.glob("round-2/episodes/*.lz4"))) == 5
    assert {path: path.read_bytes() for path in run.rglob("latents/*")} == latents      # collecting deletes nothing,
    said = fails(stages.train_memory, *arguments)                                       # training takes no old ones,
    assert "collected again" in said and "pipeline.encode`" in said
    main(stages.encode, arguments)
    assert {path.parent.parent.name for path, old in latents.items() if path.read_bytes() != old} == {"round-2"}
    main(stages.train_memory, arguments)
    assert arrays(run / "round-2", "memory")[1]["explore_share"] == 0.9


def test_m_of_another_size_cannot_go_on(copied, capsys):
    run, arguments = copied
    shutil.rmtree(run / "round-2" / "checkpoints")
    with pytest.raises(SystemExit):
        main(stages.train_memory, [*arguments, "--memory.hidden-size", "24"])
    assert "--memory settings" in capsys.readouterr().err


def test_a_finished_round_keeps_its_v_where_the_next_command_would_train_it_on(copied, capsys):
    """Its M and C were made for the V that it had."""
    run, arguments = copied
    second = Run(run, 2)
    agent = load_agent(second)
    with pytest.raises(SystemExit):
        main(stages.pipeline, [*arguments, "--retrain-vision", "2"])
    assert "error: " in capsys.readouterr().err
    assert load_agent(second).digest == agent.digest


def test_a_run_made_without_later_settings_of_collecting_has_no_word_of_them(copied):
    """So one that was made before there were any is gone on with, and nothing is made again."""
    run, arguments = copied
    settings = json.loads((run / "round-2" / "episodes" / "settings.json").read_text())
    later = {"weight_noise", "disagreement_bonus"}
    assert later.isdisjoint(settings) and later.isdisjoint(arrays(run / "round-2", "memory")[1])
    for path in run.rglob("episodes/settings.json"):
        older = json.loads(path.read_text())
        older["collect"] = {name: value for name, value in older["collect"].items() if name not in later}
        path.write_text(json.dumps(older))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors*")}
    (run / "round-2" / "checkpoints" / "controller.safetensors").unlink()               # the round is in progress
    for stage in (stages.collect, stages.train_memory):
        main(stage, arguments)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors*")}.items() <= before.items()


def test_the_controller_of_the_round_before_is_the_teacher_where_none_is_named(copied):
    run, arguments = copied
    (run / "round-2" / "checkpoints" / "controller.safetensors").unlink()
    arguments += ["--learner.kind", "distill"]
    main(stages.train_controller, arguments)
    second, config = Run(run, 2), parse(arguments)
    agent, before = load_agent(second), load_agent(second.at(1))
    assert load_controller(second, agent).config == load_controller(second.at(1), before).config
    given = teacher(config, second, agent, "")
    assert given.agent.digest == before.digest != agent.digest
    assert np.array_equal(given.spec.arrays["parameters"][0], arrays(run, "controller")[0]["parameters"])


def test_each_round_is_scored_and_drawn(two_rounds):
    run = two_rounds / "toy" / "two"
    assert (run / "round-2" / "report" / "rounds.png").stat().st_size > 10_000
    for round in Run(run, 2).until_now:
        scores = read_scores(round.report / "scores.json")
        assert [s["world"] for s in scores] == ["real", "real", "dream", "dream"]
        assert round.seconds.keys() == {stage.__name__ for stage in stages.STAGED}


def test_the_stages_called_one_after_the_other_complete_round_after_round(two_rounds):
    run = two_rounds / "toy" / "two"
    assert Run(run).last("controller").round == 2 and not (run / "round-3").exists()
    for round in Run(run, 2).until_now:
        assert round.path("memory").exists() and (round.report / "report.html").exists()


def test_the_pipeline_makes_what_its_stages_make(copied):
    """Bit for bit, the second round from its episodes on; so the report, which depends on the controller, is there."""
    run, arguments = copied
    wanted = {name: arrays(run / "round-2", name) for name in ("memory", "controller")}
    for made in ("episodes", "latents", "checkpoints"):
        shutil.rmtree(run / "round-2" / made)
    main(stages.pipeline, arguments)
    for name, (expected, expected_info) in wanted.items():
        found, info = arrays(run / "round-2", name)
        assert info == expected_info and found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("stage", [*stages.STAGED, stages.train_jointly, sweep_temperature, publish,
                                   compare], ids=lambda stage: stage.__name__)
def test_a_stage_by_itself_works_on_the_round_in_progress(stage, copied):
    """And what looks at a controller on the last round that has one. However many are wanted, none is left out."""
    run, arguments = copied
    looks = stage in (stages.evaluate, sweep_temperature, publish, compare)
    here = lambda rounds: current_round(stage, parse([*arguments, "--rounds", str(rounds)]), Run(run))
    assert (here(2), here(3), here(9)) == ((2, 2, 2) if looks else (2, 3, 3))
    (run / "round-2" / "checkpoints" / "controller.safetensors").unlink()
    assert (here(2), here(3), here(9)) == ((1, 1, 1) if looks else (2, 2, 2))
    (run / "checkpoints" / "controller.safetensors").unlink()
    assert (here(2), here(3), here(9)) == (1, 1, 1)


def test_a_published_run_is_scored_without_its_episodes(copied, tmp_path, capsys):
    run, arguments = copied
    main(publish, arguments)
    given = tmp_path / "published"
    assert "collecting and training: 2;" in (given / "toy" / "two" / "README.md").read_text()
    assert not list(given.rglob("*.lz4"))
    assert str(tmp_path) not in (given / "toy" / "two" / "config.json").read_text()         # no path of ours
    shutil.rmtree(run)
    report = given / "toy" / "two" / "round-2" / "report"
    before = (report / "scores.json").read_bytes()
    again = ["--task", "toy", "--run", "two", "--data", str(given), *INLINE]
    main(stages.evaluate, again)
    assert "controller from the dream" in capsys.readouterr().out and (report / "scores.json").read_bytes() == before
    main(stages.evaluate, [*again, "--evaluate.first-seed", "2000000000"])
    assert (report / "report.html").exists()
    assert {s["first_seed"] for s in read_scores(report / "scores.json")} == {2_000_000_000}


def test_what_was_not_scored_is_not_published(copied, capsys):
    run, arguments = copied
    made_with = run / "round-2" / "report" / "made_with.json"
    made_with.write_text(made_with.read_text().replace('"digest": "', '"digest": "of another controller'))
    with pytest.raises(SystemExit):
        main(publish, arguments)
    assert "pipeline.evaluate`" in capsys.readouterr().err


def test_the_sweep_scores_a_controller_at_each_temperature_and_takes_up_those_that_are_there(copied):
    run, arguments = copied
    arguments += ["--sweep.temperatures", "0.5", "1.05", "--sweep.episodes", "3"]
    main(sweep_temperature, arguments)
    report = run / "round-2" / "report"
    scores = read_scores(report / "temperature.json")
    assert [(s["evolved_at"], s["world"], s["temperature"], s["episodes"]) for s in scores] == [
        (0.5, "real", None, 3), (0.5, "dream", 0.5, 8), (1.05, "real", None, 2), (1.05, "dream", 1.05, 8)]
    assert (report / "temperature.png").stat().st_size > 10_000
    made = {path: path.stat().st_mtime_ns for path in run.rglob("temperature/*/checkpoints/*.safetensors")}
    assert len(made) == 2 and not any(load_arrays(path)[0]["start"].any() for path in made)     # not the round's before
    main(sweep_temperature, arguments)
    assert {path: path.stat().st_mtime_ns for path in made} == made
