//! Tokenizers against the libraries that own their formats (`data/make_tokenizer_cases.py`), and against hostile files.

use std::path::Path;

use glm_core::tokenizer::{GgufVocab, SpecialTokens, TokenKind, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde_json::Value;

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tokenizer")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases(name: &str) -> Value {
    serde_json::from_slice(&data(name)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn list<'v>(cases: &'v Value, name: &str) -> &'v [Value] {
    let list = cases[name].as_array().unwrap();
    assert!(list.len() > 100);
    list
}

fn hugging_face() -> Tokenizer {
    Tokenizer::from_hf_json(&data("tokenizer.json"), Path::new("tokenizer.json")).unwrap()
}

fn tiktoken() -> Tokenizer {
    let config = String::from_utf8(data("tiktoken_config.json")).unwrap();
    Tokenizer::from_tiktoken(
        &data("tiktoken.model"),
        Some(&config),
        Path::new("tokenizer.model"),
    )
    .unwrap()
}

fn sentencepiece(name: &str) -> Tokenizer {
    Tokenizer::from_sentencepiece(
        &data(&format!("{name}.model")),
        None,
        Path::new("tokenizer.model"),
    )
    .unwrap()
}

fn through_gguf(tokenizer: &Tokenizer) -> Tokenizer {
    Tokenizer::from_gguf(
        tokenizer.to_gguf(tokenizer.vocab_size() + 7),
        Path::new("model.gguf"),
    )
    .unwrap()
}

fn all_kinds() -> Vec<(&'static str, Tokenizer)> {
    let (bpe, spm) = (hugging_face(), sentencepiece("spm_bpe"));
    let mut kinds = vec![
        ("gguf bpe", through_gguf(&bpe)),
        ("gguf spm", through_gguf(&spm)),
        ("bpe", bpe),
        ("spm", spm),
    ];
    kinds.extend([
        ("tiktoken", tiktoken()),
        ("unigram", sentencepiece("spm_unigram")),
        ("suffix", sentencepiece("spm_suffix")),
    ]);
    kinds
}

#[test]
fn byte_level_bpe_encodes_as_tokenizers_and_tiktoken() {
    let cases = cases("bpe.json");
    for tokenizer in [
        hugging_face(),
        tiktoken(),
        through_gguf(&hugging_face()),
        through_gguf(&tiktoken()),
    ] {
        assert_eq!(tokenizer.prefix(), ids(&cases["prefix"]));
        for case in list(&cases, "encode") {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                tokenizer.encode(text, SpecialTokens::Parse).unwrap(),
                ids(&case["ids"]),
                "{text:?}"
            );
            assert_eq!(
                tokenizer.encode(text, SpecialTokens::Parse).unwrap(),
                ids(&case["tiktoken"]),
                "{text:?}"
            );
            assert_eq!(
                tokenizer.encode(text, SpecialTokens::Plain).unwrap(),
                ids(&case["plain"]),
                "{text:?}"
            );
        }
        for case in list(&cases, "decode") {
            let ids = ids(&case["ids"]);
            assert_eq!(
                tokenizer.decode(&ids, false),
                case["text"].as_str().unwrap(),
                "{ids:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids, true),
                case["skipped"].as_str().unwrap(),
                "{ids:?}"
            );
        }
    }
}

#[test]
fn sentencepiece_encodes_and_decodes_as_the_library() {
    for name in ["spm_bpe", "spm_unigram", "spm_suffix"] {
        let tokenizer = sentencepiece(name);
        let cases = cases(&format!("{name}.json"));
        for case in list(&cases, "encode") {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                tokenizer.encode(text, SpecialTokens::Plain).unwrap(),
                ids(&case["ids"]),
                "{name}: {text:?}"
            );
        }
        for case in list(&cases, "decode") {
            let ids = ids(&case["ids"]);
            assert_eq!(
                tokenizer.decode(&ids, false),
                case["text"].as_str().unwrap(),
                "{name}: {ids:?}"
            );
        }
    }
}

