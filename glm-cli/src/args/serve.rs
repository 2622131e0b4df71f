//! Options of `serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::tasks::TaskArgs;
use super::{CacheFileArgs, ModelArgs, SpeculationArgs};
use crate::values::{self, AdapterChoice};

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  glm-cli serve
  glm-cli serve --model ./GLM-4-9B-0414 --quantize q4_k --port 8080
  curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Every option can also be set in the environment, in a file .env in the working directory, or in the file of
--config: --max-body-size is GLM_MAX_BODY_SIZE there, or max_body_size. Options come before the environment, that
before .env, and that before the file. SIGHUP reads them, keys and certificates again.

The address is printed when requests are answered. Ctrl-C or SIGTERM ends the service when the answers
that run are complete, with exit code 0; a second Ctrl-C ends it at once.")]
pub struct ServeArgs {
    /// Read settings from this TOML file: the options here, such as max_body_size = "16MiB"
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// Print every setting and where it comes from, in the form of a --config file, and end
    #[arg(long)]
    pub print_config: bool,

    /// Address to listen on; one that other machines can reach needs API keys or --insecure
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", value_hint = ValueHint::Hostname)]
    pub host: String,

    /// Port to listen on; 0 takes one that is free
    #[arg(
        long,
        value_name = "PORT",
        default_value = "8000",
        allow_negative_numbers = true
    )]
    pub port: u16,

    #[command(flatten)]
    pub access: AccessArgs,

    /// Seconds that answers get to finish when the service stops
    #[arg(long, value_name = "SECONDS", default_value = "30", allow_negative_numbers = true, value_parser = values::seconds)]
    pub drain_timeout: Duration,

    /// Longest time for an answer in seconds, waiting included [default: no limit]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = values::seconds_above_zero)]
    pub request_timeout: Option<Duration>,

    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = values::bytes)]
    pub max_body_size: u64,

    /// A LoRA adapter for the requests whose `model` is NAME, a directory that PEFT wrote; may be given several times
    #[arg(long, value_name = "NAME=DIR", value_hint = ValueHint::DirPath)]
    pub adapter: Vec<AdapterChoice>,

    /// Most requests computed together [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub max_num_seqs: Option<usize>,

    /// Seconds that may pass from one token of an answer to the next while a long prompt is read beside it; more lets prompts be
    /// read faster [default: three times as long as without it, at least 0.1]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = values::seconds_above_zero)]
    pub max_step_time: Option<Duration>,

    /// Most requests that wait for a place; further ones are refused
    #[arg(long, value_name = "N", default_value = "1024", allow_negative_numbers = true, value_parser = values::whole)]
    pub max_waiting: usize,

    /// Most tokens that the prompts of waiting requests have, roughly; further ones are refused [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::whole)]
    pub max_waiting_tokens: Option<usize>,

    /// Tokens whose keys and values are kept at a time, of all requests together [default: four full contexts, as far as memory allows]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::positive)]
    pub kv_cache_tokens: Option<usize>,

    /// Copy what requests that lose their place have computed to so much other memory, such as 4GiB, and back, instead of
    /// computing it again
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = values::bytes)]
    pub swap_space: u64,

    #[command(flatten)]
    pub tasks: TaskArgs,
    #[command(flatten)]
    pub speculation: SpeculationArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub cache: CacheFileArgs,
}

/// Who may use the service, and how much.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Let everybody use the model who can reach the address
    #[arg(long)]
    pub insecure: bool,

    /// A key that every request must bring; only from GLM_API_KEY or a file, because command lines can be read by others
    #[arg(long, value_name = "KEY", hide = true)]
    pub api_key: Option<String>,

    /// Keys that requests must bring one of: a file with a line for each, or FILE.toml with names, scopes and limits
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub api_key_file: Option<PathBuf>,

    /// Make a key: print it, and what to write into the file of keys, and end
    #[arg(long)]
    pub new_key: bool,

    /// Print what to write into the file of keys for the key on stdin, and end
    #[arg(long, conflicts_with = "new_key")]
    pub hash_key: bool,

    /// Requests that each key may make in a minute [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub requests_per_minute: Option<u32>,

    /// Tokens that each key may use in a minute, of prompts and answers together [default: no limit]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub tokens_per_minute: Option<u32>,
}
