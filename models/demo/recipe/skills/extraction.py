"""JSON from a sentence, with the wanted fields described in one of several ways."""

import json
from dataclasses import dataclass

from ..dialogue import Exchange, Say
from ..phrases import TRAIN, fill, is_held, phrases
from ..words import ALL_WORDS, CITIES, COLOURS, FOODS, ITEMS, JOBS, code, made_up, name, number, one_of
from . import Skill


@dataclass(frozen=True)
class Field:
    """`names` are the keys it may have; `value(context)` is what the sentence says."""

    names: tuple
    kind: str
    value: object


def email(context):
    """An address at a made-up host."""
    host = made_up(context.rng, TRAIN)
    return f"{made_up(context.rng, context.split)}@{host}.{context.rng.choice(['com', 'org', 'cn'])}"


FIELDS = {
    "name": Field(("name", "person", "full_name", "who"), "string",
                  lambda context: name(context.rng, context.lang, context.split)),
    "age": Field(("age", "years", "age_in_years"), "integer", lambda context: number(context.rng, context.split, 1,
        99)),
    "city": Field(("city", "town", "place", "location"), "string", lambda context: one_of(context, CITIES)),
    "job": Field(("job", "profession", "work", "occupation"), "string",
                 lambda context: one_of(context, JOBS)),
    "item": Field(("item", "product", "thing", "article"), "string",
                  lambda context: one_of(context, ITEMS, words=[1])),
    "price": Field(("price", "cost", "amount"), "integer", lambda context: number(context.rng, context.split, 1, 999)),
    "colour": Field(("colour", "color"), "string", lambda context: one_of(context, COLOURS, words=[1])),
    "food": Field(("food", "dish", "meal"), "string", lambda context: one_of(context, FOODS)),
    "day": Field(("day", "date", "weekday"), "string", lambda context: context.rng.choice({
        "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
        "zh": "周一 周二 周三 周四 周五 周六 周日".split()}[context.lang])),
    "code": Field(("code", "id", "number", "order_id"), "string", lambda context: code(context.rng, context.split)),
    "email": Field(("email", "mail", "address"), "string", email),
}

