//! The command line: every command, option, help text and example.
// Doc comments in here are the help texts that clap prints, in plain text: no links, no HTML.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

pub mod layers;
mod serve;
mod tasks;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use glm_runtime::{DraftLength, KvDType, Quantization, Speculation};

use crate::error::CliError;
use crate::values::{self, AdapterChoice, DeviceChoice, TokenIds};

pub use serve::{AccessArgs, LevelChoice, LogArgs, LogChoice, ServeArgs};

const AFTER_HELP: &str = "\
MODEL is one of:
  demo               the checkpoint inside this program (the default)
  DIR                a directory in Hugging Face layout (safetensors or PyTorch files)
  FILE.gguf          a GGUF file, split files included
  OWNER/NAME[@REV]   a checkpoint on the Hugging Face hub, kept in its usual cache
  random:PRESET      random weights at the true sizes of a known model, to measure without a download

Exit codes: 0 done, 1 the work failed, 2 wrong arguments or model, 130 interrupted.";

/// Run GLM language models on this machine: chat, generate, measure, quantise, inspect.
#[derive(Debug, Parser)]
#[command(name = "glm-cli", version, about, after_help = AFTER_HELP, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Talk to a model in the terminal
    Chat(ChatArgs),
    /// Answer one prompt
    Generate(GenerateArgs),
    /// Answer a file of requests
    Batch(BatchArgs),
    /// Answer requests over HTTP, as OpenAI's clients send them
    Serve(Box<ServeArgs>),
    /// Turn text into token ids and back
    Tokenize(TokenizeArgs),
    /// Show what is in a checkpoint and whether it fits here
    Inspect(InspectArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Write a quantised GGUF file
    Quantize(QuantizeArgs),
    /// Measure speed and memory
    Bench(BenchArgs),
    /// Check this machine and say how to mend what is wrong
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man(ManArgs),
}

/// Options that every command about a model takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model and machine")]
pub struct ModelArgs {
    /// demo, a directory, a .gguf file, a hub id OWNER/NAME[@REV] or random:PRESET
    #[arg(long, short, value_name = "MODEL", env = "GLM_MODEL", default_value = "demo",
          value_hint = ValueHint::AnyPath)]
    pub model: String,

    /// Threads to compute with [default: one per physical core]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub threads: Option<usize>,

    /// Where to compute: auto, cpu or cuda[:N]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// Quantise the weights while loading: q8_0, q4_k, … or a mix, q4_k_m or q5_k_m; on a graphics processor also fp8 or int4
    #[arg(long, value_name = "FORMAT", value_parser = quantization)]
    pub quantize: Option<Quantization>,

    /// How keys and values are stored
    #[arg(long, value_name = "TYPE", default_value = "auto", value_enum)]
    pub kv_dtype: KvChoice,

    /// Longest sequence, prompt and answer together [default: the model's own, as far as memory allows]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_model_len: Option<usize>,

    /// Compute every prompt from its start, even if it begins like an earlier one
    #[arg(long)]
    pub no_prefix_cache: bool,

    /// Seed for sampling and for the weights of random:PRESET
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::seed)]
    pub seed: Option<u64>,

    /// Never use the network; a hub id must be in the cache (also HF_HUB_OFFLINE=1)
    #[arg(long)]
    pub offline: bool,
}

/// Where the prefix cache is kept between two runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model and machine")]
pub struct CacheFileArgs {
    /// Begin with the prefix cache in this file, and write it at the end; it holds what was asked and answered
    #[arg(long, value_name = "FILE", conflicts_with = "no_prefix_cache", value_hint = ValueHint::FilePath)]
    pub prefix_cache_file: Option<PathBuf>,
}

/// How much is computed at a time, and how much memory the requests that are computed together have.
#[derive(Debug, Clone, Args)]
pub struct MemoryArgs {
    /// Most tokens in one step, of prompts and answers; longer prompts are read in parts [default: 512, on a graphics processor 2048]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_num_batched_tokens: Option<usize>,

