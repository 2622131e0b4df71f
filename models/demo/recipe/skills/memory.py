"""What the user said earlier in the conversation, and repeating what was said just now."""

from ..dialogue import Exchange, Say
from ..phrases import TRAIN, fill, is_held, phrases
from ..words import (ALL_WORDS, CITIES, COLOURS, COMMON_HAN, FOODS, HOBBIES, ITEMS, JOBS, code, made_up, name,
                     number, one_of)
from . import Skill


class Fact:
    """Something a user tells about themselves: how it is told, acknowledged, asked for and recalled."""

    def __init__(self, value, tell, ack, ask, recall, nothing):
        self.value, self.tell, self.ack, self.ask, self.recall, self.nothing = value, tell, ack, ask, recall, nothing


def pooled(pools):
    return lambda context: one_of(context, pools)


NOTHING = {"en": "You have not told me {what} yet.", "zh": "你还没有告诉我{what}。"}

FACTS = [
    Fact(lambda context: name(context.rng, context.lang, context.split), phrases(
        en=["my name is {x}", "i am called {x}", "call me {x}", "i am {x}", "hi, my name is {x}", "hello, i am {x}",
            "my name's {x}", "people call me {x}", "everybody says {x} to me", "this is {x}", "you can call me {x}",
            "hello! my name is {x}", "i'm {x}", "please call me {x}", "my mother calls me {x}"],
        zh=["我叫{x}", "我的名字是{x}", "我是{x}", "叫我{x}", "你好，我叫{x}", "你好，我是{x}", "大家叫我{x}", "你可以叫我{x}", "我的名字叫{x}", "请叫我{x}",
            "您好，我是{x}"],
        held_en=["hey, i am called {x}", "everybody calls me {x}", "good day, my name is {x}"],
        held_zh=["嗨，我的名字是{x}", "大家都叫我{x}", "您好，我叫{x}"]),
        {"en": ["Nice to meet you, {x}!", "Hello, {x}! Nice to meet you."], "zh": ["很高兴认识你，{x}！", "你好，{x}！很高兴认识你。"]},
        phrases(
            en=["what is my name?", "what's my name?", "do you remember my name?", "who am i?", "what am i called?",
                "tell me my name", "can you tell me my name?", "say my name", "do you know my name?",
                "how am i called?", "do you know who i am?"],
            zh=["我叫什么？", "我叫什么名字？", "我的名字是什么？", "我是谁？", "你记得我的名字吗？", "你知道我叫什么吗？", "说出我的名字", "你还记得我叫什么吗？", "告诉我我的名字"],
            held_en=["please tell me what my name is", "do you still remember my name?", "what was my name?"],
            held_zh=["你还记得我的名字吗？", "请说出我的名字", "你知道我的名字是什么吗？"]),
        {"en": "Your name is {x}.", "zh": "你叫{x}。"}, {"en": "your name", "zh": "你的名字"}),
    Fact(pooled(COLOURS), phrases(
        en=["my favourite colour is {x}", "my favorite color is {x}", "i like {x} best of all colours",
            "the colour i like best is {x}", "{x} is my favourite colour", "the color i love is {x}"],
        zh=["我最喜欢的颜色是{x}", "我喜欢{x}", "我最爱的颜色是{x}", "{x}是我最喜欢的颜色", "颜色里我最喜欢{x}"],
        held_en=["of all colours i like {x} best"], held_zh=["所有颜色里我最喜欢{x}"]),
        {"en": ["{x} is a nice colour.", "Good choice: {x} is a nice colour."], "zh": ["{x}很好看。", "不错，{x}很好看。"]},
        phrases(
            en=["what is my favourite colour?", "what is my favorite color?", "which colour do i like[ best|]?",
                "do you remember my favourite colour?", "what colour do i like best?", "tell me my favourite colour", "do you know my favourite colour?",
                "can you tell me which colour i like best?", "do you still know which colour i like?"],
            zh=["我最喜欢什么颜色？", "我最喜欢的颜色是什么？", "我喜欢什么颜色？", "你记得我最喜欢的颜色吗？", "我喜欢的颜色是哪个？", "你还记得我最喜欢的颜色吗？", "你知道我喜欢什么颜色吗？", "告诉我我最喜欢的颜色"],
            held_en=["do you know which colour i like best?"], held_zh=["你还记得我喜欢什么颜色吗？"]),
        {"en": "Your favourite colour is {x}.", "zh": "你最喜欢的颜色是{x}。"},
        {"en": "your favourite colour", "zh": "你最喜欢的颜色"}),
    Fact(pooled(CITIES), phrases(
        en=["i live in {x}", "my home is in {x}", "i am from {x}", "i come from {x}", "my city is {x}",
            "i was born in {x}", "i have moved to {x}", "i am living in {x}"],
        zh=["我住在{x}", "我来自{x}", "我的家在{x}", "我是{x}人", "我在{x}生活", "我搬到了{x}", "我家住{x}"],
        held_en=["the city i live in is {x}"], held_zh=["我现在住在{x}"]),
        {"en": ["{x} is a fine place.", "{x}, that is a fine place."], "zh": ["{x}是个好地方。", "{x}，真是个好地方。"]},
        phrases(
            en=["where do i live?", "where am i from?", "which city do i live in?", "do you remember where i live?",
                "what is my city?", "where is my home?", "do you know where i live?", "tell me where i live",
                "do you still know where i live?", "can you tell me which city i live in?", "can you tell me where i am from?"],
            zh=["我住在哪里？", "我来自哪里？", "我住在哪个城市？", "你记得我住哪儿吗？", "我家在哪里？", "你知道我住在哪里吗？", "你还记得我住在哪个城市吗？", "告诉我我住在哪里", "你还记得我来自哪里吗？"],
            held_en=["can you tell me where i live?"], held_zh=["你还记得我住在哪里吗？"]),
        {"en": "You live in {x}.", "zh": "你住在{x}。"}, {"en": "where you live", "zh": "你住在哪里"}),
    Fact(lambda context: str(number(context.rng, context.split)), phrases(
        en=["my number is {x}", "remember the number {x}", "my lucky number is {x}", "the number is {x}",
            "please remember this number: {x}", "keep the number {x} in mind", "note the number {x}"],
        zh=["我的号码是{x}", "记住数字{x}", "我的幸运数字是{x}", "这个数字是{x}", "请记住这个数字：{x}", "记下数字{x}"],
        held_en=["please keep this number in mind: {x}"], held_zh=["请记下这个数字：{x}"]),
        {"en": ["I will remember {x}.", "All right, I will remember {x}."], "zh": ["我记住了{x}。", "好的，我记住了{x}。"]},
        phrases(
            en=["what is my number?", "what was the number?", "which number did i tell you?",
                "which number have i told you?",
                "do you remember the number?", "what is the number?", "tell me the number", "what is my lucky number?"],
            zh=["我的号码是多少？", "那个数字是多少？", "我说的数字是什么？", "你记得那个数字吗？", "数字是多少？", "告诉我那个数字", "我的幸运数字是几？"],
            held_en=["do you remember which number i told you?"], held_zh=["你还记得我说的数字吗？"]),
        {"en": "The number is {x}.", "zh": "那个数字是 {x}。"}, {"en": "a number", "zh": "数字"}),
    Fact(lambda context: code(context.rng, context.split), phrases(
        en=["the code is {x}", "my code is {x}", "remember the code {x}", "the password is {x}",
            "the secret word is {x}", "please remember this code: {x}", "note the code {x}", "the code word is {x}"],
        zh=["密码是{x}", "我的代码是{x}", "记住代码{x}", "暗号是{x}", "请记住这个密码：{x}", "记下代码{x}", "口令是{x}"],
        held_en=["please remember that the code is {x}"], held_zh=["请记住，密码是{x}"]),
        {"en": ["I will remember the code {x}.", "All right, I will remember the code {x}."],
         "zh": ["我记住了密码{x}。", "好的，我记住了密码{x}。"]},
        phrases(
            en=["what is the code?", "what was the code?", "which code did i tell you?", "which code have i told you?",
                "do you remember the code?",
                "tell me the code", "what is the password?", "what is the secret word?", "say the code"],
            zh=["密码是什么？", "代码是多少？", "我说的密码是什么？", "你记得密码吗？", "告诉我密码", "暗号是什么？", "口令是什么？"],
            held_en=["do you remember which code i told you?"], held_zh=["你还记得密码是什么吗？"]),
        {"en": "The code is {x}.", "zh": "密码是{x}。"}, {"en": "a code", "zh": "密码"}),
    Fact(pooled(FOODS), phrases(
        en=["my favourite food is {x}", "i love {x}", "i like to eat {x}", "i love to eat {x}",
            "{x} is what i like to eat", "the food i like best is {x}"],
        zh=["我最喜欢吃{x}", "我爱吃{x}", "我最喜欢的食物是{x}", "我喜欢吃{x}", "{x}是我最爱吃的"],
        held_en=["what i like to eat best is {x}"], held_zh=["食物里我最喜欢{x}"]),
        {"en": ["I hear that {x} is good to eat.", "Enjoy it! I hear that {x} is good to eat."],
         "zh": ["听说{x}很好吃。", "真好，听说{x}很好吃。"]},
        phrases(
            en=["what is my favourite food?", "what do i like to eat?", "which food do i like?",
                "do you remember my favourite food?", "what do i love to eat?", "do you know my favourite food?",
                "tell me what i like to eat", "do you remember what i like to eat?", "can you tell me what i like to eat?"],
            zh=["我最喜欢吃什么？", "我爱吃什么？", "我最喜欢的食物是什么？", "你记得我爱吃什么吗？", "我喜欢吃什么？", "你还记得我爱吃什么吗？", "你知道我喜欢吃什么吗？", "告诉我我最喜欢的食物"],
            held_en=["do you know what i like to eat?"], held_zh=["你还记得我喜欢吃什么吗？"]),
        {"en": "You like {x}.", "zh": "你喜欢吃{x}。"}, {"en": "what you like to eat", "zh": "你喜欢吃什么"}),
    Fact(pooled(JOBS), phrases(
        en=["i work as a {x}", "i am a {x}", "my job is {x}", "i am working as a {x}", "i earn my money as a {x}"],
        zh=["我是一名{x}", "我的工作是{x}", "我做{x}", "我的职业是{x}", "我当{x}"],
        held_en=["for my job i work as a {x}"], held_zh=["我的职业是一名{x}"]),
        {"en": ["{x} is a good job.", "Interesting! {x} is a good job."], "zh": ["{x}是个好工作。", "真有意思，{x}是个好工作。"]},
        phrases(
            en=["what is my job?", "what do i do for work?", "what do i work as?", "do you remember my job?",
                "which job do i have?", "tell me my job", "what is my work?", "do you still know my job?", "can you tell me my job?",
                "what was my job?"],
            zh=["我的工作是什么？", "我是做什么的？", "我的职业是什么？", "你记得我的工作吗？", "我做什么工作？", "告诉我我的职业", "你知道我的职业吗？", "你还记得我的工作吗？", "你还记得我是做什么的吗？"],
            held_en=["do you know what my job is?"], held_zh=["你还记得我的职业吗？"]),
        {"en": "Your job is {x}.", "zh": "你的工作是{x}。"}, {"en": "your job", "zh": "你的工作"}),
    Fact(pooled(HOBBIES), phrases(
        en=["my hobby is {x}", "i like {x} in my free time", "in my free time i like {x}", "i am fond of {x}",
            "what i like to do is {x}"],
        zh=["我的爱好是{x}", "我喜欢{x}", "我有空就{x}", "业余时间我喜欢{x}"],
        held_en=["the hobby that i like best is {x}"], held_zh=["我有空的时候喜欢{x}"]),
        {"en": ["{x} sounds like fun.", "Great, {x} sounds like fun."], "zh": ["{x}很有意思。", "真好，{x}很有意思。"]},
        phrases(
            en=["what is my hobby?", "what do i like to do?", "do you remember my hobby?",
                "what do i do in my free time?", "tell me my hobby", "do you know my hobby?", "which hobby do i have?",
                "what was my hobby?", "can you tell me my hobby?"],
            zh=["我的爱好是什么？", "我喜欢做什么？", "你记得我的爱好吗？", "我有空做什么？", "你还记得我的爱好吗？", "告诉我我的爱好", "你知道我的爱好是什么吗？", "我有什么爱好？"],
            held_en=["do you know what my hobby is?"], held_zh=["你还记得我的爱好是什么吗？"]),
        {"en": "Your hobby is {x}.", "zh": "你的爱好是{x}。"}, {"en": "your hobby", "zh": "你的爱好"}),
    Fact(lambda context: name(context.rng, context.lang, context.split), phrases(
        en=["my [dog|cat|pet|horse] is called {x}", "i have a [dog|cat|pet|horse] called {x}",
            "i have a [dog|cat|pet] named {x}", "my [dog|cat|pet]'s name is {x}"],
        zh=["我的[狗|猫|宠物]叫{x}", "我有一只[狗|猫]叫{x}", "我养了一只[狗|猫]，名叫{x}", "我的[狗|猫|宠物]名字是{x}"],
        held_en=["the name of my [dog|cat|pet] is {x}"], held_zh=["我家的[狗|猫]叫{x}"]),
        {"en": ["{x} is a lovely name.", "How nice, {x} is a lovely name."], "zh": ["{x}，好可爱的名字。", "真好，{x}是个可爱的名字。"]},
        phrases(
            en=["what is my pet called?", "what is the name of my pet?", "do you remember my pet's name?",
                "what is my pet's name?", "how is my pet called?", "tell me the name of my pet", "do you know my pet's name?",
                "what was my pet called?", "do you still know the name of my pet?"],
            zh=["我的宠物叫什么？", "我的宠物叫什么名字？", "你记得我宠物的名字吗？", "我的宠物名字是什么？", "你还记得我宠物的名字吗？", "告诉我我宠物的名字", "你知道我的宠物叫什么吗？"],
            held_en=["can you tell me the name of my pet?"], held_zh=["你还记得我的宠物叫什么吗？"]),
        {"en": "Your pet is called {x}.", "zh": "你的宠物叫{x}。"}, {"en": "the name of your pet", "zh": "你宠物的名字"}),
    Fact(lambda context: str(held_age(context)), phrases(
        en=["i am {x} years old", "my age is {x}", "i am {x}", "i turned {x} last week", "i am {x} years of age"],
        zh=["我{x}岁", "我今年{x}岁", "我的年龄是{x}岁", "我{x}岁了", "我已经{x}岁了"],
        held_en=["i have just turned {x}"], held_zh=["我今年已经{x}岁了"]),
        {"en": ["{x} is a good age.", "Good to know: {x} is a good age."], "zh": ["{x}岁，真好。", "知道了，{x}岁，真好。"]},
        phrases(
            en=["how old am i?", "what is my age?", "do you remember how old i am?", "do you know my age?",
                "tell me my age", "can you tell me my age?", "do you still know how old i am?", "tell me how old i am"],
            zh=["我几岁？", "我多大了？", "我的年龄是多少？", "你记得我几岁吗？", "你知道我多大吗？", "你还记得我几岁吗？", "告诉我我的年龄", "我今年多大？"],
            held_en=["can you tell me how old i am?"], held_zh=["你还记得我多大吗？"]),
        {"en": "You are {x} years old.", "zh": "你 {x} 岁。"}, {"en": "your age", "zh": "你的年龄"}),
]

