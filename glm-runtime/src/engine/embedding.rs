//! Texts to vectors: the mean of a model's final hidden states. A job like scoring: through the paged cache in chunks, between the
//! steps of running requests.

use glm_kernels::KernelError;

use super::Engine;
use super::handle::Job;
use super::prompt::Look;
use crate::error::EngineError;
use crate::forward::ForwardBatch;
use crate::sync::channel::Sender;

type Embedding = Result<Vec<f32>, EngineError>;

/// One text on its way to its embedding.
pub(super) struct EmbedJob {
    ids: Vec<u32>,
    adapter: Option<String>,
    look: Option<Look>,
    /// `[hidden_size]`: the hidden states so far, added token after token, so that chunks make no difference.
    sum: Vec<f64>,
    reply: Sender<Embedding>,
}

impl EmbedJob {
    pub(super) fn new(ids: &[u32], adapter: Option<&str>, reply: Sender<Embedding>) -> Self {
        Self {
            ids: ids.to_vec(),
            adapter: adapter.map(str::to_owned),
            look: None,
            sum: Vec::new(),
            reply,
        }
    }

    /// At most `step` more tokens; true when that was all.
    fn chunk(&mut self, engine: &mut Engine, step: usize) -> Result<bool, EngineError> {
        let mut look = match self.look.take() {
            Some(look) => look,
            None => engine.begin_look(&self.ids, self.adapter.as_deref())?,
        };
        let batch = look.next_chunk(&self.ids, step);
        let added = engine.add_hidden_states(&batch, &mut self.sum);
        let done = look.end() == self.ids.len();
        if done || added.is_err() {
            engine.end_look(look);
        } else {
            self.look = Some(look);
        }
        added?;
        Ok(done)
    }

    fn mean(&self) -> Result<Vec<f32>, EngineError> {
        let count = self.ids.len() as f64;
        let mean: Vec<f32> = self.sum.iter().map(|sum| (sum / count) as f32).collect();
        match mean.iter().all(|value| value.is_finite()) {
            true => Ok(mean),
            false => Err(EngineError::NotFinite),
        }
    }
}

impl Job for EmbedJob {
    fn needs(&self) -> usize {
        match self.look {
            Some(_) => 0,
            None => self.ids.len(),
        }
    }

    fn advance(&mut self, engine: &mut Engine, step: usize) -> bool {
        // Nobody waits for it any more.
        if self.reply.is_closed() {
            if let Some(look) = self.look.take() {
                engine.end_look(look);
            }
            return true;
        }
        let embedding = match self.chunk(engine, step) {
            Ok(false) => return false,
            Ok(true) => self.mean(),
            Err(error) => Err(error),
        };
        let _ = self.reply.try_send(embedding);
        true
    }
}

impl Engine {
    /// Adds the final hidden states of a batch to `sum`, `[hidden_size]` or empty.
    fn add_hidden_states(
        &mut self,
        batch: &ForwardBatch,
        sum: &mut Vec<f64>,
    ) -> Result<(), KernelError> {
        let x = self.model.hidden_states(batch, &mut self.kv, &mut |_| {})?; // [T, C]
        let hidden_size = self.model.config().hidden_size;
        sum.resize(hidden_size, 0.0);
        for row in x.to_f32_vec()?.chunks_exact(hidden_size) {
            sum.iter_mut()
                .zip(row)
                .for_each(|(sum, value)| *sum += f64::from(*value));
        }
        Ok(())
    }
}
