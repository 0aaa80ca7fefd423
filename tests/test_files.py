"""Files are whole or absent, and a damaged one is refused by name."""

import os

import numpy as np
import pytest

from worldmodels.files import digest, load_arrays, read_json, save_arrays, write_atomic, write_json
from worldmodels.types import UserError

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([True, False]), "empty": np.zeros((0, 2), np.int64),
          "scalar": np.array(2.5)}


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
    variants = [({"a": a}, ""), ({"b": a}, ""), ({"a": a.reshape(3, 2)}, ""), ({"a": a.view(np.int32)}, ""), ({"a": a + 1}, ""),
                ({"a": a}, "text")]
    assert len({digest(*variant) for variant in variants}) == len(variants)
    assert digest({"a": a, "b": a + 1}) == digest({"b": a + 1, "a": a})
