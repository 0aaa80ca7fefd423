"""Settings as dataclasses: what a value may be, the command line made of them (tyro), and mistakes in one line."""

import contextlib
import difflib
import errno
import io
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import tyro

from worldmodels.errors import StopTraining, UserError, WorkerDied

T = TypeVar("T")
LARGEST = 2**63 - 1                                 # whole number that arrays and generators take


class Range(NamedTuple):
    """What a number may be, stated beside its field: `steps: Annotated[int, Range(1)]`."""

    least: float
    most: float = math.inf

    def error(self, value: float) -> str | None:
        """What is wrong with a value, if anything is."""
        top = min(self.most, LARGEST) if isinstance(value, Integral) else self.most
        if self.least <= value <= top and value != math.inf:
            return None
        if value == math.inf:
            return "must be finite"
        least, most = (f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (self.least, top))
        return f"must be {least} to {most}" if top < value or self.most < math.inf else f"must be at least {least}"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Size = Annotated[int, Range(1, 65_536)]             # of a layer
Weight = Annotated[float, Range(0)]
Number = Annotated[float, Range(-1e9, 1e9)]
Positive = Annotated[float, Range(1e-12)]
Temperature = Annotated[float, Range(1e-6)]
Share = Annotated[float, Range(0, 1)]
Skill = Annotated[int, Range(1, 5)]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}     # what the system says of a disk that takes no more ...
# ... and of a path
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
            errno.ELOOP}
NO_MEMORY = "not enough memory: choose smaller sizes or batches, or fewer --workers"
LONGEST = 1000                                      # characters of an error's line

# other programs' names
ALIASES = {"lr": "learning-rate", "epochs": "steps", "popsize": "population", "tau": "temperature"}


