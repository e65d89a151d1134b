"""Playing in a dream over the studio's WebSocket: what is shown is the dream, and reality is the environment."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from starlette.testclient import TestClient, WebSocketTestSession

from dreamlab import envs
from dreamlab.cli import session
from dreamlab.cli.main import main
from dreamlab.core.errors import UserError
from dreamlab.core.imagination import leaves, tree_map
from dreamlab.core.pictures import to_rgb
from dreamlab.core.seeds import forked
from dreamlab.dream.env import DreamEnv
from dreamlab.envs import build
from dreamlab.logs.video import read_mp4
from dreamlab.studio import controls, dreaming, hands, outbox, playing, reality, stretches
from dreamlab.studio.app import application
from dreamlab.studio.studio import Studio

Planes = dict[str, np.ndarray]
SEED = 7
HERE = {"Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small World Models run of Catch in it."""
    root = tmp_path_factory.mktemp("studio")
    threads = torch.get_num_threads()
    small = [
        "--preset",
        "smoke",
        "--threads",
        "1",
        "--env.no-workers",
        "--eval-episodes",
        "1",
        "--run",
        f"{root}/catch",
    ]
    assert main(["train", "world-models", "--env", "tiny/Catch", *small]) == 0
    torch.set_num_threads(threads)
    return root


@pytest.fixture(scope="module")
def opened(root: Path) -> Any:
    opened = session.open_run(root / "catch")
    predict = opened.model.predict  # it has hardly learned: its dreams would end anywhere
    opened.model.predict = lambda latent: {**predict(latent), "con": torch.full(latent.z.shape[:-1], 0.9)}
    return opened


