"""Text side of the tiny checkpoints: training text, three tokenizer containers, chat templates, test strings.

The vocabularies are small, but built like the published ones: a byte-level BPE with the GLM pre-split (as tokenizer.json
and as a tiktoken rank file) and a sentencepiece BPE with byte fallback (ChatGLM3), special tokens above the pieces.
"""

import base64
import functools
import io
import json
from pathlib import Path

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import render_jinja_template

CORPUS = """\
Every layer reads the tokens before it and adds a little to what it knows. A block of keys and values holds
sixteen positions; when it is full, another block is taken from the pool and written into the table of the sequence.
The weather in Shanghai is warm today, and the train to Hangzhou leaves at 18:45 from platform 7, gate 12B.
fn main() { let answer = 6 * 7; println!("{answer}"); }  // 42, 1024, 65536, 2.71828
{"city": "Shanghai", "days": 3, "units": ["celsius", "kilometre"]} <item id="9">done</item>
It's late, but they'll come; we've heard that she'd rather stay, I'm sure you're right, isn't it?
语言模型读入文字，一个接一个地写出新的词。注意力让每个词都能看见前面的词。上海今天很暖和，火车晚上开往杭州。
请用一句话回答：什么是人工智能？你好，朋友！谢谢你的帮助，我们明天再见。天气预报说周末有雨，记得带伞。
the of and to in is it that for with on as at by from are was be this which or an not have has had but what when
reading writing running loading decoding sampling measuring quantised weights tensors blocks tokens engine model
"""

PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# In the order of the published vocabularies: offset 0 is <|endoftext|>, 7 <|user|>, 9 <|observation|>.
SPECIAL = (
    "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> "
    "<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>"
).split()
# Added, but left visible when special tokens are skipped.
VISIBLE = "<think> </think> <tool_call> </tool_call>".split()

SPM_SPECIAL = "[MASK] [gMASK] [sMASK] sop eop <|system|> <|user|> <|assistant|> <|observation|>".split()

TOKENIZER_STRINGS = [
    "", " ", "   ", "\n", "\r\n\n", "Weather", " weather", "it's IT'S we'Ve", "1 12 123 1234 12345 3.14",
    "今天", "今天天气很暖和。", "mixed 中文 and English", "tab\tand  blanks   \n \n end ", "naïve façade ñ Ω привет 한국어 ไทย",
    "🦙 👩‍🚀 🇨🇳", "{\"a\": [1, 2]}", "fn f() -> u8 { 0 }", "[gMASK]<sop><|user|>\nhi<|assistant|>", "a<think>b</think>c",
    "x <|observation|> y", "e\u0301 \u00a0 \u200b",
]

PROMPTS = [
    "A block of keys and values holds sixteen positions.",
    "上海今天很暖和，weather 2024!",
]
LONG_PROMPT = "\n".join(CORPUS.splitlines()[:2])


# ---------------------------------------------------------------- byte-level BPE

@functools.cache
def bpe(vocab_size=400):
    """The byte-level BPE with its special tokens, `vocab_size` entries in all."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRE_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(VISIBLE), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in VISIBLE])
    assert tokenizer.get_vocab_size() == vocab_size
    prefix = [(t, tokenizer.token_to_id(t)) for t in ("[gMASK]", "<sop>")]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B:1", special_tokens=prefix),
    ])
    return tokenizer


def stop_ids():
    """Where an answer ends: end of text, the user's turn, a tool's turn."""
    return [bpe().token_to_id(t) for t in ("<|endoftext|>", "<|user|>", "<|observation|>")]


def tokenizer_config(**extra):
    """tokenizer_config.json of a byte-level checkpoint, as transformers writes it."""
    tokenizer = bpe()
    added = {
        str(tokenizer.token_to_id(t)): dict(content=t, lstrip=False, normalized=False, rstrip=False,
                                            single_word=False, special=t in SPECIAL)
        for t in SPECIAL + VISIBLE
    }
    return dict(added_tokens_decoder=added, additional_special_tokens=SPECIAL, clean_up_tokenization_spaces=False,
                do_lower_case=False, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=2048,
                padding_side="left", remove_space=False, **extra)


def byte_of_char():
    """GPT-2's printable stand-ins for bytes, inverted."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def tiktoken_ranks():
    """{bytes of a token: rank}, the vocabulary below the special tokens."""
    table = byte_of_char()
    vocab = bpe().get_vocab(with_added_tokens=False)
    return {bytes(table[c] for c in token): rank for token, rank in sorted(vocab.items(), key=lambda kv: kv[1])}


def write_tiktoken(folder: Path):
    """tokenizer.model in the form GLM-4-9B's own code reads: base64 of the bytes, a blank, the rank."""
    ranks = tiktoken_ranks()
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "tokenizer.model").write_text("".join(lines))
    check = tiktoken.Encoding("tiny", pat_str=PRE_SPLIT, mergeable_ranks=ranks,
                              special_tokens={t: bpe().token_to_id(t) for t in SPECIAL})
    for text in TOKENIZER_STRINGS:
        if not any(t in text for t in VISIBLE):
            assert check.encode(text, allowed_special="all") == bpe().encode(text, add_special_tokens=False).ids, text


