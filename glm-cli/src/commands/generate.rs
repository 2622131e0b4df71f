//! `generate`: one prompt in, one answer out.

use std::io::{self, IsTerminal};

use glm_runtime::{
    BeamOptions, ChatOptions, Completion, EngineHandle, Event, GenerateOptions, Grammar, Message,
    Part, Prompt, RequestStream, SamplingParams, Token, Tokenizer,
};
use serde_json::{Value, json};

use super::{
    answering_builder, build_for_text, engine_error, keep_prefix_cache, print_remarks, read_text,
    read_text_file, sampling,
};
use crate::args::{FormArgs, GenerateArgs};
use crate::error::CliError;
use crate::terminal::output;
use crate::values::TokenIds;

pub fn run(args: &GenerateArgs) -> Result<(), CliError> {
    let prompt = read_prompt(args)?;
    let grammar = read_grammar(&args.form)?;
    let text = !args.sampling.stop.is_empty() || grammar.is_some();
    let builder = answering_builder(&args.engine, &args.adapter)?;
    let engine = match prompt {
        Prompt::TokenIds(_) if !text => builder.build().map_err(CliError::usage)?,
        _ => build_for_text(builder)?,
    };
    let stream = start(&engine, prompt, grammar, args)?;
    print_remarks(&engine);
    let done = print_answer(&engine, stream, args);
    keep_prefix_cache(&engine, &args.engine.cache);
    done
}

fn print_answer(
    engine: &EngineHandle,
    stream: RequestStream,
    args: &GenerateArgs,
) -> Result<(), CliError> {
    if args.json {
        let prompt_token_ids = stream.prompt_token_ids().to_vec();
        let completion = stream.wait().map_err(engine_error)?;
        let mut report = report(
            engine,
            &prompt_token_ids,
            &completion,
            args.logprobs.is_some(),
        );
        if args.engine.speculation.speculate.is_some() {
            // What was counted in the last step is known when the engine is idle.
            engine.drain();
            let stats = engine.stats();
            report["speculation"] = json!({
                "drafted_tokens": stats.drafted_tokens,
                "accepted_tokens": stats.accepted_tokens,
            });
        }
        return output::print_json(&report);
    }
    if engine.model_info().has_tokenizer {
        print_text(stream)
    } else {
        print_ids(stream)
    }
}

fn read_prompt(args: &GenerateArgs) -> Result<Prompt, CliError> {
    if let Some(TokenIds(ids)) = &args.prompt_ids {
        return Ok(Prompt::TokenIds(ids.clone()));
    }
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read_text_file(path)?,
        (None, None) => read_stdin()?,
    };
    Ok(Prompt::Text(if args.raw || args.prompt.is_some() {
        text
    } else {
        without_last_line_end(&text).to_owned()
    }))
}

fn read_grammar(args: &FormArgs) -> Result<Option<Grammar>, CliError> {
    let grammar = if let Some(path) = &args.schema {
        let schema = serde_json::from_str(&read_text_file(path)?);
        let not_json = |error| CliError::Usage(format!("{}: {error}", path.display()));
        Grammar::JsonSchema(schema.map_err(not_json)?)
    } else if let Some(regex) = &args.regex {
        Grammar::Regex(regex.clone())
    } else if let Some(path) = &args.grammar {
        Grammar::Lark(read_text_file(path)?)
    } else if !args.choice.is_empty() {
        Grammar::Choice(args.choice.clone())
    } else {
        return Ok(None);
    };
    Ok(Some(grammar))
}

pub(super) fn read_stdin() -> Result<String, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::Usage(
            "no text given: name it on the command line or send it to stdin".to_owned(),
        ));
    }
    read_text(stdin.lock()).map_err(|error| CliError::Usage(format!("cannot read stdin: {error}")))
}