@pytest.fixture
def client(root: Path, opened: Any, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(_application(root, opened, tmp_path), headers=HERE) as client:
        yield client


def _application(root: Path, opened: Any, cache: Path, seats: int = 8) -> Any:
    return application(Studio(root, lambda folder, checkpoint: opened, cache, seats=seats, threads=1))


class Line:
    """A client: ``told`` waits for a message of a kind, ``seen`` for a picture."""

    def __init__(self, socket: WebSocketTestSession) -> None:
        self.socket = socket
        self.words: list[dict[str, Any]] = []
        self.pictures: list[tuple[dict[str, Any], Planes]] = []

    def say(self, do: str, **rest: Any) -> None:
        self.socket.send_json({"do": do, **rest})

    def told(self, kind: str) -> dict[str, Any]:
        while True:
            for i, word in enumerate(self.words):
                if word["is"] == kind:
                    return self.words.pop(i)
            self._receive()
            self._refuse_errors(kind)

    def seen(self, wanted: Callable[[dict[str, Any]], bool] = lambda head: True) -> tuple[dict[str, Any], Planes]:
        while True:
            while self.pictures:
                head, planes = self.pictures.pop(0)
                if wanted(head):
                    return head, planes
            self._receive()
            self._refuse_errors("picture")

    def open(self, start: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Open the run, standing still."""
        self.say("set", paused=True)
        self.say("open", run="catch", start=start, seed=SEED, **more)
        return self.told("ready")

    def tick(self, act: Any, n: int) -> tuple[dict[str, Any], Planes]:
        """One step with an act."""
        self.say("act", act=act, n=n)
        self.say("step")
        return self.seen(lambda head: head["key"] == n)

    def _refuse_errors(self, wanted: str) -> None:
        """Nothing else would come: better an answer than a test that waits."""
        if wanted != "error" and self.words and self.words[-1]["is"] == "error":
            raise AssertionError(f"waited for {wanted}, but was told: {self.words[-1]['text']}")

    def _receive(self) -> None:
        message = self.socket.receive()
        if message["type"] == "websocket.close":
            raise AssertionError(f"the studio closed the line: {message}")
        if message.get("text") is not None:
            self.words.append(json.loads(message["text"]))
        else:
            self.pictures.append(unpacked(message["bytes"]))


def unpacked(data: bytes) -> tuple[dict[str, Any], Planes]:
    (length,) = struct.unpack("<I", data[:4])
    head, at, planes = json.loads(data[4 : 4 + length]), 4 + length, {}
    for name, h, w in head["planes"]:
        planes[name] = np.frombuffer(data, np.uint8, h * w * 3, at).reshape(h, w, 3)
        at += h * w * 3
    assert at == len(data)
    return head, planes


def middle(opened: Any) -> int:
    """A row in the middle of a whole episode."""
    experience = opened.rows()
    held = experience.index.episodes()
    found = np.flatnonzero(held.whole & (held.stop - held.start == 8))
    return stretches.episode(experience, int(found[len(found) // 2])).row(2)


# ---- the dream


def test_the_same_start_and_acts_are_a_dream_envs_own_frames(client, opened):
    experience, row = opened.rows(), middle(opened)
    acts = [0, 2, 1, 0]
    found, _ = stretches.stored(experience, row)
    with torch.no_grad(), forked(SEED, "observe"):
        start = tree_map(lambda x: x[:, -1], opened.model.observe(found.batch(0, 3)))
    env = DreamEnv(opened.model, start, opened.act_space, 1, temperature=0.8, seed=SEED)
    obs, _ = env.reset(seed=SEED)
    want, rews = [to_rgb(obs["image"])[0]], [None]
    for act in acts:
        obs, _, _, _, _ = env.step(np.array([act]))
        want.append(to_rgb(obs["image"])[0])
        rews.append(float(env.said["rew"][0]))
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        ready = line.open({"kind": "row", "row": row}, temperature=0.8)
        assert (ready["env"], ready["checkpoint"], ready["size"]) == ("tiny/Catch", opened.step, [16, 16])
        shown = [line.seen()]
        for n, act in enumerate(acts):
            shown.append(line.tick(act, n))
    for (head, planes), frame, rew in zip(shown, want, rews, strict=True):
        np.testing.assert_array_equal(planes["dream"], frame)
        assert head["rew"] == (None if rew is None else pytest.approx(rew, abs=1e-5))
    assert [head["act"] for head, _ in shown[1:]] == acts


def test_a_long_way_to_a_row_is_seen_in_pieces_as_in_one(opened, monkeypatch):
    found, _ = stretches.stored(opened.rows(), middle(opened))
    batch = found.batch(0, 8)
    monkeypatch.setattr(dreaming, "PIECE", 3)
    seen = list(dreaming.observe(opened.model, batch, SEED))
    assert seen[:-1] == [None, None]
    whole = opened.model.observe(batch)
    for part, want in zip(leaves(seen[-1]), leaves(whole), strict=True):
        torch.testing.assert_close(part, want[:, -1])


def test_a_dream_that_ends_says_so_and_may_be_had_again(client, opened, monkeypatch):
    predict = opened.model.predict
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "row", "row": middle(opened)})
        monkeypatch.setattr(opened.model, "predict", lambda z: {**predict(z), "con": torch.full((1,), 0.2)})
        head, _ = line.tick(1, 1)
        assert (head["ended"], head["con"]) == (True, pytest.approx(0.2))
        monkeypatch.undo()
        line.say("step")  # there is nothing to step
        line.say("restart")
        assert line.told("ready")["start"]["row"] == middle(opened)
        assert line.tick(1, 2)[0]["tick"] == 1


class Recalling:
    """A policy whose state is all that it saw and did: (N, T, 3), with the picture's sum, the first flag, the act."""

    def initial(self, n: int) -> torch.Tensor:
        return torch.zeros(n, 0, 3)

    def __call__(self, obs, is_first, state):
        act = (obs["vector"].sum(-1).long() + state.shape[1]) % 3
        return act, self.follow(obs, is_first, state, torch.nn.functional.one_hot(act, 3)), {}

    def follow(self, obs, is_first, state, act):
        row = torch.stack([obs["vector"].sum(-1), is_first.float(), act.argmax(-1).float()], -1)
        return torch.cat([state, row[:, None]], 1)


def test_who_takes_over_has_seen_every_picture_and_knows_what_was_really_done():
    see = lambda value: {"vector": np.array([value], np.float32)}  # noqa: E731
    context = dreaming.Context(None, [see(10), see(11), see(12)], [2, 0])
    watching = dreaming.Watching(Recalling(), spaces.Discrete(3), torch.device("cpu"), context)
    watching.note(see(20), np.int64(1))  # a hand's
    watching.catch_up(2)
    watching.note(see(21), np.int64(2))
    assert watching.behind == 2
    own = watching.choose(see(22))  # the agent's
    watching.note(see(23), np.int64(0))
    watching.choose(see(24))
    seen, first, act = watching.state[0].T.tolist()
    assert seen == [10, 11, 20, 21, 22, 23, 24]
    assert first == [1, 0, 0, 0, 0, 0, 0]
    assert act[:6] == [2, 0, 1, 2, int(own), 0]


def test_following_its_own_act_is_acting(opened):
    policy = opened.policy()
    obs = {"image": torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)}
    state, first = policy.initial(1), torch.tensor([True])
    for _ in range(3):
        rng = policy.rng.get_state()
        act, acted, _ = policy(obs, first, state)
        policy.rng.set_state(rng)
        followed = policy.follow(obs, first, state, torch.nn.functional.one_hot(act, 3).float())
        other = policy.follow(obs, first, state, torch.nn.functional.one_hot((act + 1) % 3, 3).float())
        assert torch.equal(acted.h, followed.h)
        assert not torch.equal(acted.h, other.h)
        state, first = acted, torch.tensor([False])


def test_the_agent_plays_and_gives_back_at_any_moment(client, opened):
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "row", "row": middle(opened)})
        line.say("set", who="agent")
        line.say("step")
        head, _ = line.seen(lambda head: head["tick"] == 1)
        assert head["who"] == "agent"
        line.say("set", who="you")
        head, _ = line.tick(2, 1)
        assert (head["who"], head["act"], head["tick"]) == ("you", 2, 2)


