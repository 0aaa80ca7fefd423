"""Later rounds that explore: with noise on the controller's weights, or by another controller that is drawn to what M
is uncertain of."""

import json
import shutil

import numpy as np
import pytest

from pipeline import __main__ as stages
from pipeline.command import main
from tests.pipeline.conftest import TOY, lines
from worldmodels import episodes
from worldmodels.files import load_arrays
from worldmodels.runs import Run

# an M that can be uncertain, and a learner that always comes to weights that are not zero
ENSEMBLE = ["--memory.kind", "ensemble", "--memory.members", "2", "--memory.member.hidden-size", "8",
            "--learner.kind", "least_squares"]
LATER = ["--rounds", "2", "--collect.episodes-per-round", "5", "--collect.explore-share", "0.0"]
NOISE = ["--collect.weight-noise", "0.8"]
BONUS = ["--collect.disagreement-bonus", "20.0"]


def copy_of(root, tmp_path, *arguments):
    shutil.copytree(root, tmp_path / "toy" / "smoke")
    return Run(tmp_path / "toy" / "smoke", 2), [*TOY, "--data", str(tmp_path), "--device", "cpu", *arguments]


@pytest.fixture(scope="module")
def ensemble(finished, tmp_path_factory):
    """A run of one round whose M can be uncertain."""
    data = tmp_path_factory.mktemp("ensemble")
    run, arguments = copy_of(finished("toy"), data, *ENSEMBLE)
    for path in run.root.glob("checkpoints/[mc]*"):
        path.unlink()
    for stage in (stages.train_memory, stages.train_controller):
        main(stage, arguments)
    return run.root


@pytest.fixture(scope="module")
def explored(ensemble, tmp_path_factory):
    """The same after a second round with a bonus and with noise, whose controller is not trained yet."""
    run, arguments = copy_of(ensemble, tmp_path_factory.mktemp("explored"), *ENSEMBLE, *LATER, *BONUS, *NOISE)
    for stage in (stages.collect, stages.encode, stages.train_memory):
        main(stage, arguments)
    return run.root


@pytest.fixture
def copied(explored, tmp_path):
    return copy_of(explored, tmp_path, *ENSEMBLE, *LATER)


@pytest.fixture(scope="module")
def played(ensemble, tmp_path_factory):
    """played(*settings): the second round's actions by episode, collected with these settings."""
    def played(*settings):
        run, arguments = copy_of(ensemble, tmp_path_factory.mktemp("played"), *ENSEMBLE, *LATER, *settings)
        main(stages.collect, arguments)
        return actions(run)
    return played


@pytest.fixture(scope="module")
def plain(played):
    return played()


def actions(run):
    paths = sorted(run.episodes.glob(f"*{episodes.SUFFIX}"))
    return {path.name: episodes.read(path).action for path in paths}


def controller(run):
    return load_arrays(run.own_path("controller"))


def test_with_a_bonus_another_controller_collects(explored, played, plain):
    """It is trained as the round's own, in dreams in which uncertainty pays, and kept beside it."""
    run, explorer = Run(explored), Run(explored / "explorer")
    (own, info), (other, other_info) = controller(run), controller(explorer)
    assert other_info["dream"] == info["dream"] | {"pessimism": -20.0} and info["dream"]["pessimism"] == 0
    for name in ("agent_digest", "controller", "learner", "seed"):
        assert other_info[name] == info[name]
    assert not np.array_equal(other["parameters"], own["parameters"])
    alone = played(*BONUS)
    assert alone.keys() == plain.keys() and len(alone) == 5
    assert not any(np.array_equal(alone[name], plain[name]) for name in plain)


def test_with_noise_every_episode_is_anothers(played, plain):
    noisy = played(*NOISE)
    assert noisy.keys() == plain.keys()
    assert not any(np.array_equal(noisy[name], plain[name]) for name in plain)


def test_episodes_and_m_name_what_they_were_made_with(explored, ensemble):
    run = Run(explored, 2)
    settings = json.loads((run.episodes / "settings.json").read_text())
    memory = load_arrays(run.own_path("memory"))[1]
    for stored in (settings, memory):
        assert (stored["weight_noise"], stored["disagreement_bonus"]) == (0.8, 20.0)
    first = load_arrays(Run(ensemble).own_path("memory"))[1]
    assert not {"weight_noise", "disagreement_bonus"} & (first.keys() | json.loads(
        (ensemble / "episodes" / "settings.json").read_text()).keys())
    # the first round's episodes do not depend on it
    assert first["collect"] == memory["collect"]


def test_the_round_goes_on_with_a_controller_of_its_own(copied):
    """What is collected and trained stays as it is; the controller is trained in dreams without a bonus."""
    run, arguments = copied
    arguments += [*BONUS, *NOISE]
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.safetensors*")}
    for stage in (stages.collect, stages.encode, stages.train_memory):                  # which are done
        main(stage, arguments)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*.safetensors*")} == before
    main(stages.train_controller, arguments)
    found, info = controller(run)
    assert info["dream"]["pessimism"] == 0
    assert not np.array_equal(found["parameters"], controller(Run(run.root / "explorer"))[0]["parameters"])


@pytest.mark.parametrize("changed, told", (
    (["--collect.disagreement-bonus", "7.0", *NOISE], "disagreement_bonus=20.0 (now 7.0)"),
    (NOISE, "disagreement_bonus=20.0 (now None)"),
    ([*BONUS, "--collect.weight-noise", "0.3"], "weight_noise=0.8 (now 0.3)"),
    (BONUS, "weight_noise=0.8 (now None)")), ids=("bonus", "no bonus", "noise", "no noise"))
def test_another_bonus_or_noise_is_refused_in_one_line(copied, capsys, changed, told):
    """By collecting, where another bonus is that of the explorer's dreams, and by training on what was collected."""
    _, arguments = copied
    for stage in (stages.collect, stages.train_memory):
        with pytest.raises(SystemExit) as stop:
            main(stage, [*arguments, *changed])
        *_, said = lines(capsys.readouterr().err)
        assert stop.value.code == 2 and said.startswith("error: ")
        assert told in said or stage is stages.collect and "dream.pessimism=-20.0 (now -7.0)" in said


def test_collecting_goes_on_where_it_stopped_with_the_same_explorer(copied):
    run, arguments = copied
    explorer = Run(run.root / "explorer")
    wanted, parameters = actions(run), controller(explorer)[0]["parameters"]
    paths = sorted(run.episodes.glob(f"*{episodes.SUFFIX}"))
    for path in paths[:2]:
        path.unlink()
    main(stages.collect, [*arguments, *BONUS, *NOISE])
    found = actions(run)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert np.array_equal(controller(explorer)[0]["parameters"], parameters)


def test_an_m_that_is_never_uncertain_has_nothing_to_be_drawn_to(finished, tmp_path, fails):
    run, arguments = copy_of(finished("toy"), tmp_path, *LATER, *BONUS)
    assert "never uncertain" in fails(stages.collect, *arguments)
    assert not list(run.episodes.glob("*"))
