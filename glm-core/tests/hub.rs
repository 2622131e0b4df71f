//! Downloads, resumed downloads and the cache, against a hub of a few lines on the loopback interface.
#![cfg(feature = "hub")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Model, assert_says};
use glm_core::{Checkpoint, LoadError, LoadErrorKind, OpenOptions, Progress};
use serde_json::json;

/// Whether the environment forbids what these tests are about, which then is said and not worked around.
fn told_to_stay_offline() -> bool {
    let told =
        std::env::var_os("HF_HUB_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0");
    if told {
        eprintln!(
            "skipped: HF_HUB_OFFLINE is set, and these tests download from the loopback interface"
        );
    }
    told
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves one repository, `owner/name`.
struct Hub {
    endpoint: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    /// Files whose next download breaks off half way, and how often.
    cut: HashMap<String, usize>,
    ignore_ranges: bool,
    /// `(path, first byte asked for)`, metadata requests (`bytes=0-0`) left out.
    requests: Vec<(String, usize)>,
}

impl Hub {
    fn serve(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            files,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &mut shared.lock().unwrap()); // a client that hangs up is not the server's failure
            }
        });
        Self { endpoint, state }
    }

    /// The files of a checkpoint directory.
    fn of(directory: &Path) -> Self {
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                std::fs::read(path).unwrap(),
            )
        };
        Self::serve(std::fs::read_dir(directory).unwrap().map(read).collect())
    }

    fn options(&self, cache: &Path) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.endpoint = Some(self.endpoint.clone());
        options.cache_dir = Some(cache.into());
        options
    }

    fn downloads(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

fn answer(mut stream: TcpStream, state: &mut State) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = line
            .strip_prefix("range: bytes=")
            .map(str::to_owned)
            .or(range);
    }
    if path.starts_with("/api/models/owner/name") {
        let siblings = state
            .files
            .keys()
            .map(|name| json!({ "rfilename": name }))
            .collect::<Vec<_>>();
        let body = json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    let name = path
        .strip_prefix(&format!("/owner/name/resolve/{COMMIT}/"))
        .unwrap_or_default();
    let Some(body) = state.files.get(name).cloned() else {
        return write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    let is_metadata = range.as_deref() == Some("0-0");
    let first = range
        .as_deref()
        .and_then(|range| range.split('-').next()?.parse().ok())
        .unwrap_or(0);
    if !is_metadata {
        state.requests.push((name.to_owned(), first));
    }
    if first >= body.len() {
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let part = match (is_metadata, state.ignore_ranges) {
        (true, _) => &body[..1],
        (false, true) => &body[..],
        (false, false) => &body[first..],
    };
    let total = body.len();
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{total}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        part.len(),
        first + part.len() - 1,
        name.replace('.', "-"),
    )?;
    match state
        .cut
        .get_mut(name)
        .filter(|left| **left > 0 && !is_metadata)
    {
        Some(left) => {
            *left -= 1;
            stream.write_all(&part[..part.len() / 2])
        }
        None => stream.write_all(part),
    }
}

/// Counts what it is told.
#[derive(Default)]
struct Counter(Mutex<Vec<(String, u64, u64, bool)>>);

impl Progress for Counter {
    fn begin(&self, what: &str, total: u64) {
        self.0
            .lock()
            .unwrap()
            .push((what.to_owned(), total, 0, false));
    }

    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().last_mut().unwrap().2 += bytes;
    }

    fn end(&self) {
        self.0.lock().unwrap().last_mut().unwrap().3 = true;
    }
}

fn checkpoint() -> (tempfile::TempDir, Hub) {
    let directory = Model::new("glm", true, false).write();
    std::fs::write(
        directory.path().join("README.md"),
        "not a part of the model",
    )
    .unwrap();
    std::fs::write(directory.path().join("modeling_glm.py"), "import os").unwrap();
    let hub = Hub::of(directory.path());
    (directory, hub)
}

