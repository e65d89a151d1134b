"""How fast the Dreamers learn and act on this machine, beside what it can multiply and beside other implementations.

python benchmarks/dreamer.py [--agent dreamer-v3] [--size 12m] [--batch 8] [--length 32] [--precision both]
                             [--compile] [--peer torchrl=PYTHON] [--peer sheeprl=PYTHON]
                             [--peer r2dreamer=PYTHON --r2dreamer FOLDER] [--json FILE] [--profile]

``update``: one whole update on a batch gathered from random uint8 frames of 3 x 64 x 64 in memory: world model,
imagination from every state, actor, critic, replay value, slow critic, optimiser. ``policy``: one observation of one
environment to one action. Cases take turns, A B C A B C; shares and ratios are medians over the rounds. A peer runs in
an environment of its own (the scripts peer_*.py say how to make it) and waits for its turn in a process of its own.
DreamerV3 has all three peers, DreamerV1 and V2 have sheeprl. Our update's floor is set against the first peer named
that has one; V1's and V2's have none.

Arithmetic is what our update really multiplies, as torch's own counter sees it: the decoder's and the first
convolution's shortcuts make it less than the network's textbook count.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from measure import Case, Done, Floor, gemm_case, machine, precisions, profiles, results, table, take_turns
from peer_r2dreamer import lacking
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dreamlab.core.errors import UserError
from dreamlab.core.types import Batch
from dreamlab.nn.compute import Compute, prepare
from dreamlab.run.config import RunConfig
from dreamlab.run.driver import few_threads

IMAGE = spaces.Dict({"image": spaces.Box(0, 255, (3, 64, 64), np.uint8)})
ACTIONS = spaces.Discrete(6)
PEERS = {
    "dreamer-v1": ("sheeprl",),
    "dreamer-v2": ("sheeprl",),
    "dreamer-v3": ("torchrl", "sheeprl", "r2dreamer"),
}
"""who else has an agent"""
FLOORS = {("12m", "torchrl"): 1 / 0.75, ("1m", "torchrl"): 1 / 0.6, ("12m", "r2dreamer"): 1 / 0.6}
"""how many times as fast as a peer's update ours is to be"""
ACTING = {"12m": 250, "1m": 700}
"""steps a second with one environment on a CPU"""
ACTS = 100
"""policy steps of one call"""
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
"""what makes a peer keep freed memory, as we do"""


