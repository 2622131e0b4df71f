//! A conversation in progress: its messages, how they are answered, saved and loaded.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;

use glm_core::chat::{AnswerEvent, prompt_ids_open_think};
use glm_runtime::{ChatOptions, EngineHandle, Event, Finished, GenerateOptions, Message};
use serde_json::json;

use crate::args::{ChatArgs, Thinking};
use crate::commands::{engine_error, sampling};
use crate::error::CliError;
use crate::terminal::interrupt;
use crate::terminal::output;
use crate::terminal::style::Style;

/// One conversation with one model.
pub struct Session {
    engine: EngineHandle,
    options: ChatOptions,
    thinking: Thinking,
    system: Option<String>,
    /// Turns so far, without the system message.
    turns: Vec<Message>,
    last: Option<Finished>,
    tokens: usize,
}

impl Session {
    pub fn new(engine: EngineHandle, args: &ChatArgs) -> Self {
        let generate = GenerateOptions {
            sampling: sampling(&args.sampling, args.engine.model.seed, &engine),
            max_tokens: args.sampling.max_tokens,
            stop: args.sampling.stop.clone(),
            adapter: args.adapter.first().map(|adapter| adapter.name.clone()),
            ..GenerateOptions::default()
        };
        let thinking = args.thinking.unwrap_or_else(|| {
            // Who reads a pipe wants the answers.
            if io::stdout().is_terminal() {
                Thinking::Show
            } else {
                Thinking::Hide
            }
        });
        let enable_thinking = Some(thinking != Thinking::Off);
        Self {
            engine,
            options: ChatOptions {
                generate,
                enable_thinking,
                ..ChatOptions::default()
            },
            thinking,
            system: args.system.clone(),
            turns: Vec::new(),
            last: None,
            tokens: 0,
        }
    }

    pub fn model_name(&self) -> &str {
        &self.engine.model_info().name
    }

    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    pub fn set_system(&mut self, system: Option<String>) {
        self.system = system;
    }

    /// The LoRA adapters, a line each, the one that answers marked.
    pub fn adapters(&self) -> String {
        let chosen = self.options.generate.adapter.as_deref();
        let line = |name: &str| {
            let mark = if chosen == Some(name) { '*' } else { ' ' };
            format!("{mark} {name}\n")
        };
        let adapters = self.engine.adapters();
        let lines: String = adapters.iter().map(|adapter| line(&adapter.name)).collect();
        if lines.is_empty() {
            "no adapters; --adapter NAME=DIR loads one\n".to_owned()
        } else {
            lines
        }
    }

    /// Has an adapter answer from now on, or with `none` the model itself.
    pub fn choose_adapter(&mut self, name: &str) -> Result<(), CliError> {
        let adapters = self.engine.adapters();
        let known = adapters.iter().any(|adapter| adapter.name == name);
        if !known && name != "none" {
            return Err(CliError::Usage(format!(
                "no adapter `{name}`; /adapter lists them"
            )));
        }
        self.options.generate.adapter = known.then(|| name.to_owned());
        Ok(())
    }

    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// Says `text` to the model and prints its answer as it comes. Ctrl-C ends the answer; what was said so far is kept.
    pub fn answer(&mut self, text: String) -> Result<(), CliError> {
        self.turns.push(Message::user(text));
        let answered = self.stream_answer();
        match answered {
            Ok(answer) => {
                self.turns.push(Message::text("assistant", answer));
                output::print_line("")
            }
            Err(error) => {
                self.turns.pop(); // a turn that cannot be answered would spoil the next one too
                Err(error)
            }
        }
    }

