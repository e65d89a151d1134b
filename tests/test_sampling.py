"""Samplers: what is drawn lies where it should, as often as it should, and goes on where it stopped."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from dreamlab.core.errors import RunError
from dreamlab.core.sampling import (
    PAD,
    EpisodeWindows,
    Frames,
    NewestFirst,
    Segments,
    StreamWindows,
    WholeEpisodes,
    spread,
)
from dreamlab.core.types import Episodes


@dataclass
class FakeIndex:
    """Two streams; episodes of 3, 7 and 10 rows in stream 0 and one of 20 in stream 1, from time 5 on."""

    streams: int = 2
    start: int = 5
    stop: int = 25
    table: Episodes = field(
        default_factory=lambda: Episodes(
            np.array([0, 0, 0, 1]), np.array([5, 8, 15, 5]), np.array([8, 15, 25, 25]), np.ones(4, bool)
        )
    )

    def episodes(self):
        return self.table


def episode_of(rows, index):
    time, stream = rows // index.streams, rows % index.streams
    table = index.table
    hit = (stream[..., None] == table.stream) & (time[..., None] >= table.start) & (time[..., None] < table.stop)
    assert hit.sum(-1).max() == 1
    return hit.argmax(-1)


def test_frames_are_uniform_over_all_rows():
    index = FakeIndex()
    rows = Frames(0)(index, 40_000)
    assert rows.shape == (40_000, 1)
    counts = np.bincount(rows[:, 0], minlength=50)
    assert counts[:10].sum() == 0
    assert np.abs(counts[10:50] - 1000).max() < 200


def test_stream_windows_are_consecutive_in_one_stream_and_reach_both_ends():
    index = FakeIndex()
    rows = StreamWindows(0)(index, 2000, 6)
    time, stream = rows // 2, rows % 2
    assert (np.diff(time, axis=1) == 1).all()
    assert (stream == stream[:, :1]).all()
    assert time.min() == 5
    assert time.max() == 24


@pytest.mark.parametrize("length", [1, 4, 30])
def test_episode_windows_never_leave_their_episode(length):
    index = FakeIndex()
    rows = EpisodeWindows(0)(index, 3000, length)
    real = rows != PAD
    assert (real[:, 1:] <= real[:, :-1]).all()  # padding only on the right
    for row, keep in zip(rows, real, strict=True):
        assert len(set(episode_of(row[keep], index))) == 1
        assert (np.diff(row[keep]) == index.streams).all()
    share = np.bincount(episode_of(rows[:, 0], index), minlength=4) / 3000
    assert np.abs(share - np.array([3, 7, 10, 20]) / 40).max() < 0.04


@pytest.mark.parametrize("pad", ["right", "left"])
def test_whole_episodes_are_equally_likely_and_padded_on_one_side(pad):
    index = FakeIndex()
    rows = WholeEpisodes(0)(index, 4000, 8, pad)
    edge = rows[:, 0] if pad == "right" else rows[:, -1]
    assert (edge != PAD).all()
    share = np.bincount(episode_of(edge, index), minlength=4) / 4000
    assert np.abs(share - 0.25).max() < 0.04
    want = index.table.start if pad == "right" else index.table.stop - 1
    assert set(edge // 2) == set(want)
    assert ((rows != PAD).sum(1) == np.minimum(8, index.table.stop - index.table.start)[episode_of(edge, index)]).all()


@pytest.mark.parametrize("make", [Frames, StreamWindows, NewestFirst, EpisodeWindows, WholeEpisodes])
def test_a_restored_sampler_draws_on(make):
    index, args = FakeIndex(), () if make is Frames else (4,)
    one = make(3)
    one(index, 5, *args)
    saved = one.state_dict()
    want = one(index, 50, *args)
    other = make(99)
    other.load_state_dict(saved)
    assert (other(index, 50, *args) == want).all()


def test_too_few_rows_are_an_error_that_says_so():
    with pytest.raises(RunError, match="20 rows are held"):
        StreamWindows(0)(FakeIndex(), 1, 21)


# ---- what is newest first


def newest(index, calls, n=2, length=4, seed=0):
    """The windows (calls, n) that a sampler gives while so many times (an iterable) are held in turn."""
    sampler = NewestFirst(seed)
    found = []
    for index.stop in calls:
        found.append(sampler(index, n, length))
    return found


def test_every_window_comes_once_in_its_order_and_only_when_it_is_whole():
    index = FakeIndex(start=0)
    calls = newest(index, range(4, 44), n=3)  # three windows a time: more than come to be
    seen = []
    for stop, rows in zip(range(4, 44), calls, strict=True):
        assert rows.shape == (3, 4)
        assert (np.diff(rows, axis=1) == index.streams).all()
        assert rows.max() < stop * index.streams
        whole = [(block * 4 * 2 + stream) for block in range(stop // 4) for stream in range(2)]
        due = whole[len(seen) :][:3]
        assert rows[: len(due), 0].tolist() == due
        seen += due
    assert seen == [block * 8 + stream for block in range(10) for stream in range(2)]


def test_windows_that_cannot_be_taken_at_once_wait_their_turn():
    rows = np.concatenate(newest(FakeIndex(start=0), [40] * 7, n=3))
    assert rows[:20, 0].tolist() == [block * 8 + stream for block in range(10) for stream in range(2)]
    rest = newest(FakeIndex(start=0), [40], n=500)[0][20:]
    assert (rest[:, 0] // 2 % 4 != 0).any()  # drawn as ever


def test_nothing_new_is_drawn_as_stream_windows_draw():
    one, other, index = NewestFirst(3), StreamWindows(0), FakeIndex(start=0, stop=8)
    one(index, 4, 4)
    other.rng.bit_generator.state = one.rng.bit_generator.state
    assert (one(index, 50, 4) == other(index, 50, 4)).all()


def test_what_the_ring_dropped_before_it_could_come_is_passed_over():
    index, sampler = FakeIndex(start=0, stop=12), NewestFirst(0)
    assert sampler(index, 1, 4)[:, 0].tolist() == [0]
    index.start, index.stop = 6, 18  # windows at 0 and 4 are gone, the latter in part
    rows = sampler(index, 4, 4)
    assert rows[:, 0].tolist() == [16, 17, 24, 25]
    index.start, index.stop = 17, 19  # none is whole now
    with pytest.raises(RunError, match="2 rows are held"):
        sampler(index, 1, 4)
    index.stop = 24
    assert sampler(index, 2, 4)[:, 0].tolist() == [40, 41]


def test_restored_it_goes_on_with_the_windows_that_have_not_come():
    index = FakeIndex(start=0, stop=24)
    one, other = NewestFirst(0), NewestFirst(9)
    one(index, 5, 4)
    other.load_state_dict(one.state_dict())
    assert [one(index, 5, 4).tolist() for _ in range(4)] == [other(index, 5, 4).tolist() for _ in range(4)]


@pytest.mark.parametrize("pad", ["right", "left"])
def test_segments_take_episodes_alike_and_every_place_in_them(pad):
    index, n, length = FakeIndex(), 40_000, 4
    rows = Segments(0)(index, n, length, pad=pad)
    place = rows[:, 0] if pad == "right" else rows[:, -1]
    assert (place >= 0).all(), "the place itself is always real"
    which = episode_of(place, index)
    assert np.abs(np.bincount(which) / n - 1 / 4).max() < 0.01, "whatever their length"
    for e in range(4):
        size = index.table.stop[e] - index.table.start[e] - 1  # its last row is no place to act in
        at = place[which == e] // 2 - index.table.start[e]
        assert np.abs(np.bincount(at, minlength=size) / len(at) - 1 / size).max() < 0.02
    real = rows >= 0
    times = np.where(real, rows // 2, 0)
    assert ((np.diff(times, axis=1) == 1) | ~(real[:, 1:] & real[:, :-1])).all(), "one row after the other"
    padded = ~real if pad == "right" else ~real[:, ::-1]
    assert (np.diff(padded.astype(int), axis=1) >= 0).all(), "padding lies on one side"
    assert (
        which[:, None] == np.where(real, episode_of(np.where(real, rows, place[:, None]), index), which[:, None])
    ).all()


def test_segments_want_an_episode_of_two_rows():
    table = Episodes(np.array([0]), np.array([5]), np.array([6]), np.zeros(1, bool))
    with pytest.raises(RunError, match="two rows"):
        Segments(0)(FakeIndex(table=table), 3, 4)


def test_spread_rows_are_held_and_even():
    rows = spread(FakeIndex(), 5)[:, 0]
    assert rows.tolist() == [10, 19, 29, 39, 49]
    assert len(spread(FakeIndex(), 1000)) == 40
