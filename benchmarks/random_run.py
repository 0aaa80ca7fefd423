"""What several benchmarks start from: an agent of the paper's sizes that has learnt nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.command import memory_info, vision_info
from pipeline.presets import PRESETS
from worldmodels.agent import Agent, build_memory, build_vision
from worldmodels.controller import PolicySpec
from worldmodels.envs import TASKS
from worldmodels.memory import MemoryConfig
from worldmodels.runs import Run, plain


def random_run(task: str, folder: Path, memory: MemoryConfig | None = None) -> Run:
    """A run with V and M of the paper's sizes, or an M of this config, untrained."""
    run, config = Run(folder), PRESETS[task]["paper"]()
    config = replace(config, memory=memory or config.memory)
    torch.manual_seed(0)
    info = plain(vision_info(config))
    run.save("vision", build_vision(info).state_dict(), info)
    info = plain(memory_info(config, run))
    run.save("memory", build_memory(info, TASKS[task]).state_dict(), info)
    return run


def random_controllers(agent: Agent, count: int) -> PolicySpec:
    """So many of the paper's controllers, of random parameters."""
    config = PRESETS[agent.task.name]["paper"]().controller
    parameters = np.random.default_rng(0).normal(size=(count, agent.parameter_count(config))) * 0.1
    return PolicySpec(config, {"parameters": parameters})