    /// Tokens whose keys and values are kept at a time, of all requests together [default: four full contexts, as far as memory allows]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub kv_cache_tokens: Option<usize>,

    /// Copy what requests that lose their place have computed to so much other memory, such as 4GiB, and back, instead of
    /// computing it again
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = values::bytes)]
    pub swap_space: u64,
}

/// How keys and values are stored, as written after `--kv-dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvChoice {
    /// What suits the device
    Auto,
    /// 32-bit floats
    F32,
    /// IEEE half precision
    F16,
    /// Brain floats
    Bf16,
    /// Signed bytes, with one scale for each head and token
    #[value(name = "q8_0")]
    Q8_0,
    /// 8-bit floats (e4m3), for graphics processors
    Fp8,
}

impl KvChoice {
    /// The storage type, or `None` to let the engine choose.
    pub fn dtype(self) -> Option<KvDType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(KvDType::F32),
            Self::F16 => Some(KvDType::F16),
            Self::Bf16 => Some(KvDType::BF16),
            Self::Q8_0 => Some(KvDType::Q8_0),
            Self::Fp8 => Some(KvDType::Fp8),
        }
    }
}

/// How the next token is chosen. What is not given comes from the checkpoint's generation_config.json.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 always takes the likeliest token; higher is more varied
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = values::non_negative)]
    pub temperature: Option<f32>,

    /// Choose among the likeliest tokens that make up this much probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = values::nucleus)]
    pub top_p: Option<f32>,

    /// Choose among the K likeliest tokens; 0 is no limit
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = values::whole)]
    pub top_k: Option<usize>,

    /// Leave out tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = values::probability)]
    pub min_p: Option<f32>,

    /// Divide the logits of tokens seen before by this; 1 changes nothing
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = values::above_zero)]
    pub repetition_penalty: Option<f32>,

    /// Longest answer in tokens [default: up to the context length]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_tokens: Option<usize>,

    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

/// How the next tokens are guessed. Answers are the same with and without.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Speculation")]
pub struct SpeculationArgs {
    /// Guess several tokens ahead to be faster: off, ngram or draft=MODEL
    ///
    /// ngram guesses what followed the last few tokens earlier in prompt and answer; draft=MODEL asks a smaller model of the same
    /// vocabulary. Answers stay the same, and what does not pay is not guessed.
    #[arg(long, value_name = "HOW", value_parser = values::speculation)]
    pub speculate: Option<Speculation>,

    /// Most tokens to guess in a step, 1 to 64 [default: 8]
    #[arg(long, value_name = "N", requires = "speculate", allow_negative_numbers = true, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub draft_tokens: Option<u8>,
}

impl SpeculationArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// A number of guesses where none are made.
    pub fn speculation(&self) -> Result<Speculation, CliError> {
        let speculation = self.speculate.clone().unwrap_or_default();
        match (self.draft_tokens, speculation) {
            (Some(_), Speculation::Off) => Err(CliError::Usage(
                "--draft-tokens does nothing with --speculate off".to_owned(),
            )),
            (Some(max), speculation) => {
                Ok(speculation.with_length(DraftLength::Adaptive { max: max.into() }))
            }
            (None, speculation) => Ok(speculation),
        }
    }
}

/// What an engine that answers is made of.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub speculation: SpeculationArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub cache: CacheFileArgs,
}

/// What happens to a model's thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Thinking {
    /// Shown dimmed before the answer
    Show,
    /// Done, but not shown
    Hide,
    /// The template is asked to leave it out
    Off,
}

/// `chat`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli chat
  glm-cli chat --model zai-org/GLM-4-9B-0414 --quantize q4_k --system 'You are terse.'
  printf 'Hello\\nAnd in French?\\n' | glm-cli chat

