"""A run's folder: checkpoints that know how they were made."""

import os
import pickle
from dataclasses import dataclass, field, make_dataclass, replace
from itertools import product

import pytest
import torch

from tests.test_files import write_format_1
from worldmodels import runs
from worldmodels.files import read_json, write_json
from worldmodels.memory import MEMORIES, MDNRNNConfig
from worldmodels.memory.ensemble import EnsembleConfig
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.rssm import RSSMConfig
from worldmodels.metrics import Writer
from worldmodels.runs import (
    EVALUATION,
    Run,
    config_of,
    differences,
    episode_seeds,
    from_dict,
    kinds_within,
    plain,
    seed_of,
    to_arrays,
)
from worldmodels.types import UserError

TENSORS = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([3])}


def test_differences_name_the_nested_setting_and_both_values():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "d": 3}) == "a.c=2 (now 5)"
    assert differences({"x": 1}, {}) == "x=1 (now None)"
    assert differences({"x": {"y": 1}, "z": 0}, {"x": {"y": 1}, "z": 0}) == ""
    assert differences({"x": {"y": 1}, "z": 0}, {"x": {"y": 2}, "z": 1}) == "x.y=1 (now 2), z=0 (now 1)"


def test_a_checkpoint_comes_back_with_its_info_and_digest(run):
    assert not run.finished("vision", {"seed": 0})
    run.save("vision", TENSORS, {"seed": 0})
    tensors, info = run.load("vision", "train_vision")
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert info["seed"] == 0
    assert read_json(run.path("vision").with_suffix(".json")) == info
    run.save("vision", TENSORS | {"n": torch.tensor([4])}, {"seed": 0})
    assert run.load("vision", "train_vision")[1]["digest"] != info["digest"]


def test_a_checkpoint_made_with_other_settings_is_refused(run):
    run.save("vision", TENSORS, {"vision": {"z_size": 32}, "betas": (0.9, 0.99)})
    assert run.finished("vision", {"vision": {"z_size": 32}, "betas": (0.9, 0.99)})
    with pytest.raises(UserError, match=r"vision\.z_size=32 \(now 64\)"):
        run.finished("vision", {"vision": {"z_size": 64}, "betas": (0.9, 0.99)})


def test_a_missing_checkpoint_names_the_stage_that_makes_it(run):
    with pytest.raises(UserError, match="pipeline.train_vision"):
        run.load("vision", "train_vision")


def test_a_damaged_checkpoint_is_refused_by_name(run):
    run.save("vision", TENSORS, {})
    data = run.path("vision").read_bytes()
    run.path("vision").write_bytes(data[:-1])
    with pytest.raises(UserError, match="vision.safetensors"):
        run.finished("vision", {})
    with pytest.raises(UserError, match="vision.safetensors"):
        run.load("vision", "train_vision")


def test_progress_is_kept_apart_and_refused_under_other_settings(run):
    assert run.load_progress("memory", {"seed": 0}) is None
    run.save_progress("memory", TENSORS, {"seed": 0, "step": 40})
    assert not run.finished("memory", {"seed": 0})
    tensors, step = run.load_progress("memory", {"seed": 0})
    assert step == 40 and torch.equal(tensors["w"], TENSORS["w"])
    with pytest.raises(UserError, match=r"seed=0 \(now 1\)"):
        run.load_progress("memory", {"seed": 1})


def test_a_save_that_fails_leaves_the_checkpoint_before(run, monkeypatch):
    run.save_progress("memory", TENSORS, {"step": 40})

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        run.save_progress("memory", TENSORS, {"step": 60})
    assert run.load_progress("memory", {})[1] == 40


def test_a_run_is_locked_against_a_second_process(run):
    with run.locked(), pytest.raises(UserError, match="another process"), Run(run.root).locked():
        pass
    with run.locked():
        pass


