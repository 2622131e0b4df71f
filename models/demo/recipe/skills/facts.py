"""Facts learnt by heart: capitals, colours, opposites, words in the other language. Only phrasings are held out."""

from ..dialogue import Exchange, Say
from ..phrases import TRAIN, phrases
from ..words import made_up
from . import Skill
from .facts_data import CAPITALS, COLOURS, OPPOSITES, SOUNDS, WORDS

CAPITAL_OF = phrases(
    en=["what is the capital of {x}?", "what is {x}'s capital[ city|]?", "[which|what] city is the capital of {x}?",
        "capital of {x}?", "tell me the capital of {x}", "the capital of {x} is?",
        "name the capital of {x}", "could you say what the capital of {x} is?", "do you know the capital of {x}?",
        "which is the capital of {x}?",
        "what is the capital city of {x}?", "{x}: capital?",
        "can you tell me the capital of {x}?", "i am looking for the capital of {x}"],
    zh=["{x}的首都是哪里？", "{x}的首都是什么？", "{x}首都", "{x}的首都在哪？", "哪个城市是{x}的首都？", "告诉我{x}的首都", "{x}的首都叫什么？", "你知道{x}的首都吗？",
        "说出{x}的首都", "{x}的首都？", "{x}首都是哪个城市？", "{x}的首都是一座什么城市？"],
    held_en=["could you name the capital of {x}?", "what do you call the capital of {x}?",
             "i want to know the capital of {x}", "where is the capital of {x}?"],
    held_zh=["你能告诉我{x}的首都是哪里吗？", "我想知道{x}的首都", "{x}的首都是哪座城市？"])
COUNTRY_OF = phrases(
    en=["{x} is the capital of which country?", "which country has {x} as its capital?",
        "which country's capital is {x}?", "{x} is the capital of what?", "what country has the capital {x}?"],
    zh=["{x}是哪个国家的首都？", "哪个国家的首都是{x}？", "{x}是哪国的首都？"],
    held_en=["of which country is {x} the capital?"], held_zh=["请问{x}是哪个国家的首都？"])
COLOUR_OF = phrases(
    en=["what [colour|color] is {x}?", "which [colour|color] is {x}?", "tell me the [colour|color] of {x}",
        "what is the [colour|color] of {x}?", "{x} is what [colour|color]?",
        "do you know the [colour|color] of {x}?", "what [colour|color] does {x} have?", "[colour|color] of {x}?",
        "name the [colour|color] of {x}"],
    zh=["{x}是什么颜色？", "{x}是什么颜色的？", "{x}的颜色是什么？", "{x}什么颜色？", "告诉我{x}的颜色", "你知道{x}是什么颜色吗？", "说出{x}的颜色", "{x}有什么颜色？"],
    held_en=["can you tell me what colour {x} is?", "which colour does {x} have?", "the colour of {x} is?"],
    held_zh=["{x}是哪种颜色？", "请告诉我{x}是什么颜色"])
OPPOSITE_OF = phrases(
    en=["what is the opposite of {x}?", "opposite of {x}?", "the opposite of {x} is?", "what is the contrary of {x}?",
        "tell me the opposite of {x}", "name the opposite of {x}", "{x}: opposite?",
        "give me the opposite of {x}", "do you know the opposite of {x}?", "which word is the opposite of {x}?",
        "an antonym of {x}?", "what is the antonym of {x}?"],
    zh=["{x}的反义词是什么？", "{x}的反义词", "{x}的反面是什么？", "说出{x}的反义词", "告诉我{x}的反义词", "和{x}相反的词是什么？", "{x}的反义词是哪个？",
        "你知道{x}的反义词吗？", "“{x}”的反义词是什么？"],
    held_en=["can you tell me the opposite of {x}?", "what word is the opposite of {x}?", "i need the opposite of {x}"],
    held_zh=["请问{x}的反义词是什么？", "“{x}”的相反词是什么？", "我想知道{x}的反义词"])
TRANSLATE = {
    "zh": phrases(
        en=["how do you say {x} in chinese?", "what is {x} in chinese?", "translate {x} into chinese",
            "translate {x} to chinese", "{x} in chinese?", "what is the chinese word for {x}?",
            "the chinese for {x}?", "say {x} in chinese", "how do i say {x} in chinese?"],
        zh=["{x}用中文怎么说？", "{x}的中文是什么？", "把{x}翻译成中文", "{x}中文怎么说？", "{x}是什么意思？", "英文{x}是什么意思？", "英语单词{x}用汉语怎么讲？", "英文{x}用汉语怎么说？", "英文单词{x}的中文是什么？",
            "英语里的{x}是什么意思？", "英语的{x}中文叫什么？", "用中文怎么说英语的{x}？", "英语词{x}用中文怎么讲？", "翻译成中文：{x}"],
        held_en=["can you translate {x} into chinese?", "tell me the chinese word for {x}"],
        held_zh=["请把{x}翻译成中文", "英语{x}用中文怎么说？", "请问{x}这个词的中文是什么？"]),
    "en": phrases(
        en=["how do you say {x} in english?", "what is {x} in english?", "translate {x} into english",
            "what does {x} mean?", "{x} in english?", "what is the english word for {x}?", "say {x} in english",
            "what does {x} mean in english?"],
        zh=["{x}用英文怎么说？", "{x}的英文是什么？", "把{x}翻译成英文", "{x}英语怎么说？", "{x}用英语怎么说？", "翻译成英文：{x}", "{x}的英语单词是什么？"],
        held_en=["can you translate {x} into english?", "tell me the english word for {x}"],
        held_zh=["请把{x}翻译成英文", "{x}的英文怎么说？"]),
}
SOUND_OF = phrases(
    en=["what does [a|the] {x} say?", "what sound does [a|the] {x} make?", "how does a {x} sound?",
        "which sound does a {x} make?", "a {x} makes which sound?", "what noise does a {x} make?"],
    zh=["{x}怎么叫？", "{x}的叫声是什么？", "{x}会怎么叫？", "{x}叫起来是什么声音？"],
    held_en=["tell me what sound a {x} makes"], held_zh=["请问{x}怎么叫？"])
