"""The server over real sockets: the page, visitors, and what is refused."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from tests.web.conftest import free_port
from worldmodels import runs
from worldmodels.types import UserError
from worldmodels.web import server
from worldmodels.web.choices import choices

BEGIN = {"do": "begin", "seed": 1}


@pytest.fixture(scope="module")
def known():
    return choices([runs.PUBLISHED])


def serving(known, visit, most=8):
    """What visit(session, address) returns, a visitor at a server of its own."""
    async def go():
        async with TestServer(server.application(known, most)) as there, aiohttp.ClientSession() as session:
            return await visit(session, str(there.make_url("/")))
    return asyncio.run(go())


async def reply(socket, request):
    await socket.send_str(request if isinstance(request, str) else json.dumps(request))
    return await socket.receive(timeout=60)


def test_the_page_is_all_there_and_may_load_nothing_from_elsewhere(known):
    async def visit(session, address):
        found = {}
        for name in ("", "play.js", "style.css", "server_world.js", "runs.json"):
            async with session.get(address + name) as answer:
                assert answer.status == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
                found[name] = await answer.text()
        return found

    found = serving(known, visit)
    assert not re.search(r"(src|href)=\"(https?:)?//(?!arxiv)", found[""])
    assert {run["id"] for run in json.loads(found["runs.json"])["runs"]} == set(known)


@pytest.mark.parametrize("name", ("README.md", "nothing.js", "../runs.py", "%2e%2e/setup.cfg", "models/x.html"))
def test_nothing_else_is_served(known, name):
    async def visit(session, address):
        async with session.get(aiohttp.client.URL(address + name, encoded=True)) as answer:
            return answer.status
    assert serving(known, visit) == 404


def test_visitors_play_at_the_same_time_each_in_a_session_of_its_own(known):
    async def visit(session, address):
        async def one(seed):
            async with session.ws_connect(address + "play?run=take_cover/laptop") as socket:
                seen = [(await reply(socket, BEGIN | {"seed": seed})).data]
                for _ in range(5):
                    step = {"do": "step", "actor": "dream", "action": [], "temperature": 1.0}
                    seen.append((await reply(socket, step)).data)
                return seen
        return await asyncio.gather(one(1), one(2), one(1))

    first, second, third = serving(known, visit)
    assert first == third and first != second and len(set(first)) == 6


@pytest.mark.parametrize("request_, why", (
    ("{", "JSON"), ("[" * 10_000, "JSON"), ("[]", "object"), ({"do": "step"}, "first request"),
    (BEGIN | {"seed": None}, "seed")))
def test_nonsense_ends_a_session_and_nothing_else(known, request_, why):
    async def visit(session, address):
        async with session.ws_connect(address + "play?run=car_racing/laptop") as socket:
            message = await reply(socket, request_)
            closed = await socket.receive(timeout=10)
        async with session.ws_connect(address + "play?run=car_racing/laptop") as other:
            return message, closed, await reply(other, BEGIN)

    message, closed, after = serving(known, visit)
    assert why in json.loads(message.data)["error"] and closed.type == aiohttp.WSMsgType.CLOSE
    assert after.type == aiohttp.WSMsgType.BINARY


def test_a_huge_message_ends_the_session(known):
    async def visit(session, address):
        async with session.ws_connect(address + "play?run=car_racing/laptop") as socket:
            return await reply(socket, "x" * (server.REQUEST_BYTES + 1))
    assert serving(known, visit).type == aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize("run", ("", "nowhere", "../../etc", "take_cover"))
def test_only_listed_runs_are_played(known, run):
    async def visit(session, address):
        async with session.ws_connect(f"{address}play?run={run}") as socket:
            return await socket.receive(timeout=10)
    assert "no such run" in serving(known, visit).data


def test_the_page_of_another_server_may_not_play(known):
    async def visit(session, address):
        async with session.ws_connect(address + "play?run=car_racing/laptop", origin=address.rstrip("/")) as socket:
            assert (await reply(socket, BEGIN)).type == aiohttp.WSMsgType.BINARY
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(address + "play?run=car_racing/laptop", origin="https://elsewhere.example")
        return refused.value.status
    assert serving(known, visit) == 403


def test_one_visitor_too_many_is_told_so_until_somebody_leaves(known):
    async def visit(session, address):
        address += "play?run=car_racing/laptop"
        async with session.ws_connect(address) as first:
            await reply(first, BEGIN)
            async with session.ws_connect(address) as second:
                refused = await second.receive(timeout=10)
        for _ in range(100):
            async with session.ws_connect(address) as third:
                after = await reply(third, BEGIN)
                if after.type == aiohttp.WSMsgType.BINARY:
                    return refused, after
            await asyncio.sleep(0.05)
    refused, after = serving(known, visit, most=1)
    assert "try again later" in refused.data and after.type == aiohttp.WSMsgType.BINARY


def test_a_silent_visitor_is_sent_away_and_its_engine_ends(known, monkeypatch):
    monkeypatch.setattr(server, "SILENCE", 0.5)

    async def visit(session, address):
        async with session.ws_connect(address + "play?run=take_cover/laptop") as socket:
            await reply(socket, BEGIN)
            return await socket.receive(timeout=10)

    assert "nothing was asked for" in serving(known, visit).data


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no run"):
        server.application(choices([tmp_path]))


def damaged_run(data, name):
    """The files that a run is known by, with nothing in them."""
    made = data / "car_racing" / name
    (made / "checkpoints").mkdir(parents=True)
    for file in ("config.json", "checkpoints/memory.safetensors"):
        (made / file).write_text("{}")


def test_a_games_default_run_comes_first(tmp_path):
    for name in ("another", runs.DEFAULT, "that"):
        damaged_run(tmp_path, name)
    assert [choice.run.root.name for choice in choices([tmp_path]).values()] == [runs.DEFAULT, "another", "that"]


def test_a_damaged_run_is_left_out(tmp_path, known):
    damaged_run(tmp_path, "broken")
    found = choices([runs.PUBLISHED, tmp_path])
    assert "car_racing/broken" in found
    assert server.CHOICES in (app := server.application(found)) and set(app[server.CHOICES]) == set(known)


def test_the_command_serves_until_ctrl_c():
    command = [sys.executable, "-m", "worldmodels.web", "--port", free_port()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    try:
        said = process.stdout.readline()
        with urllib.request.urlopen(re.search(r"http://\S+", said).group(), timeout=30) as page:
            assert b"Play inside a dream" in page.read()
        other = subprocess.run(command, capture_output=True, text=True)
        assert other.returncode == 2 and other.stderr.count("\n") == 1, other.stderr
        assert f"--port {command[-1]}" in other.stderr
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (0, 130) and "Traceback" not in err, err
