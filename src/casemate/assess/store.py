"""A folder of answers: one JSON file per case, one safetensors file beside it, written atomically."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from casemate.assess.result import SCHEMA, Assessment, Result
from casemate.core.errors import UsageError
from casemate.ops.stats import Estimate

_ESTIMATE = TypeAdapter(Estimate)


class Store:
    """The folder OUT of an assessment.

    `OUT/results/<key>.json` and `<key>.safetensors` hold the answers, `OUT/assessment.json` the
    verdicts, `OUT/estimates/<key>.json` what defences were chosen by. A file is either whole or absent,
    so killing a run loses only the case at work.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.results = self.folder / "results"
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"The output folder must be a directory. Got the file {self.folder}.")

    def check(self) -> None:
        """Say why the folder cannot be written, as far as that can be told without making it."""
        there = next(path for path in (self.results, *self.results.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UsageError(f"The output folder {self.folder} cannot be made: {there} is a file.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(f"The output folder {self.folder} cannot be written: {there} is not writable.")

    def open(self) -> None:
        """Make the folder, or say why it cannot be written."""
        try:
            self.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"The output folder {self.folder} cannot be made: {error.strerror}.") from None

    def get(self, key: str) -> Result | None:
        """Read an answer; None where there is none that this version can use."""
        try:
            return Result.model_validate_json((self.results / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def doubt(self, key: str) -> str:
        """Say why a file of this key exists but cannot be used; empty if there is nothing to say."""
        path = self.results / f"{key}.json"
        if not path.exists():
            return ""
        try:
            raw = json.loads(path.read_bytes())
            version = raw.get("schema_version") if isinstance(raw, dict) else None
            if version != SCHEMA:
                return f"{path.name} has result format {version}, this version writes {SCHEMA}"
            result = Result.model_validate(raw)
        except (ValueError, ValidationError):
            return f"{path.name} is damaged"
        return "" if self.whole(result) else f"evidence of {path.name} is missing or damaged"

    def whole(self, result: Result) -> bool:
        """Tell whether all evidence of a result is still there, and as long as it says it is."""
        return all(_readable(self.results / Path(name).name) for name in result.evidence)

    def put(self, result: Result, tensors: Mapping[str, Tensor] | None = None) -> Result:
        """Write an answer and its evidence, the evidence first; returns the result as stored."""
        self.open()
        if tensors:
            name = f"{result.key}.safetensors"
            # copies, because the format refuses tensors that share memory
            write_whole(self.results / name, save({k: v.clone().contiguous() for k, v in tensors.items()}))
            result = result.model_copy(update={"evidence": (name,)})
        write_whole(self.results / f"{result.key}.json", result.model_dump_json(indent=1).encode())
        return result

    def tensors(self, result: Result) -> dict[str, Tensor]:
        """Read the evidence of a result; empty where it has none."""
        found: dict[str, Tensor] = {}
        for name in result.evidence:
            path = self.results / Path(name).name
            try:
                found |= load_file(path)
            except (OSError, SafetensorError) as error:
                raise UsageError(f"The evidence {path} cannot be read: {error}.") from None
        return found

    def estimate(self, key: str, measure: Callable[[], Estimate]) -> Estimate:
        """Read a number that was measured before under this key; measure and keep it where there is none."""
        path = self.folder / "estimates" / f"{key}.json"
        try:
            return _ESTIMATE.validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            found = measure()
        write_whole(path, _ESTIMATE.dump_json(found))
        return found

    def finish(self, assessment: Assessment) -> None:
        """Write the assessment."""
        self.open()
        write_whole(self.folder / "assessment.json", assessment.model_dump_json(indent=1).encode())

    def assessment(self) -> Assessment:
        """Read the assessment; says what is wrong where there is none to read."""
        path = self.folder / "assessment.json"
        try:
            return Assessment.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"The folder must hold an assessment. Got {self.folder}, without an assessment.json."
            ) from None
        except ValidationError:
            raise UsageError(
                f"{path} is damaged or of another version; run `casemate assess` again with this folder."
            ) from None

    def all(self) -> list[Result]:
        """Read the answers of the assessment, in the order of its plan."""
        found = (self.get(key) for key in self.assessment().keys)
        return [result for result in found if result is not None]


def _readable(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, with the permissions of an ordinary file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}. What was computed before is kept."
        ) from None
    finally:
        beside.unlink(missing_ok=True)
