"""What the rooms promise each other.

Structural types: nothing inherits from them. State is passed in and returned; modules keep parameters only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dreamlab.core.types import Batch, Episodes, Metrics, Obs, Outcome

State = Any
"""A NamedTuple of tensors with equal leading axes, or ``()``: whatever a policy or a model carries."""


class Stateful(Protocol):
    """Can be saved and restored. The dictionary holds tensors, arrays, numbers, strings, lists and dictionaries."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...


class Policy(Protocol):
    """Chooses actions for N rows at once.

    ``act`` is what the environment takes: int64 (N,) where discrete, float32 (N, A) where continuous.
    Rows whose ``is_first`` is set start from a fresh state, whatever ``state`` holds for them.
    ``columns`` (N, ...) are written into the row just seen, beside its action.
    """

    def initial(self, n: int) -> State: ...
    def __call__(self, obs: Obs, is_first: Tensor, state: State) -> tuple[Tensor, State, Mapping[str, Tensor]]: ...


class WorldModel(Protocol):
    """Observes experience, imagines on from a state, predicts what is seen there."""

    def observe(self, batch: Batch) -> State:
        """Latents (B, T) of a batch: small, may be stored in rows.

        A window that begins within an episode begins with an empty memory, unless ``extras`` hold what is remembered.
        """
        ...

    def begin(self, latent: State) -> State:
        """The carry that imagining needs, from latents (N,): RSSM or LSTM state, KV cache."""
        ...

    def step(self, carry: State, act: Tensor, temperature: float = 1.0) -> tuple[State, State]:
        """One imagined step: act (N, A), one-hot where discrete. Returns the next carry and latent (N,)."""
        ...

    def predict(self, latent: State) -> Mapping[str, Tensor]:
        """Any of ``image`` (N, C, h, w) float in [0, 1], ``vector`` (N, n), ``rew`` (N,), ``con`` (N,) in [0, 1]."""
        ...


class Index(Protocol):
    """Where the rows are. Times are absolute and never reused; row id = ``t * streams + stream``."""

    streams: int
    start: int
    """oldest time still held"""
    stop: int
    """one past the newest time"""

    def episodes(self) -> Episodes: ...


class Experience(Protocol):
    """One table of rows, and the environments that write it."""

    @property
    def index(self) -> Index: ...

    def gather(
        self, rows: np.ndarray | Tensor, obs: Collection[str] | None = None, extras: Collection[str] | None = None
    ) -> Batch:
        """Rows (B, T) by id, -1 for padding, on the learning device. ``obs``, ``extras``: only these."""
        ...

    def annotate(self, rows: np.ndarray | Tensor, **columns: Tensor) -> None:
        """Write columns (B, T, ...) beside rows; a new name makes a new column. Ids of -1 are skipped."""
        ...

    def rollout(self, policy: Policy, seeds: Sequence[int]) -> Outcome:
        """Whole episodes, one a seed, outside the table; row i of every policy call belongs to seeds[i].

        At most ``slots`` seeds at once. Steps are counted. Raises Interrupted when the user asks to stop.
        """
        ...

    @property
    def slots(self) -> int:
        """How many episodes ``rollout`` runs side by side."""
        ...


Learn = Callable[["Experience"], "Metrics"]
"""One unit of learning: a gradient step, or one wave of a CMA-ES generation. It either completes or changes nothing."""


@dataclass(frozen=True)
class Phase:
    """Spend environment steps and rounds of learning evenly; either may be zero.

    One round runs each Learn so many times, in this order. ``budget(config)`` gives phases with their
    numbers alone; ``Agent.phases()`` binds the parts to them.
    """

    name: str
    act: Policy | None = None
    learn: tuple[tuple[Learn, int], ...] = ()
    env_steps: int = 0
    rounds: int = 0
    iteration: int = 1
    """a recipe that goes through the same phases again numbers them"""
    group: str = ""
    """its metrics go by this name, so that curves run on through several phases; without it by the phase's own"""

    @property
    def key(self) -> str:
        """Tells this phase from the others of its recipe: ``vision``, in the second iteration ``vision 2``."""
        return self.name if self.iteration == 1 else f"{self.name} {self.iteration}"


@runtime_checkable
class Agent(Protocol):
    """A behaviour and a recipe."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """Its networks by name (``nn.Module``), for counting parameters and for looking inside."""
        ...

    def phases(self) -> Sequence[Phase]:
        """``budget(config)`` with the live parts bound to it."""
        ...

    def policy(self, explore: bool) -> Policy:
        """``explore`` is how it acts while training, otherwise how it is evaluated."""
        ...

    def report(self, phase: str, experience: Experience) -> Metrics:
        """Costlier measures of what a phase trains: scalars, pictures uint8 (C, h, w), films uint8 (T, C, h, w).

        Called now and then, with the random generators forked: it changes nothing.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> Any: ...


@runtime_checkable
class WorldModelAgent(Agent, Protocol):
    """An agent whose world model can be dreamt in."""

    @property
    def model(self) -> WorldModel: ...
