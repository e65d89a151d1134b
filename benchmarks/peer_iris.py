"""The three updates and the imagination of IRIS by its authors' code, to compare with ours.

    git clone https://github.com/eloialonso/iris peers/iris-source
    python -m venv peers/iris
    peers/iris/bin/pip install torch==2.13.0 numpy einops tqdm
    printf 'tokenizer 1\\ntokenizer 1\\n' | peers/iris/bin/python benchmarks/peer_iris.py --original peers/iris-source

It runs in that environment, alone: nothing of dreamlab is imported. One line of JSON says what was built. Then each
line of input asks for a case and how many units of it, and is answered by one line with the seconds that they took.
The first of each case warms up. Of the checkout only networks, losses, imagination, optimizer and sampling are used;
what else their files import (wandb, gym, torchvision and so on) is replaced by empty modules where it is not there.

A unit of ``tokenizer``, ``dynamics`` and ``actor_critic`` is what one turn of the authors' ``train_component`` does: a
batch sampled from episodes of random uint8 frames, ``compute_loss``, backward, clip, step. So the frames of the latter
two are encoded in every batch. ``imagination`` is their ``imagine`` without gradients from a single frame each, with no
burn-in; it encodes these too. LPIPS is nought: no weights are at hand, and its cost is another network's.

All in fp32, as the authors have it; on a GPU with TF32, which their version of torch had on.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peer_protocol import commit, serve

CASES = ("tokenizer", "dynamics", "imagination", "actor_critic")
UNNEEDED = ("wandb", "gym", "torchvision", "PIL", "cv2", "psutil", "requests", "tqdm")
"""what the files import and these cases do not use"""
ACTIONS = 4
ROWS = 100
"""steps in memory, or more by whole episodes, as we have it"""
BURN_IN = 20


def options() -> argparse.Namespace:
    """What both sides are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, metavar="FOLDER", help="a checkout of eloialonso/iris")
    parser.add_argument("--tokenizer-batch", type=int, default=256, metavar="N", help="frames")
    parser.add_argument("--dynamics-batch", type=int, default=64, metavar="N", help="windows of 20 steps")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="starts of dreams")
    parser.add_argument("--horizon", type=int, default=20, metavar="N", help="imagined steps")
    parser.add_argument("--episode", type=int, default=100, metavar="N", help="steps of an episode")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 takes all cores")
    return parser.parse_args()


# ---- what is not needed


class Empty(type):
    """A class that has whatever is asked of it, each an empty class too."""

    def __getattr__(cls, name: str) -> Any:
        return empty(name)


