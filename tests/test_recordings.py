"""Recordings become the same rows as what was recorded, whatever form they have; what is not in order is named.

``tiny/Count`` says in every frame which episode it is of, how many steps that has had and which action came last,
and its reward is the step count: anything out of place by one shows.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

import dreamlab
from dreamlab import envs
from dreamlab.agents.random import Uniform
from dreamlab.agents.world_models.acting import Held
from dreamlab.agents.world_models.actions import Choice, Thirds
from dreamlab.cli import collect as collect_verb
from dreamlab.cli import plan
from dreamlab.cli.collect import collect
from dreamlab.cli.main import main
from dreamlab.core.errors import UserError
from dreamlab.core.seeds import derive
from dreamlab.envs.tiny import Count
from dreamlab.logs.video import write_mp4
from dreamlab.run import readers
from dreamlab.run.dataset import About, Dataset, episodes, read_about
from dreamlab.run.readers import Bad
from dreamlab.run.recorder import record
from dreamlab.run.recording import Form, examine, rows
from dreamlab.run.recordings import fill, look
from dreamlab.run.replay import Replay

N, SEED = 12, 3
QUIET = lambda line: None  # noqa: E731


def make(id: str, **settings):
    config = envs.default_config(id)
    return type(config)(**{**vars(config), "workers": False, **settings})


def all_rows(path: Path, known=None, **options) -> dict[str, np.ndarray]:
    found = look(path, known, **options)
    form = Form.to(found.obs_space, found.act_space)
    pieces = [piece for recording in found.files for piece in rows(recording, form)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module", params=["tiny/Count", "tiny/CountContinuous", "tiny/CountMulti"])
def counted(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("counted") / "data"
    collect(make(request.param), folder, N, seed=SEED, envs=5, say=QUIET)
    return folder


@pytest.fixture(scope="module")
def catch(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("catch") / "data"
    collect(make("tiny/Catch"), folder, 40, envs=8, say=QUIET)
    return folder


# -- what is collected -----------------------------------------------------------------------------------------


def test_every_row_of_a_dataset_is_where_it_belongs(counted):
    about = read_about(counted)
    got = all_rows(counted, (about.obs_space, about.act_space))
    starts = np.flatnonzero(got["is_first"])
    assert len(starts) == N
    for k, (start, stop) in enumerate(zip(starts, [*starts[1:], len(got["rew"])], strict=True)):
        mark = Count.mark(derive(SEED, "collect", k))
        vector, act = got["vector"][start:stop], got["act"][start:stop]
        assert (vector[:, 0] == mark).all()
        assert stop - start == Count.steps(mark) + 1
        assert (vector[:, 1] == np.arange(stop - start)).all()
        assert (got["image"][start:stop, 1, 0, 0] == np.arange(stop - start)).all()
        assert (got["rew"][start:stop] == np.arange(stop - start)).all()
        assert (vector[1:, 2:] == act[:-1].reshape(len(act) - 1, -1)).all()  # what was chosen shows in the next row
        assert (act[-1] == 0).all()
        assert got["is_last"][start:stop].tolist() == [False] * (stop - start - 1) + [True]
        assert got["is_terminal"][start:stop].tolist() == [False] * (stop - start - 1) + [mark % 2 == 0]


def test_plain_numpy_reads_a_dataset(counted):
    with np.load(counted / "episode-00000.npz") as file:
        steps = len(file["reward"])
        assert file["obs.image"].shape == (steps + 1, 16, 16, 3)
        assert (file["reward"] == np.arange(1, steps + 1)).all()
        assert (file["terminated"] | file["truncated"]).tolist() == [False] * (steps - 1) + [True]


def test_the_table_of_a_run_holds_those_rows_and_its_rows_are_recordings_again(counted, tmp_path):
    about = read_about(counted)
    found = look(counted, (about.obs_space, about.act_space))
    want = all_rows(counted, (about.obs_space, about.act_space))
    replay = Replay(tmp_path / "replay", 1)
    fill(replay, found, Form.to(found.obs_space, found.act_space))
    same({name: column.rows[: replay.stop] for name, column in replay.columns.items()}, want)
    assert replay.episodes().whole.all()
    index = replay.episodes()
    files = [
        readers.File("", readers._rows(replay, np.arange(a, b), {"actions": 1, "rewards": 1, "ends": 1}))
        for a, b in zip(index.start, index.stop, strict=True)
    ]
    again = [piece for file in files for piece in rows(examine(file), Form.to(found.obs_space, found.act_space))]
    same({name: np.concatenate([piece[name] for piece in again]) for name in want}, want)


def test_collecting_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    collect(make("tiny/Count"), whole, 7, envs=2, say=QUIET)
    write, left = Dataset.write, [3]

    def stopped(self, *args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, *args)

    monkeypatch.setattr(Dataset, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        collect(make("tiny/Count"), cut, 7, envs=2, say=QUIET)
    assert len(look(cut).spans) == 3  # what is there can be read
    monkeypatch.undo()
    make_envs, engines = envs.make, []
    monkeypatch.setattr(
        envs, "make", lambda config, n, seed, **how: engines.append(seed) or make_envs(config, n, seed, **how)
    )
    collect(make("tiny/Count"), cut, 5, envs=2, say=QUIET)
    collect(make("tiny/Count"), cut, 7, envs=2, say=QUIET)
    assert len(set(engines)) == 2  # an engine that goes by its own seed alone does not begin again
    for path in whole.glob("*.npz"):
        assert path.read_bytes() == (cut / path.name).read_bytes()
    with pytest.raises(UserError, match="holds other recordings:\n  seed: 0 there, 1 now"):
        collect(make("tiny/Count"), cut, 7, seed=1, envs=2, say=QUIET)


class Endless(VectorEnv):
    """Frames that say which step it is; episodes of 1300 and 1000 steps."""

    num_envs, lengths = 2, np.array([1300, 1000])
    single_action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = np.zeros(2, np.int64)
        return self.seen(), {}

    def seen(self):
        return {"image": np.broadcast_to((self.t % 251).astype(np.uint8)[:, None, None, None], (2, 3, 64, 64)).copy()}

    def step(self, act):
        self.t += 1
        return self.seen(), self.t.astype(float), self.t == self.lengths, np.zeros(2, bool), {}


def test_long_episodes_are_written_as_they_end_and_memory_stays_small(tmp_path):
    space = spaces.Dict(image=spaces.Box(0, 255, (3, 64, 64), np.uint8))
    dataset = Dataset(tmp_path / "d", About(space, spaces.Discrete(2), {"actions": 1, "rewards": 1, "ends": 1}))
    order = []
    tracemalloc.start()
    for i, episode in record(Uniform(spaces.Discrete(2)), Endless(), [5, 6], torch.device("cpu"), tmp_path):
        assert episode.ret == sum(range(Endless.lengths[i] + 1))
        dataset.write(i, episode.rows, episode.pieces())
        order.append(i)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert order == [1, 0]
    assert peak < 15 << 20  # of 27 MiB of rows, five pieces of 256
    got = all_rows(tmp_path / "d")
    t = np.concatenate([np.arange(n + 1) for n in Endless.lengths])
    assert (got["rew"] == t).all()
    assert (got["image"] == (t % 251)[:, None, None, None]).all()
    assert np.flatnonzero(got["is_terminal"]).tolist() == np.flatnonzero(got["is_last"]).tolist() == [1300, 2301]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_who_collects(tmp_path, monkeypatch):
    collect(make("tiny/Count"), tmp_path / "held", 20, policy="held", envs=5, say=QUIET)
    act = all_rows(tmp_path / "held")["act"]
    collect(make("tiny/Count"), tmp_path / "random", 20, envs=5, say=QUIET)
    assert (np.diff(act) == 0).mean() > 1.5 * (np.diff(all_rows(tmp_path / "random")["act"]) == 0).mean()
    three = (spaces.Dict(image=spaces.Box(0, 255, (3, 64, 64), np.uint8)), spaces.Discrete(3))
    monkeypatch.setattr(envs, "spaces_of", lambda config: three)  # ViZDoom need not be installed
    for id, policy, kind in (("VizdoomTakeCover-v1", Held, Thirds), ("tiny/Catch", Held, Choice)):
        walker = collect_verb.actor("held", envs.default_config(id), 0)[3](0)
        assert (type(walker), type(walker.actions)) == (policy, kind)


def test_a_headless_show_is_a_film_beside_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(collect_verb, "has_display", lambda: False)
    collect(make("tiny/Catch"), tmp_path / "d", 3, envs=2, show=True, say=QUIET)
    assert (tmp_path / "d/videos/episode-00000.mp4").stat().st_size > 1000
    assert len(look(tmp_path / "d").spans) == 3


# -- alignment -------------------------------------------------------------------------------------------------


def frames(n: int, first: int = 0) -> np.ndarray:
    return np.broadcast_to(np.arange(first, first + n, dtype=np.uint8)[:, None, None, None], (n, 8, 8, 3)).copy()


def shown(got: dict[str, np.ndarray]) -> list[int]:
    return got["image"][:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("observations", "arrays", "seen", "rew", "terminal"),
    [
        (4, {}, [0, 1, 2, 3], [0, 0, 0, 0], 0),
        (4, {"action": [1, 2, 3], "reward": [5, 6, 7], "terminated": [0, 0, 1]}, [0, 1, 2, 3], [0, 5, 6, 7], 1),
        (4, {"reward": [5, 6, 7], "truncated": [0, 0, 1]}, [0, 1, 2, 3], [0, 5, 6, 7], 0),
        # as many observations as actions: the last frame stands in only where something came with what is missing
        (3, {"action": [1, 2, 3]}, [0, 1, 2], [0, 0, 0], 0),
        (3, {"action": [1, 2, 3], "truncated": [0, 0, 1]}, [0, 1, 2], [0, 0, 0], 0),
        (3, {"action": [1, 2, 3], "reward": [5, 6, 7]}, [0, 1, 2, 2], [0, 5, 6, 7], 0),
        (3, {"action": [1, 2, 3], "terminated": [0, 0, 1]}, [0, 1, 2, 2], [0, 0, 0, 0], 1),
    ],
)
def test_alignments(tmp_path, observations, arrays, seen, rew, terminal):
    np.savez(tmp_path / "a.npz", obs=frames(observations), **{k: np.array(v) for k, v in arrays.items()})
    got = all_rows(tmp_path)
    assert shown(got) == seen
    assert got["rew"].tolist() == rew
    chosen = arrays.get("action", [0, 0, 0])[: len(seen) - 1]
    assert got["act"].tolist() == [*chosen, 0]  # after the last row nothing is chosen
    assert got["is_terminal"].tolist() == [False] * (len(seen) - 1) + [bool(terminal)]


def test_a_flat_file_is_cut_where_its_steps_end_an_episode(tmp_path):
    """As episodes of their own, brute force: pieces of 256 rows cut them anywhere."""
    rng = np.random.default_rng(0)
    n = 700
    obs, act, rew = rng.integers(0, 255, (n, 8, 8, 3), np.uint8), rng.integers(0, 5, n), rng.random(n)
    over = rng.random(n) < 0.05
    over[-1] = False
    terminated = over & (rng.random(n) < 0.5)
    np.savez(
        tmp_path / "flat.npz", obs=obs, action=act, reward=rew, terminated=terminated, truncated=over & ~terminated
    )
    want: dict[str, list] = {k: [] for k in ("image", "act", "rew", "is_first", "is_last", "is_terminal")}

    def put(t: int, a: int, r: float, first: bool, last: bool, terminal: bool) -> None:
        for name, value in zip(want, (obs[t].transpose(2, 0, 1), a, np.float32(r), first, last, terminal), strict=True):
            want[name].append(value)

    first = True
    for t in range(n):
        put(t, act[t], 0 if first else rew[t - 1], first, False, False)
        first = bool(over[t])
        if over[t] or t == n - 1:  # the frame that came with the last reward was not recorded
            put(t, 0, rew[t], False, True, bool(terminated[t]))
    same(all_rows(tmp_path), {name: np.array(values) for name, values in want.items()})


def test_layouts_of_the_same_frames_are_the_same_rows(tmp_path):
    obs = np.random.default_rng(0).integers(0, 255, (300, 10, 12, 3), np.uint8)
    forms = {
        "last": obs,
        "first": np.ascontiguousarray(obs.transpose(0, 3, 1, 2)),
        "fortran": np.asfortranarray(obs),
    }
    for name, values in forms.items():
        for suffix, save in ((".npy", np.save), (".npz", lambda path, x: np.savez_compressed(path, obs=x))):
            folder = tmp_path / f"{name}{suffix[1:]}"
            folder.mkdir()
            save(folder / f"e{suffix}", values)
            same(all_rows(folder), all_rows(tmp_path / "lastnpy"))
    np.save(tmp_path / "grey.npy", obs[..., 0])
    assert all_rows(tmp_path / "grey.npy")["image"].shape == (300, 1, 10, 12)


@pytest.mark.parametrize("shape", [(10, 10, 10), (12, 8, 8), (3, 2, 16), (2, 3, 5), (5, 4, 3), (1, 9, 3)])
def test_planes_of_any_size_keep_their_places(tmp_path, shape):
    """The shape alone does not tell channels from rows; runs and datasets know which is which."""
    rng, n = np.random.default_rng(0), 300
    want = {"image": rng.integers(0, 255, (n, *shape), np.uint8), "act": rng.integers(0, 3, n)}
    want |= {"rew": rng.random(n).astype(np.float32)}
    want |= {name: np.zeros(n, bool) for name in ("is_first", "is_last", "is_terminal")}
    want["is_first"][0], want["is_last"][-1], want["act"][-1], want["rew"][0] = True, True, 0, 0
    space = spaces.Dict(image=spaces.Box(0, 255, shape, np.uint8))
    about = About(space, spaces.Discrete(3), {"actions": True, "rewards": True, "ends": True})
    Dataset(tmp_path / "data", about).write(0, n, [want])
    same(all_rows(tmp_path / "data"), want)
    same(all_rows(tmp_path / "data", (space, spaces.Discrete(3))), want)
    replay = Replay(tmp_path / "replay", 1)
    found = look(tmp_path / "data")
    fill(replay, found, Form.to(found.obs_space, found.act_space))
    file = readers.File("", readers._rows(replay, np.arange(n), about.holds))
    pieces = list(rows(examine(file), Form.to(space, spaces.Discrete(3))))
    same({name: np.concatenate([piece[name] for piece in pieces]) for name in want}, want)


def test_actions_say_their_space(tmp_path):
    act = np.array([[-0.9, 0.1], [0.4, 0.8], [0.0, 0.3]])
    for name, action in (("box", act), ("flat", act[:, 0]), ("one of n", np.array([3, 0, 1])), ("yes", act[:, 0] > 0)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "e.npz", obs=frames(4), action=action)
    assert look(tmp_path / "box").act_space == spaces.Box(np.array([-1, 0]), np.array([1, 1]), dtype=np.float32)
    assert look(tmp_path / "flat").act_space.shape == (1,)
    assert look(tmp_path / "one of n").act_space == spaces.Discrete(4)
    assert look(tmp_path / "yes").act_space == spaces.Discrete(2)


# -- import ----------------------------------------------------------------------------------------------------


def test_whatever_is_imported_is_the_same_rows(counted, tmp_path, go):
    about = read_about(counted)
    go("import", counted, "--out", tmp_path / "again")
    known = (about.obs_space, about.act_space)
    assert read_about(tmp_path / "again")[:4] == about[:4]
    same(all_rows(tmp_path / "again", known), all_rows(counted, known))
    (tmp_path / "again/episode-00004.npz").unlink()  # stopped half-way
    go("import", counted, "--out", tmp_path / "again")
    same(all_rows(tmp_path / "again", known), all_rows(counted, known))
    assert "holds other recordings" in go("import", counted, "--out", tmp_path / "again", "--size", 8, 8, code=2)


def test_films_and_frames(tmp_path, go):
    for name, n in (("e1", 3), ("e2", 5), ("e10", 300)):
        smooth = np.linspace(0, 255, n * 16 * 16 * 3).reshape(n, 16, 16, 3).astype(np.uint8)
        for folder in ("npy", "mp4"):
            (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / f"npy/{name}.npy", smooth)
        write_mp4(tmp_path / f"mp4/{name}.mp4", smooth, crf=1)
    for kind in ("npy", "mp4"):
        go("import", tmp_path / kind, "--out", tmp_path / f"{kind}-data", "--size", 8, 8)
    still, film = all_rows(tmp_path / "npy-data"), all_rows(tmp_path / "mp4-data")
    assert still["image"].shape == film["image"].shape == (308, 3, 8, 8)
    assert np.flatnonzero(still["is_first"]).tolist() == [0, 3, 8]  # e2 before e10
    assert np.abs(still["image"].astype(int) - film["image"]).mean() < 6
    np.save(tmp_path / "npy/e11.npy", np.zeros((4, 20, 16, 3), np.uint8))
    words = go("import", tmp_path / "npy", "--out", tmp_path / "x", code=2)
    assert "16x16 (3 files), 20x16 (1 file)" in words
    assert "--size 16 16" in words


def test_episodes_are_cut_out_of_any_pieces():
    stream = {"rew": np.arange(20)}
    for width in (1, 3, 7, 20):
        pieces = ({"rew": stream["rew"][i : i + width]} for i in range(0, 20, width))
        found = [np.concatenate([p["rew"] for p in part]).tolist() for _, part in episodes(pieces, [5, 1, 12, 2])]
        assert found == [list(range(5)), [5], list(range(6, 18)), [18, 19]]


# -- bad input -------------------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(bytes(data))


def replaced(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def npz(path: Path, method: int = zipfile.ZIP_STORED, **headers) -> None:
    """Arrays that say they are of these shapes, but hold 1728 bytes."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, shape in headers.items():
            with file.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array_header_1_0(
                    stream, {"descr": "|u1", "fortran_order": name == "fortran", "shape": shape}
                )
                stream.write(NOISE.tobytes())


