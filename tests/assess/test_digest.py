import torch
from torch import nn

from casemate.assess.digest import digest, digest_net, digest_tensors
from casemate.assess.imported import parse_function


def test_parts_do_not_run_into_one_another():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")


def test_name_type_shape_and_bytes_count():
    base = torch.tensor([1.0, 2.0])
    variants = [
        {"a": base},
        {"b": base},
        {"a": base[:, None]},
        {"a": base.double()},
        {"a": base.bfloat16()},
        {"a": torch.tensor([1.0, 2.0000002])},
        {"a": torch.tensor([1.0])[0]},
    ]
    assert len({digest_tensors(v) for v in variants}) == len(variants)


def test_tensors_without_values_have_a_digest_of_their_shape():
    shapes = [(0,), (0, 8, 8), (2, 0)]
    assert len({digest_tensors({"a": torch.zeros(shape)}) for shape in shapes}) == len(shapes)


def test_order_and_memory_layout_do_not_count():
    matrix = torch.arange(6.0).view(2, 3)
    turned = matrix.t().contiguous().t()
    assert digest_tensors({"a": matrix, "b": matrix}) == digest_tensors({"b": turned, "a": turned})


def test_a_changed_activation_changes_the_digest_of_a_net():
    linear = nn.Linear(2, 2)
    assert digest_net(nn.Sequential(linear, nn.ReLU())) != digest_net(nn.Sequential(linear, nn.Tanh()))


class Told(nn.Module):
    def __init__(self, thing: object) -> None:
        super().__init__()
        self.thing = thing

    def extra_repr(self) -> str:
        return f"{self.thing}"


def test_addresses_in_memory_do_not_count():
    one, other = Told(object()), Told(object())
    assert repr(one) != repr(other)
    assert digest_net(one) == digest_net(other)


class Scaled(nn.Module):
    def __init__(self, scale: object) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_a_number_that_is_no_weight_makes_another_model():
    """A net whose logits are scaled so that gradients vanish must not get the answers of the other."""
    scales = [1.0, 1e6, "1.0", torch.ones(1), torch.zeros(1), (1.0,), {"a": 1.0}, torch.relu, torch.tanh]
    assert len({digest_net(Scaled(scale)) for scale in scales}) == len(scales)
    assert digest_net(nn.Sequential(Scaled({"b", "a"}))) == digest_net(nn.Sequential(Scaled({"a", "b"})))


NET = """
from torch import nn
FACTOR = 1
def helper(x):
    return x * FACTOR
class Net(nn.Module):
    def forward(self, x):
        return helper(x)
def net():
    return Net()
"""


def test_a_function_that_forward_calls_belongs_to_the_model(tmp_path):
    file = tmp_path / "own.py"
    seen = []
    for text in (NET, NET.replace("FACTOR = 1", "FACTOR = 2"), NET):
        file.write_text(text)
        seen.append(digest_net(parse_function(f"{file}:net")()))
    assert seen[0] == seen[2] != seen[1]
