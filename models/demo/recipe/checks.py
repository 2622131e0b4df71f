"""Whether an answer is right. A check is a tuple: its kind, then what it compares with.

| check | holds if the answer |
|---|---|
| `("has", *texts)` | contains every text, whatever the case |
| `("lacks", *texts)` | contains none of them |
| `("one_of", *texts)` | is one of them |
| `("number", n)` | has n as its last number |
| `("numbers", *ns)` | ends with these numbers, in this order |
| `("words", *ws)` | names these words, in this order, and nothing of them twice |
| `("json", value)` | is this JSON value |
| `("call", name, arguments)` | calls this tool with these arguments |
| `("starts", text)`, `("ends", text)` | starts or ends with the text |
| `("lang", "zh")` | is written in this language |
| `("shorter", n)` | is shorter than n characters |
| `("text",)` | calls no tool |
| `("thought",)` | was thought about |
"""

import json
import re

NUMBER = re.compile(r"(?<![\w.])[-−]?\d+")
HAN = re.compile(r"[\u4e00-\u9fff]")
LATIN = re.compile(r"[A-Za-z]")


def numbers(text):
    """The whole numbers in a text."""
    return [int(number.replace("−", "-")) for number in NUMBER.findall(text)]


def language(text):
    """`zh` if most of what is written is Chinese: a Chinese character weighs as much as three letters."""
    return "zh" if 3 * len(HAN.findall(text)) > len(LATIN.findall(text)) else "en"


def in_order(text, words):
    found = [text.casefold().find(word.casefold()) for word in words]
    return -1 not in found and found == sorted(set(found))


def same_json(text, value):
    try:
        return json.loads(text) == value
    except ValueError:
        return False


CHECKS = {
    "has": lambda answer, *texts: all(text.casefold() in answer.text.casefold() for text in texts),
    "lacks": lambda answer, *texts: not any(text.casefold() in answer.text.casefold() for text in texts),
    "one_of": lambda answer, *texts: answer.text in texts,
    "number": lambda answer, number: numbers(answer.text)[-1:] == [number],
    "numbers": lambda answer, *ns: numbers(answer.text)[-len(ns):] == list(ns),
    "words": lambda answer, *words: in_order(answer.text, words),
    "json": lambda answer, value: same_json(answer.text, value),
    "call": lambda answer, name, arguments: answer.call == name and same_json(answer.text, arguments),
    "starts": lambda answer, text: answer.text.startswith(text),
    "ends": lambda answer, text: answer.text.endswith(text),
    "lang": lambda answer, lang: language(answer.text) == lang,
    "shorter": lambda answer, length: len(answer.text) < length,
    "text": lambda answer: answer.call is None,
    "thought": lambda answer: bool(answer.thought and answer.thought.strip()),
}


def failed(answer, checks):
    """The checks that a `chat.Answer` does not pass."""
    return [check for check in checks if not CHECKS[check[0]](answer, *check[1:])]
