"""Rounds that train V on: each has its own V, the latents of all episodes by it, and an M and a C that fit it."""

import shutil
from functools import partial

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import main, parse
from pipeline.publish import publish
from pipeline.teacher import SeenBy
from pipeline.teacher import teacher as teacher_of
from pipeline.train_controller import encoded, previous
from tests.pipeline.conftest import INLINE
from worldmodels import training
from worldmodels.agent import Agent, load_agent, load_controller
from worldmodels.controller import Practice, Teacher
from worldmodels.controller.distill import Distill, DistillConfig
from worldmodels.episodes import SUFFIX
from worldmodels.files import load_arrays
from worldmodels.latents import latent_path, open_latents
from worldmodels.metrics import read_metrics
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run
from worldmodels.types import UserError

SETTINGS = ["--task", "toy", "--run", "two", "--rounds", "2", "--retrain-vision", "2",
            "--collect.episodes-per-round", "5", *INLINE, "--device", "cpu"]
SMOKE = [*SETTINGS, "--preset", "smoke", "--vision.learning-rate", "1e-2"]


@pytest.fixture(scope="module", autouse=True)
def unscored():
    """Without its last stage, which takes as long as all others, the pipeline is what most of the tests need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "STAGED", stages.STAGED[:-1])
        yield


@pytest.fixture(scope="module")
def finished_rounds(unscored, tmp_path_factory):
    """The folder of a toy run of two rounds, and what was there before the second one began."""
    data = tmp_path_factory.mktemp("retrained")
    main(stages.pipeline, [*SMOKE, "--data", str(data), "--rounds", "1"])
    before = contents(data / "toy" / "two")
    main(stages.pipeline, [*SMOKE, "--data", str(data)])
    return data, before


@pytest.fixture
def two(finished_rounds):
    """Its second round."""
    return Run(finished_rounds[0] / "toy" / "two", 2)


@pytest.fixture
def copied(finished_rounds, tmp_path):
    shutil.copytree(finished_rounds[0], tmp_path, dirs_exist_ok=True)
    return Run(tmp_path / "toy" / "two", 2), [*SETTINGS, "--data", str(tmp_path)]


def contents(root):
    """What episodes, latents and checkpoints are there, and when each was made."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for kind in ("episodes", "latents", "checkpoints")
            for path in root.rglob(f"{kind}/*") if path.name != "settings.json"}


def arrays(run, name):
    return load_arrays(run.own_path(name))


def digest(run):
    return run.load("vision", "train_vision")[1]["digest"]


def test_the_second_round_has_a_v_of_its_own_that_begins_as_the_first_ones(two, copied):
    (first, _), (second, info) = (arrays(round, "vision") for round in two.until_now)
    assert first.keys() == second.keys() and digest(two) != digest(two.at(1))
    assert not all(np.allclose(first[name], second[name], atol=1e-3) for name in first)
    assert info["controller_before"] == two.at(1).load("controller", "train_controller")[1]["digest"]
    run, arguments = copied
    shutil.rmtree(run.folder / "checkpoints")
    main(stages.train_vision, [*arguments, "--vision.learning-rate", "1e-12"])
    assert all(np.allclose(arrays(run, "vision")[0][name], first[name], atol=1e-6) for name in first)


def test_the_latents_of_all_episodes_by_it_are_in_the_second_rounds_folder(two):
    names = {latent_path(two.latents, path).name for round in two.until_now for path in
             round.episodes.glob(f"*{SUFFIX}")}
    found = {path.name: load_arrays(path)[1]["vision"] for path in two.latents.glob("*")}
    assert found == dict.fromkeys(names, digest(two)) and len(names) == 4 + 5
    opened = open_latents(two, 0, digest(two))
    assert {path.name for path in opened.paths} == names and {path.parent for path in opened.paths} == {two.latents}


def test_what_the_first_round_made_is_untouched(finished_rounds, two):
    _, before = finished_rounds
    after = contents(two.root)
    assert {path.parent.name for path in before} == {"episodes", "latents", "checkpoints"}
    assert {path: after[path] for path in before} == before
    assert {path.parents[1].name for path in after.keys() - before.keys()} == {"round-2"}


