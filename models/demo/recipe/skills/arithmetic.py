"""Sums with numbers of up to two digits.

A tenth of the pairs of + and − is held out. Products and quotients are a table to be learnt by heart, of which nothing
can be held out: there only the phrasing is new in the examination.
"""

from ..dialogue import Exchange, Say
from ..phrases import HELD, TRAIN, is_held, phrases
from . import Skill

SIGNS = {"+": ["+", " + ", "+ "], "-": ["-", " - ", "−", " − "], "*": ["*", " * ", "×", " × ", " x ", "x"],
         "/": ["/", " / ", "÷", " ÷ "]}
SHOWN = {"+": "+", "-": "−", "*": "×", "/": "÷"}
WORDS = {"en": {"+": ["plus", "and"], "-": ["minus"], "*": ["times", "multiplied by"], "/": ["divided by", "over"]},
         "zh": {"+": ["加", "加上"], "-": ["减", "减去"], "*": ["乘", "乘以"], "/": ["除以"]}}

BARE = phrases(en=["{sum}", "{sum} =", "{sum}=", "{sum} = ?", "{sum}?"],
               zh=["{sum}", "{sum} =", "{sum}=", "{sum}=?", "{sum}？"])

ASK_SIGNS = phrases(
    en=["what is {sum}?", "how much is {sum}?", "calculate {sum}", "compute {sum}", "what does {sum} make?",
        "work out {sum}", "{sum} is?",
        "can you calculate {sum}?", "solve {sum}", "the result of {sum}?", "give me {sum}", "i need {sum}",
        "what is the answer to {sum}?",
        "do you know {sum}?", "evaluate {sum}", "tell me {sum}", "what do you get for {sum}?",
        "[let us |]calculate: {sum}"],
    zh=["{sum}等于多少？", "{sum}是多少？", "计算{sum}", "算一下{sum}", "{sum}等于几？", "请计算{sum}", "{sum}的结果是什么？", "帮我算{sum}",
        "{sum}得多少？",
        "求{sum}", "你知道{sum}等于多少吗？", "算算{sum}", "计算：{sum}", "告诉我{sum}等于多少"],
    held_en=["can you tell me what {sum} is?", "please work out {sum}", "what is the result of {sum}?",
             "do you know what {sum} is?"],
    held_zh=["请问{sum}的结果是多少？", "请帮我计算{sum}", "你能算一下{sum}吗？"])

ASK_WORDS = phrases(
    en=["what is {a} {op} {b}?", "how much is {a} {op} {b}?", "{a} {op} {b}", "{a} {op} {b} is?",
        "calculate {a} {op} {b}", "what does {a} {op} {b} make?",
        "tell me what {a} {op} {b} is", "{a} {op} {b} equals?", "compute {a} {op} {b}", "i want to know {a} {op} {b}",
        "work out {a} {op} {b}"],
    zh=["{a}{op}{b}等于多少？", "{a}{op}{b}是多少？", "{a}{op}{b}", "{a}{op}{b}等于几？", "算一下{a}{op}{b}", "计算{a}{op}{b}",
        "{a} {op} {b} 是多少？",
        "请问{a}{op}{b}得多少？", "我想知道{a}{op}{b}是多少"],
    held_en=["can you tell me what {a} {op} {b} is?", "what do i get for {a} {op} {b}?", "the result of {a} {op} {b}?"],
    held_zh=["请告诉我{a}{op}{b}等于多少", "{a}{op}{b}的结果是什么？"])

