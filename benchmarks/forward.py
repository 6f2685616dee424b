"""Measure how much faster the compiled forward is than the plain one.

python benchmarks/forward.py
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from casemate.builtin.nets import small_cnn, small_mlp
from casemate.core import compiled
from casemate.core.target import Classifier, Prepared

BATCHES = (250, 125, 30, 8, 1)
NETS = {
    "small_cnn 1x28x28": ((1, 28, 28), small_cnn((1, 28, 28), 10)),
    "small_cnn 3x32x32": ((3, 32, 32), small_cnn((3, 32, 32), 10, width=32)),
    "small_mlp 784": ((784,), small_mlp((784,), 10)),
    "small_mlp 30": ((30,), small_mlp((30,), 2, hidden=32)),
}


def table(repeats: int) -> str:
    """Microseconds per row of each forward without a graph, and what is gained over the plain one."""
    lines = [
        "| net | batch | plain µs | channels-last | TorchScript | onnxruntime |",
        "|---|---|---|---|---|---|",
    ]
    for name, (shape, net) in NETS.items():
        forwards = _forwards(net.eval(), shape)
        for batch in BATCHES:
            x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(batch))
            seconds = _interleaved(forwards, x, repeats)
            plain = seconds["plain"]
            gains = [
                f"{plain / seconds[k]:.1f}x" if k in seconds else "-" for k in ("exact", "_script", "_onnx")
            ]
            lines.append(f"| {name} | {batch} | {plain / batch * 1e6:.1f} | {' | '.join(gains)} |")
    return "\n".join(lines)


def _forwards(net: nn.Module, shape: tuple[int, ...]) -> dict[str, Callable[[Tensor], Tensor]]:
    prepared = Prepared(Classifier(net, 10, shape))
    x = torch.rand(64, *shape, generator=torch.Generator().manual_seed(0))
    forwards: dict[str, Callable[[Tensor], Tensor]] = {"plain": net, "exact": prepared.exact}
    builders = compiled.BUILDERS
    for build in builders:
        compiled.BUILDERS = (build,)
        fast = compiled.compile_forward(prepared, x)
        if fast is not None:
            forwards[build.__name__] = fast
    compiled.BUILDERS = builders
    return forwards


def _interleaved(
    forwards: dict[str, Callable[[Tensor], Tensor]], x: Tensor, repeats: int
) -> dict[str, float]:
    best = dict.fromkeys(forwards, float("inf"))
    calls = max(3, 500 // len(x))
    with torch.no_grad():
        for _ in range(repeats):
            for name, forward in forwards.items():
                forward(x)
                start = time.process_time()
                for _ in range(calls):
                    forward(x)
                best[name] = min(best[name], (time.process_time() - start) / calls)
    return best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table(options.repeats))


if __name__ == "__main__":
    main()
