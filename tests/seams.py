"""The Protocols of worldmodels/types.py and who keeps them: nothing runs here, mypy reads it (`make lint`). MEMORIES
and VISIONS say as much where they are made."""

from worldmodels.controller.actor import ActorPolicy
from worldmodels.controller.cem import CEMPolicy
from worldmodels.controller.linear import LinearPolicy
from worldmodels.controller.mlp import MLPPolicy
from worldmodels.executors.inline import InlineExecutor
from worldmodels.executors.local import LocalExecutor
from worldmodels.executors.ray import RayExecutor
from worldmodels.memory.dreamer import PlainDreamer
from worldmodels.memory.mdn_rnn_dreamer import MDNRNNDreamer
from worldmodels.memory.pessimism import PessimisticDreamer, PessimisticMemory
from worldmodels.types import Dreamer, Executor, Memory, Policy, World
from worldmodels.worlds.dream import DreamWorld
from worldmodels.worlds.real import RealWorld


def policies(linear: LinearPolicy, mlp: MLPPolicy, cem: CEMPolicy, actor: ActorPolicy) -> list[Policy]:
    return [linear, mlp, cem, actor]


def worlds(real: RealWorld, dream: DreamWorld) -> list[World]:
    return [real, dream]


def executors(local: LocalExecutor, ray: RayExecutor, inline: InlineExecutor) -> list[Executor]:
    return [local, ray, inline]


def dreamers(plain: PlainDreamer, fast: MDNRNNDreamer, pessimistic: PessimisticDreamer) -> list[Dreamer]:
    return [plain, fast, pessimistic]


def memories(pessimistic: PessimisticMemory) -> list[Memory]:
    return [pessimistic]
