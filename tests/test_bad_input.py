"""Whatever is typed wrong or lies broken on the disk is answered in words, and nothing is lost.

Each test reads what a user would read: the message, an exit code that is not zero, and no traceback. Commands
run in this process, workers in theirs.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_resume import assert_same

from dreamlab.cli.main import main
from dreamlab.core.errors import UserError
from dreamlab.run import checkpoint

TOY = ("train", "toy_agent", "--env", "tiny/Catch")
SHORT = ("--agent.collect", "80", "--agent.study", "2", "--agent.tune", "1", "--agent.practice", "60")
QUICK = ("--eval-episodes", "2", "--log-every", "20", "--logs", "jsonl", "--threads", "1")
Go = Callable[..., str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DREAMLAB_DEBUG", raising=False)


@pytest.fixture
def go(capfd: pytest.CaptureFixture[str]) -> Go:
    """Run a command, see its exit code, return what it wrote on one line."""

    def run(*argv: object, code: int = 0) -> str:
        capfd.readouterr()
        left = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        assert left == code, out + err
        assert "Traceback" not in out + err
        assert "an error of its own" not in err
        return " ".join((out + err if code == 0 else err).replace("│", " ").split())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its checkpoints."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main([*TOY, *SHORT, *QUICK, "--run", str(folder)]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to be broken."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def steps(folder: Path) -> list[int]:
    return checkpoint.Checkpoints(folder).steps()


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "dremer", "--env", "tiny/Catch"], ["unknown agent 'dremer'", "world-models"]),
        (["train", "world_modles", "--env", "tiny/Catch"], ["'world_modles'", "Did you mean 'world-models'?"]),
        (["train", "json", "--env", "tiny/Catch"], ["unknown agent 'json'"]),
        (["train", "toy_parts", "--env", "tiny/Catch"], ["is not an agent: it lacks EXTENDS"]),
        (["train", "yaml", "--env", "tiny/Catch"], ["unknown agent 'yaml'"]),
        (["train", "toy_agent", "--env", "tiny/Cach"], ["unknown environment", "Did you mean 'tiny/Catch'?"]),
        (["train", "toy_agent", "--env", "faulty_envs:Crsh"], ["no callable 'Crsh'", "Did you mean 'Crash'?"]),
        (["train", "world-models", "--env", "tiny/Catch", "--preset", "smok"], ["'smok'", "Did you mean 'smoke'?"]),
        ([*TOY, "--agent.codez", "3"], ["Unrecognized options: --agent.codez", "--agent.codes INT"]),
        ([*TOY, "--agent.codes", "x"], ["--agent.codes: expected a whole number, got 'x'"]),
        ([*TOY, "--logs", "consol"], ["unknown log sink 'consol'", "Did you mean 'console'?"]),
        ([*TOY, "--data", "films"], ["there are no recordings at films"]),
        (["plan", *TOY[1:], "--data", "films"], ["there are no recordings at films"]),
        ([*TOY, "--from", "nowhere"], ["this agent cannot take parts from another run"]),
        (["train", "--run", "nowhere"], ["nowhere holds no run to go on with", "train AGENT --env ID --run nowhere"]),
        (["train", "--config", "no.yaml"], ["cannot read no.yaml: No such file"]),
        (["evaluate", "nowhere"], ["there is no folder nowhere; runs in .: none"]),
        (["dream", "."], [". holds no run (no config.yaml)"]),
    ],
)
def test_unknown_names(go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], words: list[str]):
    monkeypatch.chdir(tmp_path)
    said = go(*argv, code=2)
    assert all(word in said for word in words), said


def test_from_a_folder_that_holds_no_run(go: Go, tmp_path: Path):
    said = go("train", "world-models", "--env", "tiny/Catch", "--preset", "smoke", "--run", tmp_path / "a",
              "--from", tmp_path / "b", code=2)  # fmt: skip
    assert f"there is no folder {tmp_path / 'b'}; runs in {tmp_path}: a." in said


def test_all_wrong_options_are_told_at_once(go: Go):
    said = go(*TOY, "--agent.codez", "3", "--stepz=4", "--seed", "1.5", "--agent.width=wide", code=2)
    assert said.startswith("dreamlab: 4 options are wrong:")
    assert "--seed: expected a whole number, got '1.5'" in said
    assert "--agent.width: expected a whole number, got 'wide'" in said
    assert "--agent.codez: unknown option. Did you mean '--agent.codes'?" in said
    assert "--stepz: unknown option. Did you mean '--steps'?" in said


def test_values_out_of_range(go: Go, trained: Path):
    assert "envs must be at least 1, got 0" in go(*TOY, "--envs", "0", code=2)
    assert "--envs must be at least 0, got -1" in go("evaluate", trained, "--envs", "-1", code=2)
    assert "--episodes must be at least 1, got 0" in go("evaluate", trained, "--episodes", "0", code=2)
    assert "--count must be at least 0, got -1" in go("dream", trained, "--count", "-1", code=2)
    assert "no device 'tpu' here; available: cpu" in go("evaluate", trained, "--device", "tpu", code=2)


def test_unknown_checkpoint(go: Go, trained: Path):
    for verb in ("evaluate", "dream"):
        said = go(verb, trained, "--checkpoint", "5", code=2)
        assert f"no checkpoint 5 in {trained}/checkpoints; available: {', '.join(map(str, steps(trained)))}" in said


def test_a_missing_package_is_named_with_its_extra(go: Go, tmp_path: Path):
    pytest.importorskip("Box2D")
    if __import__("importlib.util").util.find_spec("envpool"):
        pytest.skip("EnvPool is installed here")
    argv = ("train", "random", "--env", "CarRacing-v3", "--steps", "4", "--run", tmp_path / "r")
    assert "pip install 'dreamlab[envpool]'" in go(*argv, "--env.engine", "envpool", code=2)
    assert "done: step 4" in go(*argv, "--eval-episodes", "1", "--env.time-limit", "2"), "nothing was begun with it"


# -- where nothing can be written ----------------------------------------------------------------------------------


def test_unwritable_places(go: Go, run: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    said = go(*TOY, "--run", tmp_path / "file" / "run", code=2)
    assert f"cannot write to the run's folder {tmp_path}/file/run (Not a directory" in said
    assert "name another with --run" in said
    for verb in ("evaluate", "dream"):
        begin = time.monotonic()
        assert "is a folder; name a file in it" in go(verb, run, "--json", tmp_path, code=2)
        assert "cannot be written: " in go(verb, run, "--json", tmp_path / "file" / "x.json", code=2)
        assert time.monotonic() - begin < 0.5, "before the work is done"
    shutil.rmtree(run / "evaluations")
    (run / "evaluations").write_text("")
    assert f"cannot use {run}/evaluations: File exists" in go("evaluate", run, "--episodes", "1", code=1)


def test_two_processes_in_one_folder(go: Go, run: Path):
    with open(run / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        said = go(*TOY, *SHORT, *QUICK, "--run", run, code=2)
    assert f"another process is training in {run}; wait for it or name another folder with --run" in said
    assert "done" in go(*TOY, *SHORT, *QUICK, "--run", run)


# -- the run folder of another -------------------------------------------------------------------------------------


def test_a_folder_of_another_agent_env_or_setting(go: Go, run: Path):
    before = (run / "config.yaml").read_bytes()
    said = go("train", "random", "--env", "tiny/Catch", "--run", run, code=2)
    assert "holds another run: agent: 'toy_agent' there, 'random' now" in said
    said = go("train", "toy_agent", "--env", "tiny/Count", *SHORT, *QUICK, "--run", run, code=2)
    assert "env.id: 'tiny/Catch' there, 'tiny/Count' now" in said
    said = go(*TOY, *SHORT, *QUICK, "--run", run, "--agent.width", "16", "--envs", "3", code=2)
    assert "run.envs: 2 there, 3 now" in said
    assert "config.width: 32 there, 16 now" in said
    assert "What may change when a run goes on: config.practice, env.timeout, run.eval_episodes" in said
    assert (run / "config.yaml").read_bytes() == before
    assert "this run is finished" in go(*TOY, *SHORT, *QUICK, "--logs", "console", "--run", run, "--env.timeout", "9")


def test_a_run_from_before_a_setting_existed_goes_on(go: Go, run: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither its config.yaml nor its checkpoints know the setting: it had the default."""
    old = yaml.safe_load((run / "config.yaml").read_text())
    del old["run"]["keep"], old["env"]["timeout"]
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    monkeypatch.setattr(checkpoint.Checkpoints, "settings", lambda self: (self.steps()[-1], old))
    for _ in range(2):  # config.yaml knows it the second time
        assert "this run is finished" in go(*TOY, *SHORT, *QUICK, "--logs", "console", "--run", run)
    said = go(*TOY, *SHORT, *QUICK, "--keep", "7", "--run", run, code=2)
    assert "run.keep: 2 there, 7 now" in said


