//! Keys, scopes and what is asked of requests, at the router.

use std::fs;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use serde_json::{Value, json};

use super::{AuthOptions, KeyError, hash_key, new_key};
use crate::http::error::ServeError;
use crate::http::limits::RateLimits;
use crate::http::options::{LiveOptions, ServeOptions};
use crate::http::tests::{ask, engine, get, polite, send, service};

/// A service that asks for keys: `owner`, and those of a file.
fn guarded(file: Option<(&str, &str)>) -> (tempfile::TempDir, Result<Router, ServeError>) {
    let dir = tempfile::tempdir().unwrap();
    let mut auth = AuthOptions::default();
    match file {
        Some((name, text)) => {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            auth.api_key_file = Some(path);
        }
        None => auth.api_key = Some("owner".to_owned()),
    }
    let (service, router) = service(ServeOptions {
        auth,
        ..ServeOptions::default()
    });
    let router = service.reload_files().map(|()| {
        service.start(engine(polite()));
        router
    });
    (dir, router)
}

fn with(path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = match path {
        "/v1/completions" => Request::post(path),
        _ => Request::get(path),
    };
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let body = json!({"prompt": "Hi", "max_tokens": 4}).to_string();
    request.body(Body::from(body)).unwrap()
}

async fn status(router: &Router, path: &str, headers: &[(&str, &str)]) -> u16 {
    send(router, with(path, headers)).await.status().as_u16()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_key_is_asked_for_everywhere_but_at_the_probes() {
    let (_dir, router) = guarded(None);
    let router = router.unwrap();
    for path in ["/healthz", "/livez", "/readyz", "/startupz"] {
        assert_eq!(status(&router, path, &[]).await, 200, "{path}");
    }
    for path in [
        "/v1/completions",
        "/v1/models",
        "/metrics",
        "/nowhere",
        "/v1/models/../metrics",
    ] {
        assert_eq!(status(&router, path, &[]).await, 401, "{path}");
    }
    for headers in [
        [("authorization", "Bearer owner")],
        [("authorization", "bearer owner")],
        [("x-api-key", "owner")],
    ] {
        assert_eq!(status(&router, "/v1/completions", &headers).await, 200);
    }
    assert_eq!(
        status(&router, "/nowhere", &[("x-api-key", "owner")]).await,
        404
    );
    for headers in [
        &[("authorization", "Bearer other")][..],
        &[("authorization", "Basic owner")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer owner, Bearer other")],
        &[("x-api-key", "")],
        // Two that differ: whichever a proxy has checked, it may be the other.
        &[
            ("authorization", "Bearer owner"),
            ("authorization", "Bearer other"),
        ],
        &[("authorization", "Bearer owner"), ("x-api-key", "other")],
    ] {
        assert_eq!(
            status(&router, "/v1/models", headers).await,
            401,
            "{headers:?}"
        );
    }
    let twice = [("authorization", "Bearer owner"), ("x-api-key", "owner")];
    assert_eq!(status(&router, "/v1/models", &twice).await, 200);
    let refused = send(&router, get("/v1/models")).await;
    assert_eq!(header(&refused, "www-authenticate"), "Bearer");
    let (_, body) = ask(&router, get("/v1/models")).await;
    assert_eq!(body["error"]["code"], "invalid_api_key");
}

#[tokio::test]
async fn a_file_gives_keys_scopes() {
    let file = format!(
        "[[key]]\nname = \"app\"\nhash = \"{}\"\nscopes = [\"inference\"]\n\n[[key]]\nname = \"scraper\"\nhash = \"{}\"\nscopes = [\"metrics\"]\n",
        hash_key("one"),
        hash_key("two"),
    );
    let (_dir, router) = guarded(Some(("keys.toml", &file)));
    let router = router.unwrap();
    let (app, scraper) = ([("x-api-key", "one")], [("x-api-key", "two")]);
    assert_eq!(status(&router, "/v1/models", &app).await, 200);
    assert_eq!(status(&router, "/metrics", &app).await, 403);
    assert_eq!(status(&router, "/metrics", &scraper).await, 200);
    let (refused, body) = ask(&router, with("/v1/completions", &scraper)).await;
    assert_eq!(
        (refused, &body["error"]["code"]),
        (403, &json!("insufficient_scope"))
    );

    let lines = format!("# ours\n\n{}\nplain-key\n", hash_key("hashed-key"));
    let (_dir, router) = guarded(Some(("keys", &lines)));
    let router = router.unwrap();
    for key in ["hashed-key", "plain-key"] {
        assert_eq!(
            status(&router, "/metrics", &[("x-api-key", key)]).await,
            200
        );
        assert_eq!(
            status(&router, "/debug/pprof/profile", &[("x-api-key", key)]).await,
            403
        );
    }
    assert_eq!(
        status(&router, "/metrics", &[("x-api-key", "# ours")]).await,
        401
    );
}

#[test]
fn a_wrong_file_is_refused_without_showing_what_is_in_it() {
    for (name, text, expected) in [
        ("keys", "# nobody\n", "has no key"),
        ("keys", "sha256:secret\n", "line 1"),
        (
            "keys.toml",
            "[[key]]\nname = \"a\"\nhash = \"secret\"\n",
            "key `a`",
        ),
        (
            "keys.toml",
            "[[key]]\nname = \"a\"\nscope = [\"secret\"]\n",
            "line 3",
        ),
        (
            "keys.toml",
            "[[key]]\nname = \"a\"\nhash = secret\n",
            "line 3",
        ),
    ] {
        let (_dir, router) = guarded(Some((name, text)));
        let error = router.err().unwrap().to_string();
        assert!(
            error.contains(expected) && !error.contains("secret"),
            "{error}"
        );
    }
    let (key, hash) = new_key().unwrap();
    assert!(key.len() > 60 && hash == hash_key(&key) && new_key().unwrap().0 != key);
    assert!(matches!(
        super::Access::open(&AuthOptions {
            api_key: Some(String::new()),
            ..AuthOptions::default()
        }),
        Err(ServeError::Keys(KeyError::NoKey))
    ));
}

#[tokio::test]
async fn keys_can_be_changed_while_it_runs_and_wrong_ones_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    fs::write(&path, "first").unwrap();
    let (service, router) = service(ServeOptions {
        auth: AuthOptions {
            api_key_file: Some(path.clone()),
            ..AuthOptions::default()
        },
        ..ServeOptions::default()
    });
    service.reload_files().unwrap();
    service.start(engine(polite()));
    let seen = async |key: &str| status(&router, "/v1/models", &[("x-api-key", key)]).await;
    assert_eq!((seen("first").await, seen("second").await), (200, 401));
    fs::write(&path, "second").unwrap();
    service.reload(LiveOptions::default()).unwrap();
    assert_eq!((seen("first").await, seen("second").await), (401, 200));
    fs::write(&path, "").unwrap();
    assert!(service.reload(LiveOptions::default()).is_err());
    assert_eq!(seen("second").await, 200);
}

#[tokio::test]
async fn what_a_key_has_left_is_said_and_kept() {
    let options = ServeOptions {
        live: LiveOptions {
            limits: RateLimits {
                requests_per_minute: Some(2),
                // Few, so that what is used does not come back before it is looked at.
                tokens_per_minute: Some(30),
            },
            ..LiveOptions::default()
        },
        ..ServeOptions::default()
    };
    let (service, router) = service(options);
    service.start(engine(polite()));
    let first = send(&router, with("/v1/completions", &[])).await;
    assert_eq!(header(&first, "x-ratelimit-limit-requests"), "2");
    assert_eq!(header(&first, "x-ratelimit-remaining-requests"), "1");
    let left: u32 = header(&first, "x-ratelimit-remaining-tokens")
        .parse()
        .unwrap();
    // A prompt of one or two tokens and four generated ones.
    assert!((20..30).contains(&left), "{left}");
    assert_eq!(status(&router, "/v1/completions", &[]).await, 200);
    // To look costs nothing, to ask does.
    assert_eq!(status(&router, "/v1/models", &[]).await, 200);
    let refused = send(&router, with("/v1/completions", &[])).await;
    assert_eq!(refused.status(), 429);
    let wait: u32 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let (_, body): (u16, Value) = ask(&router, with("/v1/completions", &[])).await;
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
    assert_eq!(body["error"]["type"], "requests");
    // Limits are changed while it runs.
    service.reload(LiveOptions::default()).unwrap();
    assert_eq!(status(&router, "/v1/completions", &[]).await, 200);
}

#[tokio::test]
async fn packed_bodies_are_refused() {
    let (service, router) = service(ServeOptions::default());
    service.start(engine(polite()));
    for (encoding, expected) in [("gzip", 415), ("identity", 200)] {
        let headers = [("content-encoding", encoding)];
        assert_eq!(
            status(&router, "/v1/completions", &headers).await,
            expected,
            "{encoding}"
        );
    }
}