    fn stream_answer(&mut self) -> Result<String, CliError> {
        let mut options = self.options.clone();
        let format = self.engine.chat_format().map_err(engine_error)?;
        let tokenizer = self.engine.tokenizer().map_err(engine_error)?;
        options.generate.skip_special_tokens = !format.needs_special_tokens(tokenizer, false);
        let stream = self
            .engine
            .chat(self.messages(), options)
            .map_err(engine_error)?;
        let _instead = interrupt::instead({
            let (engine, id) = (self.engine.clone(), stream.id());
            move || engine.cancel(id)
        });
        let opens_think = prompt_ids_open_think(tokenizer, stream.prompt_token_ids());
        let mut parser = format.answer_parser(&[], opens_think);
        let mut printer = Printer::new(self.thinking == Thinking::Show);
        for event in stream {
            match event {
                Event::Token(token) => printer.print(parser.push(&token.text))?,
                Event::Finished(finished) => {
                    self.tokens += finished.usage.completion_tokens;
                    self.last = Some(finished);
                }
                Event::Failed(error) => return Err(engine_error(error)),
            }
        }
        printer.print(parser.finish())?;
        Ok(printer.answer)
    }

    fn messages(&self) -> Vec<Message> {
        self.system
            .iter()
            .map(|text| Message::text("system", text))
            .chain(self.turns.iter().cloned())
            .collect()
    }

    /// Writes the conversation as `{"messages": […]}`.
    pub fn save(&self, path: &Path) -> Result<(), CliError> {
        let text = format!("{:#}\n", json!({ "messages": self.messages() }));
        fs::write(path, text).map_err(|error| {
            CliError::Failed(format!("cannot write {}: {error}", path.display()))
        })?;
        output::note(&format!(
            "{} messages in {}",
            self.messages().len(),
            path.display()
        ));
        Ok(())
    }

    /// Goes on with a saved conversation; a system message at its start becomes this session's.
    pub fn load(&mut self, path: &Path) -> Result<(), CliError> {
        let mut messages = crate::commands::tokenize::read_chat(path)?.messages;
        self.system = match messages.first() {
            Some(first) if first.role == "system" => first.plain_text().ok(),
            _ => None,
        };
        if self.system.is_some() {
            messages.remove(0);
        }
        self.turns = messages;
        output::note(&format!(
            "{} messages from {}",
            self.messages().len(),
            path.display()
        ));
        Ok(())
    }

    /// Tokens and speed, line by line.
    pub fn stats(&self) -> String {
        let info = self.engine.model_info();
        let mut text = format!(
            "model    {} on {}\nturns    {}\ntokens   {} generated\n",
            info.name,
            info.device,
            self.turns.iter().filter(|turn| turn.role == "user").count(),
            self.tokens
        );
        if let Some(last) = &self.last {
            let usage = last.usage;
            text += &format!(
                "last     {} prompt tokens, {} of {} in the context, first token after {:.0} ms",
                usage.prompt_tokens,
                usage.prompt_tokens + usage.completion_tokens,
                info.max_model_len,
                last.timings.time_to_first_token.as_secs_f64() * 1e3
            );
            if let Some(speed) = last.timings.decode_tok_s(usage) {
                text += &format!(", then {speed:.1} tok/s");
            }
            text.push('\n');
        }
        let stats = self.engine.stats();
        if stats.drafted_tokens > 0 {
            text += &format!(
                "guesses  {} of {} tokens right\n",
                stats.accepted_tokens, stats.drafted_tokens
            );
        }
        text
    }
}

/// Prints the parts of an answer and collects what will be remembered of it.
struct Printer {
    style: Style,
    show_thinking: bool,
    after_thinking: bool,
    answer: String,
}

impl Printer {
    fn new(show_thinking: bool) -> Self {
        Self {
            style: Style::stdout(),
            show_thinking,
            after_thinking: false,
            answer: String::new(),
        }
    }

    fn print(&mut self, parts: Vec<AnswerEvent>) -> Result<(), CliError> {
        for part in parts {
            match part {
                AnswerEvent::Reasoning(text) if self.show_thinking => {
                    self.after_thinking = true;
                    let [start, end] = self.style.dim_marks();
                    output::print(start)?;
                    output::print_model_text(&text)?;
                    output::print(end)?;
                }
                AnswerEvent::Content(text) => {
                    if std::mem::take(&mut self.after_thinking) {
                        output::print("\n\n")?;
                    }
                    output::print_model_text(&text)?;
                    self.answer.push_str(&text);
                }
                // Thoughts that are hidden; there are no tools that could be called.
                _ => {}
            }
        }
        Ok(())
    }
}
