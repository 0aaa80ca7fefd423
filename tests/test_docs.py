"""What README.md and docs/ promise: links lead somewhere, python blocks run, and programs know their command lines."""

import argparse
import itertools
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gymnasium
import pytest
import tyro

from pipeline import cli, command, overview
from pipeline.presets import KINDS, Config
from tests.documents import (
    DOCUMENTS,
    PROGRAMS,
    ROOT,
    anchors,
    commands,
    inline,
    links,
    python_blocks,
    tokens,
)
from worldmodels.commandline import errors_in_one_line, flag, leaves
from worldmodels.envs import TASKS
from worldmodels.runs import Run

COMMANDS = [found for path in DOCUMENTS for found in commands(path)]
name_of = lambda path: path.relative_to(ROOT).as_posix()
of = lambda *programs: [found for found in COMMANDS if found.words[0] in programs]

# documents with python blocks; tests/pipeline/test_extending.py runs those of extending.md
RUN_HERE = [path for path in DOCUMENTS if python_blocks(path) and name_of(path) != "docs/extending.md"]
# what a block does for long, and what it does here
SHORTER = {r"\.learn\([\d_]+\)": ".learn(1)", r"range\(\d{3,}\)": "range(5)"}

# commands whose section need not say how long they take: the tests that run them, on less
RUN_BY = {r"--task lander:TASK": "tests/pipeline/test_extending.py",
          r"^worldmodels (list|info|resume|run)": "tests/pipeline/test_cli.py",
          r"^worldmodels play|^python -m worldmodels.play": "tests/test_play.py",
          r"^worldmodels web|^python -m worldmodels.web": "tests/web/test_server.py",
          r"--metrics": "tests/pipeline/test_extending.py",
          r"--(executor|address)": "tests/pipeline/test_ray.py",
          r"--controller.kind mlp": "tests/pipeline/test_extending.py",
          r"--learner.kind (cma_es|least_squares|actor_critic|ppo|untrained|distill)":
              "tests/controller/test_learners.py",
          r"pipeline.compare": "tests/pipeline/test_compare.py"}
TIME = re.compile(r"\b(\d[\d,.]*|an?|one|two|three|ten|few|half|quarters?)\b[\w ]{0,20}?"
                  r"\b(m?s|seconds?|min|minutes?|hours?|days?)\b")
PLACEHOLDERS = {"yours": "gru"}                 # what a reader has named


@pytest.fixture(autouse=True)
def forgotten():
    """The tasks and modules of a document's files are gone after a test."""
    tasks, ids, modules = set(TASKS), set(gymnasium.registry), set(sys.modules)
    yield
    for registry, before in ((TASKS, tasks), (gymnasium.registry, ids)):
        for name in registry.keys() - before:
            del registry[name]
    for block in itertools.chain(*map(python_blocks, DOCUMENTS)):
        if block.file and block.file.removesuffix(".py") not in modules:
            sys.modules.pop(block.file.removesuffix(".py"), None)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_to_what_is_there(path):
    """As a code host shows the file: beside it, and to a heading by its anchor."""
    for link in links(path):
        url = urlsplit(link.target)
        if url.scheme:
            assert url.scheme in ("http", "https", "mailto") and "." in url.netloc + url.path, link.target
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        assert target.exists() and target.is_relative_to(ROOT), link.target
        if url.fragment and target.suffix == ".md":
            assert url.fragment in anchors(target), link.target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_pictures_say_in_words_what_they_show(path):
    assert not [link.target for link in links(path) if link.picture and len(link.text) < 8]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_block_is_taken_for_a_paragraph(path):
    """Four spaces below a list go on with the list's text."""
    begins = re.compile(rf"({'|'.join(PROGRAMS)}) (-[mr]|[\w/]+\.py|install|\w+ --)")
    assert not [token.content for token in tokens(path) if token.type == "inline" and begins.match(token.content)]


def write_files(path: Path, folder: Path):
    """Those of a document's python blocks that are files."""
    for block in python_blocks(path):
        if block.file:
            (folder / block.file).write_text(block.code)


