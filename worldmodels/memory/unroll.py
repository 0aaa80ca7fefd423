"""The loops over a memory: `unroll` imagines, `observed` follows recorded episodes, `advance` steps a batch in
place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from worldmodels.latents import Encoded, Latents
from worldmodels.memory.noise import draw
from worldmodels.types import Dreamer, Memory, Noise, State

EPISODES = 128          # that M observes at once


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


def unroll_features(memory: Memory, act: Callable[[Tensor], Tensor], state: State, noise: Iterable[Noise], steps: int,
                    temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """`unroll` with a policy that reads features [B, F] alone -> features [T+1, B, F], reward and p_done [T, B]."""
    dreamt = unroll(memory, lambda state: act(state.features), state, noise, steps, temperature)
    return dreamt.features.transpose(0, 1), dreamt.reward.t(), dreamt.p_done.t()


@torch.no_grad()
def unroll_in_place(memory: Memory, act: Callable[[Tensor], Tensor], state: State, noise: Iterable[Noise], steps: int,
                    temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the memory's dreamer, at full speed and without gradients."""
    dreamer, features, moments = memory.dreamer(len(state.features), temperature), [], []
    dreamer.load(state)

    def acted(columns: Tensor) -> Tensor:
        features.append(columns[:-1].t().contiguous())
        return act(features[-1]).t()

    chances = ({part: numbers.t() for part, numbers in step.items()} for step in islice(noise, steps))
    for _, reward, p_done, _ in advance(dreamer, acted, chances):
        moments.append(torch.stack([reward, p_done]))
    features.append(dreamer.features()[:-1].t().contiguous())
    return torch.stack(features), *torch.stack(moments, 1)


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


def followed(memory: Memory, episodes: Sequence[Encoded],
             generator: torch.Generator) -> Iterator[tuple[State, Tensor]]:
    """Some episodes beside each other, step by step: what M has made of each before its action [E, ...], and which of
    them have one [N]."""
    like = next(memory.parameters())
    z = pad_sequence([episode.sample(generator) for episode in episodes], batch_first=True).to(like)    # [E, T+1, Z]
    action = pad_sequence([torch.from_numpy(episode.action) for episode in episodes], batch_first=True).to(like)
    lengths = torch.tensor([len(episode.action) for episode in episodes], device=like.device)
    noise = draw(memory.observe_noise, len(episodes), generator, like)
    for t, state in enumerate(islice(observed(memory, z, action, noise), action.shape[1])):
        yield state, (t < lengths).nonzero()[:, 0]


def observed_steps(memory: Memory, episodes: Sequence[Encoded], generator: torch.Generator) -> State:
    """What M has made of some episodes before each of their N actions, as one State: the first steps of all episodes,
    then the second ones, and so on, as `joined` has what belongs to them."""
    return State.cat([state.select(rows) for state, rows in followed(memory, episodes, generator)])


@torch.no_grad()
def recorded_states(memory: Memory, latents: Latents, count: int, seed: int, last: int = 0) -> State:
    """What M has made of the recorded episodes, or of the last so many, at about `count` of their steps, chosen at
    random."""
    share = count / int(latents.lengths[-last:].sum())
    generator, found = torch.Generator().manual_seed(seed), []
    for batch in tqdm(latents.by_length(EPISODES, last), desc="observing", unit="batch"):
        states = observed_steps(memory, [latents.episode(number) for number in batch], generator)
        chosen = (torch.rand(len(states.features), generator=generator) < share).nonzero()[:, 0]
        found.append(states.select(chosen.to(states.features.device)))
    return State.cat(found)


def joined(rows: Sequence[Tensor]) -> Tensor:
    """What belongs to the steps of some episodes, each [T, ...], in the order of `observed_steps`, [N, ...]."""
    padded = pad_sequence(list(rows))                                                                   # [T, E, ...]
    return padded[pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows])]


def advance(dreamer: Dreamer, act: Callable[[Tensor], Tensor],
            noise: Iterable[Noise]) -> Iterator[tuple[Noise, Tensor, Tensor, Tensor]]:
    """Steps a batch in place, once for each noise: features [F + 1, B] -> act -> action [A, B]. Yields the noise,
    reward [B], p_done [B] and uncertainty [B] of each step, which the next one overwrites."""
    for chance in noise:
        yield chance, *dreamer.step(act(dreamer.features()), chance)
