//! Where the settings of `serve` come from: the command line, the environment, a `.env` file, a file in TOML, and defaults; who comes
//! first in this list is right.
//!
//! The options of the command are the one list of settings. What the other sources say is turned into options and parsed with
//! those of the command line, so a value means the same and is checked the same wherever it stands.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::Cli;
use crate::error::CliError;

/// Names in the environment that other services of this kind use, besides `GLM_` and the name of the option.
const ALIASES: [(&str, &str); 9] = [
    ("model", "MODEL_NAME"),
    ("max-workers", "MAX_WORKERS"),
    ("request-timeout", "API_TIMEOUT"),
    ("metrics", "ENABLE_METRICS"),
    ("port", "PORT"),
    ("host", "HOST"),
    ("otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("otlp-certificate", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ("service-name", "OTEL_SERVICE_NAME"),
];
/// What is done, not how: only the command line says that.
const ACTIONS: [&str; 6] = [
    "config",
    "print-config",
    "new-key",
    "hash-key",
    "help",
    "version",
];
/// What is never shown.
const SECRETS: [&str; 1] = ["api-key"];
const DOTENV: &str = ".env";

/// A command line, to be parsed together with what else there is: once at the start, and again when the service reads its
/// settings again.
#[derive(Debug, Clone)]
pub struct CommandLine(Vec<OsString>);

/// Why a command line was not understood.
#[derive(Debug)]
pub enum ParseError {
    /// What clap says, help and version included.
    Clap(Box<clap::Error>),
    /// What is wrong in another source.
    Source(CliError),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An option of the command line.
    CommandLine,
    /// A variable of the environment.
    Environment(String),
    /// A variable in `.env`.
    DotEnv(String),
    /// The file of `--config`.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::DotEnv(name) => write!(f, "{DOTENV} {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Every setting of `serve`, in the order of its help.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<Setting>);

#[derive(Debug, Clone)]
struct Setting {
    name: String,
    /// Several if the option may be given several times, none if it is not set.
    values: Vec<String>,
    is_list: bool,
    source: Source,
}

impl CommandLine {
    /// That of this process.
    pub fn of_this_process() -> Self {
        Self(env::args_os().collect())
    }

    /// What it asks for.
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn parse(&self) -> Result<(Cli, Settings), ParseError> {
        let command = Cli::command();
        let is_serve = self.0.get(1).is_some_and(|name| name == "serve");
        let serve = command.find_subcommand("serve").filter(|_| is_serve);
        let Some(serve) = serve.cloned() else {
            let matches = command.try_get_matches_from(&self.0).map_err(clap_error)?;
            return Ok((from(&matches)?, Settings::default()));
        };
        let said = self.said_elsewhere(&serve).map_err(ParseError::Source)?;
        let (program, own) = self.0.split_at(2);
        let options = said.iter().flat_map(|(name, said)| said.options(name));
        let all = program.iter().cloned().chain(options);
        let matches = command
            .try_get_matches_from(all.chain(own.iter().cloned()))
            .map_err(|error| blame(error, &said))?;
        let cli = from(&matches)?;
        let settings = matches.subcommand_matches("serve");
        let settings = settings.map_or_else(Settings::default, |matches| {
            Settings::new(&serve, matches, &said)
        });
        Ok((cli, settings))
    }

    /// What other sources say about options that the command line does not mention.
    fn said_elsewhere(&self, serve: &Command) -> Result<BTreeMap<String, Said>, CliError> {
        let given = self.given(serve);
        let environment = Environment::read()?;
        let config = given.get("config").cloned().flatten();
        let config = config.or_else(|| environment.variable("GLM_CONFIG").map(|(value, _)| value));
        let mut file = match config {
            Some(path) => read_file(Path::new(&path), serve)?,
            None => BTreeMap::new(),
        };
        let mut said = BTreeMap::new();
        for arg in settings(serve) {
            let name = name_of(arg);
            if given.contains_key(name) {
                continue;
            }
            let found = environment.find(arg)?.or_else(|| file.remove(name));
            if let Some(found) = found {
                said.insert(name.to_owned(), found);
            }
        }
        Ok(said)
    }

    /// The options on the command line, with their value where it is plain to see.
    fn given(&self, serve: &Command) -> BTreeMap<String, Option<String>> {
        let mut given = BTreeMap::new();
        let mut words = self
            .0
            .iter()
            .skip(2)
            .map(|word| word.to_string_lossy())
            .peekable();
        while let Some(word) = words.next() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value.to_owned())),
                None => (&*word, words.peek().map(ToString::to_string)),
            };
            let long = option.strip_prefix("--");
            let short = option
                .strip_prefix('-')
                .and_then(|rest| rest.chars().next());
            let is_it = |arg: &&Arg| match long {
                Some(long) => arg.get_long() == Some(long),
                None => short.is_some() && arg.get_short() == short,
            };
            if let Some(arg) = serve.get_arguments().find(is_it) {
                given.insert(name_of(arg).to_owned(), value);
            }
        }
        given
    }
}

