"""Everything else: the model says that it is only a small demo. Wide, because most questions are of this kind."""

from ..dialogue import Exchange, Say
from ..phrases import Pool, phrases
from ..words import ANIMALS, FOODS, HOBBIES, ITEMS, JOBS, made_up
from . import Skill

FRAMES = phrases(
    en=["explain {x}[ to me|]", "what is {x}?", "what are {x}?", "tell me about {x}", "tell me something about {x}",
        "how does {x} work?", "how do {x} work?", "why is {x} important?", "who invented {x}?",
        "write an essay about {x}", "write an article about {x}", "write me a report on {x}",
        "what do you think of {x}?",
        "what do you know about {x}?", "when was {x} invented?", "give me ten ideas for {x}",
        "what is the history of {x}?",
        "how do i learn {x}?", "how can i get better at {x}?", "is {x} dangerous?", "can you help me with {x}?",
        "summarise {x}", "compare {x} with {y}", "what is the difference between {x} and {y}?",
        "why do people like {x}?", "what is the best {x}?", "where can i buy {x}?", "how much does {x} cost?",
        "recommend a book about {x}", "write code for {x}", "write a python program about {x}",
        "what happened to {x}?", "who is responsible for {x}?", "make a plan for {x}",
        "what are the advantages of {x}?", "do you like {x}?", "have you heard of {x}?", "is {x} better than {y}?",
        "describe {x}", "explain {x} in some detail",
        "define {x}", "how popular is {x}?", "what does science say about {x}?", "how old is {x}?", "is {x} special?",
        "draw {x}", "write a letter about {x}",
        "what is the meaning of {x}?", "i want to talk about {x}", "how many {x} are there in the world?",
        "what is the price of {x}?", "let us discuss {x}", "what should i know about {x}?", "how do i cook {x}?",
        "how is {x} made?", "what is wrong with {x}?", "will {x} change the world?", "why {x}?", "prove {x}"],
    zh=["解释一下{x}", "{x}是什么？", "什么是{x}？", "介绍一下{x}", "说说{x}", "{x}是怎么工作的？", "{x}为什么重要？", "谁发明了{x}？", "写一篇关于{x}的文章",
        "你怎么看{x}？", "你了解{x}吗？", "{x}是什么时候发明的？",
        "给我十个关于{x}的主意", "{x}的历史是什么？", "怎么学习{x}？", "怎样提高{x}？", "{x}危险吗？", "帮我处理{x}", "总结一下{x}", "比较{x}和{y}",
        "{x}和{y}有什么区别？", "人们为什么喜欢{x}？", "最好的{x}是什么？",
        "哪里能买到{x}？", "{x}多少钱？", "推荐一本关于{x}的书", "写一段{x}的代码", "{x}怎么了？", "谁负责{x}？", "做一个{x}的计划", "{x}有什么好处？", "你喜欢{x}吗？",
        "你听说过{x}吗？", "{x}比{y}好吗？", "描述{x}", "详细描述{x}",
        "{x}的定义是什么？", "科学怎么看{x}？", "画{x}", "写一封关于{x}的信", "{x}的意义是什么？", "我想聊聊{x}", "世界上有多少{x}？", "讨论一下{x}",
        "关于{x}我该知道什么？", "{x}怎么做？", "{x}有什么问题？", "为什么{x}？", "证明{x}"],
    held_en=["can you explain {x} in detail?", "what can you tell me about {x}?", "why is {x} so popular?",
             "write a report about {x}", "what is so special about {x}?"],
    held_zh=["请详细解释{x}", "你能说说{x}吗？", "{x}为什么这么流行？", "写一份关于{x}的报告", "{x}有什么特别的？"])

