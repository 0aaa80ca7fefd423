"""V, M and C as ONNX, for programs without torch: a web page, a phone, a game engine.

    encoder             frames [B, 64, 64, 3] uint8 -> mean, log_var [B, Z] (mean alone, where V is deterministic)
    decoder             z [B, Z] -> frames [B, 64, 64, 3] uint8
    memory_initial      z, noise -> the state at an episode's first frame
    memory_step         a state, action [B, A], temperature [], noise -> the next state, z, reward, p_done: `imagine`
    memory_correct      a state, z, noise -> the state, had this z come
    controller          features [B, F] -> action [B, A]

A state is `features` and the memory's own parts `inner_0`, `inner_1`, ...; those of an output begin with `next_`. Noise
is one input for each of its parts, [B, n]: standard random numbers. export.json names all inputs and outputs, says
which parts of the noise are uniform and which normal, and describes the task.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldmodels.agent import Agent
from worldmodels.controller import PolicySpec
from worldmodels.files import write_json
from worldmodels.memory.noise import draw
from worldmodels.types import NoiseSize, Policy, State, UserError

GRAPH_NAMES = ("encoder", "decoder", "memory_initial", "memory_step", "memory_correct", "controller")
ROWS = 2                # batch of the example that a graph is traced with; 1 would be taken for a constant


class Graph(NamedTuple):
    """A function of named tensors, with an example of its inputs; the first dimension of those is the batch."""

    function: Callable[..., Sequence[Tensor]]
    inputs: dict[str, Tensor]
    outputs: list[str]


def graphs(agent: Agent, controller: PolicySpec | None) -> dict[str, Graph]:
    """What an agent is made of, by name. All of it is float32: not every ONNX runtime has bfloat16."""
    agent = copy(agent)
    agent.vision = copy(agent.vision)
    agent.vision.config = replace(agent.vision.config, precision="float32")
    found = vision_graphs(agent) | memory_graphs(agent)
    if controller is not None:
        features = found["memory_step"].inputs["features"]
        found["controller"] = controller_graph(agent.policy_of(controller), features)
    return found


def vision_graphs(agent: Agent) -> dict[str, Graph]:
    frames = torch.zeros(ROWS, 64, 64, 3, dtype=torch.uint8)

    def encode(frames: Tensor) -> list[Tensor]:
        return [part for part in agent.vision.encode(frames) if part is not None]

    names = ["mean", "log_var"][:len(encode(frames))]
    return {"encoder": Graph(encode, {"frames": frames}, names),
            "decoder": Graph(lambda z: [agent.vision.decode(z)], {"z": example_z(agent)}, ["frames"])}


def memory_graphs(agent: Agent) -> dict[str, Graph]:
    memory, z = agent.memory, example_z(agent)
    noise = {name: next(draw(size, ROWS, torch.Generator(), z)) for name, size in noise_sizes(agent).items()}
    first = memory.initial(z, noise["observe"])
    parts = ["features", *(f"inner_{i}" for i in range(len(first.inner)))]
    # clones: inputs that are one tensor, as zeros for h and c are, would be one in the graph
    state = {part: tensor.clone() for part, tensor in zip(parts, (first.features, *first.inner))}
    after = [f"next_{part}" for part in parts]
    named = {of: {noise_input(part): numbers for part, numbers in numbered.items()} for of, numbered in noise.items()}

    def state_of(given: Sequence[Tensor]) -> State:
        return State(given[0], tuple(given[1:len(parts)]))

    def initial(z: Tensor, *numbers: Tensor) -> list[Tensor]:
        state = memory.initial(z, dict(zip(noise["observe"], numbers)))
        return [state.features, *state.inner]

    def step(*given: Tensor) -> list[Tensor]:
        action, temperature, *numbers = given[len(parts):]
        imagined = memory.imagine(state_of(given), action, temperature, dict(zip(noise["imagine"], numbers)))
        state = imagined.state
        return [state.features, *state.inner, memory.latent(state), imagined.reward, imagined.p_done]

    def correct(*given: Tensor) -> list[Tensor]:
        z, *numbers = given[len(parts):]
        state = memory.correct(state_of(given), z, dict(zip(noise["observe"], numbers)))
        return [state.features, *state.inner]

    acting = {"action": torch.zeros(ROWS, agent.task.action_size), "temperature": torch.tensor(1.0)}
    return {"memory_initial": Graph(initial, {"z": z} | named["observe"], after),
            "memory_step": Graph(step, state | acting | named["imagine"], [*after, "z", "reward", "p_done"]),
            "memory_correct": Graph(correct, state | {"z": z} | named["observe"], after)}


def controller_graph(policy: Policy, features: Tensor) -> Graph:
    """A UserError where the controller needs more than features."""
    if not callable(getattr(policy, "act", None)):
        raise UserError("a controller that plans cannot be exported: it is no function of features")
    policy.reset([0])
    return Graph(lambda features: [policy(State(features, ()))], {"features": features}, ["action"])


def noise_input(part: str) -> str:
    """How the input for a part of the noise is called."""
    return f"noise_{part}".replace(" ", "_")


def example_z(agent: Agent) -> Tensor:
    return torch.randn(ROWS, agent.memory.z_size, generator=torch.Generator().manual_seed(0))


def noise_sizes(agent: Agent) -> dict[str, NoiseSize]:
    return {"observe": agent.memory.observe_noise, "imagine": agent.memory.imagine_noise}


class Traced(nn.Module):
    """A function as a module, with those whose weights it uses."""

    def __init__(self, function: Callable[..., Sequence[Tensor]], *modules: nn.Module):
        super().__init__()
        self.function, self.modules_used = function, nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.function(*inputs))


@torch.no_grad()
def write_graph(agent: Agent, graph: Graph, path: Path) -> bool:
    """The graph as an ONNX file; whether it takes batches of any size. The tracer cannot look through an ensemble's
    vmap: its graphs take one dream at a time. A UserError where the packages for all that are missing."""
    batch = torch.export.Dim("B")
    program = traced(agent, graph, tuple({0: batch} if tensor.dim() else None for tensor in graph.inputs.values()))
    free = all(isinstance(dims[0], str) for given in program.model.graph.inputs if (dims := sizes_of(given)))
    if not free:
        inputs = {name: tensor[:1] if tensor.dim() else tensor for name, tensor in graph.inputs.items()}
        program = traced(agent, graph._replace(inputs=inputs), None)
    temporary = path.with_name(f".{path.name}")
    program.save(temporary)
    os.replace(temporary, path)
    return free


def traced(agent: Agent, graph: Graph, sizes: tuple | None) -> "torch.onnx.ONNXProgram":
    """The graph, its inputs' dimensions free where `sizes` says so."""
    module = Traced(graph.function, agent.vision, agent.memory).eval()
    try:
        with quiet():
            return torch.onnx.export(
                module, tuple(graph.inputs.values()), dynamo=True, verbose=False, input_names=list(graph.inputs),
                output_names=graph.outputs, dynamic_shapes=None if sizes is None else (sizes,))
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: install what is needed with pip install 'worldmodels[export]'") from None


def sizes_of(value) -> list[int | str]:
    """Of a graph's input: a name where a dimension is free."""
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape.dims]


@contextlib.contextmanager
def quiet():
    """Without what torch's exporter says of itself."""
    logger, said = logging.getLogger("torch.onnx"), io.StringIO()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def export(agent: Agent, controller: PolicySpec | None, folder: Path, about: dict):
    """Every graph of an agent, and export.json with these and what is said `about` it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = graphs(agent, controller)
    free = {name: write_graph(agent, graph, folder / f"{name}.onnx") for name, graph in made.items()}
    named = lambda sizes: {noise_input(part): size for part, size in sizes.items()}
    noise = {of: {"uniform": named(size.uniform), "normal": named(size.normal)}
             for of, size in noise_sizes(agent).items()}
    described = {name: {"inputs": {part: ["B" if free[name] else 1, *tensor.shape[1:]] if tensor.dim() else []
                                   for part, tensor in graph.inputs.items()}, "outputs": graph.outputs}
                 for name, graph in made.items()}
    write_json(folder / "export.json", about | {"format": 1, "digest": agent.digest, "graphs": described,
                                                "noise": noise, "latent": agent.memory.config.latent})
