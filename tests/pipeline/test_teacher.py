"""A controller distilled from that of another run, through the command line."""

import shutil

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import main, parse
from pipeline.teacher import SeenBy, teacher
from pipeline.train_controller import encoded
from tests.pipeline.conftest import TOY
from worldmodels.agent import load_agent, load_controller
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.episodes import SUFFIX
from worldmodels.files import load_arrays, save_arrays
from worldmodels.latents import Latents
from worldmodels.runs import Run

DISTILL = ["--learner.kind", "distill", "--learner.teacher"]
TRAINED = (stages.train_vision, stages.encode, stages.train_memory, stages.train_controller)


MEAN = ["--memory.latent", "mean"]      # so that what is seen of a frame is no matter of chance


@pytest.fixture(scope="module")
def other(finished, tmp_path_factory):
    """A run whose V and M have other weights and sizes."""
    data = tmp_path_factory.mktemp("other")
    shutil.copytree(finished("toy"), data / "toy" / "smoke")
    run = Run(data / "toy" / "smoke")
    for path in [*run.latents.glob("*"), *run.folder.glob("checkpoints/*")]:
        path.unlink()
    for stage in TRAINED:
        main(stage, [*TOY, *MEAN, "--data", str(data), "--device", "cpu", "--vision.z-size", "6", "--memory.kind",
                     "gru", "--memory.hidden-size", "12", "--learner.kind", "least_squares"])
    return run


@pytest.fixture(scope="module")
def untaught(finished, tmp_path_factory):
    """A run that has no controller yet."""
    data = tmp_path_factory.mktemp("untaught")
    shutil.copytree(finished("toy"), data / "toy" / "smoke")
    for path in (data / "toy" / "smoke").glob("checkpoints/[mc]*"):
        path.unlink()
    main(stages.train_memory, [*TOY, *MEAN, "--data", str(data), "--device", "cpu"])
    return data


@pytest.fixture
def student(untaught, tmp_path):
    """A copy of it, and the arguments that name it."""
    shutil.copytree(untaught, tmp_path, dirs_exist_ok=True)
    return Run(tmp_path / "toy" / "smoke"), [*TOY, *MEAN, "--data", str(tmp_path), "--device", "cpu"]


def test_a_run_learns_from_another_run_of_another_v_and_m(student, other):
    run, arguments = student
    main(stages.train_controller, [*arguments, *DISTILL, str(other.root)])
    tensors, info = load_arrays(run.own_path("controller"))
    assert info["learner"]["kind"] == "distill" and info["learner"]["teacher"] == str(other.root)
    agent, theirs = load_agent(run), load_agent(other)
    assert theirs.vision_digest != agent.vision_digest
    spec = load_controller(run, agent)
    assert len(tensors["parameters"]) == agent.parameter_count(spec.config) != theirs.parameter_count(spec.config)
    # it does what the teacher does in the same episodes
    config = parse([*arguments, *DISTILL, str(other.root)])
    given = teacher(config, run, agent, str(other.root))
    features, wanted = Distill(DistillConfig()).examples(agent, encoded(config, run, agent), given, 1)
    policy = agent.policy_of(spec)
    policy.reset([0])
    left = (policy.squash(policy.output(features)) - wanted).square().mean()
    assert wanted.std() > 0.05 and left < 0.2 * wanted.var()


def test_a_teacher_is_looked_for_by_its_name_beside_the_student(student, other):
    run, arguments = student
    shutil.copytree(other.root, run.root.parent / "neighbour")
    found = teacher(parse([*arguments, *DISTILL, "neighbour"]), run, load_agent(run), "neighbour")
    assert found.agent.digest == load_agent(other).digest