# ---- reality


def test_reality_beside_a_reset_is_the_environment_itself(client, opened):
    env = build.one(opened.spec.env)
    want = [to_rgb(env.reset(seed=5)[0]["image"])]
    acts = [2, 2, 0]
    for act in acts:
        want.append(to_rgb(env.step(act)[0]["image"]))
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        assert line.open({"kind": "reset", "seed": 5}, reality=True)["can"]["reality"]
        line.told("reality")
        frames = [line.seen(lambda head: "real" in head)]
        for n, act in enumerate(acts):
            frames.append(line.tick(act, n))
    for (head, planes), frame in zip(frames, want, strict=True):
        np.testing.assert_array_equal(planes["real"], frame)
        distance = np.abs(planes["dream"].astype(float) - planes["real"]).mean() / 255
        assert head["error"] == pytest.approx(distance, abs=1e-5)


def test_nothing_is_compared_once_reality_has_ended(client):
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "reset", "seed": 5}, reality=True)
        line.told("reality")
        heads = [line.tick(1, n)[0] for n in range(14)]
    ended = [head["real"]["ended"] for head in heads]
    assert not ended[0]
    assert ended[-1]
    assert [head["error"] is None for head in heads] == [False, *ended[:-1]]


def test_a_stored_row_is_reached_exactly_or_refused_in_words(root, opened, tmp_path):
    experience, row = opened.rows(), middle(opened)
    env = reality.Reality(opened)
    moment = env.begin(reality.of_row(opened, experience, row), [1]).result(60)
    found, step = stretches.stored(experience, row)
    after = stretches.frames(found, opened.obs_space, step, step + 1)[0]
    np.testing.assert_array_equal(
        to_rgb(env.begin(reality.of_row(opened, experience, row)).result(60).obs["image"]), after
    )
    assert not np.array_equal(to_rgb(moment.obs["image"]), after)  # acts played from there moved on
    env.close()
    shutil.copytree(root / "catch", tmp_path / "catch")
    images = next((tmp_path / "catch" / "replay").glob("image*.bin"))
    with open(images, "r+b") as file:
        file.seek(int(experience.index.cells(np.array([row]))[0]) * 3 * 16 * 16)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    studio = Studio(tmp_path, session.open_run, tmp_path / "cache", threads=1)
    with TestClient(application(studio), headers=HERE) as client, client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "row", "row": row}, reality=True)
        gone = line.told("reality")
        assert gone["state"] == "away"
        assert "exactly this frame" in gone["why"]
        head, planes = line.tick(0, 1)
        assert set(planes) == {"dream"}
        assert "error" not in head


