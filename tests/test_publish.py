"""Published models: what comes back is what was published, without its run; and nothing of a stranger's is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hub_stand_in import Hub

import dreamlab
import dreamlab.cli.dream
import dreamlab.cli.publish
from dreamlab import agents
from dreamlab.cli import named, session
from dreamlab.cli.main import main
from dreamlab.cli.train import take_parts
from dreamlab.core.errors import RunError, UserError
from dreamlab.dream.env import DreamEnv

SMALL = ["--preset", "smoke", "--threads", "1", "--env.no-workers", "--eval-episodes", "2"]
REPO = "me/catch"


def trained(agent: str, folder: Path, *more: str) -> Path:
    threads = torch.get_num_threads()
    try:
        assert main(["train", agent, "--env", "tiny/Catch", *SMALL, "--run", str(folder), *more]) == 0
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained("dreamer-v3", tmp_path_factory.mktemp("publish") / "run", "--steps", "120")


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    """The run, published into a folder."""
    folder = run.parent / "model"
    assert main(["publish", str(run), "--repo", REPO, "--dry-run", "--out", str(folder)]) == 0
    return folder


def actions(name: str) -> str:
    """A digest of what a model does over fixed frames, and of a dream from its starts."""
    opened = dreamlab.load(name, device="cpu")
    policy = opened.policy()
    state, said = policy.initial(2), []
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for t in range(20):
        image = torch.from_numpy(rng.integers(0, 256, (2, *opened.obs_space["image"].shape), np.uint8))
        act, state, _ = policy({"image": image}, torch.tensor([t % 7 == 0] * 2), state)
        said.append(act.numpy().tobytes())
    return hashlib.sha256(b"".join(said)).hexdigest()


def dream(name: str) -> str:
    opened = dreamlab.load(name, device="cpu")
    env = DreamEnv(opened.model, opened.starts(), opened.act_space, 2, seed=3)
    seen = [env.reset(seed=3)[0]["image"], *(env.step(np.array([0, 2]))[0]["image"] for _ in range(5))]
    return hashlib.sha256(np.stack(seen).tobytes()).hexdigest()


def test_a_folder_acts_dreams_and_is_scored_without_its_run(run: Path, model: Path, tmp_path: Path):
    alone = tmp_path / "alone"
    shutil.copytree(model, alone)
    assert actions(str(alone)) == actions(str(run))
    assert len(dream(str(alone))) == 64
    error = dreamlab.cli.dream.dream(alone, horizon=3, context=3, count=2)
    assert error["model"]["mse"][2] is not None
    assert dreamlab.evaluate(alone, episodes=2)["protocol"]["checkpoint"] == dreamlab.load(run).step
    again = tmp_path / "again"
    assert main(["publish", str(alone), "--repo", REPO, "--dry-run", "--no-film", "--out", str(again)]) == 0
    for name in ("actor.safetensors", "starts.safetensors"):
        assert (model / name).read_bytes() == (again / name).read_bytes()


def test_the_card_has_the_hubs_metadata_and_no_path_of_this_machine(run: Path, model: Path):
    text = (model / "README.md").read_text()
    data = yaml.safe_load(text.split("---")[1])
    result = data["model-index"][0]["results"][0]
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"]["type"] == "tiny/Catch"
    score = json.loads(next((run / "evaluations").glob("*.json")).read_text())
    assert result["metrics"][0]["value"].startswith(f"{score['mean']:.2f} +/- ")
    assert {"reinforcement-learning", "dreamer-v3", "tiny/Catch"} <= set(data["tags"])
    assert data["library_name"] == "dreamlab"
    assert (model / "replay.mp4").stat().st_size > 1000
    small = [path.read_bytes() for path in model.rglob("*") if path.suffix in (".md", ".yaml", ".json")]
    assert not any(str(run.parent).encode() in content for content in small)


# -- the Hub ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    served = Hub()
    given = {
        "ENDPOINT": served.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": served.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }
    for name, value in given.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_TOKEN", served.token)
    monkeypatch.chdir(tmp_path)
    yield served
    served.shutdown()


FRESH = """
import sys
sys.path.insert(0, sys.argv[1])
from test_publish import actions, dream
print("SAID", actions(sys.argv[2]), dream(sys.argv[2]))
"""


def test_a_round_trip_over_the_hub_into_a_fresh_process(
    run: Path, model: Path, hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    hub.put(REPO, {"old.safetensors": b"of an earlier model", "LICENSE": b"mine"})
    assert main(["publish", str(model), "--repo", REPO, "--private"]) == 0
    assert {"LICENSE", "README.md", "replay.mp4", "config.yaml"} <= hub.repos[REPO].keys()
    assert "old.safetensors" not in hub.repos[REPO]
    told = capfd.readouterr()
    texts = [told.out + told.err, *(data.decode("latin-1") for data in hub.repos[REPO].values())]
    assert not any(hub.token in text for text in texts)
    environment = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"}
    environment |= {"HF_HOME": str(tmp_path / "fresh"), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH, str(Path(__file__).parent), REPO]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("SAID ")[1].split() == [actions(str(run)), dream(str(model))]
    assert set(hub.fetched) == {n for n in hub.repos[REPO] if n.endswith((".safetensors", "config.yaml", "state.json"))}
    assert "evaluations" not in " ".join(hub.fetched)


def test_the_hub_is_asked_in_words(model: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    files = {p.name: p.read_bytes() for p in model.iterdir() if p.is_file()}
    for name in ("weights.pkl", "../outside.safetensors", "/etc/passwd"):
        hub.put(REPO, {**files, name: b"x"})
        with pytest.raises(UserError, match="refused"):
            dreamlab.load(REPO)
    hub.put("me/other", {"README.md": b"", "model.safetensors": b""})
    with pytest.raises(UserError, match="no model of dreamlab"):
        dreamlab.load("me/other")
    with pytest.raises(UserError, match="no folder me/nothing here, so the Hub was asked: there is no model"):
        dreamlab.load("me/nothing")
    sha = hub.put(REPO, files)
    with pytest.raises(UserError, match="no revision 'x'"):
        dreamlab.load(f"{REPO}@x")
    assert dreamlab.load(f"{REPO}@{sha}").folder == Path("runs/me--catch")
    assert "weights.pkl" not in hub.fetched
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match=r"does not let this token do that with me/catch \(401\)") as told:
        dreamlab.cli.publish.publish(model, REPO, film=False, say=lambda line: None)
    assert "hf_another" not in str(told.value)


def test_a_path_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert named.hub_name("me/catch@main") == ("me/catch", "main")
    for path in ("runs/demo", "./me/catch", "/me/catch", "a/b/c", "demo", "me/..", "../me"):
        assert named.hub_name(path) is None, path
    with pytest.raises(UserError, match="there is no folder"):
        dreamlab.load("runs/demo")


# -- refusals --------------------------------------------------------------------------------------------------


class Evil:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return (open, ("unpickled", "w"))


def edited(change: Callable[[dict], None], name: str = "state.json") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        data = json.loads(path.read_text()) if name.endswith(".json") else yaml.safe_load(path.read_text())
        change(data)
        path.write_text(json.dumps(data) if name.endswith(".json") else yaml.safe_dump(data))

    return edit


def linked(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / "actor.safetensors", outside)
    (folder / "actor.safetensors").symlink_to(outside)


def cut(folder: Path) -> None:
    path = folder / "actor.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (lambda folder: (folder / "more.safetensors").write_bytes(pickle.dumps(Evil())), "is a pickle"),
    "link": (linked, "link that leads outside"),
    "outside": (edited(lambda d: d["files"].update({"../x.safetensors": {"bytes": 1, "sha256": ""}})), "outside its"),
    "agent": (edited(lambda d: d.update(agent="evil_module"), "config.yaml"), "unknown agent 'evil_module'"),
    "shape": (edited(lambda d: d["config"].update(units=48), "config.yaml"), r"has the shape \(\d+.*describes has"),
    "vast": (edited(lambda d: d["observations"].update(image={"shape": [3, 1 << 20, 1 << 20]})), "a space of shape"),
    "starts": (edited(lambda d: d["action"].update(n=4)), "describes has|do not fit"),
    "truncated": (cut, "truncated or altered"),
    "form": (edited(lambda d: d.update(published=2)), "published in form 2"),
    "a run's": (edited(lambda d: d.pop("published")), "not in order"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_in_order_is_refused_with_a_reason(
    case: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_module.py").write_text("open('imported', 'w')\nConfig = budget = None\n")
    shutil.copytree(model, tmp_path / "model")
    change, reason = REFUSED[case]
    change(tmp_path / "model")
    with pytest.raises((UserError, RunError), match=reason):
        dreamlab.load(tmp_path / "model")
    assert not (tmp_path / "unpickled").exists()
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("id", ["evil_module:make", "evil_module:Evil-v0"])
def test_an_environment_of_the_publishers_own_is_not_imported(
    id: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil_module.py").write_text("open('imported', 'w')\n")
    shutil.copytree(model, tmp_path / "model")
    edited(lambda d: d["env"].update(id=id), "config.yaml")(tmp_path / "model")
    assert actions(str(tmp_path / "model")) == actions(str(model))
    with pytest.raises(UserError, match=f"trained in {id}, which is code"):
        dreamlab.evaluate(tmp_path / "model", episodes=1)
    assert not (tmp_path / "imported").exists()


def test_parts_are_taken_from_a_published_model(tmp_path: Path):
    first = trained("world-models", tmp_path / "first")
    model = tmp_path / "model"
    assert main(["publish", str(first), "--repo", "me/v", "--dry-run", "--no-film", "--out", str(model)]) == 0
    assert actions(str(model)) == actions(str(first))
    opened = dreamlab.load(first)
    spec = dataclasses.replace(opened.spec, run=dataclasses.replace(opened.spec.run, seed=1))
    module = agents.load(spec.agent)
    fresh = session.make_agent(spec, module, opened.obs_space, opened.act_space, opened.compute)
    assert f"from {model} (step {opened.step}): vision, memory" in take_parts(fresh, "world-models", model)
    one, two = (agent.parts["vision"].state_dict() for agent in (opened.agent, fresh))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_nobody_publishes_what_nobody_could_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for repo in ("catch", "me/my/catch", "me/"):
        with pytest.raises(UserError, match="is named user/name"):
            dreamlab.cli.publish.publish(tmp_path, repo, dry_run=True)