#[test]
fn a_download_brings_what_the_model_needs_once() {
    if told_to_stay_offline() {
        return;
    }
    let (directory, hub) = checkpoint();
    let cache = tempfile::tempdir().unwrap();
    let counter = Arc::new(Counter::default());
    let mut options = hub.options(cache.path());
    options.progress = Some(counter.clone());
    let opened = Checkpoint::open_with("owner/name", &options).unwrap();
    assert_eq!(opened.name(), "owner/name");
    let local = common::open(directory.path()).unwrap();
    for info in local.tensors() {
        assert_eq!(
            opened.tensor(&info.name).unwrap().bytes,
            local.tensor(&info.name).unwrap().bytes
        );
    }
    assert_eq!(
        hub.downloads(),
        [
            ("config.json".to_owned(), 0),
            ("model.safetensors".to_owned(), 0)
        ]
    );
    for (what, total, advanced, ended) in counter.0.lock().unwrap().iter() {
        assert!(
            *total > 0 && total == advanced && *ended,
            "{what}: {advanced} of {total}, ended: {ended}"
        );
    }
    // The layout that huggingface_hub shares.
    let root = cache.path().join("models--owner--name");
    assert_eq!(
        std::fs::read_to_string(root.join("refs/main")).unwrap(),
        COMMIT
    );
    assert!(
        root.join("snapshots")
            .join(COMMIT)
            .join("config.json")
            .exists()
    );
    // From now on the cache is enough, whoever asks.
    Checkpoint::open_with("owner/name", &options).unwrap();
    options.offline = true;
    Checkpoint::open_with("owner/name", &options).unwrap();
    Checkpoint::open_with(&format!("owner/name@{COMMIT}"), &options).unwrap();
    assert_eq!(hub.downloads(), []);
    assert_says(
        Checkpoint::open_with("owner/name@v2", &options),
        &["not in the cache"],
    );
}

#[test]
fn a_connection_that_breaks_is_continued_where_it_stopped() {
    if told_to_stay_offline() {
        return;
    }
    let (_directory, hub) = checkpoint();
    let cache = tempfile::tempdir().unwrap();
    let size = hub.state.lock().unwrap().files["model.safetensors"].len();
    hub.state
        .lock()
        .unwrap()
        .cut
        .insert("model.safetensors".into(), 2);
    Checkpoint::open_with("owner/name", &hub.options(cache.path())).unwrap();
    let starts = hub
        .downloads()
        .into_iter()
        .filter(|(name, _)| name == "model.safetensors")
        .map(|(_, first)| first)
        .collect::<Vec<_>>();
    assert_eq!(starts, [0, size / 2, size / 2 + (size - size / 2) / 2]);
}

#[test]
fn a_download_given_up_is_continued_by_the_next_program() {
    if told_to_stay_offline() {
        return;
    }
    let (_directory, hub) = checkpoint();
    let cache = tempfile::tempdir().unwrap();
    let size = hub.state.lock().unwrap().files["model.safetensors"].len();
    hub.state
        .lock()
        .unwrap()
        .cut
        .insert("model.safetensors".into(), 3);
    let result = Checkpoint::open_with("owner/name", &hub.options(cache.path()));
    assert_eq!(result.as_ref().unwrap_err().kind(), LoadErrorKind::Network);
    assert_says(
        result,
        &[
            "cannot download model.safetensors of owner/name",
            &hub.endpoint,
        ],
    );
    hub.downloads();
    // Half a snapshot must not pass for a whole one, with or without the hub.
    let mut offline = hub.options(cache.path());
    offline.offline = true;
    assert_says(
        Checkpoint::open_with("owner/name", &offline),
        &["not in the cache"],
    );
    assert!(hub.downloads().is_empty());
    Checkpoint::open_with("owner/name", &hub.options(cache.path())).unwrap();
    let downloads = hub.downloads();
    assert!(
        downloads
            .iter()
            .all(|(name, first)| name == "model.safetensors" && *first > size / 2),
        "{downloads:?}"
    );
}

