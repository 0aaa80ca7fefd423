"""A batch of dreams or games for the algorithms of Stable-Baselines3:

    many = gymnasium.make_vec("worldmodels/TakeCoverDream-v0", num_envs=64, autoreset_mode="SameStep")
    model = PPO("MlpPolicy", VecMonitor(BatchVecEnv(many)))

VecMonitor reports the returns of episodes. Importing this module needs stable-baselines3, which nothing else here does.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from worldmodels.types import UserError


class BatchVecEnv(VecEnv):
    """gymnasium's batch, also with wrappers of gymnasium.wrappers.vector around it, by the conventions of
    Stable-Baselines3: those of as many single environments in its DummyVecEnv. A step returns observations [N, ...],
    rewards [N] float32, ends [N] bool and a dict for each environment, which has `TimeLimit.truncated` and, with an
    end, `terminal_observation`; `reset_infos` has what the resets said."""

    def __init__(self, env: gymnasium.vector.VectorEnv):
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise UserError('Stable-Baselines3 needs ended episodes to begin again at once: '
                            'make_vec(..., autoreset_mode="SameStep")')
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

    def reset(self) -> np.ndarray:
        """Begins all episodes, by the seeds of `seed` if they have not been used."""
        options = next(filter(None, self._options), None)
        observation, info = self.env.reset(seed=self._seeds, options=options)
        self.reset_infos = rows_of(info, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray):
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        observation, reward, terminated, truncated, info = self.env.step(self.actions)
        ended = terminated | truncated
        last = {name: info.pop(name, None) for name in ("final_obs", "_final_obs", "final_info", "_final_info")}
        rows = rows_of(info, self.num_envs)
        if ended.any():
            final = rows_of(last["final_info"], self.num_envs)
            for i in np.flatnonzero(ended):
                self.reset_infos[i], rows[i] = rows[i], final[i] | {"terminal_observation": last["final_obs"][i]}
        for row, cut in zip(rows, (truncated & ~terminated).tolist()):
            row["TimeLimit.truncated"] = cut
        return observation, reward.astype(np.float32), ended, rows

    def close(self):
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.env.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The batch's attribute, which all environments share."""
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None):
        raise NotImplementedError("one batch: its environments have no attributes of their own")

    def env_method(self, method_name: str, *args, indices: VecEnvIndices = None, **kwargs) -> list[Any]:
        raise NotImplementedError("one batch: its environments have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Wrappers are around the batch, none around one of it."""
        return [False] * len(list(self._get_indices(indices)))


def rows_of(info: dict[str, np.ndarray], count: int) -> list[dict[str, Any]]:
    """The info of a batch, values [count] with their masks, as a dict for each environment."""
    rows = [{} for _ in range(count)]
    for name in [name for name in info if f"_{name}" in info]:
        values = info[name].tolist()
        for i in np.flatnonzero(info[f"_{name}"]):
            rows[i][name] = values[i]
    return rows