#[test]
fn a_chatglm_vocabulary_survives_gguf() {
    let (tokenizer, cases) = (
        through_gguf(&sentencepiece("spm_bpe")),
        cases("spm_bpe.json"),
    );
    for case in list(&cases, "encode") {
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text, SpecialTokens::Plain).unwrap(),
            ids(&case["ids"]),
            "{text:?}"
        );
    }
    for case in list(&cases, "decode") {
        let ids = ids(&case["ids"]);
        assert_eq!(
            tokenizer.decode(&ids, false),
            case["text"].as_str().unwrap(),
            "{ids:?}"
        );
    }
}

/// Reference: after 64789 pieces, ChatGLM3 has [MASK] 64789, [gMASK] 64790, ..., <|observation|> 64797.
#[test]
fn chatglm_special_tokens_follow_the_pieces() {
    let tokenizer = sentencepiece("spm_bpe");
    let pieces = 470;
    let specials = [
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "sop",
        "eop",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ];
    for (offset, token) in specials.into_iter().enumerate() {
        let id = pieces + offset as u32;
        assert_eq!(tokenizer.token_to_id(token), Some(id));
        assert!(tokenizer.is_special(id));
    }
    assert_eq!(tokenizer.prefix(), [pieces + 1, pieces + 3]);
    assert_eq!(tokenizer.vocab_size(), 479);
    let parsed = tokenizer
        .encode("Hi<|user|>Hi", SpecialTokens::Parse)
        .unwrap();
    let hi = tokenizer.encode("Hi", SpecialTokens::Plain).unwrap();
    assert_eq!(parsed, [&hi[..], &[pieces + 6], &hi].concat());
    assert_eq!(tokenizer.decode(&parsed, false), "Hi<|user|>Hi");
    assert!(
        !tokenizer
            .encode("<|user|>", SpecialTokens::Plain)
            .unwrap()
            .contains(&(pieces + 6))
    );
}

/// Some `tokenizer_config.json` list added tokens; they win over the built-in names after the pieces.
#[test]
fn sentencepiece_configuration_adds_tokens() {
    let config = r#"{"added_tokens_decoder": {"2": {"content": "</s>", "special": true}, "479": {"content": "<tool>", "special": false}}}"#;
    let tokenizer = Tokenizer::from_sentencepiece(
        &data("spm_bpe.model"),
        Some(config),
        Path::new("tokenizer.model"),
    )
    .unwrap();
    assert_eq!(tokenizer.token_to_id("<tool>"), Some(479));
    assert_eq!(tokenizer.kind_of(479), TokenKind::UserDefined);
    assert_eq!(
        tokenizer.encode("<tool>", SpecialTokens::Parse).unwrap(),
        [479]
    );
}

#[test]
fn token_bytes_are_what_decoding_joins() {
    for (name, tokenizer) in all_kinds() {
        let text = "Trains leave at 7:45 早上好";
        let ids = tokenizer.encode(text, SpecialTokens::Plain).unwrap();
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| tokenizer.token_bytes(id))
            .collect();
        let joined = String::from_utf8(bytes).unwrap();
        if name != "unigram" && name != "suffix" {
            assert_eq!(joined.trim_start(), text, "{name}");
        }
        assert!(tokenizer.token_bytes(u32::MAX).is_empty());
        assert_eq!(tokenizer.id_to_token(u32::MAX), None);
        for (token, id) in tokenizer.added_tokens() {
            assert_eq!(
                (tokenizer.id_to_token(id), tokenizer.token_to_id(token)),
                (Some(token), Some(id)),
                "{name}"
            );
        }
    }
}

#[test]
fn a_tokenizer_larger_than_the_model_is_refused() {
    let tokenizer = hugging_face();
    assert!(tokenizer.check_vocab(tokenizer.vocab_size()).is_ok());
    assert!(tokenizer.check_vocab(151_552).is_ok());
    let error = tokenizer
        .check_vocab(tokenizer.vocab_size() - 1)
        .unwrap_err();
    assert!(matches!(error, TokenizerError::VocabMismatch { .. }));
    assert!(
        error.to_string().contains("/nothink") && error.to_string().contains("tokenizer.json"),
        "{error}"
    );
}

