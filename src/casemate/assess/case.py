"""One question to a target; its key names the file that holds the answer."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from casemate.core.adaptive import Hooks
from casemate.core.budget import Budget


class Case(BaseModel):
    """Everything that decides a number, and nothing else.

    `target`, `data` and `recipe` are digests of weights, arrays and training settings, never mere
    names. `defence_versions` are those of the `defences`. `hooks` say how the attack adapts to the
    target. `crafted_on` names the adversary's own models ("net:digest") on which examples are made for
    a target that is not asked. `after` lists the keys of results on whose still standing rows this
    case continues.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    method: str
    version: int
    params: dict[str, Any] = {}
    target: str = ""
    data: str
    recipe: str = ""
    budget: Budget | None = None
    rate: float | None = None
    rows: int
    seed: int = 0
    repeats: int = 1
    defences: tuple[str, ...] = ()
    defence_versions: tuple[int, ...] = ()
    after: tuple[str, ...] = ()
    hooks: Hooks = Hooks()
    crafted_on: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Short digest of the case; equal cases have equal keys on every machine."""
        # what is as usual keeps the key that it had before this could be said
        plain = {"hooks"} if self.hooks == Hooks() else set()
        plain |= set() if self.crafted_on else {"crafted_on"}
        plain |= {"defence_versions"} if set(self.defence_versions) <= {1} else set()
        said = self.model_dump(mode="json", exclude=plain)
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return f"{self.method.replace('.', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def family(self) -> str:
        """Family of the method."""
        return self.method.partition(".")[0]


def told_apart(cases: Sequence[Case]) -> list[str]:
    """Say of each case by which parameters it differs from others of its method; empty where by none."""
    found = []
    for case in cases:
        same = [other.params for other in cases if other.method == case.method]
        names = [k for k, v in case.params.items() if any(other.get(k) != v for other in same)]
        found.append(", ".join(f"{name} {case.params[name]}" for name in names))
    return found