SEASONS = phrases(
    en=["what are the [four |]seasons?", "name the [four |]seasons", "which seasons are there?", "list the seasons"],
    zh=["四季是哪四季？", "有哪些季节？", "说出四个季节", "列出四季"],
    held_en=["what seasons are there?"], held_zh=["请说出四季"])


def both(skill, context, user, en, zh, about):
    """An exchange from `(full, brief, check)` in each language."""
    thought = {"en": f"The user asks for {about[0]}.", "zh": f"用户问{about[1]}。"}
    say = {lang: Say(full, brief, thought[lang], [("has", check)]) for lang,
           (full, brief, check) in {"en": en, "zh": zh}.items()}
    return Exchange(skill, user, say, context.lang)


def capitals(context):
    """The capital of a country or the country of a capital; made-up countries are unknown."""
    rng, lang = context.rng, context.lang
    if rng.random() < 0.08:
        return unknown_country(context)
    country_en, country_zh, city_en, city_zh = rng.choice(CAPITALS)
    country, city = (country_en, city_en) if lang == "en" else (country_zh, city_zh)
    if rng.random() < 0.25:
        capital = city_en[0].upper() + city_en[1:]
        return both("capitals", context, context.ask(COUNTRY_OF, x=city),
                    (f"{capital} is the capital of {country_en}.", country_en + ".", country_en),
                    (f"{city_zh}是{country_zh}的首都。", country_zh + "。", country_zh),
                    (f"the country of {city_en}", f"{city_zh}是哪国的首都"))
    asked = country.lower() if lang == "en" and rng.random() < 0.15 and context.split == TRAIN else country
    return both("capitals", context, context.ask(CAPITAL_OF, x=asked),
                (f"The capital of {country_en} is {city_en}.", city_en + ".", city_en),
                (f"{country_zh}的首都是{city_zh}。", city_zh + "。", city_zh),
                (f"the capital of {country_en}", f"{country_zh}的首都"))


def unknown_country(context):
    name = made_up(context.rng, context.split, "country").capitalize()
    return both("capitals", context, context.ask(CAPITAL_OF, x=name),
                (f"I do not know the capital of {name}.", "I do not know.", "not know"),
                (f"我不知道{name}的首都。", "我不知道。", "不知道"),
                (f"the capital of {name}, which I do not know", f"{name}的首都，我不知道"))


def colours(context):
    thing_en, thing_zh, en, zh = context.rng.choice(COLOURS)
    subject = thing_en[0].upper() + thing_en[1:]
    return both("colours", context, context.ask(COLOUR_OF, x=thing_en if context.lang == "en" else thing_zh),
                (f"{subject} is {en}.", en.capitalize() + ".", en), (f"{thing_zh}是{zh}的。", zh + "。", zh),
                (f"the colour of {thing_en}", f"{thing_zh}的颜色"))


def opposites(context):
    """The opposite of a word, in the language of the word: it is a word of that language that is wanted."""
    pair = context.rng.choice(OPPOSITES)
    turned = context.rng.random() < 0.5
    a_en, b_en, a_zh, b_zh = (pair[1], pair[0], pair[3], pair[2]) if turned else pair
    a, b = (a_en, b_en) if context.lang == "en" else (a_zh, b_zh)
    return both("opposites", context, context.ask(OPPOSITE_OF, x=a),
                (f"The opposite of {a} is {b}.", b + ".", b), (f"{a}的反义词是{b}。", b + "。", b),
                (f"the opposite of {a}", f"{a}的反义词"))


def translation(context):
    en, zh = context.rng.choice(WORDS)
    to = context.rng.choice(["en", "zh"])
    source, target = (zh, en) if to == "en" else (en, zh)
    name = {"en": ("English", "英文"), "zh": ("Chinese", "中文")}[to]
    return both("translation", context, context.ask(TRANSLATE[to], x=source),
                (f"{source} in {name[0]} is {target}.", target + ".", target),
                (f"{source}的{name[1]}是{target}。", target + "。", target),
                (f"{source} in {name[0]}", f"{source}的{name[1]}"))


def other(context):
    """What animals say, and the seasons."""
    if context.rng.random() < 0.25:
        return both("animals and seasons", context, context.ask(SEASONS),
                    ("The seasons are spring, summer, autumn and winter.", "Spring, summer, autumn, winter.", "autumn"),
                    ("四季是春天、夏天、秋天和冬天。", "春、夏、秋、冬。", "秋"), ("the seasons", "四季"))
    animal_en, animal_zh, en, zh = context.rng.choice(SOUNDS)
    return both("animals and seasons", context, context.ask(SOUND_OF,
                                                            x=animal_en if context.lang == "en" else animal_zh),
                (f"A {animal_en} says {en}.", en.capitalize() + ".", en), (f"{animal_zh}的叫声是{zh}。", zh + "。", zh),
                (f"the sound of a {animal_en}", f"{animal_zh}的叫声"))


SKILLS = [Skill("capitals", capitals, 4), Skill("colours", colours, 2.5), Skill("opposites", opposites, 3.5),
          Skill("translation", translation, 3),
          Skill("animals and seasons", other, 1)]
