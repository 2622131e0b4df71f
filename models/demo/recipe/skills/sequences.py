"""Counting, sorting, comparing; days and months, which are sequences too."""

from ..dialogue import Exchange, Say
from ..phrases import TRAIN, is_held, phrases
from ..words import ITEMS
from . import Skill

# ---------------------------------------------------------------- counting

COUNT_UP = phrases(
    en=["count from {a} to {b}", "count [up |]from {a} up to {b}", "list the numbers from {a} to {b}",
        "[write|say] the numbers from {a} to {b}",
        "numbers from {a} to {b}", "can you count from {a} to {b}?", "start at {a} and count to {b}",
        "give me all numbers from {a} to {b}", "count {a} to {b}"],
    zh=["从{a}数到{b}", "请从{a}数到{b}", "列出{a}到{b}的数", "写出从{a}到{b}的数字", "你能从{a}数到{b}吗？", "数数，从{a}到{b}", "把{a}到{b}的数都说出来",
        "数{a}到{b}"],
    held_en=["please count the numbers from {a} to {b}", "i want you to count from {a} to {b}",
             "say all numbers from {a} to {b}"],
    held_zh=["请你从{a}开始数到{b}", "帮我从{a}数到{b}", "请写出{a}到{b}的数字"])
COUNT_TO = phrases(
    en=["count to {b}", "count up to {b}", "can you count to {b}?", "please count to {b}", "count until {b}"],
    zh=["数到{b}", "从一数到{b}", "请数到{b}", "你能数到{b}吗？"],
    held_en=["i want you to count to {b}"], held_zh=["帮我数到{b}"])
COUNT_DOWN = phrases(
    en=["count [down|backwards] from {b} to {a}", "count [down|backwards] from {b} down to {a}",
        "list the numbers from {b} down to {a}",
        "numbers backwards from {b} to {a}", "can you count [backwards|down] from {b} to {a}?",
        "countdown from {b} to {a}"],
    zh=["从{b}倒数到{a}", "倒着从{b}数到{a}", "请从{b}倒数到{a}", "你能从{b}倒数到{a}吗？", "从{b}往回数到{a}"],
    held_en=["please count down to {a} from {b}", "i want you to count down from {b} to {a}"],
    held_zh=["帮我从{b}倒数到{a}", "请你倒着从{b}数到{a}"])
COUNT_STEP = phrases(
    en=["count from {a} to {b} in steps of {step}", "count in {step}s from {a} to {b}",
        "count by {step} from {a} to {b}", "from {a} to {b} in steps of {step}"],
    zh=["从{a}数到{b}，每次加{step}", "每次加{step}，从{a}数到{b}", "从{a}到{b}，间隔{step}数数"],
    held_en=["in steps of {step}, count from {a} to {b}"], held_zh=["请从{a}数到{b}，每次加{step}"])
HOW_MANY = phrases(
    en=["how many [words|things|items] are in this list: {list}?", "count the [words|things|items]: {list}",
        "how many [words|items|things]: {list}?",
        "how many are these: {list}?", "how long is this list: {list}?", "count these: {list}",
        "here is a list: {list}. how many items does it have?"],
    zh=["这个列表有几项：{list}？", "数一数有几个：{list}", "一共有几样东西：{list}？", "下面有几个词：{list}？", "数一下：{list}", "这里有几样：{list}？"],
    held_en=["how many things do you see in this list: {list}?", "count the items in this list: {list}"],
    held_zh=["数一数这个列表有几项：{list}", "请问一共有几个词：{list}？"])


def joined(items, lang):
    return (", " if lang == "en" else "、").join(map(str, items))


def sequence_say(numbers, thought):
    """Answers that list numbers, each language with its own comma."""
    def say(lang):
        text = joined(numbers, lang)
        return Say(text + ("." if lang == "en" else "。"), text, thought[lang], [("numbers", *numbers)])
    return say


def counting(context):
    """Counting up, down or in steps, or how many things a list has."""
    rng = context.rng
    kind = rng.choice(["up", "up", "to", "down", "step", "many", "many"])
    if kind == "many":
        return counting_items(context)
    while True:
        low = rng.choice([1, 1, rng.randint(1, 30), rng.randint(1, 90)]) if kind != "to" else 1
        step = rng.choice([2, 3, 5, 10]) if kind == "step" else 1
        high = low + step * rng.randint(2, 11)
        # "count to 7": too few such ranges to hold any out
        if high <= 120 and (kind == "to" or is_held("count", kind, low, high, step) == (context.split != TRAIN)):
            break
    numbers = list(range(low, high + 1, step))
    asks = {"up": COUNT_UP, "to": COUNT_TO, "down": COUNT_DOWN, "step": COUNT_STEP}[kind]
    user = context.ask(asks, a=low, b=high, step=step)
    if kind == "down":
        numbers.reverse()
    thought = {"en": f"I start at {numbers[0]} and stop at {numbers[-1]}.", "zh": f"从{numbers[0]}开始，到{numbers[-1]}为止。"}
    return Exchange("counting", user, context.answers(sequence_say(numbers, thought)), context.lang)


