//! A model that computes nothing, to test a program without weights (feature `testing`).
//!
//! Everything else is real: tokenizer and chat template, scheduler, KV blocks, prefix cache, preemption, streams, statistics. The
//! model even finds the tokens it answers to in the KV cache, so that a block in the wrong place gives a wrong answer.
//!
//! ```
//! use glm_runtime::{ChatOptions, Engine, Message, testing::FakeModel};
//!
//! let weather = FakeModel::replying(|prompt| match prompt.contains("Beijing") {
//!     true => "Sunny.".to_owned(),
//!     false => "I do not know.".to_owned(),
//! });
//! let engine = Engine::builder("demo").fake(weather).build()?;
//! let answer = engine.chat([Message::user("Weather in Beijing?")], ChatOptions::default())?;
//! assert_eq!(answer.wait()?.text, "Sunny.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;
use std::time::Duration;

use glm_core::tokenizer::SpecialTokens;
use glm_core::{DenseConfig, Tokenizer};
use glm_kernels::{Device, KernelError, Tensor};

use crate::forward::ForwardBatch;
use crate::kv::{BLOCK_SIZE, KvPool};
use crate::lora::AdapterRows;
use crate::models::CausalLm;

type NextToken = dyn Fn(&[u32], &[u32]) -> u32 + Send + Sync;
type Reply = dyn Fn(&str) -> String + Send + Sync;
type Fails = dyn Fn(&[u32]) -> bool + Send + Sync;

/// So much likelier than any other is the token of the script, whatever the temperature.
const CERTAIN: f32 = 1e4;

/// Takes the place of a model's weights: [`EngineBuilder::fake`](crate::EngineBuilder::fake).
///
/// Its answers depend on nothing but the tokens before, as those of a real model do. Sampling and constraints have their way:
/// a `logit_bias` or a grammar that forbids the scripted token leads to another one.
#[derive(Clone)]
#[must_use]
pub struct FakeModel {
    script: Script,
    fails: Option<Arc<Fails>>,
    step_time: Duration,
}

#[derive(Clone)]
enum Script {
    NextToken(Arc<NextToken>),
    Reply(Arc<Reply>),
}

impl std::fmt::Debug for FakeModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeModel")
            .field("step_time", &self.step_time)
            .finish_non_exhaustive()
    }
}

impl FakeModel {
    /// Answers a prompt, given as text with its special tokens, with this text and the end-of-sequence token. Special tokens in
    /// the reply are recognised. `reply` is called for every token, so it must always say the same.
    pub fn replying(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::new(Script::Reply(Arc::new(reply)))
    }

    /// The next token id, given those of the prompt and those of the answer so far. Ids are taken modulo the vocabulary's size.
    pub fn next_token(next: impl Fn(&[u32], &[u32]) -> u32 + Send + Sync + 'static) -> Self {
        Self::new(Script::NextToken(Arc::new(next)))
    }

    fn new(script: Script) -> Self {
        Self {
            script,
            fails: None,
            step_time: Duration::ZERO,
        }
    }

    /// Fails every step in which this is true of the token ids of a sequence, prompt and answer together: all requests in it end
    /// with [`EngineError::Kernel`](crate::EngineError::Kernel), as when a device has no memory left.
    pub fn failing(mut self, fails: impl Fn(&[u32]) -> bool + Send + Sync + 'static) -> Self {
        self.fails = Some(Arc::new(fails));
        self
    }

    /// Lets every step take this long.
    pub fn step_time(mut self, step_time: Duration) -> Self {
        self.step_time = step_time;
        self
    }

    /// What the engine needs to know of a model that has only room for token ids in its KV cache.
    pub(crate) fn config(of: &DenseConfig) -> DenseConfig {
        DenseConfig {
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 8,
            hidden_size: 1,
            intermediate_size: 1,
            ..of.clone()
        }
    }

    /// The model for an engine. `eos` ends a reply.
    pub(crate) fn model(
        &self,
        config: DenseConfig,
        device: &Device,
        tokenizer: Option<Tokenizer>,
        eos: Option<u32>,
    ) -> Box<dyn CausalLm> {
        Box::new(Scripted {
            fake: self.clone(),
            config,
            device: device.clone(),
            tokenizer,
            eos: eos.unwrap_or(0),
        })
    }
}