CORRECTION = phrases(
    en=["no, {told}", "sorry, {told}", "wait, {told}", "oh, sorry, {told}", "actually, {told}", "i was wrong: {told}",
        "correction: {told}"],
    zh=["不，{told}", "不对，{told}", "说错了，{told}", "等等，{told}", "其实{told}", "更正一下，{told}"],
    held_en=["oh no, {told}"], held_zh=["哦不，{told}"])


def held_age(context):
    while True:
        age = context.rng.randint(5, 99)
        if is_held("age", age) == (context.split != TRAIN):
            return age


def sentence(template, value, lang):
    """A sentence about a value, with a capital at its start."""
    text = template.format(x=value)
    return text[0].upper() + text[1:] if lang == "en" else text


def tell(context, fact, value, correction=False):
    """The user says it; the answer shows that it was read."""
    user = context.ask(fact.tell, wrap=False, x=value)
    if correction:
        user = fill(CORRECTION.pick(context.rng, context.lang, context.split),
                    {"told": user[0].lower() + user[1:] if not user.startswith("I ") else user})

    def say(lang):
        brief, full = (sentence(ack, value, lang) for ack in fact.ack[lang])
        thought = f"The user tells me: {value}." if lang == "en" else f"用户告诉我：{value}。"
        return Say(full, brief, thought, [("has", value)])

    return Exchange("memory", user, context.answers(say), context.lang)


