"""The studio's pages Episodes and Inside: what they are told is what the rows hold and what the models say."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from gymnasium import spaces
from PIL import Image

from dreamlab import agents, envs
from dreamlab.agents.random import Uniform
from dreamlab.core.config import from_dict, to_dict
from dreamlab.core.errors import RunError, UserError
from dreamlab.core.imagination import imagine, leaves, predict_all, tree_map
from dreamlab.core.inside import Choices, Classes, Code, Mixture, Normals
from dreamlab.core.pictures import to_rgb
from dreamlab.core.seeds import forked
from dreamlab.envs.config import EnvConfig
from dreamlab.evals import episodes as evals
from dreamlab.nn.attention_maps import attention_weights
from dreamlab.nn.compute import Compute
from dreamlab.nn.world_model import led_to
from dreamlab.run.config import RunConfig
from dreamlab.run.experience import Experience
from dreamlab.run.replay import Replay
from dreamlab.studio import episodes, inside, ranges, readings, replayed, runs, sheets, stretches
from dreamlab.studio import shelf as shelves
from dreamlab.studio.shelf import Shelf
from dreamlab.studio.studio import Studio

COMPUTE = Compute(torch.device("cpu"), False)
ENV = EnvConfig(id="tiny/Catch", size=(16, 16), workers=False)
FAMILIES = ("world-models", "dreamer-v1", "dreamer-v2", "dreamer-v3", "iris")


@dataclass
class Spec:
    agent: str
    env: EnvConfig
    run: RunConfig


@dataclass
class Opened:
    """A run as the studio's opener gives it, with a fresh agent."""

    folder: Path
    agent: Any
    spec: Spec
    obs_space: spaces.Dict
    act_space: spaces.Space
    table: Experience
    step: int = 7
    parts: Any = None
    compute: Compute = COMPUTE

    @property
    def model(self) -> Any:
        if not hasattr(self.agent, "model"):
            raise UserError(f"the agent {self.spec.agent!r} has no world model to dream in")
        return self.agent.model

    def policy(self, explore: bool = False) -> Any:
        return self.agent.policy(explore)

    def rows(self) -> Experience:
        return self.table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Experience:
    """Rows of random play, two streams, episodes of eight rows."""
    obs_space, act_space = envs.spaces_of(ENV)
    replay = Replay(tmp_path_factory.mktemp("rows"), 2)
    make = lambda: envs.make(ENV, 2, 0)  # noqa: E731
    experience = Experience(replay, obs_space, act_space, COMPUTE.device, make, 2)
    experience.collect(Uniform(act_space), "test", 84)
    experience.close()
    return experience


def build(name: str, table: Experience) -> Any:
    module, preset = agents.load(name), agents.preset(name, "smoke") if name != "random" else {}
    config = from_dict(module.Config, preset.get("agent", {}))
    return module.build(config, table.obs_space, table.act_space, COMPUTE, 0, RunConfig(envs=2))


@pytest.fixture(scope="module")
def opened(table: Experience, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Opened]:
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for name in (*FAMILIES, "random"):
        (root / name).mkdir()
        spec = Spec(name, ENV, RunConfig(envs=2))
        with torch.random.fork_rng():
            found[name] = Opened(root / name, build(name, table), spec, table.obs_space, table.act_space, table)
    return found


@pytest.fixture(scope="module")
def client(opened: dict[str, Opened], tmp_path_factory: pytest.TempPathFactory) -> Any:
    def place(studio: Studio, name: str) -> Path:
        if name not in opened:
            raise runs.Unknown(f"no run {name!r} here")
        return opened[name].folder

    def told(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, runs.Unknown) else 400)

    root = opened["iris"].folder.parent
    studio = Studio(root, lambda folder, checkpoint: opened[folder.name], tmp_path_factory.mktemp("cache"), threads=1)
    studio_opened = lambda folder, checkpoint=None: _soon(opened[folder.name])  # noqa: E731
    app, shelf = FastAPI(), Shelf(studio)
    app.state.shelf = shelf
    for part in (episodes, inside):
        app.include_router(part.router(studio, shelf), prefix="/api")
    for kind in (UserError, RunError):
        app.add_exception_handler(kind, told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "place", place)
        patch.setattr(studio, "opened", studio_opened)
        with TestClient(app) as found:
            yield found
    studio.close()


