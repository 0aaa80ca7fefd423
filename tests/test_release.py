"""What goes with a version: CITATION.cff and CHANGELOG.md."""

import re
from datetime import date
from pathlib import Path

import pytest
import yaml

import worldmodels

ROOT = Path(worldmodels.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_of_this_version_and_names_the_licences_holder(citation):
    assert citation["version"] == worldmodels.__version__
    assert citation["license"] == "MIT"
    holder, = re.findall(r"Copyright \(c\) \d+ (.*)", (ROOT / "LICENSE").read_text())
    assert [author["name"].lower() for author in citation["authors"]] == [holder.lower()]


def test_the_citation_has_what_its_format_asks_for(citation):
    """See the guide to the Citation File Format, version 1.2.0."""
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation.keys() <= {"cff-version", "message", "type", "title", "abstract", "authors", "version",
                               "date-released", "license", "keywords", "references"}
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    for entry in citation["references"]:
        assert {"type", "title", "authors"} <= entry.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in entry["authors"])
        assert re.fullmatch(r"10\.\d{4,9}/\S+", entry["doi"]) and entry["url"].startswith("https://")


def test_the_paper_is_the_reference(citation):
    paper, = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Ha", "Schmidhuber"] and paper["year"] == 2018
    assert paper["url"] in (ROOT / "README.md").read_text() and paper["doi"].endswith(paper["url"].rsplit("/", 1)[1])


def test_the_changelog_tells_of_this_version_and_its_date(citation):
    found = re.findall(r"^## \[(.*)\](?: - (.*))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found[0] == ("Unreleased", "")
    assert isinstance(citation["date-released"], date)
    assert found[1] == (worldmodels.__version__, citation["date-released"].isoformat())
    days = [day for _, day in found[1:]]
    assert days == sorted(days, reverse=True)
