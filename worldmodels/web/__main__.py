"""python -m worldmodels.web: the dream in your browser, the game beside it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aiohttp import web

from worldmodels import runs
from worldmodels.commandline import Count, Range, check_ranges, errors_in_one_line, parsed
from worldmodels.types import UserError
from worldmodels.web.choices import choices
from worldmodels.web.server import application


@dataclass(frozen=True)
class WebConfig:
    host: str = "127.0.0.1"
    """The address to serve at: this machine alone can reach 127.0.0.1, everybody can reach 0.0.0.0."""
    port: Annotated[int, Range(1, 65_535)] = 8000
    """The port to serve at."""
    data: str = "data"
    """Where your runs are kept; the published ones are always there."""
    visitors: Count = 8
    """The most that may play at a time. One core serves several (benchmarks/web.py)."""


def serve(config: WebConfig):
    """Serves until Ctrl-C."""
    check_ranges(config)
    found = choices([runs.PUBLISHED, Path(config.data), runs.DATA])
    app = application(found, config.visitors)
    said = f"Play at http://{config.host}:{config.port}/ (Ctrl-C ends it)"
    try:
        web.run_app(app, host=config.host, port=config.port, shutdown_timeout=2,
                    print=lambda _: print(said, flush=True))             # once it listens
    except OSError as error:
        raise UserError(f"--host {config.host} --port {config.port}: {error.strerror or error}; choose another") \
            from None


def main():
    """The command line."""
    with errors_in_one_line("begins anew"):
        serve(parsed(WebConfig(), sys.argv[1:], "Play inside the dream in your browser, the real game beside it."))


if __name__ == "__main__":
    main()
