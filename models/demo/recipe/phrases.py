"""Phrasings and values, and the wall between what the model trains on and what it is examined with.

A pattern is a text with choices, `[a|b|]`, and slots, `{x}`. Patterns are written in lower case without a full stop;
a question keeps its mark. `Phrases` holds the patterns of one meaning: those under `held` are for the examination and
never make a training line. `Pool` does the same for values that an answer copies, such as names.
"""

import itertools
import random
import re
import zlib
from dataclasses import dataclass

TRAIN, HELD = "train", "held"
LANGS = ("en", "zh")

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"(\{\w+\})")

#: Every `Phrases` made, for the test that no held-out phrasing is a training phrasing too.
REGISTRY = []


def is_held(*key, percent=20):
    """Whether a value belongs to the examination; the same in every run, and whatever other values there are."""
    return zlib.crc32("\x1f".join(map(str, key)).encode()) % 100 < percent


def expand(pattern, rng):
    """One of the texts of a pattern."""
    return CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), pattern)


def expansions(pattern):
    """Every text of a pattern."""
    parts = CHOICE.split(pattern)
    options = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*options)]


def normal(text):
    """A phrasing without what `surface` may change."""
    return re.sub(r"[\s?.!,，。？！]", "", text.lower())


@dataclass
class Phrases:
    """Ways to say one thing: `train[lang]` and `held[lang]` are lists of patterns."""

    train: dict
    held: dict

    def __post_init__(self):
        self.walled = {lang: {normal(text) for pattern in self.held[lang] for text in expansions(pattern)}
                       for lang in LANGS}
        REGISTRY.append(self)

    def request(self, rng, lang, split):
        """`pick`; in training, what is demanded is now and then asked for with more words around it."""
        pattern = self.pick(rng, lang, split)
        if split != TRAIN or rng.random() >= 0.25:
            return pattern
        longer = courteous(pattern, rng, lang)
        return pattern if normal(longer) in self.walled[lang] else longer

    def pick(self, rng, lang, split):
        """A pattern of the split with its choices made; slots are still open."""
        patterns = self.train[lang] if split == TRAIN or not self.held[lang] else self.held[lang]
        return expand(rng.choice(patterns), rng)


def phrases(en, zh, held_en=(), held_zh=()):
    """`Phrases` from four lists of patterns."""
    return Phrases({"en": list(en), "zh": list(zh)}, {"en": list(held_en), "zh": list(held_zh)})


class Pool:
    """Values that an answer copies; about one in five is held out."""

    def __init__(self, values):
        values = list(dict.fromkeys(values))
        self.train = [value for value in values if not is_held(value)]
        self.held = [value for value in values if is_held(value)]
        if not self.train or not self.held:
            raise ValueError(f"a pool needs values on both sides: {values}")

    def pick(self, rng, split):
        return rng.choice(self.train if split == TRAIN else self.held)

    def sample(self, rng, split, count):
        """`count` different values."""
        return rng.sample(self.train if split == TRAIN else self.held, count)


# ---------------------------------------------------------------- how people ask

IMPERATIVES = {
    "en": re.compile(r"(add|answer|begin|close|end|finish|open|arrange|calculate|check|compare|complete|compute|copy|count|describe|echo|evaluate|"
                     r"explain|extract|fill|find|get|give|list|look|make|name|note|order|print|put|read|remember|"
                     r"repeat|return|say|search|set|show|sort|start|tell|translate|turn|type|use|work|write)\b"),
    "zh": re.compile(r"请?(在|所有|每|把|帮|编|比较|查|抄|从|倒着|点|订|读|复述|根据|给|画|记|计算|介绍|解释|讲|描述|列|念|排|求|设|说|算|数|搜|提取|填|"
                     r"推荐|写|用|找|照|重复|总结|告诉|跟我|翻译|发|按)"),
}
COURTESIES = {
    "en": ["please {}", "please {}", "can you {}", "could you {}", "would you {}", "can you please {}", "i want you to {}",
           "i would like you to {}", "just {}", "you should {}", "will you {}", "i need you to {}", "kindly {}"],
    "zh": ["请{}", "请你{}", "帮我{}", "请帮我{}", "麻烦你{}", "你能{}", "可以{}", "我要你{}", "我想请你{}", "你来{}", "能不能{}", "请为我{}"],
}


def courteous(pattern, rng, lang):
    """A demand with courtesies in front; anything else as it is."""
    if not IMPERATIVES[lang].match(pattern):
        return pattern
    bare = pattern.removeprefix("请") if lang == "zh" else pattern
    return rng.choice(COURTESIES[lang]).replace("{}", bare)


# ---------------------------------------------------------------- how people type

OPENERS = phrases(
    en=["please, ", "hey, ", "ok, ", "so, ", "well, ", "quick question: ", "tell me, ", "one more thing: ", "hi, ",
        "now "],
    zh=["请问，", "请问", "那么，", "好的，", "嗯，", "再问一下，", "你好，", "问一下，", "快问快答："],
    held_en=["another question: ", "and "], held_zh=["我想问，", "还有，"])

CLOSERS = phrases(
    en=[" please", ", please", ", thanks", " thank you", " now", ", can you tell me", ", will you", ", if you can",
        ", would you"],
    zh=["，谢谢", "，请告诉我", "，麻烦了", "呢", "，多谢了", "，辛苦了", "，麻烦你了", "，劳驾", "，有劳了", "，求你了"],
    held_en=[", if you please"], held_zh=["，拜托了"])


def typo(word, rng):
    """A word with one slip of the finger: two letters exchanged, one lost or one doubled."""
    at = rng.randrange(len(word) - 1)
    slip = rng.randrange(3)
    if slip == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2:]
    return word[:at] + (word[at + 1:] if slip == 1 else word[at] + word[at:])


def with_typo(pattern, rng):
    """A pattern with a typo in one of its longer English words, never inside a slot."""
    parts = SLOT.split(pattern)
    places = [(index, match) for index, part in enumerate(parts) if not part.startswith("{")
              for match in re.finditer(r"[a-z]{5,}", part)]
    if not places:
        return pattern
    index, match = rng.choice(places)
    parts[index] = parts[index][:match.start()] + typo(match[0], rng) + parts[index][match.end():]
    return "".join(parts)


def surface(pattern, rng, lang, split, *, wrap=True):
    """A pattern as somebody might type it: case, full stop, courtesy, and in training now and then a typo."""
    text = pattern
    question = text.endswith(("?", "？"))
    body = text.rstrip("?？")
    if wrap and rng.random() < 0.12:
        body = OPENERS.pick(rng, lang, split) + body
    if wrap and rng.random() < 0.08:
        body += CLOSERS.pick(rng, lang, split)
    if lang == "en" and split == TRAIN and rng.random() < 0.06:
        body = with_typo(body, rng)
    mark = ("?" if question else ".") if lang == "en" else ("？" if question else "。")
    if rng.random() < (0.7 if question else 0.45):
        body += mark if rng.random() < 0.93 else "!" if lang == "en" else "！"
    if lang == "en" and body and not body.startswith("{") and rng.random() < 0.7:
        body = body[0].upper() + body[1:]
    return body


def fill(pattern, slots):
    """A pattern with its slots filled; braces in the values stay as they are."""
    return SLOT.sub(lambda slot: str(slots[slot[1][1:-1]]), pattern)


def seeded(*key):
    """A generator that depends on the key alone."""
    return random.Random("/".join(map(str, key)))
