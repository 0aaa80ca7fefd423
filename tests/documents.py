"""The repository's documents, as Markdown has them: links, headings, python blocks, command lines."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), ROOT / "data" / "README.md", *(ROOT / "docs").glob("*.md"),
                    ROOT / "docs" / "play" / "README.md"})
SHELL = ("", "sh", "bash", "console")
PROGRAMS = ("python", "worldmodels", "make", "pip", "cp")      # whose command lines are looked at


class Link(NamedTuple):
    target: str
    text: str               # a picture's alternative text
    picture: bool


class Block(NamedTuple):
    line: int               # before its first one
    code: str
    file: str | None        # which it is, by its first line, or by the sentence that ends before it


class Command(NamedTuple):
    path: Path
    line: int
    words: tuple[str, ...]
    section: str            # the text of the section that it stands in; "" within a sentence

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} {' '.join(self.words)}"


@cache
def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text())


def inline(path: Path) -> Iterator[tuple[int, Token]]:
    """The parts of sentences, with their lines."""
    for token in tokens(path):
        for child in token.children or []:
            yield (token.map or [0])[0] + 1, child


def links(path: Path) -> list[Link]:
    found = [Link(child.attrs["href"], "", False) for _, child in inline(path) if child.type == "link_open"]
    found += [Link(child.attrs["src"], child.content, True) for _, child in inline(path) if child.type == "image"]
    html = [token.content for token in tokens(path) if token.type == "html_block"]
    html += [child.content for _, child in inline(path) if child.type == "html_inline"]
    for tag in re.findall(r"<(?:a|img|source)\b[^>]*>", "".join(html)):
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        target = next((attributes[name] for name in ("href", "src", "srcset") if name in attributes), None)
        found += [Link(target, attributes.get("alt", ""), tag.startswith("<img"))] if target else []
    return found


def anchors(path: Path) -> set[str]:
    """Of its headings, by a code host's rule: lower case, spaces to dashes, without other signs; the second of a name
    is <name>-1."""
    found: list[str] = []
    for before, token in zip(tokens(path), tokens(path)[1:]):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.append(slug if slug not in found else f"{slug}-{sum(name == slug for name in found)}")
    return set(found)


def python_blocks(path: Path) -> list[Block]:
    found, before = [], ""
    for token in tokens(path):
        if token.type == "fence" and token.info.strip() == "python":
            named = re.match(r"# (\w+\.py)\n", token.content) or re.search(r"`(\w+\.py)`:$", before)
            found.append(Block(token.map[0] + 1, token.content, named and named[1]))
        before = token.content or before
    return found


def commands(path: Path) -> list[Command]:
    """The command lines of PROGRAMS, in blocks and in sentences."""
    found, parts = [], sections(path)
    for token in tokens(path):
        if token.type == "code_block" or token.type == "fence" and token.info.strip() in SHELL:
            section = next(text for begin, end, text in parts if begin <= token.map[0] < end)
            begin = token.map[0] + 1 + (token.type == "fence")
            found += [Command(path, begin + number, words, section) for number, words in logical_lines(token.content)]
    for line, child in inline(path):
        if child.type == "code_inline" and " " in child.content:
            found += [Command(path, line, words, "") for _, words in logical_lines(child.content)]
    return [command for command in found if command.words[0] in PROGRAMS]


def sections(path: Path) -> list[tuple[int, int, str]]:
    """The first line of each section, the line after it, and its text."""
    lines = path.read_text().splitlines()
    begins = sorted({0, *(token.map[0] for token in tokens(path) if token.type == "heading_open")})
    return [(begin, end, "\n".join(lines[begin:end])) for begin, end in zip(begins, [*begins[1:], len(lines) + 1])]


def logical_lines(text: str) -> list[tuple[int, tuple[str, ...]]]:
    """Each command's number of line and words: continued lines are one, `a && b` are two, and comments none."""
    found, waiting, begin = [], "", 0
    for number, line in enumerate(text.splitlines()):
        begin = begin if waiting else number
        if line.rstrip().endswith("\\"):
            waiting += line.rstrip()[:-1] + " "
            continue
        lexer = shlex.shlex(waiting + line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split, waiting = True, ""
        words: list[str] = []
        for word in [*split(lexer), ";"]:
            if set(word) <= set("&|;"):
                found += [(begin, tuple(words))] if words else []
                words = []
            else:
                words.append(word)
    return found


def split(lexer: shlex.shlex) -> list[str]:
    try:
        return list(lexer)
    except ValueError:              # a quotation mark in what is no command
        return []
