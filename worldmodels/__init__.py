"""World Models (Ha & Schmidhuber, 2018). Importing it makes the dreams and the games known to gymnasium.make (worlds/gym.py)."""

import gymnasium

for _task, _name in (("car_racing", "CarRacing"), ("take_cover", "TakeCover")):
    for _world in ("Dream", "Real"):
        gymnasium.register(f"worldmodels/{_name}{_world}-v0", "worldmodels.worlds.gym:LatentEnv",
                           vector_entry_point="worldmodels.worlds.gym:LatentVectorEnv",
                           kwargs={"task": _task, "world": _world.lower()})