In the terminal: Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands. A line that ends
with \\ goes on in the next; \"\"\" opens and closes a text of several lines. With stdin not a terminal
each line is one turn and the answers go to stdout.")]
pub struct ChatArgs {
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// A LoRA adapter to talk to, a directory that PEFT wrote; may be given several times: /adapter switches
    #[arg(long, value_name = "NAME=DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Vec<AdapterChoice>,

    /// Show, hide or switch off the model's thinking [default: show on a terminal, else hide]
    #[arg(long, value_name = "HOW")]
    pub thinking: Option<Thinking>,

    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `generate`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli generate --prompt 'Name three rivers.' --max-tokens 64 --temperature 0
  glm-cli generate --raw --prompt 'Once upon a time' --max-tokens 100
  glm-cli generate --prompt 'Is a tomato a fruit?' --choice yes,no
  cat letter.txt | glm-cli generate --model ./GLM-4-9B-0414 --json | jq -r .text")]
pub struct GenerateArgs {
    /// The prompt; read from stdin when no prompt option is given
    #[arg(long, short, value_name = "TEXT", group = "source")]
    pub prompt: Option<String>,

    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", group = "source", value_hint = ValueHint::FilePath)]
    pub prompt_file: Option<PathBuf>,

    /// The prompt as token ids, such as 1,2,3; used exactly as given
    #[arg(
        long,
        value_name = "IDS",
        allow_hyphen_values = true,
        group = "source",
        conflicts_with = "raw"
    )]
    pub prompt_ids: Option<TokenIds>,

    /// Continue the text itself, without a chat template
    ///
    /// The tokenizer's own prefix, such as [gMASK]<sop>, is added unless the text starts with it, and
    /// special tokens in the text are recognised.
    #[arg(long)]
    pub raw: bool,

    /// Go on after the model's end tokens, up to --max-tokens
    #[arg(long)]
    pub ignore_eos: bool,

    /// Answer with this LoRA adapter, a directory that PEFT wrote
    #[arg(long, value_name = "NAME=DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<AdapterChoice>,

    /// Report the log-probability of each token and of the N likeliest in its place (with --json)
    #[arg(long, value_name = "N", requires = "json", allow_negative_numbers = true, value_parser = clap::value_parser!(u8).range(0..=20))]
    pub logprobs: Option<u8>,

    /// Print one JSON object when done instead of text as it comes
    #[arg(long)]
    pub json: bool,

    /// Search for the likeliest answer along N beams; it is printed when it is found
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive,
          conflicts_with_all = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "form", "speculate"])]
    pub beams: Option<usize>,

    /// With --beams: above 0 favours long answers, below 0 short ones
    #[arg(
        long,
        value_name = "X",
        requires = "beams",
        allow_negative_numbers = true,
        default_value = "1"
    )]
    pub length_penalty: f64,

    #[command(flatten)]
    pub form: FormArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What the answer must look like; behind `</think>` if the model thinks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Form of the answer")]
pub struct FormArgs {
    /// Answer in JSON that satisfies the JSON schema in this file
    #[arg(long, value_name = "FILE", group = "form", value_hint = ValueHint::FilePath)]
    pub schema: Option<PathBuf>,

    /// Answer with text that this regular expression matches from end to end
    #[arg(long, value_name = "REGEX", group = "form", allow_hyphen_values = true)]
    pub regex: Option<String>,

    /// Answer with text of the Lark grammar in this file
    #[arg(long, value_name = "FILE", group = "form", value_hint = ValueHint::FilePath)]
    pub grammar: Option<PathBuf>,

    /// Answer with one of these texts, such as yes,no
    #[arg(
        long,
        value_name = "TEXTS",
        group = "form",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub choice: Vec<String>,
}

/// `batch`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli batch --input requests.jsonl --output results.jsonl
  glm-cli batch --model ./GLM-4-9B-0414 --quantize q4_k --input in.jsonl --output out.jsonl --json

