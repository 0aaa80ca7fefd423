"""Files are whole or absent, and a damaged one is refused by name."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from pipeline.presets import Config
from worldmodels.files import FORMAT, digest, load_arrays, read_json, save_arrays, write_atomic, write_json
from worldmodels.runs import ROUNDS, Run
from worldmodels.types import UserError

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False]),
          "empty": np.zeros((0, 2), np.int64), "scalar": np.array(2.5)}


def test_arrays_and_info_come_back_as_they_were_stored(tmp_path):
    save_arrays(tmp_path / "x", ARRAYS, {"n": 1, "nested": {"s": "ü"}})
    arrays, info = load_arrays(tmp_path / "x")
    assert info == {"n": 1, "nested": {"s": "ü"}}
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(arrays[name], value)


def test_strided_arrays_are_stored_by_value(tmp_path):
    save_arrays(tmp_path / "x", {"t": ARRAYS["a"].T}, {})
    np.testing.assert_array_equal(load_arrays(tmp_path / "x")[0]["t"], ARRAYS["a"].T)


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_arrays(path, ARRAYS, {"step": 12})
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1:])
        with pytest.raises(UserError, match="weights.safetensors"):
            load_arrays(path)


def test_no_truncation_goes_unnoticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_arrays(path, ARRAYS, {"step": 12})
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(UserError, match="weights.safetensors"):
            load_arrays(path)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="absent"):
        load_arrays(tmp_path / "absent")
    with pytest.raises(UserError, match="absent"):
        read_json(tmp_path / "absent")


def test_a_damaged_json_file_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": [1, 2]})
    assert read_json(path) == {"a": [1, 2]}
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="config.json"):
        read_json(path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x"
    write_atomic(path, b"old")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_digest_covers_names_shapes_types_values_and_text():
    a = np.zeros((2, 3), np.float32)
    variants = [({"a": a}, ""), ({"b": a}, ""), ({"a": a.reshape(3, 2)}, ""), ({"a": a.view(np.int32)}, ""),
                ({"a": a + 1}, ""), ({"a": a}, "text")]
    assert len({digest(*variant) for variant in variants}) == len(variants)
    assert digest({"a": a, "b": a + 1}) == digest({"b": a + 1, "a": a})


# format 1, as it was before files said their format: written by hand here

VISION_1 = {"steps": 5000, "learning_rate": 0.001, "z_size": 32, "kl_floor": 1.0, "channels": 16}
MEMORY_1 = {"kind": "mdn_rnn", "hidden_size": 256, "peek": True, "dreamt": 1.0}
MEMORY_2 = {"kind": "mdn_rnn", "hidden_size": 256, "sees_current_frame": True, "scheduled_sampling": 1.0}
SEARCH_1 = {"generations": 60, "population": 64, "episodes": 16, "start": "improved", "sigma": 0.1, "bias": False,
            "eval_every": 10, "eval_episodes": 512}
SEARCH_2 = {"kind": "cma_es", "generations": 60, "population": 64, "episodes": 16, "start": "least_squares",
            "sigma": 0.1, "eval_every": 10, "eval_episodes": 512}


def write_format_1(path, arrays, info):
    text = json.dumps(info, sort_keys=True)
    path.write_bytes(safetensors.numpy.save(arrays, {"info": text, "digest": digest(arrays, text)}))


def test_every_file_says_its_format(tmp_path):
    write_json(tmp_path / "config.json", {"a": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == {"format": FORMAT, "a": 1}
    assert read_json(tmp_path / "config.json") == {"a": 1}
    save_arrays(tmp_path / "x", ARRAYS, {"a": 1})
    with safetensors.safe_open(tmp_path / "x", "np") as file:
        assert file.metadata()["format"] == str(FORMAT)


def test_a_config_of_format_1_is_read_under_todays_names(tmp_path):
    path = tmp_path / "config.json"
    collect = {"episodes": 2400, "again": 800, "explore": 0.5, "repeat": 4}
    evaluate = {"episodes": 100, "transfer_episodes": 50}
    config = {"task": "toy", "seed": 3, "collect": collect, "vision": VISION_1, "memory": MEMORY_1,
              "dream": {"start": "first"}, "controller": SEARCH_1, "evaluate": evaluate}
    path.write_text(json.dumps({"config": config, "versions": {"torch": "2.4"}}))
    assert read_json(path) == {"versions": {"torch": "2.4"}, "config": {
        "task": "toy", "seed": 3,
        "collect": {"episodes": 2400, "episodes_per_round": 800, "explore_share": 0.5, "repeat": 4},
        "vision": VISION_1 | {"kind": "vae"}, "memory": MEMORY_2,
        "dream": {"start": "first"}, "controller": {"kind": "linear", "bias": False}, "learner": SEARCH_2,
        "evaluate": {"episodes": 100, "gap_episodes": 50}}}


@pytest.mark.parametrize("before, now", (("zero", "previous_or_zero"), ("dreamt", "least_squares_dream"),
                                         ("improved", "least_squares"), (None, "previous_or_zero")))
def test_where_a_search_of_format_1_began_is_read_under_todays_name(tmp_path, before, now):
    search = {"population": 64} | ({"start": before} if before else {})
    write_format_1(tmp_path / "c", ARRAYS, {"controller": search})
    assert load_arrays(tmp_path / "c")[1] == {"controller": {"kind": "linear", "bias": True},
                                              "learner": {"population": 64, "kind": "cma_es", "start": now}}


def test_checkpoints_of_format_1_are_read_under_todays_names(tmp_path):
    info = {"task": "toy", "vision": VISION_1, "memory": MEMORY_1, "again": 800, "explore": 0.5, "step": 40}
    write_format_1(tmp_path / "m", ARRAYS, info)
    arrays, found = load_arrays(tmp_path / "m")
    assert arrays.keys() == ARRAYS.keys() and all(np.array_equal(arrays[name], a) for name, a in ARRAYS.items())
    assert found == {"task": "toy", "vision": VISION_1 | {"kind": "vae"},
                     "memory": MEMORY_2, "episodes_per_round": 800, "explore_share": 0.5, "step": 40}


def test_latents_and_scores_of_format_1_are_read(tmp_path):
    """Whose `vision` is a digest, and which were a list."""
    write_format_1(tmp_path / "l", ARRAYS, {"vision": "0123abcd", "episode": ""})
    assert load_arrays(tmp_path / "l")[1] == {"vision": "0123abcd", "episode": ""}
    (tmp_path / "scores.json").write_text('[{"mean": 1.0}, {"mean": 2.0}]')
    assert read_json(tmp_path / "scores.json") == {"scores": [{"mean": 1.0}, {"mean": 2.0}]}


def test_what_episodes_of_format_1_were_collected_with_is_read_under_todays_names(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({
        "task": "toy", "seed": 0, "max_steps": 400, "repeat": 4, "policy": "fresh", "skill": 4, "drawing": "fast",
        "explore": 0.5, "controller_before": "abc"}))
    assert read_json(tmp_path / "settings.json") == {
        "task": "toy", "seed": 0, "explore_share": 0.5, "controller_before": "abc",
        "collect": {"max_steps": 400, "repeat": 4, "policy": "fresh", "skill": 4, "drawing": "fast"}}


def test_names_of_format_1_are_nothing_special_today(tmp_path):
    info = {"peek": 1, "explore": {"again": 2}, "controller": {"population": 64}}
    save_arrays(tmp_path / "x", ARRAYS, info)
    write_json(tmp_path / "x.json", info)
    assert load_arrays(tmp_path / "x")[1] == read_json(tmp_path / "x.json") == info


@pytest.mark.parametrize("before, now", ((False, ()), (True, tuple(range(2, ROUNDS + 1)))))
def test_whether_a_run_of_format_2_trains_v_on_is_read_as_the_rounds_that_do(tmp_path, before, now):
    (tmp_path / "config.json").write_text(json.dumps({"format": 2, "config": {"retrain_vision": before, "seed": 3}}))
    settings = Run(tmp_path).settings(Config)
    assert (settings.retrain_vision, settings.seed) == (now, 3)


def test_a_file_of_a_newer_format_is_refused_by_name_and_says_why(tmp_path):
    text, later = json.dumps({"a": 1}), str(FORMAT + 1)
    (tmp_path / "new.json").write_text(json.dumps({"format": FORMAT + 1, "a": 1}))
    (tmp_path / "new.safetensors").write_bytes(safetensors.numpy.save(
        ARRAYS, {"format": later, "info": text, "digest": digest(ARRAYS, f"{later} {text}")}))
    for name, read in (("new.json", read_json), ("new.safetensors", load_arrays)):
        with pytest.raises(UserError, match=f"{name}.*format {later}.*{FORMAT} at most"):
            read(tmp_path / name)


@pytest.mark.parametrize("damage", ((b'"format":"3"', b'"format":"1"'), (b'"format":"3"', b'"format":"0"'),
                                    (b'"format":"3"', b'"gormat":"2"')), ids=str)
def test_a_files_format_is_covered_by_its_digest(tmp_path, damage):
    """Else its settings would be read as those of another format."""
    save_arrays(tmp_path / "x", ARRAYS, {"peek": 1})
    data = (tmp_path / "x").read_bytes()
    assert data.count(damage[0]) == 1
    (tmp_path / "x").write_bytes(data.replace(*damage))
    with pytest.raises(UserError, match="digest"):
        load_arrays(tmp_path / "x")


@pytest.mark.parametrize("text", ('{"format": "two"}', '{"format": null}', "7", '"config"', "null", ""))
def test_a_json_file_that_is_no_description_is_refused_by_name(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json"):
        read_json(tmp_path / "config.json")
