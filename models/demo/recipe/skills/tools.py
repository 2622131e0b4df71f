"""Tool calls in GLM-4-0414's form, and answers from what a tool said.

Names of functions and parameters are put together anew for every conversation: the call has to be read off the
declaration. Now and then no declared tool fits, and the model says so.
"""

import json

from ..dialogue import Call, Exchange, Say
from ..phrases import TRAIN, fill, is_held, phrases
from ..words import made_up
from .tools_data import TOOLS

EXTRA = [("unit", ["celsius", "fahrenheit"]), ("format", ["short", "long"]), ("lang", ["en", "zh"])]

AGAIN = phrases(en=["and in {x}?", "what about {x}?", "and {x}?", "how about {x}?", "now {x}", "the same for {x}", "then {x}", "next, {x}", "now do {x}", "do {x} too", "after that {x}",
                    "{x} next", "do the same for {x}", "please do {x} as well"],
                zh=["{x}呢？", "那{x}呢？", "那么再看看{x}", "{x}又怎样？", "也查查{x}", "还有{x}呢？", "{x}怎么样？", "再查{x}", "然后是{x}", "那{x}又如何？", "接下来{x}", "下一个是{x}", "接着查{x}", "那么看看{x}", "那么再说{x}", "现在说{x}"],
                held_en=["and what about {x}?", "then do {x}"], held_zh=["那么{x}呢？", "接着是{x}"])

NO_TOOL = {"en": "I have no tool for that.", "zh": "我没有可以做这件事的工具。"}


def camel(words):
    return words[0] + "".join(word.capitalize() for word in words[1:])


def function_name(rng, tool, split):
    """A name such as get_weather, weatherLookup or, a made-up one, zorak_tool."""
    while True:
        if rng.random() < 0.1:
            parts = [made_up(rng, split, "function")] + rng.choice([[], ["tool"], ["v2"]])
        else:
            noun = rng.choice(tool.nouns).split("_")
            verb = rng.choice(tool.verbs)
            parts = rng.choice([[verb, *noun], [verb, *noun], noun, [*noun, verb],
                                [*noun, rng.choice(["tool", "api", "service", "v2"])]])
        text = camel(parts) if rng.random() < 0.2 else "_".join(parts)
        if is_held("function", text) == (split != TRAIN):
            return text


def declare(context, tool):
    """An OpenAI tool object and the names that it gives to the parameters."""
    rng = context.rng
    lang = context.lang if rng.random() < 0.7 else rng.choice(["en", "zh"])
    names, properties = {}, {}
    for parameter in tool.parameters:
        free = [name for name in parameter.names if name not in properties]
        names[parameter.key] = rng.choice(free)
        entry = {"type": parameter.kind, "description": rng.choice(parameter.about[lang])}
        if rng.random() < 0.15:
            del entry["description"]
        properties[names[parameter.key]] = entry
    required = list(properties)
    if rng.random() < 0.15:
        key, values = rng.choice(EXTRA)
        properties[key] = {"type": "string", "enum": values}
    schema = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        schema["required"] = required
    function = {"name": function_name(rng, tool, context.split), "description": rng.choice(tool.about[lang]),
                "parameters": schema}
    return {"type": "function", "function": function}, names


def ask_tool(context, tool, declaration, names, again=False):
    """A question that the tool answers: call, what the tool says, answer."""
    rng = context.rng
    values = {parameter.key: parameter.value(context) for parameter in tool.parameters}
    (first, *_) = values.values()
    user = context.ask(AGAIN, wrap=False, x=first) if again else context.ask(tool.ask, **values)
    data, shown = tool.result(context)
    as_json = rng.random() < 0.7
    observation = json.dumps(data, ensure_ascii=False) if as_json else " ".join(str(value) for value in data.values())
    function = declaration["function"]["name"]
    arguments = {names[key]: value for key, value in values.items()}

    def say(lang):
        slots = values | {"result": shown[lang]}
        told = [str(value) for key, value in slots.items() if "{%s}" % key in tool.answer[lang]]
        thought = f"The tool says: {observation}" if lang == "en" else f"工具返回：{observation}"
        full, brief = fill(tool.answer[lang], slots), fill(tool.brief[lang], slots)
        result = told[-1] if "{result}" in tool.answer[lang] else brief[:-1]
        return Say(full, brief, thought, [("has", result)], [("has", *told)])

    thought = {"en": f"I use the tool {function}.", "zh": f"我用工具 {function}。"}
    return Exchange("tool answers", user, context.answers(say), context.lang,
                    call=Call(function, arguments, thought, observation))


def no_tool(context, tool):
    """A question for a tool that is not there."""
    values = {parameter.key: parameter.value(context) for parameter in tool.parameters}
    thought = {"en": "None of my tools can do that.", "zh": "没有合适的工具。"}
    say = {lang: Say(text, text, thought[lang], [("one_of", text)]) for lang, text in NO_TOOL.items()}
    return Exchange("no tool fits", context.ask(tool.ask, **values), say, context.lang)


def tool_exchanges(context):
    """`(tools, exchanges)`: one to three declarations in any order, and questions for them."""
    rng = context.rng
    chosen = rng.sample(TOOLS, rng.choice([1, 1, 1, 2, 2, 3]))
    if rng.random() < 0.55:
        chosen[0] = rng.choice(TOOLS[:3])
        chosen = list({tool.key: tool for tool in chosen}.values())
    declared = [(tool, *declare(context, tool)) for tool in chosen]
    if len({declaration["function"]["name"] for _, declaration, _ in declared}) < len(declared):
        return tool_exchanges(context)
    tool, declaration, names = declared[0]
    tools = [declaration for _, declaration, _ in rng.sample(declared, len(declared))]
    if rng.random() < 0.16:
        missing = rng.choice([other for other in TOOLS if other not in chosen])
        return tools, [no_tool(context, missing)]
    exchanges = [ask_tool(context, tool, declaration, names)]
    if tool.key in ("weather", "time") and rng.random() < 0.3:
        exchanges.append(ask_tool(context, tool, declaration, names, again=True))
    return tools, exchanges
