//! A smaller model of the same vocabulary that guesses: it says token after token what it would go on with (Leviathan et al. 2023,
//! arXiv:2211.17192).
//!
//! What it says is drawn by a clone of the request's sampler: with the same penalties and the same random number that the sampler will use
//! for that token. So it says what the request would be answered if the small model were the large one, greedy or sampled.
//!
//! It has a KV cache of its own, with blocks of its own, and keeps those of equal beginnings as the engine does. For a sequence that it
//! guesses at, it first computes what it has not seen, in portions, beside the steps of the engine; what it knows of wrong guesses is
//! written over.

use std::collections::{HashMap, HashSet};

use glm_kernels::{Device, KernelError, KvDType, Tensor};

use super::{Context, Draft, Drafter};
use crate::forward::ForwardBatch;
use crate::kv::{Allocated, BLOCK_SIZE, BlockAllocator, BlockId, KvPool, blocks_for};
use crate::models::CausalLm;
use crate::sampling::SequenceSampler;
use crate::scheduler::{ChunkTokens, SeqId};

/// The model and what it knows of the sequences.
pub(crate) struct DraftModel {
    model: Box<dyn CausalLm>,
    kv: KvPool,
    blocks: BlockAllocator,
    sequences: HashMap<SeqId, Known>,
    /// Most tokens of texts that it has not seen in one pass.
    max_num_prefill_tokens: usize,
}

/// What is computed of a sequence.
#[derive(Debug)]
struct Known {
    block_table: Vec<BlockId>,
    /// Its first tokens, so many.
    num_computed: usize,
    /// Behind them what was guessed, some of which may be wrong.
    guessed: Vec<u32>,
}

impl Known {
    /// Takes note of what became of the guesses. The last token is never known: its logits are wanted.
    fn keep_up(&mut self, context: &Context<'_>, blocks: &mut BlockAllocator) {
        let all_but_last = context.tokens.len() - 1;
        let known = self.num_computed.min(all_but_last);
        let answer = context.tokens[known..all_but_last].iter();
        let right = answer.zip(&self.guessed);
        let right = right.take_while(|(token, guess)| token == guess).count();
        self.computed(known + right, context, blocks);
        self.guessed.clear();
    }

    /// Notes that the tokens up to `end` are computed, and lets others share the blocks that became full.
    fn computed(&mut self, end: usize, context: &Context<'_>, blocks: &mut BlockAllocator) {
        let full = self.num_computed / BLOCK_SIZE..end / BLOCK_SIZE;
        self.num_computed = end;
        let Some(salt) = context.cache else { return };
        for at in full {
            let tokens = &context.tokens[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE];
            if let Some(prefix) = blocks.prefix(&self.block_table, at, tokens, salt) {
                blocks.share(&mut self.block_table, at, prefix);
            }
        }
    }
}

/// Consecutive tokens to compute.
struct Piece<'a> {
    seq: SeqId,
    start: usize,
    tokens: &'a [u32],
    /// Whether the token behind them is wanted.
    samples: bool,
}

/// A sequence that is being guessed at.
struct Guess<'a> {
    /// Its place among those that are open.
    at: usize,
    context: &'a Context<'a>,
    sampler: SequenceSampler,
    draft: Vec<u32>,
    ended: bool,
}

impl Guess<'_> {
    fn goes_on(&self) -> bool {
        !self.ended && self.draft.len() < self.context.max_len
    }

    /// Whose, and the last token of the draft with its position; there is one.
    fn last_said(&self) -> (SeqId, usize, u32) {
        let last = self.draft.len() - 1;
        let position = self.context.tokens.len() + last;
        (self.context.seq, position, self.draft[last])
    }

    /// The next token from its logits, `[V]`. A model that says nothing sensible says no more.
    fn draw(&mut self, logits: &mut [f32]) {
        match self.sampler.choose(logits, None) {
            Ok(id) => self.draft.push(id),
            Err(_) => self.ended = true,
        }
    }
}

