//! The page at `/`: a chat and a dashboard, for people who have nothing but a browser.
//!
//! It is files that browsers read as they are, under `assets/`, and it lies in the program: nothing is built, and nothing is fetched
//! from elsewhere. It is a client like any other: what it says to the service goes through the interface that is there for everybody,
//! with an API key if there must be one. So the files themselves are for everybody.
//!
//! What models say is shown as text nodes only; should that ever fail, the `Content-Security-Policy` lets no script run that is not one of
//! these files.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may do: talk to this service, and run and draw what comes from it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct Asset {
    name: &'static str,
    media_type: &'static str,
    text: &'static str,
}

macro_rules! asset {
    ($name:literal, $media_type:expr) => {
        Asset {
            name: $name,
            media_type: $media_type,
            text: include_str!(concat!("assets/", $name)),
        }
    };
}

const PAGE: Asset = asset!("index.html", HTML);

/// What the page asks for, under `/web/`.
const ASSETS: [Asset; 16] = [
    asset!("answer.js", SCRIPT),
    asset!("api.js", SCRIPT),
    asset!("chart.js", SCRIPT),
    asset!("chat.js", SCRIPT),
    asset!("dashboard.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("icon.svg", SVG),
    asset!("main.js", SCRIPT),
    asset!("markdown-view.js", SCRIPT),
    asset!("markdown.js", SCRIPT),
    asset!("message-view.js", SCRIPT),
    asset!("settings-view.js", SCRIPT),
    asset!("sse.js", SCRIPT),
    asset!("store.js", SCRIPT),
    asset!("style.css", CSS),
    asset!("theme.js", SCRIPT),
];

/// The page and its files. No key is needed for them: they hold nothing that is not in everybody's copy of the program.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(page))
        .route("/web/{name}", get(file))
}

async fn page(headers: HeaderMap) -> Response {
    respond(&PAGE, &headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => respond(asset, &headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn respond(asset: &Asset, request: &HeaderMap) -> Response {
    let tag = asset.tag();
    let known = request.get_all(IF_NONE_MATCH).iter();
    // A list of tags, weak ones among them if a proxy has compressed the file.
    let is_known = known
        .filter_map(|tags| tags.to_str().ok())
        .any(|tags| tags.contains(&tag));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        // Another version of the program has other files: the browser asks each time, and mostly hears that nothing has changed.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (OPENER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    let tag = HeaderValue::from_str(&tag).map(|tag| [(ETAG, tag)]).ok();
    match is_known {
        true => (StatusCode::NOT_MODIFIED, tag, headers).into_response(),
        false => (tag, headers, asset.text).into_response(),
    }
}

impl Asset {
    /// The `ETag`: another one for another text.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str, known: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(tag) = known {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let request = request.body(Body::empty()).unwrap();
        routes().oneshot(request).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// The quoted texts that follow `mark` in a file.
    fn quoted<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
        let rest = text.split(mark).skip(1);
        rest.map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[tokio::test]
    async fn everything_that_is_referred_to_is_there_and_nothing_else() {
        let page = text(ask("/", None).await).await;
        let mut wanted: Vec<_> = [quoted(&page, "href=\"/web/"), quoted(&page, "src=\"/web/")]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut seen = Vec::new();
        while let Some(name) = wanted.pop() {
            let response = ask(&format!("/web/{name}"), None).await;
            assert_eq!(response.status(), 200, "{name}");
            let text = text(response).await;
            wanted.extend(quoted(&text, " from \"./").into_iter().map(str::to_owned));
            seen.push(name);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ASSETS.map(|asset| asset.name));
    }

    #[tokio::test]
    async fn files_are_small_and_change_nothing_but_themselves() {
        let size: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(PAGE.text.len() + size < 100_000, "{size}");
        for asset in &ASSETS {
            assert!(!asset.text.contains("innerHTML"), "{}", asset.name);
            assert!(!asset.text.contains("eval("), "{}", asset.name);
        }
        // Neither would be run or used: the policy forbids it.
        assert!(!PAGE.text.contains("<script>") && !PAGE.text.contains(" style="));
    }

    #[tokio::test]
    async fn headers_keep_browsers_from_guessing_and_from_asking_for_the_same_twice() {
        let first = ask("/", None).await;
        let headers = first.headers();
        assert_eq!(headers[CONTENT_TYPE], HTML);
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(
            headers[CONTENT_SECURITY_POLICY]
                .to_str()
                .unwrap()
                .starts_with("default-src 'none';")
        );
        let tag = headers[ETAG].to_str().unwrap();
        for known in [tag, &format!("\"x\", W/{tag}")] {
            let again = ask("/", Some(known)).await;
            assert_eq!(
                (again.status().as_u16(), &again.headers()[ETAG]),
                (304, &headers[ETAG])
            );
            assert_eq!(text(again).await, "");
        }
        assert_eq!(ask("/", Some("\"x\"")).await.status(), 200);
        assert_ne!(ask("/web/main.js", None).await.headers()[ETAG], tag);
    }

    #[tokio::test]
    async fn there_are_no_other_files() {
        for path in [
            "/web/index.html",
            "/web/package.json",
            "/web/..%2fmod.rs",
            "/web/",
            "/web/a/b",
        ] {
            assert_eq!(ask(path, None).await.status(), 404, "{path}");
        }
    }
}
