"""A policy as one ``torch.export`` program that runs without dreamlab.

::

    obs, is_first, uniforms, state ──▶ program ──▶ act, state        one environment at a time
              uniforms (K,) in (0, 1): whatever the policy draws is made of them
                  drawn anew for each step   it acts as it is evaluated, z and actions drawn as its paper has them
                  all 0.5                    no chance: the likeliest class, and the mean of what is normal

Any policy can be taken (``core.protocols.Policy``): what it asks torch to draw is answered from the uniforms while
it is traced, and its weights become constants of the program.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from dreamlab.core.errors import UserError
from dreamlab.core.protocols import Policy
from dreamlab.run.checkpoint import write_json

PROGRAM, ABOUT, EPISODE, SCRIPT = "policy.pt2", "policy.json", "episode.safetensors", "act.py"
INSIDE = 1e-6
"""how far inside 0 and 1 uniforms are taken: a normal number has no end"""


class Step(NamedTuple):
    """What a policy was given and what it did (one environment)."""

    obs: Mapping[str, Tensor]
    is_first: Tensor
    uniforms: Tensor
    act: Tensor
    state: Sequence[Tensor]


class Parity(NamedTuple):
    """How far the program is from the policy over an episode."""

    steps: int
    same: int
    """steps with the same action, to the bit"""
    act: float
    """largest difference of an action"""
    state: float
    """largest difference of a number in the state"""


class Draws(TorchFunctionMode):
    """Answers what is drawn at random from given uniforms (K,), or counts how many there would be.

    Raises:
        UserError: something is drawn in a way that has no closed form in uniforms.
    """

    REFUSED = ("multinomial", "bernoulli", "bernoulli_", "cauchy_", "exponential_", "random_", "uniform_", "randperm")

    def __init__(self, uniforms: Tensor | None = None) -> None:
        super().__init__()
        self.uniforms, self.used = uniforms, 0

    def take(self, shape: Sequence[int]) -> Tensor:
        """The next uniforms in a shape."""
        count = math.prod(int(n) for n in shape)
        begin, self.used = self.used, self.used + count
        if self.uniforms is None:
            return torch.full(tuple(shape), 0.5)
        return self.uniforms[begin : begin + count].clamp(INSIDE, 1 - INSIDE).reshape(tuple(shape))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if func in (torch.rand, torch.randn):
            given = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
            return _form(func is torch.randn)(self.take(given))
        if func in (torch.rand_like, torch.randn_like):
            return _form(func is torch.randn_like)(self.take(args[0].shape))
        if func is torch.Tensor.normal_:
            given = {"mean": 0.0, "std": 1.0, **dict(zip(("mean", "std"), args[1:], strict=False)), **kwargs}
            return args[0].copy_(given["mean"] + given["std"] * normal(self.take(args[0].shape)))
        if func is torch.randint:
            *bounds, shape = args
            low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
            return (low + (high - low) * self.take(shape)).floor().long()
        if name in self.REFUSED:
            raise UserError(f"this policy draws by torch's {name}, which cannot be exported")
        return func(*args, **kwargs)


def _form(is_normal: bool) -> Callable[[Tensor], Tensor]:
    return normal if is_normal else torch.clone


def normal(uniforms: Tensor) -> Tensor:
    """Standard normal numbers of uniform ones: 0 of 0.5."""
    return (2 * uniforms - 1).erfinv() * math.sqrt(2)


class Pure(nn.Module):
    """A policy as a function of tensors alone; parts of its state that hold nothing are left out."""

    def __init__(self, policy: Policy, observations: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        super().__init__()
        self.policy, self.observations = policy, dict(observations)
        leaves, self.form = pytree.tree_flatten(policy.initial(1))
        self.empty = {i: leaf for i, leaf in enumerate(leaves) if not leaf.numel()}
        self.start = tuple(leaf.clone() for i, leaf in enumerate(leaves) if i not in self.empty)
        counting = Draws()
        with torch.no_grad(), counting:
            self.call(self.blank(), torch.ones(1, dtype=torch.bool), self.start)
        self.uniforms = counting.used

    def blank(self) -> dict[str, Tensor]:
        """An observation of zeros."""
        return {key: torch.zeros(1, *shape, dtype=dtype) for key, (shape, dtype) in self.observations.items()}

    def call(self, obs: Mapping[str, Tensor], is_first: Tensor, state: Sequence[Tensor]) -> tuple[Any, tuple]:
        """act, and the state after it."""
        held = iter(state)
        whole = [self.empty[i] if i in self.empty else next(held) for i in range(len(self.empty) + len(state))]
        act, after, _ = self.policy(obs, is_first, pytree.tree_unflatten(whole, self.form))
        leaves = pytree.tree_leaves(after)
        return act, tuple(leaf for i, leaf in enumerate(leaves) if i not in self.empty)

    def forward(self, obs: dict[str, Tensor], is_first: Tensor, uniforms: Tensor, state: tuple[Tensor, ...]) -> Any:
        with Draws(uniforms), full_precision():
            return self.call(obs, is_first, state)


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast: regions of it, even where it is off, are saved in a form that torch cannot read back."""
    autocast = torch.autocast
    torch.autocast = lambda *_, **__: nullcontext()  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torch.autocast = autocast  # type: ignore[misc]


