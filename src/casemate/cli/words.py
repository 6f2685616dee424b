"""Options as people write them."""

from casemate.core.errors import UsageError


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """Read "0.49,0.48,0.45" as numbers; empty for None."""
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} must be numbers between commas, such as 0.49,0.48,0.45. Got '{text}'."
        ) from None


def pair(option: str, text: str | None) -> tuple[float, float]:
    """Read "LOW,HIGH"; 0 and 1 for None."""
    if text is None:
        return (0.0, 1.0)
    found = numbers(option, text)
    if len(found) != 2:
        raise UsageError(f"{option} must be two numbers, LOW,HIGH. Got '{text}'.")
    if not found[0] < found[1]:
        raise UsageError(f"{option} must be LOW,HIGH with LOW < HIGH. Got '{text}'.")
    return (found[0], found[1])


def one_of(option: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """Refuse a value that is none of the known ones."""
    if value is not None and value not in known:
        raise UsageError(f"{option} must be one of {', '.join(known)}. Got '{value}'.")
    return value


class Interrupted(Exception):
    """The user stopped a command; says what is kept and how to go on."""
