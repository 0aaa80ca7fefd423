"""The seams between vision, memory, controller and worlds, and the words they share.

Shapes      B batch (rollouts)   T time   P population   E episodes   Z latent   K mixtures   A action   H hidden   F features

Time        frames   x_0   x_1   x_2  ...  x_T         T+1 of them
            latents  z_0   z_1   z_2  ...  z_T
            actions     a_0   a_1   ...  a_{T-1}       T of them:   z_t --a_t--> r_t, terminated_t, z_{t+1}

`terminated` (the game ended: death, lap finished) and `truncated` (the clock ran out) are kept apart everywhere; the done
head learns `terminated` only.
"""

from concurrent.futures import Future
from typing import Any, Callable, Iterable, NamedTuple, Protocol, Sequence

import numpy as np
import torch
from torch import Tensor


class UserError(Exception):
    """A mistake that the user can mend; the command line prints it as one line and exits with code 2."""


class State(NamedTuple):
    """What a world hands to whoever acts in it: `features` to look at, `inner` opaque to all but the memory it is from."""

    features: Tensor                    # [B, F] float32: z [B, Z] first, then what the memory adds
    inner: tuple[Tensor, ...]           # each [B, ...]

    def rows(self, index: Tensor) -> "State":
        """The rollouts `index` [N] (rows may repeat), as a state of their own."""
        return State(self.features[index], tuple(t[index] for t in self.inner))

    @staticmethod
    def joined(states: "Sequence[State]") -> "State":
        """The rollouts of all of them, one state's behind the other's."""
        features, inner = zip(*states)
        return State(torch.cat(features), tuple(map(torch.cat, zip(*inner))))


class Imagined(NamedTuple):
    state: State
    reward: Tensor                      # [B] float32
    done: Tensor                        # [B] bool: the noise's last uniform number is below the risk
    risk: Tensor                        # [B] float32, the probability of done


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


class Noise(NamedTuple):
    """The chance in one imagined step: standard random numbers, as many as the memory's `noise_size` says."""

    uniform: Tensor                     # [B, U] in [0, 1)
    normal: Tensor                      # [B, N]


class Memory(Protocol):
    """A model of how the world moves: a torch Module, made from (config, z_size, action_size). `observe`, `imagine` and `loss` share
    one transition."""

    config: Any                         # its settings, with those of its training (training.TrainConfig)
    feature_size: int                   # F of its states
    noise_size: tuple[int, int]         # U and N of the noise that `imagine` takes

    def initial(self, z: Tensor) -> State:
        """The state at an episode's first latent z [B, Z]."""

    def observe(self, state: State, action: Tensor, z: Tensor) -> State:
        """The state after `action` [B, A] led to the real latent `z` [B, Z]."""

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        """The same, with the latent, reward and done drawn from the model itself; `noise` is all the chance there is in it."""

    def dreamer(self, batch: int, action_size: int, temperature: float) -> "Dreamer":
        """`imagine` in place, for a batch of this size: the same dream, at full speed."""

    def loss(self, batch: Transitions, carry: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor], Any]:
        """Loss, metrics, and what to carry to the windows that follow (None to start)."""


class Dreamer(Protocol):
    """A batch of dreams under linear controllers, advanced in place: what a method returns is overwritten by its next call.
    The batch is the last dimension here, so that every part of the state is one piece of memory."""

    def load(self, state: State, weight: Tensor, bias: Tensor):
        """Begins at `state` with linear controllers, weight [B, F, A] and bias [B, A]; B is always the same."""

    def look(self) -> Tensor:
        """What the controllers put out [A, B], before it is squashed to actions."""

    def step(self, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """After `look`: action [A, B], noise [U + N, B], uniform numbers first -> reward [B], risk [B]."""

    def keep(self, index: Tensor):
        """Goes on with the dreams `index` [N] only."""


Policy = Callable[[State], Tensor]      # -> action [B, A]


class World(Protocol):
    """Where a policy lives. Rollouts advance together, at most `lanes` of them; finished ones are replaced with `go_on`."""

    lanes: float                        # rollouts that advance together, inf: however many there are
    slack: float                        # the share of finished rollouts that may be stepped on before they are dropped

    def reset(self, seeds: Sequence[int]) -> State:
        """Starts one rollout for each seed."""

    def step(self, action: Tensor) -> Step:
        """Advances every rollout by one action [B, A]."""

    def go_on(self, index: Tensor, seeds: Sequence[int]) -> State:
        """Goes on with the rollouts `index` [N] only, and behind them new ones, one for each seed."""


class Executor(Protocol):
    """Runs jobs elsewhere. A job is a callable without arguments whose result depends on nothing but itself."""

    size: int                           # jobs that run at the same time

    def submit(self, job: Callable[[], Any]) -> Future: ...

    def run(self, jobs: Iterable[Callable[[], Any]], progress: Any = None, weight: Callable[[Any], float] = lambda r: 1) -> list:
        """The results of `jobs`, in their order; the bar `progress` advances by `weight(result)` as each ends."""


Fitness = Callable[[np.ndarray, Sequence[int]], np.ndarray]     # (parameters [P, n], seeds [E]) -> returns [P, E]