#[test]
fn padding_rows_of_a_gguf_are_no_tokens() {
    let tokenizer = through_gguf(&hugging_face());
    let last = tokenizer.vocab_size() as u32 - 1;
    assert_eq!(
        (tokenizer.id_to_token(last), tokenizer.kind_of(last)),
        (None, TokenKind::Unused)
    );
    assert_eq!(tokenizer.decode(&[last], false), "");
    assert_eq!(
        tokenizer.to_gguf(0),
        hugging_face().to_gguf(tokenizer.vocab_size())
    );
}

#[test]
fn text_that_spells_an_added_token_stays_text_when_plain() {
    for (name, tokenizer) in all_kinds() {
        for text in [
            "/nothink",
            "<|user|>",
            "<think>",
            "[gMASK]sop<sop>",
            "</s>",
            "<s>",
            "<unk>",
        ] {
            let plain = tokenizer.encode(text, SpecialTokens::Plain).unwrap();
            let unknown = tokenizer.token_to_id("<unk>");
            let special = plain
                .iter()
                .filter(|&&id| tokenizer.is_special(id) && Some(id) != unknown && id != 0);
            assert_eq!(special.count(), 0, "{name}: {text} -> {plain:?}");
            assert!(
                tokenizer.added_tokens().all(|(_, id)| !plain.contains(&id)),
                "{name}: {text} -> {plain:?}"
            );
        }
    }
}

/// A million blanks used to be where backtracking engines give up.
#[test]
fn long_runs_of_blanks_are_encoded_and_come_back() {
    let tokenizer = hugging_face();
    for text in [
        " ".repeat(1_200_000),
        "\n".repeat(100_000),
        format!("{}x", " \t".repeat(50_000)),
    ] {
        let ids = tokenizer.encode(&text, SpecialTokens::Parse).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text);
    }
}

mod hostile {
    use super::*;

    fn error(result: Result<Tokenizer, TokenizerError>) -> String {
        let text = result.expect_err("refused").to_string();
        assert!(!text.contains('\n') && text.contains("file"), "{text}");
        text
    }

    fn hf(json: &str) -> String {
        error(Tokenizer::from_hf_json(
            json.as_bytes(),
            Path::new("file.json"),
        ))
    }

