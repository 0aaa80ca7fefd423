"""A user's own environment as a task: what it shows, what it is told, and what is refused."""

import sys
from functools import partial
from itertools import groupby, islice

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from multiprocess.reduction import ForkingPickler

import worldmodels
from tests.envs.tiny import Tiny, make_box, make_colour, make_grey, make_one_channel
from worldmodels.envs import TASKS, find_task, import_task
from worldmodels.executors import LocalExecutor
from worldmodels.files import write_json
from worldmodels.memory import GRU
from worldmodels.runs import Run, plain
from worldmodels.types import UserError
from worldmodels.vision import VAE, VAEConfig
from worldmodels.worlds.collect import CollectConfig, CollectJob

MAKERS = {"grey": make_grey, "one_channel": make_one_channel, "colour": make_colour, "box": make_box}
DISCRETE = ("grey", "one_channel", "colour")


@pytest.fixture(autouse=True)
def forgotten():
    """What a test registers is gone after it."""
    tasks, ids = set(TASKS), set(gymnasium.registry)
    yield
    for name in TASKS.keys() - tasks:
        del TASKS[name]
    for id in gymnasium.registry.keys() - ids:
        del gymnasium.registry[id]
    sys.modules.pop("tests.envs.own_task", None)


@pytest.fixture
def register():
    """register(name): the task of one of MAKERS."""
    return lambda name: worldmodels.register_task(name, MAKERS[name], max_steps=50)


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_a_gymnasium_environment(register, name):
    check_env(register(name).env(max_steps=5), skip_render_check=True)


@pytest.mark.parametrize("name", MAKERS)
def test_frames_are_64_by_64_rgb_whatever_the_picture_is(register, name):
    env = register(name).env(max_steps=20)
    action = env.action_space.sample()
    frames = [env.reset(seed=4)[0], *(env.step(action)[0] for _ in range(4))]
    for t, frame in enumerate(frames):
        assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
        bright = 10 * (t + env.unwrapped.begun)
        dark = bright if name in ("grey", "one_channel") else bright // 2
        assert (frame == (bright, bright, dark)).all()
    assert np.array_equal(env.render(), env.unwrapped.picture())


@pytest.mark.parametrize("name", DISCRETE)
def test_the_largest_of_a_discrete_tasks_numbers_is_the_choice(register, name):
    task = register(name)
    env = task.env(max_steps=20)
    env.reset(seed=0)
    choices = range(task.action_size)
    for choice in choices:
        action = task.squash(torch.where(torch.arange(task.action_size) == choice, 0.2, -3.0)[None])
        assert action.tolist() == [[float(i == choice) for i in choices]]
        env.step(action[0].numpy())
    space = MAKERS[name]().action_space
    assert env.unwrapped.taken == [space.start + choice for choice in choices]
    assert task.action_size == space.n


def test_a_box_is_reached_to_its_bounds_and_no_further(register):
    task, space = register("box"), make_box().action_space
    env = task.env(max_steps=2000)
    low, high = torch.from_numpy(space.low.flatten()), torch.from_numpy(space.high.flatten())
    assert task.action_space == Box(low.numpy(), high.numpy()) and task.action_size == 4
    outputs = torch.tensor([-50.0, 0.0, 50.0])[:, None].expand(3, 4)
    torch.testing.assert_close(task.squash(outputs), torch.stack([low, (low + high) / 2, high]))
    env.reset(seed=0)
    for action in task.squash(torch.randn(200, 4) * 5).numpy():
        assert action in task.action_space
        env.step(action)
        assert np.array_equal(env.unwrapped.taken[-1], action.reshape(2, 2))