STORIES = {
    "+": phrases(
        en=["i have {a} apples and [buy|get|find] {b} more. how many [apples |]do i have[ now|]?",
            "there are {a} birds in a tree and {b} more come. how many birds are there?",
            "[tom|anna] has {a} books and gets {b} more. how many books is that?",
            "a bus has {a} people in it and {b} get in. how many are in it now?",
            "what is the sum of {a} and {b}?", "add {a} and {b}", "add {b} to {a}",
            "if i add {b} to {a}, what do i get?",
            "{a} cats and {b} dogs: how many animals?"],
        zh=["我有{a}个苹果，又买了{b}个，现在有几个？", "树上有{a}只鸟，又飞来{b}只，一共有几只？", "小明有{a}本书，又得到{b}本，一共多少本？",
            "车上有{a}个人，又上来{b}个人，现在有多少人？", "{a}和{b}的和是多少？", "把{a}和{b}加起来", "{a}只猫和{b}只狗，一共多少只动物？", "{a}再加{b}是多少？",
            "{a}与{b}相加得多少？"],
        held_en=["i have {a} books and buy {b} more. how many books do i have?",
                 "what is the sum when i add {a} and {b}?"],
        held_zh=["我有{a}本书，又买了{b}本，一共多少本？", "{a}与{b}的和等于多少？"]),
    "-": phrases(
        en=["i have {a} apples and [eat|lose|give away] {b}. how many [apples |]are left?",
            "there are {a} birds in a tree and {b} fly away. how many are left?",
            "a shop has {a} cakes and sells {b}. how many are left?", "take {b} away from {a}", "subtract {b} from {a}",
            "what is {a} less {b}?",
            "what is the difference between {a} and {b}?",
            "[tom|anna] has {a} coins and loses {b}. how many are left?"],
        zh=["我有{a}个苹果，吃了{b}个，还剩几个？", "树上有{a}只鸟，飞走了{b}只，还剩几只？", "商店有{a}个蛋糕，卖了{b}个，还剩多少？", "从{a}里减去{b}",
            "{a}和{b}的差是多少？", "{a}减掉{b}还有多少？", "{a}与{b}相减得多少？", "小明有{a}块糖，送人{b}块，还剩多少？"],
        held_en=["i have {a} cakes and eat {b}. how many are left?", "if i take {b} away from {a}, what is left?"],
        held_zh=["我有{a}块糖，吃了{b}块，还剩多少？", "{a}与{b}的差等于多少？"]),
    "*": phrases(
        en=["what is the product of {a} and {b}?", "multiply {a} by {b}", "multiply {a} and {b}",
            "{a} boxes with {b} pens each: how many pens?",
            "there are {a} bags with {b} apples in each. how many apples?"],
        zh=["{a}和{b}的积是多少？", "把{a}和{b}相乘", "{a}与{b}相乘得多少？", "{a}个盒子，每个有{b}支笔，一共多少支笔？", "有{a}袋苹果，每袋{b}个，一共多少个？"],
        held_en=["there are {a} boxes with {b} apples in each. how many apples?", "the product of {a} and {b}?"],
        held_zh=["有{a}个盒子，每个有{b}个苹果，一共多少个？", "{a}与{b}的积等于多少？"]),
    "/": phrases(
        en=["divide {a} by {b}", "share {a} apples among {b} children. how many does each get?",
            "{a} pens in {b} equal boxes: how many in each?"],
        zh=["把{a}除以{b}", "{a}个苹果分给{b}个孩子，每人几个？", "{a}支笔平均放进{b}个盒子，每个盒子几支？"],
        held_en=["share {a} pens among {b} children. how many does each get?"], held_zh=["{a}支笔分给{b}个孩子，每人几支？"]),
}


def operands(rng, split):
    """Two numbers and what to do with them; the pair is on the wanted side of the wall."""
    op = rng.choice("++++---**/")
    while True:
        if op == "*":
            a, b = (rng.randint(0, 12), rng.randint(0, 12)) if rng.random() < 0.9 else (rng.choice([20, 30, 40, 50]),
                rng.randint(2, 9))
            return op, a, b
        if op == "/":
            b, quotient = rng.randint(1, 12), rng.randint(0, 12)
            return op, b * quotient, b
        top = 99 if rng.random() < 0.75 else 20
        a, b = rng.randint(0, top), rng.randint(0, top)
        if op == "-" and a < b and rng.random() < 0.7:
            a, b = b, a
        if is_held("sum", op, a, b, percent=10) == (split == HELD):
            return op, a, b


def result(op, a, b):
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]


def shown(value):
    """A number as answers write it: with a true minus sign."""
    return str(value).replace("-", "−")


def steps(op, a, b, lang):
    """How to get there, in a few words."""
    value = result(op, a, b)
    if op == "+" and a > 9 and b > 9:
        tens, units = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
        return f"{a // 10 * 10} + {b // 10 * 10} = {tens}, {a % 10} + {b % 10} = {units}, {tens} + {units} = {value}."
    if op == "-" and b > 9 and a >= b:
        rest = a - b // 10 * 10
        return f"{a} − {b // 10 * 10} = {rest}, {rest} − {b % 10} = {value}."
    if op == "-" and a < b:
        return f"{b} − {a} = {b - a}, {'so the result is negative' if lang == 'en' else '所以结果是负数'}."
    if op == "/":
        return f"{b} × {value} = {a}."
    return f"{a} {SHOWN[op]} {b} = {shown(value)}."


def arithmetic(context):
    """One sum: as signs, in words, or as a little story."""
    rng, lang = context.rng, context.lang
    op, a, b = operands(rng, context.split)
    form = rng.random()
    if form < 0.30:
        user = context.ask(BARE, wrap=False, sum=f"{a}{rng.choice(SIGNS[op])}{b}")
    elif form < 0.60:
        user = context.ask(ASK_SIGNS, sum=f"{a}{rng.choice(SIGNS[op])}{b}")
    elif form < 0.80:
        user = context.ask(ASK_WORDS, a=a, b=b, op=rng.choice(WORDS[lang][op][:1 if context.split != TRAIN else None]))
    elif op == "-" and a < b:
        user = context.ask(ASK_SIGNS, sum=f"{a} - {b}")
    else:
        user = context.ask(STORIES[op], a=a, b=b)

    def say(answer_lang):
        value = shown(result(op, a, b))
        sentence = f"{a} {SHOWN[op]} {b} = {value}"
        return Say(sentence + ("." if answer_lang == "en" else "。"), value, steps(op, a, b, answer_lang),
                   [("number", result(op, a, b))])

    return Exchange("arithmetic", user, context.answers(say), lang)


SKILLS = [Skill("arithmetic", arithmetic, 19)]