class Rows:
    """Random experience in memory (``core.protocols.Experience``): 16 streams, episodes of 100 rows."""

    slots, streams, start, stop, episode = 0, 16, 0, 600, 100

    def __init__(self, device: torch.device) -> None:
        rng, n = np.random.default_rng(0), self.streams * self.stop
        self.device = device
        self.image = rng.integers(0, 256, (n, 3, 64, 64), np.uint8)
        self.act = np.eye(int(ACTIONS.n), dtype=np.float32)[rng.integers(int(ACTIONS.n), size=n)]
        self.rew = rng.standard_normal(n, np.float32)
        time_of = np.arange(n) // self.streams
        self.is_first, self.is_last = time_of % self.episode == 0, time_of % self.episode == self.episode - 1
        self.columns: dict[str, np.ndarray] = {}

    @property
    def index(self) -> Rows:
        return self

    def episodes(self) -> Any:
        from dreamlab.core.types import Episodes

        starts, streams = (
            x.ravel() for x in np.meshgrid(np.arange(0, self.stop, self.episode), np.arange(self.streams))
        )
        return Episodes(streams, starts, starts + self.episode, starts >= 0)

    def gather(self, rows: Any, obs: Collection[str] | None = None, extras: Collection[str] | None = None) -> Batch:
        ids = np.asarray(rows)
        return Batch(
            obs={"image": self._take(self.image, ids)},
            act=self._take(self.act, ids),
            rew=self._take(self.rew, ids),
            is_first=self._take(self.is_first, ids),
            is_last=self._take(self.is_last, ids),
            is_terminal=self._take(self.is_last, ids),
            mask=torch.from_numpy(ids >= 0).to(self.device),
            rows=torch.from_numpy(ids),
            extras={name: self._take(column, ids) for name, column in self.columns.items() if extras is None},
        )

    def _take(self, column: np.ndarray, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(column[np.maximum(ids, 0)]).to(self.device)

    def annotate(self, rows: Any, **columns: torch.Tensor) -> None:
        ids = np.asarray(rows)
        for name, value in columns.items():
            found = value.cpu().numpy()
            column = self.columns.setdefault(name, np.zeros((len(self.rew), *found.shape[2:]), found.dtype))
            column[ids] = found


class Counter(TorchDispatchMode):
    """Adds up what products and convolutions multiply, by torch's own formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


# ---- ours


def build(chosen: argparse.Namespace, compute: Compute) -> Any:
    """The agent that is measured; a size is DreamerV3's."""
    module = importlib.import_module(f"dreamlab.agents.{chosen.agent.replace('-', '_')}")
    sized = {"size": chosen.size} if chosen.agent == "dreamer-v3" else {}
    config = module.Config(batch=chosen.batch, length=chosen.length, **sized)
    return module.build(config, IMAGE, ACTIONS, compute, 0, RunConfig(envs=16))


def our_cases(chosen: argparse.Namespace, compute: Compute, precision: str, peers: Collection[str]) -> Iterator[Case]:
    agent, rows = build(chosen, compute), Rows(compute.device)
    learn, each = agent.learn, chosen.batch * chosen.length
    learn(rows)
    with Counter() as counter:
        learn(rows)
    weights = sum(p.numel() for part in agent.parts.values() for p in part.parameters() if p.requires_grad)
    about = f"{chosen.agent}, {weights:,} parameters, {chosen.batch} x {chosen.length}"

    def update() -> Done:
        learn(rows)
        return Done(1, each)

    floor = None
    held = next((name for name in peers if (chosen.size, name) in FLOORS), None)
    if held:
        floor = Floor(f"{held}_update", precision, FLOORS[chosen.size, held])
    gflop = counter.flops / 1e9
    yield Case("update", precision, f"update, {about}", "updates", "rows", update, gflop, floor)
    policy = agent.policy(explore=True)
    carried = [policy.initial(1)]
    obs = {"image": torch.from_numpy(rows.image[:1]).to(compute.device)}
    going = torch.zeros(1, dtype=torch.bool, device=compute.device)

    def act() -> Done:
        with torch.no_grad(), few_threads(1):  # as the driver does
            for _ in range(ACTS):
                chose, carried[0], _ = policy(obs, going, carried[0])
                chose.cpu()
        return Done(ACTS, ACTS)

    yield Case("policy", precision, "one environment acts", "steps", "steps", act)


# ---- peers

Ask = Callable[[str, int], None]
"""does so many units of a case"""


@contextmanager
def talk(name: str, python: str, script: str, arguments: Sequence[str]) -> Iterator[tuple[dict[str, Any], Ask]]:
    """A peer in a process of its own: what it said it had built, and how it is asked for a case and how many of it."""
    path = Path(__file__).with_name(script)
    if not path.exists() or not Path(python).exists():
        raise UserError(f"--peer {name}={python}: no {script} or no such Python; each peer_*.py says how to make it")
    process = subprocess.Popen(
        [python, str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **TUNED},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    about = process.stdout.readline()
    if not about:
        raise UserError(f"--peer {name}: {script} ended before it said what it had built")

    def ask(what: str, count: int) -> None:
        process.stdin.write(f"{what} {count}\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        if not process.stdout.readline():  # type: ignore[union-attr]
            raise UserError(f"--peer {name}: it ended in the middle of: {what}")

    try:
        yield json.loads(about), ask
    finally:
        process.stdin.close()
        process.wait(30)


@contextmanager
def peer(name: str, python: str, chosen: argparse.Namespace, precision: str) -> Iterator[list[Case]]:
    """A peer's update and policy step, in a process of its own that waits for its turns."""
    arguments = [
        *("--batch", str(chosen.batch), "--length", str(chosen.length)),
        *(("--size", chosen.size) if chosen.agent == "dreamer-v3" else ()),
        *("--precision", precision, "--threads", str(chosen.threads)),
        *(("--agent", chosen.agent) if name == "sheeprl" else ()),
        *(("--r2dreamer", chosen.r2dreamer) if name == "r2dreamer" else ()),
    ]
    with talk(name, python, f"peer_{name}.py", arguments) as (said, ask):

        def update() -> Done:
            ask("update", 1)
            return Done(1, chosen.batch * chosen.length)

        def act() -> Done:
            ask("policy", ACTS)
            return Done(ACTS, ACTS)

        for _ in range(2):  # a fresh process takes a few until its memory has settled
            update()
        text = f"{name} {said.get('version', '')}, {said.get('parameters', 0):,} parameters"
        yield [
            Case(f"{name}_update", precision, f"update, {text}", "updates", "rows", update),
            Case(f"{name}_policy", precision, f"one environment acts, {name}", "steps", "steps", act),
        ]


# ---- the program


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="dreamer-v3", choices=["dreamer-v1", "dreamer-v2", "dreamer-v3"])
    parser.add_argument("--size", default="12m", help="of DreamerV3: 1m to 400m")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="windows of an update")
    parser.add_argument("--length", type=int, default=32, metavar="N", help="steps of a window")
    parser.add_argument("--precision", default="both", choices=["fp32", "bf16", "both"])
    parser.add_argument("--compile", action="store_true", help="as `dreamlab train --compile`")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 takes all cores")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds")
    parser.add_argument("--seconds", type=float, default=0.5, help="a case is repeated within its turn for so long")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="torchrl, sheeprl or r2dreamer, and its Python; with DreamerV1 and V2 sheeprl only",
    )
    parser.add_argument("--r2dreamer", metavar="FOLDER", help="a checkout of NM512/r2dreamer, for that peer")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there; - writes them alone to the output")
    parser.add_argument("--profile", action="store_true", help="then print each case's costliest operations")
    return parser.parse_args(argv)


