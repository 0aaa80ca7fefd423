"""Episodes on disk, and the frames streamed from them."""

import tracemalloc
from itertools import islice

import lz4.frame
import numpy as np
import pytest
import safetensors.numpy

from worldmodels.episodes import Episode, EpisodeFolder, Track, ahead, episode_path, length, locate, read, write
from worldmodels.types import UserError


def episode(steps, first=0):
    """An episode whose frames name themselves: frame t is filled with first + t in base 256."""
    number = first + np.arange(steps + 1)
    frames = np.zeros((steps + 1, 64, 64, 3), np.uint8)
    frames[..., 0], frames[..., 1] = (number // 256)[:, None, None], (number % 256)[:, None, None]
    rng = np.random.default_rng(steps)
    frames[:, 32:] = rng.integers(256, size=(32, 64, 3))        # so that the file does not compress to nothing
    return Episode(frames, rng.uniform(-1, 1, (steps, 3)).astype(np.float32), rng.normal(size=steps).astype(np.float32),
                   np.arange(1, steps + 1) == steps, np.zeros(steps, bool))


LENGTHS = (5, 17, 2, 30, 9, 21, 12, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight episodes, 108 frames, numbered through."""
    folder = tmp_path_factory.mktemp("episodes")
    first = 0
    for seed, steps in enumerate(LENGTHS):
        write(episode_path(folder, seed), episode(steps, first), {"seed": seed})
        first += steps + 1
    return folder


def numbers(batches):
    """The frame numbers of batches, one list each."""
    return [(256 * b[:, 0, 0, 0].astype(int) + b[:, 0, 0, 1]).tolist() for b in batches]


def test_an_episode_comes_back_as_it_was_stored(tmp_path):
    stored = episode(7)
    write(tmp_path / "e", stored, {"seed": 3})
    for a, b in zip(read(tmp_path / "e"), stored):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", (1, 60))
def test_length_is_read_without_reading_the_frames(tmp_path, steps):
    write(tmp_path / "e", episode(steps), {"seed": 3})
    assert length(tmp_path / "e") == steps
    (tmp_path / "e").write_bytes((tmp_path / "e").read_bytes()[:-10])
    with pytest.raises(UserError):
        read(tmp_path / "e")


@pytest.mark.parametrize("share", (0, 0.001, 0.01, 0.5, 0.9, 0.9999))
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    path = episode_path(tmp_path, 12)
    write(path, episode(60), {})
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    with pytest.raises(UserError, match="000000012"):
        read(path)


@pytest.mark.parametrize("share", (0, 0.01, 0.3))
def test_a_folder_with_a_file_cut_at_its_beginning_is_refused_by_name(tmp_path, share):
    path = episode_path(tmp_path, 12)
    write(path, episode(60), {})
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
    try:
        folder = EpisodeFolder(tmp_path)
    except UserError as error:
        assert "000000012" in str(error)
    else:                                           # cut behind its header, which is all that is read so far
        with pytest.raises(UserError, match="000000012"):
            next(folder.frame_batches(10, 0))


def test_a_flipped_byte_is_refused_by_name(tmp_path):
    path = episode_path(tmp_path, 12)
    write(path, episode(20), {})
    good = path.read_bytes()
    for i in np.linspace(0, len(good) - 1, 120).astype(int):
        path.write_bytes(good[:i] + bytes([good[i] ^ 16]) + good[i + 1:])
        with pytest.raises(UserError, match="000000012"):
            read(path)


def test_short_episodes_are_left_out(folder):
    kept = EpisodeFolder(folder, min_steps=9)
    assert kept.lengths.tolist() == [17, 30, 21, 12]
    assert len(kept.paths) == 4
    with pytest.raises(UserError, match="30.*--collect.min-steps"):
        EpisodeFolder(folder, min_steps=30)


def test_no_frame_is_seen_twice_in_an_epoch_and_few_are_left_out(folder):
    episodes = EpisodeFolder(folder)
    epoch = list(islice(episodes.frame_batches(9, 0), 12))       # 12 × 9 = all 108 frames
    seen = sum(numbers(epoch), [])
    assert all(batch.shape == (9, 64, 64, 3) and batch.dtype == np.uint8 for batch in epoch)
    assert sorted(seen) == list(range(108))
    assert seen != sorted(seen)


@pytest.mark.parametrize("pool_frames", (20, 40, 75))
def test_small_pools_leave_out_less_than_a_batch_each(folder, pool_frames):
    episodes = EpisodeFolder(folder)
    batches = []
    for batch in numbers(islice(episodes.frame_batches(4, 0, pool_frames), 27)):
        if set(batch) & set(sum(batches, [])):
            break                                               # the next epoch has begun
        batches.append(batch)
    pools = max(1, 108 // pool_frames)
    assert len(sum(batches, [])) >= 108 - (pools + 1) * 3
    assert all(len(batch) == 4 for batch in batches)


def test_epochs_and_seeds_have_orders_of_their_own(folder):
    episodes = EpisodeFolder(folder)
    batches = numbers(islice(episodes.frame_batches(9, 0), 24))
    assert batches[:12] != batches[12:]
    assert sorted(sum(batches[12:], [])) == list(range(108))
    assert numbers(islice(episodes.frame_batches(9, 1), 12)) != batches[:12]
    assert numbers(islice(episodes.frame_batches(9, 0), 24)) == batches


@pytest.mark.parametrize("pool_frames", (10, 40, 50_000))
def test_skipping_gives_the_batches_that_would_have_followed(folder, pool_frames):
    """Across the borders of pools and of epochs."""
    episodes = EpisodeFolder(folder)
    batches = numbers(islice(episodes.frame_batches(4, 5, pool_frames), 80))
    for skip in range(0, 70):
        assert numbers(islice(episodes.frame_batches(4, 5, pool_frames, skip), 3)) == batches[skip:skip + 3]


def test_two_pools_are_in_memory_at_most(tmp_path):
    """The one in use, and the next."""
    for seed in range(40):
        write(episode_path(tmp_path, seed), episode(9), {})
    batches = EpisodeFolder(tmp_path).frame_batches(5, 0, pool_frames=100)
    tracemalloc.start()
    assert len(numbers(islice(batches, 160))) == 160                # two epochs of four pools
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 200 * 64 * 64 * 3 < peak < 250 * 64 * 64 * 3


def test_items_made_ahead_are_the_same_and_so_are_their_errors():
    def items():
        yield from (1, 2, 3)
        raise UserError("the fourth")

    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4] and list(ahead(iter(()))) == []
    seen = []
    with pytest.raises(UserError, match="the fourth"):
        for item in ahead(items()):
            seen.append(item)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("metadata", ({"info": "{}"}, {"info": "{}", "format": "2"}), ids=("1", "2"))
def test_episodes_of_this_format_and_the_one_before_are_read(tmp_path, metadata):
    arrays = episode(7)._asdict()
    (tmp_path / "e").write_bytes(lz4.frame.compress(safetensors.numpy.save(arrays, metadata), content_checksum=True))
    for name, array in read(tmp_path / "e")._asdict().items():
        np.testing.assert_array_equal(array, arrays[name])
    assert length(tmp_path / "e") == 7


def test_an_episode_of_a_newer_format_is_refused_by_name(tmp_path):
    path = episode_path(tmp_path, 12)
    data = safetensors.numpy.save(episode(7)._asdict(), {"info": "{}", "format": "3"})
    path.write_bytes(lz4.frame.compress(data, content_checksum=True))
    with pytest.raises(UserError, match="000000012.*format 3"):
        read(path)


def test_places_in_episodes_joined_end_to_end_are_told_apart():
    number, step = locate(np.arange(6), np.array([2, 1, 3]))
    assert number.tolist() == [0, 0, 1, 2, 2, 2] and step.tolist() == [0, 1, 0, 0, 1, 2]


def test_a_track_becomes_the_episode_that_was_played():
    whole = episode(5)
    moments = list(zip(whole.action, whole.reward, whole.terminated, whole.truncated))
    for a, b in zip(Track(0, list(whole.frames), moments).episode(), whole, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert Track(0, list("abcdef"), moments).episode().frames == list("abcdef")