def encrypted(path: Path) -> None:
    """Marked as such, in the file's own header and in the archive's."""
    np.savez(path, obs=NOISE, **STEPS)
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        begin = -1
        while (begin := data.find(mark, begin + 1)) >= 0:
            data[begin + at] |= 1
    path.write_bytes(bytes(data))


NOISE = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), np.uint8)
BAD = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "text": (lambda p: p.write_text("hello"), "damaged or cut short"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps([1])), "damaged or cut short|never unpickled"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
}
BAD_NPY = {
    "truncated": (lambda p: (np.save(p, NOISE), cut(p, 0.6)), "cut short"),
    "objects": (lambda p: np.save(p, np.array([{}, 1], object)), "never unpickled"),
    "floats": (lambda p: np.save(p, NOISE / 255), r"float64; images are bytes: save \(255 \* x\)"),
    "words": (lambda p: np.save(p, np.array(["a", "b"])), "no numbers"),
    "five axes": (lambda p: np.save(p, NOISE[None]), "images are"),
    "no frames": (lambda p: np.save(p, NOISE[:0]), "is empty"),
    "one frame": (lambda p: np.save(p, NOISE[:1]), "single frame"),
    "a number": (lambda p: np.save(p, np.array(3)), "a single number"),
    "nan": (lambda p: np.save(p, np.full((5, 4), np.nan)), "not finite|most files"),
    "another kind": (lambda p: np.save(p, NOISE[..., :1]), "holds image of 1 channel, but most files"),
    "torn header": (lambda p: (np.save(p, NOISE), replaced(p, b"}", b" ")), "damaged"),
    "too much": (
        lambda p: (np.save(p, NOISE), replaced(p, b"(9,", b"(99999999999999999999999999,")),
        "but there are 1,7",
    ),
    "below 0": (lambda p: (np.save(p, NOISE), replaced(p, b"(9,", b"(-9,")), "its header says"),
    "beyond": (lambda p: np.save(p, np.full((5, 4), 1e300)), "step 0 is not finite as float32|most files"),
}
STEPS = {"action": np.arange(8) % 4, "reward": np.ones(8), "terminated": np.zeros(8, bool)}
BAD_NPZ = {
    "truncated": (lambda p: (np.savez(p, obs=NOISE, **STEPS), cut(p, 0.6)), "cut short"),
    "flipped": (lambda p: (np.savez(p, obs=NOISE, **STEPS), flip(p)), "damaged"),
    "no obs": (lambda p: np.savez(p, **STEPS), "no array 'obs'; it has: action"),
    "misspelt": (
        lambda p: np.savez(p, obs=NOISE, **{**STEPS, "rewards": np.ones(8)}),
        "'rewards' is not known; rename",
    ),
    "lengths": (lambda p: np.savez(p, obs=NOISE[:7], **STEPS), "lengths do not fit: obs image 7, action 8"),
    "lengths too": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "reward": np.ones(7)}), "reward 7"),
    "nan": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "reward": np.r_[np.ones(7), np.nan]}), "reward of step 7"),
    "below": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "action": np.arange(8) - 1}), "action -1 is below 0"),
    "one-hot": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "action": np.eye(8, dtype=int)}), r"argmax\(1\)"),
    "many": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "terminated": np.full(8, 2)}), "yes or no"),
    "fewer": (lambda p: np.savez(p, obs=NOISE, action=STEPS["action"]), "but most files"),
    "objects": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "action": np.array([{}] * 8)}), "never unpickled"),
    "encrypted": (encrypted, "is encrypted"),
    "too long": (lambda p: npz(p, obs=(10**13, 8, 8, 3)), "its header says"),
    "too wide": (lambda p: npz(p, obs=(3, 10**9, 10**9, 3)), "its header says"),
    "too far": (lambda p: npz(p, fortran=(10**13, 8), obs=(9, 8, 8, 3)), "its header says"),
    "a number": (lambda p: npz(p, obs=()), "single number"),
    "a number too": (lambda p: np.savez(p, obs=NOISE[:1], action=1), "action is a single number"),
    "no action": (lambda p: np.savez(p, obs=NOISE[:1], action=np.zeros(0)), r"action is empty: \(0,\)"),
    "of nothing": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "action": np.zeros((8, 0))}), r"empty: \(8, 0\)"),
    "a lot": (
        lambda p: np.savez(p, obs=NOISE, **{**STEPS, "reward": np.r_[np.ones(7), 1e300]}),
        "step 7 .* float32: 1e",
    ),
    "a lot of": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "action": np.full((8, 2), 1e300)}), "action of step 0"),
    "far": (lambda p: np.savez(p, obs=NOISE, **{**STEPS, "action": np.full(8, 2**63, np.uint64)}), "none of a set"),
    "twice": (lambda p: np.savez(p, **{"obs": NOISE, "obs.image": NOISE}, **STEPS), "hold image twice"),
}
BAD_FILM = {
    "truncated": (lambda p: (write_mp4(p, NOISE.repeat(40, 0)), cut(p, 0.6)), "cut short"),
    "coded": (lambda p: (write_mp4(p, NOISE), replaced(p, b"avc1", b"zzzz")), "coded in a way that is not known"),
}