def test_the_first_round_can_still_be_opened(two):
    first = two.at(1)
    agent = load_agent(first)
    load_controller(first, agent)
    latents = open_latents(first, 0, agent.vision_digest)
    assert len(latents.paths) == 4 and {path.parent for path in latents.paths} == {first.root / "latents"}


def test_m_and_c_of_the_second_round_fit_its_v(two):
    agent = load_agent(two)
    load_controller(two, agent)
    assert agent.vision_digest == digest(two) == arrays(two, "memory")[1]["vision_digest"]
    played = Agent.load(two.root)
    assert played.digest == agent.digest
    played.reset(seed=0)
    assert played.act(np.zeros((64, 64, 3), np.uint8)).shape == (1,)


def test_a_v_of_the_first_round_does_not_open_the_second_ones_m(copied):
    """It would be shown what another V saw."""
    run, _ = copied
    for path in run.folder.glob("checkpoints/vision*"):
        path.unlink()
    with pytest.raises(UserError, match="another V"):
        load_agent(run)


def test_the_controller_begins_as_the_distilled_one(copied):
    """With a step size of next to nothing it ends there; the parameters of the round before are others."""
    run, arguments = copied
    for path in run.folder.glob("checkpoints/controller*"):
        path.unlink()
    main(stages.train_controller, [*arguments, "--learner.sigma", "1e-9"])
    config, agent, before = parse(arguments), load_agent(run), load_agent(run.at(1))
    found, _ = arrays(run, "controller")
    practice = Practice(None, partial(encoded, config, run, agent), 1.0, config.seed, 0, None,
                        partial(teacher_of, config, run, agent))
    assert np.array_equal(found["start"], previous(agent, practice, run).arrays["parameters"][0])
    np.testing.assert_allclose(found["parameters"], found["start"], atol=1e-6)
    assert not np.allclose(found["start"], arrays(run.at(1), "controller")[0]["parameters"], atol=1e-3)
    # what it does, and the parameters as they were, against what the first round's does by its own V and M
    learner, teacher = Distill(DistillConfig()), previous_teacher(run, before)
    seen = open_latents(run, 0, agent.vision_digest, agent.memory.config.latent)
    features, wanted = learner.examples(agent, seen, teacher, 0)
    errors = []
    for parameters in (found["start"], arrays(run.at(1), "controller")[0]["parameters"]):
        policy = agent.policy_of(teacher.spec._replace(arrays={"parameters": parameters[None]}))
        policy.reset([0])
        errors.append((policy.squash(policy.output(features)) - wanted).square().mean().item())
    assert errors[0] < 0.5 * errors[1] and errors[0] < wanted.var()


def previous_teacher(run, before):
    """The first round's controller, which sees the episodes of both rounds by the first round's V."""
    latents = open_latents(run, 0, digest(run), before.memory.config.latent)
    return Teacher(before, load_controller(run.at(1), before),
                   lambda: SeenBy(before.vision, run, latents, before.memory.config.latent))


def test_what_a_teachers_v_sees_is_what_it_saw_when_it_was_trained(two):
    """Episode by episode, to the half precision in which latents are stored."""
    before = load_agent(two.at(1))
    theirs = previous_teacher(two, before).latents()
    mine = open_latents(two, 0, digest(two), "sample")
    stored = {path.name: load_arrays(path)[0] for path in two.at(1).latents.glob("*")}
    checked = 0
    for number, path in enumerate(mine.paths):
        if path.name in stored:
            episode, wanted = theirs.episode(number), stored[path.name]
            np.testing.assert_allclose(episode.mu, wanted["mu"], atol=5e-3)
            assert np.array_equal(episode.action, wanted["action"])
            checked += 1
    assert checked == 4


def test_running_it_again_does_nothing_new(copied):
    run, arguments = copied
    before = contents(run.root)
    rows = [len(read_metrics(round.folder)) for round in run.until_now]
    main(stages.pipeline, arguments)
    assert contents(run.root) == before
    assert [len(read_metrics(round.folder)) for round in run.until_now] == rows


