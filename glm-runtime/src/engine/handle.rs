//! [`EngineHandle`]: what the rest of a program holds of an engine that runs on its own thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use glm_core::chat::{ChatRequest, Message};
use glm_core::tokenizer::SpecialTokens;
use glm_core::{ChatFormat, Tokenizer};

use super::embedding::EmbedJob;
use super::limits::Limits;
use super::pending::{Pending, PendingEmbedding};
use super::prompt::{PromptLogprob, Scoring, check_top};
use super::stats::EngineStats;
use super::stream::RequestStream;
use super::{Engine, ModelInfo};
use crate::error::EngineError;
use crate::guide::{EndRules, Grammar, Guide, GuideFactory, ThoughtLimit};
use crate::kv::file::{PrefixCacheError, SavedPrefixCache};
use crate::lora::{AdapterError, AdapterInfo, AdapterRegistry, UnknownAdapter};
use crate::profile::Profiler;
use crate::request::{ChatOptions, Event, GenerateOptions, Prompt, Request, RequestId};
use crate::sampling::SamplingParams;
use crate::sync::channel::{self, Receiver, Sender};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering};

/// Work between two steps, a part at a time; `true` when it is done and who asked has been told.
pub(super) trait Job: Send {
    /// The tokens it needs blocks for before it begins.
    fn needs(&self) -> usize;
    /// Works on at most `step` tokens.
    fn advance(&mut self, engine: &mut Engine, step: usize) -> bool;
}

/// A message to the engine thread.
pub(super) enum Command {
    Submit {
        id: RequestId,
        request: Box<Request>,
        submitted: Instant,
        events: Sender<Event>,
    },
    Cancel(RequestId),
    /// Runs it as soon as there are enough free blocks.
    Work(Box<dyn Job>),
    Drain {
        reply: Sender<()>,
    },
    HandBack {
        reply: Sender<Vec<(RequestId, Request)>>,
    },
}

struct ScoreJob<T> {
    /// `None` when it is done.
    scoring: Option<Scoring<T>>,
    reply: Sender<Result<Vec<T>, EngineError>>,
}

impl<T: Send> Job for ScoreJob<T> {
    fn needs(&self) -> usize {
        let scoring = self.scoring.as_ref();
        let unbegun = scoring.filter(|scoring| !scoring.is_under_way());
        unbegun.map_or(0, |scoring| scoring.ids().len())
    }

    fn advance(&mut self, engine: &mut Engine, step: usize) -> bool {
        let Some(mut scoring) = self.scoring.take() else {
            return true;
        };
        // The caller may have given up waiting.
        if self.reply.is_closed() {
            scoring.abandon(engine);
            return true;
        }
        let scores = match scoring.advance(engine, step) {
            Ok(false) => {
                self.scoring = Some(scoring);
                return false;
            }
            Ok(true) => scoring.into_scores(),
            Err(error) => Err(error),
        };
        let _ = self.reply.try_send(scores);
        true
    }
}

struct SaveJob {
    path: PathBuf,
    reply: Sender<Result<SavedPrefixCache, PrefixCacheError>>,
}

impl Job for SaveJob {
    fn needs(&self) -> usize {
        0
    }

    fn advance(&mut self, engine: &mut Engine, _step: usize) -> bool {
        let _ = self.reply.try_send(engine.save_prefix_cache(&self.path));
        true
    }
}

/// What handle and engine thread share besides the channel.
pub(super) struct Shared {
    pub(super) stats: Mutex<EngineStats>,
    /// Set as soon as somebody asks to drain, so that callers hear at once; the engine thread decides.
    pub(super) draining: AtomicBool,
    pub(super) next_id: AtomicU64,
    pub(super) profiler: Arc<Profiler>,
}

impl Shared {
    /// The statistics. They are a plain snapshot, whole even if a thread panicked while it held the lock.
    pub(super) fn stats(&self) -> MutexGuard<'_, EngineStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a handle needs to know of the model to turn text into requests.
pub(super) struct Front {
    pub(super) info: ModelInfo,
    pub(super) limits: Limits,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) chat_format: Option<ChatFormat>,
    pub(super) default_sampling: SamplingParams,
    /// `None` without a tokenizer.
    pub(super) guides: Option<GuideFactory>,
    /// Ids that end every answer unless a request ignores them.
    pub(super) eos_token_ids: Vec<u32>,
    pub(super) adapters: AdapterRegistry,
}

