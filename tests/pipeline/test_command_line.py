"""A user's mistake ends in exit code 2 and one line that names the cause and the mend."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import __main__ as stages
from pipeline.command import SECTIONS, main
from pipeline.compare import compare
from pipeline.presets import Config
from pipeline.publish import publish
from pipeline.sweep_temperature import sweep_temperature
from tests.pipeline.conftest import TOY, end, finish, start
from worldmodels import episodes
from worldmodels.commandline import flag, leaves
from worldmodels.controller import LEARNERS
from worldmodels.errors import WorkerDied
from worldmodels.files import load_arrays
from worldmodels.memory import MEMORIES, MemoryConfig
from worldmodels.worlds.collect import CollectJob

STAGES = tuple(dict.fromkeys((*stages.STAGED, *stages.JOINTLY)))
ALL = [*STAGES, publish, sweep_temperature, compare, stages.pipeline]


def nothing(config, run):
    """A stage that does nothing."""


def settings(*arguments) -> Config:
    """What a stage is given."""
    given = []

    def stage(config, run):
        """A stage that looks at its settings."""
        given.append(config)

    main(stage, [str(a) for a in arguments])
    return given[0]


# wrong values: the flag is named, and so is what it may be

@pytest.mark.parametrize("flag, value, mend", [
    ("--no-such-flag", "1", "--help"),
    ("--vision.no-such-flag", "1", "--help"),
    ("--task", "chess", "car_racing"),
    ("--preset", "huge", "smoke"),
    ("--preset", "paper", "quick"),                 # toy has none
    ("--collect.episodes", "many", "int"),
    ("--collect.episodes", "1.5", "int"),
    ("--vision.learning-rate", "fast", "float"),
    ("--memory.restart-input", "maybe", "True"),
    ("--collect.episodes", "0", "1 to 500,000"),
    ("--collect.episodes", "-3", "1 to 500,000"),
    ("--collect.max-steps", "0", "at least 1"),
    ("--collect.min-steps", "-1", "at least 0"),
    ("--collect.skill", "6", "1 to 5"),
    ("--collect.skill", "0", "1"),
    ("--evaluate.other-skills", "6", "1 to 5"),
    ("--collect.repeat", "0", "at least 1"),
    ("--collect.drawing", "pretty", "'fast', 'official'"),
    ("--vision.steps", "0", "at least 1"),
    ("--vision.z-size", "-1", "1 to 65,536"),
    ("--vision.learning-rate", "0", "at least"),
    ("--vision.learning-rate", "nan", "at least"),
    ("--vision.learning-rate", "inf", "finite"),
    ("--vision.learning-rate-decay", "1.1", "1e-12 to 1"),      # steps later no float holds the rate
    ("--vision.kl-floor", "nan", "at least 0"),
    ("--memory.batch", "0", "at least 1"),
    ("--memory.hidden-size", "0", "1 to 65,536"),
    ("--memory.clip-value", "-1", "at least 0"),
    ("--memory.done-weight", "nan", "at least 0"),
    ("--dream.temperature", "0", "at least"),
    ("--dream.temperature", "-1", "at least"),
    ("--dream.temperature", "nan", "at least"),
    ("--dream.temperature", "inf", "finite"),
    ("--dream.warmup", "-1", "at least 0"),
    ("--learner.population", "1", "4 to 100,000"),
    ("--learner.sigma", "0", "at least"),
    ("--learner.sigma", "inf", "finite"),
    ("--learner.eval-every", "0", "at least 1"),
    ("--evaluate.episodes", "0", "1 to 500,000"),
    ("--sweep.learner.population", "0", "4 to 100,000"),
    ("--seed", "-1", "0 to 99"),
    ("--seed", "100", "0 to 99"),                   # whose episodes scores are made of
    ("--rounds", "11", "1 to 10"),                  # the same
    ("--rounds", "0", "1 to 10"),
    ("--collect.episodes", "500001", "1 to 500,000"),           # those of the next stage
    ("--collect.episodes-per-round", "500001", "1 to 500,000"),
    ("--collect.explore-share", "1.5", "0 to 1"),
    ("--evaluate.first-seed", "999999999", "1,000,000,000"),    # that runs are trained on
    ("--evaluate.first-seed", "2147483648", "2,147,483,647"),
    ("--evaluate.first-seed", "2147483641", "2147483648"),      # where an evaluation's last episodes are above
    ("--workers", "-2", "at least 0"),
    ("--workers", "999999999", "this machine can serve"),
    ("--collect.policy", "held", "fresh"),          # a policy of TakeCover
    ("--memory.kind", "gpt", "mdn_rnn"),
    ("--memory.death", "never", "sampled"),
    ("--dream.start", "middle", "anywhere"),
    ("--learner.start", "one", "least_squares"),
    ("--vision.kind", "gan", "vae"),
    ("--training", "both", "'staged', 'jointly'"),
    ("--joint.steps", "0", "at least 1"),
    ("--joint.final-anneal", "2", "0 to 1"),
    ("--joint.clip-value", "-1", "at least 0"),
    ("--dream.uncertainty-quantile", "1.5", "0 to 1"),
    ("--controller.kind", "planner", "mlp"),
    ("--controller.sees", "c", "'z', 'h'"),
    ("--learner.kind", "sgd", "cma_es"),
    ("--executor", "cloud", "local"),
    ("--world", "moon", "dream"),
    ("--device", "abacus", "cuda"),
])
def test_a_wrong_value_is_named_with_what_it_may_be(flag, value, mend, fails, tmp_path):
    said = fails(nothing, *TOY, "--executor", "local", "--data", tmp_path, flag, value)
    assert flag in said and mend in said
    assert not list(tmp_path.iterdir())             # nothing is begun with settings that no stage could use


def test_a_flag_without_its_value(fails, tmp_path):
    assert "--seed" in fails(nothing, *TOY, "--data", tmp_path, "--seed")


@pytest.mark.parametrize("flag, value, named", [
    ("--preset", "a\nb", "--preset a b:"),                              # the error stays one line
    ("--run", "a\nb/c", "--run a b/c:"),
    ("--run", "x" * 300, "File name too long"),
    ("--preset", "x" * 100_000, "--preset xxx"),
    ("--seed", "9" * 5000, "--seed"),                                   # more digits than Python reads
    ("--evaluate.video-steps", str(10**30), "9,223,372,036,854,775,807"),  # more than 64 bits hold
    ("--memory.steps", str(10**4000), "9,223,372,036,854,775,807"),     # more than a float holds
    ("--data", "x/" * 2500, "File name too long"),
])
def test_a_value_that_no_line_can_hold_ends_in_one_line_too(flag, value, named, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = fails(nothing, *TOY, flag, value)
    assert named in said and len(said) < 1100


@pytest.mark.parametrize("text, named", [("def make(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"),
                                         ("raise RuntimeError('no\\nscreen')", "RuntimeError: no screen"),
                                         ("import sys; sys.exit(3)", "SystemExit"), ("TASK = 3", "register_task")])
def test_a_module_that_cannot_be_imported(text, named, fails, tmp_path, monkeypatch):
    name = f"own_{abs(hash(text))}"                                     # a module is imported once in a process
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    said = fails(nothing, "--task", f"{name}:TASK", "--preset", "smoke", "--data", tmp_path / "data")
    assert f"--task {name}:TASK" in said and named in said


@pytest.mark.parametrize("arguments", [["--no-such-flag", "1"], ["--task", "chess"]])
def test_the_line_keeps_nothing_of_the_parsers_box(arguments, fails, tmp_path):
    assert not re.search(r"[-─│|+╭╰]{3}", fails(nothing, "--data", tmp_path, *arguments))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu(fails, tmp_path):
    said = fails(nothing, *TOY, "--data", tmp_path, "--device", "cuda")
    assert "GPU" in said and "--device cpu" in said


# kinds within kinds

ENSEMBLE = ["--memory.kind", "ensemble", "--memory.members", "3", "--memory.member.kind", "rssm"]


def test_a_kind_within_a_kind_is_set_and_remembered(tmp_path):
    begun = settings(*TOY, "--data", tmp_path, *ENSEMBLE, "--memory.member.stochastic-size", "8")
    assert begun.memory.kind == "ensemble" and begun.memory.members == 3
    assert begun.memory.member.kind == "rssm" and begun.memory.member.stochastic_size == 8
    assert begun.memory.member.hidden_size == settings(*TOY, "--data", tmp_path / "other").memory.hidden_size == 16
    arguments = ["--task", "toy", "--run", "smoke", "--data", tmp_path]
    assert settings(*arguments).memory == begun.memory                      # without naming the kinds again
    changed = settings(*arguments, "--memory.member.units", "9").memory.member
    assert (changed.kind, changed.stochastic_size, changed.units) == ("rssm", 8, 9)


def test_another_kind_within_a_kind_keeps_the_settings_that_it_shares_with_the_one_before(tmp_path):
    arguments = ["--task", "toy", "--run", "smoke", "--data", tmp_path]
    settings(*TOY, "--data", tmp_path, *ENSEMBLE, "--memory.member.hidden-size", "24")
    changed = settings(*arguments, "--memory.member.kind=gru").memory
    assert (changed.kind, changed.members) == ("ensemble", 3)
    assert (changed.member.kind, changed.member.hidden_size) == ("gru", 24)


@pytest.mark.parametrize("flag, value, mend", [
    ("--memory.member.kind", "gpt", "mdn_rnn, gru, rssm, ensemble"),
    ("--memory.member.hidden-size", "0", "1 to 65,536"),
    ("--memory.member.latents", "uniform", "gaussian"),
    ("--memory.members", "1", "2 to 100"),
    ("--memory.hidden-size", "8", "--memory.member.hidden-size"),           # of an ensemble, its members' is meant
])
def test_a_wrong_value_within_a_kind_is_named_with_what_it_may_be(flag, value, mend, fails, tmp_path):
    said = fails(nothing, *TOY, "--data", tmp_path, *ENSEMBLE, flag, value)
    assert flag in said and mend in said and not list(tmp_path.iterdir())


def test_a_kind_without_one_within_has_none_to_choose(fails, tmp_path):
    assert "no option --memory.member.kind" in fails(nothing, *TOY, "--data", tmp_path, "--memory.member.kind", "gru")


def test_what_an_ensemble_and_its_members_share_is_the_ensembles(tmp_path, fails):
    found = settings(*TOY, "--data", tmp_path, *ENSEMBLE, "--memory.reward-weight", "3", "--memory.death", "threshold")
    made = MEMORIES["ensemble"](found.memory, 4, 1).of_members.memory.config
    shared = {f.name for f in fields(MemoryConfig)} - {"kind"}
    assert {name: getattr(made, name) for name in shared} == {name: getattr(found.memory, name) for name in shared}
    assert (made.reward_weight, made.death) == (3, "threshold")
    said = fails(nothing, *TOY, "--data", tmp_path, *ENSEMBLE, "--memory.member.reward-weight", "5")
    assert "no option --memory.member.reward-weight: did you mean --memory.reward-weight?" in said


@pytest.mark.parametrize("help", ("--help", "--help-all"))
def test_help_shows_the_settings_of_the_kind_within_a_kind(help, capsys):
    options = shown(stages.train_memory, capsys, *ENSEMBLE, help)[0]
    assert {"--memory.members", "--memory.member.kind", "--memory.member.stochastic-size"} <= options
    other = shown(stages.train_memory, capsys, "--memory.kind", "ensemble", "--memory.member.kind=mdn_rnn", help)[0]
    assert "--memory.member.mixtures" in other - options and "--memory.member.kind" in other


# pessimism

@pytest.mark.parametrize("flag, value", (("--dream.pessimism", "1"), ("--dream.uncertainty-quantile", "0.9")))
def test_a_pessimistic_dream_of_a_memory_that_is_never_uncertain(flag, value, fails, copied):
    folder, arguments = copied
    (folder / "checkpoints" / "controller.safetensors").unlink()
    said = fails(stages.train_controller, *arguments, flag, value)
    assert "mdn_rnn" in said and "ensemble" in said


@pytest.mark.parametrize("flag, value, different", (
    ("--dream.pessimism", "0.5", "dream.pessimism=0.0 (now 0.5)"),
    ("--dream.uncertainty-quantile", "0.9", "dream.uncertainty_quantile=1.0 (now 0.9)")))
def test_another_pessimism_asks_for_another_run(flag, value, different, fails, copied):
    folder, arguments = copied
    for stage in (stages.train_controller, stages.evaluate):
        said = fails(stage, *arguments, flag, value)
        assert different in said and "--run" in said and f"{folder}/checkpoints/controller" in said


# a stage before the one that it needs

@pytest.mark.parametrize("stage, without, mend", [
    (stages.train_vision, ["episodes", "checkpoints", "latents"], "collect"),
    (stages.encode, ["checkpoints", "latents"], "train_vision"),
    (stages.train_memory, ["checkpoints", "latents"], "train_vision"),
    (stages.train_memory, ["checkpoints/memory.safetensors", "checkpoints/controller.safetensors", "latents"],
     "encode"),
    (stages.train_controller, ["checkpoints"], "train_vision"),
    (stages.train_controller, ["checkpoints/memory.safetensors", "checkpoints/controller.safetensors"], "train_memory"),
    (stages.train_controller, ["checkpoints/controller.safetensors", "latents"], "encode"),
    (stages.evaluate, ["checkpoints/memory.safetensors", "checkpoints/controller.safetensors"], "train_memory"),
    (stages.evaluate, ["checkpoints/controller.safetensors"], "train_controller"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_missing_stage_is_named(stage, without, mend, fails, copied):
    folder, arguments = copied
    for name in without:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    assert f"python -m pipeline.{mend}`" in fails(stage, *arguments)


# where the run is kept

def test_data_is_a_file(fails, tmp_path):
    (tmp_path / "file").write_text("")
    said = fails(nothing, *TOY, "--data", tmp_path / "file")
    assert str(tmp_path / "file") in said and "--data" in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which root cannot write either")
def test_data_cannot_be_written(fails):
    said = fails(nothing, *TOY, "--data", "/proc/self/runs")
    assert "/proc/self/runs" in said and "--data" in said


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "/elsewhere"])
def test_a_run_is_a_name_and_not_a_path(name, fails, tmp_path, monkeypatch):
    # so that nothing is made outside tmp_path
    monkeypatch.setattr("worldmodels.runs.Run.locked", lambda self: nullcontext())
    monkeypatch.setattr("pipeline.command.write_json", lambda *_: None)
    assert "--run" in fails(nothing, *TOY, "--data", tmp_path, "--run", name)


def test_a_run_that_another_process_works_on(fails, tmp_path):
    folder = tmp_path / "toy" / "smoke"
    folder.mkdir(parents=True)
    code = "import filelock, time\nwith filelock.FileLock('.lock'):\n    print(flush=True)\n    time.sleep(600)"
    other = start("-c", code, cwd=folder)
    try:
        other.stdout.readline()
        said = fails(nothing, *TOY, "--data", tmp_path)
        assert "another process" in said and str(folder) in said and "--run" in said
    finally:
        end(other)
    assert settings(*TOY, "--data", tmp_path).preset == "smoke"     # free again, although the file is still there


# settings that a run remembers

def test_a_run_named_without_a_preset_goes_on_with_its_settings(tmp_path):
    begun = settings("--task", "toy", "--preset", "smoke", "--run", "mine", "--data", tmp_path,
                     "--memory.hidden-size", "24", "--seed", "7")
    assert (begun.memory.hidden_size, begun.seed) == (24, 7)
    assert settings("--task", "toy", "--run", "mine", "--data", tmp_path) == begun
    changed = settings("--task", "toy", "--run=mine", f"--data={tmp_path}", "--evaluate.episodes", "3")
    assert (changed.evaluate.episodes, changed.memory, changed.seed) == (3, begun.memory, 7)


def test_another_kind_keeps_the_settings_that_it_shares_with_the_one_before(tmp_path):
    arguments = ["--data", str(tmp_path), "--memory.kind", "gru", "--learner.kind=least_squares"]
    begun = settings(*TOY, *arguments, "--memory.hidden-size", "24")
    assert (begun.memory.kind, begun.memory.hidden_size, begun.memory.steps) == ("gru", 24, 20)
    assert begun.learner == LEARNERS["least_squares"].Config()          # its `episodes` are not CMA-ES's
    assert settings("--task", "toy", "--run", "smoke", *arguments[:2]).memory == begun.memory


def test_a_run_is_named_after_its_preset(tmp_path):
    assert settings(*TOY, "--data", tmp_path).run == "smoke"
    stored = json.loads((tmp_path / "toy" / "smoke" / "config.json").read_text())
    assert {"config", "python", "packages", "git_commit"} <= stored.keys()
    assert stored["config"]["vision"]["steps"] == 20 and stored["config"]["seed"] == 0


@pytest.mark.parametrize("text", ["", "{", "\0\0\0", "[]", "{}", '{"config": 3}', '{"config": {"vision": 3}}',
                                  '{"config": {"task": "toy", "preset": "smoke", "seed": "one"}}'])
def test_a_damaged_config_is_named(text, fails, tmp_path):
    settings(*TOY, "--data", tmp_path, "--run", "mine")
    path = tmp_path / "toy" / "mine" / "config.json"
    path.write_text(text)
    said = fails(nothing, "--task", "toy", "--data", tmp_path, "--run", "mine")
    assert str(path) in said and "delete" in said
    path.unlink()                                                           # the mend
    assert settings(*TOY, "--data", tmp_path, "--run", "mine").run == "mine"


# weights and files that are damaged, or do not fit

DAMAGES = {
    "empty": lambda whole: b"",
    "cut short": lambda whole: whole[:-1],
    "cut in its header": lambda whole: whole[:50],
    "one bit flipped": lambda whole: whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:],
    "something else": lambda whole: b"\x80\x04no weights at all",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_by_every_stage(damage, fails, copied):
    folder, arguments = copied
    path = folder / "checkpoints" / "vision.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    for stage in (stages.train_vision, stages.encode, stages.train_memory, stages.train_controller, stages.evaluate):
        said = fails(stage, *arguments)
        assert str(path) in said and "damaged" in said and "delete it" in said


def test_damaged_progress_is_named(fails, copied):
    folder, arguments = copied
    (folder / "checkpoints" / "vision.safetensors").unlink()
    path = folder / "checkpoints" / "vision.progress.safetensors"
    path.write_bytes(b"half a check")
    assert str(path) in fails(stages.train_vision, *arguments)


@pytest.mark.parametrize("stage, flag, value, name", [
    (stages.train_memory, "--memory.hidden-size", 32, "memory"),
    (stages.train_controller, "--memory.hidden-size", 32, "memory"),
    (stages.evaluate, "--memory.hidden-size", 32, "memory"),
    (stages.encode, "--vision.z-size", 8, "vision"),
    (stages.train_memory, "--vision.z-size", 8, "vision"),
    (stages.evaluate, "--learner.sigma", 0.5, "controller"),
], ids=lambda value: getattr(value, "__name__", None))
def test_weights_made_with_other_settings(stage, flag, value, name, fails, copied):
    folder, arguments = copied
    said = fails(stage, *arguments, flag, value)
    assert flag[2:].replace("-", "_") in said and str(value) in said        # what differs,
    assert "--run" in said and f"{folder}/checkpoints/{name}" in said       # and both mends


def test_a_command_that_does_not_fit_leaves_the_stored_settings_alone(fails, copied, tmp_path):
    fails(stages.train_memory, *copied[1], "--memory.hidden-size", 32)
    assert settings("--task", "toy", "--run", "smoke", "--data", tmp_path).memory.hidden_size == 16


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_episode_is_named(damage, fails, copied):
    folder, arguments = copied
    path = episodes.episode_path(folder / "episodes", 1)
    path.write_bytes(damage(path.read_bytes()))
    shutil.rmtree(folder / "latents")
    said = fails(stages.encode, *arguments)
    assert str(path) in said and "delete it" in said and "pipeline.collect" in said


def test_a_deleted_episode_is_collected_again(copied):
    folder, arguments = copied
    path = episodes.episode_path(folder / "episodes", 1)
    whole = episodes.read(path)
    path.unlink()
    main(stages.collect, arguments)
    assert all(np.array_equal(a, b) for a, b in zip(episodes.read(path), whole, strict=True))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_named(fails, tmp_path):
    def write(config, run):
        """A stage that finds the disk full."""
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"1")
    assert "no space left" in fails(write, *TOY, "--data", tmp_path)


@pytest.mark.parametrize("module", ("encode", "publish"))
def test_a_run_that_is_not_in_data_is_looked_for_there(module, fails, tmp_path):
    stage = {"encode": stages.encode, "publish": publish}[module]
    assert f"none in {tmp_path}" in fails(stage, *TOY, "--data", tmp_path)


@pytest.mark.parametrize("stage", (stages.train_vision, stages.encode))
def test_half_collected_episodes_are_not_trained_on(stage, fails, copied):
    folder, arguments = copied
    next(folder.glob("episodes/*.lz4")).unlink()
    if stage is stages.train_vision:
        (folder / "checkpoints" / "vision.safetensors").unlink()
    said = fails(stage, *arguments)
    assert "3 of 4" in said and "pipeline.collect`" in said


def test_damaged_latents_are_named_and_made_again(fails, copied):
    folder, arguments = copied
    path = folder / "latents" / "000000001.safetensors"
    whole, _ = load_arrays(path)
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "checkpoints" / "memory.safetensors").unlink()
    assert str(path) in fails(stages.train_memory, *arguments)
    main(stages.encode, arguments)
    made, _ = load_arrays(path)
    assert all(np.array_equal(made[name], whole[name]) for name in whole)


def test_too_few_episodes_for_a_batch(fails, copied):
    folder, arguments = copied
    (folder / "checkpoints" / "memory.safetensors").unlink()
    assert "--memory.batch" in fails(stages.train_memory, *arguments, "--memory.batch", 1000)


def test_a_size_that_no_layer_has_is_refused(fails, copied):
    said = fails(stages.train_memory, *copied[1], "--memory.hidden-size", "99999999999")
    assert "--memory.hidden-size" in said and "65,536" in said


@pytest.mark.parametrize("allocate", (lambda: torch.empty(2**50), lambda: np.empty(2**50)), ids=("torch", "numpy"))
def test_more_memory_than_there_is_ends_in_one_line(allocate, fails, tmp_path):
    def ask(config, run):
        """A stage that needs petabytes, more than a machine can address."""
        allocate()
    said = fails(ask, *TOY, "--data", tmp_path)
    assert "not enough memory" in said and "smaller" in said


def test_workers_that_always_die_end_in_one_line(fails, copied, monkeypatch):
    def die(self):
        raise WorkerDied("a job ended its worker process, 3 times: some job")

    monkeypatch.setattr(CollectJob, "__call__", die)
    folder, arguments = copied
    next((folder / "episodes").glob("*.lz4")).unlink()
    said = fails(stages.collect, *arguments, "--executor", "inline")
    assert "a job ended its worker process, 3 times" in said and "fewer --workers" in said


# help

def shown(stage, capsys, *arguments) -> tuple[set[str], str]:
    """The options that a stage's help lists, and all of its text."""
    with pytest.raises(SystemExit) as stopped:
        main(stage, list(arguments))
    assert not stopped.value.code
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert stage.__doc__.split(":")[0] in text
    return set(re.findall(r"^[│| ] (--[a-z][\w.-]+)", text, re.MULTILINE)), text


