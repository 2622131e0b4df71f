//! Checks that hold for a configuration from any source.

use std::path::Path;

use super::{DenseConfig, RopeScaling};
use crate::error::LoadError;

/// Larger than any model of the family by two orders of magnitude; keeps every product below within 64 bits.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 4096;
/// Positions are 32-bit throughout.
pub(super) const MAX_POSITIONS: usize = 1 << 32;

/// The names under which a file spells the fields, for messages.
pub(super) struct FieldNames {
    pub(super) vocab_size: &'static str,
    pub(super) hidden_size: &'static str,
    pub(super) intermediate_size: &'static str,
    pub(super) num_hidden_layers: &'static str,
    pub(super) num_attention_heads: &'static str,
    pub(super) num_key_value_heads: &'static str,
    pub(super) head_dim: &'static str,
    pub(super) rotary_dim: &'static str,
    pub(super) rope_theta: &'static str,
    pub(super) rope_scaling: &'static str,
    pub(super) rms_norm_eps: &'static str,
    pub(super) max_position_embeddings: &'static str,
}

/// Refuses absurd and contradictory values.
pub(super) fn check(dense: &DenseConfig, names: &FieldNames, file: &Path) -> Result<(), LoadError> {
    check_sizes(dense, names, file)?;
    check_heads(dense, names, file)?;
    require(
        dense.rope_theta.is_finite() && dense.rope_theta > 1.0,
        names.rope_theta,
        "a finite number above 1".into(),
        dense.rope_theta.to_string(),
        file,
    )?;
    require(
        dense.rms_norm_eps > 0.0 && dense.rms_norm_eps < 1.0,
        names.rms_norm_eps,
        "a number between 0 and 1".into(),
        dense.rms_norm_eps.to_string(),
        file,
    )?;
    check_scaling(dense.rope_scaling, names, file)?;
    check_tokens(dense, file)
}

fn require(
    holds: bool,
    field: &str,
    expected: String,
    found: String,
    file: &Path,
) -> Result<(), LoadError> {
    if holds {
        Ok(())
    } else {
        Err(config_error(file, field, expected, found))
    }
}

fn check_sizes(dense: &DenseConfig, names: &FieldNames, file: &Path) -> Result<(), LoadError> {
    let sizes = [
        (names.vocab_size, dense.vocab_size, MAX_DIMENSION),
        (names.hidden_size, dense.hidden_size, MAX_DIMENSION),
        (
            names.intermediate_size,
            dense.intermediate_size,
            MAX_DIMENSION,
        ),
        (names.num_hidden_layers, dense.num_hidden_layers, MAX_LAYERS),
        (
            names.num_attention_heads,
            dense.num_attention_heads,
            MAX_DIMENSION,
        ),
        (
            names.num_key_value_heads,
            dense.num_key_value_heads,
            MAX_DIMENSION,
        ),
        (names.head_dim, dense.head_dim, 1 << 16),
        (
            names.max_position_embeddings,
            dense.max_position_embeddings,
            MAX_POSITIONS,
        ),
    ];
    sizes.into_iter().try_for_each(|(field, found, max)| {
        require(
            (1..=max).contains(&found),
            field,
            format!("1 to {max}"),
            found.to_string(),
            file,
        )
    })
}

/// How the heads divide each other, the hidden size and the rotary part; the sizes are known to be within their limits.
fn check_heads(dense: &DenseConfig, names: &FieldNames, file: &Path) -> Result<(), LoadError> {
    let (heads, head_dim) = (dense.num_attention_heads, dense.head_dim);
    require(
        heads.is_multiple_of(dense.num_key_value_heads),
        names.num_key_value_heads,
        format!("a divisor of {} = {heads}", names.num_attention_heads),
        dense.num_key_value_heads.to_string(),
        file,
    )?;
    require(
        heads * head_dim <= MAX_DIMENSION,
        names.head_dim,
        format!("at most {MAX_DIMENSION} over all heads"),
        head_dim.to_string(),
        file,
    )?;
    require(
        head_dim.is_multiple_of(2),
        names.head_dim,
        "an even number".into(),
        head_dim.to_string(),
        file,
    )?;
    require(
        dense.rotary_dim.is_multiple_of(2) && (2..=head_dim).contains(&dense.rotary_dim),
        names.rotary_dim,
        format!(
            "an even rotary width of 2 to {} = {head_dim}",
            names.head_dim
        ),
        format!("{} elements", dense.rotary_dim),
        file,
    )
}

fn check_scaling(scaling: RopeScaling, names: &FieldNames, file: &Path) -> Result<(), LoadError> {
    let check = |holds: bool, part: &str, expected: &str, found: String| {
        let field = format!("{}.{part}", names.rope_scaling);
        require(holds, &field, expected.to_owned(), found, file)
    };
    let factor_fits = |factor: f64| (1.0..=65536.0).contains(&factor);
    match scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => check(
            factor_fits(factor),
            "factor",
            "1 to 65536",
            factor.to_string(),
        ),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            attention_factor,
        } => {
            check(
                factor_fits(factor),
                "factor",
                "1 to 65536",
                factor.to_string(),
            )?;
            check(
                (1..=MAX_POSITIONS).contains(&original),
                "original_max_position_embeddings",
                "a positive number",
                original.to_string(),
            )?;
            let betas = beta_slow > 0.0 && beta_fast.is_finite() && beta_fast >= beta_slow;
            check(
                betas,
                "beta_fast",
                "a number not below beta_slow, both positive",
                format!("{beta_fast}, beta_slow {beta_slow}"),
            )?;
            let attention =
                attention_factor.is_none_or(|factor| factor.is_finite() && factor > 0.0);
            check(
                attention,
                "attention_factor",
                "a positive number",
                format!("{attention_factor:?}"),
            )
        }
    }
}

fn check_tokens(dense: &DenseConfig, file: &Path) -> Result<(), LoadError> {
    let out_of_range = |id: &u32| *id as usize >= dense.vocab_size;
    let expected = || format!("below the vocabulary's {} rows", dense.vocab_size);
    if let Some(id) = dense.eos_token_ids.iter().find(|id| out_of_range(id)) {
        return Err(config_error(
            file,
            "eos_token_id",
            expected(),
            id.to_string(),
        ));
    }
    match dense.pad_token_id.filter(out_of_range) {
        Some(id) => Err(config_error(
            file,
            "pad_token_id",
            expected(),
            id.to_string(),
        )),
        None => Ok(()),
    }
}

pub(super) fn config_error(file: &Path, field: &str, expected: String, found: String) -> LoadError {
    LoadError::Config {
        file: file.to_path_buf(),
        field: field.to_owned(),
        expected,
        found,
    }
}
