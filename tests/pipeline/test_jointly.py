"""--training jointly: V and M by one objective, through all stages, resumed, and in further rounds."""

import json
import shutil
from functools import cache, partial

import numpy as np
import pytest
import torch

from pipeline import __main__ as stages
from pipeline.command import main
from tests.pipeline.conftest import TOY
from worldmodels import Agent, episodes
from worldmodels.agent import build_memory, build_vision, load_agent
from worldmodels.envs import TASKS
from worldmodels.files import load_arrays
from worldmodels.latents import open_latents
from worldmodels.metrics import read_metrics
from worldmodels.report.scores import read_scores
from worldmodels.runs import Run, seed_of
from worldmodels.vision.train import encode

SMALL = [*TOY, "--device", "cpu", "--collect.episodes", "6", "--vision.channels", "4", "--vision.z-size", "8"]
JOINTLY = [*SMALL, "--training", "jointly"]
KINDS = {
    "gru": ["--memory.kind", "gru"],
    "mdn_rnn": ["--memory.kind", "mdn_rnn"],
    "rssm": ["--memory.kind", "rssm", "--memory.units", "16", "--memory.stochastic-size", "8"],
    "ensemble": ["--memory.kind", "ensemble", "--memory.members", "3", "--memory.member.hidden-size", "16"]}
MADE = ("vision", "memory", "joint", "controller")

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="session")
def collected(tmp_path_factory):
    """The data folder of a toy run that has its episodes and no more."""
    data = tmp_path_factory.mktemp("collected")
    main(stages.collect, [*SMALL, "--data", str(data)])
    return data


@pytest.fixture(scope="session")
def jointly(collected, tmp_path_factory):
    """jointly(kind): the data folder of such a run that was taken through all stages with V and M trained jointly,
    which no test changes."""
    @cache
    def made(kind: str):
        data = tmp_path_factory.mktemp(kind)
        shutil.copytree(collected, data, dirs_exist_ok=True)
        main(stages.pipeline, [*JOINTLY, *KINDS[kind], "--data", str(data)])
        return data
    return made


@pytest.fixture
def begun(collected, tmp_path):
    """A copy of the run that has its episodes, and the arguments that name it."""
    shutil.copytree(collected, tmp_path, dirs_exist_ok=True)
    return tmp_path / "toy" / "smoke", [*JOINTLY, *KINDS["gru"], "--data", str(tmp_path)]


@pytest.fixture
def copied(jointly, tmp_path):
    """A copy of the finished run with a GRU, and the arguments that name it."""
    shutil.copytree(jointly("gru"), tmp_path, dirs_exist_ok=True)
    return tmp_path / "toy" / "smoke", [*JOINTLY, *KINDS["gru"], "--data", str(tmp_path)]


def delete(folder, *names):
    for name in names:
        for path in (folder / "checkpoints").glob(f"{name}.*"):
            path.unlink()


def checkpoints(folder):
    """What is in each, and how it was made."""
    return {path.stem: load_arrays(path) for path in (folder / "checkpoints").glob("*.safetensors")}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for (arrays, info), (expected, expected_info) in ((found[name], wanted[name]) for name in wanted):
        assert info == expected_info and arrays.keys() == expected.keys()
        assert [name for name in expected if not np.array_equal(arrays[name], expected[name])] == []


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors*")}


@every_kind
def test_v_and_m_trained_jointly_go_through_all_stages(kind, jointly):
    folder = jointly(kind) / "toy" / "smoke"
    made = checkpoints(folder)
    assert made.keys() == {*MADE} and all(np.isfinite(a).all() for arrays, _ in made.values() for a in arrays.values())
    for name in ("vision", "memory", "joint"):
        assert made[name][1]["joint"]["steps"] == 20 and made[name][1]["memory"]["kind"] == kind
    assert {row["stage"] for row in read_metrics(folder)} == {"collect", "joint", "encode", "controller", "evaluate"}
    assert read_metrics(folder, "joint")[-1]["step"] == 20
    assert {s["world"] for s in read_scores(folder / "report" / "scores.json")} == {"real", "dream"}
    assert (folder / "report" / "report.html").exists() and not list(folder.rglob("*.progress.*"))
    assert Run(folder).seconds.keys() == {stage.__name__ for stage in stages.JOINTLY}
    assert Agent.load(folder).controller is not None


