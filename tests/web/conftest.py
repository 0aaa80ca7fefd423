"""A real browser, and the page at an address."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from worldmodels.web.server import PAGE

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def free_port() -> str:
    """One that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Without one these tests are skipped, but not in CI. A module's own: while it is open, nothing
    else in this thread can run coroutines."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("there is no Chromium here; $CHROMIUM names one elsewhere")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served():
    """The address of `python -m worldmodels.web`."""
    command = [sys.executable, "-m", "worldmodels.web", "--port", free_port(), "--data", "nowhere"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[2]
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def static():
    """The address of the page without a server of ours, as `make play` builds it. Where it has not been built these
    tests are skipped, but not in CI."""
    if not (PAGE / "runs.json").exists() and not os.environ.get("CI"):
        pytest.skip("docs/play is not built: `make play` does it")
    handler = partial(SimpleHTTPRequestHandler, directory=PAGE)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
