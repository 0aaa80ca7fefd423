"""Rows of metrics.jsonl, and the writers that are told of them: one suite for every kind, and a user's own."""

import importlib.util

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.writers import Recorder, rows_of
from worldmodels.metrics import WRITERS, StopTraining, TensorBoard, Writer, import_writer, read_metrics
from worldmodels.runs import Run
from worldmodels.types import UserError


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
    rows = read_metrics(run.folder, "collect")
    assert [(row["step"], row["return"]) for row in rows] == [(12, 2.0), (15, 7.0), (16, 11.0)]


# writers

@pytest.fixture(params=WRITERS)
def kind(request, monkeypatch):
    """Each kind whose package is there, Weights & Biases without an account."""
    if (package := WRITERS[request.param].package) and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return request.param


def test_every_kind_is_told_of_two_sittings_of_two_stages(tmp_path, kind, capfd):
    """Of steps, generations and rows, some of them twice; none fails, and metrics.jsonl is the same whatever it is."""
    run = Run(tmp_path / "run", writers=(import_writer(kind),))
    for stage in ("vision", "controller"):
        for begun in (0, 40):
            with run.at(2).metrics(stage, begun) as log:
                for step in (begun + 20, begun + 40):
                    log.on_step(step, {"loss": torch.tensor(0.5)})
                    log.on_generation(step, np.zeros((4, 2)))
                    log.write(step, {"loss": step / 10, "kl": float("nan")})
    for stage in ("vision", "controller"):
        rows = read_metrics(run.at(2).folder, stage)
        assert [(row["step"], row["loss"]) for row in rows] == [(20, 2.0), (40, 4.0), (60, 6.0), (80, 8.0)]
    assert "metrics:" not in capfd.readouterr().err


def test_tensorboard_has_each_row_once_after_a_kill(tmp_path):
    run = Run(tmp_path, writers=(TensorBoard,))
    first = run.metrics("vision")
    for step in (20, 40, 60):
        first.write(step, {"loss": float(step)})
    first.writers[0].board.flush()                              # and it is killed
    with run.metrics("vision", 40) as log:
        log.write(60, {"loss": 60.0})
        log.write(80, {"loss": 80.0})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "vision")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("vision/loss")] == [
        (20, 20), (40, 40), (60, 60), (80, 80)]


def test_a_resumed_stage_goes_on_with_its_wandb_run_and_one_made_anew_does_not(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run, found = Run(tmp_path / "toy" / "smoke", writers=(WRITERS["wandb"],)), []
    for stage, begun in (("vision", 0), ("vision", 20), ("memory", 0), ("vision", 0)):
        with run.metrics(stage, begun) as log:
            log.write(begun + 20, {"loss": 0.123456789 + begun})
            board = log.writers[0].board
            assert (board.group, board.job_type) == ("toy/smoke", stage)
            found.append(board.id)
    wandb.teardown()                                            # its own process has written all then
    assert found[0] == found[1] and len(set(found)) == 3
    stored = [(path.stem, path.read_bytes()) for path in run.folder.glob("wandb/offline-run-*/*.wandb")]
    having = lambda text: sorted(name.removeprefix("run-") for name, data in stored if text in data)
    assert having(b"vision/loss") == sorted([found[0], found[1], found[3]]) and having(b"memory/loss") == [found[2]]
    assert having(b"20.123456789") == [found[1]]


def test_a_writer_is_told_of_the_run_the_stage_and_where_it_goes_on(tmp_path):
    recorder, run = Recorder(), Run(tmp_path, 2)
    with Run(tmp_path, 2, (recorder,)).metrics("vision", 40) as log:
        log.write(60, {"loss": 1.0})
    assert recorder.events == [("begin", run, "vision", 40), ("write", "vision", 60, {"loss": 1.0}),
                               ("close", "vision")]


class Failing(Writer):
    """At the row of step 40."""

    def write(self, step, values):
        if step == 40:
            raise ValueError("no connection")


class Unmade(Writer):
    def __init__(self, run, stage, begun):
        raise OSError("no such server")


@pytest.mark.parametrize("broken, error", ((Failing, "ValueError"), (Unmade, "OSError")))
def test_a_writer_that_fails_is_reported_in_one_line_and_told_nothing_more(tmp_path, capfd, broken, error):
    """The others are, and metrics.jsonl has every row."""
    recorder = Recorder()
    run = Run(tmp_path, writers=(broken, recorder))
    with run.metrics("vision") as log:
        for step in (20, 40, 60, 80):
            log.write(step, {"loss": 1.0})
    assert rows_of(recorder, "vision") == read_metrics(tmp_path) and len(read_metrics(tmp_path)) == 4
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and error in said[0] and "test_metrics.py" in said[0] and "vision" in said[0]


def test_a_stop_is_raised_after_every_writer_was_told_and_when_the_stage_is_ready(tmp_path):
    def stopping(run, stage, begun):
        writer = Writer(run, stage, begun)
        writer.write = stop
        return writer

    def stop(step, values):
        raise StopTraining(f"at {step}")

    recorder = Recorder()
    run = Run(tmp_path, writers=(stopping, recorder))
    with pytest.raises(StopTraining, match="at 20"), run.metrics("vision") as log:
        log.write(20, {"loss": 1.0})
        assert rows_of(recorder, "vision") == read_metrics(tmp_path)
        log.check_stop()
        pytest.fail("went on")
    with pytest.raises(StopTraining, match="at 3"), run.metrics("collect") as log:
        log.gather([{"return": 1.0}] * 3, 2)
        pytest.fail("went on")
    assert [row["step"] for row in read_metrics(tmp_path, "collect")] == [3]
    assert recorder.events[-1] == ("close", "collect")


def test_a_writer_that_cannot_be_made_by_the_users_mistake_ends_the_stage(tmp_path):
    def refuse(*_):
        raise UserError("log in first")

    with pytest.raises(UserError, match="log in first"):
        Run(tmp_path, writers=(refuse,)).metrics("vision")


@pytest.mark.parametrize("name, why", (
    ("tensorbord", "choose among tensorboard, wandb, none, or my_module:MyWriter"),
    ("no_such_module:Writer", "No module named"), ("tests.writers:Nothing", "Nothing"),
    ("tests.writers:NUMBER", "an? int"), (":Writer", "choose"), ("tests.writers:", "choose")))
def test_a_name_that_is_no_writers_is_a_user_error(name, why):
    with pytest.raises(UserError, match=why):
        import_writer(name)


def test_a_kind_whose_package_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(WRITERS["wandb"], "package", "no_such_package")
    with pytest.raises(UserError, match="--metrics wandb: pip install no_such_package"):
        import_writer("wandb")
