"""An agent opens a run by its name or folder, and acts as its controller does in the real game, to the last bit."""

import shutil
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import worldmodels
from worldmodels.agent import Agent, load_agent, open_agent
from worldmodels.controller import CONTROLLERS, LinearConfig
from worldmodels.controller.actor import ActorPolicy
from worldmodels.envs.car_racing import visible_part
from worldmodels.envs.take_cover import shrink_screen
from worldmodels.files import write_json
from worldmodels.runs import PUBLISHED, Run
from worldmodels.types import UserError
from worldmodels.worlds.real import real_world
from worldmodels.worlds.record import record

SETTINGS = {"cem": {"horizon": 12, "iterations": 4, "candidates": 32, "elites": 4, "dreams": 4, "hold": 1}}


def save_controller(run, kind="linear", size=13):
    """A random controller of a run's V and M, and the config that makes its folder a run."""
    config, parameters = CONTROLLERS[kind].Config(**SETTINGS.get(kind, {})), np.random.default_rng(5).normal(size=size)
    parameters = torch.from_numpy(parameters).float() * (0.1 if CONTROLLERS[kind] is ActorPolicy else 1)
    write_json(run.config, {"config": {}})
    run.save("controller", {"parameters": parameters}, {"agent_digest": load_agent(run).digest, "controller": config})


@pytest.fixture
def finished(toy_run, tmp_path):
    """A copy of the toy run, whose V and M are random, with a random controller."""
    run = Run(tmp_path / "finished")
    shutil.copytree(toy_run.root, run.root)
    save_controller(run)
    return run


def acted(agent, env, seed, steps=10**6):
    """The actions of an episode, and the sum of its rewards."""
    frame, _ = env.reset(seed=seed)
    agent.reset(seed=seed)
    actions, total, over = [], 0.0, False
    while not over and len(actions) < steps:
        actions.append(agent.act(frame))
        frame, reward, terminated, truncated, _ = env.step(actions[-1])
        total, over = total + reward, terminated or truncated
    return np.stack(actions), total


def watched(agent, seed, max_steps, settings=(), steps=10**6):
    """The same of a batch of one in the real world, by the one loop over worlds."""
    world = real_world(agent, max_steps, settings)
    picture = lambda: (world.frames[0], world.frames[0])
    played = record(world, agent.memory, agent.policy_of(agent.controller), seed, picture, steps)
    world.close()
    return played.action, played.reward.sum()


@pytest.mark.parametrize("task, kind", (("take_cover", "linear"), ("car_racing", "actor")))
def test_the_published_run_is_opened_by_its_name_and_by_its_folder(task, kind):
    names = f"{task}/laptop", PUBLISHED / task / "laptop", task
    by_name, by_folder, by_task = map(worldmodels.Agent.load, names)
    for agent in (by_folder, by_task):
        assert agent.task is by_name.task and agent.digest == by_name.digest and agent.repeat == by_name.repeat == 4
        assert np.array_equal(agent.controller.arrays["parameters"], by_name.controller.arrays["parameters"])
    assert by_name.task.name == task and by_name.controller.config.kind == kind


