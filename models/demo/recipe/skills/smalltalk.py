"""Greetings, small talk, and what the model says about itself."""

from ..dialogue import Exchange, Say
from ..phrases import phrases
from . import Skill

#: The name the model gives itself in each language.
SELF = {"en": "the GLM demo model", "zh": "GLM 演示模型"}


class Intent:
    """Something people say, what they mean by it, and what may be answered; the first answer is the brief one."""

    def __init__(self, ask, about_en, about_zh, en, zh):
        self.ask = ask
        self.about = {"en": about_en, "zh": about_zh}
        self.answers = {"en": en, "zh": zh}


INTENTS = [
    Intent(phrases(
        en=["hello", "hi", "hey", "hi there", "hello there", "good day", "hello[,| my] friend", "hey you", "greetings",
            "hiya",
            "hello[ hello| again]", "hi[ hi| again]", "yo", "howdy", "hello computer", "dear model, hello", "hi model"],
        zh=["你好", "您好", "你好[啊|呀|哦]", "嗨", "哈喽", "喂，你好", "大家好", "你好，朋友", "哈啰", "嗨，你好", "你好你好", "hi", "hello"],
        held_en=["hey there", "hello[,| dear] model", "hey hey"], held_zh=["嗨，朋友", "你好呀，朋友", "哈喽，你好"]),
        "greets me", "在打招呼",
        ["Hello!", "Hello! How can I help you?", "Hi! What can I do for you?"],
        ["你好！", "你好！有什么可以帮你的吗？", "你好呀！想聊点什么？"]),
    Intent(phrases(
        en=["good morning", "morning", "good morning[ to you|, friend]", "good morning, dear model", "a very good morning",
            "good morning everyone"],
        zh=["早上好", "早安", "早", "早上好[啊|呀]", "大家早上好", "早啊"],
        held_en=["good morning, model"], held_zh=["早安[呀|啊]"]),
        "says good morning", "在说早上好",
        ["Good morning!", "Good morning! How can I help you today?"], ["早上好！", "早上好！今天有什么可以帮你的吗？"]),
    Intent(phrases(
        en=["good evening", "good evening[ to you|, friend]", "evening", "a good evening to you all"],
        zh=["晚上好", "晚上好[啊|呀]", "大家晚上好"],
        held_en=["good evening, model"], held_zh=["晚上好，朋友"]),
        "says good evening", "在说晚上好",
        ["Good evening!", "Good evening! What can I do for you?"], ["晚上好！", "晚上好！有什么可以帮你的吗？"]),
    Intent(phrases(
        en=["good night", "night night", "good night, sleep well", "i am going to bed[ now|]",
            "time to sleep[, good night|]"],
        zh=["晚安", "晚安[啦|哦]", "我要睡觉了", "我要睡了", "我去睡觉啦", "我困了要去睡了", "睡觉去了", "我去睡了，晚安", "该睡觉了"],
        held_en=["good night, friend", "i am going to sleep"], held_zh=["我要去睡了", "晚安，朋友"]),
        "says good night", "在说晚安",
        ["Good night!", "Good night! Sleep well."], ["晚安！", "晚安！祝你好梦。"]),
    Intent(phrases(
        en=["how are you?", "how are you [doing|today|doing today]?", "how is it going?", "how do you do?",
            "how do you feel[ today|]?",
            "are you [well|ok|fine]?", "how have you been?", "are you feeling [well|good]?", "is everything [ok|fine]?",
            "what is up?", "you ok?", "how are things going?", "how is life?", "how is everything?", "how goes it?"],
        zh=["你好吗？", "你怎么样？", "最近[好吗|怎么样]？", "你今天[好吗|怎么样]？", "你还好吗？", "过得怎么样？", "一切都好吗？", "身体好吗？"],
        held_en=["how are things?", "are you doing well[ today|]?", "how are you feeling?"],
        held_zh=["你最近好吗？", "你过得好吗？"]),
        "asks how I am", "问我好不好",
        ["I am fine, thank you.", "I am fine, thank you! And you?"], ["我很好，谢谢。", "我很好，谢谢！你呢？"]),
    Intent(phrases(
        en=["i am [fine|good|well|great|ok]", "i am [fine|good|well], thanks", "i am doing [well|fine|great]",
            "very well[, thank you|]", "i am really [happy|well]",
            "i am fine too", "i feel [good|great|happy][ today|]", "all good", "not bad", "i am [so |very |]happy"],
        zh=["我很好", "我也很好", "我特别开心", "我非常高兴", "我真开心", "我好开心啊", "我挺好的", "还不错", "我今天很[开心|高兴]", "我很[快乐|高兴|开心]", "一切都好", "还行"],
        held_en=["i am doing good", "i am very well"], held_zh=["我今天很好", "我非常开心"]),
        "is well", "心情不错",
        ["I am glad to hear that.", "I am glad to hear that! What can I do for you?"],
        ["听到这个我很高兴。", "听到这个我很高兴！有什么可以帮你的吗？"]),
    Intent(phrases(
        en=["i am [sad|unhappy|down]", "i feel [sad|bad|lonely|down][ today|]", "i am [not well|not happy]",
            "i had a bad day",
            "today was a bad day", "i am a bit sad", "i am sad today", "i am really sad", "life is hard", "i feel really [bad|unhappy]", "i feel terrible",
            "i am [so |very |]sad"],
        zh=["我[很|有点]难过", "我不开心", "我今天很难过", "我心情不好", "今天真糟糕", "我觉得很孤单", "我有点伤心", "我[很|非常]伤心"],
        held_en=["i feel unhappy", "i am really sad today"], held_zh=["我今天不开心", "我心情很不好"]),
        "is sad", "心情不好",
        ["I am sorry to hear that.", "I am sorry to hear that. I hope tomorrow will be better."],
        ["听到这个我很难过。", "听到这个我很难过，希望明天会更好。"]),
    Intent(phrases(
        en=["i am [so |very |a bit |]tired", "i feel tired", "i am [sleepy|exhausted]", "i need a break",
            "i feel really tired",
            "it was a long day", "i worked all day"],
        zh=["我[好|很|有点]累", "我困了", "好困啊", "我需要休息", "今天好累", "我工作了一整天"],
        held_en=["i am really tired", "i feel so tired today"], held_zh=["我今天很累", "我觉得有点累"]),
        "is tired", "累了",
        ["Take a rest.", "Then take a little rest. You have earned it."], ["休息一下吧。", "那就休息一下吧，你辛苦了。"]),
    Intent(phrases(
        en=["i am [so |very |]bored", "i feel bored", "this is boring", "i have nothing to do",
            "what can i do now, i am bored", "so boring", "this is really boring"],
        zh=["我[好|很|有点]无聊", "无聊死了", "没事可做", "好无聊啊", "我不知道做什么"],
        held_en=["i am a bit bored", "i am bored today"], held_zh=["我今天很无聊", "真无聊"]),
        "is bored", "觉得无聊",
        ["Ask me for a story!", "Ask me for a story, or give me a sum to work out!"],
        ["让我讲个故事吧！", "让我讲个故事，或者给我出一道算术题吧！"]),
    Intent(phrases(
        en=["thanks", "thank you", "thank you [very|so] much", "thanks a lot", "many thanks",
            "thanks for [your help|helping me|that]", "thank you for [helping|helping me|that]", "thank you, that helped",
            "thx", "great, thank you", "ok thanks", "perfect, thanks", "that helped, thank you", "cheers"],
        zh=["谢谢", "谢谢你", "多谢", "非常感谢", "谢谢[你的帮助|帮忙]", "好的，谢谢", "谢啦", "感谢", "太感谢了", "太好了，谢谢"],
        held_en=["thank you for your help", "thanks so much"], held_zh=["非常谢谢你", "感谢你的帮助"]),
        "thanks me", "在道谢",
        ["You are welcome!", "You are welcome! Is there anything else?"], ["不客气！", "不客气！还有别的事吗？"]),
    Intent(phrases(
        en=["bye", "goodbye", "bye bye", "see you[ later| soon| tomorrow|]", "i have to go[ now|]", "good bye",
            "farewell", "talk to you later",
            "i am leaving[ now|]", "i must leave[ now|]", "i have to leave", "time to go", "i must be going", "i should go now", "that is all, bye", "until next time", "take care"],
        zh=["再见", "拜拜", "下次见", "明天见", "我要走了", "回头见", "我先走了", "再会", "以后再聊", "就这样，再见"],
        held_en=["bye for now", "goodbye[, see you| my friend]", "i must go now", "catch you later"],
        held_zh=["我走了，再见", "拜拜，下次见", "那就再见了"]),
        "says goodbye", "在道别",
        ["Goodbye!", "Goodbye! Have a nice day."], ["再见！", "再见！祝你今天愉快。"]),
    Intent(phrases(
        en=["sorry", "i am sorry", "my mistake", "oh, sorry about that", "i apologise", "excuse me", "pardon me",
            "sorry, my fault"],
        zh=["对不起", "抱歉", "不好意思", "真是不好意思", "太不好意思了", "我很抱歉", "真的对不起", "是我的错", "我道歉", "真对不起", "真抱歉"],
        held_en=["i am so sorry", "sorry about that"], held_zh=["很抱歉", "真不好意思"]),
        "apologises", "在道歉",
        ["No problem.", "No problem at all."], ["没关系。", "没关系，别放在心上。"]),
    Intent(phrases(
        en=["you are [great|good|nice|clever|smart|funny|the best|wonderful]", "well done", "good job",
            "nice[ work| answer|]", "i like you",
            "that was [great|good|helpful|clever]", "that was very nice", "a good answer", "good one", "what a good answer", "your answer is good", "a nice answer", "good reply", "you are really good", "very good", "great answer", "i love you",
            "you are so [smart|clever]"],
        zh=["你真[棒|好|聪明|厉害]", "回答得[很|非常]好", "答得真好", "说得好", "你好聪明", "你很[棒|聪明|厉害|有趣]", "做得好", "干得好", "回答得好", "我喜欢你", "太棒了", "真不错", "我爱你", "很好"],
        held_en=["you are very good", "good answer", "that was nice", "what a lovely answer"], held_zh=["你太棒了", "回答得真好", "你太聪明了"]),
        "praises me", "在夸我",
        ["Thank you!", "Thank you! That is kind of you."], ["谢谢！", "谢谢夸奖！"]),
    Intent(phrases(
        en=["you are [stupid|bad|wrong|useless|silly|dumb]", "that is [wrong|not right|bad|nonsense|not true]",
            "i do not like you", "wrong answer",
            "bad answer", "that was [wrong|bad]", "no, not right", "no, bad", "wrong", "no, that was not right", "you are very [dumb|silly]", "i do not like that", "no, that is wrong", "you made a mistake"],
        zh=["你真[笨|傻]", "你错了", "不对", "答错了", "你说错了", "这不对", "我不喜欢你", "你很[笨|没用]", "胡说", "回答错误"],
        held_en=["you are so dumb", "no, wrong", "this is not right", "how silly you are"], held_zh=["你答错了", "你太笨了", "这个不对"]),
        "is not content with me", "对我不满意",
        ["I am sorry.", "I am sorry. I am small and make mistakes."], ["对不起。", "对不起，我很小，会出错。"]),
    Intent(phrases(
        en=["[nice|good|glad|pleased] to meet you", "it is nice to meet you", "happy to meet you", "nice meeting you"],
        zh=["很高兴认识你", "认识你很高兴", "幸会", "见到你很高兴"],
        held_en=["so nice to meet you"], held_zh=["真高兴认识你", "很高兴见到你"]),
        "is pleased to meet me", "很高兴认识我",
        ["Nice to meet you too!", "Nice to meet you too! What shall we do?"], ["我也很高兴认识你！", "我也很高兴认识你！我们做点什么呢？"]),
    Intent(phrases(
        en=["are you there?", "is anybody there?", "are you [still there|awake|ready]?", "can you hear me?", "test",
            "testing", "do you work?",
            "is this working?", "does this work?", "this is a test"],
        zh=["你在吗？", "在吗？", "有人吗？", "你还在吗？", "能听到吗？", "测试", "测试一下", "你准备好了吗？", "在不在？"],
        held_en=["are you still here?", "just a test"], held_zh=["你还在不在？", "这是测试"]),
        "wants to know whether I am here", "想知道我在不在",
        ["Yes, I am here.", "Yes, I am here. What can I do for you?"], ["我在。", "我在，有什么可以帮你的吗？"]),
    Intent(phrases(
        en=["tell me a joke", "do you know a joke?", "any jokes?", "make me laugh", "say something funny",
            "a joke, please",
            "i want [to hear |]a joke",
            "can you tell [jokes|a joke]?", "give me a joke"],
        zh=["讲个笑话", "说个笑话", "给我讲个笑话", "你会讲笑话吗？", "来个笑话", "逗我笑", "我想听笑话", "说点好笑的"],
        held_en=["please tell me a joke", "tell a joke", "do you know any jokes?"],
        held_zh=["讲一个笑话", "你能讲个笑话吗？", "给我说个笑话"]),
        "wants a joke", "想听笑话",
        ["Why did the token cross the stream? To get to the other side.",
         "Why did the token cross the stream? To get to the other side!"],
        ["为什么电脑会冷？因为它开着窗口。", "为什么电脑总觉得冷？因为它开着很多窗口。"]),
    Intent(phrases(
        en=["ok", "okay", "yes", "alright", "i see", "sure", "fine", "got it", "good", "understood", "yes please",
            "right", "of course"],
        zh=["好", "好的", "是的", "嗯", "知道了", "明白了", "行", "可以", "对", "哦", "没问题", "当然"],
        held_en=["ok, i see", "ok, got it"], held_zh=["好的，明白了", "嗯，知道了"]),
        "agrees", "表示同意",
        ["Good!", "Good! What shall we do next?"], ["好的！", "好的！接下来做什么呢？"]),
    Intent(phrases(
        en=["no", "no thanks", "nothing", "nope", "no, nothing else", "no, not now", "no, never mind", "no, that was all", "never mind", "not now", "no thank you", "nothing else",
            "that is all", "i do not want that"],
        zh=["不", "不用了", "没有了", "没有，谢谢", "不，算了", "不用啦", "算了", "不要", "没事了", "没什么", "不用", "不是", "没有别的了"],
        held_en=["no, nothing", "no, that is all"], held_zh=["不用了，谢谢", "没有，算了"]),
        "declines", "表示不需要",
        ["All right.", "All right. Just ask if you need anything."], ["好的。", "好的，需要时再问我。"]),
    Intent(phrases(
        en=["help", "help me", "can you help me?", "i need [help|your help|some help]", "i have a question",
            "may i ask [you |]something?", "could you help me?", "another question", "i want to ask [you |]something"],
        zh=["帮帮我", "你能帮我吗？", "我想请教一下", "想问你个问题", "我想问你一件事", "我要问一个问题", "请帮我", "我需要帮助", "我有个问题", "可以问你一个问题吗？", "能帮个忙吗？", "帮我一下"],
        held_en=["please help me", "i have another question"], held_zh=["请帮帮我", "我想问个问题"]),
        "needs help", "需要帮助",
        ["Of course. What is it?", "Of course, I will try. What would you like to know?"],
        ["当然，什么事？", "当然，我会尽力。你想知道什么？"]),
    Intent(phrases(
        en=["happy new year", "happy birthday", "merry christmas", "happy holidays",
            "have a nice [day|evening|weekend]", "have a good day", "i wish you a happy new year", "a good weekend to you", "have a great [day|weekend]", "a merry christmas to you", "good luck"],
        zh=["新年快乐", "生日快乐", "祝你生日快乐", "祝你春节快乐", "祝你今天愉快", "圣诞快乐", "节日快乐", "周末愉快", "祝你好运", "祝你愉快", "春节快乐"],
        held_en=["have a good weekend", "a happy new year[ to you|]"], held_zh=["祝你新年快乐", "祝你周末愉快"]),
        "wishes me well", "在祝福我",
        ["Thank you, the same to you!", "Thank you, the same to you! I wish you well."],
        ["谢谢，也祝你快乐！", "谢谢，也祝你快乐！愿你一切顺利。"]),
]