def of_sections(sections) -> set[str]:
    """The options of these sections of the settings."""
    return {flag(name) for name, _ in leaves(Config()) if name.split(".")[0] in sections}


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.__name__)
def test_help_all_shows_every_setting(stage, capsys):
    flags = {flag(name) for name, _ in leaves(Config())}
    assert {"--task", "--preset", "--run", "--data", "--seed", "--device", "--workers", "--executor",
            "--memory.hidden-size", "--learner.population"} <= flags
    assert shown(stage, capsys, "--help-all")[0] == flags


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.__name__)
def test_help_shows_what_a_stage_shares_with_all_and_its_own_settings(stage, capsys):
    own = getattr(stage, "sections", SECTIONS)
    shared = {flag(name) for name, _ in leaves(Config())} - of_sections(SECTIONS)
    options, text = shown(stage, capsys, "--help")
    assert options == shared | of_sections(own)
    assert ("--help-all" in text) == (stage is not stages.pipeline)         # which shows everything at once


def test_each_training_stage_shows_a_section_of_its_own():
    assert {stage.__name__: stage.sections for stage in STAGES} == {
        "collect": ("collect",), "train_vision": ("vision",), "encode": (), "train_memory": ("memory",),
        "train_jointly": ("joint", "vision", "memory"), "train_controller": ("dream", "controller", "learner"),
        "evaluate": ("evaluate",)}


