"""The gallery of a finished run."""

from PIL import Image

from pipeline import gallery
from pipeline.gallery import GAP, PIXELS, TEXT, GalleryConfig


def test_it_has_a_film_for_every_world_model_and_a_page_that_shows_them(finished, tmp_path):
    gallery.gallery(GalleryConfig(data=str(finished("toy").parents[1]), out=str(tmp_path), steps=4))
    page = (tmp_path / "gallery.md").read_text()
    films = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.webp")}
    assert films == {"pictures/hero.webp", "pictures/gallery/toy-all.webp", "pictures/gallery/toy-smoke.webp"}
    for film in films - {"pictures/hero.webp"}:
        assert f"]({film})" in page
    shown = Image.open(tmp_path / "pictures" / "gallery" / "toy-smoke.webp")
    assert 1 < shown.n_frames <= 4 and shown.size == (2 * PIXELS + GAP, PIXELS + TEXT)      # equal frames are one
