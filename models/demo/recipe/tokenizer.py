"""The tokenizer: a byte-level BPE trained on the dialogues, with GLM's special tokens behind the pieces.

The pre-split stored is the published one of GLM-4. In training digits and Chinese characters are split one by one, so
that no piece spans two of them: the same text then gives the same tokens under either rule, and sums, names and codes
are copied character by character.

    python -m recipe.tokenizer          # work/tokenizer/
"""

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from . import mix
from .chat import TEMPLATE, completion, prompt

WORK = Path(__file__).with_name("work")
VOCAB_SIZE = 4096
NUM_CONVERSATIONS = 30_000
SEED = 0

PRE_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# In the order of the published vocabularies: offset 0 is <|endoftext|>, 7 <|user|>, 9 <|observation|>.
SPECIAL = ("<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> "
           "<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>").split()
# Added, but left visible when special tokens are skipped.
VISIBLE = "<think> </think>".split()
STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")


def pre_split(*finer):
    """The published pre-split, cut further at every match of `finer`."""
    return pre_tokenizers.Sequence([
        *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in (PRE_SPLIT, *finer)),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def training_text():
    """The dialogues without their special tokens, one piece of text each."""
    for index in range(NUM_CONVERSATIONS):
        conversation = mix.training(SEED, index)
        text = prompt(conversation) + completion(conversation)
        for token in SPECIAL + VISIBLE:
            text = text.replace(token, "\0")
        yield from filter(None, text.split("\0"))


def train():
    """The tokenizer; the same one every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_split(r"\p{N}", r"\p{Han}")
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(VISIBLE), show_progress=False, max_token_length=16,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.pre_tokenizer = pre_split()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in VISIBLE])
    prefix = [(token, tokenizer.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="[gMASK] <sop> $A", pair="[gMASK] <sop> $A $B:1", special_tokens=prefix)])
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer


def tokenizer_config(tokenizer, max_length):
    """tokenizer_config.json, as transformers writes it."""
    added = {str(tokenizer.token_to_id(token)): dict(content=token, lstrip=False, normalized=False, rstrip=False,
                                                     single_word=False,
                                                     special=token in SPECIAL) for token in SPECIAL + VISIBLE}
    return dict(added_tokens_decoder=added, additional_special_tokens=SPECIAL, clean_up_tokenization_spaces=False,
                do_lower_case=False,
                eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=max_length, padding_side="left",
                remove_space=False, tokenizer_class="PreTrainedTokenizerFast")


def stop_ids(tokenizer):
    """Where an answer ends: end of text, the user's turn, a tool's turn."""
    return [tokenizer.token_to_id(token) for token in STOPS]


def load(folder):
    """The tokenizer in a folder, trained first if it is not there."""
    path = Path(folder) / "tokenizer.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train().save(str(path), pretty=False)
    return Tokenizer.from_file(str(path))


def write(tokenizer, folder, max_length):
    """tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = json.dumps(tokenizer_config(tokenizer, max_length), ensure_ascii=False, indent=1)
    (folder / "tokenizer_config.json").write_text(config + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    folder = parser.parse_args().work / "tokenizer"
    print(folder, load(folder).get_vocab_size())
