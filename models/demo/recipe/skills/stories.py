"""Short stories and rhymes. A story is put together from scenes around a hero who is copied from the question."""

from ..dialogue import Exchange, Say
from ..phrases import TRAIN, phrases
from ..words import ANIMALS, ITEMS, name, one_of
from . import Skill

ASK_STORY = phrases(
    en=["tell me a story about {x}", "tell me a [short |little |]story about {x}", "a story about {x}",
        "write a [short |]story about {x}", "can you tell [me |]a story about {x}?",
        "i want [to hear |]a story about {x}", "make up a story about {x}",
        "could you tell me something like a story about {x}?", "do you know a story about {x}?",
        "give me a story about {x}", "story: {x}", "tell us about {x} in a story"],
    zh=["讲一个关于{x}的故事", "给我讲个{x}的故事", "说一个{x}的故事", "写一个关于{x}的[小|短|]故事", "你能讲{x}的故事吗？", "我想听{x}的故事", "编一个{x}的故事",
        "来个{x}的故事", "讲个关于{x}的小故事"],
    held_en=["please tell a story about {x}", "could you write me a story about {x}?",
             "i would like a story about {x}"], held_zh=["请给我讲一个关于{x}的故事", "你会讲{x}的故事吗？", "我想听一个关于{x}的故事"])
ASK_ANY_STORY = phrases(
    en=["tell me a [short |]story", "a story, please", "can you tell [me |]a story?", "i want [to hear |]a story",
        "make up a story", "do you know a story?", "do you know any stories?", "write a story", "another story"],
    zh=["讲个故事", "给我讲个故事", "我想听故事", "你会讲故事吗？", "来个故事", "说个故事", "写一个故事", "再讲一个故事"],
    held_en=["please tell me any story", "could you tell me a story?"], held_zh=["请给我讲一个故事", "能讲个故事给我听吗？"])
ASK_RHYME = phrases(
    en=["[write|tell me|give me|say] a [short |]rhyme about {x}", "a [poem|rhyme] about {x}",
        "write a [short |]poem about {x}", "can you write a [poem|rhyme] about {x}?", "i want a [poem|rhyme] about {x}",
        "make a rhyme about {x}", "could you say a rhyme about {x}?", "do you know a [poem|rhyme] about {x}?",
        "rhyme about {x}"],
    zh=["写一首关于{x}的诗", "来一首{x}的诗", "写首{x}的小诗", "给我写一首{x}的诗", "你会写{x}的诗吗？", "说一首{x}的儿歌", "我想要一首{x}的诗", "写一首{x}的儿歌"],
    held_en=["could you write a rhyme about {x}?", "please give me a poem about {x}"],
    held_zh=["请写一首关于{x}的小诗", "请给我一首{x}的诗"])

#: scenes with {hero} (an animal, or a named one at first mention), {thing}
BEGINNINGS = [("Once upon a time there was {hero} who lived near a river.", "从前有{hero}，住在河边。"),
              ("There was once {hero} who wanted to see the world.", "从前有{hero}，很想去看看世界。"),
              ("One morning {hero} woke up very early.", "一天早上，{hero}很早就醒了。"),
              ("Far away, behind a mountain, lived {hero}.", "在很远的山后面，住着{hero}。")]
MIDDLES = [("It found an old {thing} and did not know what it was.", "它找到了一个旧的{thing}，不知道那是什么。"),
           ("On the way it lost its {thing} and looked for it all day.", "路上它丢了自己的{thing}，找了一整天。"),
           ("A friend came and gave it a {thing}.", "一个朋友来了，送给它一个{thing}。"),
           ("In the wood it saw a {thing} that shone like a star.", "它在树林里看见一个{thing}，像星星一样发光。")]
ENDINGS = [("From that day on it was never alone again.", "从那天起，它再也不孤单了。"),
           ("In the evening it went home and slept well.", "晚上它回到家，睡得很香。"),
           ("Then it laughed, and everybody laughed with it.", "然后它笑了，大家也跟着笑了。"),
           ("And if you listen at night, you can still hear it sing.", "如果你在夜里听，还能听到它在唱歌。")]