def recall(context, fact, value):
    """The user asks for it; without a value it was never said."""
    def say(lang):
        if value is None:
            text = NOTHING[lang].format(what=fact.nothing[lang])
            thought = f"The user has not said {fact.nothing['en']}." if lang == "en" else f"用户没有说过{fact.nothing['zh']}。"
            return Say(text, text, thought, [("one_of", text)])
        thought = f"The user said: {value}." if lang == "en" else f"用户说过：{value}。"
        return Say(fact.recall[lang].format(x=value), f"{value}{'.' if lang == 'en' else '。'}", thought,
                   [("has", value)])

    return Exchange("memory", context.ask(fact.ask), context.answers(say), context.lang)


def remembered(context):
    """Exchanges in which things are told, and the exchanges that ask for them later: `(tells, asks)`."""
    rng = context.rng
    if rng.random() < 0.12:
        return [], [recall(context, rng.choice(FACTS), None)]
    facts = rng.sample(FACTS, rng.choice([1, 1, 1, 2, 2, 3]))
    tells, asks = [], []
    for fact in facts:
        value = fact.value(context)
        tells.append(tell(context, fact, value))
        if rng.random() < 0.12:
            value = fact.value(context)
            tells.append(tell(context, fact, value, correction=True))
        asks.append(recall(context, fact, value))
    rng.shuffle(asks)
    if len(facts) == 1 and rng.random() < 0.1:
        asks.append(recall(context, rng.choice([fact for fact in FACTS if fact not in facts]), None))
    return tells, asks[:2]


