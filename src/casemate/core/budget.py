"""All the kinds of budget there are: what an adversary may do to an input."""

from casemate.core.pasting import Pasting
from casemate.core.physical import Print, Sticker
from casemate.core.programs import Bytes, Features
from casemate.core.semantic import Attributes, Colours, Conditional, Latent
from casemate.core.tampering import Tampering
from casemate.core.threat import Lp

# a union of frozen pydantic models that forbid extra fields, so that a stored one is read back as itself
Budget = (
    Lp | Latent | Conditional | Attributes | Colours | Pasting | Print | Sticker | Features | Bytes
    | Tampering
)  # fmt: skip
