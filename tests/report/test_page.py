"""The page is whole in itself, and shows what it is given."""

import re

import numpy as np
from PIL import Image

from worldmodels.report import page


def test_a_page_needs_nothing_beside_itself(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3)).astype(np.uint8)
    Image.fromarray(frames[0]).save(tmp_path / "film.webp")
    sections = [("Charts", page.charts([lambda axis: axis.plot([1, 2])] * 3)),
                ("Films", page.films({"a film": tmp_path / "film.webp"})),
                ("Strip", page.strip({"above": frames, "below": frames}, [0, 2])),
                ("Table", page.table(("a", "b"), [(1, 2)]))]
    page.write(tmp_path / "page.html", "A title", ["One line."], sections)
    (tmp_path / "film.webp").unlink()
    text = (tmp_path / "page.html").read_text()
    images = re.findall(r'<img src="data:image/(svg\+xml|webp|png);base64,[^"]+" alt="[^"]+">', text)
    assert len(images) == text.count("<img") == 6
    assert "<script" not in text and not re.search(r'(src|href)="(?!data:|#)', text) and "url(" not in text
    assert 'name="viewport" content="width=device-width' in text
    for tag in ("section", "figure", "table", "div", "p", "h2"):
        assert text.count(f"<{tag}") == text.count(f"</{tag}>"), tag


def test_the_same_chart_is_the_same_file():
    assert page.charts([lambda axis: axis.plot([1, 2])]) == page.charts([lambda axis: axis.plot([1, 2])])


def test_text_is_text(tmp_path):
    nasty = '<script>alert("1 & 2")</script>'
    inner = page.paragraph(nasty) + page.table((nasty,), [(nasty,)]) + page.fold(nasty, "")
    page.write(tmp_path / "page.html", nasty, [nasty], [(nasty, inner)])
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and text.count("alert(") == 9


def test_contents_lead_to_every_section_and_a_chart_is_described(tmp_path):
    def panel(axis):
        axis.plot([1, 2], label="one")
        axis.set_title("A title of\ntwo lines")
        axis.set_xlabel("time")
        axis.set_ylabel("height")

    chart = page.charts([panel])
    assert 'alt="Chart: A title of two lines; across: time; up: height; shown: one"' in chart
    page.write(tmp_path / "page.html", "A page", [], [("Time and machine", chart), ("What next?", "")])
    text = (tmp_path / "page.html").read_text()
    links, places = re.findall('href="#([^"]+)"', text), re.findall('<section id="([^"]+)"', text)
    assert links == places == ["time-and-machine", "what-next"]