Each line of the input is a request as OpenAI's batches have it:
  {\"custom_id\": \"a-1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",
   \"body\": {\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 64}}
Results are appended as they are ready, in any order. After Ctrl-C, a crash or a kill the same command
goes on: it does only what is missing. What is wrong with a line is a result too, and stops nothing.")]
pub struct BatchArgs {
    /// Requests, one JSON object a line
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub input: PathBuf,

    /// Results, one JSON object a line; what is there already is kept and not done again
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// A LoRA adapter for the lines whose `model` is NAME, a directory that PEFT wrote; may be given several times
    #[arg(long, value_name = "NAME=DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Vec<AdapterChoice>,

    /// Most requests computed together [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_num_seqs: Option<usize>,

    #[command(flatten)]
    pub memory: MemoryArgs,

    /// Print one JSON object about what was done
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `tokenize`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli tokenize 'Hello, world'
  glm-cli tokenize --ids 1574,11,1631
  glm-cli tokenize --chat messages.json --json

The ids are printed on one line, as --prompt-ids of generate takes them. --chat reads a JSON list of
OpenAI messages, or an object with `messages` and, optionally, `tools`.")]
pub struct TokenizeArgs {
    /// Text to encode; read from stdin when nothing else is given
    #[arg(value_name = "TEXT", group = "input")]
    pub positional: Option<String>,

    /// Text to encode
    #[arg(long, value_name = "TEXT", group = "input")]
    pub text: Option<String>,

    /// Token ids to decode
    #[arg(long, value_name = "IDS", allow_hyphen_values = true, group = "input")]
    pub ids: Option<TokenIds>,

    /// Encode a conversation: OpenAI messages (and tools) through the chat template
    #[arg(long, value_name = "FILE", group = "input", value_hint = ValueHint::FilePath)]
    pub chat: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli inspect --model ./GLM-4-9B-0414
  glm-cli inspect --model model.gguf --max-model-len 32768 --kv-dtype q8_0
  glm-cli inspect --model random:glm-4-9b --quantize q4_k --json

The memory shown is what --quantize, --kv-dtype and --max-model-len would need here.")]
pub struct InspectArgs {
    /// List every tensor with its shape and type
    #[arg(long)]
    pub tensors: bool,

    /// Print one JSON object (with every tensor)
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `perplexity`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli perplexity --model ./GLM-4-9B-0414 --file wiki.txt
  glm-cli perplexity --model ./GLM-4-9B-0414 --quantize q4_k --file wiki.txt --json

A text longer than the window is cut into windows of --window tokens, each predicted on its own.")]
pub struct PerplexityArgs {
    /// Text to predict
    #[arg(long, value_name = "FILE", group = "input", required = true, value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// Token ids to predict: a JSON list in a file
    #[arg(long, value_name = "FILE", group = "input", value_hint = ValueHint::FilePath)]
    pub ids: Option<PathBuf>,

    /// Also write the logits after every token: little-endian f32, one row of the vocabulary per token
    #[arg(long, value_name = "FILE", requires = "ids", value_hint = ValueHint::FilePath)]
    pub logits: Option<PathBuf>,

    /// Predict with this LoRA adapter, a directory that PEFT wrote
    #[arg(long, value_name = "NAME=DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Option<AdapterChoice>,

    /// Tokens in a window [default: 2048, or the model's context length if shorter]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub window: Option<usize>,

    /// Print one JSON object with the negative log-likelihood of every token
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `quantize`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli quantize --model ./GLM-4-9B-0414 --format q4_k --output glm-4-9b-q4_k.gguf
  glm-cli quantize --model random:glm-edge-1.5b --format q8_0 --output edge.gguf

The file is written under another name and renamed when complete: a failure or Ctrl-C leaves nothing
behind. Norms and biases stay f32. A matrix whose rows do not divide into the format's blocks takes one
with smaller blocks, or f16.")]
pub struct QuantizeArgs {
    /// Format of the matrices: f32, f16, bf16, q8_0, q4_k, … or a mix, q4_k_m or q5_k_m
    #[arg(long, value_name = "FORMAT", required_unless_present = "quantize", conflicts_with = "quantize",
          value_parser = quantization)]
    pub format: Option<Quantization>,

    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// Replace the output file if it exists
    #[arg(long)]
    pub force: bool,

    /// Print one JSON object about what was written
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `bench`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli bench --model random:glm-edge-1.5b --quantize q8_0
  glm-cli bench --model random:glm-edge-1.5b --quantize q4_k --profile
  glm-cli bench --model ./GLM-4-9B-0414 --quantize q4_k --batch 1,8 --depth 0,4096 --json

--stdin takes queries, one JSON object a line, and answers each with a line of JSON; --batch, --depth
and the like then say only how large queries may be:
  {\"measure\": \"prefill\", \"tokens\": 512, \"depth\": 4096}
  {\"measure\": \"decode\", \"batch\": 8, \"depth\": 0, \"gen_tokens\": 64}
  {\"measure\": \"memory\"}  {\"measure\": \"machine\"}")]
pub struct BenchArgs {
    /// Prompt lengths to measure prefill with
    #[arg(long, value_name = "N,…", allow_negative_numbers = true, value_delimiter = ',', default_value = "512", value_parser = values::positive)]
    pub prompt_tokens: Vec<usize>,

    /// Tokens to generate in each decode measurement
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value = "128", value_parser = values::positive)]
    pub gen_tokens: usize,

    /// Sequences decoded at the same time
    #[arg(long, value_name = "N,…", allow_negative_numbers = true, value_delimiter = ',', default_value = "1", value_parser = values::positive)]
    pub batch: Vec<usize>,

    /// Tokens of context already there when prefill or decoding starts
    #[arg(long, value_name = "N,…", allow_negative_numbers = true, value_delimiter = ',', default_value = "0", value_parser = values::whole)]
    pub depth: Vec<usize>,

    /// Measurements of each kind; the median is reported
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value = "5", value_parser = values::positive)]
    pub repeat: usize,

    /// Most tokens in one step, of prompts and answers; longer prompts are read in parts [default: 512, on a graphics processor 2048]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_num_batched_tokens: Option<usize>,

    /// Also show where the time goes: one more run of each measurement
    #[arg(long)]
    pub profile: bool,

    /// Measure what each line of stdin asks for, to take turns with another program
    #[arg(long, conflicts_with_all = ["profile", "json"])]
    pub stdin: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli doctor
  glm-cli doctor --model ./GLM-4-9B-0414 --max-model-len 32768")]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub model: ModelArgs,
}

/// `completions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli completions bash > ~/.local/share/bash-completion/completions/glm-cli
  glm-cli completions zsh > ~/.zfunc/_glm-cli
  glm-cli completions fish > ~/.config/fish/completions/glm-cli.fish")]
pub struct CompletionsArgs {
    /// The shell to complete in
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli man | man -l -
  glm-cli man bench > glm-cli-bench.1")]
pub struct ManArgs {
    /// The command to describe [default: the program]
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// A format, or a mix of them, that this build can produce, if not on every device.
fn quantization(text: &str) -> Result<Quantization, String> {
    let wanted = text.parse().ok();
    Quantization::all_on_cuda()
        .find(|possible| wanted.as_ref() == Some(possible))
        .ok_or_else(|| {
            let all: Vec<_> = Quantization::all_on_cuda()
                .map(|format| format.to_string())
                .collect();
            format!("expected one of {}, found `{text}`", all.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_about_a_model_takes_the_common_options() {
        let cli = Cli::command();
        for command in cli.get_subcommands() {
            if ["completions", "man"].contains(&command.get_name()) {
                continue;
            }
            let options: Vec<_> = command
                .get_arguments()
                .filter_map(|arg| arg.get_long())
                .collect();
            for option in [
                "model",
                "threads",
                "device",
                "quantize",
                "kv-dtype",
                "max-model-len",
                "seed",
                "offline",
            ] {
                assert!(
                    options.contains(&option),
                    "{} lacks --{option}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn one_source_for_the_prompt() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("glm-cli generate --prompt a").is_ok());
        assert!(parse("glm-cli generate").is_ok());
        assert!(parse("glm-cli generate --prompt a --prompt-ids 1").is_err());
        assert!(parse("glm-cli generate --raw --prompt-ids 1").is_err());
        assert!(parse("glm-cli generate --logprobs 3 --prompt a").is_err());
        assert!(parse("glm-cli generate --logprobs 21 --json --prompt a").is_err());
        assert!(parse("glm-cli generate --beams 3 --length-penalty -1 --prompt a").is_ok());
        assert!(parse("glm-cli generate --beams 3 --temperature 1 --prompt a").is_err());
        assert!(parse("glm-cli generate --beams 3 --regex a --prompt a").is_err());
        assert!(parse("glm-cli generate --length-penalty 1 --prompt a").is_err());
    }

    #[test]
    fn each_kind_of_queue_has_a_directory_of_its_own_for_files() {
        let files = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Serve(args) => args.tasks.options().0.files,
            _ => None,
        };
        let expected = |name| Some(PathBuf::from("s").join(name));
        for (queue, name) in [
            ("", "files"),
            (" --queue memory", "files-memory"),
            #[cfg(feature = "postgres")]
            (" --queue postgres://h/d", "files-postgres"),
        ] {
            let line = format!("glm-cli serve --state-dir s{queue}");
            assert_eq!(files(&line), expected(name), "{line}");
        }
    }

    #[test]
    fn commands_that_answer_take_a_way_to_guess() {
        let guess = |line: &str| {
            let args = match Cli::try_parse_from(line.split(' ')).ok()?.command {
                Command::Chat(args) => args.engine.speculation,
                Command::Generate(args) => args.engine.speculation,
                Command::Batch(args) => args.engine.speculation,
                Command::Serve(args) => args.engine.speculation,
                _ => return None,
            };
            args.speculation().ok()
        };
        let ngram = Speculation::prompt_lookup();
        let draft = Speculation::draft_model("a=b").with_length(DraftLength::Adaptive { max: 3 });
        assert_eq!(guess("glm-cli chat"), Some(Speculation::Off));
        assert_eq!(guess("glm-cli chat --speculate ngram"), Some(ngram.clone()));
        assert_eq!(
            guess("glm-cli serve --speculate ngram"),
            Some(ngram.clone())
        );
        let batch = "glm-cli batch --input a --output b --speculate";
        assert_eq!(guess(&format!("{batch} off")), Some(Speculation::Off));
        assert_eq!(guess(&format!("{batch} ngram")), Some(ngram));
        let generate = "glm-cli generate --draft-tokens";
        assert_eq!(
            guess(&format!("{generate} 3 --speculate draft=a=b")),
            Some(draft)
        );
        assert_eq!(guess(&format!("{generate} 0 --speculate ngram")), None);
        assert_eq!(guess(&format!("{generate} 3")), None);
        assert_eq!(guess(&format!("{generate} 3 --speculate off")), None);
        assert_eq!(guess("glm-cli generate --beams 3 --speculate ngram"), None);
        assert_eq!(guess("glm-cli chat --speculate draft="), None);
    }

    #[test]
    fn lists_are_split_at_commas() {
        let cli =
            Cli::try_parse_from("glm-cli bench --batch 1,8 --depth 0,4096".split(' ')).unwrap();
        let Command::Bench(args) = cli.command else {
            panic!("bench")
        };
        assert_eq!((args.batch, args.depth), (vec![1, 8], vec![0, 4096]));
        assert!(Cli::try_parse_from("glm-cli bench --batch 0".split(' ')).is_err());
    }
}
