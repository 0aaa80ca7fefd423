"""The training loop: a resumed training ends where an uninterrupted one does, and a diverged one says so."""

import ctypes
import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.writers import Recorder, rows_of, steps_of
from worldmodels import training
from worldmodels.files import load_arrays, save_arrays
from worldmodels.metrics import read_metrics
from worldmodels.runs import Run
from worldmodels.training import TrainConfig, train
from worldmodels.types import StopTraining, UserError

CONFIG = TrainConfig(steps=90, learning_rate=1e-2, learning_rate_decay=0.999, final_anneal=0.3, clip_value=1.0)
INFO = {"seed": 7}


def fit(run, config=CONFIG, stop=None, spoil=None, seed=7, order=("cell", "head")):
    """Trains a tiny recurrent model, with noise and a carry; raises KeyboardInterrupt at batch `stop`, NaN at
    `spoil`."""
    torch.manual_seed(0)
    parts = {"cell": nn.GRUCell(3, 4), "head": nn.Linear(4, 1)}
    model = nn.ModuleDict({name: parts[name] for name in order})

    def batches(skip):
        for step in itertools.count(skip):
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
            yield x * torch.nan if step == spoil else x

    def loss(x, carry, generator):
        before = carry or 12 * (torch.zeros(5, 4),)         # the last states, newest first: their order matters
        h = model["cell"](x + 0.1 * torch.randn(x.shape, generator=generator), before[0] - before[-1])
        value = (model["head"](h)[:, 0] - x.sum(1)).square().mean()
        return value, {"loss": value}, (h.detach(), *before[:-1])

    train("memory", model, config, batches, loss, run, INFO, seed)
    return model.state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stops", ((50,), (19,), (25, 70), (89,)), ids=str)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, stops):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    expected = fit(Run(tmp_path / "whole"))
    run = Run(tmp_path / "parts")
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            fit(run, stop=stop)
        assert not run.finished("memory", INFO)
        assert run.progress_path("memory").exists() == (stop >= 20)
    resumed = fit(run)
    assert equal(resumed, expected)
    assert equal(run.load("memory", "train_memory")[0], expected)
    assert read_metrics(run.folder) == read_metrics(tmp_path / "whole")
    assert not run.progress_path("memory").exists()


def test_a_resumed_training_goes_on_from_its_checkpoint(run, monkeypatch):
    """It does not begin anew: batches before the checkpoint are not asked for again."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(run, stop=70)
    assert run.load_progress("memory", INFO)[1] == 60
    fit(run, stop=59)


def test_training_lowers_the_loss_and_follows_its_seed(tmp_path):
    first, second, other = (fit(Run(tmp_path / name), seed=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert equal(first, second) and not equal(first, other)
    losses = [row["loss"] for row in read_metrics(tmp_path / "a")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("spoil", (30, 89))
def test_a_loss_that_is_not_finite_is_a_user_error_that_names_the_stage(run, monkeypatch, spoil):
    """No checkpoint is finished, and what is kept of the progress is good."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    with pytest.raises(UserError, match="memory"):
        fit(run, spoil=spoil)
    assert not run.finished("memory", INFO)
    tensors, step = run.load_progress("memory", INFO)
    assert step <= spoil and all(tensor.isfinite().all() for tensor in tensors.values())


def test_the_rate_decays_and_is_annealed_to_zero():
    config = TrainConfig(steps=100, learning_rate=2.0, learning_rate_decay=0.99, final_anneal=0.2)
    assert config.rate(0) == 2.0
    assert config.rate(50) == pytest.approx(2 * 0.99**50)
    assert config.rate(80) == pytest.approx(2 * 0.99**80)
    assert config.rate(90) == pytest.approx(2 * 0.99**90 * 0.5)
    assert config.rate(100) == 0
    assert TrainConfig(steps=100, learning_rate=2.0).rate(99) == 2.0


def test_the_rate_reaches_the_optimiser(tmp_path):
    a, b = (fit(Run(tmp_path / str(rate)), TrainConfig(steps=1, learning_rate=rate)) for rate in (1e-9, 1e-2))
    start = fit(Run(tmp_path / "none"), TrainConfig(steps=1, learning_rate=0.0))
    for name in ("head.weight", "head.bias", "cell.bias_ih"):       # Adam's first step is the rate, in every weight
        assert (a[name] - start[name]).abs().max() < 1e-7
        assert (b[name] - start[name]).abs().max() == pytest.approx(1e-2, rel=1e-2)


