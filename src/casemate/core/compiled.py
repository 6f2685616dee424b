"""Compiled forward passes for attacks that only ask."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress

import torch
from torch import Tensor, nn

from casemate.core.target import Prepared

Forward = Callable[[Tensor], Tensor]
TOLERANCE = 1e-5  # of a row's largest logit
MANY = 2000  # rows from which compiling a net with convolutions costs less than it saves


def worth_compiling(net: nn.Module, rows: int, /) -> bool:
    """Tell whether a pass over so many rows is worth compiling a net for; one without convolutions is fast as it is."""
    return rows >= MANY and any(isinstance(layer, nn.modules.conv._ConvNd) for layer in net.modules())


def compile_forward(prepared: Prepared, x: Tensor, /) -> Forward | None:
    """Build a faster forward without a graph for a prepared target; None where there is none.

    Tries onnxruntime, then TorchScript, and takes the first that agrees with the exact forward on
    batches of three sizes made from `x` (N, *S), to 1e-5 of each row's largest logit. What is taken
    depends on the net and on what is installed, never on a stopwatch, so that equal commands give
    equal bits. Nets that answer at random or elsewhere, that are not in float32 or not on the CPU
    get none.

    The forward takes batches of any size. Inputs of another precision, shape or device than `x`
    go through the exact forward.
    """
    target = prepared.target
    if not (len(x) and x.dtype is torch.float32 and x.device.type == "cpu"):
        return None
    if not target.differentiable or target.device.type != "cpu":
        return None
    # sizes differ, and so does what is in the batches
    batches = [x, 1 - x[: len(x) // 3 + 1], x.flip(0)[:1]]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        expected = [prepared.exact(batch) for batch in batches]

        def agrees(forward: Forward) -> bool:
            return all(_agree(forward(b), e) for b, e in zip(batches, expected, strict=True))

        if agrees(prepared.exact):
            for compiled in _candidates(prepared, x):
                # one that holds the size of its first batch fails on the next
                with suppress(Exception):
                    if agrees(compiled):
                        return _guarded(compiled, prepared, x.shape[1:])
    return None


def _candidates(prepared: Prepared, x: Tensor) -> Iterator[Forward]:
    for build in BUILDERS:
        try:
            # an exporter that fails prints its graph, which would be read as our own output
            with warnings.catch_warnings(record=True) as said, redirect_stdout(io.StringIO()), _muted():
                warnings.simplefilter("always")
                compiled = build(prepared, x)
        except Exception:  # noqa: S112 - exporters fail in their own ways; such a net runs as it is
            continue
        # a branch taken on a tensor's value was recorded as if it were always taken
        if not any("to a Python" in str(warning.message) for warning in said):
            yield compiled


@contextmanager
def _muted() -> Iterator[None]:
    """Send the process's standard output nowhere: torch's exporter prints in C++, past Python's."""
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


class _Scores(nn.Module):
    """The whole way from x to logits, as a module to trace."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        self.net = prepared.net
        self.prepared = prepared

    def forward(self, x: Tensor) -> Tensor:
        return self.prepared.exact(x)


def _onnx(prepared: Prepared, x: Tensor) -> Forward:
    import onnxruntime

    file = io.BytesIO()
    # the newer exporter needs one more package and takes ten times as long
    torch.onnx.export(
        _Scores(prepared).eval(), (x[:2],), file, dynamo=False,  # type: ignore[arg-type]
        input_names=["x"], output_names=["logits"], dynamic_axes={"x": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {"x": x.detach().contiguous().numpy()})
        return torch.from_numpy(logits)

    return run


def _script(prepared: Prepared, x: Tensor) -> Forward:
    traced = torch.jit.trace(_Scores(prepared).eval(), x[:2], check_trace=False)
    frozen: Forward = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
    # the first calls record and specialise; they are made here, under the warnings' filter
    for size in (2, 1, len(x)):
        frozen(x[:size])
    return frozen


# the fastest first: see benchmarks/forward.py
BUILDERS: tuple[Callable[[Prepared, Tensor], Forward], ...] = (_onnx, _script)


def _guarded(compiled: Forward, prepared: Prepared, shape: torch.Size) -> Forward:
    def forward(x: Tensor) -> Tensor:
        if len(x) and x.dtype is torch.float32 and x.device.type == "cpu" and x.shape[1:] == shape:
            # a net that counts its rows may have been recorded for as many as it was tried on
            with suppress(Exception):
                if len(found := compiled(x)) == len(x):
                    return found
        return prepared.exact(x)

    return forward


def _agree(logits: Tensor, expected: Tensor) -> bool:
    if logits.shape != expected.shape or logits.dtype != expected.dtype or not expected.isfinite().all():
        return False
    gap = (logits - expected).abs().amax(1)
    return bool((gap <= TOLERANCE * expected.abs().amax(1)).all())