@pytest.mark.parametrize(
    ("suffix", "spoil", "reason"),
    [
        pytest.param(suffix, *case, id=f"{suffix} {name}")
        for suffix, cases in ((".npy", BAD | BAD_NPY), (".npz", BAD | BAD_NPZ), (".mp4", BAD | BAD_FILM))
        for name, case in cases.items()
    ],
)
def test_a_bad_file_is_named_with_its_reason_and_can_be_skipped(tmp_path, go, suffix, spoil, reason):
    data = tmp_path / "data"
    data.mkdir()
    for i in (1, 3, 4):
        path = data / f"e{i}{suffix}"
        if suffix == ".npy":
            np.save(path, NOISE)
        elif suffix == ".npz":
            np.savez(path, obs=NOISE, **STEPS)
        else:
            write_mp4(path, NOISE)
    want = all_rows(data)
    spoil(data / f"e2{suffix}")
    with pytest.raises(Bad, match=rf"e2\{suffix}: .*({reason})"):
        all_rows(data)
    assert "--skip-bad" in go("import", data, "--out", tmp_path / "out", code=2)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert f"skipped: e2{suffix}" in go("import", data, "--out", tmp_path / "out", "--skip-bad")
    same(all_rows(tmp_path / "out"), want)


@pytest.mark.parametrize(
    ("kind", "times"), [("npy", 250), ("inner npz", 250), ("npz", 200), ("lzma npz", 150), ("mp4", 20)]
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_file_holds_it_is_read_or_is_bad(tmp_path, kind, times):
    """Bytes are overwritten, most of them in headers, and ends cut off: nothing but Bad is ever raised."""
    whole, path = (tmp_path / f"{name}.{kind.split()[-1]}" for name in ("whole", "spoilt"))
    if kind in ("npy", "inner npz"):  # an array's own bytes, packed after they were spoilt: the checksum is right
        whole = tmp_path / "whole.npy"
        np.save(whole, NOISE)
    elif kind == "npz":
        np.savez_compressed(whole, obs=NOISE // 40, **STEPS)
    elif kind == "lzma npz":
        npz(whole, zipfile.ZIP_LZMA, obs=NOISE.shape)
    else:
        write_mp4(whole, NOISE.repeat(3, 0))
    data, rng, bad = whole.read_bytes(), np.random.default_rng(0), 0
    heads = (b"{'descr", b"PK\x01\x02", b"PK\x03\x04", b"moov", b"stsd")
    marks = [data.find(head) for head in heads if head in data]
    examine(readers.open_file(whole))
    for _ in range(times):
        spoilt = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            at = rng.choice(marks) + rng.integers(0, 90) if rng.random() < 0.7 else rng.integers(len(data))
            byte = rng.choice(list(b"()[]{}',:-09 #x\\\n")) if rng.random() < 0.6 else rng.integers(256)
            spoilt[min(at, len(data) - 1)] = byte
        left = bytes(spoilt[: rng.integers(len(data))]) if rng.random() < 0.1 else bytes(spoilt)
        if kind == "inner npz":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("obs.npy", left)
        else:
            path.write_bytes(left)
        try:
            recording = examine(readers.open_file(path))
            for _ in rows(recording, Form.of(recording)):
                pass
        except Bad:
            bad += 1
    assert bad > times / 5


def test_folders_that_cannot_be_read(tmp_path, go, monkeypatch):
    out = ("--out", tmp_path / "out")
    assert "no such folder" in go("import", tmp_path / "nothing", *out, code=2)
    (tmp_path / "d").mkdir()
    assert "is empty" in go("import", tmp_path / "d", *out, code=2)
    (tmp_path / "d/notes.txt").write_text("x")
    assert "holds none (notes.txt)" in go("import", tmp_path / "d", *out, code=2)
    assert "is no recording" in go("import", tmp_path / "d/notes.txt", *out, code=2)
    np.save(tmp_path / "d/a.npy", NOISE)
    assert "folders d: name one" in go("import", tmp_path, *out, code=2)
    np.savez(tmp_path / "d/b.npz", obs=NOISE)
    assert "different kinds, 1 frames as .npy and 1 .npz files" in go("import", tmp_path / "d", *out, code=2)
    (tmp_path / "d/b.npz").unlink()
    monkeypatch.setattr(plan, "free_disk", lambda folder: 1000)
    assert "up to 1.69 KiB would be written, but 0.977 KiB are free" in go("import", tmp_path / "d", *out, code=2)
    if os.getuid():
        (tmp_path / "d/a.npy").chmod(0)
        assert "no permission" in go("import", tmp_path / "d", *out, code=2)


def test_a_dataset_whose_word_is_damaged(catch, tmp_path, go):
    shutil.copytree(catch, tmp_path / "d")
    about = tmp_path / "d/recordings.json"
    about.write_text(about.read_text().replace('"n": 3', '"n": 2'))
    assert "has action 2, but there are 2" in go("import", tmp_path / "d", "--out", tmp_path / "o", code=2)
    cut(about, 0.5)
    assert "recordings.json is damaged" in go("import", tmp_path / "d", "--out", tmp_path / "o", code=2)


def test_a_file_that_is_not_of_its_dataset(catch, tmp_path):
    about = read_about(catch)
    known = (about.obs_space, about.act_space)
    arrays = dict(np.load(catch / "episode-00000.npz"))
    others = {
        "holds vector, but all of image": {**arrays, "obs": np.zeros((8, 4), np.float32)},
        r"image is \(3, 9, 16\), but \(3, 16, 16\)": {**arrays, "obs": arrays["obs"][:, :9]},
        r"image is \(1, 16, 16\)": {**arrays, "obs": arrays["obs"][..., :1]},
        "its actions are 2 numbers, but recorded is one of n": {**arrays, "action": np.zeros((7, 2), np.float32)},
        "has action 7, but there are 3": {**arrays, "action": np.full(7, 7)},
    }
    for reason, other in others.items():
        folder = shutil.copytree(catch, tmp_path / str(len(list(tmp_path.iterdir()))))
        np.savez(folder / "episode-00001.npz", **other)
        with pytest.raises(Bad, match=f"episode-00001.npz: {reason}"):
            look(folder, known)
        assert len(look(folder, known, skip_bad=True).files) == 39
    np.savez(tmp_path / "e.npz", obs=arrays["obs"], action=np.zeros((7, 2)))
    with pytest.raises(Bad, match="its actions are 2 numbers, but recorded is 5 numbers"):
        look(tmp_path / "e.npz", (about.obs_space, spaces.Box(-1, 1, (5,))))


def test_spaces_survive_being_written(tmp_path):
    box = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 2.5], np.float32))
    obs = spaces.Dict(image=spaces.Box(0, 255, (3, 8, 8), np.uint8), vector=box)
    for act in (spaces.Discrete(7), spaces.Box(-1, 1, (3,))):
        about = About(obs, act, {"actions": True, "rewards": False, "ends": False})
        Dataset(tmp_path / str(act), about)
        assert read_about(tmp_path / str(act)) == about


