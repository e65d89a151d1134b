"""Replay: what goes in comes out, the ring shows what it should, and every checkpoint can be gone back to."""

import errno
import os

import numpy as np
import psutil
import pytest

from dreamlab.core.errors import RunError
from dreamlab.run.columns import Column
from dreamlab.run.replay import Replay

STREAMS = 3


def rows(t, rng=None):
    """Time t of three streams; stream s ends an episode every 5 + s rows."""
    length = 5 + np.arange(STREAMS)
    return {
        "image": np.full((STREAMS, 1, 4, 4), t % 251, np.uint8)
        + np.arange(STREAMS, dtype=np.uint8)[:, None, None, None],
        "act": np.full(STREAMS, t, np.int64),
        "rew": np.full(STREAMS, t, np.float32),
        "is_first": t % length == 0,
        "is_last": t % length == length - 1,
        "is_terminal": np.zeros(STREAMS, bool),
    }


def filled(folder, n, capacity=0):
    replay = Replay(folder, STREAMS, capacity)
    for t in range(n):
        replay.append(rows(t))
    return replay


@pytest.mark.parametrize(("n", "capacity"), [(7, 0), (3000, 0), (50, 30), (1000, 90)])
def test_every_row_shown_holds_what_was_written(tmp_path, n, capacity):
    replay = filled(tmp_path, n, capacity)
    assert replay.stop == n
    assert replay.start == (max(0, n - capacity // STREAMS) if capacity else 0)
    ids = np.arange(replay.start * STREAMS, replay.stop * STREAMS)
    time, stream = ids // STREAMS, ids % STREAMS
    assert (replay.take("act", ids) == time).all()
    assert (replay.take("image", ids)[:, 0, 0, 0] == (time % 251 + stream).astype(np.uint8)).all()
    with pytest.raises(IndexError, match="are held"):
        replay.take("act", np.array([replay.stop * STREAMS]))
    if replay.start:
        with pytest.raises(IndexError):
            replay.take("act", np.array([replay.start * STREAMS - 1]))


@pytest.mark.parametrize(("n", "capacity"), [(0, 0), (1, 0), (43, 0), (200, 60)])
def test_episodes_tile_what_is_held_and_know_whether_they_are_whole(tmp_path, n, capacity):
    replay = filled(tmp_path, n, capacity)
    table = replay.episodes()
    assert (np.diff(table.start) >= 0).all()
    for stream in range(STREAMS):
        mine = table.stream == stream
        covered = [t for a, b in zip(table.start[mine], table.stop[mine], strict=True) for t in range(a, b)]
        assert covered == list(range(replay.start, replay.stop))
        length = 5 + stream
        for a, b, whole in zip(table.start[mine], table.stop[mine], table.whole[mine], strict=True):
            assert whole == (a % length == 0 and b % length == 0)


def test_padding_reads_as_zeros(tmp_path):
    replay = filled(tmp_path, 9)
    got = replay.take("rew", np.array([[3 * STREAMS, -1], [-1, 8 * STREAMS]]))
    assert got.tolist() == [[3, 0], [0, 8]]


def test_annotations_keep_to_their_rows_and_fade_with_them(tmp_path):
    replay = filled(tmp_path, 20, 30)  # shows 10 times
    ids = np.arange(12 * STREAMS, 20 * STREAMS).reshape(4, -1)
    replay.annotate(ids, code=(ids[..., None] * np.ones(2)).astype(np.float16))
    assert (replay.take("code", ids)[..., 0] == ids).all()
    replay.annotate(np.array([-1, 19 * STREAMS]), code=np.array([[7, 7], [8, 8]], np.float16))
    assert (replay.take("code", np.array([19 * STREAMS])) == 8).all()
    for t in range(20, 400):
        replay.append(rows(t))
    now = np.arange(replay.start * STREAMS, replay.stop * STREAMS)
    assert (replay.take("code", now) == 0).all()  # a new row has no annotation of an old one
    with pytest.raises(RunError, match="code"):
        replay.annotate(now[:1], code=np.zeros((1, 3), np.float16))


def reopened(tmp_path, state, step, capacity=0):
    replay = Replay(tmp_path, STREAMS, capacity)
    replay.load_state_dict(state, step)
    return replay


def snapshot(replay):
    ids = np.arange(replay.start * STREAMS, replay.stop * STREAMS)
    return {name: replay.take(name, ids).tobytes() for name in replay.columns}, replay.episodes()


@pytest.mark.parametrize("capacity", [0, 60])
def test_going_back_undoes_rows_columns_and_rewrites(tmp_path, capacity):
    rng = np.random.default_rng(0)
    replay = filled(tmp_path, 30, capacity)
    held = lambda: rng.integers(replay.start * STREAMS, replay.stop * STREAMS, 25)  # noqa: E731
    draw = lambda n: rng.normal(size=(n, 2)).astype(np.float32)  # noqa: E731
    ids = held()
    replay.annotate(ids, **{"la/tent": draw(25)})
    want, state = {}, {}
    for step in (1, 1, 2, 2):  # the same step may be saved again, with other values
        state[step], want[step] = replay.state_dict(), snapshot(replay)
        replay.saved(step, oldest=1, oldest_start=state[1]["stop"] - 20 if capacity else 0)
        for _ in range(3):
            ids = held()
            replay.annotate(ids, **{"la/tent": draw(25)})
            replay.append(rows(replay.stop))
        replay.annotate(held(), **{f"new{step}": draw(25)})
    with open(sorted((tmp_path / "journal").iterdir())[-1] / "la.tent.bin", "ab") as torn:
        torn.write(b"\1\2\3")  # a record that a kill cut short
    for step in (2, 1):
        back = reopened(tmp_path, state[step], step, capacity)
        got = snapshot(back)
        assert got[0] == want[step][0]
        for a, b in zip(got[1], want[step][1], strict=True):
            assert (a == b).all()
        back.saved(step, oldest=1, oldest_start=0)


def test_a_bounded_ring_never_overwrites_what_a_checkpoint_sees(tmp_path):
    replay = filled(tmp_path, 100, 90)
    replay.saved(1, oldest=1, oldest_start=replay.start)
    want, state = snapshot(replay), replay.state_dict()
    while replay.room():
        replay.append(rows(replay.stop))
    assert replay.stop > 100 + 30
    with pytest.raises(RunError, match="save first"):
        replay.append(rows(replay.stop))
    assert snapshot(reopened(tmp_path, state, 1, 90))[0] == want[0]
    replay.saved(2, oldest=2, oldest_start=replay.start)
    replay.append(rows(replay.stop))


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    replay = filled(tmp_path, 10)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Column, "reserve", full)
    with pytest.raises(OSError, match="space"):
        replay.append(rows(10))
    assert replay.stop == 10
    assert (replay.take("act", np.arange(30)) == np.arange(30) // STREAMS).all()


def test_memory_does_not_grow_with_rows(tmp_path):
    replay = Replay(tmp_path, 2)
    frame = {
        "image": np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64), np.uint8),
        "is_first": np.zeros(2, bool),
        "is_last": np.zeros(2, bool),
    }
    for _ in range(100):
        replay.append(frame)
    me = psutil.Process()
    anonymous = lambda: me.memory_info().rss - me.memory_info().shared  # noqa: E731
    before = anonymous()
    for _ in range(3000):  # 74 MB of frames
        replay.append(frame)
    assert anonymous() - before < 8 << 20


def test_other_streams_or_capacity_are_refused(tmp_path):
    state = filled(tmp_path, 5).state_dict()
    with pytest.raises(RunError, match="--envs"):
        Replay(tmp_path, 2).load_state_dict(state, 0)
    (tmp_path / "act.bin").unlink()
    with pytest.raises(RunError, match="is missing"):
        Replay(tmp_path, STREAMS).load_state_dict(state, 0)


def test_a_view_reads_what_a_checkpoint_saw_and_changes_nothing(tmp_path):
    replay = filled(tmp_path, 40)
    want, state = snapshot(replay), replay.state_dict()
    for t in range(40, 3000):  # the store grows under the view's feet
        replay.append(rows(t))
    newest = snapshot(replay)
    view = Replay.view(tmp_path, state)
    assert snapshot(view)[0] == want[0]
    with pytest.raises((ValueError, TypeError)):
        view.append(rows(40))
    assert snapshot(replay)[0] == newest[0]
