"""Every setting of a run, and the presets: plain Python, one function of replacements each.

`paper` holds the settings of Ha & Schmidhuber (2018); the dataclasses beside the classes name their sources.
"""

from dataclasses import dataclass, field, replace
from typing import Callable, Literal

from worldmodels.controller import ControllerConfig
from worldmodels.evaluate import EvaluateConfig
from worldmodels.memory import MemoryConfig
from worldmodels.vision import VisionConfig
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.dream import DreamConfig


@dataclass(frozen=True)
class SweepConfig:
    temperatures: tuple[float, ...] = (0.1, 0.5, 1.0, 1.15, 1.3)    # the paper's
    trainings: int = 1              # controllers evolved at each temperature, with seeds of their own
    episodes: int = 200             # of each, in the real game; --evaluate.episodes at the run's own temperature
    controller: ControllerConfig = field(default_factory=ControllerConfig)  # how they are evolved: by whole dreams alone, from zero


@dataclass(frozen=True)
class Config:
    task: Literal["car_racing", "take_cover", "toy"] = "take_cover"
    """The game (toy: an instant world for tests)."""
    preset: Literal["smoke", "quick", "laptop", "paper"] = "quick"
    """Where settings start from: smoke (a minute), quick (10 to 15 minutes), laptop (1 to 3 hours), paper."""
    run: str = ""
    """Name of the run's folder, data/<task>/<run>; the preset's name if not given."""
    data: str = "data"
    """Where runs are kept."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where V and M are trained and dreams are dreamt; worker processes always use the CPU."""
    workers: int = 0
    """Worker processes for the real game; 0: one for each CPU core."""
    world: Literal["dream", "real"] = "dream"
    """Where the controller is evolved."""
    rounds: int = 1
    """How often to collect, train M and evolve C. From the second round on, C of the round before plays where the random policy
    did, with --collect.explore, and M and C are trained on from where they are (the paper's iterative procedure). A stage by
    itself works on the last of these rounds."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


def paper_car_racing() -> Config:
    return Config(
        task="car_racing", preset="paper", world="real",
        collect=CollectConfig(episodes=10_000, max_steps=999, policy="paper"),
        vision=VisionConfig(z_size=32),
        memory=MemoryConfig(hidden_size=256, sequence=999, steps=4000),
        dream=DreamConfig(max_steps=1000, temperature=1.0),
        evaluate=EvaluateConfig(episodes=100))


def paper_take_cover() -> Config:
    return Config(
        task="take_cover", preset="paper",
        collect=CollectConfig(episodes=10_000, max_steps=2100, min_steps=100, policy="held"),
        vision=VisionConfig(z_size=64, steps=35_000),
        memory=MemoryConfig(hidden_size=512, sequence=500, steps=24_400, restart_input=True, cell_feature=True,
                            learning_rate_decay=0.99999, done_positive_weight=10.0, death="threshold"),
        dream=DreamConfig(temperature=1.15, max_steps=2100),    # the released code's default is 1.25
        controller=(controller := ControllerConfig(bias=False)),
        evaluate=EvaluateConfig(episodes=100),
        sweep=SweepConfig(controller=controller))


def quick_car_racing() -> Config:
    c = paper_car_racing()
    return replace(
        c, preset="quick", world="dream", rounds=2,
        collect=replace(c.collect, episodes=2000, again=800, max_steps=400, policy="smooth", repeat=4),
        vision=replace(c.vision, steps=2500, batch=32, learning_rate=1e-3, final_anneal=0.3, channels=16, kl_floor=1.0),
        memory=replace(c.memory, steps=1500, batch=50, sequence=40, learning_rate=3e-3, final_anneal=0.4, dreamt=1.0, peek=True),
        dream=replace(c.dream, max_steps=250),
        controller=(controller := replace(c.controller, generations=40, episodes=16, eval_every=10, eval_episodes=512)),
        evaluate=replace(c.evaluate, episodes=40, dream_episodes=256),
        sweep=replace(c.sweep, controller=controller))


def quick_take_cover() -> Config:
    c = paper_take_cover()
    return replace(
        c, preset="quick",
        collect=replace(c.collect, episodes=5000, policy="mixed", repeat=4, min_steps=0),
        vision=replace(c.vision, steps=5000, batch=32, learning_rate=1e-3, final_anneal=0.3, channels=16, z_size=32, kl_floor=4.0),
        memory=replace(c.memory, hidden_size=256, steps=2500, batch=50, sequence=40, learning_rate=3e-3, learning_rate_decay=1.0,
                       final_anneal=0.4, dreamt=1.0, peek=True, cell_feature=False, done_weight=30.0, done_positive_weight=1.0,
                       death="sampled"),
        dream=replace(c.dream, max_steps=525, temperature=1.05),
        controller=replace(c.controller, start="improved", sigma=0.05, generations=10, episodes=16, eval_every=10, eval_episodes=1024),
        evaluate=replace(c.evaluate, other_skills=(5,)),
        sweep=replace(c.sweep, temperatures=(0.1, 0.5, 1.0, 1.05, 1.15, 1.3),
                      controller=replace(c.controller, generations=60, episodes=16, eval_every=5, eval_episodes=512)))


def laptop_car_racing() -> Config:
    c = quick_car_racing()
    return replace(
        c, preset="laptop", rounds=8,
        collect=replace(c.collect, episodes=2400),
        vision=replace(c.vision, steps=5000),
        memory=replace(c.memory, steps=2000),
        controller=replace(c.controller, generations=60),
        evaluate=replace(c.evaluate, episodes=100, dream_episodes=1024))


def laptop_take_cover() -> Config:
    c = quick_take_cover()
    return replace(
        c, preset="laptop", rounds=5,
        collect=replace(c.collect, again=3000),
        vision=replace(c.vision, steps=20_000),
        memory=replace(c.memory, steps=5000),
        controller=replace(c.controller, generations=30),
        evaluate=replace(c.evaluate, episodes=1000))


def smoke(base: Config, steps: int) -> Config:
    """Every stage, tiny: to see that all of it runs."""
    tiny = lambda c: replace(c, generations=2, population=4, episodes=2, eval_every=2, eval_episodes=2)
    return replace(
        base, preset="smoke", rounds=1,
        collect=replace(base.collect, episodes=4, max_steps=steps, min_steps=0),
        vision=replace(base.vision, steps=20, batch=16),
        memory=replace(base.memory, hidden_size=16, steps=20, batch=2, sequence=10),
        dream=replace(base.dream, max_steps=30, warmup=5),
        controller=tiny(base.controller),
        evaluate=replace(base.evaluate, episodes=2, random_episodes=2, dream_episodes=8, transfer_episodes=2, video_steps=20),
        sweep=replace(base.sweep, controller=tiny(base.sweep.controller)))


def toy() -> Config:
    c = quick_take_cover()
    return replace(c, task="toy", collect=replace(c.collect, policy="fresh", repeat=1, max_steps=40), controller=c.sweep.controller)


PRESETS: dict[tuple[str, str], Callable[[], Config]] = {
    ("car_racing", "smoke"): lambda: smoke(quick_car_racing(), 40),
    ("car_racing", "quick"): quick_car_racing,
    ("car_racing", "laptop"): laptop_car_racing,
    ("car_racing", "paper"): paper_car_racing,
    ("take_cover", "smoke"): lambda: smoke(quick_take_cover(), 120),
    ("take_cover", "quick"): quick_take_cover,
    ("take_cover", "laptop"): laptop_take_cover,
    ("take_cover", "paper"): paper_take_cover,
    ("toy", "smoke"): lambda: smoke(toy(), 40),
    ("toy", "quick"): lambda: replace(toy(), preset="quick"),
}
