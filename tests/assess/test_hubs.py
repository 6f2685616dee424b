"""Other libraries' names, with small stand-ins for the libraries, which are not installed here."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from casemate.assess.targets import load_data, load_model
from casemate.core.data import Samples
from casemate.core.errors import UsageError

DATA = Samples(torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2, 2)


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def net(classes: int = 2) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (lambda: load_model("timm:resnet18", DATA), "timm"),
        (lambda: load_model("hf:someone/model", DATA), "transformers"),
        (lambda: load_data("hf:someone/data"), "datasets"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, call, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs the package {package}: pip install {package}"):
        call()


def test_timm_makes_nets_with_its_own_or_given_weights(monkeypatch, tmp_path):
    asked = []

    def create_model(name: str, **settings: object) -> nn.Module:
        asked.append((name, settings))
        return net(int(settings.get("num_classes", 5)))

    stand_in(monkeypatch, "timm", create_model=create_model)
    assert load_model("timm:small", DATA).classifier.classes == 5
    weights = net().state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    found = load_model(f"timm:small+{tmp_path / 'w.safetensors'}", DATA)
    torch.testing.assert_close(found.classifier.predict(DATA.x), net()(DATA.x).detach())
    assert asked == [("small", {"pretrained": True}), ("small", {"pretrained": False, "num_classes": 2})]


def test_what_timm_says_is_passed_on_in_one_line(monkeypatch):
    def create_model(name: str, **settings: object) -> nn.Module:
        raise RuntimeError("Unknown model\n(small)")

    stand_in(monkeypatch, "timm", create_model=create_model)
    with pytest.raises(UsageError, match=r"^timm cannot make 'small': Unknown model \(small\)\.$"):
        load_model("timm:small", DATA)


def test_transformers_models_are_read_from_disk_only_and_reduced_to_logits(monkeypatch):
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.net(pixel_values))

    def from_pretrained(name: str, *, local_files_only: bool, use_safetensors: bool) -> nn.Module:
        assert (name, local_files_only, use_safetensors) == ("someone/model", True, True)
        return Inner()

    stand_in(
        monkeypatch,
        "transformers",
        AutoModelForImageClassification=SimpleNamespace(from_pretrained=from_pretrained),
    )
    found = load_model("hf:someone/model", DATA)
    torch.testing.assert_close(found.classifier.predict(DATA.x), net()(DATA.x).detach())


def test_datasets_are_read_from_a_folder_and_not_from_the_network(monkeypatch, tmp_path):
    class Picture:
        pass

    class Label:
        names = ("cat", "dog")

    class Rows(dict):
        @property
        def features(self) -> dict[str, object]:
            return {"id": 0, "picture": Picture(), "kind": Label()}

    settings = SimpleNamespace(HF_HUB_OFFLINE=False)

    def load_from_disk(name: str) -> dict[str, Rows]:
        assert settings.HF_HUB_OFFLINE
        return {"train": rows, "validation": rows}

    pictures = [Image.new("RGB", (2, 3), (255, 51 * i, 0)) for i in range(2)]
    rows = Rows(picture=pictures, kind=[1, 0])
    stand_in(
        monkeypatch,
        "datasets",
        Image=Picture,
        ClassLabel=Label,
        DatasetDict=dict,
        config=settings,
        load_from_disk=load_from_disk,
    )
    found = load_data(f"hf:{tmp_path}")
    assert not settings.HF_HUB_OFFLINE
    assert found.test.names == ("cat", "dog")
    assert found.test.y.tolist() == [1, 0]
    torch.testing.assert_close(found.train.x[1, :, 0, 0], torch.tensor([1.0, 0.2, 0.0]))
