"""Episodes on disk, and the frames streamed from them."""

import tracemalloc
from itertools import islice

import lz4.frame
import numpy as np
import pytest
import safetensors.numpy

from worldmodels.episodes import Episode, EpisodeFolder, Track, ahead, episode_path, length, locate, read, write
from worldmodels.files import FORMAT
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
FRAMES = np.array(LENGTHS) + 1


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


@pytest.mark.parametrize("pool_frames, first, later", [
    (40, [17, 18, 8, 13, 66, 25, 12, 63, 65], [88, 83, 77, 82, 67, 65, 25, 78, 86]),
    (50_000, [96, 89, 75, 64, 40, 59, 34, 39, 10], [98, 87, 8, 22, 17, 51, 85, 90, 75])])
def test_the_order_of_frames_is_that_of_earlier_versions(folder, pool_frames, first, later):
    """So that a training of V that one of them began goes on with the batches that would have followed."""
    batches = numbers(islice(EpisodeFolder(folder).frame_batches(9, 5, pool_frames), 14))
    assert (batches[0], batches[13]) == (first, later)


# windows

def windows(folder, count, batch=3, sequence=4, seed=0, **more):
    return list(islice(EpisodeFolder(folder).windows(batch, sequence, seed, **more), count))


def named(window):
    """The episode and the step of the frames before each step, and of those after it, [B, T] each."""
    number, = map(np.array, numbers([window.frames]))
    return *locate(number[window.now], FRAMES), *locate(number[window.then], FRAMES)


def steps_of(window):
    """Each step's number among those of all episodes, [B, T]."""
    episode, t, *_ = named(window)
    return (np.cumsum(LENGTHS) - LENGTHS)[episode] + t


def one_epoch(windows):
    """The windows before the first one that has a step again."""
    seen = set()
    for window in windows:
        steps = set(steps_of(window).flat)
        if seen & steps:
            return
        seen |= steps
        yield window


def test_a_windows_frames_are_those_before_and_after_each_step_of_its_episode(folder):
    """And its actions, rewards and ends are that step's."""
    stored = [read(path) for path in sorted(folder.iterdir())]
    for window in windows(folder, 30):
        assert window.now.shape == window.then.shape == (3, 4) and window.frames.dtype == np.uint8
        episode, t, next_episode, next_t = named(window)
        assert np.array_equal(next_episode, episode) and np.array_equal(next_t, t + 1)
        for name in ("action", "reward", "terminated"):
            expected = [[getattr(stored[e], name)[i] for e, i in zip(*row)] for row in zip(episode, t)]
            np.testing.assert_array_equal(getattr(window, name), expected)


def test_a_window_is_steps_that_follow_each_other_in_episodes_joined_end_to_end(folder):
    joints = 0
    for window in windows(folder, 40):
        episode, t, *_ = named(window)
        follows = (episode[:, 1:] == episode[:, :-1]) & (t[:, 1:] == t[:, :-1] + 1)
        begins = (t[:, 1:] == 0) & (t[:, :-1] == np.array(LENGTHS)[episode[:, :-1]] - 1)
        assert (follows ^ begins).all()
        joints += begins.sum()
    assert joints > 10


def test_a_window_restarts_where_an_episode_begins_and_at_its_own_first_step(folder):
    for window in windows(folder, 40):
        _, t, *_ = named(window)
        assert np.array_equal(window.restart, (t == 0) | (np.arange(4) == 0))


def test_a_batch_of_windows_has_each_of_its_frames_once_and_no_others(folder):
    for window in windows(folder, 30):
        number, = numbers([window.frames])
        assert len(number) == len(set(number)) and {*window.now.flat, *window.then.flat} == {*range(len(number))}
    shared = [len(window.frames) < 3 * 5 for window in windows(folder, 30)]
    assert any(shared)                              # where one window ends and the next begins


def test_windows_of_an_epoch_do_not_overlap_and_nearly_cover_it(folder):
    """100 steps: less than a window before the first, and less than a batch of windows behind the last."""
    for seed in range(5):
        epoch = [steps_of(window) for window in one_epoch(windows(folder, 20, seed=seed))]
        steps = np.concatenate(epoch).flatten()
        assert len(set(steps)) == len(steps) > 100 - 4 - 3 * 4


def test_each_epoch_cuts_its_windows_elsewhere(tmp_path):
    """So that of a single episode too every step comes to lie at every place of a window."""
    write(episode_path(tmp_path, 0), episode(17), {})
    begins = [int(window.frames[window.now[0, 0], 0, 0, 1]) for window in windows(tmp_path, 200, 1, 4)]
    assert {begin % 4 for begin in begins} == {0, 1, 2, 3} and {*begins} == {*range(14)}


def test_the_order_of_windows_is_a_function_of_the_seed(folder):
    steps = lambda seed: [steps_of(window).tolist() for window in windows(folder, 12, seed=seed)]
    assert steps(0) == steps(0) and steps(0) != steps(1)


@pytest.mark.parametrize("pool_frames", (10, 50_000))
@pytest.mark.parametrize("batch, sequence", ((1, 2), (3, 4)))
def test_skipping_gives_the_windows_that_would_have_followed_across_pools_and_epochs(folder, pool_frames, batch,
                                                                                     sequence):
    pooled = {"batch": batch, "sequence": sequence, "pool_frames": pool_frames}
    expected = windows(folder, 80, **pooled)
    for skip in (0, 1, 2, 7, 8, 20, 41, 60, 77):
        for window, theirs in zip(windows(folder, 3, skip=skip, **pooled), expected[skip:skip + 3], strict=True):
            assert all(map(np.array_equal, window, theirs))


@pytest.mark.parametrize("pool_frames", (1, 20, 40))
def test_small_pools_of_windows_leave_out_few_steps_and_no_episode_always(folder, pool_frames):
    """Less than a window before the first one of a pool, less than a batch behind its last. A pool has 12 frames or
    more here, which is what one batch of one window of two steps may need."""
    seen = set()
    for seed in range(4):
        epoch = list(one_epoch(windows(folder, 60, 1, 2, seed, pool_frames=pool_frames)))
        steps = [step for window in epoch for step in steps_of(window).flat]
        pools = 108 // max(pool_frames, 12)
        assert len(steps) >= 100 - pools * (2 - 1 + 2 - 1)
        seen |= {episode for window in epoch for episode in named(window)[0].flat}
    assert seen == {*range(8)}


def test_pools_of_windows_are_no_larger_than_they_are_said_to_be(tmp_path):
    """Two of them, the episode that is being read, and a batch."""
    for seed in range(40):
        write(episode_path(tmp_path, seed), episode(9), {})
    batches = EpisodeFolder(tmp_path).windows(2, 5, 0, pool_frames=100)
    tracemalloc.start()
    assert len(numbers(window.frames for window in islice(batches, 80))) == 80          # two epochs of four pools
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 200 * 64 * 64 * 3 < peak < 265 * 64 * 64 * 3


def test_too_few_steps_for_one_batch_of_windows_are_a_user_error(folder):
    """As many as a batch and another window always do, wherever the first one begins."""
    for seed in range(20):
        assert len(windows(folder, 2, 9, 10, seed)) == 2
    with pytest.raises(UserError, match="100 steps .* 10 × 10.*--joint.batch or --joint.sequence"):
        windows(folder, 1, 10, 10)


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
    data = safetensors.numpy.save(episode(7)._asdict(), {"info": "{}", "format": str(FORMAT + 1)})
    path.write_bytes(lz4.frame.compress(data, content_checksum=True))
    with pytest.raises(UserError, match=f"000000012.*format {FORMAT + 1}"):
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
