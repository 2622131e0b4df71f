//! Parsers for option values: numbers in a range, lists, devices. Each error says what would have been right.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use glm_runtime::Speculation;

/// Where to run, as written after `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A graphics processor if one can be used, or else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected auto, cpu, cuda or cuda:N, found `{text}`");
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(wrong),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Token ids: `1,2,3` or a JSON list `[1, 2, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds(pub Vec<u32>);

impl FromStr for TokenIds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let inner = match (trimmed.strip_prefix('['), trimmed.strip_suffix(']')) {
            (Some(rest), Some(_)) => &rest[..rest.len() - 1],
            (None, None) => trimmed,
            _ => return Err("a list that opens with `[` must close with `]`".to_owned()),
        };
        if inner.trim().is_empty() {
            return Err("expected token ids such as 1,2,3, found none".to_owned());
        }
        let id = |item: &str| {
            item.parse::<u32>()
                .map_err(|_| format!("expected token ids such as 1,2,3, found `{item}`"))
        };
        let ids: Result<_, String> = if inner.contains(',') {
            inner.split(',').map(str::trim).map(id).collect()
        } else {
            inner.split_whitespace().map(id).collect()
        };
        ids.map(Self)
    }
}

/// A LoRA adapter, as written after `--adapter`: `NAME=DIR`, or `DIR`, whose last part is its name then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterChoice {
    /// The name that requests choose it by.
    pub name: String,
    /// The directory.
    pub path: PathBuf,
}

impl FromStr for AdapterChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected NAME=DIR or DIR, found `{text}`");
        // A name has no slash: `./a=b` is a directory.
        let named = text.split_once('=').filter(|(name, _)| !name.contains('/'));
        let (name, path) = match named {
            Some((name, path)) => (name.to_owned(), path),
            None => {
                let last = Path::new(text).file_name().ok_or_else(wrong)?;
                (last.to_string_lossy().into_owned(), text)
            }
        };
        if name.is_empty() || path.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            name,
            path: path.into(),
        })
    }
}

/// A way to guess tokens, as written after `--speculate`.
pub fn speculation(text: &str) -> Result<Speculation, String> {
    match (text, text.strip_prefix("draft=")) {
        ("off", _) => Ok(Speculation::Off),
        ("ngram", _) => Ok(Speculation::prompt_lookup()),
        (_, Some(model)) if !model.is_empty() => Ok(Speculation::draft_model(model)),
        _ => Err(format!(
            "expected off, ngram or draft=MODEL, found `{text}`"
        )),
    }
}

/// A number that is at least one.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>()
        .map(NonZeroUsize::get)
        .map_err(|_| format!("expected a whole number of at least 1, found `{text}`"))
}

/// A number that may be zero.
pub fn whole(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number of at least 0, found `{text}`"))
}

/// A size in bytes: a whole number, alone or with a unit, B to TiB or KB to TB.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("b", 1),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
    ];
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text[digits.len()..].trim().to_ascii_lowercase();
    let unit = UNITS
        .iter()
        .find(|(name, _)| *name == unit || unit.is_empty());
    let size = unit.and_then(|(_, unit)| digits.parse::<u64>().ok()?.checked_mul(*unit));
    size.ok_or_else(|| format!("expected a size such as 0, 512MiB or 4GiB, found `{text}`"))
}

/// A time in seconds, such as 30 or 0.5.
pub fn seconds(text: &str) -> Result<Duration, String> {
    // More would overflow when it is added to a point in time.
    const MAX: f64 = 1e9;
    let seconds = text.parse().ok().filter(|seconds| *seconds <= MAX);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("expected a number of seconds from 0 to {MAX}, found `{text}`"))
}

/// A time in seconds above zero.
pub fn seconds_above_zero(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| format!("expected a number of seconds above 0, found `{text}`"))
}

/// A seed.
pub fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!(
            "expected a whole number from 0 to {}, found `{text}`",
            u64::MAX
        )
    })
}

/// A finite number that is at least zero: a temperature.
pub fn non_negative(text: &str) -> Result<f32, String> {
    number(text)
        .filter(|&value| value >= 0.0)
        .ok_or_else(|| format!("expected a number of at least 0, found `{text}`"))
}

/// A number above zero: a repetition penalty.
pub fn above_zero(text: &str) -> Result<f32, String> {
    number(text)
        .filter(|&value| value > 0.0)
        .ok_or_else(|| format!("expected a number above 0, found `{text}`"))
}

/// A probability from 0 to 1, both included.
pub fn probability(text: &str) -> Result<f32, String> {
    number(text)
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| format!("expected a number from 0 to 1, found `{text}`"))
}

/// A probability above 0: nucleus sampling needs some mass to choose from.
pub fn nucleus(text: &str) -> Result<f32, String> {
    probability(text)
        .ok()
        .filter(|&value| value > 0.0)
        .ok_or_else(|| format!("expected a number above 0 and at most 1, found `{text}`"))
}

fn number(text: &str) -> Option<f32> {
    text.parse::<f32>().ok().filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for name in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains("cuda:N"), "{wrong}: {error}");
        }
    }

    #[test]
    fn token_ids_in_both_spellings() {
        for text in ["1,2,3", "[1, 2, 3]", " [1,2,\n3] ", "1 2 3"] {
            assert_eq!(text.parse(), Ok(TokenIds(vec![1, 2, 3])), "{text}");
        }
        for wrong in [
            "",
            "[]",
            "[1,2",
            "1,2]",
            "1,x",
            "-1",
            "1.5",
            "4294967296",
            ",",
            "1,,2",
            "1,2,",
            "1 2,3",
        ] {
            assert!(wrong.parse::<TokenIds>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn adapters_with_a_name_and_without() {
        let adapter = |text: &str| text.parse::<AdapterChoice>();
        for (text, name, path) in [
            ("sql=/a/b", "sql", "/a/b"),
            ("/a/b", "b", "/a/b"),
            ("b/", "b", "b/"),
            ("./x=y", "x=y", "./x=y"),
            ("a=b=c", "a", "b=c"),
        ] {
            let expected = AdapterChoice {
                name: name.to_owned(),
                path: path.into(),
            };
            assert_eq!(adapter(text), Ok(expected), "{text}");
        }
        for wrong in ["", "=b", "a=", "/", ".."] {
            assert!(adapter(wrong).unwrap_err().contains("NAME=DIR"), "{wrong}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(seconds("30"), Ok(Duration::from_secs(30)));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for wrong in ["-1", "1e10", "nan", "inf", "soon", ""] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert!(seconds_above_zero("0").is_err());
        assert_eq!(seconds_above_zero("2"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn sizes_with_and_without_units() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("4 gb"), Ok(4_000_000_000));
        assert_eq!(bytes("12B"), Ok(12));
        for wrong in ["", "GiB", "-1", "1.5GiB", "4 apples", "99999999TiB", "0x10"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert_eq!(positive("7"), Ok(7));
        assert!(positive("0").is_err() && positive("-1").is_err() && positive("x").is_err());
        assert_eq!(whole("0"), Ok(0));
        assert!(whole("-1").is_err() && whole("1.5").is_err());
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").is_err());
        assert_eq!(non_negative("0"), Ok(0.0));
        assert!(non_negative("-0.1").is_err() && non_negative("inf").is_err());
        assert!(non_negative("NaN").is_err());
        assert_eq!(probability("1"), Ok(1.0));
        assert!(probability("1.01").is_err());
        assert!(nucleus("0").is_err() && nucleus("0.5").is_ok());
        assert!(above_zero("0").is_err() && above_zero("1.1").is_ok());
    }
}
