"""One question to a target; its key names the file that holds the answer."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from casemate.core.budget import Budget


class Case(BaseModel):
    """Everything that decides a number, and nothing else.

    `target`, `data` and `recipe` are digests of weights, arrays and training settings, never mere
    names. `after` lists the keys of results on whose still standing rows this case continues.
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
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Short digest of the case; equal cases have equal keys on every machine."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return f"{self.method.replace('.', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    def family(self) -> str:
        """Family of the method."""
        return self.method.partition(".")[0]
