"""Settings in three forms, and what is said about wrong ones."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamlab.core.config import differences, from_dict, merge, read_yaml, to_dict, write_yaml
from dreamlab.core.errors import UserError
from dreamlab.run.config import RunConfig


@dataclass(frozen=True)
class Eyes:
    latent: int = 8
    lr: float = 1e-4
    kind: Literal["plain", "deep"] = "plain"
    sizes: tuple[int, ...] = (16, 16)
    crop: tuple[int, int] | None = None
    shared: bool = False
    name: str = "v"

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise ValueError(f"latent must be at least 1, got {self.latent}")


@dataclass(frozen=True)
class Agent:
    epochs: int = 3
    vision: Eyes = field(default_factory=lambda: Eyes(latent=9))
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    id: str


def problem(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    return str(caught.value)


# -- round trips ---------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False)
eyes = st.builds(
    Eyes,
    latent=st.integers(1),
    lr=numbers,
    kind=st.sampled_from(["plain", "deep"]),
    sizes=st.lists(st.integers()).map(tuple),
    crop=st.none() | st.tuples(st.integers(), st.integers()),
    shared=st.booleans(),
    name=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["no", "1e5", "1e-4", "null", "~", "0x1"]),
)


@given(st.builds(Agent, epochs=st.integers(), vision=eyes, weights=st.dictionaries(st.sampled_from("abno"), numbers)))
def test_dictionary_and_yaml_give_back_the_same(tmp_path_factory: pytest.TempPathFactory, config: Agent):
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    assert from_dict(Agent, to_dict(config)) == config
    write_yaml(path, to_dict(config))
    assert read_yaml(path) == to_dict(config)
    assert from_dict(Agent, read_yaml(path)) == config


def test_numbers_that_people_write(tmp_path: Path):
    path = tmp_path / "a.yaml"
    path.write_text("epochs: 1e6\nvision: {lr: 1e-3, name: no, sizes: [1, 2, 3]}\nweights: {a: 1}\n")
    config = from_dict(Agent, read_yaml(path))
    assert config == Agent(1_000_000, Eyes(latent=9, lr=1e-3, name="no", sizes=(1, 2, 3)), {"a": 1.0})
    assert type(config.epochs) is int
    assert type(config.weights["a"]) is float


def test_merge_replaces_only_what_is_named():
    config = Agent(5, Eyes(latent=4, lr=2.0))
    assert merge(config, {"vision": {"kind": "deep"}}) == Agent(5, Eyes(latent=4, lr=2.0, kind="deep"))
    assert merge(config, {}) == config
    assert from_dict(Agent, {"vision": {"kind": "deep"}}).vision.latent == 9, "the outer class's default holds"


def test_differences_name_paths():
    old, new = to_dict(Agent()), to_dict(Agent(4, Eyes(latent=9, sizes=(1,))))
    assert differences(old, new) == [("epochs", 3, 4), ("vision.sizes", [16, 16], [1])]
    assert differences(old, old) == []
    assert differences({"a": 1}, {"b": True}) == [("a", 1, None), ("b", None, True)]
    assert differences({"a": 1}, {"a": True}) == [("a", 1, True)]


# -- mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"latnet": 3}, "agent.latnet: unknown key. Did you mean 'latent'?"),
        ({"latent": "abc"}, "agent.latent: expected a whole number, got 'abc'"),
        ({"latent": "3"}, "agent.latent: expected a whole number, got '3'"),
        ({"latent": 3.5}, "agent.latent: expected a whole number, got 3.5"),
        ({"latent": True}, "agent.latent: expected a whole number, got true"),
        ({"latent": None}, "agent.latent: expected a whole number, got null"),
        ({"lr": "fast"}, "agent.lr: expected a number, got 'fast'"),
        ({"shared": 1}, "agent.shared: expected true or false, got 1"),
        ({"name": 1}, "agent.name: expected text, got 1"),
        ({"kind": "dep"}, "agent.kind: expected one of 'plain', 'deep', got 'dep'"),
        ({"sizes": [1, "a"]}, "agent.sizes: expected a list of whole numbers, got [1, 'a']"),
        ({"crop": [1]}, "agent.crop: expected a list of 2: a whole number, a whole number or null, got [1]"),
        ({"latent": 0}, "agent: latent must be at least 1, got 0"),
    ],
)
def test_one_mistake_is_one_line(data: dict, said: str):
    assert problem(from_dict, Eyes, data, "agent") == said
    assert problem(merge, Eyes(), data, "agent") == said


def test_all_mistakes_are_told_at_once():
    data = {"epoch": 1, "epochs": "many", "vision": {"latnet": 3, "lr": "x"}, "weights": {"a": "b"}}
    assert problem(from_dict, Agent, data, "agent").splitlines() == [
        "5 settings are wrong:",
        "  agent.epoch: unknown key. Did you mean 'epochs'?",
        "  agent.epochs: expected a whole number, got 'many'",
        "  agent.vision.latnet: unknown key. Did you mean 'latent'?",
        "  agent.vision.lr: expected a number, got 'x'",
        "  agent.weights: expected a mapping, got {'a': 'b'}",
    ]


def test_ranges_are_told_with_their_path_beside_other_mistakes():
    said = problem(from_dict, Agent, {"epochs": "x", "vision": {"latent": 0}}, "agent")
    assert "agent.vision: latent must be at least 1, got 0" in said
    assert "agent.epochs: expected a whole number, got 'x'" in said
    assert problem(from_dict, RunConfig, {"envs": 0}) == "envs must be at least 1, got 0"


def test_missing_and_misshapen():
    assert problem(from_dict, Named, {}, "env") == "env.id: is missing"
    assert problem(from_dict, Agent, {"vision": 3}) == "vision: expected a mapping of settings, got 3"
    assert problem(from_dict, Agent, [1], "agent") == "agent: expected a mapping of settings, got [1]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "line 1, column 9: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\na: 2\n", "line 2, column 1: not valid YAML: the key 'a' is there twice"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
        ("", "expected a mapping of settings, but the file is empty"),
        ("- 1", "expected a mapping of settings, but the file holds [1]"),
        ("[a]: 1", "not valid YAML"),
    ],
)
def test_files_that_are_not_in_order(tmp_path: Path, text: str, said: str):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = problem(read_yaml, path)
    assert message.startswith(str(path))
    assert said in message


def test_files_that_are_not_there(tmp_path: Path):
    assert problem(read_yaml, tmp_path / "no.yaml") == f"cannot read {tmp_path / 'no.yaml'}: No such file or directory"
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "is not a text file" in problem(read_yaml, tmp_path / "bytes.yaml")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.yaml"
    write_yaml(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_yaml(path, {"a": 2})
    assert read_yaml(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["config.yaml"]
