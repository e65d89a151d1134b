"""The benchmarks run, count what they say they count, and write what they document."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamlab.nn.compute import emulates_bf16

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("measure")


def documented() -> set[str]:
    """The keys in the README's last table."""
    table = (BENCHMARKS / "README.md").read_text(encoding="utf-8").split("| key |")[1]
    return {key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_quick_writes_what_is_documented():
    command = [sys.executable, str(BENCHMARKS / "world_models.py"), "--quick", "--json", "-", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["quick"] is True
    assert found["machine"]["threads"] == 1
    networks = {"gemm", "gemm_dream", "vision", "vision_small", "memory", "memory_small", "dream", "rollout"}
    names = {(case["name"], case["precision"]) for case in found["cases"]}
    taken = ("fp32",) if emulates_bf16(torch.device("cpu")) else ("fp32", "bf16")
    assert names == {(name, p) for name in networks for p in taken} | {("environment", None)}
    for case in found["cases"]:
        assert set(case) == documented()
        assert 0 < case["ms"]["min"] <= case["ms"]["median"] <= case["ms"]["max"]
        assert (case["of_gemm"] is None) == (case["gflop"] is None) == (case["name"] in ("rollout", "environment"))
    floors = {(c["name"], c["precision"]): c["floor"] for c in found["cases"] if c["floor"]}
    assert {p: floors["dream", p]["at_least"] for p in taken} == {p: {"fp32": 0.6, "bf16": 0.4}[p] for p in taken}
    assert floors["vision_small", "fp32"]["reached"] is None, "no peer was measured"


@pytest.mark.parametrize("helpless", [True, False])
def test_both_precisions_are_those_that_the_processor_has(measure, monkeypatch, helpless):
    monkeypatch.setattr(measure, "emulates_bf16", lambda device: helpless)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said: list[str] = []
    for device in ("cpu", "auto"):
        assert measure.precisions("both", device, said.append) == (("fp32",) if helpless else ("fp32", "bf16"))
    assert len(said) == 2 * helpless
    assert measure.precisions("both", "cuda", said.append) == ("fp32", "bf16")
    assert measure.precisions("bf16", "cpu", said.append) == ("bf16",)


def test_a_checkout_that_is_none_is_refused(measure, tmp_path, capsys):
    bench = importlib.import_module("world_models")
    assert bench.main(["--quick", "--precision", "fp32", "--threads", "1", "--peer", str(tmp_path)]) == 2
    assert "trainvae.py is missing" in capsys.readouterr().err


def test_arithmetic_is_what_the_layers_do(measure):
    """The sizes of the paper, by hand: 2 * weights * places, three times, without the first input's gradient."""
    bench = importlib.import_module("world_models")
    agent = bench.build(bench.Config(), bench.CAR, bench.prepare("cpu", threads=1))
    first = 3 * 32 * 16 * 31**2
    encoder = first + 32 * 64 * 16 * 14**2 + 64 * 128 * 16 * 6**2 + 128 * 256 * 16 * 2**2 + 2 * 1024 * 32
    decoder = 32 * 1024 + 1024 * 128 * 25 + 128 * 64 * 25 * 5**2 + 64 * 32 * 36 * 13**2 + 32 * 3 * 36 * 30**2
    assert bench.vision_gflop(agent.model.vision, 7) == pytest.approx(14e-9 * (3 * (encoder + decoder) - first))
    memory = agent.model.memory
    weights = 4 * 256 * (35 + 256) + 256 * 480
    assert bench.memory_gflop(memory, memory.input_weight, 5) == pytest.approx(1e-8 * (3 * weights - 4 * 256 * 35))


def test_ratios_are_taken_round_by_round(measure):
    """A machine that slows down for a round slows both sides: the ratio does not move."""
    case = measure.Case(
        "a", "fp32", "", "calls", "calls", lambda: measure.Done(), 1.0, measure.Floor("gemm", "fp32", 0.6)
    )
    gemm = measure.Case("gemm", "fp32", "", "calls", "calls", lambda: measure.Done(), 2.0)
    seconds = [1.0, 3.0, 1.0]
    samples = {
        ("a", "fp32"): [measure.Sample(s, 1) for s in seconds],
        ("gemm", "fp32"): [measure.Sample(s, 1) for s in seconds],
    }
    a, b = measure.results([case, gemm], samples)
    assert a["of_gemm"] == a["floor"]["reached"] == pytest.approx(0.5)  # as long, for half of the arithmetic
    assert a["floor"]["kept"] is False
    assert b["of_gemm"] == 1.0
    assert any("MISSED" in line for line in measure.table([a, b]))


def test_cases_take_turns(measure):
    seen = []
    cases = [
        measure.Case(name, "", "", "calls", "calls", lambda name=name: seen.append(name) or measure.Done())
        for name in "ab"
    ]
    measure.take_turns(cases, 3, 0.0, torch.device("cpu"), lambda line: None)
    assert seen == [*"aabb", *"ababab"]


def test_a_function_is_taken_from_a_script_without_running_it(measure, tmp_path):
    peer = importlib.import_module("peer_world_models")
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit\ndef loss(x):\n    return x * SCALE\nloss(1)\n")
    assert peer.compiled(script, "loss", {"SCALE": 3})(2) == 6
    with pytest.raises(peer.UserError, match="no function gain"):
        peer.compiled(script, "gain", {})


def test_the_dreamers_benchmark_counts_and_answers():
    command = [sys.executable, str(BENCHMARKS / "dreamer.py"), "--size", "1m", "--batch", "2", "--length", "4"]
    command += ["--repeats", "1", "--seconds", "0", "--precision", "fp32", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = {case["name"]: case for case in json.loads(done.stdout)["cases"]}
    assert found.keys() == {"gemm", "update", "policy"}
    assert found["update"]["gflop"] > 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agent", "dreamer-v1", "--peer", "torchrl=PYTHON"], "type --peer sheeprl=PYTHON"),
        (["--agent", "dreamer-v2", "--peer", "r2dreamer=PYTHON"], "type --peer sheeprl=PYTHON"),
        (["--peer", "iris=PYTHON"], "--peer torchrl=PYTHON or --peer sheeprl=PYTHON or --peer r2dreamer=PYTHON"),
        (["--peer", "r2dreamer=PYTHON"], "--r2dreamer FOLDER"),
        (["--peer", "r2dreamer=PYTHON", "--r2dreamer", "FOLDER"], "give a checkout of NM512/r2dreamer"),
    ],
)
def test_a_peer_that_cannot_be_compared_is_refused(measure, tmp_path, capsys, arguments, said):
    bench = importlib.import_module("dreamer")
    assert bench.main([str(tmp_path) if a == "FOLDER" else a for a in arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("agent", ["dreamer-v1", "dreamer-v2", "dreamer-v3"])
def test_every_dreamer_has_a_peer_in_sheeprl(measure, agent):
    bench = importlib.import_module("dreamer")
    bench.refuse(bench.options(["--agent", agent, "--peer", "sheeprl=PYTHON"]), ["sheeprl"])


def test_a_checkout_of_r2dreamer_is_known_by_its_files(measure, tmp_path):
    peer = importlib.import_module("peer_r2dreamer")
    for name in peer.NEEDED:
        assert name in peer.lacking(str(tmp_path))
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert peer.lacking(str(tmp_path)) == ""


@pytest.mark.slow
def test_the_iris_benchmark_counts_and_answers():
    command = [sys.executable, str(BENCHMARKS / "iris.py"), "--tokenizer-batch", "1", "--dynamics-batch", "1"]
    command += ["--batch", "1", "--horizon", "2", "--repeats", "1", "--seconds", "0", "--threads", "1"]
    done = subprocess.run([*command, "--precision", "fp32", "--json", "-"], capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stderr
    found = {case["name"]: case for case in json.loads(done.stdout)["cases"]}
    parts = {"tokenizer", "dynamics", "dynamics_epoch", "imagination", "imagination_plain", "actor_critic"}
    assert found.keys() == parts | {"gemm"}
    assert all(set(case) == documented() for case in found.values())
    gflop = {name: found[name]["gflop"] for name in parts}
    assert gflop["tokenizer"] == pytest.approx(13.9, rel=0.1)  # three times the forward pass of 4.6
    assert gflop["dynamics"] + 5 < gflop["dynamics_epoch"], "the frames' share was not tokenised"
    assert gflop["imagination"] == pytest.approx(gflop["imagination_plain"], rel=0.01)
    assert gflop["actor_critic"] > gflop["imagination"]
    floors = {name: case["floor"]["at_least"] for name, case in found.items() if case["floor"]}
    assert floors == {"tokenizer": 1.0, "dynamics_epoch": 3.0, "imagination": 1.3, "actor_critic": 1.6}


def test_the_iris_benchmark_wants_the_authors_code():
    command = [sys.executable, str(BENCHMARKS / "iris.py"), "--peer", f"original={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--original FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tokenised_share_is_what_is_drawn_first(measure):
    """By drawing: of many draws with replacement from as many rows, the share that had not come before."""
    bench = importlib.import_module("iris")
    generator = torch.Generator().manual_seed(0)
    for rows in (5_000, 60_000, 100_000):
        drawn = torch.randint(rows, (200 * 64 * 20,), generator=generator)
        assert bench.tokenised_share(rows) == pytest.approx(len(drawn.unique()) / len(drawn), rel=0.02)
