"""System prompts: language and length of answers, their first and last words, the names of assistant and user."""

from .dialogue import Style
from .phrases import Pool, fill, phrases
from .words import made_up, name

LANGUAGE = {
    "zh": phrases(
        en=["answer in chinese", "always answer in chinese", "reply in chinese", "please speak chinese", "use chinese",
            "you [only |]speak chinese", "write your answers in chinese", "respond in chinese only",
            "all answers must be in chinese", "chinese only", "you answer every question in chinese"],
        zh=["用中文回答", "请用中文回答", "总是用中文回答", "请说中文", "只用中文", "你只说中文", "所有回答都用中文", "请始终使用中文", "用汉语回答", "必须说中文",
            "无论什么语言都用中文回答"],
        held_en=["give every answer in chinese", "please always reply in chinese"],
        held_zh=["请总是用中文回答问题", "你的回答必须用中文"]),
    "en": phrases(
        en=["answer in english", "always answer in english", "reply in english", "please speak english", "use english",
            "you [only |]speak english", "write your answers in english", "respond in english only",
            "all answers must be in english", "english only", "you answer every question in english"],
        zh=["用英文回答", "请用英文回答", "总是用英语回答", "请说英文", "只用英文", "你只说英语", "所有回答都用英文", "请始终使用英文", "用英语回答", "必须说英文",
            "无论什么语言都用英文回答"],
        held_en=["give every answer in english", "please always reply in english"],
        held_zh=["请总是用英文回答问题", "你的回答必须用英文"]),
}
BRIEF = phrases(
    en=["be brief", "be terse", "you are terse", "keep it short", "answer briefly",
        "answer in as few words as possible", "short answers[ only|, please]", "give [very |]short answers",
        "be concise", "you are a concise assistant",
        "answer with as little as possible", "use few words", "your answers are brief",
        "do not write more than necessary"],
    zh=["回答要简短", "请简短回答", "简洁一点", "尽量少说", "用最少的字回答", "只给简短的答案", "言简意赅", "你说话很简短", "请简洁", "回答要简洁", "请给简洁的回答", "回答越短越好", "不要多说"],
    held_en=["please be as brief as possible", "keep your answers short", "please be terse"],
    held_zh=["请尽量简短地回答", "你的回答要简洁", "请长话短说"])
PERSONA = phrases(
    en=["you are {x}", "your name is {x}", "you are called {x}", "you are {x}, a friendly assistant",
        "you are an assistant called {x}", "you are an assistant named {x}", "act as {x}", "you are a robot named {x}",
        "from now on you are {x}", "you are somebody whose name is {x}", "you play the part of {x}",
        "you are {x}, a helpful assistant"],
    zh=["你是{x}", "你叫{x}", "你的名字是{x}", "你是助手{x}", "你是一个叫{x}的助手", "你是名叫{x}的机器人", "从现在起你是{x}", "你扮演{x}", "你是{x}，一个友好的助手",
        "你是{x}，一个有用的助手", "现在你叫{x}", "你现在的名字叫{x}", "从今天起你的名字叫{x}", "这里你的名字是{x}"],
    held_en=["you are a helpful assistant whose name is {x}", "you are a friendly robot called {x}"],
    held_zh=["你是一个名叫{x}的友好助手", "现在你的名字叫{x}", "大家都叫你{x}"])
SUFFIX = phrases(
    en=["end every answer with {x}", "always end with {x}", "finish each answer with {x}", "close all answers with {x}",
        "put {x} at the end of every answer", "the last word of your answers is {x}", "end all answers with {x}",
        "end your answers with {x}", "your answers end with {x}", "let every answer end with {x}",
        "all of your answers end with {x}", "add {x} at the end of all answers"],
    zh=["每个回答都以{x}结尾", "总是以{x}结束", "回答的最后加上{x}", "每次回答末尾写{x}", "在回答后面加{x}", "在每个回答的末尾写{x}",
        "每个回答的最后都要有{x}", "所有回答都以{x}结尾", "每个回答最后说{x}", "回答结束时写上{x}", "每个回答最后写{x}", "回答完请写上{x}", "请在回答的最后写{x}",
        "请在所有回答后面加上{x}"],
    held_en=["please end all your answers with {x}"], held_zh=["请在每个回答的最后写上{x}", "说完话后一定要说{x}"])
