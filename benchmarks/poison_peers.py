"""ART's poisons and screenings: task -> what ours would give.

It is imported when it is run, so that a missing library is skipped with its reason; no code of it is
here. It crafts for one aim at a time.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from poison_turns import Task
from torch import Tensor

from casemate.core.bases import nearest
from casemate.core.data import Poison
from casemate.core.features import halves
from casemate.core.learner import trainable

BATCH = 125


def quietly(run: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a peer's progress bars to itself."""

    @functools.wraps(run)
    def quiet(*given: Any, **settings: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return run(*given, **settings)

    return quiet


@quietly
def bullseye(task: Task, *, lr: float) -> list[Poison]:
    """Bullseye Polytope, on the rows that ours takes."""
    from art.attacks.poisoning import BullseyePolytopeAttackPyTorch

    def craft(aim: Any, base: Any, label: Any) -> Any:
        attack = BullseyePolytopeAttackPyTorch(
            _art(task), aim, _layer(task), max_iter=task.steps, learning_rate=lr, epsilon=task.eps,
            batch_size=BATCH, verbose=False,
        )  # fmt: skip
        return attack.poison(base, label)[0]

    return _each(task, craft)


@quietly
def feature_collision(task: Task) -> list[Poison]:
    """Feature collision, on the rows that ours takes; it knows no eps, to which the judge cuts it."""
    from art.attacks.poisoning import FeatureCollisionAttack

    def craft(aim: Any, base: Any, label: Any) -> Any:
        attack = FeatureCollisionAttack(_art(task), aim, _layer(task), max_iter=task.steps, verbose=False)
        return attack.poison(base)[0]

    return _each(task, craft)


@quietly
def gradient_matching(task: Task) -> list[Poison]:
    """Witches' Brew with one start."""
    from art.attacks.poisoning import GradientMatchingAttack

    made, wish = [], task.wanted.wish.numpy()
    for i, aim in enumerate(task.wanted.x.numpy()):
        attack = GradientMatchingAttack(
            _art(task), (task.count + 0.5) / len(task.clean), task.eps, max_trials=1, max_epochs=task.steps,
            learning_rate_schedule=_falls(task.steps), batch_size=BATCH, verbose=0,
        )  # fmt: skip
        x, _ = attack.poison(aim[None], wish[i : i + 1], task.clean.x.numpy(), task.clean.y.numpy())
        made.append(_changed(task, x))
    return made


@quietly
def sleeper_agent(task: Task, *, patch: int, sources: int, retrainings: int) -> list[Poison]:
    """Sleeper Agent with one start, retrained for as many epochs as our recipe has."""
    from art.attacks.poisoning import SleeperAgentAttack

    assert task.mark is not None
    x, y, own = task.clean.x.numpy(), _one_hot(task.clean.y, task), (task.clean.y == 1).nonzero().flatten()
    other = (task.clean.y == 0).nonzero().flatten()[:sources]
    mark = task.mark(torch.zeros(1, *task.clean.shape))[0, :, -patch:, -patch:].numpy()
    attack = SleeperAgentAttack(
        _art(task), (task.count + 0.5) / len(own), mark, own.numpy(), task.eps, max_trials=1,
        max_epochs=task.steps, learning_rate_schedule=_falls(task.steps), batch_size=BATCH, verbose=0,
        patching_strategy="fixed", selection_strategy="max-norm", model_retrain=retrainings > 0,
        retraining_factor=retrainings + 1, model_retraining_epoch=task.recipe.epochs, class_source=0,
        class_target=1, retrain_batch_size=task.recipe.batch,
    )  # fmt: skip
    wish = _one_hot(torch.ones_like(other), task)
    made, _ = attack.poison(x[other.numpy()], wish, x, y, task.test.x.numpy(), _one_hot(task.test.y, task))
    return [_changed(task, made)]


@quietly
def hidden_trigger(task: Task, *, lr: float) -> list[Poison]:
    """Hidden trigger: rows of class 1 collide with marked rows of class 0."""
    from art.attacks.poisoning import HiddenTriggerBackdoorPyTorch

    source, target = np.eye(task.clean.classes, dtype=np.float32)[:2]
    attack = HiddenTriggerBackdoorPyTorch(
        _art(task), target=target, source=source, feature_layer=_layer(task), backdoor=_mark(task),
        eps=task.eps, learning_rate=lr, max_iter=task.steps, batch_size=BATCH, verbose=False,
        poison_percent=(task.count - 0.5) / int((task.clean.y == 1).sum()),
    )  # fmt: skip
    x, rows = attack.poison(task.clean.x.numpy(), _one_hot(task.clean.y, task))
    chosen = torch.from_numpy(rows)
    return [Poison(chosen, torch.from_numpy(x), task.clean.y[chosen])]


@quietly
def clean_label(task: Task) -> list[Poison]:
    """Clean-label backdoor by PGD from a random start; rows are drawn with replacement."""
    from art.attacks.poisoning import PoisoningAttackCleanLabelBackdoor

    attack = PoisoningAttackCleanLabelBackdoor(
        _mark(task), _art(task), np.eye(task.clean.classes, dtype=np.float32)[1],
        pp_poison=(task.count + 0.5) / int((task.clean.y == 1).sum()), eps=task.eps,
        eps_step=2.5 * task.eps / task.steps, max_iter=task.steps, num_random_init=1,
    )  # fmt: skip
    attack.attack.set_params(batch_size=BATCH, verbose=False)
    return [_changed(task, attack.poison(task.clean.x.numpy(), _one_hot(task.clean.y, task))[0])]


@quietly
def spectral(task: Task, *, expected: float) -> Tensor:
    """Spectral signatures."""
    from art.defences.detector.poison import SpectralSignatureDefense

    y = _one_hot(task.clean.y, task)
    defence = SpectralSignatureDefense(_art(task), task.clean.x.numpy(), y, expected, BATCH)
    return torch.tensor(defence.detect_poison()[1]).bool()


@quietly
def activation_defence(task: Task, *, analysis: str) -> Tensor:
    """Activation clustering."""
    from art.defences.detector.poison import ActivationDefence

    defence = ActivationDefence(_art(task), task.clean.x.numpy(), _one_hot(task.clean.y, task))
    return torch.tensor(defence.detect_poison(cluster_analysis=analysis)[1]).bool()


def _art(task: Task) -> Any:
    from art.estimators.classification import PyTorchClassifier

    net = trainable(task.model).net
    return PyTorchClassifier(
        net, torch.nn.CrossEntropyLoss(), task.clean.shape, task.clean.classes, clip_values=(0.0, 1.0),
        optimizer=torch.optim.Adam(net.parameters(), lr=task.recipe.lr), device_type="cpu",
    )  # fmt: skip


def _layer(task: Task) -> str:
    """Name what comes before the layer that classifies; the nets are sequences."""
    return str(int(halves(task.model).path) - 1)


def _mark(task: Task) -> Any:
    from art.attacks.poisoning import PoisoningAttackBackdoor

    mark = task.mark
    assert mark is not None
    return PoisoningAttackBackdoor(lambda x: mark(torch.from_numpy(x)).numpy())


def _each(task: Task, craft: Callable[[Any, Any, Any], Any]) -> list[Poison]:
    """Craft for one aim after the other, from the rows of the wished class nearest in features."""
    model = halves(task.model)
    rows = nearest(task.clean, model.known(task.clean.x), task.wanted, model.known(task.wanted.x), task.count)
    made = []
    for aim, chosen in zip(task.wanted.x, rows, strict=True):
        y = task.clean.y[chosen]
        x = craft(aim[None].numpy(), task.clean.x[chosen].numpy(), _one_hot(y, task))
        made.append(Poison(chosen, torch.from_numpy(x).float(), y))
    return made


def _changed(task: Task, x: Any) -> Poison:
    """Find the rows that a whole poisoned set differs in."""
    made = torch.from_numpy(np.asarray(x, dtype=np.float32))
    rows = (made != task.clean.x).flatten(1).any(1).nonzero().flatten()
    return Poison(rows, made[rows], task.clean.y[rows])


def _falls(steps: int) -> tuple[list[float], list[int]]:
    """Its own learning rates, at the same shares of the steps."""
    return [1e-1, 1e-2, 1e-3, 1e-4], [share * steps // 250 for share in (100, 150, 200, 220)]


def _one_hot(y: Tensor, task: Task) -> Any:
    return torch.nn.functional.one_hot(y, task.clean.classes).float().numpy()