def counting_items(context):
    rng, lang = context.rng, context.lang
    count = rng.randint(2, 8)
    items = rng.sample(ITEMS[lang].train + ITEMS[lang].held, count)
    user = context.ask(HOW_MANY, wrap=False, list=joined(items, lang))
    numbered = ", ".join(f"{index} {item}" for index, item in enumerate(items, 1))
    say = {
        "en": Say(f"There are {count}.", str(count), f"{numbered}.", [("number", count)]),
        "zh": Say(f"一共有 {count} 个。", str(count), f"{numbered}。", [("number", count)]),
    }
    return Exchange("counting", user, say, lang)


# ---------------------------------------------------------------- sorting

SORT_UP = phrases(
    en=["sort {list}", "sort these numbers: {list}", "put these numbers in order: {list}",
        "order {list}[ from small to large|]", "sort [the list|the numbers] {list}",
        "sort from [small to large|low to high]: {list}", "can you sort {list}?",
        "arrange these numbers from smallest to largest: {list}",
        "sort in ascending order: {list}", "sort: {list}", "sort the following: {list}"],
    zh=["把{list}排序", "给这些数排序：{list}", "从小到大排列：{list}", "把这些数从小到大排：{list}", "排序：{list}", "请把{list}从小到大排列",
        "按升序排列：{list}", "你能给{list}排序吗？"],
    held_en=["please put these in order: {list}", "sort the following numbers: {list}",
             "can you put these numbers in order: {list}?"],
    held_zh=["请给下面的数排序：{list}", "帮我把{list}从小到大排列", "请把这些数排序：{list}"])
SORT_DOWN = phrases(
    en=["sort {list} from [large to small|high to low]", "sort these numbers in descending order: {list}",
        "put these in descending order: {list}",
        "sort backwards: {list}", "the following in descending order: {list}", "order from largest to smallest: {list}",
        "arrange these numbers from largest to smallest: {list}"],
    zh=["从大到小排列：{list}", "把{list}从大到小排序", "按降序排列：{list}", "把这些数从大到小排：{list}", "请把{list}从大到小排列"],
    held_en=["sort the following numbers in descending order: {list}",
             "put these numbers in order from largest to smallest: {list}"],
    held_zh=["请给下面的数从大到小排序：{list}", "帮我按降序排列：{list}"])
EXTREME = {
    "largest": phrases(
        en=["which is the [largest|biggest] number: {list}?", "what is the [largest|biggest] of {list}?",
            "the maximum of {list}?", "find the largest[ number|]: {list}",
            "which number is the biggest: {list}?", "max of {list}"],
        zh=["哪个数最大：{list}？", "{list}里最大的是哪个？", "找出最大的数：{list}", "{list}的最大值是多少？", "下面最大的数是几：{list}？"],
        held_en=["what is the biggest number in {list}?", "find the biggest: {list}"],
        held_zh=["这些数里哪个最大：{list}？", "请找出最大的：{list}"]),
    "smallest": phrases(
        en=["which is the smallest number: {list}?", "what is the smallest of {list}?", "the minimum of {list}?",
            "find the smallest[ number|]: {list}",
            "which number is the smallest: {list}?", "min of {list}", "the lowest of {list}?"],
        zh=["哪个数最小：{list}？", "{list}里最小的是哪个？", "找出最小的数：{list}", "{list}的最小值是多少？", "下面最小的数是几：{list}？"],
        held_en=["what is the smallest number in {list}?", "find the lowest, the smallest: {list}"],
        held_zh=["这些数里哪个最小：{list}？", "请找出最小的：{list}"]),
}
COMPARE = phrases(
    en=["which is [larger|bigger], {a} or {b}?", "is {a} or {b} [larger|bigger]?", "what is more, {a} or {b}?",
        "compare {a} and {b}: which is larger?"],
    zh=["{a}和{b}哪个大？", "{a}和{b}哪个更大？", "哪个更大，{a}还是{b}？", "比较{a}和{b}，哪个大？"],
    held_en=["which number is bigger, {a} or {b}?"], held_zh=["请问{a}和{b}哪个更大？"])
