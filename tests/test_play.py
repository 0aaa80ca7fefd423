"""Playing in the dream: the real pygame, without a display."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

os.environ["SDL_VIDEODRIVER"] = "dummy"

import pygame  # noqa: E402

from worldmodels.agent import load_agent, load_controller  # noqa: E402
from worldmodels.play import GAP, SIDE, TAU, PlayConfig, Player, play  # noqa: E402
from worldmodels.runs import find  # noqa: E402
from worldmodels.types import UserError  # noqa: E402
from worldmodels.worlds.collect import CollectConfig  # noqa: E402
from worldmodels.worlds.dream import DreamConfig, DreamWorld  # noqa: E402
from worldmodels.worlds.pair import COLDEST, Pair  # noqa: E402

GAMES = ("car_racing", "take_cover")


@pytest.fixture(scope="module")
def pairs():
    """A pair of worlds for each game, of the published runs."""
    made = {}
    for task in GAMES:
        run = find(task).last("memory")
        made[task] = Pair(load_agent(run), run.settings(CollectConfig, "collect"), 1.0)
    yield made
    for pair in made.values():
        pair.close()


@pytest.fixture
def player(pairs):
    pygame.display.init()
    pair = pairs["take_cover"]
    pair.temperature = 1.0
    yield Player(pair, load_controller(find("take_cover").last("controller"), pair.agent), "you", 3)
    pygame.quit()


def press(player, key, up=False):
    pygame.event.post(pygame.event.Event(pygame.KEYUP if up else pygame.KEYDOWN, key=key))
    player.listen()


@pytest.mark.parametrize("task", GAMES)
def test_dream_and_game_begin_alike_and_take_the_same_actions(pairs, task):
    pair = pairs[task]
    pair.begin(5)
    assert torch.equal(pair.dream.state.features, pair.game.state.features)
    first = pair.game.frames[0].copy()
    action = np.ones(pair.task.action_size, np.float32)
    for _ in range(6):
        pair.step(action)
    assert not torch.equal(pair.dream.state.features, pair.game.state.features)
    assert not np.array_equal(pair.game.frames[0], first)
    assert pair.played.steps == pair.dreamed.steps == 6
    pair.wake()
    assert torch.equal(pair.dream.state.features, pair.game.state.features) and pair.dreamed.steps == 0


def test_the_dream_of_a_seed_has_the_worlds_noise(pairs):
    """From the same state on it is the dream that DreamWorld would dream."""
    pair = pairs["take_cover"]
    pair.begin(5)
    world = DreamWorld(pair.agent.memory, None, DreamConfig(pair.temperature))
    world.begin(pair.game.state, [5])
    for _ in range(5):
        step = world.step(torch.ones(1, 1))
        pair.step(np.ones(1, np.float32))
        assert torch.equal(step.state.features, pair.dream.state.features)


def test_what_is_over_stands_still(pairs):
    pair = pairs["take_cover"]
    pair.begin(5)
    pair.step(np.zeros(1, np.float32))
    pair.dreamed.terminated, dreamt, before = True, pair.dream.state.features, pair.dreamed.score
    pair.step(np.zeros(1, np.float32))
    assert torch.equal(pair.dream.state.features, dreamt) and pair.dreamed.score == before and pair.played.steps == 2
    pair.dreamed.terminated, pair.played.truncated = False, True
    pair.step(np.zeros(1, np.float32))
    assert pair.played.steps == 2 and pair.dreamed.steps == 2 and not torch.equal(pair.dream.state.features, dreamt)


def test_keys_act_while_they_are_held(player):
    assert player.action() == 0
    press(player, pygame.K_LEFT)
    assert player.action() == -1
    press(player, pygame.K_RIGHT)
    assert player.action() == 0
    press(player, pygame.K_LEFT, up=True)
    assert player.action() == 1


def test_the_keys_of_the_car(pairs):
    pygame.display.init()
    player = Player(pairs["car_racing"], None, "you", 0)
    for key in (pygame.K_UP, pygame.K_LEFT, pygame.K_c):        # there is no controller to act
        press(player, key)
    assert player.action().tolist() == [-1, 1, 0] and player.action() in player.space
    pygame.quit()


def test_other_keys(player):
    press(player, pygame.K_PLUS)
    press(player, pygame.K_KP_PLUS)
    assert player.pair.temperature == pytest.approx(1 + 2 * TAU)
    for _ in range(40):
        press(player, pygame.K_MINUS)
    assert player.pair.temperature == COLDEST
    press(player, pygame.K_r)
    assert player.seed == 4 and player.pair.played.steps == 0
    player.pair.step(np.zeros(1, np.float32))
    press(player, pygame.K_SPACE)
    assert player.pair.dreamed.steps == 0 and player.pair.played.steps == 1
    press(player, pygame.K_ESCAPE)
    assert not player.open


def test_the_controller_acts_by_the_dream_or_by_the_game(player):
    for _ in range(20):
        player.pair.step(np.ones(1, np.float32))
    for actor, world in (("dream", player.pair.dream), ("game", player.pair.game)):
        press(player, pygame.K_c)
        assert player.actor == actor and player.action() == player.policy(world.state)[0].numpy()
    press(player, pygame.K_c)
    assert player.actor == "you"


def test_the_window_shows_dream_and_game(player):
    picture = player.show()
    _, kept, seen = (picture[28:28 + SIDE, i * (SIDE + GAP):][:, :SIDE] for i in range(3))
    assert np.array_equal(seen[2::5, 2::5], player.pair.game.frames[0])
    agent = player.pair.agent
    assert np.array_equal(kept[2::5, 2::5], agent.decode(agent.memory.latent(player.pair.game.state)[0]))
    assert picture[:24].any() and picture[-60:].any()           # there is text above and below
    assert not picture[28:28 + SIDE, SIDE:SIDE + GAP].any()     # and nothing between the pictures


@pytest.mark.parametrize("task", GAMES)
def test_a_latent_that_is_set_is_the_dreams_present(pairs, task):
    pair = pairs[task]
    pair.begin(5)
    z = pair.latent + 1
    before = pair.pictures()
    pair.replace_latent(z)
    assert np.allclose(pair.latent, z) and not np.array_equal(pair.pictures()["dream"], before["dream"])
    assert np.array_equal(pair.pictures()["game"], before["game"])


def test_a_film_without_a_window(tmp_path, capsys):
    play(PlayConfig(headless=30, film=str(tmp_path / "film.webp"), actor="dream", seed=2))
    film = Image.open(tmp_path / "film.webp")
    assert film.n_frames == 30 and film.size[0] == 3 * SIDE + 2 * GAP
    assert "30 steps" in capsys.readouterr().out


def test_a_dream_is_no_longer_than_the_game(pairs, monkeypatch):
    """CarRacing's ends by the clock alone, where the car keeps to its world."""
    pair = pairs["car_racing"]
    assert pair.dream.config.max_steps == pair.task.max_steps // 4
    pair.begin(5)
    monkeypatch.setattr(pair.dream, "config", replace(pair.dream.config, max_steps=4))
    for _ in range(6):
        pair.step(np.zeros(3, np.float32))
    assert pair.dreamed.truncated and pair.dreamed.steps == 4 and pair.played.steps == 6
    pair.wake()
    pair.step(np.zeros(3, np.float32))
    assert not pair.dreamed.over and pair.dreamed.steps == 1


