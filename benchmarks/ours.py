"""casemate behind the same signature as the peers."""

import math
from collections.abc import Sequence

import torch
from contest import Counted, Run, Task
from torch import Tensor

from casemate.assess.families.evasion import attempt
from casemate.assess.plan import Ask
from casemate.core.bfloat16 import bfloat16_copy
from casemate.core.compiled import compile_forward
from casemate.core.registry import find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp, Misclassify


def ours(asks: Sequence[Ask], *, compiled: bool = False, bfloat16: bool = False) -> Run:
    """Run methods one after the other, each on what the ones before left standing.

    Laying out and compiling the private copy of the net is part of the time. Methods that ask for
    gradients in every pass have no use for a compiled forward.
    """

    def run(net: Counted, task: Task) -> Tensor:
        prepared = Prepared(Classifier(task.net, task.net(task.x[:1]).shape[1], tuple(task.x.shape[1:])))
        if compiled:
            prepared.fast = compile_forward(prepared, task.x[:64])
        if bfloat16:
            prepared.cheap = bfloat16_copy(prepared, task.x[:64])
        budget = Lp(norm=task.norm, eps=task.eps)
        x_adv, todo = task.x.clone(), torch.arange(len(task.x))
        for ask in asks:
            standing = []
            for rows in todo.split(task.batch):
                found = attempt(
                    find(ask.method), prepared, task.x[rows], Misclassify(task.y[rows]), budget,
                    params=find(ask.method).validate(ask.params), numbers=rows, seed=task.seed,
                    nearest=math.isinf(task.eps),
                )  # fmt: skip
                net.forwards += int(found.ledger.queries.sum())
                net.backwards += int(found.ledger.gradients.sum())
                x_adv[rows[found.fooled]] = found.x_adv[found.fooled]
                standing.append(rows[~found.fooled])
            todo = torch.cat(standing) if standing else todo
        return x_adv

    return run
