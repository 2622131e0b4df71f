//! What was measured.

use serde::Serialize;

use super::{Machine, Spread, percentile};
use crate::engine::ModelInfo;
use crate::profile::Summary;

/// Everything measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// The model's name, as it was given.
    pub model: String,
    /// Bytes of all weights in memory.
    pub weight_bytes: u64,
    /// One entry per depth and prompt length.
    pub prefill: Vec<Prefill>,
    /// One entry per depth and batch.
    pub decode: Vec<Decode>,
    /// Where it was measured.
    pub machine: Machine,
}

/// Prefill of one prompt: medians over the repeats, with the extremes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prefill {
    /// Prompt tokens computed.
    pub tokens: usize,
    /// Tokens of context before them.
    pub depth: usize,
    /// Prompt tokens per second, up to and including the first answer token.
    pub tok_s: f64,
    /// Slowest repeat.
    pub tok_s_min: f64,
    /// Fastest repeat.
    pub tok_s_max: f64,
    /// Time to first token of the whole prompt, `depth` included, in milliseconds.
    pub ttft_ms: f64,
    /// Arithmetic operations of the layers' matrices per second, in 1e9; a multiply-add is two. Attention is not counted.
    pub gop_s: f64,
    /// `gop_s` over the machine's measured peak for the weights' format, see [`Machine::peak_gop_s`].
    pub peak_share: f64,
    /// Number of measurements.
    pub repeat: usize,
    /// Where the time goes, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Summary>,
}

/// Decoding of `batch` sequences together: medians over the repeats, with the extremes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decode {
    /// Sequences decoded together.
    pub batch: usize,
    /// Tokens of context when the first measurement started.
    pub depth: usize,
    /// Tokens per sequence in each measurement.
    pub gen_tokens: usize,
    /// Tokens per second, all sequences together.
    pub tok_s: f64,
    /// Slowest repeat.
    pub tok_s_min: f64,
    /// Fastest repeat.
    pub tok_s_max: f64,
    /// Inter-token latency: median over the steps of all repeats, in milliseconds.
    pub itl_ms: f64,
    /// The latency that 95 of 100 steps do not exceed, in milliseconds.
    pub itl_p95_ms: f64,
    /// Bytes one step must read: the weights once, the keys and values of every sequence.
    pub bytes_per_step: u64,
    /// Bytes read per second, in GB/s (1e9 bytes).
    pub gb_s: f64,
    /// `gb_s` over the machine's measured read bandwidth.
    pub bandwidth_share: f64,
    /// Arithmetic operations of the matrices per second, in 1e9; a multiply-add is two.
    pub gop_s: f64,
    /// How near a step comes to the machine's limit: the larger of `bandwidth_share` and the share of the arithmetic peak.
    pub limit_share: f64,
    /// Number of measurements.
    pub repeat: usize,
    /// Where the time goes, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Summary>,
}

/// Seconds that the repeats of a prefill took.
pub(super) struct PrefillTimes {
    /// Of the measured tokens.
    pub measured: Vec<f64>,
    /// From the request to the first answer token.
    pub to_first_token: Vec<f64>,
}

impl Prefill {
    pub(super) fn new(
        (tokens, depth): (usize, usize),
        times: &PrefillTimes,
        model: &ModelInfo,
        machine: &Machine,
    ) -> Self {
        let rates: Vec<_> = times.measured.iter().map(|s| tokens as f64 / s).collect();
        let rate = Spread::of(&rates);
        let gop_s = rate.median * model.layer_operations as f64 / 1e9;
        Self {
            tokens,
            depth,
            tok_s: rate.median,
            tok_s_min: rate.min,
            tok_s_max: rate.max,
            ttft_ms: Spread::of(&times.to_first_token).median * 1e3,
            gop_s,
            peak_share: share(gop_s, machine.peak_gop_s(model)),
            repeat: rates.len(),
            profile: None,
        }
    }
}

impl Decode {
    /// `windows`: for each repeat, the seconds of its steps.
    pub(super) fn new(
        (batch, depth): (usize, usize),
        windows: &[Vec<f64>],
        model: &ModelInfo,
        machine: &Machine,
    ) -> Self {
        let gen_tokens = windows.first().map_or(0, Vec::len);
        let rates: Vec<_> = windows
            .iter()
            .map(|steps| (batch * steps.len()) as f64 / steps.iter().sum::<f64>())
            .collect();
        let steps = windows.concat();
        let rate = Spread::of(&rates);
        // At the middle of the first repeat; later ones read a little more.
        let context = (depth.max(1) + gen_tokens / 2) as u64;
        let bytes_per_step =
            model.weight_bytes_per_step + batch as u64 * context * model.kv_bytes_per_token;
        let gb_s = bytes_per_step as f64 * (rate.median / batch as f64) / 1e9;
        let operations = (model.layer_operations + model.head_operations) as f64;
        let gop_s = rate.median * operations / 1e9;
        let bandwidth_share = share(gb_s, machine.bandwidth_gb_s);
        Self {
            batch,
            depth,
            gen_tokens,
            tok_s: rate.median,
            tok_s_min: rate.min,
            tok_s_max: rate.max,
            itl_ms: Spread::of(&steps).median * 1e3,
            itl_p95_ms: percentile(&steps, 0.95) * 1e3,
            bytes_per_step,
            gb_s,
            bandwidth_share,
            gop_s,
            limit_share: bandwidth_share.max(share(gop_s, machine.peak_gop_s(model))),
            repeat: windows.len(),
            profile: None,
        }
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            bandwidth_gb_s: 40.0,
            f32_gflop_s: 100.0,
            int8_gop_s: Some(1000.0),
            ..Machine::default()
        }
    }

    fn model() -> ModelInfo {
        ModelInfo {
            weight_bytes_per_step: 1_000_000_000,
            kv_bytes_per_token: 1_000_000,
            layer_operations: 1_800_000_000,
            head_operations: 200_000_000,
            formats: vec![("q8_0".to_owned(), 1), ("f32".to_owned(), 1)],
            ..ModelInfo::default()
        }
    }

    #[test]
    fn decoding_is_held_against_the_nearer_limit() {
        let steps = vec![vec![0.05; 10], vec![0.04; 10], vec![0.06; 10]];
        let one = Decode::new((1, 0), &steps, &model(), &machine());
        assert!((one.tok_s - 20.0).abs() < 1e-9);
        assert_eq!(one.bytes_per_step, 1_006_000_000);
        assert!((one.gb_s - 20.12).abs() < 1e-9 && (one.limit_share - 0.503).abs() < 1e-9);
        let many = Decode::new((16, 0), &steps, &model(), &machine());
        assert!((many.gop_s - 640.0).abs() < 1e-9);
        assert!(
            (many.limit_share - 0.64).abs() < 1e-9,
            "arithmetic, not bandwidth"
        );
    }

    #[test]
    fn prefill_is_held_against_the_peak_of_the_weights_format() {
        let times = PrefillTimes {
            measured: vec![2.0, 1.0, 4.0],
            to_first_token: vec![3.0],
        };
        let prefill = Prefill::new((512, 4096), &times, &model(), &machine());
        assert!((prefill.tok_s - 256.0).abs() < 1e-9 && prefill.ttft_ms == 3000.0);
        assert!((prefill.gop_s - 460.8).abs() < 1e-9);
        assert!((prefill.peak_share - 0.4608).abs() < 1e-9);
    }
}