/// Files end with a line end that nobody means to say; only a raw prompt is taken to the letter.
fn without_last_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn start(
    engine: &EngineHandle,
    prompt: Prompt,
    grammar: Option<Grammar>,
    args: &GenerateArgs,
) -> Result<RequestStream, CliError> {
    let beams = args.beams.map(|width| BeamOptions {
        width,
        length_penalty: args.length_penalty,
        ..BeamOptions::default()
    });
    let mut sampling = match beams {
        // What a model recommends for drawing tokens does not concern a search.
        Some(_) => SamplingParams::greedy(),
        None => sampling(&args.sampling, args.engine.model.seed, engine),
    };
    sampling.logprobs = args.logprobs.map(usize::from);
    let options = GenerateOptions {
        sampling,
        max_tokens: args.sampling.max_tokens,
        stop: args.sampling.stop.clone(),
        ignore_eos: args.ignore_eos,
        grammar,
        beams,
        adapter: args.adapter.as_ref().map(|adapter| adapter.name.clone()),
        ..GenerateOptions::default()
    };
    match prompt {
        Prompt::Text(text) if !args.raw => engine.chat(
            [Message::user(text)],
            ChatOptions {
                generate: options,
                ..ChatOptions::default()
            },
        ),
        prompt => engine.generate(prompt, options),
    }
    .map_err(engine_error)
}

/// Only what a grammar is about, if there is one.
fn print_text(stream: RequestStream) -> Result<(), CliError> {
    for event in stream {
        match event {
            Event::Token(token) if token.part == Part::Answer => {
                output::print_model_text(&token.text)?;
            }
            Event::Token(_) => {}
            Event::Finished(_) => break,
            Event::Failed(error) => return Err(engine_error(error)),
        }
    }
    output::print_line("")
}

/// A model without a tokenizer answers in token ids.
fn print_ids(stream: RequestStream) -> Result<(), CliError> {
    let mut separator = "";
    for event in stream {
        match event {
            Event::Token(token) => output::print(&format!("{separator}{}", token.id))?,
            Event::Finished(_) => break,
            Event::Failed(error) => return Err(engine_error(error)),
        }
        separator = ",";
    }
    output::print_line("")
}

fn report(
    engine: &EngineHandle,
    prompt_token_ids: &[u32],
    completion: &Completion,
    logprobs: bool,
) -> Value {
    let finished = &completion.finished;
    let (usage, timings) = (finished.usage, finished.timings);
    let mut object = json!({
        "model": engine.model_info().name,
        "text": completion.text_of(Part::Answer),
        "token_ids": completion.token_ids(),
        "prompt_token_ids": prompt_token_ids,
        "finish_reason": finished.reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
        "timings": {
            "ttft_ms": timings.time_to_first_token.as_secs_f64() * 1e3,
            "total_ms": timings.total.as_secs_f64() * 1e3,
            "decode_tok_s": timings.decode_tok_s(usage),
        },
    });
    let thought = completion.text_of(Part::Thought);
    if !thought.is_empty() {
        object["reasoning"] = json!(thought);
    }
    if logprobs {
        let tokenizer = engine.tokenizer().ok();
        let entries: Vec<_> = completion
            .tokens
            .iter()
            .map(|token| logprob_entry(token, tokenizer))
            .collect();
        object["logprobs"] = Value::Array(entries);
    }
    object
}

fn logprob_entry(token: &Token, tokenizer: Option<&Tokenizer>) -> Value {
    let text = |id| {
        tokenizer.map(|tokenizer| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned())
    };
    let top: Vec<_> = token
        .top_logprobs
        .iter()
        .map(|other| json!({ "id": other.id, "token": text(other.id), "logprob": other.logprob }))
        .collect();
    json!({ "id": token.id, "token": text(token.id), "logprob": token.logprob, "top_logprobs": top })
}

#[cfg(test)]
mod tests {
    use super::without_last_line_end;

    #[test]
    fn one_line_end_is_dropped() {
        assert_eq!(without_last_line_end("a\n"), "a");
        assert_eq!(without_last_line_end("a\r\n"), "a");
        assert_eq!(without_last_line_end("a\n\n"), "a\n");
        assert_eq!(without_last_line_end("a"), "a");
    }
}