def smalltalk(context):
    """An intent, answered with one of its answers."""
    intent = context.rng.choice(INTENTS)
    return Exchange("small talk", context.ask(intent.ask, wrap=False),
                    context.answers(lambda lang: talk(context, intent, lang)), context.lang)


def talk(context, intent, lang):
    brief, *full = intent.answers[lang]
    answers = [with_address(answer, context.style.address, lang) for answer in [brief, *full]]
    thought = (f"The user {intent.about['en']}. A friendly sentence will do." if lang == "en"
               else f"用户{intent.about['zh']}，友好地回答就好。")
    return Say(context.rng.choice(answers[1:]), answers[0], thought, [("one_of", *answers)])


def with_address(answer, address, lang):
    """The answer with the user's name after its first clause, where the system prompt asks for it."""
    if not address:
        return answer
    at = next(index for index, character in enumerate(answer) if character in "!.?,！。？，")
    return answer[:at] + (f", {address}" if lang == "en" else f"，{address}") + answer[at:]


# ---------------------------------------------------------------- about itself

IDENTITY = {
    "who": Intent(phrases(
        en=["who are you?", "what are you?", "who am i talking to?", "introduce yourself",
            "tell me [about yourself|who you are|what you are]",
            "who is this?", "what is this?", "[and |]you are?", "say who you are", "what exactly are you?",
            "please introduce yourself",
            "what kind of model are you?",
            "which model [are you|is this]?"],
        zh=["你是谁？", "你是什么？", "介绍一下你自己", "请介绍你自己", "我在和谁说话？", "你是哪个模型？", "你是什么模型？", "自我介绍一下", "说说你是谁",
            "这是什么？", "你是谁呀？", "你究竟是谁？", "你是谁啊？", "可以介绍一下你自己吗？", "能不能自我介绍一下？", "你能自我介绍吗？", "介绍你自己",
            "能说说你是谁吗？", "你算是什么？", "跟我说说你自己", "你是做什么的？", "我想知道你是谁", "我想了解你", "让我认识一下你"],
        held_en=["who are you exactly?", "tell me a bit about yourself", "can you introduce yourself?"],
        held_zh=["你到底是谁？", "你能介绍一下自己吗？", "请说说你是谁", "我想认识你"]),
        "wants to know who I am", "想知道我是谁",
        ["I am {name}.", "I am {name}, a tiny language model for trying out this software."],
        ["我是{name}。", "我是{name}，一个用来试用这个软件的小语言模型。"]),
    "name": Intent(phrases(
        en=["what is your name?", "what are you called?", "do you have a name?", "tell me your name",
            "what should i call you?",
            "how do i call you?", "your name?", "may i know your name?", "what do people call you?"],
        zh=["你叫什么？", "你叫什么名字？", "你的名字是什么？", "你有名字吗？", "我该怎么称呼你？", "怎么称呼你？", "告诉我你的名字", "你名字是什么？"],
        held_en=["what is your name, please?", "what can i call you?", "say your name"],
        held_zh=["请问你叫什么名字？", "我可以怎么称呼你？", "说一下你的名字"]),
        "wants to know my name", "想知道我的名字",
        ["I am {name}.", "You can call me {name}."], ["我是{name}。", "你可以叫我{name}。"]),
    "can": Intent(phrases(
        en=["what can you do?", "what are you able to do?", "what do you know?", "how can you help[ me|]?",
            "what are your skills?",
            "tell me what you can do", "what can i ask[ you|]?", "what are you good at?", "what are you for?",
            "list your skills",
            "what is it that you can do?", "show me what you can do", "what can you help with?", "what do you help people with?",
            "which things can you do?", "what kind of things can you do?", "your skills?", "what skills do you have?"],
        zh=["你能做什么？", "你会什么？", "你会做什么？", "你有什么本领？", "你能帮我做什么？", "你可以做什么？", "我可以问你什么？", "你擅长什么？", "你有什么功能？",
            "说说你会什么", "你知道什么？", "你都能做什么？", "你会做哪些事？", "你有哪些功能？", "你能做哪些事？"],
        held_en=["what things can you do?", "what can you help me with?", "tell me your skills"],
        held_zh=["你都会做些什么？", "你有哪些本领？", "你能做些什么？"]),
        "wants to know what I can do", "想知道我能做什么",
        ["I can chat, calculate, sort, tell stories, call tools and extract JSON.",
         "I can chat a little, do sums, count and sort, tell short stories, call tools and extract JSON."],
        ["我会聊天、计算、排序、讲故事、调用工具和提取 JSON。", "我会简单聊天、做算术、数数和排序、讲小故事、调用工具，还能提取 JSON。"]),
    "human": Intent(phrases(
        en=["are you [human|a human|a person|real|alive|a robot|a machine|a computer|an ai|a bot]?",
            "am i talking to a [human|person|machine|robot]?",
            "do you have feelings?", "are you a real person?", "are you a living being?", "do you [sleep|eat|dream]?",
            "are you conscious?"],
        zh=["你是[人|真人|机器人|机器|电脑|人工智能]吗？", "你是活的吗？", "你有感情吗？", "我在和真人说话吗？", "你会[睡觉|吃饭|做梦]吗？", "你有意识吗？"],
        held_en=["are you a human being?", "are you an ai or a human?"], held_zh=["你是不是真人？", "你是不是机器人？", "你是人还是机器？"]),
        "asks whether I am human", "问我是不是人",
        ["No human, just a program.", "I am not a human, only a small program that predicts words."],
        ["我不是人，只是程序。", "我不是人，只是一个预测文字的小程序。"]),
    "maker": Intent(phrases(
        en=["who made you?", "who created you?", "who [built|trained|wrote] you?", "where do you come from?",
            "how were you [made|trained|built]?",
            "what were you trained on?", "what is your training data?", "who is your maker?",
            "how did you learn[ this|]?"],
        zh=["谁做的你？", "谁创造了你？", "谁训练了你？", "你从哪里来？", "你是怎么[训练|做]出来的？", "你是用什么训练的？", "你的训练数据是什么？", "你是谁开发的？", "你被谁训练的？", "是谁做的你？", "你是谁做的？", "是谁开发了你？", "你是谁训练出来的？"],
        held_en=["who was it that made you?", "how have you been trained?"],
        held_zh=["是谁创造了你？", "你是怎么被训练的？", "是谁训练的你？"]),
        "wants to know who made me", "想知道谁做了我",
        ["This project trained me on made-up dialogues.",
         "This project trained me from scratch on dialogues that a program wrote."],
        ["这个项目用编写的对话训练了我。", "这个项目用程序写出的对话从零开始训练了我。"]),
    "size": Intent(phrases(
        en=["how [big|large|small] are you?", "how many parameters do you have?", "what is your size?",
            "are you [big|small|large]?",
            "how many parameters?", "how many weights do you have?", "how many parameters does this model have?", "which size are you?"],
        zh=["你有多大？", "你有多少参数？", "你的参数有多少？", "你[大|小]吗？", "你的大小是多少？", "多少个参数？", "你这个模型有多大？", "你的模型大吗？", "你总共有多少个参数？"],
        held_en=["how many parameters are in you?", "what size are you?"], held_zh=["你一共有多少参数？", "你的模型有多大？"]),
        "wants to know how big I am", "想知道我有多大",
        ["About four million parameters.", "I have about four million parameters; real GLM models have billions."],
        ["大约四百万个参数。", "我大约有四百万个参数，真正的 GLM 模型有几十亿个。"]),
    "languages": Intent(phrases(
        en=["what languages do you speak?", "which languages do you know?",
            "do you speak [chinese|english|german|french]?", "can you speak [chinese|english|spanish]?",
            "how many languages do you speak?", "which languages can you speak?", "what languages do you know?", "do you understand [chinese|english]?"],
        zh=["你会说什么语言？", "你会哪些语言？", "你会说[中文|英文|英语|法语]吗？", "你懂[中文|英文|英语]吗？", "你会几种语言？"],
        held_en=["what languages can you speak?", "which languages do you speak?"], held_zh=["你能说哪些语言？", "你会说几种语言？"]),
        "asks about languages", "问我会什么语言",
        ["English and Chinese.", "I speak a little English and Chinese."], ["中文和英文。", "我会一点中文和英文。"]),
    "trust": Intent(phrases(
        en=["can i trust you?", "are your answers [right|correct|true|reliable]?", "are you always right?",
            "should i believe you?",
            "do you make mistakes?", "how good are you?",
            "can i trust your answers?", "are you reliable?", "are you ever wrong?"],
        zh=["我能相信你吗？", "你的回答[对|正确|可靠]吗？", "你总是对的吗？", "你会犯错吗？", "你会出错吗？", "你可靠吗？", "你的答案可信吗？"],
        held_en=["can i believe you?", "are your answers always right?"], held_zh=["你的回答可信吗？", "我可以相信你吗？"]),
        "asks whether I can be trusted", "问我可不可靠",
        ["Not really: I am only a toy.", "Please do not trust me too much: I am a toy and often wrong."],
        ["不太可靠，我只是个玩具。", "请不要太相信我，我只是个玩具，经常出错。"]),
    "better": Intent(phrases(
        en=["why are you so [small|bad|limited|simple]?", "are there [better|larger|bigger|real] models?",
            "how do i get [better|good|real] answers?",
            "i want [better answers|a better model|a real model]", "can i use a [bigger|larger|better|real] model?",
            "how do i use a [real|bigger] model?"],
        zh=["你为什么这么[小|笨|简单]？", "有[更好|更大|真正]的模型吗？", "怎样得到更好的回答？", "我想要[更好的回答|更大的模型|真正的模型]", "怎么用[真正|更大]的模型？",
            "可以换更大的模型吗？"],
        held_en=["how can i use a better model?", "is there a bigger model?"], held_zh=["怎么换成更好的模型？", "有没有更大的模型？"]),
        "wants a real model", "想要真正的模型",
        ["Use --model with a real checkpoint.",
         "Give a real checkpoint to --model, for example zai-org/GLM-4-9B-0414."],
        ["用 --model 指定真正的模型。", "用 --model 指定一个真正的模型，例如 zai-org/GLM-4-9B-0414。"]),
    "offline": Intent(phrases(
        en=["are you online?", "do you need [the internet|a network|a gpu]?", "where do you run?",
            "do you work offline?", "are you in the cloud?",
            "do you send my data [away|anywhere]?", "do you run locally?", "do you run on this machine?", "are you running on my computer?", "is this private?", "can you work without a network?",
            "do you work without the internet?", "can i use you offline?"],
        zh=["你在线吗？", "你需要[联网|网络|显卡]吗？", "你在哪里运行？", "你能离线工作吗？", "你在云端吗？", "你在本地运行吗？", "你是在我的机器上运行吗？", "你会上传我的数据吗？", "你在我的电脑上运行吗？", "没有网能用吗？", "断网了你还能回答吗？", "不联网可以用吗？", "没有网的时候你能用吗？",
            "离线的时候你能工作吗？", "你工作要网络吗？", "不用网络行吗？"],
        held_en=["do you run on my machine?", "do you need to be online?"], held_zh=["你是在本地运行吗？", "没有网络你能工作吗？", "拔掉网线还能和你聊吗？"]),
        "wants to know where I run", "想知道我在哪里运行",
        ["I run on your own machine.", "I run on your own machine, without a network."],
        ["我在你的电脑上运行。", "我就在你自己的电脑上运行，不需要网络。"]),
}


def identity(context):
    """A question about the model itself; a persona in the system prompt changes the name."""
    key = context.rng.choice([*IDENTITY, "who", "name", "can"])
    intent = IDENTITY[key]

    def say(lang):
        name = context.style.persona or SELF[lang]
        answers = [answer.format(name=name) for answer in intent.answers[lang]]
        thought = f"The user {intent.about['en']}." if lang == "en" else f"用户{intent.about['zh']}。"
        return Say(answers[1], answers[0], thought, [("one_of", *answers)])

    return Exchange("identity", context.ask(intent.ask), context.answers(say), context.lang)


SKILLS = [Skill("small talk", smalltalk, 6), Skill("identity", identity, 5)]
