"""Values: names, places, things. The pools are split into a training and a held-out side by `Pool`."""

from .phrases import TRAIN, Pool, is_held

EN_NAMES = """
Anna Ben Clara David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paul Quinn Rosa Sam Tina Uma Victor
Wendy Xavier Yara Zoe Adam Bella Carl Diana Eric Fiona George Hannah Ivan Julia Kevin Laura Mark Nora Olaf Peter
Rachel Simon Tom Ursula Vera Walter Alice Bob Carol Daniel Elena Felix Gina Hugo Ines James Kate Linda Martin Natalie
Otto Petra Robert Sara Theo Viola William Amy Bruno Chloe Derek Ella Finn Gloria Harry Ida Jonas Kim Lily Max Nadia
Oliver Pia Ralph Stella Tara Vincent Alma Boris Cora Dora Edgar Flora Greta Hector Irma Joel Klara Luis Mila Nils Olga
Pablo Rita Sven Thea Tariq Aisha Omar Priya Ravi Mei Hiro Yuki Fatima Kofi Ada Alan Linus Margaret Donald Barbara
Susan Steve Lisa Michael Emily
""".split()

ZH_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗"
ZH_GIVEN = "明华丽强军芳敏静磊洋艳勇杰娟涛超霞平刚玲桂英建国文辉红玉兰婷雪梅飞宇浩然子轩思雨欣怡晨阳佳琪"

EN_CITIES = """
Paris London Berlin Rome Madrid Vienna Lisbon Oslo Athens Prague Warsaw Dublin Tokyo Beijing Shanghai Hangzhou Seoul
Delhi Mumbai Bangkok Hanoi Singapore Sydney Melbourne Toronto Boston Chicago Seattle Denver Dallas Miami Lima Bogota
Cairo Nairobi Lagos Accra Tunis Rabat Geneva Zurich Munich Hamburg Milan Naples Venice Porto Seville Krakow Riga
Tallinn Helsinki Stockholm Copenhagen Amsterdam Brussels Lyon Marseille Nice Glasgow York Leeds Bristol Oxford
Cambridge Osaka Kyoto Shenzhen Chengdu Wuhan Nanjing Suzhou Xiamen Dubai Doha Istanbul Ankara Havana Quito Santiago
Austin Phoenix Portland Atlanta Montreal
""".split()

ZH_CITIES = """
北京 上海 广州 深圳 杭州 南京 苏州 成都 重庆 武汉 西安 长沙 天津 青岛 大连 厦门 福州 昆明 贵阳 南宁 海口 郑州 济南 太原 沈阳 长春 哈尔滨 兰州 银川 西宁 拉萨 合肥 南昌 宁波 无锡 温州 珠海 桂林 三亚
巴黎 伦敦 东京 柏林 罗马 纽约 香港 台北 澳门 首尔 曼谷 悉尼
""".split()

EN_ANIMALS = """
cat dog fox bear rabbit mouse owl frog turtle lion tiger wolf horse cow pig duck goose hen sheep goat monkey elephant
giraffe penguin dolphin whale bee ant spider snail hedgehog squirrel deer parrot crow swan camel panda koala otter
""".split()

ZH_ANIMALS = """
小猫 小狗 狐狸 小熊 兔子 老鼠 猫头鹰 青蛙 乌龟 狮子 老虎 大象 长颈鹿 企鹅 海豚 鲸鱼 蜜蜂 蚂蚁 蜘蛛 蜗牛 刺猬 松鼠 小鹿 鹦鹉 乌鸦 天鹅 骆驼 熊猫 小羊 小猪 小鸭 小马 猴子 水獭
""".split()

EN_COLOURS = "red blue green yellow white black orange purple pink brown grey silver gold violet turquoise".split()
ZH_COLOURS = "红色 蓝色 绿色 黄色 白色 黑色 橙色 紫色 粉色 棕色 灰色 银色 金色 青色".split()

EN_FOODS = """
pizza rice soup bread cheese pasta noodles salad cake chocolate apples bananas sushi curry pancakes dumplings tomatoes
potatoes eggs fish honey strawberries grapes tofu beans popcorn
""".split()
ZH_FOODS = "米饭 面条 饺子 包子 火锅 豆腐 鸡蛋 苹果 香蕉 葡萄 西瓜 草莓 蛋糕 巧克力 面包 烤鸭 汤圆 粽子 月饼 咖喱 寿司 披萨 酸奶 玉米".split()

EN_ITEMS = """
apple pear plum lamp chair table book pen cup plate spoon fork knife bottle bag box coat hat shoe sock ring clock
phone camera guitar piano drum ball bike car bus train ship plane kite key door window flower tree stone leaf shell
candle
""".split()
ZH_ITEMS = "苹果 梨 桃子 台灯 椅子 桌子 书 笔 杯子 盘子 勺子 瓶子 书包 箱子 外套 帽子 鞋子 袜子 戒指 钟 手机 相机 吉他 钢琴 鼓 球 自行车 汽车 火车 飞机 风筝 钥匙 花 树 石头".split()

