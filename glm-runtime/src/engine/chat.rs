//! Conversations: the checkpoint's chat template in front of [`EngineHandle::submit`].

use glm_core::chat::{ChatRequest, Message};

use super::{EngineHandle, RequestStream};
use crate::error::EngineError;
use crate::request::{ChatOptions, Request};

impl EngineHandle {
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
        self.submit(Request { prompt, options: options.generate })
    }
}