impl Front {
    /// Refuses a grammar that cannot be used, and a limit on thoughts that cannot be kept.
    fn check_grammar(&self, options: &GenerateOptions) -> Result<(), EngineError> {
        if let Some(grammar) = &options.grammar {
            self.guides()?.check(grammar)?;
        }
        if options.max_thinking_tokens.is_some() {
            self.guides()?.thought_limit(&[], 0)?;
        }
        Ok(())
    }

    /// The limit on thoughts of a request that has one.
    pub(super) fn thought_limit(
        &self,
        request: &Request,
    ) -> Result<Option<Box<ThoughtLimit>>, EngineError> {
        let Some(max_tokens) = request.options.max_thinking_tokens else {
            return Ok(None);
        };
        let limit = self.guides()?.thought_limit(&request.prompt, max_tokens)?;
        Ok(Some(Box::new(limit)))
    }

    /// The guide of a request that asks for one, to end at `stop_token_ids`.
    pub(super) fn guide(
        &self,
        request: &Request,
        stop_token_ids: &[u32],
    ) -> Result<Option<Box<Guide>>, EngineError> {
        let options = &request.options;
        let Some(grammar) = &options.grammar else {
            return Ok(None);
        };
        let end = EndRules {
            stop_token_ids: stop_token_ids.to_vec(),
            min_tokens: options.min_tokens,
            ignore_eos: options.ignore_eos,
        };
        let guide = self.guides()?.guide(grammar, &request.prompt, end)?;
        Ok(Some(Box::new(guide)))
    }

    fn guides(&self) -> Result<&GuideFactory, EngineError> {
        self.guides
            .as_ref()
            .ok_or_else(|| EngineError::NoTokenizer {
                model: self.info.name.clone(),
            })
    }
}

/// A running engine. Clone it freely and use it from any thread; the engine ends when the last handle and the last
/// request are gone.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    front: Arc<Front>,
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle")
            .field("model", &self.front.info.name)
            .finish_non_exhaustive()
    }
}

impl EngineHandle {
    pub(super) fn new(commands: Sender<Command>, shared: Arc<Shared>, front: Arc<Front>) -> Self {
        Self {
            commands,
            shared,
            front,
        }
    }

    /// Answers a conversation: renders it with the checkpoint's chat template and streams the assistant's turn.
    ///
    /// # Errors
    /// [`EngineError::NoTokenizer`] for a model without one, [`EngineError::Template`] if the template refuses the
    /// messages, and whatever [`Self::submit`] returns.
    pub fn chat(
        &self,
        messages: impl IntoIterator<Item = Message>,
        options: ChatOptions,
    ) -> Result<RequestStream, EngineError> {
        let request = ChatRequest {
            messages: messages.into_iter().collect(),
            tools: options.tools,
            add_generation_prompt: true,
            enable_thinking: options.enable_thinking,
            kwargs: options.template_kwargs,
        };
        let prompt = self.chat_format()?.encode(self.tokenizer()?, &request)?;
        self.submit(Request {
            prompt,
            options: options.generate,
        })
    }

    /// Continues a prompt without a chat template.
    ///
    /// # Errors
    /// [`EngineError::NoTokenizer`] for text with a model without a tokenizer, and whatever [`Self::submit`] returns.
    pub fn generate(
        &self,
        prompt: impl Into<Prompt>,
        options: GenerateOptions,
    ) -> Result<RequestStream, EngineError> {
        let prompt = match prompt.into() {
            Prompt::TokenIds(ids) => ids,
            Prompt::Text(text) => self.encode(&text)?,
        };
        self.submit(Request { prompt, options })
    }