def test_an_environment_that_dies_is_a_sentence_and_the_dream_goes_on(client, opened):
    before = set(multiprocessing.active_children())
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "reset", "seed": 1}, reality=True)
        line.seen(lambda head: "real" in head)
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        line.say("act", act=0, n=1)
        line.say("step")
        assert "died" in next(w for w in iter(lambda: line.told("reality"), None) if w["state"] == "away")["why"]
        assert line.tick(1, 2)[0]["tick"] == 2


def test_reality_may_join_later(client, opened):
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "reset", "seed": 5})
        line.tick(2, 1)
        line.say("set", reality=True)
        head, planes = line.seen(lambda head: "real" in head)
        assert head["tick"] == 1
    env = build.one(opened.spec.env)
    env.reset(seed=5)
    np.testing.assert_array_equal(planes["real"], to_rgb(env.step(2)[0]["image"]))


# ---- hands


def test_the_newest_act_wins_and_what_came_and_went_acts_once():
    hand = hands.Hand(0)
    assert hand.take(0.0) == 0
    hand.press(1, 1, 0.0), hand.press(2, 2, 0.0)
    assert not hand.press(1, 1, 0.0)  # an older one comes late
    assert [hand.take(0.0), hand.take(0.1)] == [2, 2]  # held
    hand.press(0, 3, 0.2)
    assert hand.take(0.2) == 0
    hand.press(1, 4, 0.3), hand.press(0, 5, 0.3)  # a tap
    assert [hand.take(0.3), hand.take(0.4)] == [1, 0]
    hand.press(2, 6, 0.5)
    assert hand.take(0.5) == 2
    hand.press(3, 7, 0.6), hand.press(2, 8, 0.6)  # another key is tapped while one is held
    assert [hand.take(0.6), hand.take(0.7)] == [3, 2]
    hand.press(2, 8, 0.8)  # said again: it is still held
    assert hand.take(0.8) == 2
    assert hand.take(0.8 + hands.LET_GO + 0.1) == 0  # silence lets go
    assert hands.Hand(None).take(0.0) is None


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (spaces.Discrete(3), [0, 2], [3, -1, 1.5, True, "1", [1], {}]),
        (spaces.MultiDiscrete([2, 3]), [[1, 2]], [[2, 0], [0], 1, [0, True], "00", [0, 0, 0]]),
        (spaces.Box(-1, 1, (2,), np.float32), [[0.5, -1]], [[0.5], 1, [float("nan"), 0], ["0", 0], [True, 0]]),
    ],
)
def test_an_act_is_read_strictly(space, good, bad):
    read = hands.reader(space)
    assert [read(act) for act in good] == good
    assert read(None) is None
    for act in bad:
        with pytest.raises(UserError, match="act"):
            read(act)
    assert hands.reader(spaces.Box(-1, 1, (2,), np.float32))([5, -5]) == [1, -1]


def test_keys_stand_for_what_actions_mean():
    given = controls.choices(["noop", "fire", "up", "up fire", "turn left", "move left", "craft"])
    keys = {a["name"]: "+".join(a["keys"]) for a in given["actions"]}
    assert given["rest"] == 0
    assert keys == {
        "noop": "",
        "fire": "Space",
        "up": "ArrowUp",
        "up fire": "ArrowUp+Space",
        "turn left": "ArrowLeft",
        "move left": "KeyA",
        "craft": "Digit1",
    }
    many = controls.choices([f"action {i}" for i in range(60)])["actions"]
    used = [tuple(a["keys"]) for a in many if a["keys"]]
    assert len(set(used)) == len(used)
    car = controls.controls(
        envs.default_config("CarRacing-v3"), spaces.Box(np.float32([-1, 0, 0]), np.float32(1), (3,))
    )
    assert car["rest"] == [0, 0, 0]
    assert {b["name"]: (b["axis"], b["value"]) for b in car["buttons"]} == {
        "steer left": (0, -1),
        "steer right": (0, 1),
        "gas": (1, 1),
        "brake": (2, 1),
    }
    catch = controls.controls(envs.default_config("tiny/Catch"), spaces.Discrete(3))
    assert (catch["rest"], [a["name"] for a in catch["actions"]]) == (1, ["left", "stay", "right"])


