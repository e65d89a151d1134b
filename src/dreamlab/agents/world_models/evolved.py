"""C by CMA-ES, put together: what a candidate plays, in the environment or in the dream, and the policy at the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dreamlab.agents.world_models.acting import Acting, Varying
from dreamlab.agents.world_models.actions import plain
from dreamlab.agents.world_models.config import Config
from dreamlab.agents.world_models.controller import Controller, Features, form_of
from dreamlab.agents.world_models.dreaming import PopulationDream
from dreamlab.agents.world_models.evolution import Search
from dreamlab.agents.world_models.model import Latent, Model, codes, dream_rows
from dreamlab.core.inside import View
from dreamlab.core.protocols import Experience, Learn, Policy
from dreamlab.core.seeds import derive, torch_rng
from dreamlab.core.types import Outcome
from dreamlab.nn.compute import Compute

if TYPE_CHECKING:
    from collections.abc import Callable


class Evolved:
    """The behaviour of the paper: a controller of few weights, found without gradients."""

    def __init__(self, config: Config, model: Model, compute: Compute, seed: int) -> None:
        self.config, self.model, self.compute, self.seed = config.controller, model, compute, seed
        self.sigma = config.collect_sigma
        self.features = Features(self.config.inputs, model.vision.latent, model.memory.hidden)
        self.form = form_of(self.config, self.features.size, model.actions.size)
        self.controller = Controller(self.form)
        self.explore = torch_rng(compute.device if compute.device.type != "meta" else "cpu", seed, "explore")
        plays: dict[str, Callable[[Experience, np.ndarray, np.ndarray, int], Outcome]] = {
            "env": self._play_env,
            "dream": self._play_dream,
        }
        self.search = Search(self.config, self.controller, plays[self.config.train_in], seed)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """C."""
        return {"controller": self.controller}

    @property
    def learners(self) -> Mapping[str, Learn]:
        """What each of its phases does."""
        return {"controller": self.search}

    def policy(self, explore: bool) -> Policy:
        """C at the mean of CMA-ES's distribution; to explore, around it."""
        theta = self.controller.theta.detach()
        if not explore:
            return self._acting(theta, torch_rng(self.compute.device, derive(self.seed, "act")))
        acting = self._acting(theta, self.explore)
        return Varying(acting, self.sigma) if self.sigma else acting

    def _acting(self, theta: Tensor, rng: torch.Generator) -> Acting:
        return Acting(self.model, self.features, self.form, theta.to(self.compute.device), self.compute, rng)

    def _play_env(self, experience: Experience, theta: np.ndarray, seeds: np.ndarray, seed: int) -> Outcome:
        """Whole episodes in the real environment; row i is the i-th controller's."""
        rng = torch_rng(self.compute.device, seed)
        policy = self._acting(torch.as_tensor(theta, dtype=torch.float32), rng)
        return experience.rollout(policy, seeds.tolist())

    def _play_dream(self, experience: Experience, theta: np.ndarray, seeds: np.ndarray, seed: int) -> Outcome:
        """Dreams from real rows; the episode's seed chooses which."""
        config, model = self.config, self.model
        batch = experience.gather(dream_rows(experience, config.warm_up, seeds), obs=())  # (N, warm_up + 1)
        mu, logvar = (code[:, -1] for code in codes(batch))  # (N, D)
        rng = torch_rng(self.compute.device, seed)
        weights, episodes = torch.as_tensor(theta, dtype=torch.float32), len(seeds) // len(theta)
        dream = PopulationDream(
            model.memory,
            model.actions,
            self.features,
            self.form,
            weights,
            episodes,
            self.compute.bf16,
            alike=config.shared_seeds,
        )
        own = 1 if config.shared_seeds else len(theta)  # drawn once for all, however many there are in this wave
        noise = torch.empty(own, episodes, mu.shape[-1], device=mu.device).normal_(generator=rng)
        noise = noise.expand(len(theta), -1, -1).flatten(0, 1)  # (N, D)
        z = mu + (0.5 * logvar).exp() * noise
        seen = model.observe(batch) if config.warm_up else None
        memory = None if seen is None else (seen.h[:, -1], seen.c[:, -1], seen.first[:, -1])
        ret, length = dream.run(z, memory, config.horizon, config.temperature, rng)
        return Outcome(ret.double().cpu().numpy(), length.cpu().numpy())

    @torch.no_grad()
    def judge(self, latents: Latent) -> dict[str, View]:
        """The action that the mean takes at latents (N, T)."""
        feat = self.features(latents.z, latents.h, latents.c)  # (N, T, F)
        raw = self.form(self.controller.theta[None].to(feat), feat.flatten(0, 1)[None])[0].unflatten(0, feat.shape[:2])
        return {"policy": plain(self.model.actions, raw)}

    def take(self, state: Mapping[str, Any]) -> None:
        """The mean that another run has found, to begin at.

        Raises:
            KeyError, RuntimeError: it is of another form.
        """
        self.controller.theta.copy_(torch.as_tensor(np.asarray(state["evolution"]["mean"], np.float64)))
        self.search.begin_again()

    def state_dict(self) -> dict[str, Any]:
        return {**self.search.state_dict(), "explore": self.explore.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.search.load_state_dict(state)
        self.explore.set_state(torch.as_tensor(state["explore"], dtype=torch.uint8).cpu())