#: the fields that a sentence has, in any order: how it is said
SENTENCES = [
    (("name", "age"), phrases(
        en=["{name} is {age} years old.", "{name} is {age}.", "My friend {name} is {age} years old.",
            "At the age of {age}, {name} is still curious.", "{name}, aged {age}, came to visit.",
            "{name} turned {age} yesterday."],
        zh=["{name}今年{age}岁。", "{name}{age}岁了。", "{name}已经{age}岁。", "我的朋友{name}今年{age}岁。", "{age}岁的{name}来了。",
            "{name}的年龄是{age}岁。"],
        held_en=["My neighbour {name} turned {age} last week."], held_zh=["我的邻居{name}今年{age}岁了。"])),
    (("name", "age", "city"), phrases(
        en=["{name} is {age} years old and lives in {city}.", "{name}, {age}, lives in {city}.",
            "{name} from {city} is {age} years old.", "In {city} lives {name}, who is {age}.",
            "She is called {name}, lives in {city} and is {age}.",
            "{name} is {age} and comes from {city}.",
            "I know {name} from {city}, {age} years old."],
        zh=["{name}今年{age}岁，住在{city}。", "{name}，{age}岁，来自{city}。", "住在{city}的{name}今年{age}岁。", "{city}的{name}{age}岁了。",
            "{age}岁的{name}住在{city}。"],
        held_en=["{name} lives in {city} and is {age} years old.", "My friend {name}, {age}, comes from {city}."],
        held_zh=["{name}住在{city}，今年{age}岁。", "来自{city}的{name}已经{age}岁了。"])),
    (("name", "city"), phrases(
        en=["{name} lives in {city}.", "{name} comes from {city}.", "{name} moved to {city}.",
            "Our neighbour {name} comes from {city}.",
            "In {city} I met {name}.", "{name} is from {city}."],
        zh=["{name}住在{city}。", "{name}来自{city}。", "{name}搬到了{city}。", "我们的邻居{name}来自{city}。", "我在{city}认识了{name}。"],
        held_en=["My friend {name} moved to {city}."], held_zh=["我的朋友{name}搬到了{city}。"])),
    (("name", "job"), phrases(
        en=["{name} works as a {job}.", "{name} earns money as a {job}.", "My brother {name} is a {job}.", "{name} is a {job}.", "{name}, a {job}, arrived late.",
            "The {job} is called {name}.", "Her cousin {name} became a {job}.", "I know a {job} called {name}.", "{name} has found work as a {job}."],
        zh=["{name}是一名{job}。", "{name}的工作是{job}。", "这位{job}叫{name}。", "{name}当了{job}。", "我的妹妹{name}是{job}。", "我的同学{name}当{job}。",
            "我认识一名{job}，叫{name}。", "他叫{name}，是一名{job}。"],
        held_en=["My friend {name} works as a {job}."], held_zh=["我的朋友{name}是一名{job}。"])),
    (("name", "job", "city"), phrases(
        en=["{name} works as a {job} in {city}.", "{name} is a {job} from {city}.",
            "In {city}, {name} works as a {job}.", "The {job} {name} lives in {city}."],
        zh=["{name}在{city}当{job}。", "{name}是{city}的一名{job}。", "住在{city}的{name}是{job}。", "{city}的{job}{name}来了。"],
        held_en=["{name} lives in {city} and works as a {job}."], held_zh=["{name}住在{city}，是一名{job}。"])),
    (("item", "price"), phrases(
        en=["The {item} costs {price} euros.", "We paid {price} euros for a {item}.", "He sold the {item} for {price} dollars.", "A {item} for {price} dollars.", "I bought a {item} for {price} euros.",
            "{price} dollars for the {item}.", "She paid {price} dollars and got a {item}.",
            "The price of the {item} is {price} euros.", "They gave {price} euros for the {item}.", "We spent {price} dollars on the {item}.",
            "{price} euros is what he paid for a {item}."],
        zh=["{item}卖{price}元。", "他买{item}用了{price}元。", "小店里{item}要{price}元。", "我们为{item}付了{price}元。", "我花{price}元买了{item}。", "这个{item}{price}块钱。", "{item}的价格是{price}元。",
            "{price}元一个{item}。", "她付了{price}元，得到{item}。", "为了买{item}，他付了{price}元。", "{item}花了我{price}元。", "买{item}一共用了{price}元。",
            "妈妈买{item}用掉{price}元。"],
        held_en=["She paid {price} euros for the {item}."], held_zh=["她买{item}花了{price}元。"])),
    (("item", "colour", "price"), phrases(
        en=["The {colour} {item} costs {price} euros.", "I bought a {colour} {item} for {price} dollars.",
            "A {item} in {colour} for {price} euros.", "{price} dollars for a {colour} {item}.",
            "She paid {price} dollars and got a {item} in {colour}.", "They gave {price} euros for the {colour} {item}.",
            "We spent {price} dollars on a {colour} {item}."],
        zh=["{colour}的{item}卖{price}元。", "我花{price}元买了{colour}的{item}。", "这个{colour}{item}要{price}块钱。",
            "她付了{price}元，得到{colour}的{item}。",
            "{item}是{colour}的，价格{price}元。"],
        held_en=["She paid {price} euros for a {colour} {item}."], held_zh=["她花{price}元买了一个{colour}的{item}。"])),
    (("name", "food", "day"), phrases(
        en=["{name} eats {food} on {day}.", "They cook {food} for {name} on {day}.", "On {day} there is {food} for {name}.", "We will have {food} with {name} on {day}.",
            "{name} brings {food} on {day}.", "On {day} {name} wants {food}.", "We make {food} for {name} on {day}.",
            "{name} ordered {food} for {day}.",
            "{day}: {food} for {name}."],
        zh=["{name}{day}吃{food}。", "{day}为{name}做{food}。", "我们{day}请{name}吃{food}。", "妈妈{day}给{name}煮{food}。", "{day}大家和{name}一起吃{food}。",
            "{food}是{name}{day}要的。", "{day}给{name}送{food}。", "{day}{name}要{food}。", "{name}订了{day}的{food}。"],
        held_en=["On {day} we cook {food} for {name}."], held_zh=["{day}我们给{name}做{food}。"])),
    (("code", "item", "day"), phrases(
        en=["Order {code}: one {item}, delivered on {day}.", "A {item}, order {code}, arrives on {day}.", "Number {code} is a {item} and comes on {day}.", "The {item} with the number {code} comes on {day}.",
            "On {day} order {code} arrives, a {item}."],
        zh=["订单{code}：{item}，{day}送到。", "{day}会收到{item}，编号{code}。", "{code}号的{item}{day}来。", "编号{code}的{item}{day}到。", "{item}将在{day}送到，订单{code}。",
            "{day}送来订单{code}，是{item}。"],
        held_en=["Order {code}, a {item}, will come on {day}."], held_zh=["订单{code}的{item}将在{day}送到。"])),
    (("name", "email"), phrases(
        en=["{name} can be reached at {email}.", "{name} can be reached by mail: {email}.", "Mail {name} at {email}.", "Send it to {name} by mail, {email}.", "Write to {name}: {email}.", "You reach {name} here: {email}.",
            "{name}'s mail is {email}.",
            "The address of {name} is {email}."],
        zh=["{name}的邮箱是{email}。", "{name}可以用邮件联系：{email}。", "把信发给{name}：{email}。", "请写信给{name}：{email}。", "联系{name}：{email}。"],
        held_en=["You can reach {name} by mail at {email}."], held_zh=["可以发邮件给{name}：{email}。"])),
]

