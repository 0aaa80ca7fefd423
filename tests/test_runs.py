"""A run's folder: checkpoints that know how they were made, and metrics."""

import json
import os

import pytest
import torch

from worldmodels.runs import Run, differences, read_metrics
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
    assert json.loads(run.path("vision").with_suffix(".json").read_text()) == info
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
    with run.locked():
        with pytest.raises(UserError, match="another process"), Run(run.root).locked():
            pass
    with run.locked():
        pass


def test_metrics_after_the_resumed_step_are_forgotten(run):
    log = run.metrics("vision")
    for step in (20, 40, 60):
        log.write(step, {"loss": float(step)})
    run.metrics("memory").write(80, {"loss": 1.0})
    run.metrics("vision", 40).write(50, {"loss": 5.0})
    assert [row["step"] for row in read_metrics(run.folder, "vision")] == [20, 40, 50]
    assert [row["stage"] for row in read_metrics(run.folder)] == ["vision", "vision", "memory", "vision"]


def test_a_metrics_line_cut_short_or_no_row_at_all_is_left_out(run):
    run.metrics("vision").write(20, {"loss": 1.0})
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('7\n{"loss": 1.0}\n{"stage": "vis')
    assert [row["step"] for row in read_metrics(run.folder)] == [20]
    run.metrics("vision", 20).write(40, {"loss": 1.0})
    assert [row["step"] for row in read_metrics(run.folder)] == [20, 40]


def test_values_are_gathered_into_rows_of_so_many_steps(run):
    with run.metrics("collect", 10) as log:
        for values in ([1.0], [3.0], [5.0, 7.0, 9.0], [11.0]):
            log.gather([{"return": value} for value in values], 2)
        assert [row["step"] for row in read_metrics(run.folder, "collect")] == [12, 15]
    assert [(row["step"], row["return"]) for row in read_metrics(run.folder, "collect")] == [(12, 2.0), (15, 7.0), (16, 11.0)]
