"""The loops over a memory: `unroll` imagines, `observed` follows recorded episodes, `advance` steps a batch in
place."""

from typing import Callable, Iterable, Iterator, NamedTuple

import torch
from torch import Tensor

from worldmodels.types import Dreamer, Memory, Noise, State


class Trajectory(NamedTuple):
    """T imagined steps of B rollouts. Rollouts go on after they are done: who needs it weighs steps with 1 - p_done, or
    masks them."""

    features: Tensor        # [B, T+1, F], the first where it began
    latent: Tensor          # [B, T+1, Z]
    action: Tensor          # [B, T, A]
    reward: Tensor          # [B, T]
    p_done: Tensor          # [B, T]
    done: Tensor            # [B, T] bool
    uncertainty: Tensor     # [B, T]
    state: State            # where it ended

    def survived(self) -> Tensor:
        """The probability that each step is reached, [B, T]: prod_{s < t} (1 - p_done_s)."""
        alive = torch.cumprod(1 - self.p_done, 1)
        return torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)


def unroll(memory: Memory, act: Callable[[State], Tensor] | Tensor, state: State, noise: Iterable[Noise], steps: int,
           temperature: float = 1.0) -> Trajectory:
    """Imagines `steps` steps from `state` on, with a policy or actions [B, T, A]; differentiable in the state and in
    actions."""
    features, latent, moments = [state.features], [memory.latent(state)], []
    for t, chance in zip(range(steps), noise):
        action = act[:, t] if isinstance(act, Tensor) else act(state)
        state, reward, p_done, done, uncertainty, _ = memory.imagine(state, action, temperature, chance)
        features.append(state.features)
        latent.append(memory.latent(state))
        moments.append((action, reward, p_done, done, uncertainty))
    features, latent, *moments = (torch.stack(list(rows), 1) for rows in (features, latent, *zip(*moments)))
    return Trajectory(features, latent, *moments, state)


def observed(memory: Memory, z: Tensor, action: Tensor, noise: Iterator[Noise] | None = None) -> Iterator[State]:
    """What M makes of episodes z [B, T+1, Z], action [B, T, A]: the state before each of the T actions, and the last
    one. `noise` is needed by memories whose `observe` draws."""
    chance = lambda: None if noise is None else next(noise)
    state = memory.initial(z[:, 0], chance())
    yield state
    for t in range(action.shape[1]):
        state = memory.observe(state, action[:, t], z[:, t + 1], chance())
        yield state


def states_at(memory: Memory, z: Tensor, action: Tensor, row: Tensor, step: Tensor,
              noise: Iterator[Noise] | None = None) -> State:
    """What M has made of episodes z [E, T+1, Z], action [E, T, A] at the steps `step` [N] of the episodes `row` [N], as
    one State."""
    found, order = [], []
    for t, state in enumerate(observed(memory, z, action[:, :int(step.max())], noise)):
        here = (step == t).nonzero()[:, 0]
        found.append(state.select(row[here]))
        order.append(here)
    return State.cat(found).select(torch.cat(order).argsort())


def advance(dreamer: Dreamer, act: Callable[[Tensor], Tensor],
            noise: Iterable[Noise]) -> Iterator[tuple[Noise, Tensor, Tensor, Tensor]]:
    """Steps a batch in place, once for each noise: features [F + 1, B] -> act -> action [A, B]. Yields the noise,
    reward [B], p_done [B] and uncertainty [B] of each step, which the next one overwrites."""
    for chance in noise:
        yield chance, *dreamer.step(act(dreamer.features()), chance)
