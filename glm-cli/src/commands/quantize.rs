//! `quantize`: writes a model as a GGUF file in another format.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use glm_runtime::quantize::{QuantizeError, QuantizeOptions, QuantizeReport, quantize_to_gguf};
use indicatif::BinaryBytes;
use serde_json::json;

use super::{open_source, refuse_cuda};
use crate::args::QuantizeArgs;
use crate::error::CliError;
use crate::terminal::{interrupt, output, progress};

pub fn run(args: &QuantizeArgs) -> Result<(), CliError> {
    refuse_cuda(args.model.device)?;
    let format = args
        .format
        .or(args.model.quantize)
        .ok_or_else(|| CliError::Usage("say which format: --format q4_k".to_owned()))?;
    let source = open_source(&args.model)?;
    let stop = Arc::new(AtomicBool::new(false));
    let _instead = interrupt::instead({
        let stop = Arc::clone(&stop);
        move || stop.store(true, Ordering::SeqCst)
    });
    let options = QuantizeOptions {
        format,
        overwrite: args.force,
        threads: args.model.threads,
        progress: progress::for_terminal(),
        stop: Some(stop),
    };
    let report =
        quantize_to_gguf(&source, &args.output, &options).map_err(|error| match error {
            QuantizeError::Stopped => CliError::Interrupted,
            QuantizeError::Write { .. } => CliError::failed(error),
            wrong => CliError::usage(wrong),
        })?;
    if args.json {
        output::print_json(&json!(report))
    } else {
        output::print(&describe(&report))
    }
}

fn describe(report: &QuantizeReport) -> String {
    format!(
        "{}: {} tensors, {} (was {}), {:.2} bits per weight\n",
        report.output.display(),
        report.tensors,
        BinaryBytes(report.bytes),
        BinaryBytes(report.source_bytes),
        report.bits_per_weight,
    )
}
