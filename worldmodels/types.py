"""The seams between vision, memory, policies, learners and worlds, and the words they share.

Shapes      B batch (rollouts)   T time   P population   E episodes   Z latent   K mixtures   A action   H hidden   F
features

Time        frames   x_0   x_1   x_2  ...  x_T         T+1 of them
            latents  z_0   z_1   z_2  ...  z_T
            actions     a_0   a_1   ...  a_{T-1}       T of them:   z_t --a_t--> r_t, terminated_t, z_{t+1}

`terminated` (the game ended: death, lap finished) and `truncated` (the clock ran out) are kept apart everywhere. The
done head learns `terminated` only.

A kind is a file, a `Config` dataclass in it, and one line in its registry (VISIONS, MEMORIES, CONTROLLERS, LEARNERS,
EXECUTORS, TASKS).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from worldmodels.errors import StopTraining, UserError  # noqa: F401

Seeds = Sequence[int] | np.ndarray      # of episodes, one each


class State(NamedTuple):
    """Where a world is: `features` for policies, `inner` opaque to all but the memory it is from."""

    features: Tensor                    # [B, F] float32
    inner: tuple[Tensor, ...]           # each [B, ...]

    def select(self, index: Tensor) -> "State":
        """The rollouts `index` [N], in that order; rows may repeat."""
        return State(self.features[index], tuple(t[index] for t in self.inner))

    @staticmethod
    def cat(states: "Sequence[State]") -> "State":
        """All rollouts of several states as one batch."""
        features, inner = zip(*states)
        return State(torch.cat(features), tuple(map(torch.cat, zip(*inner))))


Noise = dict[str, Tensor]               # the chance in one step: standard random numbers by part, each [B, n]


class NoiseSize(NamedTuple):
    """How many random numbers a step takes, by part. A memory that ends episodes by chance has the uniform part
    "done"."""

    uniform: dict[str, int] = {}        # numbers in [0, 1)
    normal: dict[str, int] = {}         # numbers from N(0, 1)

    def total(self) -> tuple[int, int]:
        """Uniform and normal numbers in one step."""
        return sum(self.uniform.values()), sum(self.normal.values())

    def split(self, numbers: Tensor, dim: int = -1) -> Noise:
        """All numbers of a step along `dim`, uniform ones first -> its parts."""
        sizes = self.uniform | self.normal
        return dict(zip(sizes, numbers.split(list(sizes.values()), dim)))


class Posterior(NamedTuple):
    """What V makes of frames: a normal distribution of z, or a point."""

    mean: Tensor                        # [..., Z]
    log_var: Tensor | None = None       # [..., Z]; None: z is the mean

    def as_latent(self, latent: str) -> "Posterior":
        """What z is drawn from by a memory's setting `latent`: itself, or the point that is its mean."""
        return self if latent == "sample" else Posterior(self.mean)

    def sample(self, normal: Tensor) -> Tensor:
        """z of standard normal numbers, all [..., Z]. z is sampled in control too (released code)."""
        return self.mean if self.log_var is None else self.mean + torch.exp(0.5 * self.log_var) * normal


class Imagined(NamedTuple):
    state: State
    reward: Tensor                      # [B] float32
    p_done: Tensor                      # [B] float32, the probability that the episode ends with this step
    done: Tensor                        # [B] bool: noise["done"] < p_done
    uncertainty: Tensor                 # [B] float32, how far the members of an ensemble disagree; 0 for a single model
    mean: Callable[[], Tensor]          # -> [B, Z], of the z that may come, before one is drawn


class Step(NamedTuple):
    state: State
    reward: Tensor                      # [B] float32
    terminated: Tensor                  # [B] bool
    truncated: Tensor                   # [B] bool, where it is not terminated

    @property
    def done(self) -> Tensor:
        return self.terminated | self.truncated


class Transitions(NamedTuple):
    """Consecutive steps of B streams of episodes; `restart` marks an episode's first step."""

    z: Tensor                           # [B, T, Z] float32, sampled
    action: Tensor                      # [B, T, A] float32
    next_z: Tensor                      # [B, T, Z] float32, sampled
    reward: Tensor                      # [B, T] float32
    terminated: Tensor                  # [B, T] float32, 0 or 1
    restart: Tensor                     # [B, T] float32, 0 or 1


class TorchModule(Protocol):
    """What is asked of a torch Module; a Protocol cannot be one."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any: ...

    def to(self, device: Any) -> Any: ...


class Vision(TorchModule, Protocol):
    """V, a torch Module made from its config. Frames are [B, 64, 64, 3] uint8."""

    config: Any                         # with z_size

    def __init__(self, config: Any): ...

    def encode(self, frames: Tensor) -> Posterior: ...

    def decode(self, z: Tensor) -> Tensor:
        """z [B, Z] -> frames [B, 64, 64, 3] uint8."""

    def fast_encoder(self) -> Callable[[Tensor], Posterior]:
        """`encode` by the weights of now, as fast as small batches can be encoded beside a game."""

    def error(self, z: Tensor, frames: Tensor) -> Tensor:
        """z [N, Z], frames [N, 64, 64, 3] uint8 -> squared error of each decoded frame [N], before rounding, values in
        0..1. It is differentiable in z and in the weights."""

    def prior(self, posterior: Posterior) -> Tensor:
        """What z costs beside `error`, [N], differentiable in the posterior [N, Z]."""

    def loss(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of frames: `error` and `prior`, which a kind may bound."""


