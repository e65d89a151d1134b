"""What a process is set up for: bf16 is refused nobody, but said where it would take for ever."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

from dreamlab.nn import compute

CPU = torch.device("cpu")


def test_learning_in_bf16_is_warned_of_where_the_processor_has_none(monkeypatch):
    monkeypatch.setattr(compute, "emulates_bf16", lambda device: device == CPU)
    with pytest.warns(UserWarning, match="does not multiply in bf16.*type --precision fp32"):
        found = compute.prepare("cpu", "bf16")
    assert found.bf16
    assert found.precision == "bf16"


@pytest.mark.parametrize(("helpless", "precision"), [(True, "fp32"), (False, "bf16")])
def test_what_is_only_looked_at_is_computed_in_what_the_processor_has(monkeypatch, helpless, precision):
    monkeypatch.setattr(compute, "emulates_bf16", lambda device: helpless)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute.prepare("cpu", "bf16", compile=True, learns=False)
        assert compute.prepare("cpu", "fp32").precision == "fp32"
    assert found.precision == precision
    assert not found.compile
    assert str(found) == f"cpu, {precision}, eager"


def test_vanishing_numbers_are_nought_in_this_thread_and_those_begun_after_it():
    """A processor takes many times as long over numbers below 1e-38; saturated units' gradients are full of them."""
    tiny, found = torch.tensor([1e-30]), []
    torch.set_flush_denormal(False)
    assert (tiny * 1e-10).item() > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    torch.set_flush_denormal(False)
    compute.prepare("cpu")
    later = threading.Thread(target=lambda: found.append((tiny * 1e-10).item()))
    later.start()
    later.join()
    assert [(tiny * 1e-10).item(), *found] == [0, 0]