@pytest.mark.parametrize("path", RUN_HERE, ids=name_of)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    """In their order, in a folder without anything but the files that some of them are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {"__name__": "block"}
    write_files(path, tmp_path)
    for line, code, file in python_blocks(path):
        for long, short in SHORTER.items():
            code = re.sub(long, short, code)
        if file is None:
            exec(compile("\n" * line + code, name_of(path), "exec"), namespace)
    for value in namespace.values():
        if isinstance(value, (gymnasium.Env, gymnasium.vector.VectorEnv)):
            value.close()


class Parsed(BaseException):
    """A command line was parsed, and what follows is not wanted."""


@pytest.fixture
def parse(monkeypatch, tmp_path):
    """parse(words): a program of ours reads its command line, and stops."""
    read_by_tyro = tyro.cli

    def and_stop(parser):
        def parse(*arguments, **options):
            parser(*arguments, **options)
            raise Parsed
        return parse

    def main(stage, arguments=None, writers=()):
        monkeypatch.setattr(tyro, "cli", read_by_tyro)
        arguments = sys.argv[1:] if arguments is None else arguments
        with errors_in_one_line(""):
            command.parse(arguments, stage.__doc__, getattr(stage, "sections", command.SECTIONS))
        raise Parsed

    def parse(words: tuple[str, ...]):
        monkeypatch.setattr(command, "main", main)
        monkeypatch.setattr(tyro, "cli", and_stop(read_by_tyro))
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", and_stop(argparse.ArgumentParser.parse_args))
        monkeypatch.setattr(overview, "find_run", lambda run, data: Run(Path(data) / run))
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        try:
            run(words)
        except Parsed:
            return
        except SystemExit as stop:
            assert not stop.code, "not understood"
        assert "--help" in words, "it parses nothing"

    def run(words: tuple[str, ...]):
        program, *arguments = words
        if program == "worldmodels":
            monkeypatch.setattr(sys, "argv", list(words))
            cli.main()
        elif arguments[0] == "-m":
            monkeypatch.setattr(sys, "argv", arguments[1:])
            monkeypatch.syspath_prepend(ROOT)
            runpy.run_module(arguments[1], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", arguments)
            monkeypatch.syspath_prepend((ROOT / arguments[0]).parent)
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")

    return parse


OWN = [found for found in of("worldmodels", "python")
       if re.match(r"worldmodels|python (-m )?(pipeline|worldmodels|benchmarks)\b", " ".join(found.words))]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")           # a module that is imported already is run
@pytest.mark.parametrize("found", OWN, ids=str)
def test_programs_know_their_command_lines(found, parse, tmp_path):
    write_files(found.path, tmp_path)
    parse(tuple(PLACEHOLDERS.get(word, word) for word in found.words))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_program_refuses_an_option_that_it_has_not(parse, capsys):
    """As the tests above would, were one renamed."""
    for words in (["python", "-m", "pipeline", "--memory.cells", "3"], ["worldmodels", "play", "--skill", "9"],
                  ["python", "benchmarks/dream.py", "--laps", "3"]):
        with pytest.raises(AssertionError, match="not understood"):
            parse(words)
    with pytest.raises(AssertionError, match="not understood"):
        parse(["worldmodels", "dream"])


@pytest.mark.parametrize("found", of("make"), ids=str)
def test_make_has_these_targets(found):
    made = subprocess.run([*found.words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("found", of("pip"), ids=str)
def test_pip_installs_extras_that_there_are(found):
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    wanted = re.findall(r"(?:\.|worldmodels)\[([\w,]+)\]", " ".join(found.words))
    assert {extra for extras in wanted for extra in extras.split(",")} <= set(settings["options.extras_require"])
    assert all((ROOT / file).exists() for option, file in zip(found.words, found.words[1:]) if option == "-c")


@pytest.mark.parametrize("found", of("cp"), ids=str)
def test_what_is_copied_is_there(found):
    assert (ROOT / found.words[-2]).exists()


@pytest.mark.parametrize("found", [found for found in of("python", "worldmodels", "make") if found.section], ids=str)
def test_a_command_says_how_long_it_takes_or_is_run_by_a_test(found):
    """In a block. Its section has a time, or a test runs the same with less."""
    words = " ".join(found.words)
    runs = [(match, test) for pattern, test in RUN_BY.items() if (match := re.search(pattern, words))]
    for match, test in runs:
        assert re.split(r"[ .]|--", match[0])[-1] in (ROOT / test).read_text(), f"{test} knows no {match[0]}"
    assert runs or TIME.search(found.section)


def options() -> set[str]:
    """Every setting of every kind, as an option."""
    found = {name for name, _ in leaves(Config())}
    for section, kinds in KINDS.items():
        for kind in kinds.values():
            inside = {name for name, _ in leaves(kind.Config())}
            found |= {f"{section}.{name}" for name in inside} | {f"{section}.member.{name}" for name in inside}
    return set(map(flag, found))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_settings_in_sentences_are_known(path):
    named = [word for _, child in inline(path) if child.type == "code_inline" for word in child.content.split()]
    assert {word.split("=")[0] for word in named if re.match(r"--[a-z]+\.", word)} <= options()


@pytest.mark.parametrize("name", ("architecture", "layers"))
def test_drawings_are_those_of_their_script(name):
    """The layers' is made of what tests/test_layering.py keeps."""
    folder = ROOT / "docs" / "pictures"
    assert (folder / f"{name}.svg").read_text() == runpy.run_path(str(folder / "draw.py"))[name]()