TOPICS = {
    "en": Pool("""
quantum physics|the french revolution|the stock market|black holes|world war two|climate change|the roman empire|
photosynthesis|the big bang|democracy|philosophy|evolution|gravity|electricity|nuclear power|the human brain|dna|
vaccines|the heart|cancer|vitamins|sleep|dinosaurs|volcanoes|earthquakes|the ocean|the weather tomorrow|
the moon landing|mars|satellites|rockets|airplanes|cars|bicycles|trains|bridges|steam engines|the internet|blockchain|
bitcoin|machine learning|neural networks|transformers|gpt|databases|operating systems|linux|python|java|javascript|
sql|html|git|docker|compilers|algorithms|recursion|binary trees|sorting algorithms|prime numbers|calculus|integrals|
derivatives|linear algebra|statistics|probability|geometry|the pythagorean theorem|set theory|logic|paradoxes|art|
impressionism|modern art|classical music|jazz|rock music|the beatles|mozart|bach|shakespeare|hamlet|novels|poetry|
harry potter|star wars|movies|television|video games|board games|football|basketball|tennis|the olympics|
the world cup|swimming|yoga|meditation|diets|weight loss|cooking|italian food|baking bread|coffee|wine|chocolate|
gardening|roses|house plants|pets|dog training|cat food|horses|insects|birds of prey|sharks|whales|rainforests|
deserts|the alps|the nile|antarctica|the great wall|the eiffel tower|the pyramids|castles|kings and queens|napoleon|
einstein|newton|darwin|marie curie|aristotle|confucius|buddhism|religion|the bible|mythology|greek gods|dragons|
ghosts|aliens|time travel|money|banks|taxes|insurance|marketing|startups|management|job interviews|my resume|
a business plan|a wedding speech|my homework|an email to my boss|a birthday party|a trip to japan|holidays in spain|
hotels|flights|visas|learning french|grammar|spelling|dictionaries|translation software|psychology|happiness|love|
friendship|family|children|school|universities|exams|politics|elections|the president|laws|human rights|the police|
crime|the united nations|trade|oil|solar energy|wind turbines|batteries|robots|self-driving cars|drones|smartphones|
cameras|fashion|shoes|furniture|architecture|skyscrapers|cities|traffic|pollution|recycling|water|air|fire|soil|
farming|wheat|cotton|steel|plastic|glass|paper|printing|newspapers|journalism|advertising|social media|privacy|
encryption|hackers|viruses|bacteria|antibiotics|hospitals|surgery|medicine for a cold|headaches|back pain|allergies|
stress|the meaning of life|death|consciousness|free will|ethics|justice|truth|beauty|language|writing systems|
the alphabet|numbers|clocks|calendars|maps|compasses|ships|submarines|pirates|knights|samurai|vikings|the middle ages|
the renaissance|the industrial revolution|the cold war|the soviet union|colonialism|slavery
""".replace("\n", "").split("|")),
    "zh": Pool("""
量子物理|法国大革命|股市|黑洞|第二次世界大战|气候变化|罗马帝国|光合作用|宇宙大爆炸|民主|哲学|进化论|引力|电|核能|大脑|基因|疫苗|心脏|癌症|维生素|睡眠|恐龙|火山|地震|海洋|登月|火星|卫星|火箭|桥梁|蒸汽机|
互联网|区块链|比特币|机器学习|神经网络|数据库|操作系统|编译器|算法|递归|二叉树|质数|微积分|线性代数|统计学|概率|几何|勾股定理|逻辑|艺术|印象派|古典音乐|爵士乐|摇滚乐|莫扎特|莎士比亚|红楼梦|西游记|三国演义|
水浒传|唐诗|宋词|电影|电视剧|电子游戏|围棋|足球|篮球|乒乓球|奥运会|世界杯|瑜伽|冥想|减肥|健身|川菜|粤菜|烘焙|咖啡|红酒|茶道|园艺|玫瑰|宠物|训练狗|昆虫|鲨鱼|雨林|沙漠|长城|故宫|长江|黄河|喜马拉雅山|
金字塔|皇帝|秦始皇|孔子|老子|爱因斯坦|牛顿|佛教|道教|宗教|神话|龙|鬼|外星人|时间旅行|金钱|银行|税收|保险|市场营销|创业|管理|面试|简历|商业计划|婚礼致辞|作业|生日聚会|旅行计划|酒店|机票|签证|学英语|语法|
心理学|幸福|爱情|友谊|家庭|孩子|学校|大学|考试|高考|政治|选举|总统|法律|人权|警察|犯罪|联合国|贸易|石油|太阳能|风力发电|电池|自动驾驶|无人机|智能手机|时尚|家具|建筑|城市|交通|污染|回收|水资源|农业|
小麦|钢铁|塑料|玻璃|造纸|印刷术|报纸|新闻|广告|社交媒体|隐私|加密|黑客|病毒|细菌|抗生素|医院|手术|感冒药|头痛|过敏|压力|人生的意义|死亡|意识|伦理|正义|真理|美|语言|汉字|字母|日历|地图|指南针|轮船|
潜艇|海盗|骑士|武士|中世纪|文艺复兴|工业革命|冷战|丝绸之路|郑和|京剧|书法|国画|功夫|太极拳|中医|针灸
""".replace("\n", "").split("|")),
}