/// What one source says about one option.
#[derive(Debug, Clone)]
struct Said {
    /// None: a switch that is off.
    values: Vec<String>,
    is_switch: bool,
    source: Source,
}

impl Said {
    /// # Errors
    /// What was expected of a switch.
    fn new(arg: &Arg, values: Vec<String>, source: Source) -> Result<Self, CliError> {
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        let mut said = Self {
            values,
            is_switch,
            source,
        };
        if is_switch {
            let value = said.values.concat();
            match value.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => {}
                "false" | "0" | "no" | "off" => said.values.clear(),
                _ => {
                    let (name, source) = (name_of(arg).replace('-', "_"), said.source);
                    return Err(CliError::Usage(format!(
                        "{name} is true or false, found `{value}` ({source})"
                    )));
                }
            }
        }
        Ok(said)
    }

    fn options(&self, name: &str) -> Vec<OsString> {
        let option = |value: &String| match self.is_switch {
            true => format!("--{name}").into(),
            false => format!("--{name}={value}").into(),
        };
        self.values.iter().map(option).collect()
    }
}

/// The variables of the process, and those of `.env`.
struct Environment {
    dotenv: BTreeMap<String, String>,
}

impl Environment {
    fn read() -> Result<Self, CliError> {
        let wrong =
            |error: dotenvy::Error| CliError::Usage(format!("cannot read {DOTENV}: {error}"));
        let dotenv = match Path::new(DOTENV).is_file() {
            true => dotenvy::from_path_iter(DOTENV)
                .and_then(Iterator::collect::<Result<_, _>>)
                .map_err(wrong)?,
            false => BTreeMap::new(),
        };
        Ok(Self { dotenv })
    }

    /// What a variable says; an empty one says nothing.
    fn variable(&self, name: &str) -> Option<(String, Source)> {
        let own = env::var(name).ok().filter(|value| !value.is_empty());
        let own = own.map(|value| (value, Source::Environment(name.to_owned())));
        own.or_else(|| {
            let value = self.dotenv.get(name).filter(|value| !value.is_empty())?;
            Some((value.clone(), Source::DotEnv(name.to_owned())))
        })
    }

    fn find(&self, arg: &Arg) -> Result<Option<Said>, CliError> {
        let name = name_of(arg);
        let alias = ALIASES.iter().find(|(of, _)| *of == name);
        let found = self.variable(&variable_of(name));
        let found = found.or_else(|| alias.and_then(|(_, alias)| self.variable(alias)));
        let Some((value, source)) = found else {
            return Ok(None);
        };
        let values = match is_list(arg) {
            true => value.split(',').map(str::to_owned).collect(),
            false => vec![value],
        };
        Said::new(arg, values, source).map(Some)
    }
}

/// The settings of a file, each under the name of its option.
fn read_file(path: &Path, serve: &Command) -> Result<BTreeMap<String, Said>, CliError> {
    let wrong = |problem: String| CliError::Usage(format!("{}: {problem}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let mut said = BTreeMap::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let Some(arg) = settings(serve).find(|arg| name_of(arg) == name) else {
            let known = settings(serve).map(|arg| name_of(arg).replace('-', "_"));
            return Err(wrong(unknown(&key, known)));
        };
        let values = values(&value).ok_or_else(|| {
            wrong(format!(
                "{key} is {}: expected a value or a list of values",
                value.type_str()
            ))
        })?;
        if values.len() != 1 && !is_list(arg) {
            return Err(wrong(format!("{key} takes one value")));
        }
        let source = Source::File(path.to_owned());
        said.insert(name, Said::new(arg, values, source)?);
    }
    Ok(said)
}

