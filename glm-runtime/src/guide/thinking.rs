//! What may come before the text that a grammar is about: a thought, free up to `</think>`, and the line ends that models were taught to
//! begin their turns and to end their thoughts with.

use glm_core::Tokenizer;

use super::vocabulary::{TokenMask, Vocabulary};

/// Opens a thought.
pub(super) const OPEN: &str = "<think>";
const CLOSE: &[u8] = b"</think>";
const ASSISTANT: &str = "<|assistant|>";
/// Tokens at the end of a prompt that are looked at: enough to spell both markers.
const PROMPT_TAIL: usize = 24;

/// Where an answer stands.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Before its text.
    Before {
        /// The token that opens a thought, if there may be one.
        think: Option<u32>,
        /// Whether a line end may come first that is no part of the text.
        line_end: bool,
    },
    /// In a thought; the last bytes of it, in which `</think>` may have begun.
    Thinking(Vec<u8>),
    /// In the text that the grammar is about.
    Answering,
}

impl Phase {
    /// How the answer to `prompt` begins. Templates of models that always think end with `<think>`; those of models that decide
    /// for themselves end with the assistant's marker, or with an empty thought to switch thinking off. Behind the marker, turns of GLM-4
    /// and later begin with a line end.
    pub(super) fn after(prompt: &[u32], vocabulary: &Vocabulary) -> Self {
        let tail = tail_text(&vocabulary.tokenizer, prompt);
        let line = tail.trim_end();
        if line.ends_with(OPEN) {
            Self::Thinking(Vec::new())
        } else if line.ends_with(ASSISTANT) {
            Self::Before {
                think: vocabulary.think,
                line_end: line.len() == tail.len(),
            }
        } else {
            Self::Answering
        }
    }

    /// The phase after one more token of a thought.
    pub(super) fn think_on(mut tail: Vec<u8>, bytes: &[u8]) -> Self {
        tail.extend(bytes);
        if rest_behind_close(&tail).is_some() {
            return Self::Before {
                think: None,
                line_end: true,
            };
        }
        tail.drain(..tail.len().saturating_sub(CLOSE.len() - 1));
        Self::Thinking(tail)
    }
}

/// Tokens that a thought may go on with: not the end of the answer, and none that holds `</think>` and the beginning of the answer,
/// which the grammar would not see. White space there is lost on nobody.
pub(super) fn mask(tail: &[u8], vocabulary: &Vocabulary) -> TokenMask {
    let mut mask = vocabulary.all_but_the_end();
    for (id, bytes) in &vocabulary.thought_enders {
        let text = [tail, bytes].concat();
        if rest_behind_close(&text).is_some_and(|rest| !rest.trim_ascii().is_empty()) {
            mask.remove(&[*id]);
        }
    }
    mask
}

/// The token that `</think>` goes on with, the longest there is: as tokenizers write it. None if nothing in the vocabulary can.
pub(super) fn closing(tail: &[u8], vocabulary: &Vocabulary) -> Option<TokenMask> {
    let begun = (0..CLOSE.len())
        .rev()
        .find(|&n| tail.ends_with(&CLOSE[..n]));
    let rest = &CLOSE[begun.unwrap_or(0)..];
    let fitting = vocabulary
        .closers
        .iter()
        .filter(|(_, bytes)| rest.starts_with(bytes));
    let (id, _) = fitting.max_by_key(|(_, bytes)| bytes.len())?;
    Some(vocabulary.only(*id))
}

/// Whether a token with these bytes can be a part of `</think>`.
pub(super) fn may_close(bytes: &[u8]) -> bool {
    !bytes.is_empty() && CLOSE.windows(bytes.len()).any(|part| part == bytes)
}

/// Whether a token with these bytes can be the last of a thought and have more than white space behind its `</think>`.
pub(super) fn may_end_a_thought_too_late(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|&byte| byte == b'>');
    end.is_some_and(|at| !bytes[at + 1..].trim_ascii().is_empty())
}

fn rest_behind_close(text: &[u8]) -> Option<&[u8]> {
    let at = text.windows(CLOSE.len()).position(|part| part == CLOSE)?;
    Some(&text[at + CLOSE.len()..])
}

fn tail_text(tokenizer: &Tokenizer, prompt: &[u32]) -> String {
    tokenizer.decode(&prompt[prompt.len().saturating_sub(PROMPT_TAIL)..], false)
}
