//! The service as a program of its own, and what the operating system says of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A service that answers; it ends with this.
pub struct Program {
    child: Child,
    pub address: String,
}

impl Program {
    /// Starts `glm-cli serve` with these arguments, on a port that is free.
    ///
    /// # Panics
    /// If it is not there, or does not start.
    pub fn start(path: &Path, args: &[String]) -> Self {
        let mut child = Command::new(path)
            .args(["serve", "--port", "0"])
            .args(args)
            .env_remove("GLM_MODEL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo build` makes it", path.display()));
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim_end().strip_prefix("listening on http://");
        let address = address
            .unwrap_or_else(|| panic!("it said `{line}`"))
            .to_owned();
        Self { child, address }
    }

    /// `glm-cli` of the same build as this program, which lies in `deps` beside it.
    pub fn beside_this() -> PathBuf {
        let this = std::env::current_exe().expect("this program has a path");
        let folder = this.parent().and_then(Path::parent).expect("a folder");
        folder.join("glm-cli")
    }

    /// Bytes of memory that it has; 0 where that cannot be told.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
    }

    pub fn id(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds of processors that a process has taken; 0 where that cannot be told.
pub fn cpu_seconds(process: &str) -> f64 {
    // Linux counts hundredths of seconds for programs, whatever it counts for itself.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after.split_whitespace().skip(11).take(2);
    fields
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS
}
