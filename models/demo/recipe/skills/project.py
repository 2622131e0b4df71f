"""Questions about this project: its commands, its options, its files."""

from ..dialogue import Exchange, Say
from ..phrases import phrases
from . import Skill
from .project_facts import COMMANDS, OPTIONS, QUESTIONS

HOW_TO = phrases(
    en=["how do i {do}?", "how can i {do}?", "how to {do}?", "what do i do to {do}?", "i want to {do}",
        "how does one {do}?", "can i {do}?", "is it possible to {do}?", "what is the command to {do}?",
        "which command do i need to {do}?", "i would like to {do}", "tell me how to {do}", "show me how to {do}",
        "{do}: how?", "how would i {do} with glm-cli?", "how do i {do} here?", "i need to {do}"],
    zh=["怎么{do}？", "如何{do}？", "怎样{do}？", "我想{do}", "我要{do}", "可以{do}吗？", "能{do}吗？", "{do}用什么命令？", "哪个命令可以{do}？",
        "告诉我怎么{do}", "{do}怎么做？", "教我{do}", "想{do}怎么办？",
        "用 glm-cli 怎么{do}？", "我该怎么{do}？"],
    held_en=["what must i do to {do}?", "please tell me how i can {do}", "how do i {do} with this program?"],
    held_zh=["请问要怎么{do}？", "我想知道怎么{do}", "请告诉我如何{do}"])
WHAT_COMMAND = phrases(
    en=["what does `glm-cli {x}` do?", "what does glm-cli {x} do?", "what is the command {x}?", "what is {x} for?",
        "what does {x} do?", "explain glm-cli {x}", "what is `{x}`?", "the command {x}, what is it?",
        "how do i use glm-cli {x}?", "tell me about the {x} command", "what is glm-cli {x}?"],
    zh=["`glm-cli {x}` 是做什么的？", "glm-cli {x} 做什么？", "{x} 命令是什么？", "{x} 有什么用？", "解释一下 {x} 命令", "命令 {x} 怎么用？",
        "{x} 是什么命令？", "glm-cli {x} 有什么用？", "{x} 命令有什么用？", "{x} 这条命令做什么？", "这个 {x} 命令是做什么的？"],
    held_en=["can you explain the command {x}?", "what is the {x} command for?"],
    held_zh=["请解释 {x} 命令", "{x} 这个命令有什么用？"])
WHAT_OPTION = phrases(
    en=["what does {x} do?", "what is {x}?", "what is the option {x}?", "what does the option {x} mean?", "explain {x}",
        "what is {x} for?", "{x}?", "how do i use {x}?", "tell me about {x}", "what does {x} mean?"],
    zh=["{x} 是什么？", "{x} 做什么？", "{x} 有什么用？", "解释一下 {x}", "选项 {x} 是什么意思？", "{x} 怎么用？", "{x} 是什么意思？", "{x} 这个选项做什么？"],
    held_en=["can you explain {x}?", "what is the option {x} for?"], held_zh=["请解释 {x}", "{x} 这个选项有什么用？"])

#: Ways to ask for a command or an option by what it is for; the last phrasing of each is held out.
GOALS = {name: phrases(en=en[:-1], zh=zh[:-1], held_en=en[-1:], held_zh=zh[-1:])
         for table in (COMMANDS, OPTIONS) for name, ((en, zh), _) in table.items()}
QUESTION_PHRASES = [phrases(en=en[:-2], zh=zh[:-2], held_en=en[-2:], held_zh=zh[-2:]) for (en, zh), _, _ in QUESTIONS]


def project(context):
    """How to do something, what a command or option does, or a question about the project."""
    rng, lang = context.rng, context.lang
    kind = rng.choice(["goal", "goal", "goal", "command", "option", "question", "question", "question"])
    if kind == "question":
        at = rng.randrange(len(QUESTIONS))
        _, full, brief = QUESTIONS[at]
        return told(context, context.ask(QUESTION_PHRASES[at]), full, brief)
    if kind == "goal":
        name = rng.choice(list(GOALS))
        goal = GOALS[name].pick(rng, lang, context.split)
        user = context.ask(HOW_TO, do=goal)
    else:
        name = rng.choice(list(COMMANDS if kind == "command" else OPTIONS))
        user = context.ask(WHAT_COMMAND if kind == "command" else WHAT_OPTION, wrap=False, x=name)
    full = (COMMANDS.get(name) or OPTIONS[name])[1]
    brief = f"`glm-cli {name}`" if name in COMMANDS else f"`{name}`"
    if kind != "goal":
        return told(context, user, full, full)
    return told(context, user, full, (brief, brief))


def told(context, user, full, brief):
    """The same fact in both languages, to be reproduced word for word."""
    thoughts = ("The user asks about this project.", "用户问的是这个项目。")
    say = {lang: Say(full[at], brief[at], thoughts[at], [("one_of", full[at], brief[at])]) for at,
           lang in enumerate(("en", "zh"))}
    return Exchange("this project", user, say, context.lang)


SKILLS = [Skill("this project", project, 11)]