def test_no_two_runs_rounds_stages_or_streams_have_the_same_random_numbers():
    """Also where the numbers say the same in another place: seed 1, round 2 is not seed 2, round 1."""
    stages = ("collect", "search", "cma", "frames", "windows", "vision", "memory", "least squares", "weights of V")
    streams = {(seed, round, stage, *index) for seed, round, stage in product(range(12), range(1, 6), stages)
               for index in ((), (0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (7, 1, 3))}
    seeds = [seed_of(*stream) for stream in streams]
    assert len(streams) == 12 * 5 * 9 * 8 == len(set(seeds))
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(3, 1, "memory", 5) == seed_of(3, 1, "memory", 5)


def test_steps_of_a_training_have_seeds_of_their_own():
    seeds = {seed_of(seed, 1, "memory", step) for seed in range(30) for step in range(300)}
    assert len(seeds) == 9000


def test_no_two_runs_rounds_or_stages_play_the_same_episodes_and_none_those_of_scores():
    blocks = [episode_seeds(seed, round, stage) for seed in range(runs.RUNS) for round in range(1, runs.ROUNDS + 1)
              for stage in runs.STAGES]
    assert len(blocks) == 2000 and all(len(block) == runs.EPISODES_PER_STAGE for block in blocks)
    blocks.sort(key=lambda block: block.start)
    assert blocks[0].start == 0
    assert all(before.stop <= after.start for before, after in zip(blocks, [*blocks[1:], EVALUATION]))
    assert EVALUATION.stop == 2**31 and {1_000_000_000, 2_000_000_000} <= {EVALUATION.start, *EVALUATION[::500_000_000]}


@pytest.mark.parametrize("seed, round", ((runs.RUNS, 1), (-1, 1), (0, 0), (0, runs.ROUNDS + 1)))
def test_episodes_that_would_be_those_of_others_are_a_user_error(seed, round):
    with pytest.raises(UserError, match=f"--seed {seed}, round {round}"):
        episode_seeds(seed, round, "collect")


@dataclass(frozen=True)
class Inner:
    kind: str = "inner"
    size: int = 3
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    seed: int = 0
    names: tuple = ("a",)
    inner: Inner = field(default_factory=Inner)


def test_a_checkpoint_made_before_a_setting_existed_is_finished(run):
    """Which then had the setting's default, and is refused where another is wanted now."""
    older = make_dataclass("Inner", [("kind", str, "inner"), ("size", int, 3)], frozen=True)
    run.save("memory", TENSORS, {"inner": older(size=4)})
    assert run.finished("memory", {"inner": Inner(size=4)})
    assert run.finished("memory", {"inner": Inner(size=4, rate=0.5)})
    with pytest.raises(UserError, match=r"inner.rate=0.5 \(now 0.25\)"):
        run.finished("memory", {"inner": Inner(size=4, rate=0.25)})
    with pytest.raises(UserError, match=r"inner.size=4 \(now 3\)"):
        run.finished("memory", {"inner": Inner()})


def test_progress_made_before_a_setting_existed_is_gone_on_with(run):
    run.save_progress("memory", TENSORS, {"memory": {"kind": "gru", "hidden_size": 8}, "step": 3})
    assert run.load_progress("memory", {"memory": GRUConfig(hidden_size=8)})[1] == 3


def test_a_setting_that_is_gone_or_another_kind_is_named(run):
    run.save("memory", TENSORS, {"inner": plain(Inner()) | {"gone": 7}})
    with pytest.raises(UserError, match=r"inner.gone=7 \(now None\)"):
        run.finished("memory", {"inner": Inner()})
    with pytest.raises(UserError, match=r"inner.kind=inner \(now gru\)"):
        run.finished("memory", {"inner": GRUConfig()})


def test_a_checkpoint_of_format_1_is_finished_under_todays_names(run):
    path = run.path("memory")
    path.parent.mkdir(parents=True)
    memory = {"kind": "mdn_rnn", "hidden_size": 16, "peek": True, "dreamt": 0.5}
    write_format_1(path, to_arrays(TENSORS), {"task": "toy", "memory": memory})
    wanted = MDNRNNConfig(hidden_size=16, sees_current_frame=True, scheduled_sampling=0.5)
    assert run.finished("memory", {"task": "toy", "memory": wanted})
    with pytest.raises(UserError, match="memory.scheduled_sampling=0.5"):
        run.finished("memory", {"task": "toy", "memory": MDNRNNConfig(hidden_size=16, sees_current_frame=True)})


def test_settings_come_back_as_they_were_stored():
    config = Outer(4, ("b", "c"), Inner(size=5))
    assert from_dict(Outer, plain(config)) == config
    # what is not there has its default
    assert from_dict(Outer, {"inner": {"rate": 2}}) == Outer(inner=Inner(rate=2))
    found = from_dict(make_dataclass("C", [("memory", object, field(default_factory=MDNRNNConfig))]),
                      {"memory": plain(GRUConfig(hidden_size=9))}, {"memory": MEMORIES})
    assert found.memory == GRUConfig(hidden_size=9)


@pytest.mark.parametrize("values, named", (
    ({"sede": 1}, "sede"), ({"inner": {"siez": 1, "rate": 1.0}}, "siez"), ({"seed": "1"}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"inner": {"size": None}}, "size"), ({"seed": True}, "seed")))