class Watched:
    """A policy that keeps what it is given, as pairs (obs, is_first) of one environment."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.initial = policy, policy.initial
        self.given: list[tuple[Mapping[str, Tensor], bool]] = []

    def __call__(self, obs: Mapping[str, Tensor], is_first: Tensor, state: Any) -> tuple[Tensor, Any, Mapping]:
        self.given.append(({key: value.clone() for key, value in obs.items()}, bool(is_first[0])))
        return self.policy(obs, is_first, state)


def program(pure: Pure) -> torch.export.ExportedProgram:
    """The policy as an exported program, as it comes back when it is saved and loaded.

    Raises:
        UserError: torch cannot trace it; says where.
    """
    example = (pure.blank(), torch.ones(1, dtype=torch.bool), torch.full((pure.uniforms,), 0.5), pure.start)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file = io.BytesIO()
            torch.export.save(torch.export.export(pure, example, strict=False), file)
            file.seek(0)
            return torch.export.load(file)
        except UserError:
            raise
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"this policy cannot be exported: {type(error).__name__}: {first[:300]}") from error


def parity(
    run: Any, pure: Pure, given: Sequence[tuple[Mapping[str, Tensor], bool]], seed: int
) -> tuple[Parity, list[Step]]:
    """Policy and program side by side, each with its own state and the same uniforms.

    Args:
        run: the program's module.
        given: what is seen at each step (1, ...), and whether an episode begins there.
    """
    rng = torch.Generator().manual_seed(seed)
    one, two = pure.start, pure.start
    steps, same, act_off, state_off = [], 0, 0.0, 0.0
    with torch.no_grad():
        for obs, first in given:
            is_first, uniforms = torch.tensor([first]), torch.rand(pure.uniforms, generator=rng)
            act, one = pure(dict(obs), is_first, uniforms, one)
            again, two = run(dict(obs), is_first, uniforms, two)
            same += torch.equal(act, again)
            act_off = max(act_off, off(act, again))
            state_off = max([state_off, *(off(a, b) for a, b in zip(one, two, strict=True))])
            steps.append(Step(obs, is_first, uniforms, act, one))
    return Parity(len(steps), same, act_off, state_off), steps


def off(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return float((a.double() - b.double()).abs().max())


def write(
    folder: Path, made: torch.export.ExportedProgram, pure: Pure, steps: Sequence[Step], about: Mapping[str, Any]
) -> None:
    """The program, what it takes, an episode to try it on, and a script that does so without dreamlab."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(made, folder / PROGRAM)
    inputs = {
        "obs": {key: {"shape": [1, *shape], "dtype": str(dtype)} for key, (shape, dtype) in pure.observations.items()},
        "is_first": {"shape": [1], "dtype": "torch.bool"},
        "uniforms": {"shape": [pure.uniforms], "dtype": "torch.float32"},
        "state": [{"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for leaf in pure.start],
    }
    write_json(folder / ABOUT, {**about, "inputs": inputs})
    episode = {f"obs.{key}": torch.cat([s.obs[key] for s in steps]) for key in pure.observations}
    episode |= {name: torch.stack([getattr(s, name) for s in steps]) for name in ("is_first", "uniforms", "act")}
    episode |= {f"start.{i:02d}": leaf for i, leaf in enumerate(pure.start)}
    save_file({name: value.contiguous() for name, value in episode.items()}, folder / EPISODE)
    (folder / SCRIPT).write_text(TEXT, encoding="utf-8")


TEXT = '''"""Plays the recorded episode with the exported policy: needs torch and safetensors, not dreamlab."""

from pathlib import Path

import torch
from safetensors.torch import load_file

here = Path(__file__).parent
policy = torch.export.load(here / "policy.pt2").module()
episode = load_file(here / "episode.safetensors")
obs = {name[4:]: value for name, value in episode.items() if name.startswith("obs.")}
state = tuple(value for name, value in sorted(episode.items()) if name.startswith("start."))
same = 0
with torch.no_grad():
    for t, act in enumerate(episode["act"]):
        seen = {name: value[t : t + 1] for name, value in obs.items()}
        uniforms = episode["uniforms"][t]  # torch.rand(k): as evaluated; torch.full((k,), 0.5): without chance
        chosen, state = policy(seen, episode["is_first"][t], uniforms, state)
        same += torch.equal(chosen, act)
print(f"{same} of {len(episode['act'])} actions are the same")
'''