def bpe_rows():
    """What the byte-level tokenizer makes of every test string."""
    rows = []
    for text in TOKENIZER_STRINGS:
        ids = bpe().encode(text, add_special_tokens=False).ids
        rows.append(dict(text=text, ids=ids, ids_with_prefix=bpe().encode(text).ids,
                         decoded=bpe().decode(ids, skip_special_tokens=False),
                         decoded_skip_special=bpe().decode(ids)))
    return rows


# ---------------------------------------------------------------- sentencepiece (ChatGLM3)

@functools.cache
def spm():
    """(processor, serialized model) of a sentencepiece BPE with byte fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()), model_writer=model, vocab_size=480, model_type="bpe",
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), model.getvalue()


def spm_special(token):
    return spm()[0].get_piece_size() + SPM_SPECIAL.index(token)


def chatglm3_ids(messages):
    """ChatGLM3 builds its prompt from ids: a role, then its metadata line and its content, encoded one by one."""
    encode = spm()[0].encode
    ids = [spm_special("[gMASK]"), spm_special("sop")]
    for message in messages:
        ids.append(spm_special(f"<|{message['role']}|>"))
        ids += encode(message.get("metadata", "") + "\n") + encode(message["content"])
    return ids + [spm_special("<|assistant|>")]


def spm_rows():
    encode, decode = spm()[0].encode, spm()[0].decode
    return [dict(text=t, ids=encode(t), decoded=decode(encode(t))) for t in TOKENIZER_STRINGS if "<" not in t]


# ---------------------------------------------------------------- chat

TEMPLATE_GLM4 = """\
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- elif content -%}
    {%- for part in content -%}
      {{- part if part is string else part.get('text', '') -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- '[gMASK]<sop>' -}}
{%- if tools %}
  {{- '<|system|>\\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\\n\\n# 可用工具' -}}
  {%- for tool in tools %}
    {%- set function = tool.function if tool.get('function') else tool %}
    {{- '\\n## ' + function.name + '\\n\\n' + function | tojson(indent=4, ensure_ascii=False) -}}
    {{- '\\n在调用上述函数时，请使用 Json 格式表示调用的参数。' -}}
  {%- endfor %}
{%- endif %}
{%- for message in messages if message.role == 'system' %}
  {{- '<|system|>\\n' + text(message.content) -}}
{%- endfor %}
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {{- '<|assistant|>' + (message.get('metadata') or '') + '\\n' + KEEP -}}
  {%- elif message.role != 'system' %}
    {{- '<|' + message.role + '|>\\n' + text(message.content) -}}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|assistant|>START' -}}
{%- endif %}
"""
# GLM-Z1 opens its thinking in the prompt and keeps only the answers of earlier turns.
TEMPLATE_Z1 = TEMPLATE_GLM4.replace("KEEP", "text(message.content).split('</think>')[-1].strip()").replace(
    "START", "\\n<think>")
TEMPLATE_GLM4 = TEMPLATE_GLM4.replace("KEEP", "text(message.content)").replace("START", "")

WEATHER_TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "天气 & \"weather\" of a city <today>",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
                   "required": ["city"]}}}

CHATS = {
    "user": dict(messages=[{"role": "user", "content": "什么是人工智能？"}]),
    "multi_turn": dict(messages=[
        {"role": "system", "content": "You answer in one line."},
        {"role": "user", "content": "What is a block?"},
        {"role": "assistant", "content": "Sixteen positions of keys and values."},
        {"role": "user", "content": "And when it is full, what happens then?"}]),
    "chinese_system": dict(messages=[
        {"role": "system", "content": "请用一句话回答。"}, {"role": "user", "content": "周末有雨吗？"}]),
    "empty": dict(messages=[{"role": "system", "content": ""}, {"role": "user", "content": ""}]),
    "two_system": dict(messages=[
        {"role": "system", "content": "First."}, {"role": "user", "content": "hi"}, {"role": "system", "content": "Second."}]),
}
METADATA_CHAT = [
    {"role": "user", "content": "Weather in Shanghai?"},
    {"role": "assistant", "metadata": "get_weather", "content": "{\"city\": \"Shanghai\"}"},
    {"role": "observation", "content": "{\"rain\": false}"}]
TEMPLATE_CHATS = CHATS | {
    "tools": dict(messages=METADATA_CHAT, tools=[WEATHER_TOOL, WEATHER_TOOL["function"] | {"name": "forecast"}]),
    "parts": dict(messages=[{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "两"}]}]),
    "history_think": dict(messages=[
        {"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "<think>\nmultiply\n</think>\n42"},
        {"role": "user", "content": "and 7*7?"}]),
}


def render(template, chat):
    """What transformers' apply_chat_template makes of a conversation."""
    return render_jinja_template(conversations=[chat["messages"]], tools=chat.get("tools"), chat_template=template,
                                 add_generation_prompt=True)[0][0]


def template_chats(template, names=None):
    chats = {}
    for name, chat in TEMPLATE_CHATS.items():
        if names is None or name in names:
            text = render(template, chat)
            chats[name] = dict(chat, text=text, ids=bpe().encode(text, add_special_tokens=False).ids)
    return chats


def chatglm3_chats():
    cases = CHATS | {"tool": dict(messages=METADATA_CHAT)}
    return {name: dict(chat, ids=chatglm3_ids(chat["messages"])) for name, chat in cases.items()}


def write_json(path: Path, value, indent=1):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