def test_a_setting_that_is_unknown_or_of_a_wrong_type_is_named_and_not_dropped(run, values, named):
    with pytest.raises(TypeError, match=named):
        from_dict(Outer, values)
    write_json(run.config, {"config": values})
    with pytest.raises(UserError, match=f"config.json.*{named}"):
        run.settings(Outer)


@pytest.mark.parametrize("config", ({"inner": 7}, 3, {"inner": []}), ids=str)
def test_a_config_that_is_none_is_a_user_error(run, config):
    write_json(run.config, {"config": config})
    with pytest.raises(UserError, match="config.json"):
        run.settings(Outer)


def test_a_kind_that_is_not_known_is_a_user_error(run):
    wanted = make_dataclass("C", [("memory", object, field(default_factory=MDNRNNConfig))])
    write_json(run.config, {"config": {"memory": {"kind": "abacus"}}})
    with pytest.raises(UserError, match="abacus"):
        run.settings(wanted, kinds={"memory": MEMORIES})
    write_json(run.config, {"config": {"memory": plain(GRUConfig(hidden_size=9))}})
    assert run.settings(wanted, kinds={"memory": MEMORIES}).memory == GRUConfig(hidden_size=9)


# kinds within kinds

ENSEMBLE = EnsembleConfig(members=3, member=RSSMConfig(stochastic_size=8))
Settings = make_dataclass("Settings", [("memory", object, field(default_factory=MDNRNNConfig))], frozen=True)


def test_a_kind_within_a_kind_comes_back_as_it_was_stored(run):
    assert kinds_within(ENSEMBLE) == ["member"] and kinds_within(RSSMConfig()) == []
    assert config_of(MEMORIES, plain(ENSEMBLE)) == ENSEMBLE
    write_json(run.config, {"config": {"memory": plain(ENSEMBLE)}})
    assert run.settings(Settings, kinds={"memory": MEMORIES}).memory == ENSEMBLE
    ensembles = replace(ENSEMBLE, member=ENSEMBLE)                  # as deep as one likes
    assert config_of(MEMORIES, plain(ensembles)) == ensembles


def test_a_kind_within_a_kind_that_is_not_known_is_a_user_error(run):
    stored = plain(ENSEMBLE)
    stored["member"]["kind"] = "abacus"
    write_json(run.config, {"config": {"memory": stored}})
    with pytest.raises(UserError, match="abacus"):
        run.settings(Settings, kinds={"memory": MEMORIES})


@pytest.mark.parametrize("member, named", (
    (RSSMConfig(stochastic_size=9), r"memory\.member\.stochastic_size=8 \(now 9\)"),
    (GRUConfig(), r"memory\.member\.kind=rssm \(now gru\)")), ids=("setting", "kind"))
def test_a_difference_within_a_kind_within_a_kind_is_named(run, member, named):
    run.save("memory", TENSORS, {"memory": ENSEMBLE})
    assert run.finished("memory", {"memory": ENSEMBLE})
    with pytest.raises(UserError, match=named):
        run.finished("memory", {"memory": replace(ENSEMBLE, member=member)})


def test_a_setting_of_a_kind_within_a_kind_that_came_later_has_its_default(run):
    older = plain(ENSEMBLE)
    del older["member"]["units"], older["disagreement"]
    run.save("memory", TENSORS, {"memory": older})
    assert run.finished("memory", {"memory": ENSEMBLE})
    with pytest.raises(UserError, match=r"memory\.member\.units=200 \(now 7\)"):
        run.finished("memory", {"memory": replace(ENSEMBLE, member=replace(ENSEMBLE.member, units=7))})


# rounds

def made(root, *visions):
    """A run whose rounds of these numbers have trained a V."""
    for round in visions:
        Run(root, round).save("vision", TENSORS | {"n": torch.tensor([round])}, {"round": round})
    return Run(root)


