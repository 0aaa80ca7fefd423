"""Every setting of a run, and the presets: plain Python, one function of replacements each.

`paper` holds the settings of Ha & Schmidhuber (2018); the dataclasses beside the classes name their sources.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from worldmodels.commandline import Count, Range, Share, Whole
from worldmodels.controller import CONTROLLERS, LEARNERS, ControllerConfig, EvolutionConfig, LearnerConfig, LinearConfig
from worldmodels.controller.actor import ActorConfig
from worldmodels.controller.actor_critic import ActorCriticConfig
from worldmodels.controller.cem import CEMConfig
from worldmodels.controller.mlp import MLPConfig
from worldmodels.controller.ppo import PPOConfig
from worldmodels.envs import Task
from worldmodels.memory import MEMORIES, MDNRNNConfig, MemoryConfig
from worldmodels.memory.joint import JointConfig
from worldmodels.report.scores import EvaluateConfig
from worldmodels.runs import ROUNDS, RUNS
from worldmodels.vision import VISIONS, VAEConfig, VisionConfig
from worldmodels.worlds.collect import CollectConfig
from worldmodels.worlds.dream import DreamConfig

# the registries of the sections of these names
KINDS: dict[str, dict[str, Any]] = {"vision": VISIONS, "memory": MEMORIES, "controller": CONTROLLERS,
                                    "learner": LEARNERS, "real_learner": LEARNERS}


@dataclass(frozen=True)
class SweepConfig:
    temperatures: Annotated[tuple[float, ...], Range(1e-6)] = (0.1, 0.5, 1.0, 1.15, 1.3)    # the paper's
    trainings: Count = 1            # controllers trained at each temperature, with seeds of their own
    episodes: Count = 200           # of each, in the real game; --evaluate.episodes at the run's own temperature
    # how they are trained: by whole dreams alone, from zero
    learner: LearnerConfig = field(default_factory=EvolutionConfig)


@dataclass(frozen=True)
class AblateConfig:
    # what is compared, see pipeline/ablate.py; none: all
    which: tuple[str, ...] = ()
    episodes: Count = 100           # of each, in the real game
    # how each is trained, in the real game
    learner: LearnerConfig = field(default_factory=lambda: EvolutionConfig(generations=25, same_episodes="pairs"))
    controller: ControllerConfig = field(default_factory=LinearConfig)
    hidden: ControllerConfig = field(default_factory=MLPConfig)     # of z alone


@dataclass(frozen=True)
class CompareConfig:
    # the world models that are compared (pipeline/compare.py), "own" the run's as it is; none: all that are trained
    models: tuple[str, ...] = ()
    # ways to act in each of them beside the linear controller (pipeline/acting.py): actor distilled planner guided
    controllers: tuple[str, ...] = ()
    trainings: Count = 1                # of each, with seeds of their own
    random_episodes: Count = 2000       # that all are trained on: of the random policy that collects first
    controller_episodes: Count = 1000   # and of the run's controller, with --collect.explore-share
    weight_noise: Share = 0.0           # of the variance of its weights a share from 0 to this is noise
    seconds: Count = 90                 # that M is trained for
    batch: Count = 16                   # in windows of so many streams: in so short a time more than of larger ones
    latent: Literal["sample", "mean"] = "sample"    # what z is, see --memory.latent; a sample in joint training
    vision_seconds: Count = 120         # and V, where it is not the run's; together, where they are trained jointly
    episodes: Count = 24                # of each policy, that predictions are scored on
    # how controllers are trained: by whole dreams alone, from zero
    controller: ControllerConfig = field(default_factory=LinearConfig)
    learner: LearnerConfig = field(default_factory=EvolutionConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    planner: CEMConfig = field(default_factory=CEMConfig)       # without anything learned
    # which changes what the actor does
    guided: CEMConfig = field(default_factory=lambda: CEMConfig(
        guided=True, guided_std=0.1, horizon=15, iterations=1, candidates=7, elites=3, hold=5))


@dataclass(frozen=True)
class Config:
    task: str = "take_cover"
    """The game (toy: an instant world for tests), or my_module:TASK for one of your own."""
    preset: str = "quick"
    """Where settings start from: smoke (a minute), quick (10 to 15 minutes), laptop (1 to 3 hours), faithful (the
    paper's method with smaller budgets: hours), paper, released (the paper's code)."""
    run: str = ""
    """Name of the run's folder, data/<task>/<run>; the preset's name if not given."""
    data: str = "data"
    """Where runs are kept."""
    seed: Annotated[int, Range(0, RUNS - 1)] = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where V and M are trained and dreams are dreamt; worker processes always use the CPU."""
    executor: str = "local"
    """Where jobs run: worker processes of this machine, a Ray cluster, or this process itself (to debug)."""
    address: str = ""
    """The cluster to join: auto, or HOST:PORT; without it, one is started on this machine. Not kept in config.json."""
    workers: Whole = 0
    """Jobs that run at the same time; 0: one for each CPU core."""
    trainings_at_once: Count = 1
    """How many trainings of compare and sweep_temperature run side by side, each as one job on one core; 1: one after
    the other, each on all cores."""
    gpus: Whole = 0
    """Controllers are trained and scored in dreams on so many of the workers' GPUs; 0: as --device says."""
    metrics: tuple[str, ...] = ("tensorboard",)
    """Where training curves go beside metrics.jsonl: tensorboard, wandb, none, my_module:MyWriter, or several."""
    world: Literal["dream", "real"] = "dream"
    """Where the controller is trained."""
    training: Literal["staged", "jointly"] = "staged"
    """V first and then M (the paper), or both by one objective; in later rounds M alone is trained on."""
    retrain_vision: Annotated[tuple[int, ...], Range(2, ROUNDS)] = ()
    """Rounds that train V on, and M, on all episodes so far; the controller is then fitted to it by distillation."""
    rounds: Annotated[int, Range(1, ROUNDS)] = 1
    """How often to collect, train M and C (the paper's iterative procedure). From the second round on, C plays, with
    --collect.explore-share."""
    real_round: bool = False
    """Whether these rounds are followed by one in the real game, in which C alone is trained on, by --real-learner."""
    collect: CollectConfig = field(default_factory=CollectConfig)
    vision: VisionConfig = field(default_factory=VAEConfig)
    memory: MemoryConfig = field(default_factory=MDNRNNConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    controller: ControllerConfig = field(default_factory=LinearConfig)
    learner: LearnerConfig = field(default_factory=EvolutionConfig)
    real_learner: LearnerConfig = field(default_factory=PPOConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    ablate: AblateConfig = field(default_factory=AblateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)


def paper_car_racing() -> Config:
    return Config(
        task="car_racing", preset="paper", world="real",
        collect=CollectConfig(episodes=10_000, max_steps=999, policy="paper", ignore_end=True),
        vision=VAEConfig(z_size=32, steps=100_000, initial_weights="tensorflow"),       # one epoch
        memory=MDNRNNConfig(hidden_size=256, sequence=999, steps=2000, initial_weights="tensorflow",    # 20 epochs
                            shaped_by=()),
        # as M's heads have it, which only read along: the paper did not dream of CarRacing
        dream=DreamConfig(max_steps=1000, temperature=1.0, enough=1000.0, step_cost=0.1),
        learner=EvolutionConfig(same_episodes="pairs"),
        evaluate=EvaluateConfig(episodes=100))


def paper_take_cover() -> Config:
    evolution = EvolutionConfig(same_episodes="pairs")
    return Config(
        task="take_cover", preset="paper",
        collect=CollectConfig(episodes=10_000, max_steps=2100, min_steps=100, policy="held"),
        vision=VAEConfig(z_size=64, steps=30_809, initial_weights="tensorflow"),        # one epoch: theirs had so many
        memory=MDNRNNConfig(hidden_size=512, sequence=500, steps=1220, initial_weights="tensorflow",    # 20 epochs
                            restart_input=True, cell_feature=True, shaped_by=("done",), done_positive_weight=10.0,
                            learning_rate_decay=0.99999, death="threshold"),
        dream=DreamConfig(temperature=1.15, max_steps=2100, reward="alive"),
        controller=LinearConfig(bias=False),
        learner=evolution,
        evaluate=EvaluateConfig(episodes=100),
        sweep=SweepConfig(learner=evolution),
        ablate=AblateConfig(controller=LinearConfig(bias=False)))


def released_car_racing() -> Config:
    """10 epochs of V, 40 of M; else as the paper."""
    c = paper_car_racing()
    return replace(c, preset="released", vision=replace(c.vision, steps=1_000_000),
                   memory=replace(c.memory, steps=4000))


def released_take_cover() -> Config:
    """10 epochs of V, 400 of M, another temperature, and 200 generations; else as the paper."""
    c = paper_take_cover()
    return replace(c, preset="released", vision=replace(c.vision, steps=308_090),
                   memory=replace(c.memory, steps=24_400), dream=replace(c.dream, temperature=1.25),
                   learner=replace(c.learner, generations=200))


def faithful_car_racing() -> Config:
    """The paper's method with less of everything: a fifth of the episodes and of V's batches, 50 generations; each
    search of the ablation plays a fifth of the games of that."""
    c = paper_car_racing()
    return replace(
        c, preset="faithful",
        collect=replace(c.collect, episodes=2000),
        vision=replace(c.vision, steps=20_000),
        learner=replace(c.learner, generations=50),
        ablate=replace(c.ablate, learner=replace(c.ablate.learner, generations=40, population=32, episodes=8,
                                                 eval_every=20, eval_episodes=256)))


def faithful_take_cover() -> Config:
    """The paper's method with 200 generations; each search of the sweep has an eighth of the dreams of that."""
    c = paper_take_cover()
    return replace(
        c, preset="faithful",
        learner=replace(c.learner, generations=200),
        evaluate=replace(c.evaluate, episodes=1000),
        sweep=replace(c.sweep, trainings=3, learner=replace(c.sweep.learner, generations=100, episodes=4)))


def quick_car_racing() -> Config:
    c = paper_car_racing()
    evolution = EvolutionConfig(generations=40, eval_every=10, eval_episodes=512)
    ppo = PPOConfig(steps=6400, batch=128, first_temperature=0.5, last_episodes=300, penalty_scale=30.0)
    return replace(
        c, preset="quick", world="dream", rounds=2,
        collect=replace(c.collect, episodes=600, episodes_per_round=200, explore_share=0.2, max_steps=1000,
                        policy="smooth", ignore_end=False, repeat=4),
        vision=replace(c.vision, steps=3000, batch=32, learning_rate=1e-3, final_anneal=0.3, channels=24, kl_floor=3.0,
                       initial_weights="torch"),
        memory=MDNRNNConfig(steps=1200, batch=50, sequence=40, learning_rate=3e-3, final_anneal=0.4,
                            scheduled_sampling=1.0, sees_current_frame=True, reward_weight=0.1),
        dream=replace(c.dream, max_steps=250, step_cost=0.4),
        controller=ActorConfig(),
        learner=ppo,
        real_learner=replace(ppo, steps=3200, batch=64),
        evaluate=replace(c.evaluate, episodes=40, dream_episodes=256),
        sweep=replace(c.sweep, learner=ppo),
        compare=replace(c.compare, controller_episodes=2000, weight_noise=1.0, latent="mean",
                        learner=replace(evolution, generations=30)))


def quick_take_cover() -> Config:
    c = paper_take_cover()
    return replace(
        c, preset="quick",
        collect=replace(c.collect, episodes=5000, policy="mixed", repeat=4, min_steps=0),
        vision=replace(c.vision, steps=5000, batch=32, learning_rate=1e-3, final_anneal=0.3, channels=16, z_size=32,
                       kl_floor=4.0, initial_weights="torch"),
        memory=MDNRNNConfig(steps=2500, batch=50, sequence=40, learning_rate=3e-3, final_anneal=0.4,
                            scheduled_sampling=1.0, restart_input=True, sees_current_frame=True, done_weight=30.0),
        dream=DreamConfig(max_steps=525, temperature=1.05),
        learner=EvolutionConfig(start="least_squares", sigma=0.05, generations=10, eval_every=10),
        evaluate=replace(c.evaluate, other_skills=(5,)),
        sweep=replace(c.sweep, temperatures=(0.1, 0.5, 1.0, 1.05, 1.15, 1.3),
                      learner=EvolutionConfig(generations=60, eval_every=5, eval_episodes=512)),
        compare=replace(c.compare, controller=c.controller, random_episodes=3000, controller_episodes=500,
                        actor_critic=replace(c.compare.actor_critic, steps=1200, batch=256, horizon=15,
                                             learning_rate=3e-4, temperature=1.6, distilled=True, anchor=0.2),
                        learner=EvolutionConfig(generations=30, eval_every=5, eval_episodes=512)))


def laptop_car_racing() -> Config:
    c = quick_car_racing()
    return replace(
        c, preset="laptop", rounds=6, retrain_vision=(3,),
        collect=replace(c.collect, episodes_per_round=300),
        memory=replace(c.memory, steps=1500),
        learner=replace(c.learner, steps=8000, anew=(3, 4)),
        evaluate=replace(c.evaluate, episodes=100, dream_episodes=1024))


def laptop_take_cover() -> Config:
    c = quick_take_cover()
    return replace(
        c, preset="laptop", rounds=5,
        collect=replace(c.collect, episodes_per_round=3000),
        vision=replace(c.vision, steps=20_000),
        memory=replace(c.memory, steps=5000),
        learner=replace(c.learner, generations=30),
        evaluate=replace(c.evaluate, episodes=1000))


def smoke(base: Config, steps: int) -> Config:
    """Every stage, tiny: to see that all of it runs."""
    evolution = {"generations": 2, "population": 4, "episodes": 2, "eval_every": 2, "eval_episodes": 2}
    gradients = {"steps": 4, "batch": 4, "horizon": 5, "passes": 1, "parts": 2}
    tiny = lambda c: replace(c, **(evolution if hasattr(c, "generations") else gradients))
    return replace(
        base, preset="smoke", rounds=1,
        collect=replace(base.collect, episodes=4, max_steps=steps, min_steps=0),
        vision=replace(base.vision, steps=20, batch=16),
        memory=replace(base.memory, hidden_size=16, steps=20, batch=2, sequence=10),
        joint=replace(base.joint, steps=20, batch=2, sequence=10),
        dream=replace(base.dream, max_steps=30, warmup=5),
        learner=tiny(base.learner),
        real_learner=tiny(base.real_learner),
        evaluate=replace(base.evaluate, episodes=2, random_episodes=2, dream_episodes=8, gap_episodes=2,
                         video_steps=20),
        sweep=replace(base.sweep, learner=tiny(base.sweep.learner)),
        ablate=replace(base.ablate, episodes=2, learner=tiny(base.ablate.learner)),
        compare=replace(base.compare, random_episodes=4, controller_episodes=4, seconds=1, vision_seconds=1, batch=2,
                        episodes=2, learner=tiny(base.compare.learner),
                        actor_critic=replace(base.compare.actor_critic, steps=3, batch=4, horizon=2),
                        planner=replace(base.compare.planner, horizon=2, candidates=4, dreams=1),
                        guided=replace(base.compare.guided, horizon=2, candidates=4, dreams=1)))


def own(task: Task) -> Config:
    """`quick` for a task of a user's own, or the toy: TakeCover's recipe, evolved from zero in dreams as long as the
    game."""
    c, repeat = quick_take_cover(), 4 if "repeat" in task.settings else 1
    return replace(
        c, task=task.name,
        collect=replace(c.collect, policy=next(iter(task.policies)), repeat=repeat, max_steps=task.max_steps),
        memory=replace(c.memory, done_weight=1.0),
        dream=replace(c.dream, max_steps=task.steps(repeat)),
        controller=LinearConfig(),
        learner=replace(c.sweep.learner, generations=40),
        evaluate=replace(c.evaluate, other_skills=()),
        ablate=AblateConfig())


PRESETS: dict[str, dict[str, Callable[[], Config]]] = {
    "car_racing": {"quick": quick_car_racing, "laptop": laptop_car_racing, "faithful": faithful_car_racing,
                   "paper": paper_car_racing, "released": released_car_racing,
                   "smoke": lambda: smoke(quick_car_racing(), 40)},
    "take_cover": {"quick": quick_take_cover, "laptop": laptop_take_cover, "faithful": faithful_take_cover,
                   "paper": paper_take_cover, "released": released_take_cover,
                   "smoke": lambda: smoke(quick_take_cover(), 120)},
}


def presets(task: Task) -> dict[str, Callable[[], Config]]:
    """The presets of a task by name."""
    return PRESETS.get(task.name, {"quick": lambda: own(task), "smoke": lambda: smoke(own(task), 40)})
