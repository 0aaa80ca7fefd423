"""One visitor's dream and game: what the page asks for, checked, done and packed. It knows no network."""

import inspect
import json
import math
import struct
import threading
from typing import Any

import numpy as np
import torch

from worldmodels.executors import ctrl_c_waits
from worldmodels.runs import EVALUATION
from worldmodels.types import UserError
from worldmodels.web.choices import Choice
from worldmodels.worlds.pair import COLDEST, Pair, Progress

HOTTEST = 3.0               # the highest temperature that a visitor may ask for
LATENT = 20.0               # bound on a latent's number, which V has seen within some 4 of zero
STARTING = threading.Lock()     # ViZDoom hangs where two threads of a process start engines at the same time
ACTORS = ("you", "dream", "game")


class Session:
    """Answers requests, dicts that came from outside: a UserError says what is wrong with one.

        {"do": "begin", "seed": 3}              an episode: the game of this seed, and the dream of its first frame
        {"do": "wake"}                          the dream goes on from the game's present
        {"do": "step", "actor": "you", "action": [A numbers], "temperature": 1.1, "z": None or [Z numbers]}
                                                "actor": who acts, or what the controller sees that does; z replaces
                                                the dream's latent before the step
        {"do": "look", "z": [Z numbers]}        V's picture of a latent; nothing else happens

    An answer is a view (`packed`).
    """

    def __init__(self, choice: Choice):
        torch.set_num_threads(1)                        # of this thread
        self.choice, self.agent, self.space = choice, choice.agent, choice.agent.task.action_space
        self.pair = Pair(self.agent, choice.collect, choice.temperature)
        self.policy = None if choice.controller is None else self.agent.policy_of(choice.controller)
        self.begun = False

    def answer(self, request: Any) -> bytes:
        """The view that a request leads to."""
        if not isinstance(request, dict):
            raise UserError("a request is an object")
        name, given = request.get("do"), {key: value for key, value in request.items() if key != "do"}
        if name not in ("begin", "wake", "step", "look"):
            raise UserError("do: must be begin, wake, step or look")
        if not self.begun and name != "begin":
            raise UserError("the first request is begin")
        method = getattr(self, name)
        try:
            inspect.signature(method).bind(**given)
        except TypeError as error:
            raise UserError(f"not what {name} takes ({error})") from None
        return method(**given)

    def begin(self, seed: Any) -> bytes:
        if type(seed) is not int or not 0 <= seed < EVALUATION.stop:
            raise UserError(f"seed: must be a whole number from 0 to {EVALUATION.stop - 1}")
        with STARTING, ctrl_c_waits():                  # starts a game engine
            self.pair.begin(seed)
        if self.policy:
            self.policy.reset([seed])
        self.begun = True
        return self.view(np.zeros(self.space.shape, np.float32))

    def wake(self) -> bytes:
        self.pair.wake()
        return self.view(np.zeros(self.space.shape, np.float32))

    def step(self, actor: Any, action: Any, temperature: Any, z: Any = None) -> bytes:
        self.pair.temperature = numbers([temperature], 1, COLDEST, HOTTEST, "temperature")[0].item()
        if z is not None:
            self.pair.replace_latent(self.latent(z))
        if actor not in ACTORS:
            raise UserError(f"actor: must be one of {', '.join(ACTORS)}")
        if actor == "you":
            chosen = np.clip(numbers(action, self.space.shape[0], -9, 9, "action"), self.space.low, self.space.high)
        elif self.policy is None:
            raise UserError("this run has no controller")
        else:
            chosen = self.pair.act(self.policy, actor)
        self.pair.step(chosen)
        return self.view(chosen)

    def look(self, z: Any) -> bytes:
        latent = self.latent(z)
        return packed({"z": latent.tolist()}, {"dream": self.agent.decode(latent)})

    def latent(self, z: Any) -> np.ndarray:
        return numbers(z, self.agent.memory.z_size, -LATENT, LATENT, "z")

    def view(self, action: np.ndarray) -> bytes:
        pair = self.pair
        return packed({"dream": shown(pair.dreamed), "game": shown(pair.played), "z": pair.latent.tolist(),
                       "action": action.tolist()}, pair.pictures())

    def close(self):
        self.pair.close()


def shown(progress: Progress) -> dict:
    """What the page shows of an episode."""
    return {"return": progress.score, "steps": progress.steps, "terminated": progress.terminated,
            "truncated": progress.truncated}


def packed(facts: dict, pictures: dict[str, np.ndarray]) -> bytes:
    """A view: the length of its facts as 4 bytes (little-endian), the facts as JSON with the names of the "pictures",
    and these as 64×64 RGB bytes, one behind the other."""
    text = json.dumps(facts | {"pictures": list(pictures)}).encode()
    return b"".join([struct.pack("<I", len(text)), text, *(picture.tobytes() for picture in pictures.values())])


def numbers(values: Any, count: int, low: float, high: float, name: str) -> np.ndarray:
    """What came from outside as [count] float32; a UserError where it is none of so many numbers in these bounds."""
    plain = isinstance(values, list) and len(values) == count and all(type(value) in (int, float) for value in values)
    if not plain or not all(math.isfinite(value) and low <= value <= high for value in values):
        raise UserError(f"{name}: must be {count} number{'s' * (count > 1)} from {low:g} to {high:g}")
    return np.array(values, np.float32)
