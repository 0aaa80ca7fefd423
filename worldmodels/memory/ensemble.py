"""M: an ensemble of K memories of one kind, which disagree where they do not know (Chua et al. 2018, PETS).

Every member has its own initial weights and its own sample of the episodes, drawn with replacement (bootstrap). One
member is drawn for each step of a dream (`member_per` "step": PETS's TS1) or for the whole dream ("dream": its
TS-infinity). It draws z, the reward and the end, and all members go on from this z. `uncertainty` is the disagreement
of the members' means of z.

A policy sees the features of the first member. The members are computed as one: their weights are stacked, [K, ...].
"""

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from worldmodels import memory as registry  # of the members' kinds; this module is imported by it
from worldmodels.commandline import Range
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.gru import GRUConfig
from worldmodels.memory.heads import DISAGREEMENT, MemoryConfig
from worldmodels.types import Imagined, Noise, NoiseSize, State, Transitions, UserError

NOT_DRAWN = -1          # the member of a dream that has not taken a step


@dataclass(frozen=True)
class EnsembleConfig(MemoryConfig):
    kind: str = "ensemble"              # which of MEMORIES
    members: Annotated[int, Range(2, 100)] = 5      # (PETS)
    member_per: Literal["step", "dream"] = "step"   # how long a member that was drawn dreams on
    disagreement: Literal["std", "deviation", "pair"] = "std"   # see heads.DISAGREEMENT
    # of each member; what all memories have (steps, batch, weights of the loss, ...) is the ensemble's
    member: MemoryConfig = field(default_factory=GRUConfig)

    @property
    def bootstraps(self) -> int:
        return self.members


class Methods(nn.Module):
    """A memory's methods as one `forward`, which functional_call needs. The mean of what is imagined is a tensor."""

    def __init__(self, memory: Any):
        super().__init__()
        self.memory = memory

    def forward(self, method: str, *arguments):
        found = getattr(self.memory, method)(*arguments)
        return found._replace(mean=found.mean()) if isinstance(found, Imagined) else found


class Ensemble(nn.Module):
    """Inner state: the member that was drawn [B, 1], and what the members have, features and inner state, each
    [B, K, ...]."""

    Config = EnsembleConfig

    def __init__(self, config: EnsembleConfig, z_size: int, action_size: int):
        super().__init__()
        self.config, self.z_size, self.action_size = config, z_size, action_size
        if isinstance(config.member, EnsembleConfig):
            raise UserError("the members of an ensemble are no ensembles: choose another --memory.member.kind")
        common = {f.name: getattr(config, f.name) for f in fields(MemoryConfig) if f.name != "kind"}
        member = replace(config.member, **common)
        made = [registry.MEMORIES[member.kind](member, z_size, action_size) for _ in range(config.members)]
        self.of_members = Methods(made[0])                  # whose parameters are those of all members, [K, ...]
        for parameter, *others in zip(*(m.parameters() for m in made)):
            parameter.data = torch.stack([parameter.data, *others]).detach()
        self.feature_sizes = made[0].feature_sizes
        self.observe_noise, self.member_noise = made[0].observe_noise, made[0].imagine_noise
        uniform, normal = ({f"corrected {part}": n for part, n in parts.items()} for parts in self.observe_noise)
        self.imagine_noise = NoiseSize(self.member_noise.uniform | {"member": 1} | uniform,
                                       self.member_noise.normal | normal)

    def initial(self, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(self._all("initial", None, z, noise))

    def observe(self, state: State, action: Tensor, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(self._all("observe", self._members(state), action, z, noise))

    def correct(self, state: State, z: Tensor, noise: Noise | None = None) -> State:
        return self._state(self._all("correct", self._members(state), z, noise))

    def imagine(self, state: State, action: Tensor, temperature: float, noise: Noise) -> Imagined:
        mine = {part: noise[part] for part in parts(self.member_noise)}
        imagined = self._all("imagine", self._members(state), action, temperature, mine)
        drawn = (noise["member"] * self.config.members).floor()                             # [B, 1]
        if self.config.member_per == "dream":
            drawn = torch.where(state.inner[0] == NOT_DRAWN, drawn, state.inner[0])
        row = torch.arange(drawn.shape[0], device=drawn.device), drawn[:, 0].long()
        z = self.of_members.memory.latent(imagined.state)[row]
        of_correction = {part: noise[f"corrected {part}"] for part in parts(self.observe_noise)}
        members = self._all("correct", imagined.state, z, of_correction)
        reward, p_done = imagined.reward[row], imagined.p_done[row]
        uncertainty = DISAGREEMENT[self.config.disagreement](imagined.mean)
        return Imagined(self._state(members, drawn), reward, p_done, noise["done"][:, 0] < p_done, uncertainty,
                        lambda: imagined.mean.mean(1))

    def latent(self, state: State) -> Tensor:
        return self.of_members.memory.latent(self._first(self._members(state)))

    def dreamer(self, batch: int, temperature: float, bfloat16: bool = False) -> PlainDreamer:
        return PlainDreamer(self, temperature, bfloat16)

    def loss(self, batch: Transitions, carry: tuple[Tensor, ...] | None, generator: torch.Generator):
        """The mean of the members' losses. The streams [K * batch] are those of each member in turn; `carry` has what
        the first carries, then what the second does, and so on."""
        K = self.config.members
        names, stacked = zip(*self.of_members.named_parameters())
        size = len(carry or ()) // K
        carries = [carry and carry[k * size:(k + 1) * size] for k in range(K)]
        batches = zip(*(t.unflatten(0, (K, -1)) for t in batch))        # an error where K does not divide the streams
        losses, metrics, carried = [], [], ()
        for weights, mine, before in zip(zip(*(p.unbind(0) for p in stacked)), batches, carries):
            loss, more, after = functional_call(self.of_members, dict(zip(names, weights)),
                                                ("loss", Transitions(*mine), before, generator))
            losses.append(loss)
            metrics.append(more)
            carried += after
        means = {name: torch.stack([m[name] for m in metrics]).mean() for name in metrics[0]}
        return torch.stack(losses).mean(), means, carried

    def _all(self, method: str, state: State | None, *arguments) -> Any:
        """A method of all members: of their `state`, if it has one, and of arguments that all share. What it returns
        has the members in the second dimension."""
        call = lambda weights, mine: functional_call(
            self.of_members, weights, (method, *(() if mine is None else (mine,)), *arguments))
        found = torch.vmap(call, (0, None if state is None else 1))(dict(self.of_members.named_parameters()), state)
        return tree_map(lambda t: t.transpose(0, 1), found)

    def _state(self, members: State, drawn: Tensor | None = None) -> State:
        features = members.features
        drawn = features.new_full((features.shape[0], 1), NOT_DRAWN) if drawn is None else drawn
        return State(self._first(members).features, (drawn, features, *members.inner))

    @staticmethod
    def _members(state: State) -> State:
        _, features, *inner = state.inner
        return State(features, tuple(inner))

    @staticmethod
    def _first(members: State) -> State:
        return State(members.features[:, 0], tuple(t[:, 0] for t in members.inner))


def parts(size: NoiseSize) -> tuple[str, ...]:
    return *size.uniform, *size.normal