def refuse(chosen: argparse.Namespace, peers: Collection[str]) -> None:
    """Raise a UserError where a peer cannot be compared with what is measured, or cannot be built."""
    here = PEERS[chosen.agent]
    for name in peers:
        if name not in here:
            raise UserError(
                f"--peer {name}: {chosen.agent} has no such peer; type --peer {'=PYTHON or --peer '.join(here)}=PYTHON"
            )
    if "r2dreamer" in peers:
        if not chosen.r2dreamer:
            raise UserError(
                "the peer wants both: --peer r2dreamer=PYTHON --r2dreamer FOLDER; peer_r2dreamer.py says how to make it"
            )
        if lack := lacking(chosen.r2dreamer):
            raise UserError(f"--r2dreamer {chosen.r2dreamer}: no {lack}; give a checkout of NM512/r2dreamer")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the numbers. A floor that is missed is said, and is no failure."""
    chosen = options(argv)
    peers = dict(pair.split("=", 1) for pair in chosen.peer if "=" in pair)
    alone = chosen.json == "-"
    say = partial(print, file=sys.stderr if alone else sys.stdout, flush=True)
    wanted = precisions(chosen.precision, chosen.device, say)
    try:
        if len(peers) != len(chosen.peer):
            raise UserError(f"--peer takes NAME=PYTHON, got {' '.join(chosen.peer)}")
        refuse(chosen, peers)
        computes = {p: prepare(chosen.device, p, chosen.compile, chosen.threads) for p in wanted}
        compute = computes[wanted[0]]
        with ExitStack() as stack:
            todo: list[Case] = []
            for precision in wanted:
                todo.append(gemm_case("gemm", [(2048,) * 3], computes[precision], precision))
                todo += our_cases(chosen, computes[precision], precision, peers)
                for name, python in peers.items():
                    todo += stack.enter_context(peer(name, python, chosen, precision))
            samples = take_turns(todo, chosen.repeats, chosen.seconds, compute.device, say)
    except UserError as error:
        print(f"dreamer.py: {error}", file=sys.stderr)
        return 2
    found = {"machine": machine(compute), "cases": results(todo, samples)}
    say(" · ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for line in table(found["cases"]):
        say(line)
    for line in ratios(found["cases"], peers, chosen.size if chosen.agent == "dreamer-v3" else ""):
        say(line)
    if chosen.profile:
        for line in profiles([case for case in todo if case.name == "update"], compute.device, 20):
            say(line)
    if chosen.json:
        text = json.dumps(found, indent=2)
        print(text) if alone else Path(chosen.json).write_text(text + "\n")
    return 0


def ratios(records: Sequence[dict[str, Any]], peers: Collection[str], size: str) -> Iterator[str]:
    """Our time as a multiple of each peer's, and what is asked of acting at a size of DreamerV3."""
    times = {(r["name"], r["precision"]): r["ms"]["median"] for r in records}
    for (name, precision), ms in times.items():
        if name == "policy" and size in ACTING:
            yield f"acting {precision}: {1e3 / ms:,.0f} steps a second; asked of {size} on a CPU: {ACTING[size]}"
        for other in peers:
            if name in ("update", "policy") and (f"{other}_{name}", precision) in times:
                yield f"{name} {precision}: {ms / times[f'{other}_{name}', precision]:.2f} times {other}'s time"


if __name__ == "__main__":
    sys.exit(main())
