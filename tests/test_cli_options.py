"""From what is typed to a spec: order of settings, and what is said about mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from own_agents import tiny

from dreamlab import agents
from dreamlab.cli import options
from dreamlab.cli.flags import whole
from dreamlab.cli.options import Spec, parse, resolve
from dreamlab.core.config import write_yaml
from dreamlab.core.errors import UserError

TINY = "own_agents.tiny"


def train(*argv: str) -> Spec:
    return parse(argv, "dreamlab train")[0]


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        train(*argv)
    return str(caught.value)


def mistyped(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as left:
        train(TINY, "--env", "CartPole-v1", *argv)
    assert left.value.code == 2
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


# -- the order of settings -----------------------------------------------------------------------------------


def test_defaults_then_the_suites_preset_then_options():
    spec = train(TINY, "--env", "CartPole-v1", "--agent.vision.latent", "4", "--steps", "2e3", "--env.repeat", "2")
    assert spec.agent == TINY
    assert spec.config == tiny.Config(epochs=2, vision=tiny.VisionConfig(latent=4, lr=1e-3))
    assert (spec.run.envs, spec.run.steps, spec.run.seed) == (3, 2000, 0)
    assert (spec.env.id, spec.env.repeat) == ("CartPole-v1", 2)
    assert spec.preset == "fast"
    assert spec.said == f"preset fast, the default of {TINY} for gym"


def test_a_preset_that_names_an_environment_is_the_default_of_that_one_alone():
    assert train(TINY, "--env", "BipedalWalker-v3").preset == "pole"
    assert train(TINY, "--env", "BipedalWalker-v3").env.repeat == 2
    other = train(TINY, "--env", "BipedalWalkerHardcore-v3")
    assert (other.preset, other.env.repeat, other.config) == (None, 1, tiny.Config())
    assert other.said == f"plain defaults: {TINY} has no preset for BipedalWalkerHardcore-v3"


def test_a_named_preset_brings_its_environment():
    spec = train(TINY, "--preset", "pole")
    assert (spec.env.id, spec.said) == ("BipedalWalker-v3", "preset pole")
    assert train(TINY, "--preset=pole", "--env=CartPole-v1").env.id == "CartPole-v1"
    assert train(TINY, "--env.id", "CartPole-v1").env.id == "CartPole-v1"


def test_every_flag_arrives():
    spec = train(
        *(TINY, "--env", "CartPole-v1", "--run", "runs/a", "--data", "d", "--from", "runs/b", "--dry-run"),
        *("--logs", "console", "jsonl", "--compile", "--agent.vision.shared", "--agent.vision.floor", "none"),
        *("--agent.vision.sizes", "1", "2", "3", "--env.no-workers", "--save_minutes", "2"),
    )
    assert (spec.folder, spec.data, spec.source) == (Path("runs/a"), Path("d"), Path("runs/b"))
    assert (spec.dry_run, spec.logs, spec.run.compile, spec.env.workers) == (True, ("console", "jsonl"), True, False)
    assert spec.config.vision == tiny.VisionConfig(latent=9, lr=1e-3, shared=True, sizes=(1, 2, 3))
    assert spec.run.save_minutes == 2.0
    assert train(TINY, "--env", "CartPole-v1").logs is None


@pytest.mark.parametrize("text", ["1000000", "1e6", "1_000_000", "1000000.0", "+1e6"])
def test_whole_numbers_as_people_write_them(text: str):
    assert whole(text) == 1_000_000


@pytest.mark.parametrize("text", ["1.5", "1e-3", "inf", "nan", "x", ""])
def test_what_is_not_whole(text: str):
    with pytest.raises((ValueError, OverflowError)):
        whole(text)


# -- stored ----------------------------------------------------------------------------------------------------


def test_a_stored_spec_comes_back(tmp_path: Path):
    spec = train(TINY, "--env", "CartPole-v1", "--agent.epochs", "7", "--seed", "5", "--data", "d", "--from", "r")
    stored = options.to_dict(spec)
    assert tuple(stored) == options.STORED
    again = options.from_dict(stored)
    assert options.to_dict(again) == stored
    assert (again.config, again.env, again.run) == (spec.config, spec.env, spec.run)
    path = tmp_path / "config.yaml"
    write_yaml(path, stored)
    assert options.to_dict(train("--config", str(path))) == stored
    assert options.to_dict(train(TINY, "--config", str(path), "--run", "elsewhere")) == stored
    assert options.to_dict(train("--run", str(tmp_path))) == stored, "a run's folder knows its agent"
    changed = train("--config", str(path), "--seed", "6", "--preset", "pole")
    assert options.differences(changed, stored) == [("run.seed", 5, 6)], "the file wins over the preset"


def test_everything_wrong_in_a_stored_config_is_told_at_once(tmp_path: Path):
    path = tmp_path / "config.yaml"
    data = {"agent": TINY, "env": {"id": "CartPole-v1", "repeet": 2}, "run": {"seed": "x"}, "confg": {}}
    write_yaml(path, {**data, "config": {"vision": {"latnet": 3}}})
    for said in (refused("--config", str(path)), refused("--run", str(tmp_path))):
        assert said.splitlines() == [
            "4 settings are wrong:",
            f"  {path}: confg: unknown key. Did you mean 'config'?",
            f"  {path}: config.vision.latnet: unknown key. Did you mean 'latent'?",
            f"  {path}: env.repeet: unknown key. Did you mean 'repeat'?",
            f"  {path}: run.seed: expected a whole number, got 'x'",
        ]
    with pytest.raises(UserError, match="4 settings are wrong"):
        options.from_dict({**data, "config": {"vision": {"latnet": 3}}})


def test_stored_configs_that_do_not_fit(tmp_path: Path):
    path = tmp_path / "config.yaml"
    write_yaml(path, {"agent": "other.agent", "env": {"id": "CartPole-v1"}})
    assert refused(TINY, "--config", str(path)).startswith(f"{path} is of the agent other.agent, not {TINY}")
    write_yaml(path, {"env": {"id": "CartPole-v1"}})
    assert refused("--config", str(path)) == f"{path}: agent: is missing"
    assert "cannot read" in refused("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match=r"config.yaml: env: is missing"):
        options.from_dict({"agent": TINY})


# -- mistakes ----------------------------------------------------------------------------------------------------


def test_unknown_names():
    assert refused("dremer", "--env", "CartPole-v1").startswith("unknown agent 'dremer'; available: ")
    assert refused("own_agents.tinny", "--env", "x").startswith("no module 'own_agents.tinny' for the agent")
    assert refused("json.tool", "--env", "x").startswith("the module 'json.tool' is not an agent: it lacks Config")
    assert "unknown environment 'NoSuchThing'" in refused(TINY, "--env", "NoSuchThing")
    said = refused(TINY, "--env", "CartPole-v1", "--preset", "fsat")
    assert said == f"unknown preset of {TINY} 'fsat'; available: fast, pole. Did you mean 'fast'?"


def test_what_is_missing():
    assert refused().startswith("which agent? available: ")
    assert "The agent comes first: dreamlab train" in refused("--env", "CartPole-v1")
    assert refused(TINY).startswith(f"which environment? type: dreamlab train {TINY} --env")


def test_the_same_option_twice():
    assert refused(TINY, "--env", "CartPole-v1", "--env.id", "Acrobot-v1").startswith("two environments")
    assert "--env is there twice" in refused(TINY, "--env", "CartPole-v1", "--env", "Acrobot-v1")


def test_mistyped_options_and_values(capsys: pytest.CaptureFixture[str]):
    said = mistyped(capsys, "--agent.vision.latnet", "3")
    assert "Unrecognized options: --agent.vision.latnet" in said
    assert "Perhaps you meant: --agent.vision.latent INT" in said
    said = mistyped(capsys, "--agent.vision.latent", "abc")
    assert "Error parsing --agent.vision.latent: expected a whole number, got 'abc'" in said
    assert "--steps: expected a whole number or none, got '1.5'" in mistyped(capsys, "--steps", "1.5")
    assert "--steps: expected a whole number or none, got 'inf'" in mistyped(capsys, "--steps", "inf")
    assert "--agent.vision.lr: expected a number, got 'fast'" in mistyped(capsys, "--agent.vision.lr", "fast")
    assert "invalid choice 'tpu' for argument '--device'" in mistyped(capsys, "--device", "tpu")
    assert "agent.vision: latent must be at least 1, got 0" in mistyped(capsys, "--agent.vision.latent", "0")
    assert refused(TINY, "--env", "CartPole-v1", "--envs", "0").startswith("envs must be at least 1, got 0; dreamlab")


def test_presets_that_are_not_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "presets.yaml"
    monkeypatch.setattr(agents, "preset_file", lambda module: path)
    write_yaml(path, {"a": {"abuot": "x", "suites": "gym"}, "b": 3})
    assert refused(TINY, "--env", "CartPole-v1").splitlines()[1:] == [
        f"  {path}: a.abuot: unknown key. Did you mean 'about'?",
        f"  {path}: a.suites: expected a list, got 'gym'",
        f"  {path}: b: expected a mapping with any of about, suites, agent, env, run",
    ]
    write_yaml(path, {"a": {"suites": ["gym"], "agent": {"epoch": 1}, "run": {"envs": "x"}}})
    assert refused(TINY, "--env", "CartPole-v1").splitlines()[1:] == [
        "  preset a: agent.epoch: unknown key. Did you mean 'epochs'?",
        "  preset a: run.envs: expected a whole number, got 'x'",
    ]


# -- the agents that come with dreamlab --------------------------------------------------------------------------


def test_names_are_written_one_way():
    assert all("_" not in name for name in agents.names())
    assert agents.canonical("world_models") == "world-models"
    for name in agents.names():
        assert agents.load(name) is agents.load(name.replace("-", "_"))


@pytest.mark.parametrize("name", agents.names())
def test_agents_offer_what_the_command_line_needs(name: str):
    module = agents.load(name)
    assert not [offer for offer in agents.OFFERS if not hasattr(module, offer)]
    fields = {f.name for f in dataclasses.fields(module.Config)}
    assert {path.split(".")[0] for path in module.EXTENDS} <= fields | {"run"}


@pytest.mark.parametrize(("name", "preset"), [(n, p) for n in agents.names() for p in agents.presets(n)])
def test_presets_fit_their_agent_and_environment(name: str, preset: str):
    content = agents.preset(name, preset)
    assert content["about"], "one line for dreamlab presets"
    ids = [content["env"]["id"]] if "id" in content["env"] else ["CartPole-v1", "ALE/Pong-v5", "dmc/walker_walk"]
    assert any(fits(name, env, preset) for env in ids)


def fits(name: str, env: str, preset: str) -> bool:
    """Whether an environment has every setting that a preset gives it."""
    try:
        return resolve(name, env, preset).preset == preset
    except UserError:
        return False
