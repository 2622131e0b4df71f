//! What a program that measures is told on its command line: `NAME=VALUE`, and plain words.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// The command line behind `--`.
#[derive(Debug)]
pub struct Options {
    values: BTreeMap<String, String>,
    /// What has no `=`.
    pub words: Vec<String>,
}

impl Options {
    /// Reads the command line. Flags are Cargo's own.
    ///
    /// # Panics
    /// If a name is not in `known`: what is ignored would be measured wrongly.
    pub fn read(known: &[&str]) -> Self {
        let (mut values, mut words) = (BTreeMap::new(), Vec::new());
        for argument in std::env::args().skip(1) {
            match argument.split_once('=') {
                _ if argument.starts_with('-') => {}
                Some((name, value)) => {
                    assert!(
                        known.contains(&name),
                        "there is no `{name}`, only {}",
                        known.join(", ")
                    );
                    values.insert(name.to_owned(), value.to_owned());
                }
                None => words.push(argument),
            }
        }
        Self { values, words }
    }

    /// A value, if it was given.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Option<T> {
        let text = self.values.get(name)?;
        Some(parsed(name, text))
    }

    /// The values of `NAME=A,B,C`, if they were given.
    ///
    /// # Panics
    /// If one of them cannot be read.
    pub fn list<T: FromStr<Err: Display>>(&self, name: &str) -> Option<Vec<T>> {
        let text = self.values.get(name)?;
        Some(text.split(',').map(|part| parsed(name, part)).collect())
    }
}

fn parsed<T: FromStr<Err: Display>>(name: &str, text: &str) -> T {
    let value = text.parse();
    value.unwrap_or_else(|error| panic!("{name}={text}: {error}"))
}
