"""The same updates by github.com/ctallec/world-models, from a checkout of the user's own.

Nothing of it is here. Its models are imported from where they are; its losses stand in scripts that train as soon
as they are imported, so each is compiled from the script's text by its name.

It gets what it is given in its own loop (float images in [0, 1]; latents, as if they had been stored) without
loading or encoding anything, and runs in this process, with the same threads and memory settings as ours.
"""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import Case, Done

from dreamlab.core.errors import UserError

LATENT, ACT, HIDDEN, MIXTURES = 32, 3, 256, 5


def peer_cases(
    path: Path, device: torch.device, frames: int, windows: tuple[int, int], arithmetic: float
) -> Iterator[Case]:
    """Its VAE's and its MDN-RNN's update, in fp32, which is all it has. ``arithmetic``: GFLOP of the VAE's, as ours.

    Raises:
        UserError: this is no checkout of it.
    """
    for script in ("trainvae.py", "trainmdrnn.py", "models/vae.py", "models/mdrnn.py"):
        if not (path / script).is_file():
            raise UserError(f"no checkout of ctallec/world-models in {path}: {script} is missing")
    warnings.filterwarnings("ignore", message="size_average and reduce args")
    yield _vision(path, device, frames, arithmetic)
    yield _memory(path, device, *windows)


def _vision(path: Path, device: torch.device, batch: int, gflop: float) -> Case:
    model = imported(path, "models.vae").VAE(3, LATENT).to(device)
    loss_function = compiled(path / "trainvae.py", "loss_function", {"torch": torch, "F": F})
    optimizer = torch.optim.Adam(model.parameters())
    image = torch.rand(batch, 3, 64, 64, device=device)

    def run() -> Done:
        optimizer.zero_grad()
        recon, mu, logsigma = model(image)
        loss = loss_function(recon, image, mu, logsigma)
        loss.backward()
        loss.item()
        optimizer.step()
        return Done(1, batch)

    return Case("peer_vision", "fp32", f"peer's V, batch {batch}", "updates", "frames", run, gflop)


def _memory(path: Path, device: torch.device, batch: int, length: int) -> Case:
    module = imported(path, "models.mdrnn")
    model = module.MDRNN(LATENT, ACT, HIDDEN, MIXTURES).to(device)
    scope = {"f": F, "gmm_loss": module.gmm_loss, "mdrnn": model, "LSIZE": LATENT}
    get_loss = compiled(path / "trainmdrnn.py", "get_loss", scope)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9)
    latents, after = torch.randn(2, batch, length, LATENT, device=device)
    act, rew = torch.rand(batch, length, ACT, device=device), torch.randn(batch, length, device=device)
    terminal = torch.zeros(batch, length, device=device)

    def run() -> Done:
        losses = get_loss(latents, act, rew, terminal, after, include_reward=True)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        for loss in losses.values():
            loss.item()
        return Done(1, batch * length)

    weights = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    gflop = 2e-9 * batch * length * (3 * weights - model.rnn.weight_ih_l0.numel())
    return Case("peer_memory", "fp32", f"peer's M, {batch} x {length}", "updates", "transitions", run, gflop)


def imported(path: Path, name: str) -> Any:
    """A module of the checkout; the search path is left as it was."""
    sys.path.insert(0, str(path))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(path))


def compiled(script: Path, name: str, scope: dict[str, Any]) -> Callable[..., Any]:
    """One function of a script, without running the rest. ``scope``: the names that it reads.

    Raises:
        UserError: the script has no such function.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"), str(script))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not tree.body:
        raise UserError(f"{script} has no function {name}: is it another version of ctallec/world-models?")
    exec(compile(tree, str(script), "exec"), scope)
    return scope[name]