def leaves(config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of nested dataclasses by its dotted name."""
    for f in fields(config):
        value = getattr(config, f.name)
        yield from leaves(value, f"{prefix}{f.name}.") if is_dataclass(value) else [(prefix + f.name, value)]


def flag(name: str) -> str:
    """The option of a setting's dotted name."""
    return f"--{name.replace('_', '-')}"


def check_ranges(config, prefix: str = ""):
    """Raises UserError for a number in nested dataclasses that is outside the Range of its field."""
    for f in fields(config):
        if is_dataclass(getattr(config, f.name)):
            check_ranges(getattr(config, f.name), f"{prefix}{f.name}.")
    names = {f.name: flag(prefix + f.name) for f in fields(config)}
    check_values(type(config), {f.name: getattr(config, f.name) for f in fields(config)}, names)


def check_values(cls, values: dict[str, Any], names: dict[str, str]):
    """Raises UserError for a value that a field of the dataclass `cls` cannot have: of another type, outside its Range,
    or none of its choices. `names` says how the user calls a field, where not by its name."""
    hints = get_type_hints(cls, include_extras=True)
    for field_name, value in values.items():
        name, hint = names.get(field_name, field_name), hints[field_name]
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise UserError(f"{name} {value!r}: must be {' or '.join(map(str, get_args(hint)))}")
        plain = hint.__origin__ if get_origin(hint) is Annotated else hint
        of, parts = (get_args(plain)[0], value) if get_origin(plain) is tuple else (plain, [value])
        if of is str and not all(isinstance(part, str) for part in parts):
            raise UserError(f"{name} {value!r}: must be text")
        for allowed in getattr(hint, "__metadata__", ()):
            for number in parts:
                whole = of is int
                if isinstance(number, bool) or not isinstance(number, Integral if whole else Real):
                    raise UserError(f"{name} {number!r}: must be a {'whole ' if whole else ''}number")
                if error := allowed.error(number):
                    raise UserError(f"{name} {number}: {error}")


def described(default, choices: Mapping[str, Iterable[str]], hidden: Iterable[str], path: str = ""):
    """The dataclass `default` as the parser shall see it: with `choices` by dotted name, and without the `hidden`
    sections and settings."""
    types, values, hints = {}, {}, get_type_hints(type(default), include_extras=True)
    for f in fields(default):
        value, name = getattr(default, f.name), path + f.name
        if is_dataclass(value):
            values[f.name] = section = described(value, choices, hidden, name + ".")
            types[f.name] = tyro.conf.Suppress[type(section)] if name in hidden else type(section)
        else:
            values[f.name] = value
            types |= {f.name: Literal[tuple(choices[name])]} if name in choices else {}
            types |= {f.name: tyro.conf.Suppress[hints[f.name]]} if name in hidden else {}
    cls = type(default)
    written = "" if (cls.__doc__ or "").startswith(f"{cls.__name__}(") else cls.__doc__     # else the dataclass's own
    about = {"__annotations__": types, "__doc__": written, "__module__": cls.__module__}
    defaults = {name: field(default=None) for name in types}
    return dataclass(frozen=True)(type(cls.__name__, (cls,), defaults | about))(**values)


def parsed(default: T, arguments: Sequence[str], description: str | None,
           choices: Mapping[str, Iterable[str]] = MappingProxyType({}),
           hidden: Iterable[str] = (), without: Iterable[str] = ()) -> T:
    """The dataclass `default` with what the arguments change; tyro's boxed error is folded into one line, a UserError.

    `choices` are what settings may be, by dotted name. Of the sections `hidden` --help shows nothing, and --help-all
    everything. Settings `without` are no options.
    """
    if "--help-all" in arguments:
        arguments, hidden = ["--help"], ()
    known = {flag(name) for name, _ in leaves(default) if name not in without}
    for argument in arguments:
        name = argument.split("=")[0].replace("_", "-")
        if re.match("--[a-z]", name) and name not in known and name != "--help":
            raise UserError(f"no option {name}{suggestions(name, known)} (--help-all lists every setting)")
    hidden = hidden if {"--help", "-h"} & set(arguments) else ()
    if hidden:
        description = f"{description or ''}\n--help-all shows the settings of the other stages too."
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            shown = described(default, choices, {*hidden, *without})
            found = tyro.cli(type(shown), args=arguments, default=shown, description=description,
                             config=(tyro.conf.FlagConversionOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = (line.strip(" |│") for line in re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue()).splitlines())
        text = " ".join(line for line in lines if not re.match(r"[+╭╰]|[-─]+$", line))  # without the box's borders
        text = re.split(r"Argument helptext:|For full helptext", text)[0]
        raise UserError(" ".join(text.split()) + " (--help lists the settings)") from None
    return plain(found, default)


def suggestions(name: str, known: Iterable[str]) -> str:
    """", did you mean ...": the options whose last part is the same, or spelt alike."""
    last = lambda option: option.removeprefix("--").split(".")[-1]
    wanted, parts = ALIASES.get(last(name), last(name)), sorted(set(map(last, known)))
    meant = [wanted] if wanted in parts else difflib.get_close_matches(wanted, parts, 2)
    found = sorted(option for option in known if last(option) in meant)
    return f": did you mean {' or '.join(found)}?" if found else ""


def plain(found, default: T) -> T:
    """What was parsed, in the types of `default`."""
    return type(default)(**{f.name: plain(value, getattr(default, f.name)) if is_dataclass(value) else value
                            for f in fields(default) for value in [getattr(found, f.name)]})


@contextlib.contextmanager
def errors_in_one_line(again: str):
    """Exit code 2 and one line for a user's mistake, a disk that takes no more or memory that does not suffice, 130
    after Ctrl-C or StopTraining; `again` says what the same command then does."""
    try:
        yield
    except UserError as error:
        stop_with(str(error))
    except MemoryError:
        stop_with(NO_MEMORY)
    except WorkerDied as error:
        stop_with(f"{error}. Often memory does not suffice: try fewer --workers; the same command {again}")
    except RuntimeError as error:
        if not any(words in str(error) for words in ("DefaultCPUAllocator", "out of memory", "can't start new thread")):
            raise
        stop_with(NO_MEMORY)
    except OSError as error:
        if error.errno == errno.ENOMEM:                 # of a process that could not be started
            stop_with(NO_MEMORY)
        if error.errno in FULL:
            stop_with(f"no space left on the disk: free some, and the same command {again}")
        if error.errno not in UNUSABLE:
            raise
        stop_with(f"cannot use {error.filename} ({error.strerror}): choose another place or name; where this one is "
                  f"mended, the same command {again}")
    except (KeyboardInterrupt, StopTraining) as stop:
        print(f"\n{str(stop) or 'interrupted'}: the same command {again}", file=sys.stderr)
        sys.exit(130)


def stop_with(error: str):
    line = " ".join(error.split())
    if len(line) > LONGEST:                             # of a very long value: the cause stands first, the mend last
        line = f"{line[:LONGEST // 2]} ... {line[-LONGEST // 2:]}"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