# -- training --------------------------------------------------------------------------------------------------

SHORT = ("--agent.vision.updates", 3, "--agent.vision.batch", 8, "--agent.memory.updates", 2, "--agent.memory.batch", 4,
         "--logs", "jsonl", "--threads", 1, "--device", "cpu")  # fmt: skip
WHOLE = ("--preset", "tiny", *SHORT, "--agent.controller.generations", 1, "--agent.controller.episodes", 1,
         "--eval-episodes", 4, "--envs", 4)  # fmt: skip


@pytest.fixture
def go(capfd, monkeypatch):
    """Run a command, see its exit code, return what it wrote on one line."""
    monkeypatch.delenv("DREAMLAB_DEBUG", raising=False)

    def run(*argv: object, code: int = 0) -> str:
        capfd.readouterr()
        left = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        assert left == code, out + err
        return " ".join((out + err if code == 0 else err).split())

    return run


def held(run: Path) -> dict[str, np.ndarray]:
    table = dreamlab.load(run).rows().replay
    names = ("image", "act", "rew", "is_first", "is_last", "is_terminal")
    return {name: table.columns[name].rows[: table.stop] for name in names}


def test_from_a_folder_to_a_policy_that_is_scored_where_it_was_recorded(catch, tmp_path, go, monkeypatch):
    run, again = tmp_path / "run", tmp_path / "again"
    argv = ("train", "world-models", "--data", catch, "--env", "tiny/Catch", *WHOLE, "--run", run)
    words = go(*argv)
    assert "recordings: 40 episodes, 320 rows" in words
    assert list((run / "evaluations").glob("*.json"))
    about = read_about(catch)
    same(held(run), all_rows(catch, (about.obs_space, about.act_space)))
    before = (run / "metrics.jsonl").read_text()
    go(*argv)  # it is finished
    assert (run / "metrics.jsonl").read_text() == before

    def stopped(*args):
        raise KeyboardInterrupt

    append, left = Replay.append, [100]

    def count(self, values):
        left[0] -= 1
        append(self, values) if left[0] else stopped()

    monkeypatch.setattr(Replay, "append", count)  # killed while recordings are read
    argv = ("train", "world-models", "--data", run, "--env", "tiny/Catch", *WHOLE, "--run", again)
    go(*argv, code=130)
    monkeypatch.undo()
    go(*argv)
    same(held(again), held(run))
    mine, other = (dreamlab.load(folder).agent.parts["vision"].state_dict() for folder in (run, again))
    assert all((mine[name] == other[name]).all() for name in mine)  # a run's rows teach what the recordings taught
    go("collect", "tiny/Catch", "--policy", run, "--episodes", 3, "--out", tmp_path / "played")
    assert len(look(tmp_path / "played").spans) == 3
    assert "is scored there; leave out --env" in go("evaluate", run, "--env", "tiny/Count", code=2)


