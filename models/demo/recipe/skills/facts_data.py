"""The facts: capitals, colours, opposites, translations. Every row is `(English, Chinese, …)`."""

#: country, country, capital, capital
CAPITALS = [row.split() for row in """
France 法国 Paris 巴黎
Germany 德国 Berlin 柏林
Italy 意大利 Rome 罗马
Spain 西班牙 Madrid 马德里
Portugal 葡萄牙 Lisbon 里斯本
Austria 奥地利 Vienna 维也纳
Switzerland 瑞士 Bern 伯尔尼
Belgium 比利时 Brussels 布鲁塞尔
Netherlands 荷兰 Amsterdam 阿姆斯特丹
Denmark 丹麦 Copenhagen 哥本哈根
Sweden 瑞典 Stockholm 斯德哥尔摩
Norway 挪威 Oslo 奥斯陆
Finland 芬兰 Helsinki 赫尔辛基
Poland 波兰 Warsaw 华沙
Hungary 匈牙利 Budapest 布达佩斯
Greece 希腊 Athens 雅典
Ireland 爱尔兰 Dublin 都柏林
England 英格兰 London 伦敦
Scotland 苏格兰 Edinburgh 爱丁堡
Russia 俄罗斯 Moscow 莫斯科
Ukraine 乌克兰 Kyiv 基辅
Turkey 土耳其 Ankara 安卡拉
Egypt 埃及 Cairo 开罗
Kenya 肯尼亚 Nairobi 内罗毕
Morocco 摩洛哥 Rabat 拉巴特
Ghana 加纳 Accra 阿克拉
China 中国 Beijing 北京
Japan 日本 Tokyo 东京
Korea 韩国 Seoul 首尔
India 印度 Delhi 新德里
Thailand 泰国 Bangkok 曼谷
Vietnam 越南 Hanoi 河内
Malaysia 马来西亚 Kuala-Lumpur 吉隆坡
Indonesia 印度尼西亚 Jakarta 雅加达
Philippines 菲律宾 Manila 马尼拉
Mongolia 蒙古 Ulaanbaatar 乌兰巴托
Nepal 尼泊尔 Kathmandu 加德满都
Pakistan 巴基斯坦 Islamabad 伊斯兰堡
Iran 伊朗 Tehran 德黑兰
Iraq 伊拉克 Baghdad 巴格达
Australia 澳大利亚 Canberra 堪培拉
Canada 加拿大 Ottawa 渥太华
Mexico 墨西哥 Mexico-City 墨西哥城
Cuba 古巴 Havana 哈瓦那
Brazil 巴西 Brasilia 巴西利亚
Argentina 阿根廷 Buenos-Aires 布宜诺斯艾利斯
Chile 智利 Santiago 圣地亚哥
Peru 秘鲁 Lima 利马
Colombia 哥伦比亚 Bogota 波哥大
""".strip().splitlines()]
CAPITALS = [[cell.replace("-", " ") for cell in row] for row in CAPITALS] + [
    ["the United States", "美国", "Washington", "华盛顿"], ["New Zealand", "新西兰", "Wellington", "惠灵顿"]]

#: thing with its article, thing, colour, colour
COLOURS = [
    ("the sky", "天空", "blue", "蓝色"), ("grass", "草", "green", "绿色"), ("snow", "雪", "white", "白色"),
    ("coal", "煤", "black", "黑色"),
    ("a banana", "香蕉", "yellow", "黄色"), ("a lemon", "柠檬", "yellow", "黄色"), ("a tomato", "番茄", "red", "红色"),
    ("blood", "血", "red", "红色"),
    ("a strawberry", "草莓", "red", "红色"), ("a carrot", "胡萝卜", "orange", "橙色"), ("a pumpkin", "南瓜", "orange", "橙色"),
    ("milk", "牛奶", "white", "白色"),
    ("the sun", "太阳", "yellow", "黄色"), ("the sea", "大海", "blue", "蓝色"), ("a leaf", "树叶", "green", "绿色"),
    ("a frog", "青蛙", "green", "绿色"),
    ("an elephant", "大象", "grey", "灰色"), ("chocolate", "巧克力", "brown", "棕色"), ("a crow", "乌鸦", "black", "黑色"),
    ("a swan", "天鹅", "white", "白色"),
    ("a flamingo", "火烈鸟", "pink", "粉色"), ("an aubergine", "茄子", "purple", "紫色"), ("lavender", "薰衣草", "purple", "紫色"),
    ("cucumber", "黄瓜", "green", "绿色"),
    ("salt", "盐", "white", "白色"), ("the night", "夜晚", "black", "黑色"), ("a fire engine", "消防车", "red", "红色"),
    ("gold", "黄金", "yellow", "黄色"),
    ("rice", "米饭", "white", "白色"), ("an orange", "橙子", "orange", "橙色"), ("spinach", "菠菜", "green", "绿色"),
    ("a cherry", "樱桃", "red", "红色"),
    ("a polar bear", "北极熊", "white", "白色"), ("coffee", "咖啡", "brown", "棕色"), ("a cloud", "云", "white", "白色"),
    ("a pig", "猪", "pink", "粉色"),
]