PREFIX = phrases(
    en=["start every answer with {x}", "always start with {x}", "begin each answer with {x}",
        "put {x} at the start of every answer", "the first word of your answers is {x}", "open all answers with {x}",
        "begin all answers with {x}", "begin your answers with {x}", "your answers begin with {x}", "let every answer start with {x}"],
    zh=["每个回答都以{x}开头", "总是以{x}开始", "回答前先写{x}", "每次回答开头写{x}", "在回答前面加{x}", "在每个回答的开头写{x}", "每个回答先说{x}", "所有回答都以{x}开头",
        "回答开始时写上{x}"],
    held_en=["please begin all your answers with {x}"], held_zh=["请在每个回答的开头写上{x}"])
ADDRESS = phrases(
    en=["the user is called {x}", "the user's name is {x}", "you are talking to {x}", "call the user {x}",
        "greet the user as {x}", "you speak with {x}", "you are now speaking with {x}"],
    zh=["用户叫{x}", "用户的名字是{x}", "你在和{x}说话", "称呼用户为{x}", "和你说话的是{x}"],
    held_en=["you are speaking to a user called {x}"], held_zh=["正在和你说话的用户叫{x}"])
PLAIN = phrases(
    en=["you are a helpful assistant", "you are an assistant", "you are a friendly chat model", "help the user",
        "be polite", "be helpful and kind", "you are a language model", "answer the user's questions",
        "you are a helpful, harmless and honest assistant", "do your best", "you are a small model",
        "today is a good day", "you answer questions"],
    zh=["你是一个有用的助手", "你是助手", "你是一个友好的聊天模型", "请帮助用户", "要有礼貌", "你是语言模型", "回答用户的问题", "你是一个乐于助人的助手", "请尽力而为", "你是一个小模型"],
    held_en=["you are a very helpful assistant"], held_zh=["你是一个很有用的助手"])

LAST_WORDS = {"en": Pool(["Over.", "Ahoy!", "Beep!", "OK?", "Amen.", "The end.", "Yours truly.", "Cheers!", "Stop.",
                          "So be it.", "Bye!", "Hooray!", "Ha!", "Indeed.", "Done.", "Right?", "Voila!"]),
              "zh": Pool(["完毕。", "喵。", "哈哈。", "谢谢。", "好的。", "嘿嘿。", "加油！", "就这样。", "呀！", "报告完毕。", "如此而已。", "汪汪。", "再见。",
                          "明白！", "收到。", "嗯嗯。"])}


def word_to_add(context, lang):
    """Something to start or end answers with; half of them are made up."""
    rng = context.rng
    if rng.random() < 0.5:
        if lang == "en":
            return made_up(rng, context.split).capitalize() + rng.choice(".!")
        return name(rng, "zh", context.split) + rng.choice("。！")
    return context.pick(LAST_WORDS[lang])


def choose(context, kinds):
    """A `Style` with these kinds of wish, and the system prompt that says so."""
    rng, lang, split = context.rng, context.lang, context.split
    style, wishes = Style(), []

    def wish(asking, **slots):
        pattern = asking.request(rng, lang, split)
        text = fill(pattern, slots)
        if lang == "en" and not pattern.startswith("{") and rng.random() < 0.75:
            text = text[0].upper() + text[1:]
        wishes.append(text)

    for kind in kinds:
        if kind == "lang":
            style.lang = rng.choice(["en", "zh"])
            wish(LANGUAGE[style.lang])
        elif kind == "brief":
            style.brief = True
            wish(BRIEF)
        elif kind == "persona":
            style.persona = made_up(rng, split,
                                    "persona").capitalize() if lang == "en" and rng.random() < 0.4 else name(rng, lang,
                                        split)
            wish(PERSONA, x=style.persona)
        elif kind == "address":
            style.address = name(rng, lang, split)
            wish(ADDRESS, x=style.address)
        elif kind in ("prefix", "suffix"):
            word = word_to_add(context, lang)
            setattr(style, kind, word)
            quote = rng.choice(['"{}"', "'{}'", "{}"]) if lang == "en" else rng.choice(["“{}”", '"{}"', "{}"])
            wish(PREFIX if kind == "prefix" else SUFFIX, x=quote.format(word))
        else:
            wish(PLAIN)
    mark, space = (".", " ") if lang == "en" else ("。", "")
    ended = [text if text[-1] in ".!?。！？" else text + mark for text in wishes]
    if rng.random() < 0.3:
        ended[-1] = wishes[-1]
    return style, space.join(ended)