def test_without_any_environment(catch, tmp_path, go, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    for i in range(2):
        np.save(tmp_path / f"films/e{i}.npy", NOISE.repeat(4, 0))
    small = ("--agent.memory.sequence", 8, *SHORT)
    words = go("train", "world-models", "--data", "films", "--env.size", 16, 16, *small)
    assert "8x8 frames are resized to 16x16" in words
    assert "no actions, rewards, ends" in words
    assert "not evaluated: it has not learned to act" in words
    run = tmp_path / "runs/world-models-films-s0"
    shutil.rmtree(tmp_path / "films")  # it goes on and is opened without them
    assert "it was not evaluated" in go("train", "--run", run)
    go("dream", run, "--horizon", 5, "--count", 1)
    opened = dreamlab.load(run)
    assert opened.act_space == spaces.Discrete(1)
    dream = dreamlab.DreamEnv.single(opened.model, opened.starts(), opened.act_space, horizon=3)
    assert dream.reset(seed=0)[0]["image"].shape == (3, 16, 16)
    assert "has not learned to act" in go("evaluate", run, code=2)
    with pytest.raises(UserError, match="there is no environment"):
        opened.make_env()
    # what was collected knows its size, its actions and where it is from
    words = go("train", "world-models", "--data", catch, *WHOLE, "--run", tmp_path / "alone")
    assert "with --env tiny/Catch the result is evaluated there" in words
    assert "resized" not in words
    assert "not evaluated: there is no environment" in words
    assert "learned from recordings alone" in go("evaluate", tmp_path / "alone", code=2)
    go("evaluate", tmp_path / "alone", "--env", "tiny/Catch", "--episodes", 4)
    assert "takes Discrete(4)" in go("evaluate", tmp_path / "alone", "--env", "tiny/Count", code=2)


def test_parts_of_another_run_need_not_be_taught_by_the_recordings(catch, tmp_path, go):
    np.savez(tmp_path / "e.npz", obs=NOISE.repeat(4, 0), action=np.arange(35) % 3)
    shape = ("--preset", "tiny", "--agent.memory.reward", "--agent.controller.train-in", "dream", *SHORT)
    fitness = {"generations": 1, "episodes": 1, "horizon": 5}
    dream = (*shape, *(word for k, v in fitness.items() for word in (f"--agent.controller.{k}", v)))
    argv = ("--data", tmp_path / "e.npz", "--env", "recordings", "--env.size", 16, 16, *dream)
    assert "no rewards for M" in go("train", "world-models", *argv, "--run", tmp_path / "alone", code=2)
    taught = ("--data", catch, "--env", "recordings", "--agent.stages", "vision", "memory")
    go("train", "world-models", *taught, *shape, "--run", tmp_path / "m")
    argv = (*argv, "--from", tmp_path / "m", "--run", tmp_path / "c")
    assert "controller" in go("plan", "world-models", *(word for word in argv if word not in ("--logs", "jsonl")))
    go("train", "world-models", *argv)
    assert "this run is finished" in go("train", "--run", tmp_path / "c")


def test_a_start_that_was_interrupted_says_what_to_type_again(tmp_path, go, monkeypatch):
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d/e1.npy", NOISE.repeat(4, 0))
    np.save(tmp_path / "d/e2.npy", NOISE / 255)
    argv = (
        "train",
        "world-models",
        "--data",
        tmp_path / "d",
        "--env.size",
        16,
        16,
        "--agent.memory.sequence",
        8,
        *SHORT,
    )

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Replay, "append", stopped)
    go(*argv, "--skip-bad", "--run", tmp_path / "run", code=130)
    monkeypatch.undo()
    assert "--skip-bad leaves out" in go("train", "--run", tmp_path / "run", code=2)
    assert "skipped: e2.npy" in go("train", "--run", tmp_path / "run", "--skip-bad")
    assert "this run is finished" in go("train", "--run", tmp_path / "run")  # it has its rows


