"""What the rest knows of a task is true of its environment."""

import pytest
import torch

from worldmodels.envs import TASKS


@pytest.mark.parametrize("name", TASKS)
def test_a_task_describes_its_environment(name):
    task = TASKS[name]
    env = task.env(max_steps=3)
    assert env.action_space.shape == (task.action_size,)
    frame = env.reset(seed=0)[0]
    assert frame.shape == (64, 64, 3) and frame.dtype.name == "uint8"
    env.close()


@pytest.mark.parametrize("name", TASKS)
def test_squashed_outputs_are_actions(name):
    task = TASKS[name]
    env = task.env(max_steps=3)
    for action in task.squash(torch.randn(200, task.action_size) * 3).numpy():
        assert env.action_space.contains(action)
    env.close()