@pytest.mark.parametrize("help", ("--help", "--help-all"))
def test_help_shows_the_settings_of_the_kind_that_is_named(help, capsys):
    gru, mdn_rnn = (shown(stages.train_memory, capsys, "--memory.kind", kind, help)[0] for kind in ("gru", "mdn_rnn"))
    assert "--memory.hidden-size" in gru & mdn_rnn
    assert "--memory.mixtures" in mdn_rnn - gru and "--memory.sees-current-frame" in mdn_rnn - gru
    assert "--controller.hidden-size" in shown(stages.train_controller, capsys, help, "--controller.kind=mlp")[0]


@pytest.mark.parametrize("given, meant", [
    ("--episodes", ["--collect.episodes", "--evaluate.episodes", "--learner.episodes"]),
    ("--lr", ["--vision.learning-rate", "--memory.learning-rate"]),
    ("--epochs", ["--vision.steps", "--memory.steps"]),
    ("--controller.popsize", ["--learner.population"]),
    ("--controller.population", ["--learner.population"]),
    ("--memory.hidden-sise", ["--memory.hidden-size"]),
    ("--tempreture", ["--dream.temperature"]),
])
def test_an_unknown_option_is_answered_by_those_that_may_be_meant(given, meant, fails, tmp_path):
    said = fails(nothing, *TOY, "--data", tmp_path, given, "1")
    assert f"no option {given}: did you mean " in said and "--run" not in said
    assert all(option in said for option in meant)
    assert not list(tmp_path.iterdir())


def test_the_last_of_several_values_counts(fails, tmp_path):
    assert "nosuch" in fails(nothing, *TOY, "--data", tmp_path, "--task", "nosuch:TASK")
    assert settings(*TOY, "--data", tmp_path, "--memory.kind", "gru", "--memory.kind=mdn_rnn").memory.kind == "mdn_rnn"


# the same from a shell

@pytest.mark.parametrize("arguments, expected", [
    (["-m", "pipeline", "--task", "toy", "--preset", "paper"], "--preset paper"),
    (["-m", "pipeline.train_vision", *TOY], "python -m pipeline.collect"),
], ids=["pipeline", "train_vision"])
def test_a_mistake_in_the_shell(arguments, expected, tmp_path):
    code, out, err = finish(start(*arguments, cwd=tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err


def test_help_in_the_shell(tmp_path):
    code, out, err = finish(start("-m", "pipeline.train_memory", "--help", cwd=tmp_path))
    assert (code, err) == (0, "") and "--memory.hidden-size" in out
    assert not list(tmp_path.iterdir())
