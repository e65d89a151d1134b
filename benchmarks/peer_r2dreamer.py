"""DreamerV3's update and policy step by r2dreamer, to compare with ours.

    git clone https://github.com/NM512/r2dreamer peers/r2dreamer-source
    python -m venv peers/r2dreamer
    peers/r2dreamer/bin/pip install torch==2.13.0
    peers/r2dreamer/bin/pip install "torchrl==0.14.*" "tensordict==0.14.*" omegaconf tensorboard
    printf 'update 1\\nupdate 1\\npolicy 20\\n' | peers/r2dreamer/bin/python benchmarks/peer_r2dreamer.py \\
        --r2dreamer peers/r2dreamer-source

It runs in that environment, alone: nothing of dreamlab is imported. One line of JSON says what was built. Then each
line of input asks for a case and how many units of it, and is answered by one line with the seconds that they took,
so that a benchmark can give both sides their turns. The first of each case warms up. On Linux the allocator's
settings count (``tuned`` in the first line says whether they are there):

    MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

``update``: the agent's own ``update`` on a batch from its own replay buffer, which holds random uint8 frames of
64 x 64 x 3: world model, imagination from every latent, actor, critic, replay value, slow critic, clipping by
parameter, LaProp, and the latents written back. ``policy``: its ``act`` for one environment, to one action.

Of the checkout only the agent, the buffer and the agent's settings are used, with ``rep_loss=dreamer``: the variant
that reconstructs images, as DreamerV3 does. Three things are not as it ships. Its update asks for fp16, which a CPU
only emulates: here it is bf16 or nothing, and its ``act`` for bf16 is under autocast too. Its update, which it
compiles, is eager here: torch.compile was not tried. And torch and TorchRL are newer than it pins.

It also takes a 16th step of imagination and drops what comes of it, where ours and the other peers take 15. With six
actions it has 10,492,616 parameters for 12m and 686,456 for 1m, as many as ours.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peer_protocol import commit, options, serve

WIDTHS = {"1m": 64, "12m": 256}
ACTIONS = 6
STREAMS, STEPS = 16, 256
"""what lies in memory"""
NEEDED = ("dreamer.py", "buffer.py", "rssm.py", "configs/model/_base_.yaml")


def lacking(folder: str) -> str:
    """What a folder lacks to be a checkout of r2dreamer; nothing where it is one."""
    return " and ".join(name for name in NEEDED if not (Path(folder) / name).exists())


class Cases:
    """What can be asked for: each method does some units and says how many rows these held."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.batch, self.length, self.bf16 = chosen.batch, chosen.length, chosen.precision == "bf16"
        sys.path.insert(0, chosen.r2dreamer)  # before our folder, which has a dreamer.py too
        import buffer
        import dreamer

        dreamer.autocast = self._precision  # its update names fp16
        config = settings(Path(chosen.r2dreamer), WIDTHS[chosen.size], chosen)
        image = SimpleNamespace(spaces={"image": SimpleNamespace(shape=(64, 64, 3))})
        self.agent = dreamer.Dreamer(config.model, image, SimpleNamespace(n=ACTIONS, discrete=True))
        self.parameters = sum(p.numel() for group in self.agent._optimizer.param_groups for p in group["params"])
        self.rows = buffer.Buffer(config.buffer)
        self.state = self.agent.get_initial_state(1)
        self.images = self._fill()
        self.going = torch.zeros(1, 1, dtype=torch.bool)

    def _precision(self, **_: Any) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def _fill(self) -> torch.Tensor:
        """Random steps, an episode's start now and then; the images of the first stream are given back."""
        from tensordict import TensorDict

        state = self.agent.get_initial_state(STREAMS)
        images = torch.randint(256, (STEPS, STREAMS, 64, 64, 3), dtype=torch.uint8)
        starts = torch.rand(STEPS + 1, STREAMS, 1) < 0.005
        for i in range(STEPS):
            step = {
                "image": images[i],
                "action": torch.nn.functional.one_hot(torch.randint(ACTIONS, (STREAMS,)), ACTIONS).float(),
                "reward": torch.randn(STREAMS, 1),
                "is_first": starts[i],
                "is_last": starts[i + 1],
                "is_terminal": starts[i + 1],
                "stoch": state["stoch"],
                "deter": state["deter"],
                "episode": torch.arange(STREAMS, dtype=torch.int32),  # as it has them: one a stream
            }
            self.rows.add_transition(TensorDict(step, (STREAMS,)))
        return images[:, :1]

    def update(self, count: int) -> int:
        for _ in range(count):
            metrics = self.agent.update(self.rows)
        assert metrics["opt/loss"].isfinite(), "the loss is not finite"
        return count * self.batch * self.length

    def policy(self, count: int) -> int:
        for i in range(count):
            seen = {"image": self.images[i % STEPS], "is_first": self.going}
            with self._precision():
                action, self.state = self.agent.act(seen, self.state)
            action.argmax(-1).item()
        return count


def settings(folder: Path, width: int, chosen: argparse.Namespace) -> Any:
    """The checkout's own settings, at a size, for images on a CPU."""
    from omegaconf import OmegaConf

    sizes = {"deter": 8 * width, "hidden": width, "discrete": width // 16, "depth": width // 16, "units": width}
    images = {"mlp_keys": "$^", "cnn_keys": "image"}
    config = OmegaConf.create(
        {
            "device": "cpu",
            "env": {"encoder": images, "decoder": images},
            "model": {"act": "SiLU", "norm": True, **sizes},
            "buffer": {
                "batch_size": chosen.batch,
                "batch_length": chosen.length,
                "max_size": STREAMS * STEPS,
                "device": "cpu",
                "storage_device": "cpu",
            },
        }
    )
    base = {"model": OmegaConf.load(folder / "configs" / "model" / "_base_.yaml")}
    return OmegaConf.merge(base, config, {"model": {"rep_loss": "dreamer", "compile": False}})


if __name__ == "__main__":
    chosen = options(__doc__, WIDTHS, checkout="NM512/r2dreamer")
    if lack := lacking(chosen.r2dreamer):
        sys.exit(f"--r2dreamer {chosen.r2dreamer}: no {lack}; give a checkout of NM512/r2dreamer")
    serve("r2dreamer", commit(chosen.r2dreamer), chosen, Cases)