def test_rounds_and_other_runs_have_the_writers_of_the_run_and_workers_none(tmp_path):
    run = Run(tmp_path, writers=(Writer,))
    assert run.at(2).writers == run.at(2).other(tmp_path / "b").writers == run.last("vision").writers == (Writer,)
    assert run.at(2).other(tmp_path / "b") == Run(tmp_path / "b")
    copy = pickle.loads(pickle.dumps(run.at(2)))
    assert copy == run.at(2) and copy.writers == ()


def test_what_a_round_makes_lies_in_its_own_folder(tmp_path):
    run = Run(tmp_path)
    for name in ("vision", "memory", "controller"):
        assert run.own_path(name) == tmp_path / "checkpoints" / f"{name}.safetensors"
        assert run.at(3).own_path(name) == tmp_path / "round-3" / "checkpoints" / f"{name}.safetensors"
        assert run.at(3).progress_path(name).parent == run.at(3).own_path(name).parent
    made(tmp_path, 1, 2)
    assert run.at(2).own_path("vision").exists() and not run.at(3).own_path("vision").exists()


@pytest.mark.parametrize("trained, used", (((), (1, 1, 1, 1)), ((1,), (1, 1, 1, 1)), ((1, 2, 3), (1, 2, 3, 3)),
                                           ((1, 3), (1, 1, 3, 3))), ids=str)
def test_a_round_uses_the_last_v_that_was_trained_until_then(tmp_path, trained, used):
    run = made(tmp_path, *trained)
    for round, wanted in zip((1, 2, 3, 4), used):
        assert run.at(round).vision_round == run.at(wanted)
        assert run.at(round).path("vision") == run.at(wanted).own_path("vision")
        for name in ("memory", "controller"):
            assert run.at(round).path(name) == run.at(round).own_path(name)
        if trained:
            assert run.at(round).load("vision", "train_vision")[1]["round"] == wanted
            assert run.at(round).finished("vision", {"round": wanted})


def test_progress_of_v_belongs_to_its_round(tmp_path):
    """A later round's training does not go on from an earlier one's, and is not seen by the rounds after it."""
    run = made(tmp_path, 1)
    run.at(2).save_progress("vision", TENSORS, {"step": 7})
    assert run.load_progress("vision", {}) is None and run.at(3).load_progress("vision", {}) is None
    assert run.at(2).load_progress("vision", {})[1] == 7
    assert run.at(2).vision_round == run


def test_latents_are_beside_the_episodes_by_the_first_v_and_in_one_folder_by_another(tmp_path):
    run = made(tmp_path, 1)
    latents = lambda round: [run.at(round).latents_of(of) for of in run.at(round).until_now]
    own = [tmp_path / "latents", tmp_path / "round-2" / "latents", tmp_path / "round-3" / "latents"]
    assert latents(3) == own
    made(tmp_path, 2)
    assert (latents(1), latents(2), latents(3)) == (own[:1], 2 * own[1:2], 3 * own[1:2])
    made(tmp_path, 3)
    assert (latents(1), latents(2), latents(3)) == (own[:1], 2 * own[1:2], 3 * own[2:])


def test_the_last_round_is_that_of_the_highest_number_and_no_folder_beside_the_rounds(tmp_path):
    run = Run(tmp_path)
    assert run.last("controller") == run
    for round in (1, 2, 10):
        run.at(round).save("controller", TENSORS, {})
    Run(tmp_path / "explorer").save("controller", TENSORS, {})
    assert run.last("controller") == run.at(10) and run.last("memory") == run


def test_a_compared_world_model_without_a_v_of_its_own_uses_that_of_the_run_it_was_compared_in(tmp_path):
    run = Run(tmp_path / "run")
    run.save("vision", {}, {})
    model = Run(run.root / "compare" / "gru-0")
    assert model.path("vision") == model.own_path("vision") and run.compared == {}      # it is still being trained
    model.root.mkdir(parents=True)
    (model.root / "entry.json").write_text("{}")
    assert model.path("vision") == run.path("vision") and run.compared == {"gru-0": model}
    model.save("vision", {}, {})
    assert model.path("vision") == model.own_path("vision")
    assert Run(tmp_path / "other").path("vision") == tmp_path / "other" / "checkpoints" / "vision.safetensors"
