"""Streams of encoded episodes: what follows what, and where an episode begins."""

import weakref
from itertools import islice

import numpy as np
import pytest
import torch

from tests.conftest import counted_episode, make_latents
from worldmodels.files import load_arrays, save_arrays
from worldmodels.latents import Latents, write_latents
from worldmodels.types import Posterior, UserError

LENGTHS = np.array([3 + 2 * e for e in range(8)])       # of the counted episodes: 80 transitions


def opened(*paths, vision="v", **more):
    """The latents of some files whose episodes are gone."""
    return Latents(dict.fromkeys(paths, ""), vision, **more)


def named(z):
    """Latents of counted episodes -> (episode, t), as integers."""
    return (10 * z).round().long().unbind(-1)


def windows(latents, count, skip=0, batch=3, sequence=4, seed=0):
    return list(islice(latents.windows(batch, sequence, seed, skip), count))


def test_latents_lie_beside_the_actions_and_rewards_of_their_steps(counted_latents):
    for batch in windows(counted_latents, 30):
        assert batch.z.shape == batch.next_z.shape == (3, 4, 2)
        assert batch.action.shape == (3, 4, 1)
        assert batch.reward.shape == batch.terminated.shape == batch.restart.shape == (3, 4)
        episode, t = named(batch.z)
        assert torch.equal((10 * batch.action[..., 0]).round().long(), t)
        assert torch.equal(batch.reward, 100.0 * episode + t)
        assert torch.equal(batch.terminated, (t == torch.from_numpy(LENGTHS)[episode] - 1).float())


def test_the_next_latent_is_of_the_next_frame_of_the_same_episode(counted_latents):
    for batch in windows(counted_latents, 30):
        (episode, t), (next_episode, next_t) = named(batch.z), named(batch.next_z)
        assert torch.equal(next_episode, episode) and torch.equal(next_t, t + 1)


def test_streams_go_on_from_window_to_window(counted_latents):
    """80 transitions, six windows of 3 × 4 an epoch: within an epoch each step follows the one before it."""
    for epoch in range(3):
        batches = windows(counted_latents, 6, skip=6 * epoch)
        episode, t = (torch.cat(columns, 1) for columns in zip(*(named(b.z) for b in batches)))
        follows = (episode[:, 1:] == episode[:, :-1]) & (t[:, 1:] == t[:, :-1] + 1)
        begins = (t[:, 1:] == 0) & (t[:, :-1] == torch.from_numpy(LENGTHS)[episode[:, :-1]] - 1)
        assert (follows ^ begins).all()
        assert len({*zip(episode.flatten().tolist(), t.flatten().tolist())}) == 72     # none twice


def test_the_restart_flag_marks_each_first_step(counted_latents):
    for batch in windows(counted_latents, 30):
        first = named(batch.z)[1] == 0
        assert batch.restart[first].all()
        assert not batch.restart[:, 1:][~first[:, 1:]].any()


def test_a_step_that_does_not_follow_the_one_before_is_a_restart(counted_latents):
    """Also where an epoch ends and its streams begin anew in mid-episode: no memory of another episode leaks in."""
    batches = windows(counted_latents, 20)
    episode, t = (torch.cat(columns, 1) for columns in zip(*(named(b.z) for b in batches)))
    restart = torch.cat([b.restart for b in batches], 1).bool()
    follows = (episode[:, 1:] == episode[:, :-1]) & (t[:, 1:] == t[:, :-1] + 1)
    assert (follows | restart[:, 1:]).all()


@pytest.mark.parametrize("skip", (0, 1, 5, 6, 7, 13))
def test_skipping_gives_the_windows_that_would_have_followed(counted_latents, skip):
    for a, b in zip(windows(counted_latents, 20)[skip:], windows(counted_latents, 20 - skip, skip)):
        for tensor, expected in zip(a, b):
            assert torch.equal(tensor, expected)


def test_seeds_have_orders_of_their_own(counted_latents):
    a, b = windows(counted_latents, 1)[0], windows(counted_latents, 1, seed=1)[0]
    assert not torch.equal(a.reward, b.reward)


