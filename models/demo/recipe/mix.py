"""Puts exchanges together to conversations: for training a mixture, for the examination one skill at the end of each.

`training(seed, index)` and `examination(skill, index)` depend on their arguments alone.
"""

from . import styles
from .checks import language
from .dialogue import Context, Conversation, Message
from .phrases import HELD, phrases, seeded
from .skills import arithmetic, extraction, facts, memory, project, sequences, smalltalk, stories, unknown
from .skills.tools import tool_exchanges

MODULES = (smalltalk, project, arithmetic, sequences, facts, stories, memory, extraction, unknown)
SKILLS = {skill.name: skill for module in MODULES for skill in module.SKILLS}

#: Skills that span a conversation.
SPANNING = ("memory", "system prompts", "tool calls", "tool answers", "no tool fits", "thinking")

#: What the accuracy table lists.
EXAMINED = (*SKILLS, *SPANNING)

#: With tools declared, these could be questions for a tool.
NOT_BESIDE_TOOLS = ("arithmetic", "everything else", "translation")

STYLE_KINDS = [("plain",), ("lang",), ("lang",), ("brief",), ("brief",), ("persona",), ("persona",), ("address",),
               ("prefix",), ("prefix",), ("suffix",), ("lang", "brief"), ("persona", "lang"), ("persona", "brief"),
               ("plain", "lang"), ("plain", "brief"), ("persona", "suffix"), ("brief", "suffix")]

ONCE = {
    "zh": phrases(en=["in chinese: {x}", "answer in chinese: {x}", "please, in chinese: {x}", "say in chinese: {x}", "{x} (in chinese)", "in chinese, please: {x}"],
                  zh=["用中文回答：{x}", "请用中文回答：{x}", "{x}（用中文）"],
                  held_en=["please answer in chinese: {x}"], held_zh=["请你用中文回答：{x}"]),
    "en": phrases(en=["in english: {x}", "answer in english: {x}", "please, in english: {x}", "say in english: {x}", "{x} (in english)", "in english, please: {x}"],
                  zh=["用英文回答：{x}", "请用英文回答：{x}", "{x}（用英文）"],
                  held_en=["please answer in english: {x}"], held_zh=["请你用英文回答：{x}"]),
    "brief": phrases(en=["briefly: {x}", "in short: {x}", "{x} (be brief)", "just the answer: {x}",
                         "short answer: {x}", "a short answer, please: {x}", "answer in short: {x}", "be brief: {x}",
                         "tell me in few words: {x}", "{x} short answer please"],
                     zh=["简短回答：{x}", "简单说：{x}", "{x}（简短）", "只要答案：{x}", "简短一点：{x}", "请给出简短的回答：{x}", "少说点：{x}", "简单回答：{x}"],
                     held_en=["give a short answer: {x}"], held_zh=["请简短回答：{x}"]),
}


def exchange(context, without=()):
    """An exchange of some skill, each as often as its weight says."""
    names = [name for name in SKILLS if name not in without]
    (name,) = context.rng.choices(names, [SKILLS[name].weight for name in names])
    return SKILLS[name].make(context)


def fillers(context, most, without=()):
    """Up to `most` exchanges about other things, now and then in the other language."""
    made = []
    for _ in range(context.rng.randint(0, most)):
        other = context.rng.random() < 0.07
        lang = {"en": "zh", "zh": "en"}[context.lang] if other else context.lang
        made.append(exchange(Context(context.rng, lang, context.split, context.style), without))
    return made


def in_style(checks, before, after):
    """The checks of an answer that stands between these two texts."""
    out = []
    for kind, *values in checks:
        if kind == "one_of":
            values = [before + value + after for value in values]
        if kind != "ends" or not after:
            out.append((kind, *values))
    if before:
        out.append(("starts", before))
    if after:
        out.append(("ends", after))
    return out


def answer(exchange, style, lang, brief):
    """The text of an answer in a style, the thought before it, and the checks that it passes."""
    say = exchange.say[lang]
    text = say.brief if brief else say.full
    checks = say.checks if brief else say.checks + say.full_checks
    if exchange.verbatim:
        return text, say.thought, checks
    if style.lang and language(text) == style.lang:
        checks = [*checks, ("lang", style.lang)]
    space = " " if lang == "en" else ""
    before = style.prefix + space if style.prefix else ""
    after = space + style.suffix if style.suffix else ""
    if brief and len(say.brief) < len(say.full):
        checks = [*checks, ("shorter", len(before + say.full + after))]
    return before + text + after, say.thought, in_style(checks, before, after)


