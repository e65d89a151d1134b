"""How fast IRIS learns and imagines on this machine, beside what it can multiply and beside its authors' code.

python benchmarks/iris.py [--parts tokenizer dynamics actor-critic imagination] [--precision both]
                          [--tokenizer-batch 256] [--dynamics-batch 64] [--batch 64] [--horizon 20]
                          [--episode 100]
                          [--peer original=PYTHON --original FOLDER] [--compile] [--json FILE] [--profile]

Sizes are the paper's: frames of 3 x 64 x 64, 16 tokens, 20 steps, four actions. Batches are too unless they are given;
on a CPU the authors' code takes minutes for one of theirs. Random rows in memory; gathering them counts.

``tokenizer``: a whole update, without LPIPS on either side. ``dynamics``: a whole update on tokens that lie beside the
rows; ``dynamics_epoch``: the same with its share of tokenising, which is done once an epoch, on every frame that an
epoch reads. ``imagination``: dreams with every frame decoded, from tokens, without burn-in and without learning, as
training runs it and, ``imagination_plain``, token by token as the paper has it. ``actor_critic``: a whole update, whose
frames are tokenised already.

The peer's updates encode their frames in every batch. It computes in fp32, and our bf16 is held against that as well.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from dreamer import IMAGE, Counter, Rows, talk
from gymnasium import spaces
from measure import Case, Done, Floor, Samples, gemm_case, machine, precisions, profiles, results, table, take_turns
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from dreamlab.agents import iris
from dreamlab.agents.iris import tokenizer
from dreamlab.agents.iris.config import ActorCriticConfig, DynamicsConfig, TokenizerConfig
from dreamlab.core.errors import UserError
from dreamlab.core.types import Batch
from dreamlab.nn.compute import Captured, Compute, prepare
from dreamlab.run.config import RunConfig

PARTS = ("tokenizer", "dynamics", "imagination", "actor-critic")
ACTIONS = 4
FLOORS: dict[str, dict[tuple[str, str], float]] = {
    "cpu": {
        ("tokenizer", "fp32"): 1.0,
        ("tokenizer", "bf16"): 1.6,
        ("dynamics_epoch", "fp32"): 3.0,
        ("dynamics_epoch", "bf16"): 3.0,
        ("imagination", "fp32"): 1.3,
        ("imagination", "bf16"): 2.5,
        ("actor_critic", "fp32"): 1.6,
        ("actor_critic", "bf16"): 3.0,
    },
    "cuda": {("imagination", "fp32"): 8.0, ("imagination", "bf16"): 8.0},
}
"""how many times as fast as the authors' fp32 each is to be"""
AGAINST = {"dynamics_epoch": "dynamics", "imagination_plain": "imagination"}
"""the peer's case, where it is called otherwise"""


