"""What several benchmarks start from: an agent of the paper's sizes that has learnt nothing."""

from pathlib import Path

import torch

from pipeline.command import memory_info, vision_info
from pipeline.presets import PRESETS
from worldmodels.runs import Run
from worldmodels.worlds.agent import build_memory, build_vision


def random_run(task: str, folder: Path) -> Run:
    """A run with V and M of the paper's sizes, untrained."""
    run, config = Run(folder), PRESETS[task, "paper"]()
    torch.manual_seed(0)
    info = vision_info(config)
    run.save("vision", build_vision(info).state_dict(), info)
    info = memory_info(config, run)
    run.save("memory", build_memory(info).state_dict(), info)
    return run