BY_KEYS = phrases(
    en=["extract {keys} as json: {text}", "extract {keys} from this sentence as json: {text}",
        "give me {keys} as json: {text}", "json with {keys}: {text}", "turn this into json with {keys}: {text}",
        "{text} extract {keys} as json",
        "return json with the keys {keys}: {text}", "read this and answer in json with {keys}: {text}",
        "find {keys} in this text and answer in json: {text}", "{text} return a json object with the keys {keys}",
        "please give {keys} as json: {text}", "answer in json with {keys}: {text}", "answer as json with the keys {keys}: {text}",
        "write {keys} as json: {text}", "please return {keys} in json: {text}", "make json with {keys} of this: {text}",
        "please extract {keys}: {text} answer in json", "i need {keys} as json: {text}",
        "find {keys} and reply as json: {text}", "take out {keys} and write json: {text}",
        "pick out {keys} and respond in json: {text}", "look for {keys} and return json: {text}",
        "get {keys} and say it as json: {text}", "please note {keys} and give it as json: {text}",
        "read off {keys} and put it into json: {text}", "search for {keys} and reply with json: {text}",
        "[find|identify|collect|spot|detect|note|take|recognise] {keys} and [write|hand over|give|print|send|show] [them|it|this|the result] [as|in] json: {text}",
        "[which|what] {keys} does this say? [answer|reply|respond] [as|in] json: {text}", "{keys}, as json: {text}"],
    zh=["提取{keys}，用 JSON 表示：{text}", "从句子中提取{keys}，输出 JSON：{text}", "把下面的话变成 JSON，包含{keys}：{text}",
        "用 JSON 给出{keys}：{text}", "{text}请提取{keys}，输出 JSON", "JSON，字段{keys}：{text}",
        "读下面的句子，返回包含{keys}的 JSON：{text}", "请用 JSON 给出{keys}：{text}", "请提取{keys}，用 JSON 回答：{text}",
        "用 JSON 回答，字段是{keys}：{text}", "找出{keys}，然后写成 JSON：{text}", "请找到{keys}并返回 JSON：{text}",
        "从下文取出{keys}，写成 JSON：{text}", "[分析|阅读|看看|读一读][这句话|下面的句子|下文]，[用|以] JSON [写出|列出|返回|说出]{keys}：{text}",
        "[这句话|下文|这里]的{keys}[是什么|各是什么]？[输出|写成|给出] JSON：{text}", "请从这句话提取{keys}，输出 JSON：{text}", "我需要{keys}的 JSON：{text}"],
    held_en=["please extract {keys} and answer as json: {text}", "i only want {keys}, in json format. {text}", "answer in json with the keys {keys}: {text}",
             "kindly determine {keys} and deliver them as json: {text}", "what are {keys} here? reply in json. {text}"],
    held_zh=["请从下面的句子提取{keys}，用 JSON 回答：{text}", "麻烦整理出{keys}，格式是 JSON：{text}", "请用 JSON 回答，包含{keys}：{text}",
             "请分析这句话并以 JSON 给出{keys}：{text}", "下面这句话里的{keys}是什么？用 JSON 回复：{text}"])
BY_SCHEMA = phrases(
    en=["answer as json with this schema: {schema}\n{text}",
        "{text}\nanswer with json that follows the schema {schema}", "json schema: {schema}\ntext: {text}",
        "use the schema {schema} for this text: {text}", "{schema}\n{text}"],
    zh=["按照这个模式输出 JSON：{schema}\n{text}", "{text}\n请输出符合模式 {schema} 的 JSON", "模式：{schema}\n文本：{text}",
        "{schema}\n{text}"],
    held_en=["extract json with the schema {schema} from this text: {text}"],
    held_zh=["请从文本提取符合模式 {schema} 的 JSON：{text}"])
