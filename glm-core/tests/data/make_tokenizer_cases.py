#!/usr/bin/env python3
"""Makes the small vocabularies in tokenizer/ and what the libraries that own the formats do with them.

    python make_tokenizer_cases.py

Versions used: tokenizers 0.23.3, tiktoken 0.14.0, sentencepiece 0.2.3. Seeds are fixed; a second run writes the same files.
"""
import base64
import io
import json
import pathlib
import random

import sentencepiece
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent / "tokenizer"

CORPUS = """\
The kettle sings, the window fogs, and somebody reads the morning paper aloud. A machine that writes has to choose
one word after another; every word is a number from a list, and the list is what this file is about. Trains leave at
7:45, 8:15 and 23:59. It costs 1234567 yen or 89.50 euros, doesn't it? They're late, we've waited, I'd go, you'll see.
for i in range(100): print("row", i)   # tabs\tand   blanks matter in programs
{"name": "find_train", "arguments": {"from": "Berlin", "to": "Wien", "seats": 2}}
早上好，水开了，窗户上有雾。写字的机器要一个词一个词地选择；每个词都是表里的一个数字。火车七点四十五分出发。
请问去上海的票多少钱？我们等了很久，你们迟到了。北京的天气很好，上海在下雨。
token tokens number numbers word words list lists machine machines write writes writing written read reads reading
the the the and and of of to to in in is is it it that that a a one one every every after after
"""

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
           "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
VISIBLE = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "/nothink"]

TEXTS = ["", " ", "  ", "\n", "\r\n", "\t", "Hello", " hello world", "don't DON'T you'LL they'Re", "12345678 3.14 1,000,000",
         "你好，世界！", "今天天气很好 rain", "tabs\tand  two spaces \n\n new lines\r\n", "emoji 🦙🚀👨‍👩‍👧 and é e\u0301 ü ก",
         "[gMASK]<sop><|user|>\nHi<|assistant|>\n", "<think>why</think>ok /nothink", "a<|user|>b", "ΑΒΓ абв 한국어 العربية",
         "x" * 300, "=" * 70, " " * 50 + "a", "\u3000全角　空格", "\u00a0nbsp\u2028line", "½ ² Ⅷ ①", "<|user|", "<0x0A>", "▁under▁", "aaaa aaa",
         "\u0000\u0001\u007f", "\ufeffbom", "mixed中文and English混合text", "f(x)=x**2;\n\treturn f'{x!r}'\n"]


def random_texts(rng, count):
    alphabets = ["abcdefghijklmnopqrstuvwxyz", "THE and to is it ", "0123456789", " \t\n\r", "的一是不了人我在有他这中大来上", "'\"!?.,;:-_/\\<>|[]{}()",
                 "éüñßøåÀÇ", "абвгдеё", "한국어일본", "🦙🚀❤️", "\u3000\u00a0\u2003", "▁"]
    texts = []
    for _ in range(count):
        alphabet = "".join(rng.sample(alphabets, rng.randint(1, 4)))
        texts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40))))
    return texts


def byte_table():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def make_bpe(rng):
    tk = Tokenizer(models.BPE(ignore_merges=True))
    tk.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    tk.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=480, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tk.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)
    base = tk.get_vocab_size()
    tk.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tk.add_tokens([AddedToken(t, special=False, normalized=False) for t in VISIBLE])
    prefix = ["[gMASK]", "<sop>"]
    tk.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="[gMASK]:0 <sop>:0 $A:0", pair="[gMASK]:0 <sop>:0 $A:0 $B:1",
                                      special_tokens=[(t, tk.token_to_id(t)) for t in prefix])])
    tk.save(str(HERE / "tokenizer.json"), pretty=False)

    inverse = {c: b for b, c in byte_table().items()}
    vocab = tk.get_vocab(with_added_tokens=False)
    ranks = {bytes(inverse[c] for c in t): i for t, i in vocab.items()}
    lines = [f"{base64.b64encode(t).decode()} {i}\n" for t, i in sorted(ranks.items(), key=lambda row: row[1])]
    (HERE / "tiktoken.model").write_text("".join(lines))
    added = {str(tk.token_to_id(t)): {"content": t, "special": t in SPECIAL, "lstrip": False, "rstrip": False, "single_word": False,
                                      "normalized": False} for t in SPECIAL + VISIBLE}
    (HERE / "tiktoken_config.json").write_text(json.dumps({"added_tokens_decoder": added, "tokenizer_class": "ChatGLM4Tokenizer"}))

    texts = TEXTS + random_texts(rng, 150)
    enc = tiktoken.Encoding("t", pat_str=SPLIT, mergeable_ranks=ranks,
                            special_tokens={t: tk.token_to_id(t) for t in SPECIAL + VISIBLE})
    encode = [{"text": t, "ids": tk.encode(t, add_special_tokens=False).ids,
               "tiktoken": enc.encode(t, allowed_special="all"), "plain": enc.encode(t, disallowed_special=())} for t in texts]
    n = tk.get_vocab_size()
    lists = [[rng.randrange(n + 3) for _ in range(rng.randint(1, 12))] for _ in range(120)]
    lists += [[rng.randrange(base) for _ in range(rng.randint(1, 12))] for _ in range(60)]
    decode = [{"ids": ids, "text": tk.decode(ids, skip_special_tokens=False),
               "skipped": tk.decode(ids, skip_special_tokens=True)} for ids in lists]
    return {"prefix": [tk.token_to_id(t) for t in prefix], "encode": encode, "decode": decode}


def make_spm(rng, name, **options):
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()), model_writer=buffer, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1,
        minloglevel=2, **options)
    (HERE / f"{name}.model").write_bytes(buffer.getvalue())
    sp = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    texts = TEXTS + random_texts(rng, 150) + ["<sep>a<sep> b", "ﬁne ﬀ Ａ", "lead   and trail  "]
    lists = [[rng.randrange(3, sp.get_piece_size()) for _ in range(rng.randint(1, 12))] for _ in range(150)]
    if options.get("byte_fallback"):  # runs of bytes, valid and not
        lists += [[rng.randrange(3, 259) for _ in range(rng.randint(1, 8))] for _ in range(100)]
        lists += [sp.encode(t) for t in ("🦙 é", "한국")]
    return {"encode": [{"text": t, "ids": sp.encode(t)} for t in texts],
            "decode": [{"ids": ids, "text": sp.decode(ids)} for ids in lists]}


def main():
    HERE.mkdir(exist_ok=True)
    rng = random.Random(20260101)
    rules = HERE / "rules.tsv"  # what the charsmap of the unigram model is compiled from: a ligature, full width, e + accent
    rules.write_text("FB01\t66 69\nFB00\t66 66\nFF21\t41\n65 301\tE9\n3000\t20\nA0\t20\n")
    cases = {
        "bpe": make_bpe(rng),
        # as ChatGLM2 and ChatGLM3 ship it
        "spm_bpe": make_spm(rng, "spm_bpe", vocab_size=470, model_type="bpe", byte_fallback=True, character_coverage=0.98,
                            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True),
        "spm_unigram": make_spm(rng, "spm_unigram", vocab_size=230, model_type="unigram", normalization_rule_tsv=str(rules),
                                user_defined_symbols=["<sep>"], hard_vocab_limit=False),
        "spm_suffix": make_spm(rng, "spm_suffix", vocab_size=240, model_type="bpe", treat_whitespace_as_suffix=True,
                               normalization_rule_name="identity", user_defined_symbols=["<sep>", "number"], character_coverage=0.98),
    }
    rules.unlink()
    for name, case in cases.items():
        (HERE / f"{name}.json").write_text(json.dumps(case, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
