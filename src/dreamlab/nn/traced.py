"""A small network's step on a CPU, without Python between its operations.

Acting for one environment is a few hundred operations on rows of a few hundred numbers: Python takes as long over
them as arithmetic does. A step that is called again and again with the same shapes is recorded once
(``torch.jit.trace``) and played back: the same operations in the same order on the same weights, so the same numbers
to the bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

AFTER = 100
"""calls of one form before it is recorded: recording takes as long as some hundred calls"""
FORMS = 4
"""forms that are kept"""
Form = tuple[tuple[torch.Size, torch.dtype], ...]


class Traced:
    """``step(*tensors) -> tensors`` without gradients.

    Args:
        step: decides by its weights and arguments alone; may draw from torch's generator, but not look at a number.
        after: calls of one form (shapes and types) that are made as they are.
    """

    def __init__(self, step: nn.Module, after: int = AFTER) -> None:
        self.step, self.after = step, after
        self._calls: dict[Form, int] = {}
        self._played: dict[Form, Callable[..., tuple[Tensor, ...]]] = {}

    @torch.inference_mode()
    def __call__(self, *args: Tensor) -> tuple[Tensor, ...]:
        if args[0].device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return self.step(*args)  # type: ignore[no-any-return]
        form = tuple((x.shape, x.dtype) for x in args)
        played = self._played.get(form)
        if played is not None:
            return played(*args)
        count = self._calls[form] = self._calls.get(form, 0) + 1
        if count > self.after and len(self._played) < FORMS:
            self._played[form] = self._record(args)
        return self.step(*args)  # type: ignore[no-any-return]

    def _record(self, args: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """The recording, or the step as it is where it cannot be recorded (Python 3.14) or says something else."""
        with torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.get_rng_state()
            plain = self.step(*args)
            try:
                played = torch.jit.trace(self.step, args, check_trace=False)
                for _ in range(3):  # the first few plays are watched, and rewritten
                    torch.set_rng_state(state)
                    again = played(*args)
            except Exception:  # whatever a recorder of another version does not know
                return self.step
            same = len(plain) == len(again) and all(map(torch.equal, plain, again))
            return played if same else self.step  # type: ignore[no-any-return]