BY_FORM = phrases(
    en=["fill in {form} from this text: {text}", "complete the json {form} for: {text}", "{text}\nfill in: {form}"],
    zh=["根据文本填写 {form}：{text}", "{text}\n填写：{form}", "填好这个 JSON：{form} 文本：{text}"],
    held_en=["please fill in the json {form} with: {text}"], held_zh=["请根据下面的文本填写 {form}：{text}"])


AS_LIST = phrases(
    en=["make a json list of {x}", "as a json array: {x}", "write {x} as a json list", "{x} as a json array", "json list: {x}",
        "turn this into a json array: {x}"],
    zh=["把{x}写成 JSON 列表", "JSON 数组：{x}", "输出 JSON 列表：{x}", "用 JSON 数组表示：{x}", "变成 JSON 列表：{x}"],
    held_en=["please give me a json list of these: {x}"], held_zh=["请写成 JSON 数组：{x}"])


def listed(keys, lang):
    """The keys as people list them."""
    if lang == "zh":
        return "、".join(keys)
    return keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + " and " + keys[-1]


def schema_of(keys, kinds, rng):
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in zip(keys, kinds)}}
    if rng.random() < 0.7:
        schema["required"] = list(keys)
    if rng.random() < 0.3:
        schema["additionalProperties"] = False
    return json.dumps(schema)


def word_list(context):
    """Words as a JSON list: each is written between quotes, whatever stood before it."""
    rng, lang = context.rng, context.lang
    while True:
        words = rng.sample(ALL_WORDS[lang], rng.randint(1, 5))
        if is_held("list", *words) == (context.split != TRAIN):
            break
    pattern = AS_LIST.request(rng, lang, context.split)
    user = fill(pattern, {"x": (", " if lang == "en" else "、").join(words)})
    answer = json.dumps(words, ensure_ascii=False)
    thought = {"en": f"There are {len(words)} words.", "zh": f"一共{len(words)}个词。"}
    say = {other: Say(answer, answer, thought[other], [("json", words)]) for other in thought}
    return Exchange("JSON extraction", spelled(user, rng), say, lang, verbatim=True)


def spelled(user, rng):
    """With JSON in capitals, mostly."""
    return user.replace("json", rng.choice(["json", "JSON", "JSON"]))


def extraction(context):
    """A sentence, some of its fields and perhaps one that it lacks, which is null; or a list of words."""
    rng, lang = context.rng, context.lang
    if rng.random() < 0.2:
        return word_list(context)
    fields, sentence = rng.choice(SENTENCES)
    values = {field: FIELDS[field].value(context) for field in fields}
    text = fill(sentence.pick(rng, lang, context.split), values)
    wanted = rng.sample(fields, rng.randint(1, len(fields)))
    if rng.random() < 0.15:
        wanted.append(rng.choice([field for field in FIELDS if field not in fields]))
    keys = [FIELDS[field].names[0] if rng.random() < 0.6 else rng.choice(FIELDS[field].names) for field in wanted]
    result = {key: values.get(field) for key, field in zip(keys, wanted)}
    form = rng.random()
    if form < 0.55:
        asking, slots = BY_KEYS, {"keys": listed(keys, lang)}
    elif form < 0.85:
        asking, slots = BY_SCHEMA, {"schema": schema_of(keys, [FIELDS[field].kind for field in wanted], rng)}
    else:
        asking, slots = BY_FORM, {"form": json.dumps({key: "" if FIELDS[field].kind == "string" else 0 for key,
                                                      field in zip(keys, wanted)})}
    pattern = asking.request(rng, lang, context.split)
    if lang == "en" and pattern[0].isalpha() and rng.random() < 0.6:
        pattern = pattern[0].upper() + pattern[1:]
    user = spelled(fill(pattern, slots | {"text": text}), rng)
    answer = json.dumps(result, ensure_ascii=False)
    thought = {"en": f"The keys are {listed(keys, 'en')}.", "zh": f"字段是{listed(keys, 'zh')}。"}
    say = {other: Say(answer, answer, thought[other], [("json", result)]) for other in thought}
    return Exchange("JSON extraction", user, say, lang, verbatim=True)


SKILLS = [Skill("JSON extraction", extraction, 14)]
