"""The tools that conversations declare: names, descriptions, parameters, questions and what the tools answer."""

from dataclasses import dataclass
from typing import Callable

from ..phrases import TRAIN, Phrases, phrases
from ..words import CITIES, FOODS, ITEMS, code, made_up, name, number, one_of


@dataclass(frozen=True)
class Parameter:
    """`names` are what a declaration may call it; `about` describes it; `value(context)` gives what the user says."""

    key: str
    names: tuple
    kind: str
    about: dict
    value: Callable


@dataclass(frozen=True)
class Tool:
    """`verbs` and `nouns` make the name; `answer` has slots for parameters and for `{result}`, what the tool said."""

    key: str
    verbs: tuple
    nouns: tuple
    about: dict
    parameters: tuple
    ask: Phrases
    answer: dict
    brief: dict
    result: Callable


def city(context):
    if context.rng.random() < 0.15:
        return made_up(context.rng, context.split, "city").capitalize()
    if context.split == TRAIN and context.lang == "zh" and context.rng.random() < 0.2:
        return one_of(context, CITIES, made_up_share=1)
    return CITIES[context.lang].pick(context.rng, context.split)


def clock(context):
    return f"{context.rng.randint(0, 23)}:{context.rng.randint(0, 59):02}"


def person(context):
    return name(context.rng, context.lang, context.split)


def errand(context):
    verb = context.rng.choice({"en": ["buy", "bring", "fetch", "clean", "sell"],
                               "zh": ["买", "带", "拿", "洗", "卖"]}[context.lang])
    return verb + (" " if context.lang == "en" else "") + one_of(context, ITEMS)


def formula(context):
    """Too large to be worked out in the head."""
    rng = context.rng
    return f"{number(rng, context.split, 11, 9999)} {rng.choice('+-*/')} {number(rng, context.split, 11, 999)}"


def topic(context):
    pool = {"en": ["history of", "price of", "origin of", "best"], "zh": ["历史", "价格", "来源", "做法"]}[context.lang]
    item = one_of(context, context.rng.choice([FOODS, ITEMS]))
    word = context.rng.choice(pool)
    return f"{word} {item}" if context.lang == "en" else f"{item}的{word}"


CITY = Parameter("city", ("city", "location", "place", "town", "city_name", "where"), "string",
                 {"en": ("the city", "name of the city", "the place to look up"), "zh": ("城市", "城市名称", "要查询的城市")}, city)

#: A condition in both languages; what a weather tool says is in either.
WEATHER = [("sunny", "晴"), ("cloudy", "多云"), ("rainy", "有雨"), ("windy", "有风"), ("snowy", "有雪"), ("foggy", "有雾"),
           ("stormy", "有暴风雨")]


def weather_result(context):
    """What the tool answers, as data, and how the answer says it, by language."""
    en, zh = context.rng.choice(WEATHER)
    degrees = context.rng.randint(-15, 39)
    value = {"temperature": degrees, context.rng.choice(["condition",
                                                         "weather"]): en if context.rng.random() < 0.6 else zh}
    if context.rng.random() < 0.3:
        value = dict(reversed(value.items()))
    return value, {"en": f"{en}, {degrees} °C", "zh": f"{zh}，{degrees} 度"}


def time_result(context):
    now = clock(context)
    return {context.rng.choice(["time", "now", "local_time"]): now}, {"en": now, "zh": now}


def number_result(low, high):
    def make(context):
        value = number(context.rng, context.split, low, high)
        return {context.rng.choice(["result", "value", "answer"]): value}, {"en": str(value), "zh": str(value)}
    return make


def text_result(context):
    text = " ".join(made_up(context.rng, context.split) for _ in range(context.rng.randint(1, 3))).capitalize()
    return {context.rng.choice(["result", "text", "answer"]): text}, {"en": text, "zh": text}


def done(context):
    return {"status": context.rng.choice(["ok", "done", "success"])}, {"en": "done", "zh": "完成"}