NEXT = {
    1: phrases(
        en=["what [number |]comes after {a}?", "which number comes after {a}?", "what is the next number after {a}?",
            "the number after {a}?", "what follows {a}?"],
        zh=["{a}后面是几？", "{a}的下一个数是多少？", "{a}之后是哪个数？", "比{a}大一的数是几？"],
        held_en=["tell me the number that comes after {a}"], held_zh=["请问{a}后面是哪个数？"]),
    -1: phrases(
        en=["what [number |]comes before {a}?", "which number comes before {a}?", "what is the number before {a}?",
            "the number before {a}?"],
        zh=["{a}前面是几？", "{a}的前一个数是多少？", "{a}之前是哪个数？", "比{a}小一的数是几？"],
        held_en=["tell me the number that comes before {a}"], held_zh=["请问{a}前面是哪个数？"]),
}


def held_list(context, low, high):
    """Different numbers below 100, on the wanted side of the wall."""
    while True:
        numbers = context.rng.sample(range(100), context.rng.randint(low, high))
        if is_held("list", *numbers) == (context.split != TRAIN):
            return numbers


def sorting(context):
    """Numbers put in order, the largest or smallest of them, the larger of two, the next one."""
    kind = context.rng.choice(["sort", "sort", "sort", "extreme", "extreme", "compare", "next"])
    return {"sort": sort_list, "extreme": extreme, "compare": compare, "next": neighbour}[kind](context)


def sort_list(context):
    numbers = held_list(context, 3, 6)
    down = context.rng.random() < 0.3
    separator = context.rng.choice([", ", ", ", " "] if context.lang == "en" else ["、", "，", ", ", " "])
    user = context.ask(SORT_DOWN if down else SORT_UP, wrap=False, list=separator.join(map(str, numbers)))
    ordered = sorted(numbers, reverse=down)
    first = {"en": "largest" if down else "smallest", "zh": "大" if down else "小"}
    thought = {"en": f"The {first['en']} is {ordered[0]}; there are {len(ordered)} numbers.",
               "zh": f"最{first['zh']}的是{ordered[0]}，一共{len(ordered)}个数。"}
    return Exchange("sorting", user, context.answers(sequence_say(ordered, thought)), context.lang)


def single_number(context, user, value, en, zh, thought_en, thought_zh):
    say = {"en": Say(en, str(value), thought_en, [("number", value)]),
           "zh": Say(zh, str(value), thought_zh, [("number", value)])}
    return Exchange("sorting", user, say, context.lang)


def extreme(context):
    numbers = held_list(context, 3, 6)
    which = context.rng.choice(list(EXTREME))
    value = max(numbers) if which == "largest" else min(numbers)
    user = context.ask(EXTREME[which], wrap=False, list=joined(numbers, context.lang))
    han = "大" if which == "largest" else "小"
    return single_number(context, user, value, f"The {which} number is {value}.", f"最{han}的数是 {value}。",
                         f"I look for the {which} of {len(numbers)} numbers.", f"要在{len(numbers)}个数里找最{han}的。")


def compare(context):
    a, b = held_list(context, 2, 2)
    user = context.ask(COMPARE, a=a, b=b)
    return single_number(context, user, max(a, b), f"The larger number is {max(a, b)}.", f"更大的是 {max(a, b)}。",
                         f"{min(a, b)} is less than {max(a, b)}.", f"{min(a, b)}小于{max(a, b)}。")


def neighbour(context):
    rng = context.rng
    while True:
        step, a = rng.choice([1, -1]), rng.randint(1, 99)
        if is_held("next", step, a) == (context.split != TRAIN):
            break
    user = context.ask(NEXT[step], a=a)
    where = ("after", "后面") if step == 1 else ("before", "前面")
    return single_number(context, user, a + step, f"The number {where[0]} {a} is {a + step}.",
                         f"{a} {where[1]}的数是 {a + step}。",
                         f"{a} {'+' if step == 1 else '−'} 1 = {a + step}.",
                         f"{a} {'+' if step == 1 else '−'} 1 = {a + step}。")


# ---------------------------------------------------------------- days and months

