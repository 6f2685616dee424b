"""Attacks of other libraries behind one signature: (counted net, task) -> candidates.

Libraries are imported when they are run, so that a missing one is skipped with its reason. No code
of theirs is here.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from contest import Counted, Run, Task
from torch import Tensor

LIBRARIES = {
    "torchattacks": "torchattacks",
    "Foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
    "CleverHans": "cleverhans",
    "AutoAttack": "autoattack",
}


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for name, package in LIBRARIES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "from source" if importlib.util.find_spec(package.split("-")[0]) else "missing"
    return found


def _batches(attack: Any, task: Task) -> Tensor:
    parts = zip(task.x.split(task.batch), task.y.split(task.batch), strict=True)
    return torch.cat([attack(x, y) for x, y in parts])


class _Single(torch.nn.Module):
    """A net that takes float64 as float32: with numpy 2 some attacks of ART hand it such numbers."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.float())
        return out


def _art(net: torch.nn.Module, task: Task) -> Any:
    from art.estimators.classification import PyTorchClassifier

    classes = task.net(task.x[:1]).shape[1]
    return PyTorchClassifier(
        net, torch.nn.CrossEntropyLoss(), tuple(task.x.shape[1:]), classes, clip_values=(0.0, 1.0),
        device_type="cpu",
    )  # fmt: skip


def torchattacks_pgd(steps: int, step_size: float) -> Run:
    """PGD of torchattacks."""

    def run(net: Counted, task: Task) -> Tensor:
        import torchattacks

        return _batches(torchattacks.PGD(net, eps=task.eps, alpha=step_size, steps=steps), task)

    return run


def foolbox_pgd(steps: int, step_size: float) -> Run:
    """Linf PGD of Foolbox."""

    def run(net: Counted, task: Task) -> Tensor:
        import foolbox

        model = foolbox.PyTorchModel(net, bounds=(0, 1))
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
        return _batches(lambda x, y: attack(model, x, y, epsilons=task.eps)[1], task)

    return run


def art_pgd(steps: int, step_size: float) -> Run:
    """PGD of ART, with labels."""

    def run(net: Counted, task: Task) -> Tensor:
        from art.attacks.evasion import ProjectedGradientDescent

        attack = ProjectedGradientDescent(
            _art(net, task), eps=task.eps, eps_step=step_size, max_iter=steps, num_random_init=1,
            batch_size=task.batch, verbose=False,
        )  # fmt: skip
        return torch.from_numpy(attack.generate(task.x.numpy(), task.y.numpy()))

    return run


def cleverhans_pgd(steps: int, step_size: float) -> Run:
    """PGD of CleverHans."""

    def run(net: Counted, task: Task) -> Tensor:
        from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

        def attack(x: Tensor, y: Tensor) -> Tensor:
            return projected_gradient_descent(
                net, x, task.eps, step_size, steps, np.inf, clip_min=0, clip_max=1, y=y, sanity_checks=False
            ).detach()

        return _batches(attack, task)

    return run


def torchattacks_square(queries: int) -> Run:
    """Square of torchattacks."""

    def run(net: Counted, task: Task) -> Tensor:
        import torchattacks

        return _batches(torchattacks.Square(net, norm="Linf", eps=task.eps, n_queries=queries), task)

    return run


def official_square(queries: int) -> Run:
    """Square as AutoAttack has it."""

    def run(net: Counted, task: Task) -> Tensor:
        from autoattack.square import SquareAttack

        attack = SquareAttack(
            net,
            n_queries=queries,
            eps=task.eps,
            norm="Linf",
            seed=task.seed,
            device="cpu",
            resc_schedule=True,
        )
        with torch.no_grad():
            return _batches(attack.perturb, task)

    return run


def art_square(queries: int) -> Run:
    """Square of ART, with labels."""

    def run(net: Counted, task: Task) -> Tensor:
        from art.attacks.evasion import SquareAttack

        attack = SquareAttack(
            _art(net, task), eps=task.eps, max_iter=queries, p_init=0.8, batch_size=task.batch, verbose=False
        )
        return torch.from_numpy(attack.generate(task.x.numpy(), task.y.numpy()))

    return run


def foolbox_ddn(steps: int) -> Run:
    """DDN of Foolbox, for the nearest example."""

    def run(net: Counted, task: Task) -> Tensor:
        import foolbox

        model = foolbox.PyTorchModel(net, bounds=(0, 1))
        attack = foolbox.attacks.DDNAttack(steps=steps)
        return _batches(lambda x, y: attack(model, x, y, epsilons=None)[0], task)

    return run


def cleverhans_cw(searches: int, steps: int, lr: float) -> Run:
    """Carlini and Wagner's L2 attack of CleverHans."""

    def run(net: Counted, task: Task) -> Tensor:
        from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

        classes = task.net(task.x[:1]).shape[1]

        def attack(x: Tensor, y: Tensor) -> Tensor:
            return carlini_wagner_l2(
                net, x, classes, y, lr=lr, binary_search_steps=searches, max_iterations=steps
            ).detach()

        return _batches(attack, task)

    return run


def foolbox_hop_skip_jump(steps: int, norm: str) -> Run:
    """HopSkipJump of Foolbox, for the nearest example."""

    def run(net: Counted, task: Task) -> Tensor:
        import foolbox

        model = foolbox.PyTorchModel(net, bounds=(0, 1))
        attack = foolbox.attacks.HopSkipJumpAttack(steps=steps, constraint=norm)
        return _batches(lambda x, y: attack(model, x, y, epsilons=None)[0], task)

    return run


def art_hop_skip_jump(steps: int, norm: str) -> Run:
    """HopSkipJump of ART, with labels; it takes one image at a time, and its probes in batches."""

    def run(net: Counted, task: Task) -> Tensor:
        from art.attacks.evasion import HopSkipJump

        attack = HopSkipJump(
            _art(_Single(net), task),
            batch_size=task.batch,
            norm=2 if norm == "l2" else np.inf,
            max_iter=steps,
            verbose=False,
        )
        return torch.from_numpy(attack.generate(task.x.numpy(), task.y.numpy()))

    return run


def official_autoattack(steps: int, queries: int) -> Run:
    """Standard AutoAttack by its authors; `steps` and `queries` are 100 and 5,000 in the paper."""

    def run(net: Counted, task: Task) -> Tensor:
        from autoattack import AutoAttack

        attack = AutoAttack(net, norm="Linf", eps=task.eps, device="cpu", verbose=False, seed=0)
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter = steps
        attack.square.n_queries = queries
        return attack.run_standard_evaluation(task.x, task.y, bs=task.batch)

    return run
