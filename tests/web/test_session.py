"""A visitor's session without a network: what it answers, and what it refuses."""

import json
import struct

import numpy as np
import pytest

from worldmodels import runs
from worldmodels.types import UserError
from worldmodels.web.choices import choices
from worldmodels.web.session import HOTTEST, Session
from worldmodels.worlds.pair import COLDEST

GAMES = ("car_racing", "take_cover")
STEP = {"do": "step", "actor": "you", "action": [0.0], "temperature": 1.0}


@pytest.fixture(scope="module")
def known():
    return choices([runs.PUBLISHED])


@pytest.fixture(scope="module")
def sessions(known):
    made = {task: Session(known[f"{task}/laptop"]) for task in GAMES}
    yield made
    for session in made.values():
        session.close()


def read(view):
    """The facts and pictures of an answer."""
    length, = struct.unpack("<I", view[:4])
    facts, rest = json.loads(view[4:4 + length]), np.frombuffer(view[4 + length:], np.uint8)
    return facts, dict(zip(facts["pictures"], rest.reshape(-1, 64, 64, 3)))


@pytest.fixture
def ask(sessions):
    return lambda task, **request: read(sessions[task].answer(request))


@pytest.mark.parametrize("task", GAMES)
def test_an_answer_has_the_pairs_pictures_and_numbers(sessions, ask, task):
    ask(task, do="begin", seed=4)
    held = list(next(iter(sessions[task].agent.task.keys.values())))
    for _ in range(5):
        facts, pictures = ask(task, do="step", actor="you", action=held, temperature=1.2)
    pair = sessions[task].pair
    assert facts["action"] == held and facts["dream"]["steps"] == facts["game"]["steps"] == 5
    assert facts["dream"]["return"] == pair.dreamed.score and facts["game"]["return"] == pair.played.score
    assert np.array_equal(pictures["game"], pair.game.frames[0]) and pair.temperature == pytest.approx(1.2)
    assert np.array_equal(pictures["dream"], pair.agent.decode(np.array(facts["z"], np.float32)))


def test_the_same_seed_and_actions_are_the_same_dream_and_others_another(ask):
    def played(seed, action):
        ask("take_cover", do="begin", seed=seed)
        return [ask("take_cover", **STEP | {"action": [action]})[0]["z"] for _ in range(8)]

    assert played(3, 1) == played(3, 1)
    assert played(3, 1) != played(3, -1) and played(3, 1) != played(4, 1)


def test_the_controller_acts_by_what_it_sees(sessions, ask):
    ask("take_cover", do="begin", seed=3)
    for _ in range(10):
        ask("take_cover", **STEP | {"action": [1]})
    pair, policy = sessions["take_cover"].pair, sessions["take_cover"].policy
    for sees, world in (("dream", pair.dream), ("game", pair.game)):
        wanted = policy(world.state)[0].tolist()
        assert ask("take_cover", **STEP | {"actor": sees})[0]["action"] == wanted


def test_a_latent_that_is_moved_is_seen_and_dreamt_on_from(ask):
    facts, before = ask("take_cover", do="begin", seed=3)
    z = [number + 1 for number in facts["z"]]
    looked, picture = ask("take_cover", do="look", z=z)
    assert looked["z"] == pytest.approx(z) and not np.array_equal(picture["dream"], before["dream"])
    alone, _ = ask("take_cover", **STEP)
    ask("take_cover", do="begin", seed=3)
    moved, _ = ask("take_cover", **STEP | {"z": z})
    assert moved["z"] != alone["z"]


def test_the_dream_goes_on_from_the_games_present(ask):
    ask("take_cover", do="begin", seed=3)
    for _ in range(6):
        ask("take_cover", **STEP)
    facts, pictures = ask("take_cover", do="wake")
    assert facts["dream"]["steps"] == 0 and facts["game"]["steps"] == 6
    assert np.array_equal(pictures["dream"], pictures["kept"])


def test_an_action_is_clipped_to_what_the_game_takes(ask):
    ask("car_racing", do="begin", seed=1)
    facts, _ = ask("car_racing", do="step", actor="you", action=[-3, -1, 9], temperature=1.0)
    assert facts["action"] == [-1, 0, 1]


@pytest.mark.parametrize("request_, named", (
    ([], "object"), ("begin", "object"), (None, "object"),
    ({}, "do"), ({"do": "close"}, "do"), ({"do": ["x"]}, "do"),
    ({"do": "begin"}, "not what begin takes"), ({"do": "begin", "x": 1}, "begin"), ({"do": "wake", "self": 1}, "wake"),
    ({"do": "begin", "seed": -1}, "seed"), ({"do": "begin", "seed": 10**30}, "seed"),
    ({"do": "begin", "seed": "1"}, "seed"), ({"do": "begin", "seed": True}, "seed"),
    (STEP | {"actor": "me"}, "actor"), (STEP | {"actor": []}, "actor"),
    (STEP | {"action": [0, 0]}, "action"), (STEP | {"action": [float("nan")]}, "action"),
    (STEP | {"action": [None]}, "action"), (STEP | {"action": 1}, "action"), (STEP | {"action": [True]}, "action"),
    (STEP | {"temperature": float("inf")}, "temperature"), (STEP | {"temperature": "1"}, "temperature"),
    (STEP | {"temperature": COLDEST / 2}, "temperature"), (STEP | {"temperature": HOTTEST + 1}, "temperature"),
    (STEP | {"z": [0.0] * 31}, "z: must be 32"), (STEP | {"z": [1e9] * 32}, "z: "),
    ({"do": "look", "z": "0" * 32}, "z: "), ({"do": "look"}, "look"),
))
def test_nonsense_is_refused_by_name(sessions, ask, request_, named):
    ask("take_cover", do="begin", seed=0)
    asked = dict(request_) if isinstance(request_, dict) else request_
    with pytest.raises(UserError, match=named):
        sessions["take_cover"].answer(asked)
    ask("take_cover", **STEP)                       # nothing else has come of it


def test_nothing_comes_before_the_beginning(known):
    session = Session(known["car_racing/laptop"])
    with pytest.raises(UserError, match="begin"):
        session.answer({"do": "wake"})
    session.close()


def test_a_run_without_a_controller_is_played_by_the_visitor(known, monkeypatch):
    choice = choices([runs.PUBLISHED])["take_cover/laptop"]
    choice.__dict__["controller"] = None            # what the property would find
    session = Session(choice)
    assert choice.described()["controller"] is False
    session.answer({"do": "begin", "seed": 0})
    session.answer(dict(STEP))
    with pytest.raises(UserError, match="no controller"):
        session.answer(STEP | {"actor": "dream"})
    session.close()


def test_world_models_of_a_comparison_are_played_too(known):
    """They are published without a V: it is that of the run."""
    names = [name for name in known if name.count("/") == 2]
    assert {name.split("/")[2] for name in names} >= {"gru-0", "rssm-0", "ensemble-0"}
    for name in names:
        session = Session(known[name])
        session.answer({"do": "begin", "seed": 1})
        for _ in range(3):
            facts, _ = read(session.answer(STEP | {"actor": "dream", "z": [0.1] * 32}))
        assert facts["dream"]["steps"] + facts["dream"]["terminated"] >= 1
        session.close()
