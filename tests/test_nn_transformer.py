"""The transformer: what sees what, that a cache changes nothing, nor what lies behind a sequence's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamlab.core.imagination import pick, tree_map
from dreamlab.nn import attention, transformer
from dreamlab.nn.compute import COMPILER, Compute, has_compiler
from dreamlab.nn.transformer import Cache, Transformer, initialise

WIDTH, SLOTS = 16, 12


def small(dropout: float = 0.0) -> Transformer:
    torch.manual_seed(0)
    net = Transformer(2, 2, WIDTH, dropout)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))  # so that attention is not even
    return net.eval()


def inputs(n: int = 3, t: int = SLOTS) -> Tensor:
    return torch.randn(n, t, WIDTH, generator=torch.Generator().manual_seed(1))


def filled(net: Transformer, x: Tensor) -> Cache:
    return net.extend(x, net.cache(len(x), SLOTS), 0)[1]


def test_a_layers_parameters_are_those_of_gpt():
    with torch.device("meta"):
        net = Transformer(10, 4, 256, 0.1)
    assert sum(p.numel() for p in net.layers[0].parameters()) == 789_760
    assert sum(p.numel() for p in net.parameters()) == 7_898_112


def test_width_must_be_whole_heads():
    with pytest.raises(ValueError, match="heads must divide width, got 3 and 16"):
        Transformer(1, 3, 16)


@torch.no_grad()
@pytest.mark.parametrize("j", [0, 5, 11])
def test_an_input_changes_nothing_before_it_and_all_after_it(j: int):
    net, x = small(), inputs()
    before = net(x)
    x[:, j] = torch.randn(WIDTH)
    changed = (net(x) - before).abs().amax((0, 2))  # (T,)
    assert (changed[:j] == 0).all()
    assert (changed[j:] > 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 2, 3, 1]])
@pytest.mark.parametrize("chunk", [68, 4])
def test_with_a_cache_it_says_the_same(pieces: list[int], chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transformer, "CHUNK", chunk)
    net, x = small(), inputs()
    whole = net(x)
    for plain in (True, False):
        cache, done, outputs = net.cache(3, SLOTS), 0, []
        for piece in x.split(pieces, 1):
            out, cache = net.extend(piece, cache, done if plain else None)
            done += piece.shape[1]
            outputs.append(out)
            assert cache.size.tolist() == [done] * 3
        torch.testing.assert_close(torch.cat(outputs, 1), whole, atol=1e-5, rtol=1e-5)


def as_it_is(fn: Any) -> Any:
    return lambda *given: fn(*given)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 12, [5, 1, 2, 3, 1]])
@pytest.mark.parametrize(("line", "strips"), [(64, 1), (8, 4), (12, 1)])
@pytest.mark.parametrize("compiled", [as_it_is, pytest.param(torch.compile, marks=pytest.mark.slow)])
def test_as_a_compiler_sees_it_it_says_the_same(
    pieces: list[int], line: int, strips: int, compiled: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transformer, "LINE", line)  # a head has 8 numbers: three strips do not fit
    net, x = small(), inputs()
    whole = net(x)
    net.fuse(compiled)
    for plain in (True, False):
        cache, at = net.cache(len(x), SLOTS), 0
        assert {v.shape[1] for v in cache.values} == {2 * strips}
        for n in pieces:
            y, cache = net.extend(x[:, at : at + n], cache, at if plain else None)
            torch.testing.assert_close(y, whole[:, at : at + n], rtol=1e-5, atol=1e-5)
            at += n
            assert cache.size.tolist() == [at] * len(x)


@torch.no_grad()
def test_one_and_two_inputs_go_through_what_was_compiled_and_others_do_not():
    net, x, gone = small(), inputs(), []

    def counted(fn: Any) -> Any:
        return lambda layers, x, *rest: (gone.append((fn.__name__, x.shape[1])), fn(layers, x, *rest))[1]

    net.fuse(counted)
    cache = net.cache(len(x), SLOTS)
    for at, n in ((0, 4), (4, 1), (5, 2), (7, 3)):
        cache = net.extend(x[:, at : at + n], cache, at)[1]
    assert gone == [("one_more", 1), ("two_more", 2)]
    with torch.enable_grad():  # what is lent has no gradients
        net.extend(x[:, :1], net.cache(len(x), SLOTS), 0)[0].sum().backward()
    assert gone[2:] == []
    assert all(layer.qkv.weight.grad is not None for layer in net.layers)


@torch.no_grad()
def test_what_a_compiler_sees_has_the_newest_weights_and_no_casts():
    """Lent in bf16 for each cache anew, beside the weights and not among them."""
    net, x = small(), inputs()
    net.fuse(as_it_is)
    names = set(net.state_dict())
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            whole, cache, said = net(x), net.cache(len(x), SLOTS), []
            assert {layer.up.weight.dtype for layer in net.lent[torch.bfloat16]} == {torch.bfloat16}
            for at in range(x.shape[1]):
                y, cache = net.extend(x[:, at : at + 1], cache, at)
                said.append(y)
        torch.testing.assert_close(torch.cat(said, 1), whole, rtol=0.03, atol=0.03)
        assert set(net.state_dict()) == names
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))  # an update: the next cache lends anew
    for _ in range(2):  # lent, and lent again
        net.cache(len(x), SLOTS)
    for lent, own in zip(net.lent[torch.float32], net.layers, strict=True):
        torch.testing.assert_close(dict(lent.named_parameters()), dict(own.named_parameters()), rtol=0, atol=0)
        assert lent.up.weight.T.is_contiguous()
        assert not any(p.requires_grad for p in lent.parameters())


@torch.no_grad()
@pytest.mark.parametrize("line", [64, 8])  # bytes: a head in one strip, or in four and two
def test_caches_of_both_precisions_go_on_side_by_side_inside_autocast_and_outside(
    line: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transformer, "LINE", line)
    net, x = small(), inputs()
    plain, said = small(), []
    plain.load_state_dict(net.state_dict())
    net.fuse(as_it_is)
    for one in (net, plain):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            one.cache(len(x), SLOTS)  # by somebody who only looks
        full = one.cache(len(x), SLOTS)
        with torch.autocast("cpu", torch.bfloat16):
            half = one.cache(len(x), SLOTS)
        for at in range(4):
            now = x[:, at : at + 1]
            y, full = one.extend(now, full, at)
            z, half = one.extend(now, half, at)  # outside
            with torch.autocast("cpu", torch.bfloat16):
                w, half = one.extend(now, half, at)  # inside
            said.append((y, z, w))
    for own, others in zip(said[:4], said[4:], strict=True):
        torch.testing.assert_close(own[0], others[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own[1:], others[1:], rtol=0.03, atol=0.03)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [4, SLOTS])
@pytest.mark.parametrize("others", [True, False])
def test_a_cache_made_before_fusing_goes_on(chunk: int, others: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transformer, "CHUNK", chunk)
    net, x = small(), inputs()
    whole, cache = net(x), net.cache(len(x), SLOTS)
    net.fuse(as_it_is)
    if others:
        net.cache(len(x), SLOTS)  # one of those that come after
    for at in range(6):
        y, cache = net.extend(x[:, at : at + 1], cache, at)
        torch.testing.assert_close(y, whole[:, at : at + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "others", ["", "another compiler", "a wrong CXX", "words in CXX", "an empty CXX", "no headers"]
)
def test_with_nothing_to_compile_with_it_goes_on_as_it_is(others: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """torch.compile calls one compiler, by the name in CXX or else its own, and needs Python's headers."""
    names = {"another compiler": ["tcc"], "": []}.get(others, [COMPILER])
    for name in names:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if "CXX" in others:
        named = {"a wrong CXX": "nowhere/g++", "words in CXX": f"ccache {COMPILER}", "an empty CXX": ""}
        monkeypatch.setenv("CXX", named[others])
    if others == "no headers":
        monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    net = small()
    with pytest.warns(UserWarning, match="it goes on without, the same but slower; install"):
        net.fuse(Compute(torch.device("cpu"), compile=True).compiled)
    assert not net.fused
    has_compiler.cache_clear()