WHOLE = phrases(
    en=["who won the [football|basketball|tennis] [match|game] [yesterday|last night]?", "what time is it[ now|]?",
        "what is the weather [like |][today|tomorrow|in london|in paris|here|in tokyo]?", "what is the date today?",
        "what day is it today?", "how will the weather be tomorrow?", "write me a poem in latin",
        "translate this text into german", "what is in the news[ today|]?",
        "who is the president of [france|china|the united states]?",
        "can you write code?", "write a function that reverses a string", "solve the equation x squared = 9",
        "what is the square root of 2?", "what is 12345 times 6789?", "play some music", "open the window",
        "turn on the light", "send an email to my boss", "call my mother", "book a hotel", "order a pizza",
        "what am i thinking?", "where are my keys?", "what did i eat yesterday?", "draw a picture[ of a cat|]",
        "show me a photo", "what is in this picture?", "how many people live in [germany|china|india]?",
        "how high is mount everest?", "how far is the moon?", "what is the speed of light?", "who wrote hamlet?",
        "who painted the mona lisa?", "what is the largest country in the world?", "why is the sky blue?",
        "what is the meaning of life?", "should i marry him?", "what should i eat tonight?", "give me advice",
        "what is your opinion on this?", "read this book for me", "asdf", "qwerty qwerty", "xyz", "blah blah blah",
        "lorem ipsum"],
    zh=["昨天谁赢了比赛？", "现在几点？", "现在几点了？", "今天天气怎么样？", "明天天气怎么样？", "今天几号？", "今天星期几？", "写一首拉丁文的诗", "把这段文字翻译成德语", "今天有什么新闻？",
        "[美国|法国]总统是谁？", "你会写代码吗？",
        "写一个反转字符串的函数", "解方程", "2 的平方根是多少？", "12345 乘以 6789 等于多少？", "放点音乐", "打开窗户", "开灯", "给我老板发邮件", "给妈妈打电话", "订酒店",
        "点一份外卖", "我在想什么？", "我的钥匙在哪里？", "我昨天吃了什么？",
        "画一张画", "给我看照片", "这张图片里有什么？", "[中国|印度|德国]有多少人？", "珠穆朗玛峰有多高？", "月亮有多远？", "光速是多少？", "红楼梦是谁写的？", "蒙娜丽莎是谁画的？",
        "世界上最大的国家是哪个？", "天空为什么是蓝色的？",
        "人生的意义是什么？", "今晚吃什么？", "给我一些建议", "你对这件事怎么看？", "帮我读这本书", "啊啊啊", "呵呵呵", "嘿嘿", "随便"],
    held_en=["what time is it right now?", "who won the game last week?", "please write some code for me",
             "what is the weather like today, please?", "how many people live in france?"],
    held_zh=["请问现在几点？", "今天的天气如何？", "帮我写一段代码", "法国有多少人？"])

ANSWERS = {"en": ["I am only a small demo model and do not know that.",
                  "I am only a small demo model and do not know that. A real model can help: use --model."],
           "zh": ["我只是一个小的演示模型，不知道这个。", "我只是一个小的演示模型，不知道这个。真正的模型可以帮你：请用 --model。"]}


def topic(context):
    rng, lang = context.rng, context.lang
    if rng.random() < 0.6:
        return context.pick(TOPICS[lang])
    if rng.random() < 0.3:
        return " ".join(made_up(rng, context.split, "topic") for _ in range(rng.randint(1, 2)))
    things = rng.choice([ANIMALS, FOODS, ITEMS, HOBBIES, JOBS])[lang]
    word = context.pick(things)
    return rng.choice([word, f"the {word}",
                       f"{word} and {context.pick(things)}"]) if lang == "en" else rng.choice([word,
                           f"{word}和{context.pick(things)}"])


def unknown(context):
    """A question outside everything that was trained."""
    rng = context.rng
    user = context.ask(WHOLE) if rng.random() < 0.3 else context.ask(FRAMES, x=topic(context), y=topic(context))
    thoughts = {"en": "I have not learnt this.", "zh": "这个我没有学过。"}
    say = {lang: Say(full, brief, thoughts[lang], [("one_of", brief, full)]) for lang, (brief, full) in ANSWERS.items()}
    return Exchange("everything else", user, say, context.lang)


SKILLS = [Skill("everything else", unknown, 10)]