#[test]
fn a_partial_file_that_is_whole_or_too_long_is_no_obstacle() {
    if told_to_stay_offline() {
        return;
    }
    for surplus in [0, 1] {
        let (_directory, hub) = checkpoint();
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("models--owner--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let mut whole = hub.state.lock().unwrap().files["model.safetensors"].clone();
        whole.resize(whole.len() + surplus, 0);
        std::fs::write(blobs.join("model-safetensors.part"), whole).unwrap();
        Checkpoint::open_with("owner/name", &hub.options(cache.path())).unwrap();
    }
}

#[test]
fn a_server_that_ignores_ranges_does_not_leave_a_damaged_file() {
    if told_to_stay_offline() {
        return;
    }
    let (_directory, hub) = checkpoint();
    let cache = tempfile::tempdir().unwrap();
    hub.state.lock().unwrap().ignore_ranges = true;
    hub.state
        .lock()
        .unwrap()
        .cut
        .insert("model.safetensors".into(), 1);
    // The first attempt breaks off, the second appends a whole file to the half: noticed, removed, fetched again.
    Checkpoint::open_with("owner/name", &hub.options(cache.path())).unwrap();
}

#[test]
fn sharded_weights_are_preferred_to_pytorch_and_come_with_their_index() {
    if told_to_stay_offline() {
        return;
    }
    let model = Model::new("glm", true, false);
    let (first, second) = model.tensors.split_at(9);
    let map = |tensors: &[common::Tensor], file: &str| {
        tensors
            .iter()
            .map(|t| (t.name.clone(), json!(file)))
            .collect::<Vec<_>>()
    };
    let weight_map = map(first, "model-1.safetensors")
        .into_iter()
        .chain(map(second, "model-2.safetensors"))
        .collect::<serde_json::Map<_, _>>();
    let files = HashMap::from([
        ("config.json".to_owned(), model.config_text().into_bytes()),
        (
            "model.safetensors.index.json".into(),
            json!({ "weight_map": weight_map }).to_string().into_bytes(),
        ),
        ("model-1.safetensors".into(), common::safetensors(first)),
        ("model-2.safetensors".into(), common::safetensors(second)),
        ("pytorch_model.bin".into(), vec![0; 100]),
    ]);
    let hub = Hub::serve(files);
    let cache = tempfile::tempdir().unwrap();
    Checkpoint::open_with("owner/name@main", &hub.options(cache.path())).unwrap();
    assert!(
        hub.downloads()
            .iter()
            .all(|(name, _)| name != "pytorch_model.bin")
    );
}

#[test]
fn repositories_without_a_checkpoint_say_what_they_hold() {
    if told_to_stay_offline() {
        return;
    }
    let open = |files: &[&str]| -> Result<Checkpoint, LoadError> {
        let hub = Hub::serve(
            files
                .iter()
                .map(|name| ((*name).to_owned(), vec![1]))
                .collect(),
        );
        let cache = tempfile::tempdir().unwrap();
        Checkpoint::open_with("owner/name", &hub.options(cache.path()))
    };
    assert_says(
        open(&["README.md", "m-q4_k.gguf"]),
        &[
            "owner/name",
            "GGUF files (m-q4_k.gguf",
            "download one of them",
        ],
    );
    assert_says(
        open(&["config.json"]),
        &["owner/name", "without config.json and weights"],
    );
    let hub = Hub::serve(HashMap::new());
    let cache = tempfile::tempdir().unwrap();
    assert_says(
        Checkpoint::open_with("owner/other", &hub.options(cache.path())),
        &["cannot download", "owner/other", "404"],
    );
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    if told_to_stay_offline() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port(); // closed again at once
    let mut options = OpenOptions::default();
    options.endpoint = Some(format!("http://127.0.0.1:{port}/"));
    options.cache_dir = Some(cache.path().into());
    assert_says(
        Checkpoint::open_with("owner/name", &options),
        &[
            "cannot download",
            "owner/name",
            &format!("127.0.0.1:{port}"),
        ],
    );
}