def test_latents_are_sampled_anew_with_the_stored_variance(tmp_path):
    mu, episode = counted_episode(0, 4000)
    log_var = np.stack([np.full(4001, -2.0), np.full(4001, 1.0)], 1).astype(np.float32)
    write_latents(tmp_path / "e", Posterior(torch.zeros(mu.shape), torch.from_numpy(log_var)), episode, "v")
    latents = opened(tmp_path / "e")
    first, second = windows(latents, 2, batch=1, sequence=4000)
    torch.testing.assert_close(first.z[0].var(0), torch.tensor([-2.0, 1.0]).exp(), atol=0, rtol=0.1)
    torch.testing.assert_close(first.z[0].mean(0), torch.zeros(2), atol=0.1, rtol=0)
    assert abs(torch.corrcoef(torch.stack([first.z[0, :, 0], second.z[0, :, 0]]))[0, 1]) < 0.1


def test_too_few_transitions_for_one_batch_are_a_user_error(counted_latents):
    assert windows(counted_latents, 1, batch=8, sequence=10)
    with pytest.raises(UserError, match="80 transitions"):
        windows(counted_latents, 1, batch=9, sequence=10)


def test_latents_of_another_v_and_missing_ones_are_refused_by_name(tmp_path):
    make_latents(tmp_path, [counted_episode(0, 5)])
    with pytest.raises(UserError, match="0.safetensors"):
        opened(tmp_path / "0.safetensors", vision="another digest")
    with pytest.raises(UserError, match="1.safetensors"):
        opened(tmp_path / "1.safetensors")


@pytest.mark.parametrize("kept", (1, 3, 8))
def test_windows_do_not_depend_on_how_many_episodes_are_kept_and_no_more_are(tmp_path, monkeypatch, kept):
    counted = [counted_episode(e, steps) for e, steps in enumerate(LENGTHS)]
    expected = windows(make_latents(tmp_path, counted), 25, skip=2)
    paths, loaded = sorted(tmp_path.iterdir()), []

    def load(path):
        arrays, info = load_arrays(path)
        loaded.append(weakref.ref(arrays["mu"]))
        return arrays, info

    monkeypatch.setattr("worldmodels.latents.load_arrays", load)
    monkeypatch.setattr("worldmodels.latents.CACHE", kept * sum(path.stat().st_size for path in paths) // 8 + 1)
    latents = opened(*paths)
    assert not loaded and latents.lengths.tolist() == LENGTHS.tolist()
    for window, theirs in zip(latents.windows(3, 4, 0, 2), expected):
        assert all(map(torch.equal, window, theirs))
        assert sum(mu() is not None for mu in loaded) <= kept
    assert len(loaded) == 8 if kept == 8 else len(loaded) > 16


def test_no_flipped_byte_and_no_truncation_goes_unnoticed(tmp_path):
    """Of the header when it is opened or, like the rest, when it is read."""
    make_latents(tmp_path, [counted_episode(0, 5)])
    path = tmp_path / "0.safetensors"
    good = path.read_bytes()
    damaged = [good[:i] + bytes([good[i] ^ bit]) + good[i + 1:] for i in range(len(good)) for bit in (1, 2, 16)]
    for data in damaged + [good[:size] for size in range(len(good))]:
        path.write_bytes(data)
        with pytest.raises(UserError, match="0.safetensors"):
            opened(path).episode(0)


def test_a_file_damaged_behind_its_header_is_refused_by_name_when_its_turn_comes(tmp_path):
    make_latents(tmp_path, [counted_episode(e, 5) for e in range(2)])
    paths = sorted(tmp_path.iterdir())
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    latents = opened(*paths)
    assert len(latents.episode(0).reward) == 5
    with pytest.raises(UserError, match="1.safetensors"):
        windows(latents, 1, batch=1, sequence=10)


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path):
    """A file that was made so on purpose has a checksum that is right."""
    make_latents(tmp_path, [counted_episode(0, 5)])
    path, = tmp_path.iterdir()
    arrays, info = load_arrays(path)
    for name in ("mu", "action", "reward"):
        save_arrays(path, arrays | {name: np.full_like(arrays[name], np.nan)}, info)
        with pytest.raises(UserError, match="not finite"):
            opened(path).episode(0)