#: topic: a rhyme of two or four lines
RHYMES = [
    ("the cat", "小猫", "The cat sat down upon the mat\nand dreamt that she was not so fat.", "小猫小猫真可爱，\n喵喵叫着跑过来。"),
    ("the moon", "月亮", "The moon looks down, so round, so bright,\nand keeps us company all night.",
     "月亮弯弯挂天上，\n好像一只小船荡。"),
    ("rain", "雨", "The rain is falling on the street,\nit washes clean our little feet.", "小雨点，沙沙沙，\n落在田里浇庄稼。"),
    ("snow", "雪", "The snow came softly in the night\nand painted all the houses white.", "雪花飘飘满天飞，\n大地穿上白棉被。"),
    ("a star", "星星", "A star up there, so far, so small,\nis watching over one and all.", "小星星，亮晶晶，\n一闪一闪像眼睛。"),
    ("the sea", "大海", "The sea is wide, the sea is deep,\nit sings its songs while fishes sleep.",
     "大海大，大海蓝，\n浪花一朵接一团。"),
    ("a tree", "大树", "A tree stood still for a hundred years\nand heard the birds with leafy ears.",
     "大树高，大树壮，\n小鸟住在枝叶上。"),
    ("spring", "春天", "When spring comes in and birds all sing,\nthe flowers wake for everything.",
     "春天到，花儿笑，\n燕子飞回屋檐叫。"),
    ("the computer", "电脑", "My little computer counts to ten\nand then begins to count again.", "小电脑，真能干，\n加减乘除它会算。"),
    ("a bird", "小鸟", "A little bird sat in a tree\nand sang a song for you and me.", "小鸟小鸟飞得高，\n唱着歌儿把家找。"),
    ("the sun", "太阳", "The sun gets up and says hello\nand gives the fields a golden glow.", "太阳公公起得早，\n照得大地暖洋洋。"),
    ("a frog", "青蛙", "A frog jumped high, a frog jumped far,\nhe wanted to become a star.", "小青蛙，呱呱呱，\n跳进水里找妈妈。"),
]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def anything(context):
    """A hero that is no animal of the list: whoever is asked for is read, not recognised."""
    rng = context.rng
    return rng.choice(ITEMS[context.lang].train) if rng.random() < 0.5 else one_of(context, ANIMALS, made_up_share=1)


def stories(context):
    """A story about an animal, now and then with a name, or a rhyme."""
    if context.rng.random() < 0.3:
        return rhyme(context)
    rng, lang, split = context.rng, context.lang, context.split
    animal = {other: ANIMALS[other].pick(rng, split) for other in ("en", "zh")}
    if split == TRAIN and rng.random() < 0.4:
        animal[lang] = anything(context)
    called = {other: name(rng, other, split) for other in ("en", "zh")} if rng.random() < 0.35 else None
    scenes = [rng.choice(part) for part in (BEGINNINGS, MIDDLES, ENDINGS)]
    thing = {other: rng.choice(ITEMS[other].train) for other in ("en", "zh")}
    asked = rng.random() < 0.85
    if asked:
        # an animal of the other language cannot be copied: then the answer has the user's word
        animal = {other: animal[lang] for other in animal}
        called = called and {other: called[lang] for other in called}
    hero = {"en": article(animal["en"]) if lang == "en" or not asked else animal["en"], "zh": "一只" + animal["zh"]}
    if called:
        hero = {"en": f"{hero['en']} called {called['en']}", "zh": f"{hero['zh']}，名叫{called['zh']}"}
    if asked:
        user = context.ask(ASK_STORY, x=hero[lang] if called else rng.choice([hero[lang],
            "the " + animal[lang] if lang == "en" else animal[lang]]))
    else:
        user = context.ask(ASK_ANY_STORY)

    def say(answer_lang):
        at = answer_lang == "zh"
        text = (" " if answer_lang == "en" else "").join(scene[at] for scene in scenes).format(hero=hero[answer_lang],
            thing=thing[answer_lang])
        brief = scenes[0][at].format(hero=hero[answer_lang])
        thought = f"A story about {hero['en']}." if answer_lang == "en" else f"讲{hero['zh']}的故事。"
        needed = [animal[answer_lang], *([called[answer_lang]] if called else [])] if asked else []
        return Say(text, brief, thought, [("has", *needed), ("ends", text[-1]), ("lang", answer_lang)])

    return Exchange("stories and rhymes", user, context.answers(say), lang)


def rhyme(context):
    topic_en, topic_zh, en, zh = context.rng.choice(RHYMES)
    user = context.ask(ASK_RHYME, x=topic_en if context.lang == "en" else topic_zh)
    say = {"en": Say(en, en, f"A rhyme about {topic_en}.", [("one_of", en)]),
           "zh": Say(zh, zh, f"写{topic_zh}的诗。", [("one_of", zh)])}
    return Exchange("stories and rhymes", user, say, context.lang)


SKILLS = [Skill("stories and rhymes", stories, 6)]
