//! What is decided without a model.

use super::*;
use crate::kv::CacheSalt;

#[test]
fn adapters_and_tenants_separate_what_is_cached() {
    let tenant = |name: &str| CacheSalt::from(Some(name.to_owned()));
    let one = |salt: CacheSalt, id| salt.with_adapter(Some(AdapterId(id)));
    assert_eq!(one(tenant("a"), 1), one(tenant("a"), 1));
    for (left, right) in [
        (one(tenant("a"), 1), one(tenant("a"), 2)),
        (one(tenant("a"), 1), one(tenant("b"), 1)),
        (one(CacheSalt::default(), 0), CacheSalt::default()),
    ] {
        assert_ne!(left, right);
    }
}

#[test]
fn an_unknown_name_says_which_there_are() {
    let error = |loaded: &[&str]| {
        let loaded = loaded.iter().map(|&name| name.to_owned()).collect();
        UnknownAdapter {
            name: "sq".to_owned(),
            loaded,
        }
        .to_string()
    };
    assert_eq!(error(&[]), "no adapter `sq`; none is loaded");
    assert_eq!(error(&["law", "sql"]), "no adapter `sq`; loaded: law, sql");
}