# ---- many clients, and bad ones


def test_who_finds_no_seat_waits_and_comes_in_when_one_leaves(root, opened, tmp_path):
    application = _application(root, opened, tmp_path, seats=1)
    with TestClient(application, headers=HERE) as client, client.websocket_connect("/api/play") as second:
        with client.websocket_connect("/api/play") as first:
            one, two = Line(first), Line(second)
            one.open({"kind": "any"})
            two.say("open", run="catch", start={"kind": "any"})
            assert two.told("waiting")["place"] == 1
            with client.websocket_connect("/api/play") as third:
                line = Line(third)
                line.say("open", run="catch")
                assert line.told("waiting")["place"] == 2  # and leaves again
        assert two.told("ready")["run"] == "catch"


def test_who_plays_nothing_holds_no_seat(root, opened, tmp_path, monkeypatch):
    application = _application(root, opened, tmp_path, seats=1)
    with TestClient(application, headers=HERE) as client, client.websocket_connect("/api/play") as first:
        one = Line(first)
        one.say("open", run="none")
        assert one.told("error")["over"]
        with client.websocket_connect("/api/play") as second:
            two = Line(second)
            two.open({"kind": "any"})
            with monkeypatch.context() as patch:
                patch.setattr(type(opened.model), "step", lambda *args: 1 / 0)
                two.say("step")
                assert two.told("error")["over"]
            assert one.open({"kind": "any"})["run"] == "catch"


def test_a_damaged_newest_checkpoint_is_tried_once(tmp_path):
    tried = []
    studio = Studio(tmp_path, lambda folder, checkpoint: tried.append(folder) or object(), tmp_path)  # type: ignore[arg-type, func-returns-value, return-value]
    run = tmp_path / "run"
    for step, count in ((5, 1), (7, 2)):
        (run / "checkpoints" / str(step)).mkdir(parents=True)
        assert studio._open(run, None) is studio._open(run, None)
        assert len(tried) == count
    assert studio._open(tmp_path, None) is studio._open(tmp_path, None)  # a published model has none
    studio.close()


def test_who_stands_still_gives_the_seat_to_who_waits(root, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(playing, "STILL", 0.05)
    application = _application(root, opened, tmp_path, seats=1)
    with TestClient(application, headers=HERE) as client, client.websocket_connect("/api/play") as first:
        one = Line(first)
        one.open({"kind": "any"})
        time.sleep(0.2)  # nobody waits: nothing happens
        assert one.tick(0, 1)[0]["tick"] == 1
        with client.websocket_connect("/api/play") as second:
            two = Line(second)
            two.say("open", run="catch")
            assert one.told("away")["text"]
            assert two.told("ready")["run"] == "catch"
            one.say("open", run="catch")
            assert one.told("waiting")["place"] == 1


def test_whatever_is_wrong_becomes_a_word(client, opened):
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        deep = "[" * 20_000
        for text in ("", "no json", "[]", "7", '{"do": "fly"}', '{"do": "step"}', '{"do": "open"}', deep, "x" * 70_000):
            socket.send_text(text)
            assert line.told("error")["text"]
        socket.send_bytes(b"\x00\xff")
        assert "JSON" in line.told("error")["text"]
        for bad in (
            {"run": "../../etc"},
            {"run": "catch", "checkpoint": "1"},
            {"run": "catch", "temperature": "hot"},
            {"run": "catch", "start": {"kind": "row", "row": 10**12}},
            {"run": "catch", "start": {"kind": "row"}},
            {"run": "catch", "start": {"kind": "reset", "seed": -1}},
        ):
            line.say("open", **bad)
            assert line.told("error")["text"]
        line.open({"kind": "any"})
        for message in (
            {"do": "act", "act": 9, "n": 1},
            {"do": "act", "act": 1, "n": "1"},
            {"do": "act", "act": 1},
            {"do": "set", "fps": 1e9},
            {"do": "set", "temperature": None},
            {"do": "set", "who": "nobody"},
            {"do": "set", "paused": 1},
            {"do": "restart", "start": "here"},
            {"do": "record"},
        ):
            socket.send_json(message)
            assert line.told("error")["text"], message
        socket.send_text('{"do": "set", "temperature": NaN}')
        assert "temperature" in line.told("error")["text"]
        assert line.tick(0, 5)[0]["tick"] == 1


def test_a_model_that_fails_ends_its_dream_alone(client, opened, monkeypatch):
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "any"})
        with monkeypatch.context() as patch:
            patch.setattr(type(opened.model), "step", lambda *args: 1 / 0)
            line.say("step")
            assert "ZeroDivisionError" in line.told("error")["text"]
        line.open({"kind": "any"})
        assert line.tick(0, 1)[0]["tick"] == 1