DAYS = {"en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
        "zh": "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split()}
MONTHS = {"en": "January February March April May June July August September October November December".split(),
          "zh": "一月 二月 三月 四月 五月 六月 七月 八月 九月 十月 十一月 十二月".split()}
LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()

AFTER = phrases(
    en=["[what|which] [day|month] comes after {x}?", "what [day |month |]is after {x}?", "what comes after {x}?",
        "what is the next [day|month] after {x}?", "what follows {x}?", "what is {x} followed by?",
        "which one comes after {x}?", "the [day|month] after {x}?", "after {x} comes?", "{x} is followed by which [day|month]?",
        "{x} comes before what?", "which [day|month] follows {x}?", "by what is {x} followed?", "{x}, and then?"],
    zh=["{x}之后是什么？", "{x}后面是什么？", "{x}的下一个是什么？", "{x}过后是什么？", "什么在{x}后面？", "{x}接下来是什么？", "{x}往后是什么？", "{x}再下一个是什么？", "{x}过了是什么？", "{x}的后一个是什么？"],
    held_en=["tell me what comes after {x}", "{x} is followed by what?"], held_zh=["请问{x}后面是什么？", "{x}再往后是什么？", "过完{x}就是什么了？"])
BEFORE = phrases(
    en=["[what|which] [day|month] comes before {x}?", "what [day |month |]is before {x}?", "what comes before {x}?",
        "the [day|month] before {x}?", "which one comes before {x}?",
        "what comes just before {x}?", "{x} comes after what?", "what precedes {x}?", "{x} follows which [day|month]?"],
    zh=["{x}之前是什么？", "{x}前面是什么？", "{x}的前一个是什么？", "什么在{x}前面？", "{x}往前是什么？", "{x}的上一个是什么？"],
    held_en=["tell me what comes before {x}", "which [day|month] do we have before {x}?"], held_zh=["请问{x}前面是什么？"])
TODAY = phrases(
    en=["if today is {x}, what [day |]is tomorrow?", "today is {x}. what is tomorrow?",
        "today is {x}. what day is it tomorrow?", "if it is {x} today, which day is tomorrow?"],
    zh=["今天是{x}，明天是什么？", "如果今天是{x}，明天是星期几？", "今天{x}，明天呢？", "今天是{x}，明天星期几？"],
    held_en=["it is {x} today. what day is tomorrow?"], held_zh=["如果今天是{x}，明天是什么？"])
NTH = phrases(
    en=["[what|which] is the {nth} {unit}?", "what is the {nth} {unit} of the {whole}?", "name the {nth} {unit}",
        "the {nth} {unit} of the {whole}?", "which {unit} is the {nth}?"],
    zh=["{whole}的第{n}{unit}是什么？", "第{n}{unit}是什么？", "{whole}里第{n}{unit}叫什么？"],
    held_en=["tell me the {nth} {unit} of the {whole}"], held_zh=["请说出{whole}的第{n}{unit}"])
HOW_LONG = phrases(
    en=["how many days [does {x} have|are in {x}|has {x}]?", "how long is {x}?", "{x} has how many days?",
        "number of days in {x}?"],
    zh=["{x}有多少天？", "{x}有几天？", "{x}一共多少天？"],
    held_en=["tell me how many days are in {x}"], held_zh=["请问{x}有几天？"])
LIST_ALL = phrases(
    en=["[list|name] the {units} of the {whole}", "what are the {units} of the {whole}?",
        "which {units} does a {whole} have?", "tell me all {units} of the {whole}", "list all {units}"],
    zh=["说出{whole}的所有{unit}", "列出{whole}的{unit}", "{whole}有哪些{unit}？", "把{whole}的{unit}都列出来"],
    held_en=["name all {units} of the {whole}"], held_zh=["请列出{whole}的所有{unit}"])
HOW_MANY_IN = phrases(
    en=["how many {units} [are in|has|does] a {whole}[ have|]?", "number of {units} in a {whole}?",
        "a {whole} has how many {units}?"],
    zh=["一{whole}有几{unit}？", "一{whole}有多少{unit}？"],
    held_en=["tell me how many {units} are in a {whole}"], held_zh=["请问一{whole}有几{unit}？"])
AMOUNTS = [(("days", "week"), ("天", "周"), 7), (("months", "year"), ("个月", "年"), 12),
           (("hours", "day"), ("小时", "天"), 24),
           (("minutes", "hour"), ("分钟", "小时"), 60), (("seconds", "minute"), ("秒", "分钟"), 60),
           (("days", "year"), ("天", "年"), 365),
           (("seasons", "year"), ("个季节", "年"), 4), (("weeks", "year"), ("周", "年"), 52)]


def calendar(context):
    """What comes before or after a day or month, the n-th of them, how long a month is."""
    kind = context.rng.choice(["after", "before", "today", "nth", "length", "all", "amount"])
    if kind in ("after", "before", "today"):
        return neighbours(context, kind)
    return {"nth": nth, "length": length, "all": list_all, "amount": amount}[kind](context)


def calendar_exchange(context, user, say):
    return Exchange("days and months", user, say, context.lang)


def neighbours(context, kind):
    names = DAYS if kind == "today" else context.rng.choice([DAYS, MONTHS])
    count = len(names["en"])
    at = context.rng.randrange(count)
    to = (at + (-1 if kind == "before" else 1)) % count
    ask = {"after": AFTER, "before": BEFORE, "today": TODAY}[kind]
    x = {lang: names[lang][at] for lang in names}
    y = {lang: names[lang][to] for lang in names}
    word = "before" if kind == "before" else "after"
    full = {"today": f"Tomorrow is {y['en']}.", "after": f"{y['en']} comes after {x['en']}.",
            "before": f"{y['en']} comes before {x['en']}."}[kind]
    han = {"today": f"明天是{y['zh']}。", "after": f"{x['zh']}之后是{y['zh']}。", "before": f"{x['zh']}之前是{y['zh']}。"}[kind]
    say = {"en": Say(full, y["en"] + ".", f"The user asks what comes {word} {x['en']}.", [("has", y["en"])]),
           "zh": Say(han, y["zh"] + "。", f"用户问{x['zh']}{'之前' if kind == 'before' else '之后'}是什么。", [("has", y["zh"])])}
    return calendar_exchange(context, context.ask(ask, x=x[context.lang]), say)


def nth(context):
    names, unit, whole = context.rng.choice([(DAYS, ("day", "天"), ("week", "一周")),
                                             (MONTHS, ("month", "个月"), ("year", "一年"))])
    at = context.rng.randrange(len(names["en"]))
    user = context.ask(NTH, nth=ORDINALS[at], n=at + 1, unit=unit[context.lang == "zh"],
                       whole=whole[context.lang == "zh"])
    en, zh = names["en"][at], names["zh"][at]
    say = {"en": Say(f"The {ORDINALS[at]} {unit[0]} of the {whole[0]} is {en}.", en + ".",
                     f"Number {at + 1} is wanted.", [("has", en)]),
           "zh": Say(f"{whole[1]}的第{at + 1}{unit[1]}是{zh}。", zh + "。", f"要的是第{at + 1}个。", [("has", zh)])}
    return calendar_exchange(context, user, say)


def length(context):
    at = context.rng.randrange(12)
    en, zh, days = MONTHS["en"][at], MONTHS["zh"][at], LENGTHS[at]
    leap = (", or 29 in a leap year", "，闰年有 29 天") if at == 1 else ("", "")
    check = [("has", str(days))]
    say = {"en": Say(f"{en} has {days} days{leap[0]}.", f"{days} days.", f"The user asks how long {en} is.", check),
           "zh": Say(f"{zh}有 {days} 天{leap[1]}。", f"{days} 天。", f"用户问{zh}有多长。", check)}
    return calendar_exchange(context, context.ask(HOW_LONG, x=MONTHS[context.lang][at]), say)


def list_all(context):
    names, units, whole, unit = context.rng.choice([(DAYS, "days", ("week", "一周"), "日子"),
                                                    (MONTHS, "months", ("year", "一年"), "月份")])
    user = context.ask(LIST_ALL, units=units, unit=unit, whole=whole[context.lang == "zh"])
    def say(lang):
        text = joined(names[lang], lang)
        thought = f"There are {len(names['en'])} {units}." if lang == "en" else f"一共有{len(names['zh'])}个。"
        return Say(text + ("." if lang == "en" else "。"), text, thought, [("has", text)])
    return calendar_exchange(context, user, context.answers(say))


def amount(context):
    (units, whole), (unit_zh, whole_zh), count = context.rng.choice(AMOUNTS)
    user = context.ask(HOW_MANY_IN, units=units, whole=whole if context.lang == "en" else whole_zh, unit=unit_zh)
    say = {"en": Say(f"There are {count} {units} in {'an' if whole == 'hour' else 'a'} {whole}.", f"{count}.",
                     f"The user asks how many {units} there are.", [("number", count)]),
           "zh": Say(f"一{whole_zh}有 {count} {unit_zh}。", f"{count}。", f"用户问有多少{unit_zh}。", [("number", count)])}
    return calendar_exchange(context, user, say)


SKILLS = [Skill("counting", counting, 6), Skill("sorting", sorting, 11), Skill("days and months", calendar, 4)]
