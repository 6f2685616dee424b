import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from casemate.assess.datasets import LoadedData
from casemate.assess.targets import load_model, load_recipe
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Misclassify
from casemate.ops.rng import generator

IMAGES = Samples(torch.rand(12, 3, 6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4, 4)
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 4 * 3, classes)
    def forward(self, x):
        return self.head(self.conv(x).relu().flatten(1))

def build():
    torch.default_generator.manual_seed(5)
    return Net()

def wide():
    return Net(6)

def narrow():
    return Net(3)

def softmax():
    return nn.Sequential(build(), nn.Softmax(1))

def one_score():
    return nn.Sequential(Net(1), nn.Flatten(0))

def wants_grey():
    return nn.Conv2d(1, 2, 3)

class Twice(Net):
    def forward(self, x):
        return {"logits": super().forward(x)}

def mapping():
    return Twice()

def broken():
    net = build()
    net.head.bias.data.fill_(float("nan"))
    return net

class Stuck(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 90))
    def forward(self, x):
        return x.flatten(1) @ self.weight.T

def stuck():
    return Stuck()

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def private_randomness():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return str(tmp_path / "nets.py")


def refusal(spec: object, data: Samples = IMAGES, **settings: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_model(spec, data, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def built(file: str) -> nn.Module:
    return load_model(f"{file}:build", IMAGES).classifier.net


def test_a_function_that_builds_a_net_gives_a_target(file):
    found = load_model(f"{file}:build", IMAGES)
    assert (found.classifier.classes, found.classifier.shape) == (4, (3, 6, 5))
    assert found.flags == ()
    assert found.classifier.differentiable
    assert not found.classifier.net.training


def test_normalisation_is_declared_once_and_not_applied_to_what_is_normalised_inside(file):
    """The net sees (low + (high - low) x - mean) / std: compare with the same sum done by hand."""
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = load_model(f"{file}:build", IMAGES, bounds=(-1, 1), mean=mean, std=std)
    x = 2 * IMAGES.x - 1
    by_hand = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(found.classifier.predict(IMAGES.x), built(file)(by_hand).detach())


def test_a_made_net_takes_raw_inputs_although_its_architecture_does_not(file):
    found = load_model(f"{file}:build", IMAGES, bounds=(-1, 1), mean=(0.1,), std=(0.5,))
    net = found.make()
    net.load_state_dict(found.classifier.net.state_dict())
    torch.testing.assert_close(net(IMAGES.x).detach(), found.classifier.predict(IMAGES.x))


def test_a_made_net_is_untrained(file):
    found = load_model(f"{file}:build", IMAGES)
    torch.default_generator.manual_seed(1)
    first, second = found.make(), found.make()
    weights = [net.conv.weight for net in (found.classifier.net, first, second)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_the_maker_travels_to_another_process(file, tmp_path):
    make = load_model(f"{file}:build", IMAGES, mean=(0.1,), std=(0.5,)).make
    (tmp_path / "make.pickle").write_bytes(pickle.dumps(make))
    code = (
        f"import pickle; print(type(pickle.load(open({str(tmp_path / 'make.pickle')!r}, 'rb'))()).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "Net"


def test_a_net_whose_weights_cannot_be_drawn_anew_has_no_maker_and_says_so(file):
    found = load_model(f"{file}:stuck", IMAGES)
    assert found.make is None
    assert [(f.code, "Stuck" in f.detail) for f in found.flags] == [("no-recipe", True)]


def test_more_classes_than_labels_are_told_and_fewer_are_refused(file):
    assert [f.code for f in load_model(f"{file}:wide", IMAGES).flags] == ["more-classes"]
    assert "must know every label of the data, 0 .. 3. It returns 3 scores" in refusal(f"{file}:narrow")
    assert "must return 5 scores per input. It returns 4" in refusal(f"{file}:build", classes=5)


def test_probabilities_are_noticed_and_turned_into_logits(file):
    found = load_model(f"{file}:softmax", IMAGES)
    assert [f.code for f in found.flags] == ["probabilities"]
    logits = load_model(f"{file}:build", IMAGES).classifier.predict(IMAGES.x)
    torch.testing.assert_close(found.classifier.predict(IMAGES.x), logits.log_softmax(1))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "one_score",
            "scores (N, K), here (8, K). It returns shape (8,). A single score per input must become two",
        ),
        ("wants_grey", "failed on a batch of shape (8, 3, 6, 5): RuntimeError"),
        ("mapping", "must return a tensor of scores (N, K). It returns a dict"),
        ("broken", "must return finite numbers"),
        ("number", "must return an nn.Module. Got a int"),
        ("absent", "names a function that does not exist"),
    ],
)
def test_models_that_cannot_be_judged_are_refused_in_one_line(file, name, told):
    assert told in refusal(f"{file}:{name}")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bounds": (1.0, 0.0)}, "--bounds must be LOW,HIGH with LOW < HIGH. Got 1,0"),
        ({"mean": (0.5,)}, "--mean and --std must be given together"),
        (
            {"mean": (0.5, 0.5), "std": (1.0,)},
            "--mean must have one number per channel, 3 here, or one. Got 2",
        ),
        ({"mean": (0.5,), "std": (0.0,)}, "--std must be above 0. Got 0"),
        ({"device": "tpu9"}, "--device must be auto, cpu, cuda or cuda:N. Got 'tpu9'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(file, settings, told):
    assert told in refusal(f"{file}:build", **settings)


def test_a_net_in_memory_is_judged_as_it_is(file):
    net = built(file)
    found = load_model(net, IMAGES)
    assert found.classifier.net is net
    assert found.name == "Net"
    declared = load_model(Classifier(net, 4, (3, 6, 5), mean=(0.5,), std=(2.0,)), IMAGES)
    assert declared.classifier.mean == (0.5,)
    assert "this model declares its own" in refusal(declared.classifier, mean=(0.5,), std=(2.0,))
    assert "Got a int" in refusal(3)


def test_the_digest_follows_weights_code_and_normalisation(file, tmp_path):
    base = load_model(f"{file}:build", IMAGES).digest
    assert load_model(built(file), IMAGES).digest == base
    other = tmp_path / "other.py"
    other.write_text(NETS.replace(".relu()", ".sigmoid()"))
    net = built(file)
    with torch.no_grad():
        net.head.bias[0] += 1e-6
    changed = [
        load_model(f"{other}:build", IMAGES).digest,
        load_model(net, IMAGES).digest,
        load_model(f"{file}:build", IMAGES, mean=(0.5,), std=(1.0,)).digest,
        load_model(f"{file}:build", IMAGES, bounds=(0, 255)).digest,
    ]
    assert len({base, *changed}) == 5


def test_weights_come_from_safetensors(file, tmp_path):
    net = built(file)
    with torch.no_grad():
        net.head.bias += 1
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    found = load_model(f"{file}:build+{tmp_path / 'weights.safetensors'}", IMAGES)
    torch.testing.assert_close(found.classifier.predict(IMAGES.x), net(IMAGES.x).detach())
    assert found.make is not None


def test_weights_that_do_not_fit_are_refused_and_named(file, tmp_path):
    state = built(file).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file({k: v for k, v in state.items() if k != "head.bias"} | {"tail.bias": torch.zeros(4)}, path)
    message = refusal(f"{file}:build+{path}")
    assert "It lacks 'head.bias'." in message
    assert "It has 'tail.bias', which the net has not" in message
    save_file(state | {"head.bias": torch.zeros(7)}, path)
    assert "'head.bias' must be (4,). Got (7,)" in refusal(f"{file}:build+{path}")
    path.write_bytes(b"x" * 100)
    assert "must be a safetensors file" in refusal(f"{file}:build+{path}")
    assert "does not exist" in refusal(f"{file}:build+{tmp_path / 'none.safetensors'}")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("old_form", [True, False])
def test_pickles_are_never_opened_and_the_way_out_is_named(file, tmp_path, whole, old_form):
    net = built(file)
    path = tmp_path / "model.pt"
    torch.save(net if whole else net.state_dict(), path, _use_new_zipfile_serialization=not old_form)
    for spec in (f"{file}:build+{path}", str(path)):
        message = refusal(spec)
        assert "a pickle can run any code when it is opened" in message
        assert "safetensors.torch.save_file" in message


def test_a_pickle_named_safetensors_is_not_opened(file, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    assert "a pickle can run any code" in refusal(f"{file}:build+{path}")


def test_weights_alone_need_an_architecture(file, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    assert "holds weights only; give --model file.py:function+" in refusal(str(tmp_path / "w.safetensors"))
    assert "need an architecture before the '+'" in refusal(f"whatever+{tmp_path / 'w.safetensors'}")


def save_torchscript(net: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, IMAGES.x).save(str(path))


def test_torchscript_is_opened_and_gives_gradients(file, tmp_path):
    net = built(file).eval()
    save_torchscript(net, tmp_path / "model.pt")
    found = load_model(str(tmp_path / "model.pt"), IMAGES)
    same_as(found.classifier, net)
    assert found.make is None


def export(net: nn.Module, path: Path, *, fixed: bool) -> None:
    shapes = None if fixed else ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(net.eval(), (IMAGES.x[:5],), dynamic_shapes=shapes), path)


@pytest.mark.parametrize("fixed", [True, False])
def test_exported_programs_are_opened_whatever_their_batch_size(file, tmp_path, fixed):
    net = built(file)
    export(net, tmp_path / "model.pt2", fixed=fixed)
    same_as(load_model(str(tmp_path / "model.pt2"), IMAGES).classifier, net)


def same_as(target: Classifier, net: nn.Module) -> None:
    """Answers and input gradients of a prepared target are those of the net."""
    goal = Misclassify(IMAGES.y)
    given = GradientOracle(Prepared(target), len(IMAGES)).gradient(IMAGES.x, goal)
    x = IMAGES.x.clone().requires_grad_()
    goal.loss(net(x)).sum().backward()
    torch.testing.assert_close(given.logits, net(IMAGES.x).detach())
    torch.testing.assert_close(given.grad, x.grad)


def test_an_exported_program_for_other_inputs_is_refused(file, tmp_path):
    export(built(file), tmp_path / "model.pt2", fixed=False)
    other = Samples(torch.rand(4, 3, 7, 7), torch.arange(4), 4)
    assert "failed on a batch of shape (4, 3, 7, 7)" in refusal(str(tmp_path / "model.pt2"), other)


def save_onnx(net: nn.Module, path: Path, *, batch: int | str = "n", last: bool = False) -> None:
    """Write the ONNX graph of the test net by hand, in either order of axes."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = [numpy_helper.from_array(v.numpy(), name) for name, v in net.state_dict().items()]
    shape = [batch, 6, 5, 3] if last else [batch, 3, 6, 5]
    nodes = [
        *([helper.make_node("Transpose", ["x"], ["z"], perm=[0, 3, 1, 2])] if last else []),
        helper.make_node("Conv", ["z" if last else "x", "conv.weight", "conv.bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["out"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 4])],
        weights,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


@pytest.mark.parametrize(("batch", "last"), [("n", False), (1, False), (5, False), ("n", True)])
def test_onnx_answers_queries_whatever_its_batch_size_and_order_of_axes(file, tmp_path, batch, last):
    pytest.importorskip("onnxruntime")
    net = built(file)
    save_onnx(net, tmp_path / "model.onnx", batch=batch, last=last)
    found = load_model(str(tmp_path / "model.onnx"), IMAGES)
    torch.testing.assert_close(found.classifier.predict(IMAGES.x), net(IMAGES.x).detach())
    assert not found.classifier.differentiable
    assert "queries-only" in [f.code for f in found.flags]


def test_a_gradient_of_a_target_that_only_answers_is_not_applicable(file, tmp_path):
    pytest.importorskip("onnxruntime")
    save_onnx(built(file), tmp_path / "model.onnx")
    target = load_model(str(tmp_path / "model.onnx"), IMAGES).classifier
    with pytest.raises(NotApplicable, match="answers queries only"):
        GradientOracle(Prepared(target), len(IMAGES)).gradient(IMAGES.x, Misclassify(IMAGES.y))


def test_onnx_for_other_inputs_is_refused(file, tmp_path):
    pytest.importorskip("onnxruntime")
    save_onnx(built(file), tmp_path / "model.onnx")
    other = Samples(torch.rand(4, 3, 7, 7), torch.arange(4), 4)
    assert "takes inputs of shape (3, 6, 5). The data has (3, 7, 7)" in refusal(
        str(tmp_path / "model.onnx"), other
    )
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert "cannot be opened as ONNX" in refusal(str(tmp_path / "model.onnx"))


def test_the_digest_of_a_file_is_that_of_its_bytes(file, tmp_path):
    pytest.importorskip("onnxruntime")
    for name, shift in (("a", 0.0), ("b", 0.0), ("c", 1.0)):
        net = built(file)
        with torch.no_grad():
            net.head.bias += shift
        save_onnx(net, tmp_path / f"{name}.onnx")
    a, b, c = (load_model(str(tmp_path / f"{name}.onnx"), IMAGES).digest for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("nowhere.pt2", "Got 'nowhere.pt2', and there is no such file"),
        ("builtin:resnet", "The built-in models are fashion-cnn, fashion-cnn-robust. Got 'resnet'"),
        ("timm:no_such_model_at_all", "tim"),
        ("hf:no-such-model-at-all", "transformers"),
    ],
)
def test_specifications_that_lead_nowhere_are_refused(spec, told):
    assert told in refusal(spec)


def test_a_python_file_without_a_function_gets_a_hint(file):
    assert "Did you mean 'file.py:function'?" in refusal(file)


DATA = LoadedData(IMAGES, IMAGES, "test", "0")


def test_the_usual_recipe_is_a_stand_in_and_says_so(file):
    recipe, flags = load_recipe(None, load_model(f"{file}:build", IMAGES), DATA)
    assert [f.code for f in flags] == ["surrogate-recipe"]
    trained = recipe(IMAGES, rng=generator(0))
    assert trained.classes == 4


def test_settings_change_the_usual_recipe(file):
    recipe, flags = load_recipe("epochs=3, lr=0.01", load_model(f"{file}:build", IMAGES), DATA)
    assert (recipe.epochs, recipe.lr, flags) == (3, 0.01, [])


def test_the_digest_of_a_recipe_follows_the_code_of_its_net(file, tmp_path):
    other = tmp_path / "nets2.py"
    other.write_text(NETS.replace(".relu()", ".sigmoid()"))
    digests = set()
    for path in (file, file, str(other)):
        model = load_model(f"{path}:build", IMAGES)
        recipe, _ = load_recipe(None, model, DATA)
        digests.add(Recipe(recipe.make, recipe.name.removeprefix(model.name)).digest())
    assert len(digests) == 2


def test_a_recipe_of_the_user_is_used_as_it_is(tmp_path, file):
    (tmp_path / "mine.py").write_text(
        "from functools import partial\n"
        "from casemate import Recipe\n"
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Flatten(), nn.Linear(90, 4))\n"
        "def recipe(): return Recipe(net, 'mine', epochs=7)\n"
        "def wrong(): return 3\n"
    )
    recipe, _ = load_recipe(f"{tmp_path / 'mine.py'}:recipe", load_model(f"{file}:build", IMAGES), DATA)
    assert recipe.epochs == 7
    with pytest.raises(UsageError, match=r"must return a casemate\.Recipe\. Got a int"):
        load_recipe(f"{tmp_path / 'mine.py'}:wrong", load_model(f"{file}:build", IMAGES), DATA)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("epoch=3", "--recipe knows the settings epochs, batch, lr, weight_decay. Got 'epoch=3'"),
        ("epochs=many", "The 'epochs' of --recipe must be a whole number. Got 'many'"),
        ("lr=0", "The 'lr' of --recipe must be above 0. Got 0"),
    ],
)
def test_settings_that_are_none_are_refused(file, spec, told):
    with pytest.raises(UsageError) as caught:
        load_recipe(spec, load_model(f"{file}:build", IMAGES), DATA)
    assert told in str(caught.value)


def test_nothing_is_trained_without_training_data_or_maker(file):
    without_data = LoadedData(None, IMAGES, "test", "0")
    assert load_recipe(None, load_model(f"{file}:build", IMAGES), without_data) == (None, [])
    with pytest.raises(UsageError, match="the model cannot be trained anew"):
        load_recipe("epochs=3", load_model(f"{file}:stuck", IMAGES), DATA)