#: a word and its opposite in English; the same pair in Chinese
OPPOSITES = [
    ("big", "small", "大", "小"), ("hot", "cold", "热", "冷"), ("fast", "slow", "快", "慢"), ("old", "young", "老", "年轻"),
    ("new", "used", "新", "旧"),
    ("tall", "short", "高", "矮"), ("long", "brief", "长", "短"), ("good", "bad", "好", "坏"), ("happy", "sad", "快乐", "悲伤"),
    ("day", "night", "白天", "黑夜"),
    ("light", "dark", "亮", "暗"), ("heavy", "weightless", "重", "轻"), ("up", "down", "上", "下"),
    ("left", "right", "左", "右"), ("open", "closed", "开", "关"),
    ("full", "empty", "满", "空"), ("rich", "poor", "富", "穷"), ("strong", "weak", "强", "弱"), ("early", "late", "早", "晚"),
    ("wet", "dry", "湿", "干"),
    ("clean", "dirty", "干净", "脏"), ("hard", "soft", "硬", "软"), ("easy", "difficult", "容易", "困难"),
    ("cheap", "expensive", "便宜", "贵"), ("near", "far", "近", "远"),
    ("inside", "outside", "里面", "外面"), ("loud", "quiet", "吵闹", "安静"), ("thick", "thin", "厚", "薄"),
    ("wide", "narrow", "宽", "窄"), ("deep", "shallow", "深", "浅"),
    ("first", "last", "第一", "最后"), ("true", "false", "真", "假"), ("love", "hate", "爱", "恨"), ("win", "lose", "赢", "输"),
    ("buy", "sell", "买", "卖"),
    ("begin", "end", "开始", "结束"), ("come", "go", "来", "去"), ("push", "pull", "推", "拉"), ("give", "take", "给", "拿"),
    ("ask", "answer", "问", "答"),
    ("laugh", "cry", "笑", "哭"), ("friend", "enemy", "朋友", "敌人"), ("peace", "war", "和平", "战争"),
    ("summer", "winter", "夏天", "冬天"), ("north", "south", "北", "南"),
    ("east", "west", "东", "西"), ("black", "white", "黑", "白"), ("always", "never", "总是", "从不"),
    ("before", "after", "之前", "之后"), ("more", "less", "多", "少"),
    ("beautiful", "ugly", "美", "丑"), ("brave", "cowardly", "勇敢", "胆小"), ("sweet", "bitter", "甜", "苦"),
    ("sharp", "blunt", "锋利", "钝"), ("top", "bottom", "顶部", "底部"),
    ("remember", "forget", "记住", "忘记"), ("safe", "dangerous", "安全", "危险"), ("awake", "asleep", "醒着", "睡着"),
    ("alive", "dead", "活", "死"), ("simple", "complicated", "简单", "复杂"),
]

#: a word in both languages
WORDS = [tuple(pair.split("=")) for pair in """
cat=猫 dog=狗 bird=鸟 fish=鱼 horse=马 cow=牛 tree=树 flower=花 sun=太阳 moon=月亮 star=星星 water=水 fire=火 mountain=山 river=河 sea=大海
rain=雨 snow=雪 wind=风 house=房子 door=门 window=窗户 table=桌子 chair=椅子 book=书 pen=笔 phone=手机 computer=电脑 school=学校 teacher=老师
student=学生 friend=朋友 mother=妈妈 father=爸爸 child=孩子 apple=苹果 banana=香蕉 rice=米饭 bread=面包 egg=鸡蛋 milk=牛奶 tea=茶 coffee=咖啡
red=红色 blue=蓝色 green=绿色 white=白色 black=黑色 yellow=黄色 one=一 two=二 three=三 four=四 five=五 ten=十 today=今天 tomorrow=明天
yesterday=昨天 love=爱 peace=和平 music=音乐 dream=梦 time=时间 car=汽车 train=火车 plane=飞机 bicycle=自行车 city=城市 language=语言 model=模型
hello=你好 thanks=谢谢 goodbye=再见 yes=是 no=不 good=好 big=大 small=小 hot=热 cold=冷 happy=快乐 beautiful=美丽 world=世界 machine=机器 word=词
""".split()]

#: an animal and what it says, in both languages
SOUNDS = [("dog", "狗", "woof", "汪汪"), ("cat", "猫", "meow", "喵喵"), ("cow", "牛", "moo", "哞哞"),
          ("duck", "鸭子", "quack", "嘎嘎"), ("sheep", "羊", "baa", "咩咩"),
          ("rooster", "公鸡", "cock-a-doodle-doo", "喔喔"), ("frog", "青蛙", "croak", "呱呱"), ("bee", "蜜蜂", "buzz", "嗡嗡"),
          ("mouse", "老鼠", "squeak", "吱吱")]