@pytest.mark.parametrize("config, named", (
    (PlayConfig(run="nowhere"), "no run nowhere of take_cover"),
    (PlayConfig(task="nowhere"), "no task nowhere"),
    (PlayConfig(task="os:getcwd"), "--task os:getcwd"),
    (PlayConfig(headless=1, temperature=-1), "--temperature -1"),
    (PlayConfig(headless=1, temperature=np.inf), "--temperature inf"),
    (PlayConfig(headless=-3), "--headless -3"),
    (PlayConfig(headless=1, seed=-1), "--seed -1"),
    (PlayConfig(headless=1, film="x.gif"), "--film x.gif"),
    (PlayConfig(headless=1, film="/nowhere/x.webp"), "--film /nowhere"),
    (PlayConfig(headless=1, film="FOLDER"), "--film .*a.webp: must be a FILE.webp"),
    (PlayConfig(headless=1, run=str(find("car_racing").root)), "is a run of car_racing"),
    (PlayConfig(), "there is no display"),
))
def test_what_cannot_be_played_says_why(config, named, tmp_path):
    if config.film == "FOLDER":
        (tmp_path / "a.webp").mkdir()
        config = replace(config, film=str(tmp_path / "a.webp"))
    with pytest.raises(UserError, match=named):
        play(config)


ONCE_SHOWN = """
from worldmodels import play as playing
show = playing.Player.show
def first(player):
    print("ready", flush=True)
    playing.Player.show = show
    return show(player)
playing.Player.show = first
playing.play(playing.PlayConfig(headless=10**9))
"""


def test_ctrl_c_ends_it_quietly():
    """The signal goes to the whole group, as a terminal sends it: the game's engine too."""
    process = subprocess.Popen([sys.executable, "-c", ONCE_SHOWN], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "steps" in out and "Traceback" not in err, err