    /// Token ids of a raw prompt: special tokens are recognised, the tokenizer's prefix added unless it is there already.
    ///
    /// # Errors
    /// [`EngineError::NoTokenizer`] for a model without one; [`EngineError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let tokenizer = self.tokenizer()?;
        let ids = tokenizer.encode(text, SpecialTokens::Parse)?;
        let prefix = tokenizer.prefix();
        Ok(if ids.starts_with(prefix) {
            ids
        } else {
            [prefix, &ids].concat()
        })
    }

    /// Hands a request to the engine; its tokens arrive on the stream.
    ///
    /// # Errors
    /// A request that can never be served is refused here, before anything is queued ([`ErrorKind::InvalidRequest`],
    /// [`ErrorKind::ContextLength`]), and so is one for which there is no place in the queue ([`ErrorKind::Overloaded`]);
    /// [`EngineError::Draining`] after [`Self::drain`], [`EngineError::Stopped`] when the
    /// engine thread has ended.
    ///
    /// [`ErrorKind::InvalidRequest`]: crate::ErrorKind::InvalidRequest
    /// [`ErrorKind::ContextLength`]: crate::ErrorKind::ContextLength
    /// [`ErrorKind::Overloaded`]: crate::ErrorKind::Overloaded
    pub fn submit(&self, request: Request) -> Result<RequestStream, EngineError> {
        if let Some(beams) = request.options.beams {
            let best = self.submit_beams(request, beams, 1)?.pop();
            return best.ok_or(EngineError::Stopped);
        }
        let submitted = Instant::now();
        self.front.limits.check(&request)?;
        self.accepting()?;
        self.front.check_grammar(&request.options)?;
        self.front
            .adapters
            .find(request.options.adapter.as_deref())?;
        self.check_queue(&request.prompt)?;
        let id = self.next_id();
        let (sender, events) = channel::unbounded();
        let prompt = request.prompt.clone().into();
        self.send(Command::Submit {
            id,
            request: Box::new(request),
            submitted,
            events: sender,
        })?;
        Ok(RequestStream::new(
            id,
            prompt,
            events,
            self.commands.downgrade(),
        ))
    }

    /// Whether there is room in the queue, as far as can be told from here.
    pub(crate) fn check_queue(&self, prompt: &[u32]) -> Result<(), EngineError> {
        let unseen = self.commands.len();
        let limits = &self.front.limits;
        limits.check_queue(prompt.len(), &self.shared.stats(), unseen)
    }

    fn next_id(&self) -> RequestId {
        RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// A stream of events that do not come from the engine itself.
    pub(crate) fn stream(&self, prompt: Arc<[u32]>, events: Receiver<Event>) -> RequestStream {
        RequestStream::new(self.next_id(), prompt, events, self.commands.downgrade())
    }

    /// Asks for `n` answers to one prompt, which is computed once. With a seed, the answers take it and those that follow it,
    /// so the first is what [`Self::submit`] would give; greedy answers are all alike. With
    /// [`beams`](crate::GenerateOptions::beams) they are the `n` best answers of one search.
    ///
    /// # Errors
    /// As [`Self::submit`]; then none of them is made.
    pub fn submit_n(&self, request: Request, n: usize) -> Result<Vec<RequestStream>, EngineError> {
        if let Some(beams) = request.options.beams {
            return self.submit_beams(request, beams, n);
        }
        let seed = request.options.sampling.seed;
        let nth = |i: usize| {
            let mut request = request.clone();
            request.options.sampling.seed = seed.map(|seed| seed.wrapping_add(i as u64));
            self.submit(request)
        };
        (0..n).map(nth).collect()
    }

    /// Ends a request early; its stream ends with [`FinishReason::Cancelled`](crate::FinishReason::Cancelled). An id that
    /// has ended already is ignored.
    pub fn cancel(&self, id: RequestId) {
        // An engine that is gone has no request left to cancel.
        let _ = self.commands.send_blocking(Command::Cancel(id));
    }

    /// Negative log-likelihood (natural logarithm) of every token after the first, given all before it: `ids.len() - 1`
    /// values. Runs through the paged KV cache in chunks, between the steps of running requests.
    ///
    /// # Errors
    /// [`EngineError::ContextLength`] if `ids` do not fit into the context: split them into windows.
    pub fn score(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.look(Scoring::nll(ids, None))?.wait()
    }

    /// As [`Self::score`], by the model under a LoRA adapter.
    ///
    /// # Errors
    /// As [`Self::score`]; [`EngineError::Adapter`] if there is none of this name.
    pub fn score_with_adapter(&self, ids: &[u32], name: &str) -> Result<Vec<f32>, EngineError> {
        self.front.adapters.find(Some(name))?;
        self.look(Scoring::nll(ids, Some(name)))?.wait()
    }

    /// Log-probability of every token after the first, given all before it, and the `top` most likely tokens in its place:
    /// `ids.len() - 1` values. Runs like [`Self::score`].
    ///
    /// # Errors
    /// [`EngineError::ContextLength`] if `ids` do not fit into the context; [`EngineError::Sampling`] if `top` is more than
    /// [`MAX_LOGPROBS`](crate::MAX_LOGPROBS).
    pub fn prompt_logprobs(
        &self,
        ids: &[u32],
        top: usize,
    ) -> Result<Vec<PromptLogprob>, EngineError> {
        self.begin_prompt_logprobs(ids, top, None)?.wait()
    }

    /// As [`Self::prompt_logprobs`], by the model under a LoRA adapter.
    ///
    /// # Errors
    /// As [`Self::prompt_logprobs`]; [`EngineError::Adapter`] if there is none of this name.
    pub fn prompt_logprobs_with_adapter(
        &self,
        ids: &[u32],
        top: usize,
        name: &str,
    ) -> Result<Vec<PromptLogprob>, EngineError> {
        self.begin_prompt_logprobs(ids, top, Some(name))?.wait()
    }

    /// As [`Self::prompt_logprobs`], under a LoRA adapter if one is named, for whoever does not want to wait on a thread or may give up
    /// waiting. Texts that are asked for together follow each other.
    ///
    /// # Errors
    /// As [`Self::prompt_logprobs`]; [`EngineError::Adapter`] if there is none of this name.
    pub fn begin_prompt_logprobs(
        &self,
        ids: &[u32],
        top: usize,
        adapter: Option<&str>,
    ) -> Result<Pending<Vec<PromptLogprob>>, EngineError> {
        check_top(top)?;
        self.front.adapters.find(adapter)?;
        self.look(Scoring::logprobs(ids, top, adapter))
    }

    fn look<T: Send + 'static>(&self, scoring: Scoring<T>) -> Result<Pending<Vec<T>>, EngineError> {
        self.front.limits.check_score(scoring.ids())?;
        self.accepting()?;
        let (reply, answer) = channel::bounded(1);
        let scoring = Some(scoring);
        self.send(Command::Work(Box::new(ScoreJob { scoring, reply })))?;
        Ok(Pending::new(answer))
    }

    /// The mean of the final hidden states of a text's tokens, `[hidden_size]`, not normalised; under a LoRA adapter if one is
    /// named. Runs like [`Self::score`]; texts that are asked for together follow each other.
    ///
    /// # Errors
    /// [`EngineError::ContextLength`] if `ids` do not fit into the context, [`EngineError::EmptyPrompt`] if there are none,
    /// [`EngineError::Adapter`] if there is none of this name.
    ///
    /// ```
    /// # let engine = glm_runtime::Engine::builder("demo").build()?;
    /// let embedding = engine.embed(&engine.encode("Hello")?, None)?.wait()?;
    /// assert_eq!(embedding.len(), engine.model_info().hidden_size);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn embed(
        &self,
        ids: &[u32],
        adapter: Option<&str>,
    ) -> Result<PendingEmbedding, EngineError> {
        self.front.limits.check_score(ids)?;
        self.front.adapters.find(adapter)?;
        self.accepting()?;
        let (reply, answer) = channel::bounded(1);
        let job = EmbedJob::new(ids, adapter, reply);
        self.send(Command::Work(Box::new(job)))?;
        Ok(Pending::new(answer))
    }

    /// Loads a LoRA adapter from a directory that PEFT wrote: requests can choose it by `name` from now on. It is loaded on the
    /// calling thread, and requests are served meanwhile.
    ///
    /// # Errors
    /// [`AdapterError`]: it cannot be read, does not fit the model or the memory, or the name is taken.
    pub fn load_adapter(
        &self,
        name: &str,
        path: impl AsRef<Path>,
    ) -> Result<AdapterInfo, AdapterError> {
        self.front.adapters.load(name, path.as_ref())
    }

    /// Takes an adapter out: no new request finds it. Those that use it end undisturbed, and with the last of them its memory is
    /// free.
    ///
    /// # Errors
    /// [`UnknownAdapter`] if there is none of this name.
    pub fn unload_adapter(&self, name: &str) -> Result<AdapterInfo, UnknownAdapter> {
        self.front.adapters.unload(name)
    }

    /// The adapters that requests can choose, by name, and then those that were unloaded and are still in use.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.front.adapters.infos()
    }

    /// Whether requests can choose an adapter of this name.
    pub fn has_adapter(&self, name: &str) -> bool {
        self.front.adapters.contains(name)
    }

    /// Takes no new requests from now on and gives back those that have not started, in the order in which they would have,
    /// so that they can be queued elsewhere; their streams end with [`EngineError::Draining`]. The rest goes on:
    /// [`Self::drain`] waits for it. Empty if the engine has stopped.
    pub fn hand_back(&self) -> Vec<(RequestId, Request)> {
        self.shared.draining.store(true, Ordering::SeqCst);
        let (reply, unstarted) = channel::bounded(1);
        if self.send(Command::HandBack { reply }).is_err() {
            return Vec::new();
        }
        unstarted.recv_blocking().unwrap_or_default()
    }

    /// Takes no new requests from now on and waits until every one that was accepted has ended, and the prefix cache is in its file
    /// if the engine was built with one.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        let (reply, done) = channel::bounded(1);
        if self.send(Command::Drain { reply }).is_ok() {
            // An error means that the engine thread has ended: nothing is running.
            let _ = done.recv_blocking();
        }
    }

    /// Writes the prefix cache to a file, between two steps; also while the engine drains and after that. See
    /// [`Engine::save_prefix_cache`].
    ///
    /// # Errors
    /// [`PrefixCacheError`]: the file cannot be written, or is there and no prefix cache.
    pub fn save_prefix_cache(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<SavedPrefixCache, PrefixCacheError> {
        let (reply, saved) = channel::bounded(1);
        let path = path.as_ref().to_owned();
        self.send(Command::Work(Box::new(SaveJob { path, reply })))
            .map_err(|_| PrefixCacheError::Stopped)?;
        saved
            .recv_blocking()
            .unwrap_or(Err(PrefixCacheError::Stopped))
    }

    /// A snapshot taken after the latest step.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats().clone()
    }

    /// Where the time of steps goes, for those who ask.
    pub fn profiler(&self) -> &Profiler {
        &self.shared.profiler
    }

    /// What was loaded, and how.
    pub fn model_info(&self) -> &ModelInfo {
        &self.front.info
    }

    /// Most sequences in one step, see [`EngineOptions::max_num_seqs`](crate::EngineOptions::max_num_seqs).
    pub fn max_num_seqs(&self) -> usize {
        self.front.limits.scheduler.max_num_seqs
    }

    /// The checkpoint's recommended sampling (`generation_config.json`); greedy if it names none.
    pub fn default_sampling(&self) -> &SamplingParams {
        &self.front.default_sampling
    }

    /// Ids that end every answer unless a request ignores them.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.front.eos_token_ids
    }

    /// Compiles a grammar unless that has been done, and says whether a request may ask for it.
    ///
    /// # Errors
    /// [`EngineError::Grammar`]; [`EngineError::NoTokenizer`] for a model without one.
    pub fn check_grammar(&self, grammar: &Grammar) -> Result<(), EngineError> {
        Ok(self.front.guides()?.check(grammar)?)
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`EngineError::NoTokenizer`]: `random:` models have none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, EngineError> {
        self.front
            .tokenizer
            .as_ref()
            .ok_or_else(|| self.no_tokenizer())
    }

    /// The model's chat format.
    ///
    /// # Errors
    /// [`EngineError::NoTokenizer`]: `random:` models have neither tokenizer nor template.
    pub fn chat_format(&self) -> Result<&ChatFormat, EngineError> {
        self.front
            .chat_format
            .as_ref()
            .ok_or_else(|| self.no_tokenizer())
    }

    fn no_tokenizer(&self) -> EngineError {
        EngineError::NoTokenizer {
            model: self.front.info.name.clone(),
        }
    }

    fn accepting(&self) -> Result<(), EngineError> {
        if self.shared.draining.load(Ordering::SeqCst) {
            Err(EngineError::Draining)
        } else {
            Ok(())
        }
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands
            .send_blocking(command)
            .map_err(|_| EngineError::Stopped)
    }
}
