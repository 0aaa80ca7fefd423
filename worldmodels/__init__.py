"""World Models (Ha & Schmidhuber, 2018). Importing it makes the dreams and the games known to gymnasium.make
(worlds/gym.py).

    worldmodels.Agent.load("take_cover/laptop")         V, M and C of a run, to act with (agent.py)
    worldmodels.register_task(name, make_env, ...)      your own environment as a task (envs/__init__.py)
"""

import gymnasium

__version__ = "0.1.0"


def register_worlds(task: str, name: str):
    """Makes worldmodels/<name>Dream-v0 and worldmodels/<name>Real-v0 known to gymnasium."""
    for world in ("Dream", "Real"):
        gymnasium.register(f"worldmodels/{name}{world}-v0", "worldmodels.worlds.gym:LatentEnv",
                           vector_entry_point="worldmodels.worlds.gym:LatentVectorEnv",
                           kwargs={"task": task, "world": world.lower()})


register_worlds("car_racing", "CarRacing")
register_worlds("take_cover", "TakeCover")


def __getattr__(name: str):
    """Agent and register_task, imported when they are asked for: torch and the games take a while."""
    if name == "Agent":
        from worldmodels.agent import Agent
        return Agent
    if name == "register_task":
        from worldmodels.envs import register_task
        return register_task
    raise AttributeError(f"module worldmodels has no attribute {name}")
