"""From observations to one embedding and back: images by one network, the vector by another.

All images of an observation are of one size, and seen as the channels of one; the vector is what ``AsDict`` makes of
everything else. The embedding is [vector's, image's].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from dreamlab.core.errors import UserError
from dreamlab.core.types import is_image
from dreamlab.nn.convolutions import unit


class Sight:
    """Which observations there are: the images' keys, sorted, and their common shape; the vector's length."""

    def __init__(self, space: spaces.Dict) -> None:
        self.images = sorted(k for k, s in space.spaces.items() if is_image(s))
        shapes = [tuple(space[k].shape or ()) for k in self.images]
        if len({s[1:] for s in shapes}) > 1:
            raise UserError(f"images of one size are needed, got {dict(zip(self.images, shapes, strict=True))}")
        self.channels = [s[0] for s in shapes]
        self.shape = (sum(self.channels), *shapes[0][1:]) if shapes else None
        self.vector = int(space["vector"].shape[0]) if "vector" in space.spaces else 0  # type: ignore[index]
        if not self.shape and not self.vector:
            raise UserError(f"there is nothing to see: the observations are {space}")

    def picture(self, obs: Mapping[str, Tensor]) -> Tensor:
        """uint8 (..., C, h, w): all images as one."""
        found = [obs[k] for k in self.images]
        return found[0] if len(found) == 1 else torch.cat(found, -3)

    def split(self, picture: Float[Tensor, "*batch C h w"]) -> dict[str, Tensor]:
        """The images by key."""
        return dict(zip(self.images, picture.split(self.channels, -3), strict=True))


class Encoder(nn.Module):
    """Observations (N, T, ...) to an embedding (N, T, E), in ``dtype``.

    Args:
        image: network of images as x / 255 - 0.5, or None.
        vector: network of the vector, or None.
        squash: what is done to the vector first, in float32.
    """

    def __init__(
        self,
        sight: Sight,
        image: nn.Module | None,
        vector: nn.Module | None,
        squash: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.sight, self.image, self.vector, self.squash = sight, image, vector, squash
        self.width = sum(net.width for net in (image, vector) if net is not None)  # type: ignore[misc]

    def forward(self, obs: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Float[Tensor, "N T E"]:
        parts = []
        if self.vector is not None:
            x = obs["vector"].float()
            parts.append(self.vector((x if self.squash is None else self.squash(x)).to(dtype)))
        if self.image is not None:
            picture = self.sight.picture(obs)
            x = unit(picture.flatten(0, 1), dtype).sub_(0.5)
            parts.append(self.image(x).unflatten(0, picture.shape[:2]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class Decoder(nn.Module):
    """Features (N, F) to what the networks say of each observation, in float32: ``image`` and ``vector``."""

    def __init__(self, image: nn.Module | None, vector: nn.Module | None) -> None:
        super().__init__()
        self.image, self.vector = image, vector

    def forward(self, feat: Float[Tensor, "N F"]) -> dict[str, Tensor]:
        said = {}
        if self.vector is not None:
            said["vector"] = self.vector(feat).float()
        if self.image is not None:
            said["image"] = self.image(feat).float()
        return said
