//! `doctor`: checks this machine, the environment and the model, and says how to mend what is wrong.

mod checks;

use std::fmt::Write;

use serde_json::json;

use self::checks::{Check, Status};
use crate::args::DoctorArgs;
use crate::error::CliError;
use crate::terminal::{output, style::Style};

pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let mut checks = vec![checks::isa()];
    checks.extend(checks::machine(args.model.threads));
    checks.extend([
        checks::processors(args.model.threads),
        checks::memory(),
        checks::cuda(args.model.device),
        checks::hub(&super::open_options(&args.model)),
    ]);
    let model =
        checks::model(&args.model).and_then(|model| Ok([model, checks::kv_cache(&args.model)?]));
    let model_error = match model {
        Ok(found) => {
            checks.extend(found);
            None
        }
        Err(error) => {
            checks.push(checks::unusable_model(&error));
            Some(error)
        }
    };
    output::print(&if args.json {
        report(&checks)
    } else {
        describe(&checks)
    })?;
    let failed = checks
        .iter()
        .filter(|check| check.status == Status::Wrong)
        .count();
    match (model_error, failed) {
        // The model alone: how a command that uses it would end.
        (Some(error), 1) => Err(error),
        (None, 0) => Ok(()),
        _ => Err(CliError::Failed(format!(
            "{failed} of {} checks found something wrong",
            checks.len()
        ))),
    }
}

fn report(checks: &[Check]) -> String {
    let entry = |check: &Check| json!({ "name": check.name, "status": check.status.word(), "found": check.found, "mend": check.mend });
    let well = checks.iter().all(|check| check.status != Status::Wrong);
    format!(
        "{}\n",
        json!({ "ok": well, "checks": checks.iter().map(entry).collect::<Vec<_>>() })
    )
}

fn describe(checks: &[Check]) -> String {
    let style = Style::stdout();
    let mut text = String::new();
    for check in checks {
        let word = match check.status {
            Status::Well => style.green("ok   "),
            Status::Note => style.yellow("note "),
            Status::Wrong => style.red("wrong"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{word}  {:<10} {}", check.name, check.found);
        if let Some(mend) = &check.mend {
            let _ = writeln!(text, "       {:<10} to mend: {mend}", "");
        }
    }
    text
}