struct Scripted {
    fake: FakeModel,
    config: DenseConfig,
    device: Device,
    tokenizer: Option<Tokenizer>,
    eos: u32,
}

impl Scripted {
    fn next(&self, tokens: &[u32], prompt_len: usize) -> Result<u32, KernelError> {
        if self.fake.fails.as_ref().is_some_and(|fails| fails(tokens)) {
            return Err(KernelError::OutOfMemory { bytes: usize::MAX });
        }
        let (prompt, answer) = tokens.split_at(prompt_len);
        let next = match &self.fake.script {
            Script::NextToken(next) => next(prompt, answer),
            Script::Reply(reply) => self.reply(&**reply, prompt, answer.len()),
        };
        Ok(next % self.config.vocab_size.max(1) as u32)
    }

    /// Token `index` of the reply.
    fn reply(&self, reply: &Reply, prompt: &[u32], index: usize) -> u32 {
        let Some(tokenizer) = &self.tokenizer else {
            return self.eos;
        };
        let text = reply(&tokenizer.decode(prompt, false));
        let ids = tokenizer.encode(&text, SpecialTokens::Parse);
        let id = ids.ok().and_then(|ids| ids.get(index).copied());
        id.unwrap_or(self.eos)
    }
}

impl CausalLm for Scripted {
    fn config(&self) -> &DenseConfig {
        &self.config
    }

    /// `[T, 1]`: the next token after each.
    fn hidden_states(
        &self,
        batch: &ForwardBatch,
        kv: &mut KvPool,
        _each: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor, KernelError> {
        std::thread::sleep(self.fake.step_time);
        write_ids(batch, kv)?;
        let mut next = Vec::with_capacity(batch.token_ids.len());
        for (seq, rows) in batch.attn.query_start.windows(2).enumerate() {
            let rows = rows[0] as usize..rows[1] as usize;
            let context = batch.attn.context_lens[seq] as usize;
            let table = &batch.attn.block_tables[seq * batch.attn.max_blocks_per_seq..];
            let ids = read_ids(kv, table, context)?;
            let prompt_len = batch.prompt_lens[seq] as usize;
            for len in context - rows.len() + 1..=context {
                // Nobody asks what follows an unfinished prompt.
                let whole = len >= prompt_len;
                next.push(if whole {
                    self.next(&ids[..len], prompt_len)?
                } else {
                    0
                } as f32);
            }
        }
        Tensor::from_f32(&self.device, &next, &[next.len(), 1])
    }

    fn logits(&self, x: &Tensor, _adapters: &[AdapterRows]) -> Result<Tensor, KernelError> {
        let (next, vocab) = (x.as_f32()?, self.config.vocab_size);
        let mut logits = vec![0.0; next.len() * vocab];
        for (row, &id) in logits.chunks_exact_mut(vocab).zip(next) {
            row[id as usize] = CERTAIN;
        }
        Tensor::from_f32(&self.device, &logits, &[next.len(), vocab])
    }
}

/// Puts the batch's token ids where a model would put their keys and values: the bytes of a block hold its ids.
fn write_ids(batch: &ForwardBatch, kv: &mut KvPool) -> Result<(), KernelError> {
    for layer in kv.layers_mut() {
        let mut bytes = vec![0; layer.block_bytes()];
        for (&slot, &id) in batch.slot_mapping.iter().zip(&*batch.token_ids) {
            let (block, at) = (slot as usize / BLOCK_SIZE, slot as usize % BLOCK_SIZE);
            layer.read_block(block, &mut bytes)?;
            bytes[4 * at..4 * at + 4].copy_from_slice(&id.to_ne_bytes());
            layer.write_block(block, &bytes)?;
        }
    }
    Ok(())
}

/// The first `len` token ids of the sequence whose blocks these are.
fn read_ids(kv: &mut KvPool, table: &[u32], len: usize) -> Result<Vec<u32>, KernelError> {
    let mut ids = Vec::with_capacity(len + BLOCK_SIZE);
    for layer in kv.layers_mut() {
        let mut bytes = vec![0; layer.block_bytes()];
        for &block in &table[..len.div_ceil(BLOCK_SIZE)] {
            layer.read_block(block as usize, &mut bytes)?;
            let words = bytes.chunks_exact(4).take(BLOCK_SIZE);
            ids.extend(words.map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])));
        }
    }
    ids.truncate(len);
    Ok(ids)
}
