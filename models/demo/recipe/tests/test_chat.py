"""The chat format and the tokenizer; slower than the generator's tests, since a small tokenizer is trained."""

import unittest
from unittest import mock

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from .. import chat, mix, tokenizer
from ..data import Encoder
from ..dialogue import Conversation, Message
from ..tokenizer import pre_split
from ..train import NO_TOKEN, with_places


def jinja(conversation):
    (rendered,), _ = render_jinja_template(
        [[message.as_dict() for message in conversation.messages[:-1]]], tools=conversation.tools or None,
        chat_template=chat.TEMPLATE,
        add_generation_prompt=True, enable_thinking=conversation.thinking)
    return rendered


class Format(unittest.TestCase):
    def test_the_prompt_is_what_the_template_renders(self):
        for index in range(300):
            conversation = mix.training(7, index)
            self.assertEqual(chat.prompt(conversation), jinja(conversation))

    def test_what_is_written_can_be_taken_apart(self):
        for index in range(300):
            conversation = mix.training(8, index)
            last, answer = conversation.messages[-1], chat.parse(chat.completion(conversation), conversation.thinking)
            self.assertEqual((answer.text, answer.call), (last.content, last.metadata))
            self.assertEqual(answer.thought, last.thought if conversation.thinking else None)

    def test_history_keeps_no_thoughts(self):
        conversation = Conversation("", [Message("user", "a"), Message("assistant", "<think>b</think>\nc"),
                                         Message("user", "d"), Message("assistant", "e")], [])
        self.assertEqual(jinja(conversation), "[gMASK]<sop><|user|>\na<|assistant|>\nc<|user|>\nd<|assistant|>")


    def test_a_tool_call_in_the_words_of_openai_is_the_same_prompt(self):
        own = [{"role": "user", "content": "a"}, {"role": "assistant", "content": '{"é": 1}', "metadata": "f"},
               {"role": "observation", "content": "b"}]
        call = {"type": "function", "function": {"name": "f", "arguments": {"é": 1}}}
        openai = [own[0], {"role": "assistant", "content": None, "tool_calls": [call]},
                  {"role": "tool", "content": "b"}]
        rendered, _ = render_jinja_template([own, openai], chat_template=chat.TEMPLATE, add_generation_prompt=True)
        self.assertEqual(rendered[0], '[gMASK]<sop><|user|>\na<|assistant|>f\n{"é": 1}<|observation|>\nb<|assistant|>')
        self.assertEqual(rendered[1], rendered[0])


class Tokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with mock.patch.object(tokenizer, "NUM_CONVERSATIONS", 1500), mock.patch.object(tokenizer, "VOCAB_SIZE", 1600):
            cls.tokenizer = tokenizer.train()

    def test_the_published_pre_split_gives_the_tokens_of_the_finer_one(self):
        finer = Tokenizer.from_str(self.tokenizer.to_str())
        finer.pre_tokenizer = pre_split(r"\p{N}", r"\p{Han}")
        for index in range(300):
            text = chat.prompt(mix.training(9, index))
            self.assertEqual(self.tokenizer.encode(text).ids, finer.encode(text).ids)

    def test_digits_and_characters_are_tokens_of_their_own(self):
        self.assertEqual(self.tokenizer.encode("1234 你好", add_special_tokens=False).tokens[:4], list("1234"))
        self.assertEqual(len(self.tokenizer.encode("你好", add_special_tokens=False).ids), 2)

    def test_targets_are_what_the_model_writes(self):
        encoder = Encoder(self.tokenizer)
        for index in range(200):
            conversation = mix.training(10, index)
            head, written = (self.tokenizer.encode(text,
                                                   add_special_tokens=False).ids for text in (chat.prompt(conversation),
                                                       chat.completion(conversation)))
            targets = encoder.targets(head + written)
            self.assertTrue(targets[len(head):].all())
            self.assertFalse(targets[len(head) - 1])
            if len(conversation.messages) == 2:
                self.assertFalse(targets[:len(head)].any())

    def test_the_loss_is_taken_where_the_next_token_is_a_target(self):
        encoder = Encoder(self.tokenizer)
        ids, targets = encoder.batches(0, 0, 1024)[0]
        _, places, wanted = with_places(ids, targets)
        real = wanted != NO_TOKEN
        self.assertEqual(ids.flatten()[places[real] + 1].tolist(), wanted[real].tolist())
        self.assertEqual(int(real.sum()), int(targets.sum()))


if __name__ == "__main__":
    unittest.main()
