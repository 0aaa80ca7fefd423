"""Command lines from dataclasses (tyro), and mistakes in one line."""

import contextlib
import errno
import io
import re
import sys
from typing import Sequence, TypeVar

import tyro

from worldmodels.types import UserError

T = TypeVar("T")


def parsed(default: T, arguments: Sequence[str], description: str | None) -> T:
    """The dataclass `default` with what the arguments change; tyro's boxed error is folded into one line, a UserError."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(type(default), args=arguments, default=default, description=description,
                            config=(tyro.conf.FlagConversionOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = (line.strip(" |│") for line in re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue()).splitlines())
        text = " ".join(line for line in lines if not re.match(r"[+╭╰]|[-─]+$", line))         # without the box's borders
        text = re.split(r"Argument helptext:|For full helptext", text)[0]
        raise UserError(" ".join(text.split()) + " (--help lists every setting)") from None


@contextlib.contextmanager
def errors_in_one_line(again: str):
    """Exit code 2 and one line for a user's mistake or a full disk, 130 after Ctrl-C; `again` says what the same command then does."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: no space left on the disk: free some, and the same command {again}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\ninterrupted: the same command {again}", file=sys.stderr)
        sys.exit(130)