@every_kind
def test_v_and_m_are_the_two_halves_of_what_was_trained(kind, jointly):
    made = checkpoints(jointly(kind) / "toy" / "smoke")
    joint, _ = made["joint"]
    assert {name.split(".")[0] for name in joint} == {"vision", "memory"}
    for part in ("vision", "memory"):
        arrays, _ = made[part]
        assert {f"{part}.{name}" for name in arrays} == {name for name in joint if name.startswith(f"{part}.")}
        assert all(np.array_equal(joint[f"{part}.{name}"], array) for name, array in arrays.items())


def test_all_weights_of_v_and_of_each_member_of_m_are_trained(jointly):
    run = Run(jointly("ensemble") / "toy" / "smoke")
    torch.manual_seed(seed_of(0, 1, "weights of V and M"))
    begun = {name: build(run.load(name, "")[1]) for name, build in
             (("vision", build_vision), ("memory", partial(build_memory, task=TASKS["toy"])))}
    for part, module in begun.items():
        trained, _ = run.load(part, "")
        for name, weight in module.state_dict().items():
            each = zip(weight, trained[name], strict=True) if part == "memory" else [(weight, trained[name])]
            assert all(not torch.equal(a, b) for a, b in each), name


def test_latents_are_those_of_the_trained_v(jointly):
    run = Run(jointly("gru") / "toy" / "smoke")
    agent = load_agent(run)
    latents = open_latents(run, 0, agent.vision_digest)                        # made by this V, by their own account
    assert run.load("memory", "")[1]["vision_digest"] == agent.vision_digest
    for number, path in enumerate(sorted(run.episodes.glob("*.lz4"))):
        posterior, stored = encode(agent.vision, episodes.read(path).frames), latents.episode(number)
        np.testing.assert_allclose(stored.mu, posterior.mean, atol=1e-3, rtol=1e-3)
        np.testing.assert_allclose(stored.log_var, posterior.log_var, atol=1e-3, rtol=1e-3)


def test_a_second_call_skips_what_is_finished(copied, capsys):
    folder, arguments = copied
    before = times(folder)
    capsys.readouterr()
    for stage in (stages.pipeline, stages.train_jointly, stages.train_vision, stages.train_memory):
        main(stage, arguments)
    said = capsys.readouterr().err
    assert times(folder) == before and not any(word in said for word in ("training ", "encoding", "evolving"))
    assert "train_jointly: V and M are trained" in said and "evaluate: the report is there" in said


@pytest.mark.parametrize("lost", [("memory",), ("memory", "controller"), ("vision", "memory"), ("joint",)],
                         ids=", ".join)
def test_what_is_lost_of_v_and_m_is_made_again_from_what_is_there(lost, copied, capsys):
    """Without another training, bit for bit; where both are there, what they were made of is not missed."""
    folder, arguments = copied
    wanted = checkpoints(folder)
    delete(folder, *lost)
    capsys.readouterr()
    main(stages.pipeline, arguments)
    assert "training joint" not in capsys.readouterr().err
    if lost == ("joint",):
        del wanted["joint"]
    assert_same(checkpoints(folder), wanted)