@pytest.mark.parametrize("order", (("cell", "head"), ("head", "cell")), ids=str)
def test_the_optimisers_state_is_that_of_the_parameter_of_its_name(tmp_path, monkeypatch, order):
    """Also where the modules have changed places since."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    expected, run = fit(Run(tmp_path / "whole")), Run(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        fit(run, stop=50)
    assert equal(fit(run, order=order), {name: expected[name] for name in expected})


def test_the_progress_of_format_1_which_counted_parameters_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    expected, run = fit(Run(tmp_path / "whole")), Run(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        fit(run, stop=50)
    arrays, info = load_arrays(run.progress_path("memory"))
    names = ("cell.weight_ih", "cell.weight_hh", "cell.bias_ih", "cell.bias_hh", "head.weight", "head.bias")
    for number, name in enumerate(names):
        for key in [key for key in arrays if key.startswith(f"optimizer.{name}.")]:
            arrays[key.replace(name, str(number))] = arrays.pop(key)
    save_arrays(run.progress_path("memory"), arrays, info)
    assert equal(fit(run), expected)


def test_rounds_and_stages_have_random_numbers_of_their_own(tmp_path):
    first, later = fit(Run(tmp_path / "a")), fit(Run(tmp_path / "a", 2))
    assert not equal(first, later)


# writers

def test_a_writer_sees_every_step_and_row_in_order_with_the_numbers_of_the_log(tmp_path):
    recorder = Recorder()
    fit(Run(tmp_path, writers=(recorder,)))
    assert steps_of(recorder, "on_step") == list(range(1, 91))
    assert rows_of(recorder, "memory") == read_metrics(tmp_path)
    losses = [values["loss"] for method, _, _, values in recorder.events[1:-1] if method == "on_step"]
    means = [torch.stack(losses[i:i + 20]).mean().item() for i in range(0, 90, 20)]
    assert means == [row["loss"] for row in read_metrics(tmp_path)]
    kinds = [event[0] for event in recorder.events]
    assert kinds[:21] == ["begin", *20 * ["on_step"]] and kinds[21] == "write" and kinds[-1] == "close"


def test_after_a_kill_a_writer_is_told_again_what_came_after_the_checkpoint_and_no_more(tmp_path, monkeypatch):
    recorder, run = Recorder(), Run(tmp_path / "parts")
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(Run(run.root, writers=(recorder,)), stop=50)
    assert steps_of(recorder, "on_step") == list(range(1, 51)) and recorder.events[-1] == ("close", "memory")
    again = Recorder()
    fit(Run(run.root, writers=(again,)))
    assert again.events[0] == ("begin", run, "memory", 40)
    assert steps_of(again, "on_step") == list(range(41, 91))
    fit(Run(tmp_path / "whole"))
    assert rows_of(recorder, "memory") + rows_of(again, "memory") == read_metrics(run.folder)
    assert read_metrics(run.folder) == read_metrics(tmp_path / "whole")


@pytest.mark.parametrize("asked, ends", ((("write", 20), 20), (("write", 60), 60), (("on_step", 33), 40),
                                         (("write", 90), 90)), ids=str)
def test_a_stopped_training_is_resumed_to_the_same_weights_and_every_row_is_told_once(tmp_path, asked, ends):
    """It ends with the row: no checkpoint by time is needed."""
    expected, run, recorder = fit(Run(tmp_path / "whole")), Run(tmp_path / "parts"), Recorder([asked])
    with pytest.raises(StopTraining, match=f"enough at {asked[1]}"):
        fit(Run(run.root, writers=(recorder,)))
    assert run.load_progress("memory", INFO)[1] == ends and not run.finished("memory", INFO)
    rest = Recorder()
    assert equal(fit(Run(run.root, writers=(rest,))), expected)
    assert equal(run.load("memory", "train_memory")[0], expected)
    assert steps_of(recorder, "on_step") + steps_of(rest, "on_step") == list(range(1, 91))
    assert rows_of(recorder, "memory") + rows_of(rest, "memory") == read_metrics(run.folder)
    assert read_metrics(run.folder) == read_metrics(tmp_path / "whole")


def test_a_writer_that_fails_does_not_change_the_training(tmp_path, capfd):
    expected = fit(Run(tmp_path / "whole"))
    found = fit(Run(tmp_path / "told", writers=(lambda run, stage, begun: None,)))
    assert equal(found, expected) and read_metrics(tmp_path / "told") == read_metrics(tmp_path / "whole")
    assert capfd.readouterr().err.count("is told nothing more of the stage memory") == 1


PAGES = """
import resource, torch
from worldmodels.training import memory_kept

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24)              # 64 MB are 16,384 pages of 4 KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages_mapped())
with memory_kept():
    pages_mapped()
    print(pages_mapped())
print(pages_mapped())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_training_maps_its_memory_once():
    """In a process of its own: what others have left on the heap is not in the way."""
    before, within, after = map(int, subprocess.check_output([sys.executable, "-c", PAGES], text=True).split())
    assert within < 1000 < 10_000 < min(before, after)