@pytest.mark.parametrize("name", MAKERS)
def test_random_policies_give_valid_actions(register, name):
    task = register(name)
    for policy in task.policies:
        env = task.env(max_steps=2000)
        env.reset(seed=0)
        actions = list(islice(task.policies[policy](np.random.default_rng(0)), 300))
        for action, again in zip(actions, task.policies[policy](np.random.default_rng(0))):
            assert action in task.action_space and action.dtype == np.float32 and np.array_equal(action, again)
            env.step(action)                                # which checks what the game gets
        if name in DISCRETE:
            assert all(sorted(action) == [0] * (task.action_size - 1) + [1] for action in actions)
            assert len(set(env.unwrapped.taken)) == task.action_size
    held = islice(task.policies["held"](np.random.default_rng(0)), 2000)
    held = [len(list(group)) for _, group in groupby(map(tuple, held))]
    assert max(held) >= 8 and len({tuple(a) for a in actions}) > 2 and set(task.baselines) <= task.policies.keys()


def test_a_held_action_is_paid_for_all_its_frames(register):
    env = register("grey").env(max_steps=20, repeat=3)
    env.reset(seed=0)
    steps = [env.step(env.action_space.sample()) for _ in range(3)]
    assert [step[1] for step in steps] == [1 + 2 + 3, 4 + 5 + 6, 7]        # the 7th frame ends it
    assert [step[2:4] for step in steps] == [(False, False), (False, False), (True, False)]
    taken = env.unwrapped.taken
    assert len(taken) == 7 and taken[0] == taken[1] == taken[2] and taken[3] == taken[4] == taken[5]


def test_the_clock_counts_frames_of_the_game_and_truncates(register):
    env = register("grey").env(max_steps=5, repeat=2)
    for _ in range(2):                                      # counted anew after each reset
        env.reset(seed=0)
        steps = [env.step(env.action_space.sample()) for _ in range(3)]
        assert [step[1] for step in steps] == [1 + 2, 3 + 4, 5]
        assert [step[2:4] for step in steps] == [(False, False), (False, False), (False, True)]


def test_an_end_at_the_last_frame_is_a_termination_only(register):
    env = register("grey").env(max_steps=7)
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[2:4] for _ in range(7)][-1] == (True, False)


@pytest.mark.parametrize("make, named", (
    (lambda: Tiny(Box(-1, np.inf, (2,), np.float32)), "with bounds"),
    (lambda: Tiny(MultiDiscrete([2, 3])), "a Discrete, or a Box"),
    (lambda: gymnasium.make("CartPole-v1"), "must be pictures"),
    (lambda: Tiny(Discrete(2), (30,)), "must be pictures"),
), ids=("unbounded", "several choices", "numbers", "a row"))
def test_what_cannot_be_a_task_is_refused_with_the_reason(make, named):
    with pytest.raises(UserError, match=named):
        worldmodels.register_task("refused", make, max_steps=50)
    assert "refused" not in TASKS and "worldmodels/refusedDream-v0" not in gymnasium.registry


@pytest.mark.parametrize("shape", ((30, 50, 4), (30, 50, 2)))
def test_pictures_of_other_channels_are_refused(shape):
    with pytest.raises(UserError, match="must be pictures"):
        worldmodels.register_task("refused", partial(Tiny, Discrete(2), shape), max_steps=50)


@pytest.mark.parametrize("name", ("toy", "take_cover", "car_racing"))
def test_a_name_that_is_taken_is_refused(name):
    before = TASKS[name]
    with pytest.raises(UserError, match=f"there is a task {name} already"):
        worldmodels.register_task(name, make_grey, max_steps=50)
    assert TASKS[name] is before


@pytest.mark.parametrize("name", ("", "my game", "../game", "my:TASK", "game/one"))
def test_a_name_that_is_no_word_is_refused(name):
    """It is part of a folder's name, of an option and of gymnasium's ids."""
    with pytest.raises(UserError, match="letters, digits"):
        worldmodels.register_task(name, make_grey, max_steps=50)
    assert name not in TASKS


def test_a_users_own_task_can_be_registered_again(register):
    """As a notebook's cell does that is run twice; the last one counts."""
    first = register("grey")
    second = worldmodels.register_task("grey", make_colour, max_steps=7)
    assert find_task("grey") is second is not first and second.action_size == 4 and second.max_steps == 7


