"""One module per kind of skill; each has `SKILLS`, a list of `Skill`."""

from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Skill:
    """`make(context)` gives an `Exchange`; `weight` is its share of the exchanges in training."""

    name: str
    make: Callable
    weight: float