def edit(run: Path, group: str, key: str, value: object) -> None:
    data = yaml.safe_load((run / "config.yaml").read_text())
    data[group][key] = value
    (run / "config.yaml").write_text(yaml.safe_dump(data))


def test_settings_edited_by_hand_are_listed(go: Go, run: Path):
    good = (run / "config.yaml").read_text()
    edit(run, "config", "width", 16)
    edit(run, "env", "repeat", 2)
    newest = steps(run)[-1]
    for argv in (("train", "--run", run), (*TOY, *SHORT, *QUICK, "--run", run), ("evaluate", run), ("dream", run)):
        said = go(*argv, code=2)
        assert f"{run}/config.yaml was edited after checkpoint {newest} was made with it:" in said
        assert "config.width: 32 in the checkpoint, 16 in the file" in said
        assert "env.repeat: 1 in the checkpoint, 2 in the file" in said
    (run / "config.yaml").write_text(good)
    edit(run, "run", "log_every", 7)
    assert "done" in go("train", "--run", run), "what may change may be edited too"
    edit(run, "run", "lg_every", 7)
    edit(run, "config", "width", "wide")
    said = go("evaluate", run, code=2)
    assert "2 settings are wrong" in said
    assert "run.lg_every: unknown key. Did you mean 'log_every'?" in said
    assert "config.width: expected a whole number, got 'wide'" in said


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (b"", "but the file is empty"),
        (b"\xff\xfe\x00rubbish", "is not a text file"),
        (b"agent: [toy", "not valid YAML"),
        (None, "cannot read"),
    ],
)
def test_an_unreadable_config(go: Go, run: Path, broken: bytes | None, words: str):
    path = run / "config.yaml"
    good = path.read_bytes()
    path.unlink()
    path.mkdir() if broken is None else path.write_bytes(broken)
    for argv in (("train", "--run", run), ("evaluate", run)):
        assert words in go(*argv, code=2)
    said = go(*TOY, *SHORT, *QUICK, "--run", run, code=2)
    assert words in said
    assert "the checkpoints know the settings too: delete the file and type the whole command again" in said
    path.rmdir() if broken is None else path.unlink()
    assert "config.width: 32 there, 8 now" in go(*TOY, *SHORT, *QUICK, "--run", run, "--agent.width", "8", code=2)
    assert "done" in go(*TOY, *SHORT, *QUICK, "--run", run)
    assert path.read_bytes() == good


