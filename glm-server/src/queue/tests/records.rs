//! Records: any operations in any order answer as a map does.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use super::{cases, stores, wait};

#[derive(Debug, Clone)]
enum Op {
    /// With the version that it has now, or one beside it.
    Put {
        record: NewRecord,
        offset: u64,
    },
    Get(Key, Option<&'static str>),
    List(&'static str, Option<&'static str>, Paging<String>),
    Remove(Key, Option<&'static str>),
    Purge(i64),
}

type Key = (&'static str, &'static str);

fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(names)
}

fn tenant() -> impl Strategy<Value = Option<&'static str>> {
    proptest::option::of(one_of(&["a", "b"]))
}

fn key() -> impl Strategy<Value = Key> {
    (one_of(&["file", "batch"]), one_of(&["1", "2", "3"]))
}

fn op() -> impl Strategy<Value = Op> {
    let expires = proptest::option::of(0..10i64);
    let put = (key(), one_of(&["a", "b"]), any::<u8>(), expires, 0..3u64);
    let list = (one_of(&["file", "batch"]), tenant(), paging());
    prop_oneof![
        6 => put.prop_map(|((kind, id), tenant, value, expires, offset)| Op::Put {
            record: NewRecord {
                expires: expires.map(Timestamp::from_millis),
                ..NewRecord::new(kind, id, tenant, json!(value))
            },
            offset: offset / 2,
        }),
        2 => (key(), tenant()).prop_map(|(key, tenant)| Op::Get(key, tenant)),
        2 => list.prop_map(|(kind, tenant, paging)| Op::List(kind, tenant, paging)),
        1 => (key(), tenant()).prop_map(|(key, tenant)| Op::Remove(key, tenant)),
        1 => (0..10i64).prop_map(Op::Purge),
    ]
}

fn paging() -> impl Strategy<Value = Paging<String>> {
    let after = proptest::option::of(one_of(&["1", "2", "3"]));
    (after, 1..4usize, any::<bool>()).prop_map(|(after, limit, oldest_first)| Paging {
        after: after.map(Into::into),
        limit,
        oldest_first,
    })
}

#[derive(Debug, Default)]
struct Model(BTreeMap<(String, String), Record>);

impl Model {
    fn get(&self, (kind, id): Key, tenant: Option<&str>) -> Option<&Record> {
        let record = self.0.get(&(kind.to_owned(), id.to_owned()))?;
        tenant
            .is_none_or(|tenant| tenant == record.tenant)
            .then_some(record)
    }

    /// Answers the version that it has instead, if that is not the one expected.
    fn put(&mut self, new: NewRecord, expected: u64, now: Timestamp) -> Result<u64, u64> {
        let key = (new.kind.clone(), new.id.clone());
        let before = self.0.get(&key);
        let own = before.filter(|before| before.tenant == new.tenant);
        let found = own.map_or(0, |own| own.version);
        if found != expected || before.is_some() != own.is_some() {
            return Err(found);
        }
        let record = Record {
            kind: new.kind,
            id: new.id,
            tenant: new.tenant,
            value: new.value,
            version: expected + 1,
            created: own.map_or(now, |own| own.created),
            expires: new.expires,
        };
        self.0.insert(key, record);
        Ok(expected + 1)
    }

    fn list(&self, kind: &str, tenant: Option<&str>, paging: &Paging<String>) -> Page<Record> {
        let mut records: Vec<_> = self.0.values().cloned().collect();
        if !paging.oldest_first {
            records.reverse();
        }
        records.retain(|record| {
            record.kind == kind
                && tenant.is_none_or(|tenant| tenant == record.tenant)
                && paging
                    .after
                    .as_ref()
                    .is_none_or(|after| match paging.oldest_first {
                        true => record.id > *after,
                        false => record.id < *after,
                    })
        });
        let has_more = records.len() > paging.limit;
        records.truncate(paging.limit);
        Page {
            items: records,
            has_more,
        }
    }
}

fn apply(store: &dyn Store, model: &mut Model, op: Op, now: Timestamp) {
    match op {
        Op::Put { record, offset } => {
            let key = (record.kind.clone(), record.id.clone());
            let expected = model.0.get(&key).map_or(0, |record| record.version) + offset;
            let put = wait(store.put_record(record.clone(), expected, now));
            match model.put(record, expected, now) {
                Ok(version) => assert_eq!(put.unwrap(), version),
                Err(version) => assert!(
                    matches!(put, Err(StoreError::Changed { found, .. }) if found == version)
                ),
            }
        }
        Op::Get(key, tenant) => {
            let record = wait(store.record(key.0, key.1, tenant)).unwrap();
            assert_eq!(record.as_ref(), model.get(key, tenant));
        }
        Op::List(kind, tenant, paging) => {
            let page = wait(store.records(kind, tenant, paging.clone())).unwrap();
            assert_eq!(page, model.list(kind, tenant, &paging));
        }
        Op::Remove(key, tenant) => {
            let removed = wait(store.remove_record(key.0, key.1, tenant)).unwrap();
            assert_eq!(removed, model.get(key, tenant).is_some());
            if removed {
                model.0.remove(&(key.0.to_owned(), key.1.to_owned()));
            }
        }
        Op::Purge(millis) => {
            let before = model.0.len();
            let now = Timestamp::from_millis(millis);
            model
                .0
                .retain(|_, record| record.expires.is_none_or(|expires| expires > now));
            let purged = wait(store.purge(100, now)).unwrap();
            assert_eq!(purged as usize, before - model.0.len());
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn records_are_as_a_map_of_them(ops in vec(op(), 1..50)) {
        for store in stores() {
            let mut model = Model::default();
            for (at, op) in ops.iter().enumerate() {
                apply(&*store, &mut model, op.clone(), Timestamp::from_millis(at as i64));
            }
        }
    }
}

#[test]
fn who_writes_a_record_must_know_how_it_is() {
    for store in stores() {
        let record = |value| NewRecord::new("batch", "b1", "t", json!(value));
        let now = Timestamp::from_millis(0);
        assert_eq!(wait(store.put_record(record(1), 0, now)).unwrap(), 1);
        let again = wait(store.put_record(record(2), 0, now)).unwrap_err();
        assert!(
            matches!(again, StoreError::Changed { found: 1, .. }),
            "{again}"
        );
        assert_eq!(again.kind(), ErrorKind::Conflict);
        assert_eq!(wait(store.put_record(record(2), 1, now)).unwrap(), 2);
        let late = wait(store.put_record(record(3), 1, now)).unwrap_err();
        assert!(
            matches!(late, StoreError::Changed { found: 2, .. }),
            "{late}"
        );
        let never = wait(store.put_record(record(3), u64::MAX, now)).unwrap_err();
        assert!(matches!(never, StoreError::Changed { .. }), "{never}");
    }
}