def empty(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Empty(name, (), {})


def stand_in(names: tuple[str, ...]) -> None:
    """Empty modules for those that cannot be imported; tqdm's bar is what it goes over."""
    for name in names:
        if find_spec(name) is None:
            module = ModuleType(name)
            module.__getattr__ = empty  # type: ignore[method-assign]
            if name == "tqdm":
                module.tqdm = lambda steps, **_: steps  # type: ignore[attr-defined]
            sys.modules[name] = module


# ---- the cases


class Cases:
    """What can be asked for: each method does some units and says how many rows these held."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high" if chosen.device == "cuda" else "highest")
        self.chosen, self.device = chosen, torch.device(chosen.device)
        sys.path.insert(0, str(Path(chosen.original) / "src"))
        stand_in(UNNEEDED)
        from dataset import EpisodesDataset
        from models.actor_critic import ActorCritic
        from models.tokenizer import Decoder, Encoder, EncoderDecoderConfig, Tokenizer
        from models.transformer import TransformerConfig
        from models.world_model import WorldModel
        from utils import configure_optimizer

        sizes = EncoderDecoderConfig(
            resolution=64,
            in_channels=3,
            z_channels=512,
            ch=64,
            ch_mult=[1] * 5,
            num_res_blocks=2,
            attn_resolutions=[8, 16],
            out_ch=3,
            dropout=0.0,
        )
        transformer = TransformerConfig(
            tokens_per_block=17,
            max_blocks=20,
            attention="causal",
            num_layers=10,
            num_heads=4,
            embed_dim=256,
            embed_pdrop=0.1,
            resid_pdrop=0.1,
            attn_pdrop=0.1,
        )
        tokenizer = Tokenizer(512, 512, Encoder(sizes), Decoder(sizes), with_lpips=False)
        tokenizer.lpips = lambda x, y: x.new_zeros(len(x))
        world_model, actor_critic = WorldModel(512, ACTIONS, transformer), ActorCritic(ACTIONS)
        self.parts = {"tokenizer": tokenizer, "dynamics": world_model, "actor_critic": actor_critic}
        self.parts = {name: part.to(self.device).eval() for name, part in self.parts.items()}
        self.parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in self.parts.items()}
        self.optimizers = {
            "tokenizer": torch.optim.Adam(tokenizer.parameters(), 1e-4),
            "dynamics": configure_optimizer(world_model, 1e-4, 0.01),
            "actor_critic": torch.optim.Adam(actor_critic.parameters(), 1e-4),
        }
        self.dataset = EpisodesDataset()
        for _ in range(-(-ROWS // chosen.episode)):
            self.dataset.add_episode(episode(chosen.episode))

    def _batch(self, n: int, length: int, from_start: bool) -> dict[str, torch.Tensor]:
        """As the trainer samples it."""
        batch = self.dataset.sample_batch(n, length, from_start)
        return {name: column.to(self.device) for name, column in batch.items()}

    def _update(self, name: str, n: int, length: int, from_start: bool, **given: Any) -> None:
        """As the trainer's train_component has it."""
        part, optimizer = self.parts[name].train(), self.optimizers[name]
        optimizer.zero_grad()
        losses = part.compute_loss(self._batch(n, length, from_start), **given)
        losses.loss_total.backward()
        assert losses.loss_total.isfinite(), "the loss is not finite"
        torch.nn.utils.clip_grad_norm_(part.parameters(), 10.0)
        optimizer.step()
        part.eval()
        self._wait()

    def _wait(self) -> None:
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def tokenizer(self, count: int) -> int:
        for _ in range(count):
            self._update("tokenizer", self.chosen.tokenizer_batch, 1, True)
        return count * self.chosen.tokenizer_batch

    def dynamics(self, count: int) -> int:
        for _ in range(count):
            self._update("dynamics", self.chosen.dynamics_batch, 20, True, tokenizer=self.parts["tokenizer"])
        return count * self.chosen.dynamics_batch * 20

    def actor_critic(self, count: int) -> int:
        for _ in range(count):
            self._update(
                "actor_critic",
                self.chosen.batch,
                BURN_IN + 1,
                False,
                tokenizer=self.parts["tokenizer"],
                world_model=self.parts["dynamics"],
                imagine_horizon=self.chosen.horizon,
                gamma=0.995,
                lambda_=0.95,
                entropy_weight=0.001,
            )
        return count * self.chosen.batch * self.chosen.horizon

    @torch.no_grad()
    def imagination(self, count: int) -> int:
        models = self.parts["tokenizer"], self.parts["dynamics"]
        for _ in range(count):
            start = self._batch(self.chosen.batch, 1, False)
            self.parts["actor_critic"].imagine(start, *models, horizon=self.chosen.horizon)
            self._wait()
        return count * self.chosen.batch * self.chosen.horizon


def episode(n: int) -> Any:
    """n random steps, the last of which ends it."""
    from episode import Episode

    ends = torch.zeros(n, dtype=torch.int64)
    ends[-1] = 1
    return Episode(
        observations=torch.randint(256, (n, 3, 64, 64), dtype=torch.uint8),
        actions=torch.randint(ACTIONS, (n,)),
        rewards=torch.randn(n).sign(),
        ends=ends,
        mask_padding=torch.ones(n, dtype=torch.bool),
    )


if __name__ == "__main__":
    chosen = options()
    if not (Path(chosen.original) / "src" / "models" / "world_model.py").exists():
        sys.exit(f"--original {chosen.original}: no src/models/world_model.py; give a checkout of eloialonso/iris")
    serve("iris", commit(chosen.original), chosen, Cases, CASES)
