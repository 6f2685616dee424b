"""The judge of backdoors: the same victims as for other poisons, tested with the trigger."""

from casemate.assess.families.poisoning import measure

__all__ = ["measure"]
