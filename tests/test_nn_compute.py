"""What a process is set up for: bf16 is refused nobody, but said where it would take for ever."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

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


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_nought_inside_the_block_and_as_they_were_after_it(before):
    tiny = torch.tensor([1e-30])
    if not torch.set_flush_denormal(before):
        pytest.skip("this processor cannot")
    try:
        with compute.denormals_as_zero():
            assert (tiny * 1e-10).item() == 0
        assert ((tiny * 1e-10).item() == 0) == before
        with pytest.raises(KeyError), compute.denormals_as_zero():
            raise KeyError
        assert ((tiny * 1e-10).item() == 0) == before
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("most", [1 << 62, 32 << 20, 0])
def test_freed_memory_is_kept_also_where_glibc_takes_no_large_threshold(monkeypatch, most):
    """Before glibc 2.35 a threshold above 32 MB is refused; another setting alone would freeze it at 128 kB."""
    taken = {}

    def mallopt(what, value):
        if what == -3 and value > most:
            return 0
        taken[what] = value
        return 1

    monkeypatch.setattr(compute.sys, "platform", "linux")
    monkeypatch.setattr(compute.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    compute.keep_freed_memory()
    assert taken.get(-3, 0) == (min(most, 1 << 30) if most else 0)
    assert taken.get(-1) == (-1 if most else None)  # never given back, however much an update takes