@torch.no_grad()
def test_rows_of_different_sizes_are_each_like_a_row_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transformer, "CHUNK", 4)
    net, x = small(), inputs(2)
    long, short = filled(net, x[:, :7]), filled(net, x[:, :3])
    mixed = pick(torch.tensor([True, False]), long, short)
    assert mixed.size.tolist() == [7, 3]
    out, mixed = net.extend(torch.stack([x[0, 7:9], x[1, 3:5]]), mixed)
    torch.testing.assert_close(out[0], net(x[:1, :9])[0, 7:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1], net(x[1:, :5])[0, 3:], atol=1e-5, rtol=1e-5)
    assert mixed.size.tolist() == [9, 5]


@torch.no_grad()
def test_what_is_behind_size_does_not_count():
    net, x = small(), inputs()
    clean = filled(net, x[:, :4])
    dirty = tree_map(torch.clone, clean)
    for part in dirty.keys + dirty.values:
        part[..., 4:, :] = 1e3
    for at in (4, None):
        out = [net.extend(x[:, 4:6], tree_map(torch.clone, cache), at)[0] for cache in (clean, dirty)]
        assert torch.equal(*out)


@torch.no_grad()
def test_a_clone_branches():
    net, x = small(), inputs()
    trunk = filled(net, x[:, :4])
    branch = tree_map(torch.clone, trunk)
    net.extend(x[:, 8:10], branch, 4)
    out, _ = net.extend(x[:, 4:5], trunk, 4)
    torch.testing.assert_close(out, net(x[:, :5])[:, 4:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_full_cache_takes_no_more():
    net = small()
    with pytest.raises(ValueError, match="2 inputs do not fit behind 11 filled slots of 12"):
        net.extend(inputs(t=2), net.cache(3, SLOTS), 11)


@torch.no_grad()
def test_under_autocast_products_are_bf16_and_the_output_is_not():
    net, x = small(), inputs()
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        whole, cache = net(x), net.cache(3, SLOTS)
        assert {part.dtype for part in cache.keys + cache.values} == {torch.bfloat16}
        out, _ = net.extend(x[:, 8:], net.extend(x[:, :8], cache, 0)[1], 8)
        rows, _ = net.extend(x[:, 8:], net.extend(x[:, :8], net.cache(3, SLOTS))[1])
    assert whole.dtype == out.dtype == torch.float32
    for rough in (whole[:, 8:], out, rows):
        assert (rough - exact[:, 8:]).abs().mean() < 0.03 * exact.abs().mean()


def test_initial_weights():
    torch.manual_seed(0)
    net = Transformer(1, 2, 64).apply(initialise)
    assert net.layers[0].up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not net.layers[0].up.bias.any()
    assert (net.norm.weight == 1).all()
    assert not net.norm.bias.any()


# -- sequences that end early, and dropout -------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[12, 12, 12], [5, 12, 8], [3, 1, 2], [12, 0, 1]])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_sequences_that_end_early_are_each_like_one_alone(
    lengths: list[int], p: float, monkeypatch: pytest.MonkeyPatch
):
    """In outputs and gradients, whatever lies behind, and under the same dropout (of whole keys, to be comparable)."""
    monkeypatch.setattr(attention, "STRIPE", 5)
    monkeypatch.setattr(attention, "kept", lambda shape, share: (torch.arange(shape[-1]) % 3 > 0).short().expand(shape))
    net, x = small(p).double().train(), inputs().double().requires_grad_()

    def told(outputs: list[Tensor]) -> list[Tensor]:
        total = torch.stack([y.sin().sum() for y in outputs]).sum()
        return [total, *torch.autograd.grad(total, [x, *net.parameters()])]

    packed = told([y[:n] for y, n in zip(net(x, lengths), lengths, strict=True)])
    alone = told([net(x[i : i + 1, :n])[0] for i, n in enumerate(lengths) if n])
    torch.testing.assert_close(packed, alone)
    for i, n in enumerate(lengths):
        assert not packed[1][i, n:].any()


@pytest.mark.parametrize("lengths", [[12, 12], [1, 2, 3, 4], [12, 13, 1], []])
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]):
    with pytest.raises(ValueError, match="lengths must be 3 of at most 12, got"):
        small()(inputs(), lengths)


@pytest.mark.parametrize("n", [0, 2])
def test_no_sequence_and_none_that_has_begun_are_no_error(n: int):
    net = small(0.5).train()
    assert net(inputs(n), [0] * n).shape == (n, SLOTS, WIDTH)


@torch.no_grad()
def test_what_is_traced_or_exported_takes_any_number_of_sequences():
    net, x = small(), inputs(5)
    several = {0: torch.export.Dim("several")}
    for form in (
        torch.jit.trace(net, (inputs(3),)),
        torch.export.export(net, (inputs(3),), dynamic_shapes=(several,)).module(),
    ):
        torch.testing.assert_close(form(x), net(x))


def test_dropout_is_off_unless_it_trains():
    net, x = small(0.5), inputs()
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))