def test_a_teacher_sees_the_students_episodes_in_their_order(student, other):
    run, arguments = student
    config, agent = parse(arguments), load_agent(run)
    given = teacher(config, run, agent, str(other.root))
    mine, theirs = encoded(config, run, agent), given.latents()
    assert isinstance(theirs, SeenBy) and given.agent.digest == load_agent(other).digest
    for number in range(len(mine.paths)):
        one, two = mine.episode(number), theirs.episode(number)
        assert np.array_equal(one.action, two.action) and np.array_equal(one.reward, two.reward)
        assert two.mu.shape == (len(two.action) + 1, 6) and one.mu.shape[1] == config.vision.z_size


def test_a_teacher_of_the_same_v_reads_the_same_latents(student, other):
    """And no frame: the episodes may be gone."""
    run, arguments = student
    copy = Run(run.root.parent / "copy")
    shutil.copytree(run.root, copy.root)
    for path in copy.folder.glob("checkpoints/memory*"):
        path.unlink()
    for stage in (stages.train_memory, stages.train_controller):
        main(stage, [*arguments, "--run", "copy", "--memory.hidden-size", "9", "--learner.kind", "least_squares"])
    for path in run.episodes.glob(f"*{SUFFIX}"):
        path.unlink()
    agent = load_agent(run)
    given = teacher(parse(arguments), run, agent, str(copy.root))
    assert isinstance(given.latents(), Latents) and given.agent.digest != agent.digest
    main(stages.train_controller, [*arguments, *DISTILL, str(copy.root)])
    assert run.own_path("controller").exists()


def test_in_the_first_round_there_is_none_before(student, fails):
    run, arguments = student
    said = fails(stages.train_controller, *arguments, "--learner.kind", "distill")
    assert "--learner.teacher: name the run" in said
    assert not run.own_path("controller").exists()


def test_a_teacher_that_is_missing_is_one_line(student, fails):
    run, arguments = student
    assert "no run nobody of toy" in fails(stages.train_controller, *arguments, *DISTILL, "nobody")
    assert not run.own_path("controller").exists()


def test_a_teacher_without_a_controller_is_one_line(student, fails):
    run, arguments = student
    said = fails(stages.train_controller, *arguments, *DISTILL, run.root)
    assert "no controller" in said and "pipeline.train_controller`" in said


def test_frames_that_a_teacher_has_to_see_and_that_are_gone_are_one_line(student, other, fails):
    run, arguments = student
    for path in run.episodes.glob(f"*{SUFFIX}"):
        path.unlink()
    said = fails(stages.train_controller, *arguments, *DISTILL, str(other.root))
    assert "a teacher with another V has to see them" in said


def test_a_teacher_of_another_game_is_one_line(student, other, tmp_path, fails):
    _, arguments = student
    wrong = tmp_path / "wrong"
    shutil.copytree(other.root, wrong)
    path = Run(wrong).own_path("memory")
    arrays, info = load_arrays(path)
    save_arrays(path, arrays, info | {"task": "take_cover"})
    said = fails(stages.train_controller, *arguments, *DISTILL, wrong)
    assert "is a run of take_cover, not of toy" in said


def test_another_teacher_is_refused_where_one_has_taught(student, other, fails):
    run, arguments = student
    main(stages.train_controller, [*arguments, *DISTILL, str(other.root)])
    said = fails(stages.train_controller, *arguments, *DISTILL, "nobody")
    assert "learner.teacher=" in said and "(now nobody)" in said


@pytest.mark.parametrize("kind", ("mlp", "actor"))
def test_other_controllers_learn_from_it_too(student, other, kind):
    run, arguments = student
    main(stages.train_controller, [*arguments, *DISTILL, str(other.root), "--controller.kind", kind])
    spec = load_controller(run, load_agent(run))
    assert spec.config.kind == kind and np.isfinite(spec.arrays["parameters"]).all()


def test_a_planner_cannot_be_fitted(student, other, fails):
    _, arguments = student
    said = fails(stages.train_controller, *arguments, *DISTILL, str(other.root), "--controller.kind", "cem")
    assert "--controller.kind cem is no vector of parameters to fit" in said
