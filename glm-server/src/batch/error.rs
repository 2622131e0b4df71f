//! Why a batch cannot be run, or not further.

use std::io;
use std::path::{Path, PathBuf};

use glm_runtime::EngineError;

/// Why a batch cannot be run, or not further. What is wrong with a single line is no error of the batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The operating system refused something.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A pipe, a device or a directory.
    #[error(
        "{0} is not a regular file: a batch reads its files from the start, again each time that it is run"
    )]
    NotAFile(PathBuf),
    /// Results would be read as requests.
    #[error("{0} is both input and output: name another output")]
    SameFile(PathBuf),
    /// Another batch is writing there.
    #[error("{0} is being written by another run: wait for its end, or name another output")]
    Locked(PathBuf),
    /// The output holds something else.
    #[error(
        "{path}: line {line} is not a result of a batch: name another output, or move this file away"
    )]
    NotAResult {
        /// The output.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
    },
    /// The output has two results of one request.
    #[error("{path}: there are two results of line {line} of the input: delete one of them")]
    TwoResults {
        /// The output.
        path: PathBuf,
        /// The line of the input, from 1.
        line: u64,
    },
    /// The output holds results of another input.
    #[error(
        "{output} holds the results of another input than {input}: its result of line {line} does not belong to that line; name another output"
    )]
    OtherInput {
        /// The input.
        input: PathBuf,
        /// The output.
        output: PathBuf,
        /// The first line of the input, from 1, that has another `custom_id` than its result.
        line: u64,
    },
    /// The engine has ended; every result that was there is written.
    #[error(transparent)]
    Engine(EngineError),
}

impl BatchError {
    /// For `map_err`.
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
