//! Measurements as lines for people.

use std::fmt::Write as _;

use glm_runtime::ModelInfo;
use glm_runtime::bench::{BenchReport, Decode, Machine, Measurement, Prefill};
use glm_runtime::profile::{Row, Summary};
use indicatif::BinaryBytes;

/// The model and the limits of the machine.
pub fn heading(machine: &Machine, model: &ModelInfo) -> String {
    let mut peaks = format!("f32 {:.0}", machine.f32_gflop_s);
    for (name, rate) in [("bf16", machine.bf16_gflop_s), ("int8", machine.int8_gop_s)] {
        if let Some(rate) = rate {
            let _ = write!(peaks, ", {name} {rate:.0}");
        }
    }
    format!(
        "model     {}, {} of weights, {} of KV per token\n\
         machine   {}, {}, {} threads\n\
         limits    reads {:.1} GB/s, computes {peaks} GOP/s\n",
        model.name,
        BinaryBytes(model.weight_bytes),
        BinaryBytes(model.kv_bytes_per_token),
        machine.cpu,
        machine.isa,
        machine.threads,
        machine.bandwidth_gb_s,
    )
}

/// One measurement, and where its time goes if that is known.
pub fn measurement(measurement: &Measurement) -> String {
    let (line, profile) = match measurement {
        Measurement::Prefill(result) => (prefill(result), &result.profile),
        Measurement::Decode(result) => (decode(result), &result.profile),
        Measurement::Memory { .. } | Measurement::Machine(_) => return String::new(),
    };
    match profile {
        Some(summary) => format!("{line}\n{}", table(summary)),
        None => line,
    }
}

fn prefill(result: &Prefill) -> String {
    let Prefill {
        tokens,
        depth,
        tok_s,
        tok_s_min,
        tok_s_max,
        ttft_ms,
        gop_s,
        peak_share,
        ..
    } = result;
    format!(
        "prefill   {tokens:>5} tokens, depth {depth:>6}  {tok_s:>9.1} tok/s  ({tok_s_min:.1} to {tok_s_max:.1})  \
         TTFT {ttft_ms:.0} ms  {gop_s:.0} GOP/s, {:.0} % of the peak",
        100.0 * peak_share
    )
}

fn decode(result: &Decode) -> String {
    let Decode {
        batch,
        depth,
        tok_s,
        tok_s_min,
        tok_s_max,
        itl_ms,
        itl_p95_ms,
        gb_s,
        bandwidth_share,
        limit_share,
        ..
    } = result;
    let mut line = format!(
        "decode    batch {batch:>5}, depth {depth:>6}   {tok_s:>9.1} tok/s  ({tok_s_min:.1} to {tok_s_max:.1})  \
         ITL {itl_ms:.1} ms (p95 {itl_p95_ms:.1})  {gb_s:.1} GB/s, {:.0} % of this machine's",
        100.0 * bandwidth_share
    );
    if limit_share > bandwidth_share {
        let _ = write!(
            line,
            "; arithmetic limits: {:.0} % of the peak",
            100.0 * limit_share
        );
    }
    line
}

fn table(summary: &Summary) -> String {
    let mut text = format!(
        "          {} tokens in {} steps of {:.3} ms\n          {:<20}{:>6}{:>12}{:>8}{:>12}{:>9}{:>10}\n",
        summary.tokens,
        summary.steps,
        summary.step_ms,
        "per step",
        "calls",
        "ms",
        "share",
        "bytes",
        "GB/s",
        "GOP/s"
    );
    for row in &summary.rows {
        let Row {
            name,
            calls,
            ms,
            share,
            bytes,
            gb_s,
            gop_s,
        } = row;
        let blank_if_zero = |value: f64, digits: usize| match value {
            0.0 => String::new(),
            value => format!("{value:.digits$}"),
        };
        let size = match *bytes {
            0.0 => String::new(),
            bytes => BinaryBytes(bytes as u64).to_string(),
        };
        let _ = writeln!(
            text,
            "          {name:<20}{:>6}{ms:>12.3}{:>6.1} %{size:>12}{:>9}{:>10}",
            blank_if_zero(*calls, 0),
            100.0 * share,
            blank_if_zero(*gb_s, 1),
            blank_if_zero(*gop_s, 0),
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// Memory use.
pub fn footer(report: &BenchReport) -> String {
    match report.machine.peak_memory_bytes {
        Some(bytes) => format!("memory    {} at most\n", BinaryBytes(bytes)),
        None => String::new(),
    }
}