def test_what_does_not_fit_is_refused_before_anything_is_trained(catch, tmp_path, go):
    run = ("--run", tmp_path / "run")
    train = ("train", "world-models", "--data", catch)
    assert "random cannot learn from recordings" in go("train", "random", "--data", catch, *run, code=2)
    assert "holds image; type: --env.obs pixels" in go(*train, "--env", "tiny/Count", *run, code=2).replace(
        "hold ", "holds "
    )
    words = go(*train, "--env", "tiny/Count", "--env.obs", "pixels", *run, code=2)
    assert "actions are Discrete(3), but tiny/Count takes Discrete(4)" in words
    assert "--capacity 10 keeps fewer than the 320 rows" in go(*train, *WHOLE, "--capacity", 10, *run, code=2)
    np.savez(tmp_path / "far.npz", obs=frames(4), action=np.array([1, 2, 9]))
    words = go("plan", "world-models", "--data", tmp_path / "far.npz", "--env", "tiny/Catch", code=2)
    assert "Discrete(10), but tiny/Catch takes Discrete(3)" in words
    np.save(tmp_path / "mute.npy", NOISE)
    words = go("plan", "world-models", "--data", tmp_path / "mute.npy", "--env", "tiny/Catch", code=2)
    assert "hold no actions" in words
    assert not (tmp_path / "run/config.yaml").exists()
