"""What a dialogue is made of."""

import json
from dataclasses import dataclass, field

from .phrases import LANGS, TRAIN, fill, surface


@dataclass
class Message:
    """One message as a chat template sees it. `metadata` is the name of the tool that an assistant's turn calls."""

    role: str
    content: str
    metadata: str | None = None
    #: What the assistant thinks before it says this; only the last turn of a conversation has its thought written out.
    thought: str | None = None

    def as_dict(self):
        out = {"role": self.role, "content": self.content}
        return out | ({"metadata": self.metadata} if self.metadata else {})


@dataclass
class Say:
    """An answer in one language: in full, in brief, and what is thought before it.

    `checks` hold for both forms, `full_checks` for the full one besides.
    """

    full: str
    brief: str
    thought: str
    checks: list
    full_checks: list = field(default_factory=list)


@dataclass
class Call:
    """A tool call and what the tool answers."""

    name: str
    arguments: dict
    thought: dict
    observation: str

    def text(self):
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass
class Exchange:
    """One question of the user and its answer, as `say[lang]`; `call` comes between the two where a tool is used."""

    skill: str
    user: str
    say: dict
    lang: str
    call: Call | None = None
    #: The answer is data (JSON, a repeated text): no style changes it.
    verbatim: bool = False


@dataclass
class Style:
    """What the system prompt wants: language, length, first and last words, names of assistant and user."""

    lang: str | None = None
    brief: bool = False
    prefix: str = ""
    suffix: str = ""
    persona: str | None = None
    address: str | None = None


@dataclass
class Context:
    """What a skill needs to make an exchange: randomness, the user's language, the side of the wall, the style."""

    rng: object
    lang: str
    split: str = TRAIN
    style: Style = field(default_factory=Style)

    def ask(self, phrases, *, wrap=True, **slots):
        """A phrasing as somebody might type it."""
        pattern = phrases.request(self.rng, self.lang, self.split)
        return fill(surface(pattern, self.rng, self.lang, self.split, wrap=wrap), slots)

    def pick(self, pool):
        return pool.pick(self.rng, self.split)

    def answers(self, make):
        """`make(lang)` for every language an answer may be wanted in."""
        return {lang: make(lang) for lang in LANGS}


@dataclass
class Conversation:
    """Messages up to the assistant's last, which `checks` examine. `skill` is the skill of that last turn."""

    skill: str
    messages: list
    checks: list
    tools: list = field(default_factory=list)
    thinking: bool = False