TOOLS = [
    Tool("weather", ("get", "query", "fetch", "check", "lookup", "show"),
         ("weather", "forecast", "current_weather", "weather_info", "weather_report"),
         {"en": ("Get the current weather for a city", "Weather in a city", "Look up the weather of a place"),
          "zh": ("查询城市的天气", "获取当前天气", "查询某地的天气")}, (CITY,),
         phrases(
             en=["what is the weather [like |]in {city}[ today| now|]?", "how is the weather in {city}[ today|]?",
                 "weather in {city}", "is it [raining|sunny|cold|warm] in {city}?", "tell me the weather in {city}",
                 "what is the weather like in {city}?", "[check|get|look up] the weather [in|for] {city}",
                 "what about the weather in {city}?", "do i need [an umbrella|a coat] in {city}?",
                 "how warm is it in {city}?",
                 "the weather forecast for {city}?", "weather {city}"],
             zh=["{city}[今天|现在|]天气怎么样？", "我要查{city}的天气", "查看{city}的天气", "看看{city}的天气", "询问{city}的天气", "{city}的天气[如何|怎么样]？", "查一下{city}的天气", "{city}天气", "{city}下雨吗？",
                 "{city}[今天|]冷吗？", "告诉我{city}的天气", "{city}的气温是多少？", "我想知道{city}的天气",
                 "去{city}要带伞吗？", "帮我查{city}的天气", "查询一下{city}天气", "查询{city}的天气", "我想查询{city}的天气", "查询{city}今天的天气", "查询{city}的气温",
                 "知道{city}的天气吗？"],
             held_en=["can you tell me how the weather is in {city}?", "please look up the weather in {city}",
                      "what is the weather in {city} like right now?"],
             held_zh=["请问{city}现在的天气怎么样？", "请帮我查询{city}的天气", "你知道{city}今天天气如何吗？"]),
         {"en": "The weather in {city}: {result}.", "zh": "{city}的天气：{result}。"},
         {"en": "{result}.", "zh": "{result}。"}, weather_result),
    Tool("time", ("get", "query", "fetch", "check", "lookup", "show"),
         ("time", "current_time", "local_time", "clock", "time_in_city"),
         {"en": ("Get the current time in a city", "Local time in a city", "What time it is somewhere"),
          "zh": ("查询城市的当前时间", "获取当地时间", "查询某地现在几点")}, (CITY,),
         phrases(
             en=["what time is it in {city}[ now|]?", "what is the time in {city}?", "time in {city}",
                 "tell me the time in {city}", "how late is it in {city}?", "what is the local time in {city}?",
                 "the current time in {city}?", "[check|get|look up] the time in {city}",
                 "do you know what time it is in {city}?", "look up what time it is in {city}"],
             zh=["{city}[现在|]几点？", "查看{city}的时间", "我要查{city}的时间", "看看{city}几点", "{city}现在是什么时间？", "{city}的时间", "{city}几点了？", "查一下{city}的时间", "告诉我{city}现在几点", "查询{city}的时间", "查询{city}现在几点",
                 "{city}的当地时间是多少？", "我想知道{city}的时间"],
             held_en=["can you tell me what time it is in {city}?", "please look up the local time in {city}"],
             held_zh=["请问{city}现在几点了？", "请帮我查{city}的当地时间"]),
         {"en": "It is {result} in {city}.", "zh": "{city}现在是 {result}。"}, {"en": "{result}.", "zh": "{result}。"},
         time_result),
    Tool("calculator", ("run", "use", "eval", "do", "compute"), ("calculator", "calculate", "math", "expression",
                                                                 "formula"),
         {"en": ("Calculate an arithmetic expression", "Evaluate a formula", "A calculator"),
          "zh": ("计算算术表达式", "计算器", "求公式的值")},
         (Parameter("expression", ("expression", "formula", "input", "expr", "calculation"), "string",
                    {"en": ("the expression", "what to calculate", "an arithmetic expression"),
                     "zh": ("表达式", "要计算的式子", "算术表达式")}, formula),),
         phrases(
             en=["what is {expression}?", "calculate {expression}", "compute {expression}", "how much is {expression}?",
                 "{expression}", "{expression} =", "work out {expression}", "use the calculator: {expression}",
                 "i need {expression}", "evaluate {expression}"],
             zh=["{expression}等于多少？", "计算{expression}", "{expression}是多少？", "算一下{expression}", "{expression}",
                 "{expression} =", "帮我算{expression}", "用计算器算{expression}", "求{expression}"],
             held_en=["can you calculate {expression} for me?", "please work out {expression}"],
             held_zh=["请帮我计算{expression}", "请问{expression}的结果是多少？"]),
         {"en": "{expression} = {result}.", "zh": "{expression} = {result}。"}, {"en": "{result}.", "zh": "{result}。"},
         number_result(1, 999999)),
    Tool("search", ("search", "find", "lookup", "web"), ("web", "search", "internet", "query", "information"),
         {"en": ("Search the web", "Find information on the internet", "Look something up"),
          "zh": ("搜索网络", "在网上查找信息", "搜索信息")},
         (Parameter("query", ("query", "q", "text", "keywords", "search_term"), "string",
                    {"en": ("what to search for", "the query", "search words"), "zh": ("搜索内容", "关键词", "要搜索的词")}, topic),
                    ),
         phrases(
             en=["search for {query}", "search the web for {query}", "look up {query}", "find something about {query}",
                 "google {query}", "search: {query}", "find {query} on the internet"],
             zh=["搜索{query}", "上网查{query}", "查一下{query}", "搜一搜{query}", "帮我搜索{query}", "网上搜索{query}", "搜索一下{query}", "在网上找{query}"],
             held_en=["please search the internet for {query}"], held_zh=["请在网上搜索{query}"]),
         {"en": "I found this: {result}.", "zh": "我找到了：{result}。"}, {"en": "{result}.", "zh": "{result}。"},
         text_result),
    Tool("alarm", ("set", "create", "add", "new"), ("alarm", "alarm_clock", "wake_up_call"),
         {"en": ("Set an alarm", "Create an alarm clock", "Wake the user at a time"),
          "zh": ("设置闹钟", "新建闹钟", "在某个时间叫醒用户")},
         (Parameter("time", ("time", "at", "when", "alarm_time", "clock"), "string",
                    {"en": ("the time", "when to ring", "time of day"), "zh": ("时间", "响铃时间", "几点")}, clock),),
         phrases(
             en=["set an alarm for {time}", "wake me [up |]at {time}", "alarm at {time}", "i want to get up at {time}",
                 "please wake me at {time}", "create an alarm for {time}", "set my alarm to {time}", "the alarm must ring at {time}",
                 "put the alarm at {time}"],
             zh=["设一个{time}的闹钟", "{time}叫我起床", "{time}叫醒我", "定个{time}的闹钟", "我要在{time}起床", "闹钟{time}"],
             held_en=["can you set the alarm to {time}?"], held_zh=["请帮我定{time}的闹钟"]),
         {"en": "Done: the alarm is set for {time}.", "zh": "好了，闹钟定在 {time}。"}, {"en": "Done.", "zh": "好了。"}, done),
    Tool("message", ("send", "write", "post"), ("message", "text", "sms", "note"),
         {"en": ("Send a message to a person", "Write somebody a text message"), "zh": ("给某人发消息", "发送短信")},
         (Parameter("to", ("to", "recipient", "person", "receiver", "contact"), "string",
                    {"en": ("who gets it", "the recipient"), "zh": ("收件人", "发给谁")}, person),
          Parameter("text", ("text", "message", "content", "body"), "string",
                    {"en": ("the text", "what to say"), "zh": ("内容", "消息内容")}, errand)),
         phrases(
             en=["send a message to {to}: {text}", "write to {to}: {text}", "tell {to}: {text}", "text {to}: {text}",
                 "message {to}: {text}", "send {to} the message: {text}", "send {to} a text: {text}", "send this to {to}: {text}",
                 "let {to} know: {text}", "i have this message for {to}: {text}", "a message for {to}: {text}", "send {to} these words: {text}",
                 "[send|give|write] {to} [my|a|this|the] [note|line|text|news]: {text}", "pass this on to {to}: {text}", "get this message to {to}: {text}",
                 "send {to} my message: {text}"],
             zh=["给{to}发消息：{text}", "告诉{to}：{text}", "发短信给{to}：{text}", "写信给{to}：{text}", "通知{to}：{text}", "发个消息给{to}：{text}", "给{to}的消息：{text}", "转告{to}：{text}", "发给{to}：{text}"],
             held_en=["please send {to} this message: {text}"], held_zh=["请发消息给{to}：{text}"]),
         {"en": "Done: the message to {to} is sent.", "zh": "好了，给{to}的消息已发出。"}, {"en": "Done.", "zh": "好了。"}, done),
    Tool("stock", ("get", "query", "fetch", "check", "lookup"), ("stock", "stock_price", "share_price", "quote"),
         {"en": ("Get the price of a stock", "Look up a share price"), "zh": ("查询股票价格", "获取股价")},
         (Parameter("symbol", ("symbol", "ticker", "stock", "name"), "string",
                    {"en": ("the ticker symbol", "which stock"), "zh": ("股票代码", "代码")},
                    lambda context: code(context.rng, context.split)),),
         phrases(
             en=["what is the [stock |share |]price of {symbol}?", "how is the stock {symbol}?",
                 "stock price of {symbol}", "check the stock {symbol}", "how much is {symbol} stock?"],
             zh=["{symbol}的股价是多少？", "查一下股票{symbol}", "{symbol}股票多少钱？", "股票{symbol}怎么样？", "看看{symbol}的股价"],
             held_en=["tell me the share price of {symbol}"], held_zh=["请查{symbol}的股票价格"]),
         {"en": "The price of {symbol} is {result}.", "zh": "{symbol}的价格是 {result}。"},
         {"en": "{result}.", "zh": "{result}。"}, number_result(2, 9999)),
    Tool("timer", ("set", "start", "run"), ("timer", "countdown", "stopwatch"),
         {"en": ("Start a timer", "Count down some minutes"), "zh": ("启动计时器", "倒计时若干分钟")},
         (Parameter("minutes", ("minutes", "duration", "length", "minutes_to_run"), "integer",
                    {"en": ("minutes", "how many minutes"), "zh": ("分钟数", "多少分钟")},
                    lambda context: number(context.rng, context.split, 1, 90)),),
         phrases(
             en=["set a timer for {minutes} minutes", "start a timer of {minutes} minutes", "timer {minutes} minutes",
                 "count down {minutes} minutes", "remind me in {minutes} minutes"],
             zh=["设一个{minutes}分钟的计时器", "计时{minutes}分钟", "倒计时{minutes}分钟", "{minutes}分钟后提醒我", "开始{minutes}分钟的计时"],
             held_en=["please start the timer for {minutes} minutes"], held_zh=["请帮我计时{minutes}分钟"]),
         {"en": "Done: the timer runs for {minutes} minutes.", "zh": "好了，计时 {minutes} 分钟。"},
         {"en": "Done.", "zh": "好了。"}, done),
    Tool("train", ("book", "find", "search", "get"), ("train", "ticket", "train_ticket", "trip", "connection"),
         {"en": ("Find a train between two cities", "Book a train ticket"), "zh": ("查询两个城市之间的火车", "预订火车票")},
         (Parameter("from", ("from", "origin", "start", "departure", "from_city"), "string",
                    {"en": ("where the trip starts", "city of departure"), "zh": ("出发城市", "起点")}, city),
          Parameter("to", ("to", "destination", "end", "arrival", "to_city"), "string",
                    {"en": ("where the trip ends", "city of arrival"), "zh": ("到达城市", "终点")}, city)),
         phrases(
             en=["find a train from {from} to {to}", "book a ticket from {from} to {to}",
                 "i want to go from {from} to {to}", "train from {from} to {to}", "how do i get from {from} to {to}?",
                 "a ticket from {from} to {to}, please"],
             zh=["查{from}到{to}的火车", "订一张{from}到{to}的票", "我想从{from}去{to}", "我要买从{from}到{to}的票", "帮我订{from}到{to}的火车", "从{from}到{to}的火车", "从{from}怎么去{to}？",
                 "买一张从{from}到{to}的车票"],
             held_en=["i need a train ticket from {from} to {to}"], held_zh=["我要订从{from}到{to}的火车票"]),
         {"en": "I found this from {from} to {to}: {result}.", "zh": "{from}到{to}：{result}。"},
         {"en": "{result}.", "zh": "{result}。"}, text_result),
    Tool("order", ("order", "buy", "deliver"), ("food", "meal", "dish", "lunch"),
         {"en": ("Order food", "Have a dish delivered"), "zh": ("点餐", "订外卖")},
         (Parameter("dish", ("dish", "food", "item", "meal"), "string",
                    {"en": ("the dish", "what to eat"), "zh": ("菜名", "要吃的东西")},
                    lambda context: one_of(context, FOODS)),
          Parameter("count", ("count", "quantity", "amount", "portions"), "integer",
                    {"en": ("how many", "number of portions"), "zh": ("数量", "份数")},
                    lambda context: context.rng.randint(2, 9))),
         phrases(
             en=["order {count} portions of {dish}", "i want {count} portions of {dish}",
                 "get me {count} portions of {dish}", "please order {dish}, {count} portions",
                 "{count} portions of {dish}, please"],
             zh=["点{count}份{dish}", "我要{count}份{dish}", "想吃{dish}，来{count}份", "帮忙点{count}份{dish}", "叫{count}份{dish}", "来{count}份{dish}", "订{count}份{dish}", "{dish}{count}份"],
             held_en=["can you order {count} portions of {dish}?"], held_zh=["请帮我点{count}份{dish}"]),
         {"en": "Done: {count} portions of {dish} are ordered.", "zh": "好了，点了 {count} 份{dish}。"},
         {"en": "Done.", "zh": "好了。"}, done),
    Tool("translate", ("translate", "run", "get"), ("text", "translation", "translator"),
         {"en": ("Translate a text into another language", "A translator"), "zh": ("把文本翻译成另一种语言", "翻译器")},
         (Parameter("text", ("text", "input", "sentence", "content"), "string",
                    {"en": ("the text", "what to translate"), "zh": ("文本", "要翻译的内容")}, errand),
          Parameter("language", ("language", "target", "to", "target_language"), "string",
                    {"en": ("the language", "target language"), "zh": ("语言", "目标语言")},
                    lambda context: context.rng.choice({"en": ["French", "German", "Spanish", "Italian", "Russian",
                                                               "Japanese"], "zh": ["法语", "德语", "西班牙语", "日语", "俄语",
                                                                   "韩语"]}[context.lang]))),
         phrases(
             en=["translate into {language}: {text}", "translate {text} into {language}",
                 "how do you say {text} in {language}?", "what is {text} in {language}?", "{text} to {language}", "put {text} into {language}", "translate to {language}: {text}"],
             zh=["翻译成{language}：{text}", "把{text}翻译成{language}", "把{text}译为{language}", "将{text}翻成{language}", "{text}翻译为{language}", "译成{language}：{text}", "{text}用{language}怎么说？"],
             held_en=["please translate {text} to {language}"], held_zh=["请把{text}译成{language}"]),
         {"en": "In {language} it is: {result}.", "zh": "{language}是：{result}。"},
         {"en": "{result}.", "zh": "{result}。"}, text_result),
]