EN_JOBS = """
teacher doctor nurse cook driver farmer painter writer singer lawyer barber gardener baker pilot plumber carpenter
librarian dentist student musician journalist chemist tailor waiter mechanic mason
""".split()
ZH_JOBS = "老师 医生 护士 厨师 司机 农民 画家 作家 歌手 律师 工程师 园丁 面包师 飞行员 木匠 学生 音乐家 记者 裁缝 服务员 建筑师 演员 警察 程序员".split()

EN_HOBBIES = """
reading swimming chess painting cooking hiking dancing singing gardening cycling running photography fishing drawing
knitting skiing sailing tennis football yoga
""".split()
ZH_HOBBIES = "看书 游泳 下棋 画画 做饭 爬山 跳舞 唱歌 种花 骑车 跑步 摄影 钓鱼 滑雪 打网球 踢足球 练瑜伽 写字 旅行 听音乐".split()

NAMES = {"en": Pool(EN_NAMES)}
CITIES = {"en": Pool(EN_CITIES), "zh": Pool(ZH_CITIES)}
ANIMALS = {"en": Pool(EN_ANIMALS), "zh": Pool(ZH_ANIMALS)}
COLOURS = {"en": Pool(EN_COLOURS), "zh": Pool(ZH_COLOURS)}
FOODS = {"en": Pool(EN_FOODS), "zh": Pool(ZH_FOODS)}
ITEMS = {"en": Pool(EN_ITEMS), "zh": Pool(ZH_ITEMS)}
JOBS = {"en": Pool(EN_JOBS), "zh": Pool(ZH_JOBS)}
HOBBIES = {"en": Pool(EN_HOBBIES), "zh": Pool(ZH_HOBBIES)}

#: Every word that conversations copy, on either side of the wall: repeated here, none is new where it is examined.
ALL_WORDS = {
    "en": sorted({*EN_NAMES, *EN_CITIES, *EN_ANIMALS, *EN_COLOURS, *EN_FOODS, *EN_ITEMS, *EN_JOBS, *EN_HOBBIES,
                  *"river cloud night garden winter letter music number engine morning shadow bridge island".split()}),
    "zh": sorted({*ZH_CITIES, *ZH_ANIMALS, *ZH_COLOURS, *ZH_FOODS, *ZH_ITEMS, *ZH_JOBS, *ZH_HOBBIES,
                  *"河流 云彩 夜晚 花园 冬天 音乐 数字 早晨 影子 小桥 海岛 春风 秋月 远山".split()}),
}

SYLLABLES = [c + v for c in "b d f g h k l m n p r s t v w y z br ch dr gr kr pl sh st th tr".split()
             for v in "a e i o u ai ee ia oo".split()]
ENDINGS = ["", "n", "r", "s", "l", "x", "k", "th", "nd", "m"]


def made_up(rng, split, what="word"):
    """A pronounceable word that nobody has seen: what is copied must be read, not remembered."""
    while True:
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([2, 2, 2, 3]))) + rng.choice(ENDINGS)
        if is_held(what, word) == (split != TRAIN):
            return word


def common_han():
    """The 3,755 characters of GB 2312, level 1."""
    codes = (bytes([high, low]) for high in range(0xB0, 0xD8) for low in range(0xA1, 0xFF))
    return [code.decode("gb2312", errors="ignore") for code in codes if code[0] < 0xD7 or code[1] < 0xFA]


COMMON_HAN = [character for character in common_han() if character]


def name(rng, lang, split):
    """A person's name; in training about a third are made up."""
    if lang == "en":
        if rng.random() < (0.35 if split == TRAIN else 0.2):
            return made_up(rng, split, "name").capitalize()
        return NAMES["en"].pick(rng, split)
    while True:
        given = [rng.choice(ZH_GIVEN) for _ in range(rng.choice([1, 2, 2]))]
        if split == TRAIN and rng.random() < 0.2:
            given = rng.sample(COMMON_HAN, len(given))
        full = rng.choice(["小", rng.choice(ZH_SURNAMES), rng.choice(ZH_SURNAMES)]) + "".join(given)
        if is_held("name", full) == (split != TRAIN):
            return full


def code(rng, split):
    """A code such as X7Q2."""
    while True:
        text = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(rng.choice([3, 4, 4, 5])))
        if is_held("code", text) == (split != TRAIN):
            return text


def number(rng, split, low=1, high=9999):
    """A number with up to as many digits as `high`, each length as likely as the others."""
    while True:
        value = rng.randint(low, min(high, 10 ** rng.randint(len(str(low)), len(str(high))) - 1))
        if is_held("number", value) == (split != TRAIN):
            return value


def one_of(context, pools, made_up_share=0.3, words=(1, 1, 1, 2)):
    """A value of the language's pool; in training some are made up, of so many words, so that values are copied, not recognised."""
    rng, lang, split = context.rng, context.lang, context.split
    if split != TRAIN or rng.random() >= made_up_share:
        return pools[lang].pick(rng, split)
    if lang == "en":
        return " ".join(made_up(rng, split) for _ in range(rng.choice(words)))
    while True:
        text = "".join(rng.sample(COMMON_HAN, rng.choice([2, 2, 3, 4])))
        if not is_held("text", text):
            return text
