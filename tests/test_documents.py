"""What the documents say must work."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from casemate.assess.plan import read_plan

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("design/*.md")]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    targets = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


def test_the_plan_of_the_documents_is_a_plan(tmp_path):
    (text,) = blocks("docs/getting-started.md", "toml")
    (tmp_path / "plan.toml").write_text(text.replace("# plan.toml\n", ""))
    plan = read_plan(tmp_path / "plan.toml")
    assert [t.id for t in plan.threats] == ["small-changes", "trigger"]


def test_the_method_of_the_guide_registers_itself_and_reaches_the_corner(tmp_path):
    """On a linear target the corner x - eps sign(w) is the best point of the ball, and one step reaches it."""
    (method,) = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "repeated.py").write_text(method)
    (tmp_path / "use.py").write_text(
        "import torch, casemate, repeated\n"
        "from casemate.ops.rng import rows\n"
        "net = torch.nn.Linear(3, 2)\n"
        "net.weight.data = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])\n"
        "x, y = torch.full((2, 3), 0.5), torch.ones(2, dtype=torch.int64)\n"
        "oracle = casemate.GradientOracle(casemate.Classifier(net, 2, (3,)), 2)\n"
        "entry = casemate.find('repeated sign')\n"
        "found = entry.run(oracle, x, casemate.Misclassify(y), casemate.Lp(norm='linf', eps=0.1), rng=rows(0, 2))\n"
        "torch.testing.assert_close(found, x - 0.1 * torch.tensor([1.0, -1.0, 1.0]))\n"
        "assert entry.validate({}) == {'repeats': 3}\n"
    )
    subprocess.run([sys.executable, "use.py"], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_the_library_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("README.md", "python")
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    x = torch.rand(20, 3, 32, 32, generator=draw)
    names = {"net": net, "x": x, "y": net(x).argmax(1)}
    exec(example, names)
    assert names["x_adv"].shape == x.shape
    assert "Small changes of every value" in capsys.readouterr().out