def compose(context, exchanges, *, system=None, tools=(), thinking=False, cut_at_call=False):
    """The conversation of these exchanges; its last message is the one to be examined."""
    rng, style = context.rng, context.style
    messages = [Message("system", system)] if system else []
    for at, one in enumerate(exchanges):
        last = at == len(exchanges) - 1
        lang, brief = style.lang or one.lang, style.brief
        user = one.user
        wish = rng.random()
        if not one.verbatim and not one.call and not style.lang and not style.brief and wish < 0.08:
            kind = rng.choice(["en", "zh", "brief"])
            user = ONCE[kind].pick(rng, one.lang, context.split).replace("{x}", user)
            lang, brief = (lang, True) if kind == "brief" else (kind, brief)
        messages.append(Message("user", user))
        if one.call:
            call_lang = style.lang or one.lang
            messages.append(Message("assistant", one.call.text(), metadata=one.call.name,
                                    thought=one.call.thought[call_lang]))
            if last and cut_at_call:
                checks = [("call", one.call.name, one.call.arguments)]
                return Conversation("tool calls", messages, checks + [("thought",)] * thinking, list(tools), thinking)
            messages.append(Message("observation", one.call.observation))
        text, thought, checks = answer(one, style, lang, brief)
        messages.append(Message("assistant", text, thought=thought))
    return Conversation(exchanges[-1].skill, messages, checks + [("text",)] + [("thought",)] * thinking, list(tools),
                        thinking)


def with_style(context, kinds):
    """A context in the style of a system prompt, and the prompt."""
    style, system = styles.choose(context, kinds)
    return Context(context.rng, context.lang, context.split, style), system


def interleaved(context, tells, asks, most):
    """The user tells, talks of other things, and asks."""
    out = fillers(context, 1)
    for one in tells:
        out += [one, *fillers(context, most if one is tells[-1] else 1)]
    return out + asks


def memory_conversation(context, thinking):
    system = None
    if context.rng.random() < 0.2:
        context, system = with_style(context, context.rng.choice([("plain",), ("lang",), ("brief",), ("persona",)]))
    tells, asks = memory.remembered(context)
    return compose(context, interleaved(context, tells, asks, 2), system=system, thinking=thinking)


def tool_conversation(context, thinking, cut_at_call):
    system = None
    if context.rng.random() < 0.12:
        context, system = with_style(context, context.rng.choice([("plain",), ("lang",), ("brief",)]))
    tools, exchanges = tool_exchanges(context)
    before = fillers(context, 1, NOT_BESIDE_TOOLS)
    if context.rng.random() < 0.1:
        exchanges += [exchange(context, NOT_BESIDE_TOOLS)]
    return compose(context, before + exchanges, system=system, tools=tools, thinking=thinking, cut_at_call=cut_at_call)


def styled_conversation(context, thinking, kinds, most=3):
    context, system = with_style(context, kinds)
    exchanges = fillers(context, most - 1)
    style = context.style
    if style.persona and context.rng.random() < 0.5:
        exchanges.append(smalltalk.identity(context))
    elif style.address and context.rng.random() < 0.8:
        exchanges.append(smalltalk.smalltalk(context) if context.rng.random() < 0.6 else memory.recall(context,
            memory.FACTS[0], style.address))
    else:
        exchanges.append(exchange(context))
    return compose(context, exchanges, system=system, thinking=thinking)


def training(seed, index):
    """The index-th training conversation."""
    rng = seeded("train", seed, index)
    context = Context(rng, "en" if rng.random() < 0.54 else "zh")
    thinking = rng.random() < 0.2
    kind = rng.random()
    if kind < 0.13:
        return memory_conversation(context, thinking)
    if kind < 0.30:
        return tool_conversation(context, thinking, cut_at_call=rng.random() < 0.4)
    if kind < 0.51:
        return styled_conversation(context, thinking, rng.choice(STYLE_KINDS))
    return compose(context, [exchange(context), *fillers(context, 3)], thinking=thinking)


def examination(skill, index):
    """The index-th examination of a skill: held-out phrasings and values; half of them after talk of other things."""
    rng = seeded("examination", skill, index)
    context = Context(rng, "en" if index % 2 else "zh", HELD)
    if skill == "memory":
        return memory_conversation(context, False)
    if skill == "system prompts":
        return styled_conversation(context, False, rng.choice(STYLE_KINDS[1:]), most=2)
    if skill == "thinking":
        name = rng.choice(list(SKILLS))
        return compose(context, [SKILLS[name].make(context)], thinking=True)
    if skill in ("tool calls", "tool answers", "no tool fits"):
        while True:
            made = tool_conversation(context, False, cut_at_call=skill == "tool calls")
            if made.skill == skill:
                return made
    return compose(context, [*fillers(context, rng.choice([0, 2])), SKILLS[skill].make(context)])