def test_latents_without_a_variance_are_points(tmp_path):
    """What a V without chance encodes is stored, read and handed on as it is."""
    mu, episode = counted_episode(3, 30)
    write_latents(tmp_path / "e", Posterior(torch.from_numpy(mu)), episode, "v")
    latents = opened(tmp_path / "e")
    stored = latents.episode(0)
    assert stored.log_var is None and torch.equal(stored.sample(torch.Generator()), torch.from_numpy(mu).half().float())
    first, second = windows(latents, 2, batch=2, sequence=15)
    for batch in (first, second):
        assert torch.equal(batch.z[..., 1], torch.arange(30).view(2, 15).div(10).half().float())
    assert torch.equal(first.z[:, 1:], first.next_z[:, :-1])


def test_a_memory_that_is_to_see_means_gets_no_samples(tmp_path):
    mu, episode = counted_episode(3, 30)
    write_latents(tmp_path / "e", Posterior(torch.from_numpy(mu), torch.ones(mu.shape)), episode, "v")
    (of_means,) = windows(opened(tmp_path / "e", latent="mean"), 1, batch=2, sequence=15)
    assert torch.equal(of_means.z[..., 1], torch.arange(30).view(2, 15).div(10).half().float())
    (of_samples,) = windows(opened(tmp_path / "e"), 1, batch=2, sequence=15)
    assert (of_samples.z - of_means.z).abs().mean() > 0.5


def test_latents_of_an_episode_that_was_collected_again_are_refused_by_name(tmp_path):
    mu, episode = counted_episode(0, 5)
    write_latents(tmp_path / "e", Posterior(torch.from_numpy(mu)), episode, "v", "0badcafe")
    for checksum in ("", "0badcafe"):                           # gone, or as it was
        assert Latents({tmp_path / "e": checksum}, "v").lengths.tolist() == [5]
    with pytest.raises(UserError, match="collected again"):
        Latents({tmp_path / "e": "00000000"}, "v")


def test_short_episodes_are_left_out_and_none_left_is_a_user_error(tmp_path):
    make_latents(tmp_path, [counted_episode(e, steps) for e, steps in enumerate(LENGTHS)])
    paths = sorted(tmp_path.iterdir())
    assert opened(*paths, min_steps=9).lengths.tolist() == [11, 13, 15, 17]
    for none in ({"min_steps": 17}, {}):
        with pytest.raises(UserError, match="--collect.min-steps"):
            opened(*(paths if none else ()), **none)


# bootstraps

def test_bootstraps_are_streams_of_their_own_samples_one_after_the_other(counted_latents):
    """Each is as the streams of some episodes are, drawn with replacement: some are there twice, others never."""
    batches = list(islice(counted_latents.windows(3, 4, 0, bootstraps=2), 60))
    seen = []
    for member in (slice(0, 3), slice(3, 6)):
        mine = [tuple(t[member] for t in batch) for batch in batches]
        episode, t = (torch.cat(columns, 1) for columns in zip(*(named(z) for z, *_ in mine)))
        restart = torch.cat([restart for *_, restart in mine], 1).bool()
        follows = (episode[:, 1:] == episode[:, :-1]) & (t[:, 1:] == t[:, :-1] + 1)
        assert (follows | restart[:, 1:]).all() and restart[t == 0].all() and len(batches[0].z) == 6
        seen.append({*episode.flatten().tolist()})
    assert seen[0] != seen[1] and all(len(episodes) < 8 for episodes in seen)


def test_a_members_streams_do_not_depend_on_how_many_there_are_and_skipping_goes_on_with_them(counted_latents):
    expected = list(islice(counted_latents.windows(3, 4, 0, bootstraps=3), 30))
    for skip in (0, 1, 5, 6, 7, 20):
        for two, three in zip(islice(counted_latents.windows(3, 4, 0, skip, 2), 5), expected[skip:]):
            assert all(torch.equal(a, b[:6]) for a, b in zip(two, three))