def test_a_slow_client_misses_pictures_and_none_wait_in_line(client, opened):
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "any"})
        head, _ = line.seen()
        line.say("seen", sent=head["sent"])  # this client says what it has seen
        line.say("set", paused=False, fps=60)
        time.sleep(0.5)
        line.say("set", paused=True)
        line.say("record", on=True)
        line.told("told")
        assert len(line.pictures) < outbox.WINDOW + 1
        old = line.pictures[-1][0]
        line.say("seen", sent=old["sent"])
        head, _ = line.seen(lambda head: head["sent"] > old["sent"])
        assert head["tick"] > old["tick"] + outbox.WINDOW  # the newest


def test_leaving_frees_the_seat_and_ends_the_worker(client, opened):
    before = set(multiprocessing.active_children())
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "reset", "seed": 1}, reality=True)
        line.seen(lambda head: "real" in head)
        assert set(multiprocessing.active_children()) - before
    deadline = time.monotonic() + 5
    while set(multiprocessing.active_children()) - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not set(multiprocessing.active_children()) - before


# ---- films and starts


def test_a_film_is_what_was_played_and_lies_in_dreams(client, opened, root):
    before = set((root / "catch").rglob("*"))
    with client.websocket_connect("/api/play") as socket:
        line = Line(socket)
        line.open({"kind": "reset", "seed": 3}, reality=True)
        line.say("save")
        assert "Nothing was recorded" in line.told("error")["text"]
        line.seen(lambda head: "real" in head)
        line.say("record", on=True)
        for n in range(1, 4):
            line.tick(0, n)
        line.say("save")
        saved = line.told("saved")
    new = set((root / "catch").rglob("*")) - before - {root / "catch" / "dreams"}
    assert new == {root / "catch" / saved["path"]}
    assert saved["path"].startswith("dreams/play-")
    film = read_mp4(root / "catch" / saved["path"])
    assert len(film) == 4
    assert film.shape[2] > 2 * 380  # two pictures side by side


def test_films_do_not_leave_the_run(root, opened, tmp_path):
    from dreamlab.studio.film import FRAMES, Recording

    run, away = tmp_path / "run", tmp_path / "away"
    run.mkdir(), away.mkdir()
    (run / "dreams").symlink_to(away)
    recording = Recording()
    recording.add(np.zeros((4, 4, 3), np.uint8), None, "")
    assert recording.most == FRAMES
    with pytest.raises(UserError, match="leads out"):
        recording.write(run, "play", "run", 10)
    assert not list(away.iterdir())


def test_starts_are_rows_that_can_be_played_from(client, opened):
    found = client.get("/api/starts/catch").json()
    assert found["checkpoint"] == opened.step
    assert found["pictures"]
    experience = opened.rows()
    for start in found["starts"]:
        episode, step = stretches.stored(experience, start["row"])
        assert (step, len(episode) - 1) == (start["step"], start["of"])
        assert start["step"] < start["of"]
    assert client.get("/api/starts/nowhere").status_code == 404
    with pytest.raises(UserError, match="not held"):
        stretches.stored(experience, 10**9)