if tokenizer.IN_ONE_PASS:

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise_)
    def _added(other: Any, x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        """What ``tokenizer.added`` multiplies."""
        return int(conv_flop_count(x, weight, out_shape))


class Frames(Rows):
    """Random experience in memory: some 100 rows, the signs of rewards, and only what is asked for."""

    streams = 1

    def __init__(self, device: torch.device, episode: int) -> None:
        self.episode, self.stop = episode, math.ceil(100 / episode) * episode
        super().__init__(device)
        n = len(self.rew)
        self.act = np.eye(ACTIONS, dtype=np.float32)[np.random.default_rng(1).integers(ACTIONS, size=n)]
        self.rew = np.sign(self.rew)
        self.ids = np.arange(n)[:, None]  # (n, 1): all rows

    def gather(self, rows: Any, obs: Collection[str] | None = None, extras: Collection[str] | None = None) -> Batch:
        ids = np.asarray(rows)
        last = self._take(self.is_last, ids)
        return Batch(
            obs={"image": self._take(self.image, ids)} if obs is None or "image" in obs else {},
            act=self._take(self.act, ids),
            rew=self._take(self.rew, ids),
            is_first=self._take(self.is_first, ids),
            is_last=last,
            is_terminal=last,
            mask=torch.from_numpy(ids >= 0).to(self.device),
            rows=torch.from_numpy(ids),
            extras={
                name: self._take(column, ids)
                for name, column in self.columns.items()
                if extras is None or name in extras
            },
        )


# ---- ours


def build(chosen: argparse.Namespace, compute: Compute) -> Any:
    """The agent that is measured, at the paper's sizes."""
    config = iris.Config(
        tokenizer=TokenizerConfig(batch=chosen.tokenizer_batch, perceptual="none"),
        dynamics=DynamicsConfig(batch=chosen.dynamics_batch),
        actor_critic=ActorCriticConfig(batch=chosen.batch, horizon=chosen.horizon),
    )
    return iris.build(config, IMAGE, spaces.Discrete(ACTIONS), compute, 0, RunConfig())


def tokenised_share(rows: int) -> float:
    """Of the frames that the paper's dynamics read in an epoch (200 x 64 x 20), the share that had not come before.

    Args:
        rows: frames in the replay, of which any is as likely as any other.
    """
    paper = DynamicsConfig()
    read = paper.updates * paper.batch * paper.blocks
    return rows * -math.expm1(-read / rows) / read


def our_cases(chosen: argparse.Namespace, compute: Compute, precision: str) -> Iterator[Case]:
    """Each part's; the tokenizer learns in an agent of its own, since the others' tokens would be stale with it."""
    floors = FLOORS.get(compute.device.type, {})
    settling = (Captured.WARM if compute.device.type == "cuda" else 1) if compute.compile else 0

    def case(name: str, about: str, unit: str, rows: str, each: int, do: Callable[[], Any]) -> Case:
        def run() -> Done:
            do()
            return Done(1, each)

        with Counter() as counter, torch.compiler.set_stance("force_eager"):
            run()
        for _ in range(settling):  # a graph is captured by then, or code compiled
            run()
        least = floors.get((name, precision))
        floor = None if least is None else Floor(f"original_{AGAINST.get(name, name)}", "fp32", least)
        return Case(name, precision, about, unit, rows, run, counter.flops / 1e9, floor)

    tokenising, frames = build(chosen, compute), Frames(compute.device, chosen.episode)
    if "tokenizer" in chosen.parts:
        n, learn = chosen.tokenizer_batch, tokenising.learn_tokenizer
        yield case("tokenizer", f"tokenizer's update, {n} frames", "updates", "frames", n, partial(learn, frames))
    if set(chosen.parts) == {"tokenizer"}:
        return
    agent, rows = build(chosen, compute), Frames(compute.device, chosen.episode)
    agent.tokens(rows, rows.ids)
    if "dynamics" in chosen.parts:
        blocks = agent.config.dynamics.blocks
        steps = chosen.dynamics_batch * blocks
        fresh = round(tokenised_share(chosen.rows) * steps)

        def update() -> None:
            agent.learn_dynamics(rows)

        def share_of_epoch() -> None:
            update()
            tokenise(tokenising, frames, fresh)

        about = f"dynamics' update, {chosen.dynamics_batch} x {blocks}"
        yield case("dynamics", f"{about}, tokens there", "updates", "steps", steps, update)
        more = f"{about}, and {fresh} frames tokenised"
        yield case("dynamics_epoch", more, "updates", "steps", steps, share_of_epoch)
    steps, sizes = chosen.batch * chosen.horizon, f"{chosen.batch} x {chosen.horizon}"
    if "imagination" in chosen.parts:
        as_trained, plainly = dreams(agent, rows, chosen.batch, compute)
        yield case("imagination_plain", f"imagination, {sizes}, plain", "rollouts", "steps", steps, plainly)
        yield case("imagination", f"imagination, {sizes}, fast", "rollouts", "steps", steps, as_trained)
    if "actor-critic" in chosen.parts:
        learn = partial(agent.learn_actor_critic, rows)
        yield case("actor_critic", f"actor-critic's update, {sizes}", "updates", "steps", steps, learn)


def tokenise(agent: Any, rows: Frames, n: int) -> None:
    """Tokenise n frames anew, by pieces of at most what is held, as if the tokenizer had just learned."""
    while n > 0:
        agent.versions["tokenizer"] += 1
        agent.tokens(rows, rows.ids[:n])
        n -= len(rows.ids)


def dreams(agent: Any, rows: Frames, n: int, compute: Compute) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A rollout of n dreams as training does it, and the same by the dynamics' plain step."""
    starts = agent.tokens(rows, rows.ids[np.arange(n) % len(rows.ids)])[:, 0]  # (n, K)
    memory = agent.actor_critic.initial(n, compute.device)
    dynamics, whole = agent.model.dynamics, compute.whole(agent.imagine)

    def as_trained() -> None:
        with torch.no_grad(), compute.autocast():
            whole(starts, memory)

    def plain_step(context: Any, act: Any, frame: bool = True, **_: Any) -> Any:
        return dynamics.plain_step(context, act, frame=frame)

    def plainly() -> None:
        with torch.no_grad(), compute.autocast(), mock.patch.object(dynamics, "step", plain_step):
            agent.imagine(starts, memory)

    return as_trained, plainly


# ---- the authors'


@contextmanager
def original(python: str, chosen: argparse.Namespace, device: str) -> Iterator[list[Case]]:
    """The same parts by their code, in a process of its own that waits for its turns."""
    arguments = [
        *("--original", chosen.original, "--device", device, "--threads", str(chosen.threads)),
        *("--tokenizer-batch", str(chosen.tokenizer_batch), "--dynamics-batch", str(chosen.dynamics_batch)),
        *("--batch", str(chosen.batch), "--horizon", str(chosen.horizon), "--episode", str(chosen.episode)),
    ]
    held = {
        "tokenizer": (chosen.tokenizer_batch, "updates", "frames"),
        "dynamics": (chosen.dynamics_batch * 20, "updates", "steps"),
        "imagination": (chosen.batch * chosen.horizon, "rollouts", "steps"),
        "actor_critic": (chosen.batch * chosen.horizon, "updates", "steps"),
    }
    with talk("original", python, "peer_iris.py", arguments) as (said, ask):

        def run(name: str) -> Done:
            ask(name, 1)
            return Done(1, held[name][0])

        def case(name: str) -> Case:
            weights = said["parameters"].get(name)
            text = f"{name}, original {said['version']}" + (f", {weights:,} parameters" if weights else "")
            return Case(f"original_{name}", "fp32", text, *held[name][1:], partial(run, name))

        yield [case(part.replace("-", "_")) for part in chosen.parts]


def ratios(samples: Samples) -> Iterator[str]:
    """How many times as fast as the authors' code each case is, by medians over the rounds."""
    for (name, precision), own in samples.items():
        other = samples.get((f"original_{AGAINST.get(name, name)}", "fp32"))
        if other:
            speed = statistics.median(o.seconds / s.seconds for o, s in zip(other, own, strict=True))
            yield f"{name} {precision}: {speed:.2f} times as fast as the original in fp32"


# ---- the program


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what to measure")
    parser.add_argument("--tokenizer-batch", type=int, default=256, metavar="N", help="frames of its update")
    parser.add_argument("--dynamics-batch", type=int, default=64, metavar="N", help="windows of its update")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="dreams, of actor-critic and imagination")
    parser.add_argument("--horizon", type=int, default=20, metavar="N", help="imagined steps, at most 20")
    parser.add_argument(
        "--rows",
        type=int,
        default=60_000,
        metavar="N",
        help="frames in the replay, for the share of tokenising; 60,000 is the mean over the paper's epochs",
    )
    parser.add_argument(
        "--episode",
        type=int,
        default=100,
        metavar="N",
        help="rows of an episode, at whose end the dynamics' windows end too; a random policy's have some 40 in "
        "Breakout, where a lost life ends one, and 900 in Pong",
    )
    parser.add_argument("--precision", default="both", choices=["fp32", "bf16", "both"])
    parser.add_argument("--compile", action="store_true", help="as `dreamlab train --compile`")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 takes all cores")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds")
    parser.add_argument("--seconds", type=float, default=0.5, help="a case is repeated within its turn for so long")
    parser.add_argument("--peer", metavar="original=PYTHON", help="measure the authors' code too, by this Python")
    parser.add_argument("--original", metavar="FOLDER", help="a checkout of the authors' code, for --peer")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there; - writes them alone to the output")
    parser.add_argument("--profile", action="store_true", help="then print each case's costliest operations")
    return parser.parse_args(argv)


