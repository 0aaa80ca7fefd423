"""A module of a user with a task in it, for `--task tests.envs.own_task:TASK`."""

from tests.envs.tiny import make_grey
from worldmodels.envs import register_task

TASK = register_task("own", make_grey, max_steps=9)
NUMBER = 3
