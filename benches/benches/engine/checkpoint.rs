//! A checkpoint with random weights and a made-up tokenizer: grammars are about text, and `random:` has none.
//!
//! The vocabulary has the size of the model's and the make-up of a real one: all bytes, numbers, marks alone and in pairs, characters beyond ASCII,
//! and words of one to three syllables with and without a blank before them. Masks cost what they cost because of such things: how many tokens
//! begin alike, and how many are text that a string may hold.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use glm_runtime::{ModelSource, OpenOptions, TensorSpec, WeightFormat};
use safetensors::{Dtype, View, serialize_to_file};
use serde_json::{Map, Value, json};

/// Special tokens of the family, in the order of their ids from the first end of sequence on.
const SPECIAL: [&str; 10] = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

/// Writes the checkpoint of `random:PRESET`, as large as its weights in bf16, into `folder`.
///
/// # Panics
/// If there is no such preset, or the disk is full.
pub fn write(model: &str, folder: &Path) {
    let preset = model.strip_prefix("random:").and_then(glm_models::preset);
    let preset = preset.unwrap_or_else(|| panic!("`{model}` is not random:PRESET"));
    let config: Value = serde_json::from_str(preset.config_json).expect("a configuration");
    let first_special = config["eos_token_id"][0].as_u64().expect("a token id");
    let files = [
        ("config.json", config.to_string()),
        (
            "tokenizer.json",
            tokenizer(first_special as usize).to_string(),
        ),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("room on the disk");
    }
    let source = ModelSource::open(model, &OpenOptions::default(), 0).expect("a preset");
    let drawn = source.tensors().iter().map(|spec| Drawn {
        source: &source,
        spec,
    });
    let tensors = drawn.map(|drawn| (&drawn.spec.name, drawn));
    serialize_to_file(tensors, None, &folder.join("model.safetensors")).expect("room on the disk");
}

/// A random tensor, drawn when it is written.
struct Drawn<'a> {
    source: &'a ModelSource,
    spec: &'a TensorSpec,
}

impl View for Drawn<'_> {
    fn dtype(&self) -> Dtype {
        match self.spec.format {
            WeightFormat::F32 => Dtype::F32,
            _ => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.source.read(&self.spec.name).expect("drawn").bytes
    }

    fn data_len(&self) -> usize {
        self.spec.elements() as usize * self.dtype().bitsize() / 8
    }
}

/// A `tokenizer.json` with `words` tokens and the special ones behind them. There are no merges: nobody encodes a text.
fn tokenizer(words: usize) -> Value {
    let mut vocab = Map::new();
    for word in bytes().chain(texts(words / 6)) {
        if vocab.len() == words {
            break;
        }
        let id = vocab.len();
        vocab.entry(word).or_insert(json!(id));
    }
    let special = |(i, content): (usize, &&str)| json!({"id": words + i, "content": content, "special": true});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    json!({
        "added_tokens": SPECIAL.iter().enumerate().map(special).collect::<Vec<_>>(),
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

fn bytes() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|byte| spelled(&[byte]))
}

/// Texts of a vocabulary without end, `characters` of them beyond ASCII.
fn texts(characters: usize) -> impl Iterator<Item = String> {
    let marks = || (b'!'..=b'~').filter(u8::is_ascii_punctuation);
    let pairs = marks().flat_map(move |a| marks().map(move |b| spelled(&[a, b])));
    let after_blank = marks().map(|mark| spelled(&[b' ', mark]));
    let numbers = (0..1000).map(|n| n.to_string());
    // The common characters of Chinese begin at U+4E00.
    let beyond = (0x4e00..).map_while(char::from_u32).take(characters);
    let beyond = beyond.map(|character| spelled(character.to_string().as_bytes()));
    let words = (0..).flat_map(|n| {
        let word = word(n);
        let capital = word[..1].to_uppercase() + &word[1..];
        [format!(" {word}"), format!(" {capital}"), word].map(|word| spelled(word.as_bytes()))
    });
    pairs
        .chain(after_blank)
        .chain(numbers)
        .chain(beyond)
        .chain(words)
}

/// The `n`-th word: its syllables are the digits of `n`.
fn word(n: usize) -> String {
    const ONSETS: [&str; 14] = [
        "b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "st", "th",
    ];
    const RIMES: [&str; 10] = ["a", "e", "i", "o", "u", "an", "er", "ing", "on", "al"];
    let base = ONSETS.len() * RIMES.len();
    let (first, rest) = (n % base, n / base);
    let syllable = ONSETS[first % ONSETS.len()].to_owned() + RIMES[first / ONSETS.len()];
    match rest {
        0 => syllable,
        _ => syllable + &word(rest - 1),
    }
}

/// Bytes in the characters of GPT-2's table: printable Latin-1 stands for itself, the rest for characters from U+0100 on, in order.
fn spelled(bytes: &[u8]) -> String {
    let is_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let character = |&byte: &u8| match is_itself(&byte) {
        true => char::from(byte),
        false => {
            let nth = (0..byte).filter(|before| !is_itself(before)).count();
            char::from_u32(0x100 + nth as u32).expect("U+0100 to U+0143 are characters")
        }
    };
    bytes.iter().map(character).collect()
}
