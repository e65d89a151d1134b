"""Checkpoints: round trips, damage, pickles, retention."""

import pickle

import numpy as np
import pytest
import torch

from dreamlab.core.errors import NonFinite, UserError
from dreamlab.run.checkpoint import Checkpoints, Damaged


def parts(value=1.0):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "agent-net": {"value": net.state_dict()},
        "run": {
            "optimizer": optimizer.state_dict(),
            "text": "é",
            "none": None,
            "list": [1, 2.5, True, np.float32(3), np.int64(4)],
            "array": np.arange(6, dtype=np.int16).reshape(2, 3),
            "empty": {},
            "scalar": torch.tensor(value, dtype=torch.float64),
            "half": torch.tensor([1.5], dtype=torch.bfloat16),
            "big": 2**100,
            "$odd": {"a": 1},
        },
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and (a == b).all()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_round_trip_is_exact(tmp_path):
    want = parts()
    Checkpoints(tmp_path).save(7, want)
    step, got, words = Checkpoints(tmp_path).load()
    assert (step, words) == (7, [])
    assert same(want, got)
    optimizer = torch.optim.Adam(torch.nn.Linear(3, 2).parameters())
    optimizer.load_state_dict(got["run"]["optimizer"])


def test_the_newest_and_the_best_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step, score in ((1, 5.0), (2, 9.0), (3, None), (4, 3.0), (5, None)):
        store.save(step, parts(), score)
    assert store.steps() == [2, 4, 5]
    assert store.best() == {"step": 2, "score": 9.0}
    assert store.load(2)[0] == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "state", "emptystate"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    store = Checkpoints(tmp_path)
    store.save(1, parts())
    store.save(2, parts())
    weights, state = tmp_path / "checkpoints/2/agent-net.safetensors", tmp_path / "checkpoints/2/state.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-3])
    elif damage == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "delete":
        weights.unlink()
    elif damage == "state":
        state.write_text(state.read_text()[:-40])
    else:
        state.write_text("[]")
    step, _, words = store.load()
    assert step == 1
    assert "checkpoints/2" in words[0]
    with pytest.raises(Damaged):
        store.load(2)
    store.set_aside_after(1)
    assert store.steps() == [1]


def test_nothing_whole_is_an_error(tmp_path):
    with pytest.raises(UserError, match="not saved yet"):
        Checkpoints(tmp_path).load()
    store = Checkpoints(tmp_path)
    store.save(1, parts())
    with pytest.raises(UserError, match=r"no checkpoint 5 .* available: 1"):
        store.load(5)
    (tmp_path / "checkpoints/1/state.json").write_text("")
    with pytest.raises(Damaged, match="every checkpoint"):
        store.load()


class Boom:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("disguise", ["weights.pt", "agent-net.safetensors", "zip.safetensors"])
def test_a_pickle_is_refused_and_never_run(tmp_path, capsys, disguise):
    store = Checkpoints(tmp_path)
    store.save(1, parts())
    target = tmp_path / "checkpoints/1" / disguise
    if disguise.startswith("zip"):
        torch.save({"x": Boom()}, target)
    else:
        target.write_bytes(pickle.dumps(Boom()))
    with pytest.raises(UserError, match="pickle"):
        store.load()
    assert "executed" not in capsys.readouterr().out


def test_no_length_of_a_header_makes_weights_look_like_a_pickle(tmp_path):
    store = Checkpoints(tmp_path)
    lengths = set()
    for n in range(1, 40):  # headers of 640 to 1408 bytes begin with the bytes of a pickle
        store.save(n, {"agent-net": {f"weight{i}": torch.zeros(1) for i in range(n)}})
        head = (tmp_path / f"checkpoints/{n}/agent-net.safetensors").read_bytes()[:2]
        lengths.add(head[0] == 0x80 and 2 <= head[1] <= 5)
        assert store.load()[0] == n
    assert True in lengths


def test_files_outside_the_folder_are_refused(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, parts())
    state = tmp_path / "checkpoints/1/state.json"
    state.write_text(state.read_text().replace('"agent-net.safetensors"', '"../../agent-net.safetensors"'))
    with pytest.raises(UserError, match="outside"):
        store.load()


def test_a_nan_weight_is_not_saved(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, parts())
    with pytest.raises(NonFinite, match=r"run\.scalar"):
        store.save(2, parts(float("nan")))
    assert store.steps() == [1]
    assert not list(tmp_path.glob("checkpoints/*.tmp"))


def test_a_failed_write_leaves_the_older_one(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(1, parts())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dreamlab.run.checkpoint.save_file", full)
    with pytest.raises(OSError, match="space"):
        store.save(2, parts())
    assert store.load()[0] == 1


def test_a_kill_between_two_renames_is_mended(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(3, parts())
    (tmp_path / "checkpoints/3").rename(tmp_path / "checkpoints/3.old")
    assert store.load()[0] == store.load(3)[0] == 3
    assert not (tmp_path / "checkpoints/3").exists()  # who reads renames nothing: the save may be under way
    store.mend()
    assert store.steps() == [3]