fn values(value: &toml::Value) -> Option<Vec<String>> {
    let one = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(value.to_string()),
        _ => None,
    };
    match value {
        toml::Value::Array(values) => values.iter().map(one).collect(),
        value => Some(vec![one(value)?]),
    }
}

/// `key` is not known; `known` are those that are.
fn unknown(key: &str, known: impl Iterator<Item = String>) -> String {
    let similarity = |name: &String| (strsim::jaro_winkler(key, name) * 1e6) as u32;
    let closest = known.max_by_key(similarity).unwrap_or_default();
    format!("{key} is not a setting: do you mean {closest}? (serve --print-config shows all)")
}

/// Options that are settings.
fn settings(serve: &Command) -> impl Iterator<Item = &Arg> {
    serve
        .get_arguments()
        .filter(|arg| arg.get_long().is_some_and(|long| !ACTIONS.contains(&long)))
}

fn name_of(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

fn variable_of(name: &str) -> String {
    format!("GLM_{}", name.replace('-', "_").to_ascii_uppercase())
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn from(matches: &ArgMatches) -> Result<Cli, ParseError> {
    Cli::from_arg_matches(matches).map_err(clap_error)
}

fn clap_error(error: clap::Error) -> ParseError {
    ParseError::Clap(Box::new(error))
}

/// An error about an option that was never typed says where it comes from.
fn blame(error: clap::Error, said: &BTreeMap<String, Said>) -> ParseError {
    let about = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => option.trim_start_matches("--"),
        _ => return clap_error(error),
    };
    let name = about.split([' ', '=']).next().unwrap_or_default();
    match said.get(name) {
        Some(said) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.trim_start_matches("error: ");
            ParseError::Source(CliError::Usage(format!("{line} ({})", said.source)))
        }
        None => clap_error(error),
    }
}

impl Settings {
    fn new(serve: &Command, matches: &ArgMatches, said: &BTreeMap<String, Said>) -> Self {
        let setting = |arg: &Arg| {
            let name = name_of(arg);
            let id = arg.get_id().as_str();
            let raw = matches.get_raw(id).into_iter().flatten();
            let source = match (said.get(name), matches.value_source(id)) {
                (Some(said), _) => said.source.clone(),
                (None, Some(clap::parser::ValueSource::CommandLine)) => Source::CommandLine,
                _ => Source::Default,
            };
            let values: Vec<_> = match arg.get_action() {
                ArgAction::SetTrue => vec![matches.get_flag(id).to_string()],
                _ => raw
                    .map(|value| value.to_string_lossy().into_owned())
                    .collect(),
            };
            Setting {
                name: name.to_owned(),
                values,
                is_list: is_list(arg),
                source,
            }
        };
        Self(settings(serve).map(setting).collect())
    }

    /// Where the value of an option comes from.
    pub fn source(&self, name: &str) -> Option<&Source> {
        let setting = self.0.iter().find(|setting| setting.name == name);
        setting.map(|setting| &setting.source)
    }
}

/// A file for `--config` that says what holds now, but for secrets, with the source of each value beside it.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for setting in &self.0 {
            let key = setting.name.replace('-', "_");
            let hidden = SECRETS.contains(&setting.name.as_str());
            // What nobody has said is there to be read, not to be said again.
            let comment = match setting.source {
                Source::Default => "# ",
                _ => "",
            };
            let line = match (&setting.values[..], setting.is_list) {
                ([], _) => format!("# {key} ="),
                (_, false) if hidden => format!("# {key} = \"***\""),
                ([value], false) => format!("{comment}{key} = {}", quoted(value)),
                (values, _) => {
                    let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                    format!("{comment}{key} = [{}]", values.join(", "))
                }
            };
            writeln!(f, "{line:<40} # {}", setting.source)?;
        }
        Ok(())
    }
}

/// A value as TOML has it, without the password of a URL.
fn quoted(value: &str) -> String {
    if value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok() {
        return value.to_owned();
    }
    let value = match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, rest)), Some((_, host))) if rest.contains('@') => {
            let user = rest.split([':', '@']).next();
            format!("{scheme}://{}:***@{host}", user.unwrap_or_default())
        }
        _ => value.to_owned(),
    };
    let mut text = "\"".to_owned();
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{:04X}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}