@pytest.mark.parametrize("killed_at", ("vision", "memory"))
def test_a_kill_while_v_and_m_are_stored_is_mended_by_the_same_command(killed_at, begun, jointly, monkeypatch, capsys):
    folder, arguments = begun
    save = Run.save

    def killed(run, name, *rest):
        if name == killed_at:
            raise KeyboardInterrupt
        save(run, name, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", killed)
        with pytest.raises(SystemExit) as stopped:
            main(stages.pipeline, arguments)
    assert stopped.value.code == 130
    assert checkpoints(folder).keys() == ({"joint"} if killed_at == "vision" else {"joint", "vision"})
    capsys.readouterr()
    main(stages.train_jointly, arguments)
    assert "training joint" not in capsys.readouterr().err
    wanted = checkpoints(jointly("gru") / "toy" / "smoke")
    assert_same(checkpoints(folder), {name: wanted[name] for name in ("vision", "memory", "joint")})


def test_a_training_made_anew_is_the_same_bit_for_bit(copied):
    folder, arguments = copied
    wanted = checkpoints(folder)
    delete(folder, "vision", "memory", "joint")
    main(stages.pipeline, arguments)
    assert_same(checkpoints(folder), wanted)


# mistakes

def test_v_and_m_are_trained_jointly_only_where_that_is_wanted(begun, fails):
    folder, arguments = begun
    assert "--training jointly" in fails(stages.train_jointly, *arguments, "--training", "staged")
    assert not checkpoints(folder)


def test_v_alone_is_not_trained_in_place_of_both(begun, fails):
    folder, arguments = begun
    assert "python -m pipeline.train_jointly`" in fails(stages.train_vision, *arguments)
    assert not checkpoints(folder)


def test_m_alone_is_not_trained_in_place_of_both(copied, fails):
    """Where a kill has left V without M."""
    folder, arguments = copied
    delete(folder, "memory", "controller")
    assert "python -m pipeline.train_jointly`" in fails(stages.train_memory, *arguments)
    assert checkpoints(folder).keys() == {"joint", "vision"}


def test_nothing_to_train_on_is_named(begun, fails):
    folder, arguments = begun
    next(folder.glob("episodes/*.lz4")).unlink()
    said = fails(stages.train_jointly, *arguments)
    assert "5 of 6 episodes" in said and "pipeline.collect`" in said


def test_too_few_steps_are_named(begun, fails):
    said = fails(stages.train_jointly, *begun[1], "--joint.batch", "1000")
    assert "1000 × 10" in said and "--joint.batch" in said


def test_a_v_without_a_variance_is_named(begun, fails):
    folder, arguments = begun
    said = fails(stages.train_jointly, *arguments, "--vision.kind", "autoencoder")
    assert "autoencoder" in said and "variance" in said and not checkpoints(folder)


def test_a_memory_of_means_is_named(begun, fails):
    folder, arguments = begun
    said = fails(stages.train_jointly, *arguments, "--memory.latent", "mean")
    assert "--memory.latent mean: joint training draws z" in said and not checkpoints(folder)


@pytest.mark.parametrize("flag, value, different", (
    ("--joint.steps", "30", "joint.steps=20 (now 30)"), ("--memory.hidden-size", "8", "memory.hidden_size=16 (now 8)")))
def test_v_and_m_trained_jointly_with_other_settings(flag, value, different, copied, fails):
    for stage in (stages.train_jointly, stages.encode, stages.train_controller):
        said = fails(stage, *copied[1], flag, value)
        assert different in said and "--run" in said


def test_v_and_m_trained_jointly_are_not_those_of_stages(copied, fails):
    for stage in (stages.train_vision, stages.encode, stages.train_controller):
        assert "--run" in fails(stage, *copied[1], "--training", "staged")


# further rounds

def test_in_a_second_round_m_alone_is_trained_on(collected, tmp_path, capsys):
    """With a learning rate of next to nothing it ends where the joint training left it. V stays."""
    shutil.copytree(collected, tmp_path, dirs_exist_ok=True)
    arguments = [*JOINTLY, *KINDS["gru"], "--data", str(tmp_path), "--rounds", "2", "--collect.episodes-per-round", "5",
                 "--memory.learning-rate", "1e-9"]
    main(stages.pipeline, arguments)
    folder = tmp_path / "toy" / "smoke"
    first, second = checkpoints(folder), checkpoints(folder / "round-2")
    assert first.keys() == {*MADE} and second.keys() == {"memory", "controller"}
    (before, _), (after, info) = first["memory"], second["memory"]
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert any(not np.array_equal(before[name], after[name]) for name in before)            # it was trained,
    assert read_metrics(folder / "round-2", "memory")[-1]["step"] == 20                     # by its own settings
    assert info["controller_before"] == json.loads((folder / "checkpoints" / "controller.json").read_text())["digest"]
    assert len(list(folder.glob("round-2/latents/*"))) == 5 and len(list(folder.glob("latents/*"))) == 6
    assert (folder / "round-2" / "report" / "rounds.png").exists()
    made = times(folder)
    capsys.readouterr()
    for stage in (stages.pipeline, stages.train_jointly, stages.train_memory):
        main(stage, arguments)
    assert times(folder) == made and "training" not in capsys.readouterr().err