impl DraftModel {
    /// A model with room for the keys and values of `num_blocks` blocks; it computes at most `max_num_prefill_tokens` tokens that
    /// it has not seen in one pass.
    ///
    /// # Errors
    /// [`KernelError`] if the device cannot allocate it.
    pub(crate) fn new(
        device: &Device,
        model: Box<dyn CausalLm>,
        kv_dtype: KvDType,
        num_blocks: usize,
        max_num_prefill_tokens: usize,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            kv: KvPool::new(device, model.config(), kv_dtype, num_blocks)?,
            blocks: BlockAllocator::new(num_blocks as u32),
            sequences: HashMap::new(),
            max_num_prefill_tokens,
            model,
        })
    }

    fn drop_all_but(&mut self, open: &[Context<'_>]) {
        let open: HashSet<SeqId> = open.iter().map(|context| context.seq).collect();
        let gone = self.sequences.keys().filter(|seq| !open.contains(seq));
        let gone: Vec<SeqId> = gone.copied().collect();
        gone.into_iter().for_each(|seq| self.forget(seq));
    }

    /// Takes the blocks that a sequence needs with its guesses; false if they are not there, or it is longer than what the model was
    /// made for.
    fn reserve(&mut self, context: &Context<'_>) -> bool {
        let len = context.tokens.len() + context.max_len;
        if len > self.model.config().max_context() {
            return false;
        }
        let Some(known) = self.sequences.get_mut(&context.seq) else {
            return self.start(context, len);
        };
        let missing = blocks_for(len).saturating_sub(known.block_table.len());
        let fresh = self.blocks.allocate(missing);
        known.block_table.extend(fresh.iter().flatten());
        fresh.is_some()
    }

    /// Takes the blocks for the first `len` tokens of a sequence that is new here, the first of which may hold what it begins with.
    fn start(&mut self, context: &Context<'_>, len: usize) -> bool {
        let shared = context
            .cache
            .and_then(|salt| self.blocks.allocate_for(context.tokens, salt));
        let Allocated {
            mut block_table,
            num_cached_tokens,
        } = shared.unwrap_or_else(|| Allocated::fresh(Vec::new()));
        let Some(fresh) = self.blocks.allocate(blocks_for(len) - block_table.len()) else {
            self.blocks.release(block_table);
            return false;
        };
        block_table.extend(fresh);
        let known = Known {
            block_table,
            num_computed: num_cached_tokens,
            guessed: Vec::new(),
        };
        self.sequences.insert(context.seq, known);
        true
    }

    /// What has not been computed of those that are guessed at, as far as one pass takes it.
    fn unseen<'a>(&mut self, open: &'a [Context<'a>]) -> Vec<(usize, Piece<'a>)> {
        let mut budget = self.max_num_prefill_tokens;
        let mut pieces = Vec::new();
        for (at, context) in open.iter().enumerate() {
            if context.max_len == 0 || budget == 0 || !self.reserve(context) {
                continue;
            }
            let Some(known) = self.sequences.get_mut(&context.seq) else {
                continue;
            };
            known.keep_up(context, &mut self.blocks);
            let unseen = &context.tokens[known.num_computed..];
            let tokens = &unseen[..unseen.len().min(budget)];
            budget -= tokens.len();
            let piece = Piece {
                seq: context.seq,
                start: known.num_computed,
                tokens,
                samples: tokens.len() == unseen.len(),
            };
            pieces.push((at, piece));
        }
        pieces
    }

    /// Logits of those pieces that sample, `[R, V]`; `None` if there are none.
    fn forward<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a Piece<'a>> + Clone,
    ) -> Result<Option<Tensor>, KernelError> {
        let sequences = &self.sequences;
        let batch = ForwardBatch::new(pieces.map(|piece| ChunkTokens {
            start: piece.start,
            tokens: piece.tokens,
            draft: &[],
            prompt_len: piece.start + piece.tokens.len(),
            block_table: &sequences[&piece.seq].block_table,
            samples: piece.samples,
        }));
        if batch.logit_rows.is_empty() {
            self.model
                .hidden_states(&batch, &mut self.kv, &mut |_| {})?;
            return Ok(None);
        }
        self.model.forward(&batch, &mut self.kv).map(Some)
    }

    /// Hands each guess that goes on its row of logits.
    fn draw<'g, 'a: 'g>(
        &self,
        logits: Option<Tensor>,
        guesses: impl Iterator<Item = &'g mut Guess<'a>>,
    ) -> Result<(), KernelError> {
        if let Some(logits) = logits {
            let mut logits = logits.into_host()?;
            let rows = logits.as_f32_mut()?;
            let rows = rows.chunks_exact_mut(self.model.config().vocab_size);
            guesses.zip(rows).for_each(|(guess, row)| guess.draw(row));
        }
        Ok(())
    }

    /// Computes what was not seen and says the first token of those that this completes.
    fn begin<'a>(&mut self, open: &'a [Context<'a>]) -> Result<Vec<Guess<'a>>, KernelError> {
        let pieces = self.unseen(open);
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.forward(pieces.iter().map(|(_, piece)| piece))?;
        for (at, piece) in &pieces {
            if let Some(known) = self.sequences.get_mut(&piece.seq) {
                let end = piece.start + piece.tokens.len();
                known.computed(end, &open[*at], &mut self.blocks);
            }
        }
        let complete = pieces.iter().filter(|(_, piece)| piece.samples);
        let guess = |&(at, _): &(usize, _)| Guess {
            at,
            context: &open[at],
            sampler: open[at].sampler.clone(),
            draft: Vec::new(),
            ended: false,
        };
        let mut guesses: Vec<Guess<'a>> = complete.map(guess).collect();
        self.draw(logits, guesses.iter_mut())?;
        Ok(guesses)
    }

    /// Says one more token of each guess that goes on; false if none does.
    fn go_on(&mut self, guesses: &mut [Guess<'_>]) -> Result<bool, KernelError> {
        let open = guesses.iter().filter(|guess| guess.goes_on());
        let said: Vec<(SeqId, usize, u32)> = open.map(Guess::last_said).collect();
        if said.is_empty() {
            return Ok(false);
        }
        let piece = said.iter().map(|(seq, start, token)| Piece {
            seq: *seq,
            start: *start,
            tokens: std::slice::from_ref(token),
            samples: true,
        });
        let pieces: Vec<Piece<'_>> = piece.collect();
        let logits = self.forward(pieces.iter())?;
        let open = guesses.iter_mut().filter(|guess| guess.goes_on());
        self.draw(logits, open)?;
        Ok(true)
    }

    fn guess(&mut self, open: &[Context<'_>]) -> Result<Vec<Draft>, KernelError> {
        let mut drafts = vec![Draft::default(); open.len()];
        let mut guesses = self.begin(open)?;
        while self.go_on(&mut guesses)? {}
        for guess in guesses {
            if let Some(known) = self.sequences.get_mut(&guess.context.seq) {
                let computed = guess.draft.len().saturating_sub(1);
                known.guessed.extend(&guess.draft[..computed]);
            }
            drafts[guess.at].tokens = guess.draft;
        }
        Ok(drafts)
    }
}

impl Drafter for DraftModel {
    fn draft(&mut self, open: &[Context<'_>]) -> Result<Vec<Draft>, KernelError> {
        self.drop_all_but(open);
        let drafts = self.guess(open);
        if drafts.is_err() {
            self.drop_all_but(&[]);
        }
        debug_assert!(self.blocks.is_consistent());
        drafts
    }

    fn forget(&mut self, seq: SeqId) {
        if let Some(known) = self.sequences.remove(&seq) {
            self.blocks.release(known.block_table);
        }
    }

    fn holds_nothing(&self) -> bool {
        self.sequences.is_empty() && self.blocks.num_free() == self.blocks.num_blocks()
    }
}