def peer_python(chosen: argparse.Namespace) -> str | None:
    """The Python that runs the authors' code.

    Raises:
        UserError: another peer, or no checkout.
    """
    if chosen.peer is None and chosen.original is None:
        return None
    name, _, python = (chosen.peer or "").partition("=")
    if name != "original" or not python or not chosen.original:
        raise UserError(
            "the peer wants both: --peer original=PYTHON --original FOLDER; peer_iris.py says how to make it"
        )
    return python


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the numbers. A floor that is missed is said, and is no failure."""
    chosen = options(argv)
    alone = chosen.json == "-"
    say = partial(print, file=sys.stderr if alone else sys.stdout, flush=True)
    wanted = precisions(chosen.precision, chosen.device, say)
    try:
        python = peer_python(chosen)
        computes = {p: prepare(chosen.device, p, chosen.compile, chosen.threads) for p in wanted}
        compute = computes[wanted[0]]
        with ExitStack() as stack:
            todo: list[Case] = []
            for precision in wanted:
                todo.append(gemm_case("gemm", [(2048,) * 3], computes[precision], precision))
                todo += our_cases(chosen, computes[precision], precision)
            if python:
                todo += stack.enter_context(original(python, chosen, compute.device.type))
            samples = take_turns(todo, chosen.repeats, chosen.seconds, compute.device, say)
    except (UserError, ValueError) as error:
        print(f"iris.py: {error}", file=sys.stderr)
        return 2
    found = {"machine": machine(compute), "cases": results(todo, samples)}
    say(" · ".join(f"{name} {value}" for name, value in found["machine"].items()))
    for line in (*table(found["cases"]), *ratios(samples)):
        say(line)
    if chosen.profile:
        for line in profiles([case for case in todo if case.name != "gemm"], compute.device, 20):
            say(line)
    if chosen.json:
        text = json.dumps(found, indent=2)
        print(text) if alone else Path(chosen.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
