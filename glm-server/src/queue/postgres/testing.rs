//! A PostgreSQL of the tests' own: started once in a process, on a socket in a temporary directory and behind TLS on a port of this machine,
//! gone when the process ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use super::{PostgresOptions, PostgresStore};

/// Where Debian keeps the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Set where tests without PostgreSQL are not good enough.
const REQUIRE: &str = "GLM_REQUIRE_POSTGRES";
/// Who runs the server where tests are run as root, which PostgreSQL refuses.
const USER: &str = "postgres";

/// Makes a cluster, runs it until standard input ends, which is when the tests do, and leaves nothing.
const RUN: &str = r#"
set -e
cp "$2/key.pem" "$2/server.key"
chmod 600 "$2/server.key"
"$1/initdb" -D "$2/data" -U glm -A trust -E UTF8 --locale=C --no-sync >"$2/log" 2>&1
"$1/pg_ctl" -D "$2/data" -w -t 60 -l "$2/log" -o "-k $2 -p $3 -c listen_addresses=127.0.0.1 -c ssl=on -c ssl_cert_file=$2/cert.pem -c ssl_key_file=$2/server.key -c fsync=off -c max_connections=200" start >/dev/null
echo ready
cat >/dev/null
"$1/pg_ctl" -D "$2/data" -m immediate stop >/dev/null
rm -rf "$2"
"#;

#[derive(Debug)]
struct Server {
    directory: PathBuf,
    port: u16,
    /// Its standard input is open for as long as the server is to run.
    _child: Child,
}

/// An empty store in a schema of its own, if there is a PostgreSQL to be had.
///
/// # Panics
/// If there is none and the environment asks for one, or it does not start.
pub(in super::super) fn store(options: PostgresOptions) -> Option<PostgresStore> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let schema = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let options = PostgresOptions { schema, ..options };
    Some(PostgresStore::open(&url()?, options).unwrap())
}

/// The database of the server.
pub(in super::super) fn url() -> Option<String> {
    let Server {
        directory, port, ..
    } = server()?;
    let socket = directory.to_str().unwrap().replace('/', "%2F");
    Some(format!("postgres://glm@{socket}:{port}/postgres"))
}

/// The same behind TLS, without saying whom to trust; and the certificate of the server, for `localhost`.
pub(super) fn url_with_tls() -> Option<(String, PathBuf)> {
    let server = server()?;
    let url = format!(
        "postgres://glm@localhost:{}/postgres?sslmode=verify-full",
        server.port
    );
    Some((url, server.directory.join("cert.pem")))
}

fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(start).as_ref()
}

fn start() -> Option<Server> {
    const ATTEMPTS: usize = 5;
    let Some(programs) = programs() else {
        assert!(
            env::var_os(REQUIRE).is_none(),
            "no PostgreSQL in {DEBIAN}: install the package postgresql"
        );
        eprintln!("SKIPPED: PostgreSQL is not tested: there is none in {DEBIAN}");
        return None;
    };
    let mut log = String::new();
    for _ in 0..ATTEMPTS {
        match start_once(&programs) {
            Ok(server) => return Some(server),
            Err(failed) => log = failed,
        }
    }
    panic!("PostgreSQL did not start: {log}");
}

/// Starts it on a port that is free now, which somebody else may take before the server does: then there is its log.
fn start_once(programs: &Path) -> Result<Server, String> {
    // Short: the path of a socket has at most 107 bytes.
    let directory = tempfile::Builder::new()
        .prefix("glm-pg")
        .tempdir()
        .unwrap()
        .keep();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), pair.cert.pem()).unwrap();
    fs::write(directory.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    // Free again once the listener is gone, which is at once.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.unwrap().port();
    let mut command = as_somebody(&directory);
    let mut child = command
        .args(["sh", "-c", RUN, "sh"])
        .args([programs, &directory])
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let stdout = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).unwrap();
    if said != "ready\n" {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        child.wait().unwrap();
        fs::remove_dir_all(&directory).unwrap();
        return Err(log);
    }
    Ok(Server {
        directory,
        port,
        _child: child,
    })
}

/// The newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    versions.filter(|bin| bin.join("initdb").exists()).max()
}

/// Runs what follows, as another user if this one is root; who then owns the directory.
fn as_somebody(directory: &Path) -> Command {
    let id = Command::new("id").arg("-u").output().unwrap();
    if id.stdout != b"0\n" {
        return Command::new("env");
    }
    let owned = Command::new("chown")
        .arg(USER)
        .arg(directory)
        .status()
        .unwrap();
    assert!(owned.success(), "there is no user {USER}");
    let mut command = Command::new("runuser");
    command.args(["-u", USER, "--"]);
    command
}

impl PostgresStore {
    /// Another store on the same tables, with connections of its own.
    pub(in super::super) fn again(&self) -> Self {
        Self::open(&url().unwrap(), self.options.clone()).unwrap()
    }
}