def test_a_task_of_a_module_is_found_by_the_modules_name():
    task = import_task("tests.envs.own_task:TASK")
    assert task.name == "own" and task.max_steps == 9 and find_task("own") is task is import_task("own")
    assert import_task("tests.envs.own_task:TASK") is task and import_task("toy") is TASKS["toy"]


@pytest.mark.parametrize("name, named", (
    ("nowhere", "no task nowhere"), ("tests.envs.nowhere:TASK", "tests.envs.nowhere"),
    ("tests.envs.own_task:NOTHING", "NOTHING"), ("tests.envs.own_task:NUMBER", "it is a int"),
    ("os:getcwd", "it is a builtin_function"), ("tests.envs.own_task", "no task tests"),
    ("tests.envs.own_task:", "no task tests"), (":TASK", "no task :TASK"),
))
def test_what_is_no_task_is_said_to_be_none(name, named):
    with pytest.raises(UserError, match=named):
        import_task(name)


def test_a_name_alone_imports_nothing():
    for name in ("tests.envs.own_task", "tests.envs.own_task:TASK"):
        with pytest.raises(UserError, match="no task"):
            find_task(name)
    assert "tests.envs.own_task" not in sys.modules


@pytest.mark.parametrize("name", (*MAKERS, *("toy", "take_cover", "car_racing")))
def test_a_task_is_itself_by_name_after_a_journey(register, name):
    """As executors send it: one of this library by its name, another one with what it can do."""
    task = register(name) if name in MAKERS else TASKS[name]
    other = ForkingPickler.loads(ForkingPickler.dumps(task))
    assert other == task and hash(other) == hash(task) and (other is task) == (name not in MAKERS)
    assert (other == TASKS["toy"]) == (name == "toy")
    x = torch.randn(20, task.action_size)
    assert torch.equal(other.squash(x), task.squash(x)) and other.action_space == task.action_space
    policy = next(iter(task.policies))
    mine, theirs = (list(islice(t.policies[policy](np.random.default_rng(3)), 20)) for t in (task, other))
    assert np.array_equal(mine, theirs)
    env = other.env(max_steps=3)
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    env.close()


def test_worker_processes_play_it(register):
    """Which have never heard of it."""
    config = CollectConfig(max_steps=6, repeat=2, policy="held")
    tasks = register("one_channel"), register("box")
    jobs = [CollectJob(task, config, (seed,)) for task in tasks for seed in range(2)]
    with LocalExecutor(1) as executor:
        played = [(*found.steps, *found.returns) for found in executor.run(jobs)]
        assert played == [(3, 21.0)] * 4 == [(*found.steps, *found.returns) for found in (job() for job in jobs)]


@pytest.fixture
def tiny_run(register, tmp_path):
    """A run of a registered task with a random V and M."""
    task, run, vision, memory = register("colour"), Run(tmp_path), VAEConfig(z_size=3), GRU.Config()
    info = {"task": task.name, "vision": vision}
    write_json(run.config, {"config": {"collect": plain(CollectConfig(repeat=2)), "dream": {}}})
    run.save("vision", VAE(vision).state_dict(), info)
    run.save("memory", GRU(memory, 3, task.action_size).state_dict(), info | {"memory": memory})
    return run


def test_gymnasium_knows_it_too(tiny_run):
    assert {"worldmodels/colourDream-v0", "worldmodels/colourReal-v0"} <= gymnasium.registry.keys()
    env = gymnasium.make("worldmodels/colourReal-v0", run=tiny_run.root)
    observation, _ = env.reset(seed=1)
    assert observation in env.observation_space and env.action_space == find_task("colour").action_space
    outcomes = [env.step(np.array([0, 0, 1, 0], np.float32)) for _ in range(4)]
    assert [outcome[1] for outcome in outcomes] == [3, 7, 11, 7] and outcomes[-1][2]
    assert env.unwrapped.world.envs[0].unwrapped.taken == [7] * 7
    env.close()