def test_a_run_that_never_saved_does_not_bind_its_folder(go: Go, tmp_path: Path):
    """A first try with a mistake in it must not ask for a new folder."""
    smoke = ("train", "dreamer-v3", "--env", "tiny/Catch", "--preset", "smoke", "--steps", "90")
    argv = (*smoke, "--run", tmp_path / "run")
    go(*argv, *QUICK, "--from", tmp_path / "nowhere", code=2)
    assert "nowhere" in (tmp_path / "run" / "config.yaml").read_text()  # the mistake is written down there
    assert "done" in go(*argv, *QUICK)
    assert "nowhere" not in (tmp_path / "run" / "config.yaml").read_text()


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def halfway(trained: Path, tmp_path: Path, go: Go) -> Path:
    """The same run, with two checkpoints that lie before its end."""
    folder = tmp_path / "halfway"
    go(*TOY, *SHORT, *QUICK, "--run", folder, "--agent.practice", "30")
    return folder


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def alter(path: Path) -> None:
    state = json.loads(path.read_text())
    state["parts"]["run"]["clocks"]["log"] += 1
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("agent-parts.safetensors", truncate, "agent-parts.safetensors is truncated or altered"),
        ("run.safetensors", flip, "run.safetensors is truncated or altered"),
        ("agent-optimizers.safetensors", Path.unlink, "lacks agent-optimizers.safetensors"),
        ("state.json", truncate, "cannot be read"),
        ("state.json", alter, "state.json is altered"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(
    go: Go, trained: Path, halfway: Path, file: str, damage: Callable[[Path], None], words: str
):
    older, newest = steps(halfway)
    damage(halfway / "checkpoints" / str(newest) / file)
    said = go("evaluate", halfway, "--episodes", "1")
    assert f"checkpoint {halfway}/checkpoints/{newest}" in said
    assert words in said
    assert f"the one before it is taken, step {older}" in said
    said = go(*TOY, *SHORT, *QUICK, "--run", halfway, "--logs", "console", "jsonl")
    assert f"going on from the checkpoint before it, step {older}" in said
    assert_same(trained, halfway)


def test_when_every_checkpoint_is_damaged(go: Go, run: Path):
    for step in steps(run):
        truncate(run / "checkpoints" / str(step) / "agent-parts.safetensors")
    before = sorted(p.name for p in run.rglob("*"))
    for argv in ((*TOY, *SHORT, *QUICK, "--run", run), ("evaluate", run), ("dream", run)):
        said = go(*argv, code=1)
        assert "every checkpoint is damaged:" in said
        assert "agent-parts.safetensors is truncated or altered" in said
        assert "train in another folder" in said
    assert before == sorted(p.name for p in run.rglob("*") if p.name != "error.txt")  # it says why


class Boom:
    def __reduce__(self):
        return (os._exit, (66,))


def test_a_pickle_in_a_checkpoint_is_refused_everywhere(go: Go, run: Path):
    import dreamlab

    path = run / "checkpoints" / str(steps(run)[-1]) / "agent-parts.safetensors"
    path.write_bytes(pickle.dumps(Boom()))
    for argv in ((*TOY, *SHORT, *QUICK, "--run", run), ("evaluate", run), ("dream", run)):
        said = go(*argv, code=2)
        assert f"{path} is a pickle, which can run any code when it is loaded: refused" in said
    with pytest.raises(UserError, match="pickle"):
        dreamlab.load(run)


def test_a_header_that_looks_like_a_pickle_is_none(tmp_path: Path):
    """A safetensors file begins with the length of its header: 640 in bytes is how a pickle begins."""
    import torch

    found = 0
    for n in range(540, 640, 4):
        folder = tmp_path / str(n)
        folder.mkdir()
        checkpoint.write(folder, {"a": {"x" * n: torch.zeros(1)}}, {"step": n})
        found += (folder / "a.safetensors").read_bytes().startswith(b"\x80\2")
        assert checkpoint.read(folder)["a"]["x" * n] == 0
    assert found


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_rows_that_are_lost(go: Go, halfway: Path, damage: str):
    path = halfway / "replay" / "image.bin"
    good = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(good[:1000])
    said = go(*TOY, *SHORT, *QUICK, "--run", halfway, code=1)
    assert f"{path} {'is missing' if damage == 'missing' else 'was truncated'}: the rows" in said
    assert "Put the file back, or train in another folder" in said
    assert "image.bin is missing or shorter than the checkpoint says" in go("dream", halfway, "--horizon", "3", code=1)
    go("evaluate", halfway, "--episodes", "1")
    path.write_bytes(good)
    assert "done" in go(*TOY, *SHORT, *QUICK, "--run", halfway)
