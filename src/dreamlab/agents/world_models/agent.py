"""World Models: the agent and its recipe (Ha & Schmidhuber 2018, arXiv:1803.10122).

collect   random behaviour writes rows
vision    V learns to compress single frames
encode    V's codes (mu, logvar) are written beside the rows, once
memory    M learns to predict the codes' sequence; z is drawn from them afresh for every batch
controller  CMA-ES evolves C, in the environment or in M's dream
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dreamlab.agents.world_models.acting import COLLECTORS, Acting
from dreamlab.agents.world_models.actions import actions_for
from dreamlab.agents.world_models.config import Config, budget
from dreamlab.agents.world_models.controller import Controller, Search
from dreamlab.agents.world_models.dreaming import PopulationDream
from dreamlab.agents.world_models.memory import (
    Memory,
    Sequences,
    memory_losses,
    mixture_nll,
    one_step,
    sequences,
)
from dreamlab.agents.world_models.model import Model
from dreamlab.agents.world_models.vision import (
    Vision,
    active_units,
    draw,
    pixel_accuracy,
    pixels,
    reconstructions,
    traversal,
    vision_losses,
)
from dreamlab.core.errors import RunError, UserError
from dreamlab.core.protocols import Experience, Learn, Phase, Policy
from dreamlab.core.sampling import EpisodeWindows, Frames, WholeEpisodes
from dreamlab.core.seeds import derive, forked, torch_rng
from dreamlab.core.types import Batch, Outcome
from dreamlab.nn.compute import Compute

if TYPE_CHECKING:
    from dreamlab.core.types import Metrics

SEQUENCES: dict[str, type[WholeEpisodes] | type[EpisodeWindows]] = {
    "episodes": WholeEpisodes,
    "windows": EpisodeWindows,
}
ENCODE_BATCH = 250
STARTS = 1000
"""at most so many episodes' first rows are dreamt from (the paper's Doom: 1000)"""


class WorldModelsAgent:
    """V, M and C, and the phases that train them one after the other."""

    def __init__(
        self, config: Config, obs_space: spaces.Dict, act_space: spaces.Space, compute: Compute, seed: int, run: Any
    ) -> None:
        if "image" not in obs_space.spaces:
            raise UserError(
                f"world-models sees images, but the environment gives {', '.join(obs_space.spaces)}; "
                "type: --env.obs pixels"
            )
        self.config, self.compute, self.seed, self.run = config, compute, seed, run
        self.actions = actions_for(act_space)
        latent, hidden = config.vision.latent, config.memory.hidden
        with forked(seed, "init"):
            vision = Vision(obs_space["image"].shape or (), latent)
            memory = Memory(latent, self.actions.size, config.memory)
            controller = Controller(latent + hidden, self.actions.size)
        real = not any(p.is_meta for p in vision.parameters())  # sizes are counted on the meta device
        device = compute.device if real else torch.device("cpu")
        if real:
            vision, memory, controller = vision.to(device), memory.to(device), controller.to(device)
        self.generators = {name: torch_rng(device, seed, "draw", name) for name in ("collect", "vision", "memory")}
        self.model, self.controller = Model(vision, memory), controller
        self.optimizers = {
            "vision": torch.optim.Adam(vision.parameters(), config.vision.lr, fused=_fused(vision)),
            "memory": torch.optim.Adam(memory.parameters(), config.memory.lr, fused=_fused(memory)),
        }
        self.frames = Frames(derive(seed, "frames"))
        self.sequences = SEQUENCES[config.memory.windows](derive(seed, "sequences"))
        play = self._play_dream if config.controller.train_in == "dream" else self._play_env
        self.search = Search(config.controller, controller, play, seed)
        self._vision_losses, self._nll = compute.compiled(vision_losses), compute.compiled(mixture_nll)
        self.encoded = 0  # rounds of the encode phase that are done
        self.loaded: set[str] = set()

    # ---- the recipe

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """V, M and C."""
        return {"vision": self.model.vision, "memory": self.model.memory, "controller": self.controller}

    def phases(self) -> Sequence[Phase]:
        """The budget with the live parts bound to it; parts taken from another run are not trained again."""
        learners: dict[str, Learn] = {
            "vision": self.learn_vision,
            "encode": self.encode,
            "memory": self.learn_memory,
            "controller": self.search,
        }
        plan = budget(self.config, self.run, self.loaded)
        return [
            replace(
                phase,
                act=self.policy(explore=True) if phase.name == "collect" else None,
                learn=((learners[phase.name], 1),) if phase.name in learners else (),
            )
            for phase in plan
        ]

    def policy(self, explore: bool) -> Policy:
        """``explore``: the behaviour that collects random data; else C at the mean of CMA-ES's distribution."""
        if explore:
            return COLLECTORS[self.config.collect](self.config.vision.latent, self.actions, self.generators["collect"])
        return self._acting(self.controller.theta, derive(self.seed, "act"))

    def _acting(self, theta: Tensor, seed: int) -> Acting:
        rng = torch_rng(self.compute.device, seed)
        return Acting(self.model, theta.to(self.compute.device), self.actions, self.compute, rng)

    # ---- V

    def learn_vision(self, experience: Experience) -> Metrics:
        """One update of V on random frames."""
        config, vision = self.config.vision, self.model.vision
        image = self._images(experience, self.frames(experience.index, config.batch))  # (N, C, s, s)
        with self.compute.autocast():
            mu, logvar = vision.encode(image)
            recon = vision.decode(draw(mu, logvar, self.generators["vision"]))
        losses = {
            name: loss.mean() for name, loss in self._vision_losses(image, recon, mu, logvar, config.kl_floor).items()
        }
        loss = losses["reconstruction"] + losses["kl"]
        self._update("vision", loss)
        return {
            "loss": loss.detach(),
            **{name: value.detach() for name, value in losses.items()},
            "pixel_accuracy": pixel_accuracy(image, recon.detach()),
        }

    @torch.no_grad()
    def encode(self, experience: Experience) -> Metrics:
        """Write V's codes beside one round's share of all rows held."""
        index = experience.index
        held = (index.stop - index.start) * index.streams
        rounds = next(p.rounds for p in budget(self.config, self.run, self.loaded) if p.name == "encode")
        begin, end = (held * (self.encoded + i) // rounds for i in (0, 1))
        rows = index.start * index.streams + np.arange(begin, end)[:, None]  # (n, 1)
        for i in range(0, len(rows), ENCODE_BATCH):
            piece = rows[i : i + ENCODE_BATCH]
            with self.compute.autocast():
                mu, logvar = self.model.vision.encode(self._images(experience, piece))
            experience.annotate(piece, mu=mu.half()[:, None], logvar=logvar.half()[:, None])  # (n, 1, D)
        self.encoded += 1
        return {"rows": float(len(rows))}

    def _images(self, experience: Experience, rows: np.ndarray) -> Tensor:
        return pixels(experience.gather(rows, obs=("image",)).obs["image"])

    # ---- M

    def learn_memory(self, experience: Experience) -> Metrics:
        """One update of M; one draw of z is both input and, a step later, target."""
        config = self.config.memory
        rows = self.sequences(experience.index, config.batch, config.sequence + 1)
        batch = experience.gather(rows, obs=())
        mu, logvar = _codes(batch)
        steps = sequences(batch, draw(mu, logvar, self.generators["memory"]))
        losses, h = self._memory_losses(steps)
        weights = {"nll": 1.0, "rew": config.reward_weight, "con": 1.0}
        loss = sum((weights[name] * value for name, value in losses.items()), torch.zeros((), device=h.device))
        self._update("memory", loss, config.clip)
        return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}

    def _memory_losses(self, steps: Sequences) -> tuple[dict[str, Tensor], Tensor]:
        """Mean losses over the valid steps, and h (B, T, H)."""
        memory = self.model.memory
        with self.compute.autocast():
            h = memory(steps.z, steps.act, steps.is_first)  # (B, T, H)
            mixture, extras = memory.mixture(h), memory.extras(h)
        nll = self._nll(mixture, steps.after)  # (B, T, D)
        losses = memory_losses(nll, extras, steps.rew, steps.is_terminal, self.config.memory.terminal_weight)
        count = steps.valid.sum().clamp(min=1)  # a batch of episodes just begun has no step at all
        return {name: (loss * steps.valid).sum() / count for name, loss in losses.items()}, h.float()

    def _update(self, part: str, loss: Tensor, clip: float | None = None) -> None:
        optimizer = self.optimizers[part]
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_value_(self.parts[part].parameters(), clip)
        optimizer.step()

    # ---- C

    def _play_env(self, experience: Experience, theta: np.ndarray, seeds: np.ndarray, seed: int) -> Outcome:
        """Whole episodes in the real environment; row i is the i-th controller's."""
        policy = self._acting(torch.as_tensor(theta, dtype=torch.float32), seed)
        return experience.rollout(policy, seeds.tolist())

    def _play_dream(self, experience: Experience, theta: np.ndarray, seeds: np.ndarray, seed: int) -> Outcome:
        """Dreams from the first rows of episodes; the episode's seed chooses which."""
        config = self.config.controller
        first = first_rows(experience, STARTS)
        mu, logvar = _codes(experience.gather(first[seeds % len(first), None], obs=()))  # (N, 1, D)
        rng = torch_rng(self.compute.device, seed)
        weights, episodes = torch.as_tensor(theta, dtype=torch.float32), len(seeds) // len(theta)
        dream = PopulationDream(
            self.model.memory, self.actions, weights, episodes, self.compute.bf16, alike=config.shared_seeds
        )
        own = 1 if config.shared_seeds else len(theta)  # drawn once for all, however many there are in this wave
        noise = torch.empty(own, episodes, mu.shape[-1], device=mu.device).normal_(generator=rng)
        noise = noise.expand(len(theta), -1, -1).flatten(0, 1)  # (N, D)
        z = mu[:, 0] + (0.5 * logvar[:, 0]).exp() * noise
        ret, length = dream.run(z, config.horizon, config.temperature, rng)
        return Outcome(ret.double().cpu().numpy(), length.cpu().numpy())

    # ---- reports

    @torch.no_grad()
    def report(self, phase: str, experience: Experience) -> Metrics:
        """Measures on rows spread over the whole table, at the codes' means; pictures of what V sees."""
        if phase == "vision":
            return self._report_vision(experience)
        return self._report_memory(experience) if phase == "memory" else {}

    def _report_vision(self, experience: Experience) -> Metrics:
        index, vision = experience.index, self.model.vision
        held = (index.stop - index.start) * index.streams
        rows = index.start * index.streams + np.unique(np.linspace(0, held - 1, 256).astype(np.int64))
        image = self._images(experience, rows[:, None])
        mu, logvar = vision.encode(image)
        recon = vision.decode(mu)
        losses = vision_losses(image, recon, mu, logvar, kl_floor=0.0)
        some = image[:: max(1, len(image) // 8)][:8]
        return {
            **{f"report_{name}": loss.mean() for name, loss in losses.items()},
            "report_pixel_accuracy": pixel_accuracy(image, recon),
            "active_units": active_units(mu),
            "reconstructions": reconstructions(vision, some),
            "traversal": traversal(vision, image),
        }

    def _report_memory(self, experience: Experience) -> Metrics:
        config, memory = self.config.memory, self.model.memory
        length = min(config.sequence, 256)
        rows = EpisodeWindows(derive(self.seed, "report"))(experience.index, min(config.batch, 32), length + 1)
        batch = experience.gather(rows, obs=())
        steps = sequences(batch, _codes(batch)[0])
        losses, h = self._memory_losses(steps)
        metrics = {f"report_{name}": value for name, value in losses.items()}
        metrics |= one_step(memory.mixture(h), steps.z, steps.after, steps.valid)
        extras = memory.extras(h)
        if "rew" in extras:
            metrics["reward_mae"] = (extras["rew"] - steps.rew).abs()[steps.valid].mean()
        if "con" in extras:
            right = (extras["con"] < 0) == steps.is_terminal
            metrics["continuation_accuracy"] = right[steps.valid].float().mean()
        return metrics

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if nothing had happened."""
        return {
            "vision": _contiguous(self.model.vision.state_dict()),
            "memory": _contiguous(self.model.memory.state_dict()),
            "controller": self.search.state_dict(),
            "optimizers": {name: _optimizer_state(optimizer) for name, optimizer in self.optimizers.items()},
            "samplers": {"frames": self.frames.state_dict(), "sequences": self.sequences.state_dict()},
            "generators": {name: rng.get_state() for name, rng in self.generators.items()},
            "encoded": self.encoded,
            "loaded": sorted(self.loaded),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore ``state_dict``; ask for ``phases`` after this, as loaded parts shorten them."""
        self.model.vision.load_state_dict(state["vision"])
        self.model.memory.load_state_dict(state["memory"])
        self.search.load_state_dict(state["controller"])
        for name, optimizer in self.optimizers.items():
            _load_optimizer(optimizer, state["optimizers"][name])
        self.frames.load_state_dict(state["samplers"]["frames"])
        self.sequences.load_state_dict(state["samplers"]["sequences"])
        for name, rng in self.generators.items():
            rng.set_state(torch.as_tensor(state["generators"][name], dtype=torch.uint8).cpu())
        self.encoded = int(state["encoded"])
        self.loaded = set(state["loaded"])

    def load_parts(self, state: Mapping[str, Any], names: Sequence[str] = ("vision", "memory")) -> list[str]:
        """Take V and M from another run's ``state_dict``; their phases then have no rounds. Returns the names.

        Raises:
            UserError: that run's parts are of other sizes, or it has no such part.
        """
        for name in names:
            if name not in ("vision", "memory") or name not in state:
                raise UserError(f"cannot take {name!r} from another run; what can be taken: vision, memory")
            try:
                self.parts[name].load_state_dict(state[name])
            except RuntimeError as error:
                raise UserError(
                    f"the other run's {name} does not fit this one: {str(error).splitlines()[-1].strip()}; "
                    f"give this run the same sizes (--agent.{name}...)"
                ) from None
            self.loaded.add(name)
        return list(names)


def first_rows(experience: Experience, most: int) -> np.ndarray:
    """Row ids (E,) of the newest episodes' first rows.

    Raises:
        RunError: no episode's beginning is held.
    """
    index = experience.index
    episodes = index.episodes()
    rows = (episodes.start * index.streams + episodes.stream)[-most:]
    first = experience.gather(rows[:, None], obs=()).is_first[:, 0].cpu().numpy()
    if not first.any():
        raise RunError("no episode's first row is held, so there is nothing to start a dream from; collect more")
    return rows[first]


def _codes(batch: Batch) -> tuple[Tensor, Tensor]:
    """mu and logvar as V wrote them beside the rows (B, T, D)."""
    if "mu" not in batch.extras:
        raise RunError("these rows have no codes yet: the encode phase comes before memory and dreams")
    return batch.extras["mu"].float(), batch.extras["logvar"].float()


def _fused(module: nn.Module) -> bool:
    return all(p.device.type in ("cpu", "cuda") for p in module.parameters())


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in state.items()}


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The moments, by the parameter's number; learning rates and such come from the config."""
    state = optimizer.state_dict()["state"]
    return {str(i): _contiguous(moments) for i, moments in state.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the moments in their parameter's memory layout: the fused update walks both in one order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        int(i): {k: torch.empty_like(parameters[int(i)]).copy_(v) if v.dim() else v.clone() for k, v in entry.items()}
        for i, entry in state.items()
    }
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
