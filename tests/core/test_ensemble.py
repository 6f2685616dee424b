"""Several classifiers answer as one with the mean of their logits."""

import torch
from torch import nn

from casemate.core.ensemble import mean_logits
from casemate.core.target import Classifier, Prepared
from casemate.ops.rng import generator


def test_the_mean_is_over_each_members_own_logits_and_the_members_stay() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
            for _ in range(2)
        ]
    members = [
        Classifier(net, 3, (1, 8, 8), mean=(m,), std=(0.5,)) for net, m in zip(nets, (0.1, 0.3), strict=True)
    ]
    x = torch.rand(5, 1, 8, 8, generator=generator(0))
    wanted = torch.stack([member.predict(x) for member in members]).mean(0)
    whole = mean_logits(members)
    torch.testing.assert_close(whole.predict(x), wanted)
    prepared = Prepared(whole)
    torch.testing.assert_close(prepared.quick(x), wanted)
    # each member pools before it rectifies, and the nets that were given do not
    assert [type(layer) for layer in prepared.net.nets[0][1:3]] == [nn.MaxPool2d, nn.ReLU]
    assert type(nets[0][1]) is nn.ReLU
