"""What IRIS can be told, and what it will then spend. Imports nothing heavy.

Micheli, Alonso & Fleuret 2023, arXiv:2209.00588v3, with the authors' code. Defaults are the paper's Atari 100k.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from dreamlab.core.config import at_least, positive
from dreamlab.core.errors import UserError
from dreamlab.core.protocols import Phase

if TYPE_CHECKING:
    from dreamlab.core.types import Recorded
    from dreamlab.run.config import RunConfig

SEES = "image"
EXTENDS = ("epochs", "run.steps")
DRY_RUN = {
    "epochs": 3,
    "collect_epochs": 3,
    "epoch_steps": 60,
    "tokenizer": {"after": 0, "updates": 3},
    "dynamics": {"after": 1, "updates": 3},
    "actor_critic": {"after": 2, "updates": 2},
}
"""what ``--dry-run`` shrinks: budgets, and no size of a network or a batch"""


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer: a frame becomes K of V tokens, and tokens a frame."""

    channels: int = 64
    """of every stage"""
    groups: int = 32
    """of each group normalisation; must divide channels"""
    downs: int = 4
    """times that the frame is halved: 64 pixels become 4, so K = 4 x 4"""
    residuals: int = 2
    """residual blocks of each stage of the encoder; the decoder has one more"""
    attention: tuple[int, ...] = (8, 16)
    """stages of so many pixels have attention after each residual block"""
    vocabulary: int = 512
    """tokens there are (V)"""
    embed: int = 512
    """numbers of a code (E)"""
    perceptual: Literal["auto", "lpips", "none"] = "auto"
    """the reconstruction's loss: lpips, the paper's (L1 and LPIPS, whose weights must be there); none, the recipe
    without (Delta-IRIS: squared error, L1 and each frame's worst pixel); auto: lpips where its weights are"""
    codebook_scale: float | None = None
    """weight of the loss that moves codes to the encoder's output; without it the recipe's own: 1"""
    commitment_scale: float | None = None
    """weight of the loss that holds the encoder to its codes; without it the recipe's own: lpips 1, none 0.02"""
    worst: float = 0.01
    """for the recipe without LPIPS: weight of each frame's worst pixel; more where what counts is small"""
    gain: float = 1.0
    """of the convolutions' starting weights outside residual blocks; 1 is PyTorch's and the paper's, with which a ball
    of two pixels reaches the codes a hundred times fainter than the background; 1.73 keeps its size (ours)"""
    continuous: int = 0
    """updates before the first that quantises: until then an autoencoder without codes, which finds small things
    sooner; its codes then begin where its frames are (ours, for shorter runs)"""
    revive: int = 0
    """updates between which codes that no token named are moved to what the codebook tells worst; 0: never, as in the
    paper, whose codebook has a hundred thousand updates to unfold (ours, for shorter runs)"""
    after: int = 5
    """epochs before the first that trains it"""
    updates: int = 200
    """of an epoch"""
    batch: int = 256
    """frames of an update"""
    lr: float = 1e-4
    """Adam's learning rate"""
    clip: float = 10.0
    """the norm that all its gradients are clipped to"""

    def __post_init__(self) -> None:
        for name in ("channels", "groups", "downs", "residuals", "embed", "batch"):
            at_least(name, getattr(self, name), 1)
        if not 2 <= self.vocabulary <= 32_767:
            raise ValueError(
                f"vocabulary must be between 2 and 32767 (rows hold tokens in 16 bits), got {self.vocabulary}"
            )
        for name in ("after", "updates", "revive", "continuous", "worst"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "clip", "gain"):
            positive(name, getattr(self, name))
        for name in ("codebook_scale", "commitment_scale"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.channels % self.groups:
            raise ValueError(f"groups must divide channels, got {self.groups} and {self.channels}")


@dataclass(frozen=True)
class DynamicsConfig:
    """The world model: a transformer over blocks of a frame's K tokens and an action."""

    blocks: int = 20
    """of a sequence: steps that it learns from, and as many as its positions reach"""
    layers: int = 10
    """of the transformer"""
    heads: int = 4
    """of each layer's attention"""
    width: int = 256
    """of the transformer (D)"""
    dropout: float = 0.1
    """of embeddings, attention and residuals"""
    after: int = 25
    """epochs before the first that trains it"""
    updates: int = 200
    """of an epoch"""
    batch: int = 64
    """sequences of an update"""
    lr: float = 1e-4
    """AdamW's learning rate"""
    decay: float = 0.01
    """AdamW's weight decay, of the weights of linear layers alone"""
    clip: float = 10.0
    """the norm that all its gradients are clipped to"""

    def __post_init__(self) -> None:
        for name in ("blocks", "layers", "heads", "width", "batch"):
            at_least(name, getattr(self, name), 1)
        for name in ("after", "updates", "decay"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "clip"):
            positive(name, getattr(self, name))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")


@dataclass(frozen=True)
class ActorCriticConfig:
    """Actor and critic: one network on reconstructed frames, trained in imagination alone."""

    kind: Literal["lstm", "transformer"] = "lstm"
    """what remembers: the paper's CNN and LSTM on frames, or (ours) causal attention over the last frames' tokens"""
    channels: tuple[int, ...] = (32, 32, 64, 64)
    """of the CNN's stages, each of which halves the frame"""
    hidden: int = 512
    """of the LSTM"""
    frames: int = 4
    """for the transformer: frames that it attends to"""
    layers: int = 2
    """for the transformer"""
    heads: int = 4
    """for the transformer"""
    width: int = 128
    """for the transformer"""
    burn_in: int = 20
    """real frames that fill the memory before the one that imagining starts from"""
    horizon: int = 20
    """imagined steps (H); the last value is what the returns are bootstrapped from"""
    gamma: float = 0.995
    """discount"""
    trace: float = 0.95
    """lambda of the returns"""
    entropy: float = 1e-3
    """weight of the policy's entropy"""
    after: int = 50
    """epochs before the first that trains it"""
    updates: int = 200
    """of an epoch"""
    batch: int = 64
    """starts of an update"""
    lr: float = 1e-4
    """Adam's learning rate"""
    clip: float = 10.0
    """the norm that all its gradients are clipped to"""

    def __post_init__(self) -> None:
        for name in ("hidden", "batch", "frames", "layers", "heads", "width"):
            at_least(name, getattr(self, name), 1)
        at_least("horizon", self.horizon, 2)
        for name in ("after", "updates", "burn_in", "entropy"):
            at_least(name, getattr(self, name), 0)
        for name in ("lr", "clip"):
            positive(name, getattr(self, name))
        for name in ("gamma", "trace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be positive, one or more, got {self.channels}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")


@dataclass(frozen=True)
class Config:
    """IRIS; defaults of the paper's Atari 100k."""

    epochs: int = 600
    """of collecting, and of training each part that has begun"""
    collect_epochs: int = 500
    """of them that collect"""
    epoch_steps: int = 200
    """environment steps of an epoch"""
    epsilon: float = 0.01
    """probability of a random action while it collects"""
    temperature: float = 1.0
    """of the policy while it collects"""
    eval_temperature: float = 0.5
    """of the policy when it is evaluated; its actions are drawn there too"""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """frames to tokens and back"""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """the world model, over tokens"""
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    """the behaviour, which learns in imagination"""

    def __post_init__(self) -> None:
        for name in ("epochs", "collect_epochs", "epoch_steps"):
            at_least(name, getattr(self, name), 1)
        if self.collect_epochs > self.epochs:
            raise ValueError(f"collect_epochs must be at most epochs, got {self.collect_epochs} and {self.epochs}")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {self.epsilon}")
        for name in ("temperature", "eval_temperature"):
            positive(name, getattr(self, name))
        if self.actor_critic.horizon > self.dynamics.blocks:
            # a longer dream forgets: the context is begun anew from a single frame in the middle of it
            raise ValueError(
                f"actor_critic.horizon must be at most dynamics.blocks, which is how far positions reach, got "
                f"{self.actor_critic.horizon} and {self.dynamics.blocks}"
            )


PARTS = ("tokenizer", "dynamics", "actor_critic")
"""in the order in which an epoch trains them"""


def budget(
    config: Config, run: RunConfig, loaded: Collection[str] = (), recorded: Recorded | None = None
) -> list[Phase]:
    """The paper's epochs: collect, then train each part that has begun; a phase for each time one begins.

    A phase bears the name of the part that has begun last, and a round of it is an epoch. After collecting has
    ended, or where recordings are given, epochs learn alone.

    Raises:
        UserError: a part would never be trained.
    """
    starts = {name: getattr(config, name).after for name in PARTS if getattr(config, name).updates}
    if not starts:
        raise UserError("no part has any updates; give --agent.tokenizer.updates a number")
    steps = config.collect_epochs * config.epoch_steps if run.steps is None else run.steps
    collecting = -(-steps // config.epoch_steps)
    epochs = collecting + config.epochs - config.collect_epochs
    late = [name for name, start in starts.items() if start >= epochs]
    if late:
        need = max(1, max(starts.values()) + 1 - (config.epochs - config.collect_epochs)) * config.epoch_steps
        raise UserError(
            f"{epochs} epochs end before the first that trains {' and '.join(late)}; type: --steps {need} or more, or "
            f"a smaller {', '.join(f'--agent.{name}.after'.replace('_', '-') for name in late)}"
        )
    edges = sorted({0, *(s for s in starts.values() if s < epochs), min(collecting, epochs), epochs})
    found: list[Phase] = []
    for begin, end in pairwise(edges):
        active = [name for name in starts if starts[name] <= begin]
        acts = recorded is None and begin < collecting
        if not active and not acts:
            continue
        name = max(reversed(active), key=lambda name: starts[name]) if active else "collect"
        taken = min(end * config.epoch_steps, steps) - begin * config.epoch_steps if acts else 0
        again = sum(phase.name == name for phase in found)
        found.append(Phase(name, None, (), taken, end - begin if active else 0, again + 1, "train"))
    return found


def trained(phase: Phase, config: Config) -> dict[str, int]:
    """The parts that a phase trains, and the updates of each in an epoch."""
    if phase.name not in PARTS:
        return {}
    begun = getattr(config, phase.name).after
    parts = {name: getattr(config, name) for name in PARTS}
    return {name: part.updates for name, part in parts.items() if part.after <= begun and part.updates}