def test_interrupted_after_v_it_goes_on_and_ends_the_same(copied):
    """Bit for bit."""
    run, arguments = copied
    wanted = {name: arrays(run, name) for name in ("vision", "memory", "controller")}
    latents = {path: load_arrays(path) for path in run.latents.glob("*")}
    for path in [*run.latents.glob("*"), *run.folder.glob("checkpoints/[mc]*")]:
        path.unlink()
    main(stages.pipeline, arguments)
    found = {path: load_arrays(path) for path in run.latents.glob("*")}
    for a, b in ((wanted, {name: arrays(run, name) for name in wanted}), (latents, found)):
        assert a.keys() == b.keys()
        for key in a:
            (expected, expected_info), (made, info) = a[key], b[key]
            assert info == expected_info and made.keys() == expected.keys()
            assert all(np.array_equal(made[name], expected[name]) for name in expected)


def test_v_interrupted_in_its_training_goes_on_from_there(copied, monkeypatch):
    """And until it is done, the round's V is not there for M."""
    run, arguments = copied
    wanted = arrays(run, "vision")[0]
    shutil.rmtree(run.folder / "checkpoints")
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    save, saved = Run.save_progress, []

    def interrupted(self, *given):
        save(self, *given)
        saved.append(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save_progress", interrupted)
        with pytest.raises(SystemExit) as stop:
            main(stages.train_vision, arguments)
    assert stop.value.code == 130 and saved == [run] and not run.own_path("vision").exists()
    assert run.progress_path("vision").parent == run.folder / "checkpoints"
    main(stages.train_vision, arguments)
    found = arrays(run, "vision")[0]
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("stage", (stages.train_memory, stages.encode), ids=lambda stage: stage.__name__)
def test_what_needs_the_rounds_v_asks_for_it(copied, fails, stage):
    run, arguments = copied
    for path in run.folder.glob("checkpoints/*"):
        path.unlink()
    assert "pipeline.train_vision`" in fails(stage, *arguments)


def test_m_before_its_latents_is_one_line(copied, fails):
    run, arguments = copied
    for path in [*run.folder.glob("checkpoints/memory*"), *run.folder.glob("checkpoints/controller*")]:
        path.unlink()
    shutil.rmtree(run.latents)
    assert "pipeline.encode`" in fails(stages.train_memory, *arguments)


def test_a_v_made_with_other_settings_is_refused(copied, fails):
    run, arguments = copied
    (run.own_path("controller")).unlink()                   # the round is in progress
    said = fails(stages.train_vision, *arguments, "--collect.explore-share", "0.9")
    assert "explore_share=0.5 (now 0.9)" in said and "vision" in said


def test_a_run_that_trained_v_on_goes_on_doing_so(copied, fails):
    _, arguments = copied
    assert "vision" in fails(stages.train_vision, *arguments, "--rounds", "3", "--retrain-vision")


def test_a_round_that_does_not_train_v_on_has_that_of_the_last_one_that_did(copied, capsys):
    run, arguments = copied
    third = run.at(3)
    for stage in stages.STAGED[:-1]:
        main(stage, [*arguments, "--rounds", "3"])
    assert "train_vision: V is trained" in capsys.readouterr().err
    assert third.path("vision") == run.at(2).own_path("vision") and not third.latents.exists()
    counts = [len(list(round.episodes.glob(f"*{SUFFIX}"))) for round in third.until_now]
    assert len(list(run.at(2).latents.glob("*"))) == sum(counts)
    assert load_agent(third).vision_digest == load_agent(run.at(2)).vision_digest


def test_it_is_scored_and_can_be_published_and_scored_again_without_its_episodes(copied, tmp_path, capsys):
    run, arguments = copied
    main(stages.evaluate, arguments)
    assert "controller from the dream" in capsys.readouterr().out and (run.report / "report.html").exists()
    main(publish, arguments)
    given = tmp_path / "published"
    shutil.rmtree(run.root)
    again = ["--task", "toy", "--run", "two", "--data", str(given), *INLINE]
    main(stages.evaluate, [*again, "--evaluate.first-seed", "2000000000"])
    scores = read_scores(given / "toy" / "two" / "round-2" / "report" / "scores.json")
    assert {s["first_seed"] for s in scores} == {2_000_000_000} and {s["world"] for s in scores} == {"real", "dream"}
