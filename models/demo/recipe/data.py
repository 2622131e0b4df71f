"""Conversations to batches of token ids.

A shard is a fixed number of training conversations, sorted by length and cut into batches of about the same number of
tokens; so there is little padding, and no conversation sees another. Shard and batch depend on the seed alone, which is
what lets a run be killed and continued.
"""

import numpy as np
import torch

from . import mix
from .chat import completion, prompt
from .phrases import seeded

SHARD = 4096
MAX_LENGTH = 1024


class Encoder:
    """Conversations to ids, and which of them are to be learnt."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        token = tokenizer.token_to_id
        self.assistant, self.think, self.pad = token("<|assistant|>"), token("<think>"), token("<|endoftext|>")
        self.ends = {token("<|user|>"), token("<|observation|>"), self.assistant}

    def targets(self, ids):
        """True for what the model writes, its last token included; the template's own `↵<think>` is not written."""
        targets = np.zeros(len(ids), bool)
        writing = False
        for at, token in enumerate(ids):
            targets[at] = writing
            writing = token == self.assistant or writing and token not in self.ends
        for at in [at for at, token in enumerate(ids) if token == self.think]:
            targets[at - 1:at + 1] = False
        return targets

    def shard(self, seed, index):
        """`(ids, targets)` of every conversation of a shard that is not too long."""
        conversations = [mix.training(seed, index * SHARD + at) for at in range(SHARD)]
        texts = [prompt(conversation) + completion(conversation) for conversation in conversations]
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [(encoding.ids, self.targets(encoding.ids)) for encoding in encoded if len(encoding.ids) <= MAX_LENGTH]

    def batches(self, seed, index, batch_tokens):
        """The batches of a shard, in a random order."""
        rows = sorted(self.shard(seed, index), key=lambda row: len(row[0]))
        batches, batch = [], []
        for at, row in enumerate(rows):
            batch.append(row)
            following = rows[at + 1] if at + 1 < len(rows) else row
            if (len(batch) + 1) * padded(len(following[0])) > batch_tokens:
                batches.append(batch)
                batch = []
        batches += [batch] if batch else []
        seeded("order", seed, index).shuffle(batches)
        return [self.tensors(batch, batch_tokens) for batch in batches]

    def tensors(self, rows, batch_tokens):
        """`(ids [B, T], targets [B, T])`, padded on the right, where causal attention never looks, and with empty rows.

        T depends on a rounded length and B on T: for every new shape, kernels would be generated again.
        """
        longest = padded(max(len(ids) for ids, _ in rows))
        shape = (max(len(rows), batch_tokens // longest), longest)
        ids = torch.full(shape, self.pad, dtype=torch.long)
        targets = torch.zeros(shape, dtype=torch.bool)
        for at, (row, target) in enumerate(rows):
            ids[at, :len(row)] = torch.tensor(row)
            targets[at, :len(row)] = torch.from_numpy(target)
        return ids, targets


def padded(length):
    """A length rounded up by at most a sixteenth, or 7."""
    unit = max(8, 1 << (length.bit_length() - 4))
    return -(-length // unit) * unit