def test_a_run_in_data_is_opened_by_its_name_too(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.root, tmp_path / "data" / "toy" / "mine")
    assert Agent.load("toy/mine").digest == Agent.load("data/toy/mine").digest == Agent.load(str(finished.root)).digest


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_it_acts_as_in_the_real_world_to_the_last_bit(kind, finished):
    """Over whole episodes."""
    agent = load_agent(finished)
    save_controller(finished, kind, agent.parameter_count(CONTROLLERS[kind].Config()))
    agent, env = Agent.load(finished.root), agent.task.env(max_steps=40)
    for seed in range(3):
        actions, total = acted(agent, env, seed)
        expected, expected_total = watched(agent, seed, 40)
        assert np.array_equal(actions, expected) and total == expected_total and len(actions) >= 8
    # a planner's actions are often at the box's bounds
    assert len(np.unique(actions)) > (len(actions) // 2 if hasattr(CONTROLLERS[kind], "act") else 2)


def test_the_published_driver_drives_as_in_the_real_world_to_the_last_bit():
    agent = Agent.load("car_racing/laptop")
    env = agent.task.env(max_steps=1000, repeat=agent.repeat)
    actions, _ = acted(agent, env, 11, 20)
    env.close()
    expected, _ = watched(agent, 11, 1000, (("repeat", agent.repeat),), 20)
    assert np.array_equal(actions, expected) and len(actions) == 20 and actions.std(0).min() > 0


def test_an_episode_is_a_function_of_its_seed(finished):
    agent = Agent.load(finished.root)
    env = agent.task.env(max_steps=40)
    first, other, again = (acted(agent, env, seed)[0] for seed in (3, 4, 3))
    assert np.array_equal(first, again) and not np.array_equal(first[:5], other[:5])


@pytest.mark.parametrize("name, shape", (("take_cover/laptop", (120, 160, 3)), ("car_racing/laptop", (96, 96, 3))))
def test_it_takes_the_games_own_picture_or_64_by_64_of_it(name, shape):
    """CarRacing's picture is gymnasium's, TakeCover's is the engine's."""
    agents = [Agent.load(name) for _ in range(2)]
    if name.startswith("car"):
        env, shrink = gymnasium.make("CarRacing-v3"), visible_part
        picture = lambda observation: observation
    else:
        env, shrink = agents[0].task.env(max_steps=100), shrink_screen
        picture = lambda observation: env.render()
    observation, _ = env.reset(seed=6)
    for agent in agents:
        agent.reset(seed=6)
    for _ in range(4):
        frames = picture(observation), shrink(picture(observation))
        assert frames[0].shape == shape
        action, same = (agent.act(frame) for agent, frame in zip(agents, frames))
        assert np.array_equal(action, same) and action in agent.task.action_space
        observation, *_ = env.step(action)
    env.close()


@pytest.mark.parametrize("name, named", (
    ("take_cover/nowhere", "no run nowhere of take_cover; there are: .*laptop"), ("nowhere", "no run .* of nowhere"),
    ("nowhere/laptop", "no run laptop of nowhere"), ("os:getcwd", "no run .* of os:getcwd"),
    ("", "no run"), ("/nowhere/at/all", "no run"),
))
def test_a_wrong_name_says_what_there_is(name, named):
    with pytest.raises(UserError, match=named):
        Agent.load(name)


def test_an_agent_without_a_controller_says_so(finished):
    with pytest.raises(UserError, match="no controller"):
        load_agent(finished).reset(seed=0)
    finished.path("controller").unlink()
    with pytest.raises(UserError, match="no controller in .*train_controller"):
        Agent.load(finished.root)


def test_a_controller_of_another_v_and_m_is_refused(finished):
    tensors, info = finished.load("memory", "")
    finished.save("memory", tensors | {"head.bias": tensors["head.bias"] + 1}, info)
    with pytest.raises(UserError, match="another V or M"):
        Agent.load(finished.root)


MY_MODULE = """
from worldmodels.envs import TASKS
open("imported", "w").close()
TASK = TASKS["toy"]
"""


@pytest.mark.parametrize("task", ("os:getcwd", "my_module:TASK", "my_module"))
def test_a_run_cannot_make_the_program_import_anything(finished, task, tmp_path, monkeypatch):
    """Whatever a downloaded run's files say its task is: the name is looked up among those that are registered."""
    (tmp_path / "my_module.py").write_text(MY_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("vision", "memory", "controller"):
        tensors, info = finished.load(name, "")
        finished.save(name, tensors, {key: value for key, value in info.items() if key != "digest"} | {"task": task})
    write_json(finished.config, {"config": {"task": task}})
    before = set(sys.modules)
    for opened in (lambda: Agent.load(finished.root), lambda: load_agent(finished),
                   lambda: open_agent("toy", finished.root),
                   lambda: gymnasium.make("worldmodels/TakeCoverReal-v0", run=finished.root)):
        with pytest.raises(UserError, match=f"no task {task} here"):
            opened()
    assert "my_module" not in sys.modules and not Path("imported").exists()
    assert not {name for name in set(sys.modules) - before if not name.startswith(("gymnasium", "worldmodels"))}


def test_a_controller_of_a_kind_that_is_not_known_is_refused(finished):
    tensors, info = finished.load("controller", "")
    finished.save("controller", tensors, {"agent_digest": info["agent_digest"], "controller": {"kind": "of_tomorrow"}})
    with pytest.raises(UserError, match="of_tomorrow"):
        Agent.load(finished.root)


def test_decode_shows_latents_of_any_shape(finished):
    agent = Agent.load(finished.root)
    z = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    frames = agent.decode(z)
    assert frames.shape == (2, 3, 64, 64, 3) and frames.dtype == np.uint8
    assert np.abs(frames[1, 2].astype(int) - agent.decode(z[1, 2])).max() <= 1


def test_a_controller_has_as_many_parameters_as_are_said():
    """The paper's 867 for CarRacing (its sec. 3.3)."""
    agent = Agent.load("car_racing/laptop")
    assert agent.parameter_count(LinearConfig()) == 867
    assert agent.parameter_count(agent.controller.config) == agent.controller.arrays["parameters"].size