    fn with_model(model: &str) -> String {
        let byte_level = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
        format!(r#"{{"pre_tokenizer":{byte_level},"decoder":{byte_level},"model":{model}}}"#)
    }

    #[test]
    fn tokenizer_json_that_is_not_glms() {
        assert!(hf("").contains("file.json is not a readable tokenizer file"));
        assert!(hf("{}").contains("missing field `model`"));
        assert!(
            hf(r#"{"model":{"type":"WordPiece","vocab":{"a":0}}}"#)
                .contains("model.type is WordPiece, expected BPE")
        );
        assert!(
            hf(r#"{"model":{"vocab":{"a":0}},"decoder":{"type":"Metaspace"}}"#)
                .contains("decoder is Metaspace")
        );
        assert!(hf(&with_model(r#"{"vocab":{}}"#)).contains("0 token ids"));
        assert!(hf(&with_model(r#"{"vocab":{"a":4000000000}}"#)).contains("4000000001 token ids"));
        assert!(
            hf(&with_model(r#"{"vocab":{"a":0,"b":0}}"#)).contains("another token has this id")
        );
        assert!(
            hf(&with_model(r#"{"vocab":{"a":0,"b":1},"merges":["a b"]}"#))
                .contains("`ab` is not in the vocabulary")
        );
        assert!(
            hf(&with_model(r#"{"vocab":{"a":0},"merges":[["a","x"]]}"#))
                .contains("`x` is not in the vocabulary")
        );
        assert!(hf(&with_model(r#"{"vocab":{"a":0},"merges":["a"]}"#)).contains("merge 0"));
        assert!(hf(&with_model(r#"{"vocab":{"a":0},"dropout":0.1}"#)).contains("model.dropout"));
        let bad_regex = with_model(r#"{"vocab":{"a":0}}"#)
            .replacen(r#"{"type":"ByteLevel""#, r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated","invert":false},{"type":"ByteLevel""#, 1)
            .replacen(r#""use_regex":false}"#, r#""use_regex":false}]}"#, 1);
        assert!(hf(&bad_regex).contains("file.json"), "{}", hf(&bad_regex));
    }

    #[test]
    fn duplicate_merges_are_harmless() {
        let model = r#"{"vocab":{"a":0,"b":1,"ab":2,"aba":3},"merges":["a b","a b","ab a","a b"]}"#;
        let path = Path::new("file.json");
        let tokenizer = Tokenizer::from_hf_json(with_model(model).as_bytes(), path).unwrap();
        // the last place of a doubled merge counts, as in the tokenizers crate: `ab a` comes before the last `a b`
        let ids = tokenizer.encode("abab", SpecialTokens::Plain).unwrap();
        assert_eq!(ids, [3, 1]);
        let unknown = tokenizer.encode("c", SpecialTokens::Plain).unwrap_err();
        assert!(
            matches!(unknown, TokenizerError::Unencodable { byte: b'c' }),
            "{unknown}"
        );
    }

    #[test]
    fn rank_files() {
        let ranks = |text: &str| {
            error(Tokenizer::from_tiktoken(
                text.as_bytes(),
                None,
                Path::new("file.model"),
            ))
        };
        assert!(ranks("").contains("file.model:1: the file has no ranks"));
        assert!(ranks("YQ== 0\nYg==1\n").contains("file.model:2: no blank"));
        assert!(ranks("*** 0\n").contains("not base64"));
        assert!(ranks("YQ== x\n").contains("rank is not a number"));
        assert!(ranks("YQ== -1\n").contains("rank is not a number"));
        assert!(ranks("YQ== 0\nYQ== 1\n").contains("was there before"));
        assert!(ranks("YQ== 0\nYg== 0\n").contains("another token has this id"));
        assert!(ranks("YQ== 4294967295\n").contains("4294967296 token ids"));
        assert!(ranks(&format!("{} 0\n", "AAAA".repeat(400))).contains("longer than 1024"));
        let config = r#"{"added_tokens_decoder": {"0": {"content": "<x>"}}}"#;
        assert!(
            error(Tokenizer::from_tiktoken(
                b"YQ== 0\n",
                Some(config),
                Path::new("file.model")
            ))
            .contains("another token has this id")
        );
        let config = r#"{"added_tokens_decoder": {"x": {"content": "<x>"}}}"#;
        assert!(
            Tokenizer::from_tiktoken(b"YQ== 0\n", Some(config), Path::new("file.model")).is_err()
        );
    }

    #[test]
    fn sentencepiece_models() {
        let model = data("spm_bpe.model");
        let read =
            |bytes: &[u8]| Tokenizer::from_sentencepiece(bytes, None, Path::new("file.model"));
        assert!(error(read(&model[..model.len() - 3])).contains("cut off"));
        assert!(
            error(read(&[
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
            ]))
            .contains("cut off")
        ); // a length of 2^64 - 1
        assert!(error(read(&[0x0a, 0x03, 0x0a, 0x01, 0xff])).contains("not UTF-8"));
        assert!(error(read(&[0x0b])).contains("type that protobuf does not know"));
        assert!(
            error(read(&[0x12, 0x02, 0x18, 0x03])).contains("trainer_spec.model_type is type 3")
        );
        assert!(error(read(&[])).contains("0 token ids"));
        assert!(error(read(&[0x0a, 0x02, 0x0a, 0x00])).contains("the piece is empty"));
        assert!(
            error(read(&[0x0a, 0x05, 0x0a, 0x01, b'a', 0x18, 0x09]))
                .contains("its type is not one of")
        );
    }

    #[test]
    fn gguf_vocabularies() {
        let vocab = |edit: fn(&mut GgufVocab)| {
            let mut vocab = hugging_face().to_gguf(0);
            edit(&mut vocab);
            error(Tokenizer::from_gguf(vocab, Path::new("file.gguf")))
        };
        assert!(vocab(|v| v.model = "bert".into()).contains("tokenizer.ggml.model is bert"));
        assert!(
            vocab(|v| v.pre = Some("llama-bpe".into())).contains("tokenizer.ggml.pre is llama-bpe")
        );
        assert!(vocab(|v| v.tokens.clear()).contains("0 token ids"));
        assert!(vocab(|v| v.token_types.truncate(3)).contains("token_type"));
        assert!(vocab(|v| v.token_types[5] = 9).contains("token 5"));
        assert!(
            vocab(|v| v.tokens[7] = v.tokens[8].clone())
                .contains("an earlier token has the same text")
        );
        assert!(vocab(|v| v.merges[0] = "Ġ zzzz".into()).contains("merge 0"));
        assert!(vocab(|v| v.merges[0] = "a b c".into()).contains("merge 0"));
        assert!(
            vocab(|v| v.model = "llama".into()).contains("pre is glm4")
                || vocab(|v| v.model = "llama".into()).contains("scores")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Flipped bytes, cut and grown files: an error or a tokenizer that works, never a panic.
        #[test]
        fn damaged_files_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
                                     cut in any::<prop::sample::Index>(), which in 0..4usize) {
            let name = ["tokenizer.json", "tiktoken.model", "spm_bpe.model", "spm_unigram.model"][which];
            let mut bytes = data(name);
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if flips.len() % 2 == 1 {
                bytes.truncate(cut.index(bytes.len()));
            }
            let path = Path::new(name);
            let read = match which { 0 => Tokenizer::from_hf_json(&bytes, path), 1 => Tokenizer::from_tiktoken(&bytes, None, path), _ => Tokenizer::from_sentencepiece(&bytes, None, path) };
            if let Ok(tokenizer) = read {
                let ids = tokenizer.encode("Trains 早上 <sep> 🦙\u{a0}", SpecialTokens::Parse);
                tokenizer.decode(&ids.unwrap_or_default(), false);
                let _ = Tokenizer::from_gguf(tokenizer.to_gguf(0), path);
            }
        }

        #[test]
        fn noise_is_no_tokenizer_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let path = Path::new("noise");
            let _ = Tokenizer::from_hf_json(&bytes, path);
            let _ = Tokenizer::from_tiktoken(&bytes, None, path);
            let _ = Tokenizer::from_sentencepiece(&bytes, None, path);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What a stream emits makes up what decoding the whole list gives, and holds back at most a character.
    #[test]
    fn a_stream_is_the_decoded_list(raw in prop::collection::vec(0..520u32, 0..40), skip in any::<bool>()) {
        thread_local!(static KINDS: Vec<(&'static str, Tokenizer)> = all_kinds());
        KINDS.with(|kinds| -> Result<(), TestCaseError> {
            for (name, tokenizer) in kinds {
                let mut stream = tokenizer.decode_stream(skip);
                let mut text = String::new();
                for &id in &raw {
                    text.extend(stream.push(id));
                }
                text.extend(stream.finish());
                prop_assert_eq!(&text, &tokenizer.decode(&raw, skip), "{}", name);
                prop_assert_eq!(stream.finish(), None);
            }
            Ok(())
        })?;
    }

    /// Any text comes back (sentencepiece: with byte fallback), streamed or whole.
    #[test]
    fn text_survives_the_round_trip(text in "\\PC{0,30}|[ \\n\\t'a-c0-9]{0,20}|[^\u{2581}]{0,12}") {
        thread_local!(static KINDS: Vec<(&'static str, Tokenizer)> = all_kinds());
        let text = text.replace('\u{2581}', ""); // sentencepiece cannot tell it from a blank
        KINDS.with(|kinds| -> Result<(), TestCaseError> {
            for (name, tokenizer) in kinds.iter().filter(|(name, _)| *name != "unigram" && *name != "suffix") {
                let ids = tokenizer.encode(&text, SpecialTokens::Plain).unwrap();
                prop_assert_eq!(&tokenizer.decode(&ids, false), &text, "{}", name);
            }
            Ok(())
        })?;
    }
}
