"""The authors' own gradient matching (Witches' Brew): task -> what ours would give.

Their code is no package that could be installed: a checkout of it must be importable, by PYTHONPATH. It
is called as it is; what stands here are the two objects that it asks for nets and rows. Its package
imports torchvision as a whole, for data sets that are not needed here, so that its parts are imported
one by one.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from poison_peers import quietly
from poison_turns import Task
from torch import Tensor, nn

from casemate.core.data import Poison
from casemate.core.learner import trainable
from casemate.ops.rng import generator, seeded

# its defaults, but for one start and no augmentation, as for everybody here
SETTINGS = {
    "ensemble": 1, "local_rank": None, "restarts": 1, "attackoptim": "signAdam", "init": "randn", "tau": 0.1,
    "scheduling": True, "target_criterion": "cross-entropy", "pbatch": 512, "paugment": False, "full_data": False,
    "loss": "similarity", "centreg": 0, "normreg": 0, "repel": 0, "clean_grad": False, "step": False,
    "dryrun": False, "budget": 1.0,
}  # fmt: skip


@quietly
def gradient_matching(task: Task) -> list[Poison]:
    """Witches' Brew by its authors, with one start and rows of the wished class at random, as they choose them."""
    witch = _part("witchcoven.witch_matching").WitchGradientMatching
    args = SimpleNamespace(**SETTINGS, eps=255 * task.eps, attackiter=task.steps)
    made = []
    for i, (aim, own, wish) in enumerate(zip(task.wanted.x, task.wanted.y, task.wanted.wish, strict=True)):
        rows = (task.clean.y == wish).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator(task.seed, "witches", i))[: task.count]]
        kettle = Kettle(task.clean.x[rows], task.clean.y[rows], [(aim, int(own))], int(wish), args)
        with seeded(task.seed + i, aim.device):
            delta = witch(args).brew(Victim(trainable(task.model).net), kettle)
        made.append(Poison(rows, (task.clean.x[rows] + delta).clamp(0, 1), task.clean.y[rows]))
    return made


def _part(name: str) -> Any:
    """Import a part of the checkout without its package's own imports."""
    if "forest" not in sys.modules:
        found = importlib.util.find_spec("forest")
        if found is None or found.submodule_search_locations is None:
            raise ImportError("a checkout of poisoning-gradient-matching on PYTHONPATH")
        package = ModuleType("forest")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["forest"] = package
    return importlib.import_module(f"forest.{name}")


@dataclass
class Kettle:
    """The rows to change, as the authors' code asks for them."""

    x: Tensor
    y: Tensor
    targetset: Sequence[tuple[Tensor, int]]
    wish: int
    args: SimpleNamespace
    dm: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1, 1))
    ds: Tensor = field(default_factory=lambda: torch.ones(1, 1, 1, 1))

    @property
    def poisonset(self) -> Tensor:
        """The rows."""
        return self.x

    @property
    def poison_setup(self) -> dict[str, list[int]]:
        """What is wished for."""
        return {"intended_class": [self.wish]}

    @property
    def poison_lookup(self) -> dict[int, int]:
        """Where a row's change stands."""
        return {i: i for i in range(len(self.x))}

    @property
    def poisonloader(self) -> "Loader":
        """Batches of rows, labels and numbers."""
        return Loader(self.x, self.y, self.args.pbatch)

    def initialize_poison(self) -> Tensor:
        """Draw the first changes, as large as allowed or less."""
        eps = self.args.eps / 255
        return (torch.randn(self.x.shape) * eps).clamp(-eps, eps)


@dataclass
class Loader:
    """Batches in the order of the rows."""

    dataset: Tensor
    y: Tensor
    size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give copies, which are changed in place."""
        for rows in torch.arange(len(self.dataset)).split(self.size):
            yield self.dataset[rows].clone(), self.y[rows], rows

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.size)


@dataclass
class Victim:
    """The net that poisons are made on, as the authors' code asks for it."""

    model: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy

    def eval(self, dropout: bool = True) -> None:
        """Bring the net into evaluation mode."""
        self.model.eval()

    def gradient(
        self, images: Tensor, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Differentiate the loss by the weights, and give the gradient's norm as well."""
        loss = (criterion or self.criterion)(self.model(images), labels)
        grads = torch.autograd.grad(loss, list(self.model.parameters()))
        return grads, torch.stack([g.norm() for g in grads]).norm()

    def compute(self, function: Callable[..., Any], *given: Any) -> Any:
        """Call with the net and its loss; the optimiser is not used."""
        return function(self.model, self.criterion, None, *given)

    def distributed_control(self, *given: Any) -> tuple[Any, ...]:
        """Leave all to one process."""
        return (*given, None)

    def sync_gradients(self, grads: Tensor) -> Tensor:
        """Leave them."""
        return grads