# ---------------------------------------------------------------- repeating

REPEAT = phrases(
    en=["repeat after me: {x}", "repeat: {x}", "say: {x}", "say {x}", "repeat this: {x}", "please repeat {x}",
        "write {x}", "echo {x}", "copy this: {x}", "print {x}", "repeat the words {x}", "can you say {x}?", "copy {x}", "now repeat: {x}",
        "say this: {x}", "write this: {x}", "please write: {x}", "please repeat this: {x}", "repeat this after me: {x}",
        "copy: {x}", "copy the words {x}", "say after me: {x}", "i say {x}, you say", "write down: {x}", "type {x}"],
    zh=["跟我说：{x}", "重复：{x}", "请说：{x}", "说：{x}", "重复这句话：{x}", "请重复{x}", "写出{x}", "照着说：{x}", "复述：{x}", "请写：{x}",
        "跟我念：{x}", "跟我重复：{x}", "照着写：{x}", "照抄：{x}", "抄写：{x}", "重复一遍：{x}", "请跟我说：{x}", "请念：{x}", "念一遍{x}"],
    held_en=["please say this after me: {x}", "please copy: {x}"], held_zh=["请跟我重复：{x}", "请照着写：{x}"])


def repeated_text(context):
    """Something that can only be copied: words, made-up words, codes, numbers, rare characters."""
    rng, lang, split = context.rng, context.lang, context.split
    kind = rng.choice(["words", "words", "words", "made up", "code", "number", "mixed"])
    if kind == "code":
        return code(rng, split)
    if kind == "number":
        return str(number(rng, split, high=999999))
    if lang == "zh" and kind in ("made up", "mixed"):
        while True:
            text = "".join(rng.sample(COMMON_HAN, rng.randint(2, 6)))
            if is_held("text", text) == (split != TRAIN):
                return text
    while kind == "words":
        text = (" " if lang == "en" else "").join(rng.sample(ALL_WORDS[lang], rng.randint(1, 4)))
        if is_held("text", text) == (split != TRAIN):
            return text
    words = [made_up(rng, split) for _ in range(rng.randint(1, 3))]
    return " ".join([*words, rng.choice(ITEMS["en"].train)] if kind == "mixed" else words)


def repeat(context):
    """The text as it was given, and nothing else."""
    text = repeated_text(context)
    thought = {"en": "I repeat what the user wrote.", "zh": "照着用户写的重复。"}
    say = {lang: Say(text, text, thought[lang], [("one_of", text)]) for lang in thought}
    user = fill(REPEAT.request(context.rng, context.lang, context.split), {"x": text})
    return Exchange("repeating", user[0].upper() + user[1:], say, context.lang, verbatim=True)


#: `remembered` is no `Skill`: it spans exchanges, so `mix` puts it into conversations itself.
SKILLS = [Skill("repeating", repeat, 7)]