class Memory(TorchModule, Protocol):
    """M, a model of how the world moves: a torch Module made from (config, z_size, action_size).

    `observe`, `imagine` and `loss` share one transition. `imagine` is differentiable in state and action; the gradients
    of `loss` may reach z.
    """

    config: Any                         # its settings, with those of its training (training.TrainConfig)
    z_size: int
    action_size: int
    # the parts of `State.features` in their order: z first, as a policy sees it, then others
    feature_sizes: dict[str, int]
    observe_noise: NoiseSize            # of `initial`, `observe` and `correct`
    imagine_noise: NoiseSize            # of `imagine`

    def __init__(self, config: Any, z_size: int, action_size: int): ...

    def initial(self, z: Tensor, noise: Noise | None = None) -> State:
        """The state at an episode's first latent z [B, Z]."""

    def observe(self, state: State, action: Tensor, z: Tensor, noise: Noise | None = None) -> State:
        """The state after `action` [B, A] led to the real latent `z` [B, Z]."""

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        """The same, with the latent, reward and done drawn from the model itself; `noise` is all the chance in it."""

    def correct(self, state: State, z: Tensor, noise: Noise | None = None) -> State:
        """What `observe` makes of the step to a state that was imagined, had the real latent `z` [B, Z] come."""

    def latent(self, state: State) -> Tensor:
        """z [B, Z] of a state: what V decodes."""

    def dreamer(self, batch: int, temperature: float, bfloat16: bool = False) -> "Dreamer":
        """`imagine` in place, for a batch of this size; with `bfloat16` its matrix products have operands and results
        of 16 bits. A UserError where there is no such dreamer."""

    def loss(self, batch: Transitions, carry: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Loss, metrics, and what to carry to the windows that follow (None to start)."""


class Dreamer(Protocol):
    """A batch of dreams, advanced in place: what a method returns is overwritten by its next call. The batch is the
    last dimension here, so that every part of the state is one piece of memory."""

    def load(self, state: State):
        """Begins at `state`, whose B is always the same."""

    def features(self) -> Tensor:
        """The state's features and a last row of ones, [F + 1, B]."""

    def step(self, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """After `features`: action [A, B], noise by part, each [n, B] -> reward [B], p_done [B], uncertainty [B]."""

    def select(self, index: Tensor):
        """Goes on with the dreams `index` [N] only."""


class Policy(Protocol):
    """Acts in a batch of rollouts, whose life cycle is the World's. It reads State and cannot tell a dream from the
    real game. One that reads features alone may also have `act`: features and a row of ones [F + 1, B] -> action
    [A, B], and then dreams at full speed (worlds/population.py)."""

    def reset(self, seeds: Seeds):
        """One rollout begins for each seed."""

    def __call__(self, state: State) -> Tensor:
        """-> action [B, A]."""

    def select_and_reset(self, index: Tensor, seeds: Seeds):
        """Goes on with the rollouts `index` [N] only, and behind them new ones, one for each seed."""


class World(Protocol):
    """Where a policy lives. Rollouts advance together, at most `max_batch` of them."""

    compact_above: float                # the share of finished rollouts above which they make way for others

    @property
    def max_batch(self) -> float:
        """inf: however many there are."""

    def reset(self, seeds: Seeds) -> State:
        """Starts one rollout for each seed."""

    def step(self, action: Tensor) -> Step:
        """Advances every rollout by one action [B, A]."""

    def select_and_reset(self, index: Tensor, seeds: Seeds) -> State:
        """Goes on with the rollouts `index` [N] only, and behind them new ones, one for each seed."""


class Executor(Protocol):
    """Runs jobs elsewhere. A job is a callable without arguments whose result depends on nothing but itself; its
    attribute `deadline`, if it has one, is the seconds that it may take. Every future ends, whatever dies."""

    size: int                           # jobs that run at the same time

    def submit(self, job: Callable[[], Any]) -> Future: ...

    def each(self, jobs: Iterable[Callable[[], Any]]) -> Iterator[tuple[int, Any]]:
        """Each job's number and result, as it ends; few are under way at a time, so that results do not pile up."""

    def run(self, jobs: Iterable[Callable[[], Any]], progress: Any = None,
            weight: Callable[[Any], float] = lambda r: 1) -> list:
        """The results of `jobs`, in their order; the bar `progress` advances by `weight(result)` as each ends."""

    def close(self): ...

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *exception): ...


Fitness = Callable[[np.ndarray, Seeds], np.ndarray]     # (parameters [P, n], seeds [E] or [P, E]) -> returns [P, E]