async def _soon(value: Any) -> Any:
    return value


def picture(reply: Any) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content)))


def unpacked(reply: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    assert reply.status_code == 200, reply.text
    length = int.from_bytes(reply.content[:4], "little")
    head, at, planes = json.loads(reply.content[4 : 4 + length]), 4 + length, {}
    for name, h, w in head["planes"]:
        planes[name] = np.frombuffer(reply.content, np.uint8, h * w * 3, at).reshape(h, w, 3)
        at += h * w * 3
    assert at == len(reply.content)
    return head, planes


def first_row(table: Experience, number: int = 2) -> int:
    found = table.index.episodes()
    return int(found.start[number] * table.index.streams + found.stream[number])


def batch_of(table: Experience, number: int = 2) -> Any:
    return stretches.stored(table, first_row(table, number))[0].batch(0, 8)


# ---- episodes


def test_the_list_is_of_stored_episodes_newest_first(client: Any, table: Experience):
    found = client.get("/api/episodes/iris", params={"count": 3}).json()
    held = table.index.episodes()
    assert found["total"] == len(held.start)
    assert len(found["episodes"]) == 3
    newest = found["episodes"][0]
    assert newest["number"] == len(held.start) - 1
    assert newest["length"] == held.stop[-1] - held.start[-1] - 1
    older = client.get("/api/episodes/iris", params={"count": 3, "page": 1}).json()["episodes"]
    assert [e["number"] for e in older] == [len(held.start) - 4 - i for i in range(3)]
    whole = next(e for e in older if e["whole"])
    rows, _ = stretches.stored(table, int(whole["episode"]))
    assert whole["return"] == pytest.approx(float(rows.column("rew", 0, len(rows)).sum()))


def test_a_strip_holds_the_rows_frames_in_order(client: Any, table: Experience):
    row = first_row(table)
    rows = row + 2 * np.arange(8)
    frames = to_rgb(table.index.take("image", rows))
    sheet = picture(client.get("/api/strip/iris", params={"episode": str(row)}))
    assert sheet.shape == (16, 8 * 16, 3), "eight frames are one row of the sheet"
    for t in range(8):
        assert np.array_equal(sheet[:, 16 * t : 16 * (t + 1)], frames[t])
        assert np.array_equal(picture(client.get("/api/frame/iris", params={"row": int(rows[t])})), frames[t])
    many = np.arange(40 * 2 * 3 * 3, dtype=np.uint16).astype(np.uint8).reshape(40, 2, 3, 3)
    laid = sheets.sheet(many)
    assert laid.shape == (6, 48, 3)
    for i in (0, 15, 16, 39):
        y, x = divmod(i, sheets.COLUMNS)
        assert np.array_equal(laid[2 * y : 2 * y + 2, 3 * x : 3 * x + 3], many[i])
    told = client.get("/api/episode/iris", params={"row": int(rows[3])}).json()
    assert (told["episode"], told["at"], told["first"], told["stride"]) == (str(row), 3, row, 2)
    assert told["act"] == table.index.take("act", rows).tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_episode_is_read_piece_by_piece_as_in_one(name: str, opened: dict[str, Opened], table: Experience):
    stretch, _ = stretches.stored(table, first_row(table))
    one = readings.Reading(opened[name], stretch)
    while one.done < len(stretch):
        one.on()
    assert {len(values) for values in one.series.values()} == {len(stretch)}
    latents = tree_map(lambda *xs: torch.cat(xs), *one.latents)
    assert one.reconstruction(0, 8).shape == (8, 16, 16, 3)
    if name == "world-models":
        whole = opened[name].model.observe(stretch.batch(0, 8))
        for got, want in zip(leaves(latents), leaves(whole), strict=True):
            torch.testing.assert_close(got, want[0])
    if name.startswith("dreamer"):  # z is drawn; what follows from it is not
        dynamics, batch = opened[name].model.dynamics, stretch.batch(0, 8)
        act = led_to(opened[name].model.actions.seen(batch.act))[0]
        for t in range(1, 8):
            before = tree_map(lambda x, t=t: x[t - 1 : t], latents)
            step = dynamics.cell.begin(torch.float32)
            h = step(*before, dynamics.cell.acts(act[t : t + 1], torch.ones(1, 1)))
            torch.testing.assert_close(h[0], latents.deter[t])


def test_a_long_episode_is_read_in_blocks(
    client: Any, opened: dict[str, Opened], table: Experience, monkeypatch: pytest.MonkeyPatch
):
    row = first_row(table, 3)
    whole = picture(client.get("/api/strip/world-models", params={"episode": str(row), "kind": "reconstruction"}))
    monkeypatch.setattr(shelves, "BLOCK", 4)
    monkeypatch.setattr(shelves, "CONTEXT", 2)
    asked = {"episode": str(row), "kind": "reconstruction", "start": 4, "count": 4}
    assert np.array_equal(picture(client.get("/api/strip/world-models", params=asked)), whole[:, 64:])
    stretch, _ = stretches.stored(table, row)
    columns = {k: stretch.column(k, 0, 8) for k in ("image", "act", "rew", "is_first", "is_last", "is_terminal")}
    held = stretches.Held("x", columns, table.act_space, COMPUTE.device)
    for one, other in ((held, stretch), (held.part(3, 7), stretch.part(3, 7))):
        for got, want in zip(one.batch(0, 4)[1:6], other.batch(0, 4)[1:6], strict=True):
            assert torch.equal(got, want)


def test_the_film_is_what_imagine_dreams(client: Any, opened: dict[str, Opened], table: Experience):
    row, at, steps = first_row(table), 2, 4
    for name in ("dreamer-v3", "world-models"):
        agent = opened[name]
        head, planes = unpacked(
            client.get(f"/api/film/{name}", params={"episode": str(row), "at": at, "steps": steps, "temperature": 0.7})
        )
        stretch, _ = stretches.stored(table, row)
        reading = client.app.state.shelf.readings[agent.folder, agent.step, stretch.key]  # type: ignore[attr-defined]
        with torch.no_grad(), forked(at, "dream"):
            act = stretch.batch(at, at + steps).act
            dreamt = imagine(agent.model, reading.latent(at), act, steps, 0.7)
            said = predict_all(agent.model, dreamt.latents)
        n = head["frames"]
        assert n == steps + 1 or head["over"]
        want = to_rgb((said["image"][0, :n] * 255).round().clamp(0, 255).to(torch.uint8).numpy())
        apart = planes["dream"].astype(int) - sheets.sheet(want)  # one picture at a time, or all as a batch: the
        assert abs(apart).max() <= 1  # sums are in another order, and a level may round the other way
        real = to_rgb(stretch.column("image", at, at + n))
        assert np.array_equal(planes["real"], sheets.sheet(real))
        assert head["rew"][1:] == pytest.approx(said["rew"][0, 1:n].tolist(), rel=1e-3, abs=1e-4)


def test_an_evaluated_episode_gives_its_return_again(client: Any, opened: dict[str, Opened]):
    agent = opened["dreamer-v3"]
    vector = envs.make(ENV, 3, 0)
    seeds = evals.seeds_of(5, 5)
    outcome, _ = evals.evaluate(agent.policy(), vector, seeds, COMPUTE.device)
    vector.close()
    protocol = evals.protocol(
        to_dict(ENV), seed=5, episodes=5, mode=evals.way(agent.agent, False), checkpoint=7, seeded=True,
        precision="fp32", envs=3,
    )  # fmt: skip
    folder = agent.folder / "evaluations"
    folder.mkdir()
    (folder / "7.json").write_text(json.dumps(evals.score("dreamer-v3", ENV.id, outcome, protocol)))
    (folder / "half.json").write_text('{"mean": 1')
    (folder / "own.json").write_text(
        json.dumps({**evals.score("x", ENV.id, outcome, {**protocol, "seeds": "the engine's own: so it is"})})
    )
    scores = {s["file"]: s for s in client.get("/api/episodes/dreamer-v3").json()["evaluated"]}
    assert set(scores) == {"7.json", "own.json"}
    assert scores["7.json"]["why"] is None
    for index in (1, 4):  # of the first wave, and of the second, which is not full
        asked = {"file": "7.json", "index": index}
        while not (found := client.get("/api/evaluated/dreamer-v3", params=asked).json())["done"]:
            pass
        assert found["return"] == pytest.approx(outcome.ret[index])
        assert not found["told"]
        told = client.get("/api/episode/dreamer-v3", params={"episode": found["episode"]}).json()
        assert told["length"] == outcome.length[index] + 1
        assert told["first"] is None
        assert told["is_last"]
        assert sum(told["rew"]) == pytest.approx(outcome.ret[index])
    strip = client.get("/api/strip/dreamer-v3", params={"episode": "7.json:4", "kind": "reconstruction"})
    assert picture(strip).shape[0] == 16
    for params, word in (
        ({"file": "7.json", "index": 5}, "from 0 on"),
        ({"file": "../7.json", "index": 0}, "no evaluation"),
        ({"file": "own.json", "index": 0}, "cannot be had again"),
    ):
        refused = client.get("/api/evaluated/dreamer-v3", params=params)
        assert refused.status_code == 400
        assert word in refused.json()["error"]
    gone = client.get("/api/episode/dreamer-v3", params={"episode": "7.json:0"})
    assert gone.status_code == 400
    assert "play it again" in gone.json()["error"]


def test_two_are_played_again_at_once_and_others_wait():
    import asyncio

    class Game:
        def __init__(self, asked: float) -> None:
            self.asked, self.closed = asked, False

        def close(self) -> None:
            self.closed = True

    class Engine:
        async def compute(self, fn: Any) -> None:
            fn()

    long_ago, now = Game(-1e9), Game(float("inf"))
    playing: Any = {"a": now, "b": now}
    assert not asyncio.run(episodes._room(Engine(), playing))  # type: ignore[arg-type]
    playing["b"] = long_ago
    assert asyncio.run(episodes._room(Engine(), playing))  # type: ignore[arg-type]
    assert list(playing) == ["a"]
    assert long_ago.closed
    assert not now.closed


# ---- what models say of themselves


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_says_what_is_inside(name: str, opened: dict[str, Opened], table: Experience):
    model, batch = opened[name].model, batch_of(table)
    latents = tree_map(lambda x: x[0], model.observe(batch))
    views = model.inside(latents, {k: v[0] for k, v in batch.obs.items()})
    code = next(iter(views.values()))
    for view in views.values():
        if isinstance(view, Classes):
            for p in (view.prior, view.post):
                assert p is not None
                assert p.shape == (8, *view.prior.shape[1:])
                torch.testing.assert_close(p.sum(-1), torch.ones(p.shape[:-1]))
        if isinstance(view, Mixture):
            torch.testing.assert_close(view.weight.sum(1), torch.ones(8, view.mean.shape[-1]))
            assert (view.std > 0).all()
    same, before = model.predict(model.with_code(latents, code.value)), model.predict(latents)
    assert torch.equal(same["image"], before["image"])
    other = (code.value + 1) % 4 if not code.value.is_floating_point() else code.value + 1
    assert not torch.equal(model.predict(model.with_code(latents, other))["image"], before["image"])
    assert model.inside(latents).keys() == views.keys(), "in a dream nothing is seen"
    judged, _ = opened[name].agent.judge(tree_map(lambda x: x[None], latents))
    policy = judged["policy"]
    assert isinstance(policy, Choices)
    torch.testing.assert_close(policy.probs[0].sum(-1), torch.ones(1, 8))


@pytest.mark.parametrize("name", ["dreamer-v1", "dreamer-v2", "dreamer-v3"])
def test_prior_and_posterior_are_the_rssms(name: str, opened: dict[str, Opened], table: Experience):
    model, batch = opened[name].model, batch_of(table)
    z = model.dynamics.latents
    with torch.no_grad():
        act = led_to(model.actions.seen(batch.act))
        embed = model.encoder(batch.obs)
        found = model.dynamics.observe(embed, act, batch.is_first, model.dynamics.initial(1, act.device))
        post, prior = z.stats(found.raw)[0], z.stats(model.dynamics.prior(found.state.deter))[0]
    latents = tree_map(lambda x: x[0], found.state)
    view = model.inside(latents, {k: v[0] for k, v in batch.obs.items()})["z"]
    want = (prior.exp(), post.exp()) if isinstance(view, Classes) else (prior.mT, post.mT)
    torch.testing.assert_close(view.prior, want[0])
    torch.testing.assert_close(view.post, want[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(readings.kl_by_group(view).sum(-1), z.kl(post, prior), atol=1e-4, rtol=1e-3)
    if isinstance(view, Normals):
        assert torch.equal(view.value, latents.stoch)


def test_swapping_a_token_draws_the_swapped_grid(client: Any, opened: dict[str, Opened], table: Experience):
    row = first_row(table) + 2 * 3
    tokenizer = opened["iris"].model.tokenizer
    view = client.get("/api/inside/iris", params={"row": row}).json()["views"][0]
    image = torch.from_numpy(table.index.take("image", np.array([row])))
    assert view["value"] == tokenizer.tokenise(image)[0].tolist()
    assert view["grid"] == list(tokenizer.grid)
    code = [*view["value"]]
    code[1] = (code[1] + 5) % view["vocabulary"]
    _, planes = unpacked(client.post("/api/inside/iris", json={"row": row, "code": code}))
    want = tokenizer.picture(torch.tensor([code]))
    assert np.array_equal(planes["picture"], to_rgb((want * 255).round().to(torch.uint8).numpy())[0])


def test_what_really_came_is_not_shown_as_foretold(client: Any, table: Experience):
    row = first_row(table)
    for name, foretold in (("iris", []), ("dreamer-v3", ["rew", "con"])):
        assert client.get(f"/api/episode/{name}", params={"row": row}).json()["foretold"] == foretold
        series = client.get(f"/api/read/{name}", params={"episode": str(row)}).json()["series"]
        assert [key for key in ("rew", "con") if key in series] == foretold


def test_attention_is_the_transformers(client: Any, opened: dict[str, Opened], table: Experience):
    model, batch = opened["iris"].model, batch_of(table)
    latents = tree_map(lambda x: x[:, :4], model.observe(batch))
    x = model.dynamics.embedded(latents.tokens, batch.act[:, :4].argmax(-1))
    out, weight = attention_weights(model.dynamics.transformer, x)
    with torch.no_grad():
        torch.testing.assert_close(out, model.dynamics.transformer(x))
    torch.testing.assert_close(weight.sum(-1), torch.ones(weight.shape[:-1]))
    assert not weight.triu(1).any(), "nothing looks ahead"
    found = model.attention(latents, batch.act[:, :4])
    assert torch.equal(found.weight, weight)
    assert found.block == model.tokenizer.tokens + 1
    asked = {"episode": str(first_row(table)), "at": 6, "query": 2}
    told = client.get("/api/attention/iris", params=asked).json()
    assert told["times"] == [3, 4, 5, 6], "a context of four frames"
    rows = np.array(told["weight"])  # (layers, heads, T, block)
    assert rows.sum((2, 3)) == pytest.approx(1, abs=2e-2)
    assert not rows[:, :, -1, 3:].any()
    refused = client.get("/api/attention/iris", params={**asked, "query": 99})
    assert refused.status_code == 400
    assert client.get("/api/attention/dreamer-v3", params=asked).status_code == 400


def test_a_memory_goes_on_from_piece_to_piece(opened: dict[str, Opened], table: Experience):
    agent = opened["iris"].agent
    latents = agent.model.observe(batch_of(table))
    whole, _ = agent.judge(latents)
    first, memory = agent.judge(tree_map(lambda x: x[:, :3], latents))
    rest, _ = agent.judge(tree_map(lambda x: x[:, 3:], latents), memory)
    torch.testing.assert_close(torch.cat([first["value"].value, rest["value"].value], 1), whole["value"].value)
    said = agent.actor_critic.unroll(agent.see(latents.tokens), agent.actor_critic.initial(1, torch.device("cpu")))
    torch.testing.assert_close(said.val, whole["value"].value)


# ---- over the data, and forecasts


def test_ranges_and_forecasts(client: Any, opened: dict[str, Opened], table: Experience):
    found = client.get("/api/ranges/world-models").json()
    spread = np.array(found["std"])[found["order"]]
    assert (np.diff(spread) <= 1e-6).all()
    assert (np.array(found["low"]) <= np.array(found["high"])).all()
    counts = client.get("/api/ranges/iris").json()
    tokens = opened["iris"].model.tokenizer.tokens
    assert sum(counts["counts"]) == counts["rows"] * tokens
    assert picture(client.get("/api/patches/iris")).shape == (4, 64, 3), "sixteen codes, a quarter of a frame each"
    frames, codes = np.zeros((1, 4, 4, 3), np.uint8), np.array([[1, 0, 1, 2]])
    frames[0, :2, :2], frames[0, 2:, :2], frames[0, :2, 2:] = 10, 30, 200
    patches = ranges.patches_of(frames, codes, (2, 2), np.array([1, 2, 1, 0]))
    assert patches.shape == (4, 2, 2, 3)
    assert [int(patch.max()) for patch in patches] == [200, 20, 0, 0], "the mean of where each stands"
    row = first_row(table) + 2
    head, planes = unpacked(client.get("/api/forecast/world-models", params={"row": row}))
    assert [one["act"] for one in head["actions"]] == [0, 1, 2]
    assert len(planes) == 3
    assert [one["taken"] for one in head["actions"]].index(True) == int(table.index.take("act", np.array([row]))[0])
    model = opened["world-models"].model
    weight, mean = (torch.tensor(head["actions"][1]["mixture"][k]) for k in ("weight", "mean"))
    image = model.vision.decode((weight * mean).sum(0)[None]).detach()
    assert np.abs(planes["1"].astype(int) - to_rgb((image * 255).round().to(torch.uint8).numpy())[0]).max() <= 1


def test_sliders_draw_what_v_decodes(client: Any, opened: dict[str, Opened], table: Experience):
    row = first_row(table) + 4
    views = client.get("/api/inside/world-models", params={"row": row}).json()["views"]
    assert [v["kind"] for v in views] == ["code", "mixture"]
    model: Any = opened["world-models"].model
    assert isinstance(next(iter(model.inside(model.observe(batch_of(table))).values())), Code)
    code = [0.5] * len(views[0]["value"])
    _, planes = unpacked(client.post("/api/inside/world-models", json={"row": row, "code": code}))
    want = model.vision.decode(torch.tensor([code])).detach()
    assert np.array_equal(planes["picture"], to_rgb((want * 255).round().to(torch.uint8).numpy())[0])


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("world-models", [0.0], "numbers, got 1"),
        ("world-models", [1e9, 0, 0, 0], "finite"),
        ("iris", [0.5] * 16, "whole numbers"),
        ("iris", [16] * 16, "from 0 to 15"),
        ("dreamer-v3", [-1] * 4, "from 0 to 3"),
        ("random", [0], "no world model"),
    ],
)
def test_codes_that_do_not_fit_are_refused(name: str, code: list[float], word: str, client: Any, table: Experience):
    reply = client.post(f"/api/inside/{name}", json={"row": first_row(table), "code": code})
    assert reply.status_code == 400
    assert word in reply.json()["error"]


def test_what_is_not_there_is_said_in_words(client: Any, table: Experience):
    row = first_row(table)
    nan = client.post(
        "/api/inside/world-models",
        content=json.dumps({"row": row, "code": [float("nan")] * 4}),
        headers={"Content-Type": "application/json"},
    )
    assert nan.status_code in (400, 422)
    assert client.get("/api/inside/nobody", params={"row": row}).status_code == 404
    for path, params, word in (
        ("inside/iris", {"row": 10**9}, "not held"),
        ("inside/iris", {"row": -1}, "not held"),
        ("inside/iris", {}, "name an episode"),
        ("inside/iris", {"episode": str(row), "at": 99}, "from 0 on"),
        ("film/iris", {"episode": str(row), "at": 7}, "last row"),
        ("strip/random", {"episode": str(row), "kind": "reconstruction"}, "no world model"),
        ("ranges/random", {}, "no world model"),
        ("patches/world-models", {}, "no codebook"),
    ):
        reply = client.get(f"/api/{path}", params=params)
        assert reply.status_code == 400, (path, reply.text)
        assert word in reply.json()["error"], (path, reply.text)
    assert "no world model" in client.get("/api/inside/random", params={"row": row}).json()["why"]
    assert client.get("/api/episode/random", params={"row": row}).json()["unmodelled"]
    assert client.get("/api/strip/iris", params={"episode": str(row), "count": 10**6}).status_code == 422
    assert not replayed.scores(Path("nowhere"))
