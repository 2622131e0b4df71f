use glm_core::ModelConfig;
use glm_kernels::{CpuOptions, Device, KvDType};
use proptest::prelude::*;

use super::*;

fn pool(num_blocks: usize, dtype: KvDType) -> KvPool {
    let json = r#"{"model_type":"glm4","vocab_size":64,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":2,
        "num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"max_position_embeddings":64}"#;
    let config = ModelConfig::from_json(json, Path::new("config.json")).unwrap();
    let threads = Some(1);
    let device = Device::cpu(CpuOptions {
        threads,
        ..CpuOptions::default()
    })
    .unwrap();
    KvPool::new(&device, config.dense(), dtype, num_blocks).unwrap()
}

fn identity(model: &str) -> Identity {
    [("model".to_owned(), model.to_owned())].into()
}

fn salt(tenant: Option<&str>) -> CacheSalt {
    tenant.map(str::to_owned).into()
}

/// A prompt of whole blocks and one token more, so that every one of them can be found again.
fn prompt(blocks: &[u32]) -> Vec<u32> {
    let tokens = blocks.iter().flat_map(|&token| [token; BLOCK_SIZE]);
    tokens.chain([9]).collect()
}

/// An allocator, its pool, and the bytes that were written for each beginning of a text.
struct Cache {
    blocks: BlockAllocator,
    pool: KvPool,
}

/// The bytes that a block must have: made from the tenant and all tokens up to its end.
fn content(len: usize, tenant: Option<&str>, tokens: &[u32]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(format!("{tenant:?} {tokens:?}").as_bytes());
    let sum = crc.finalize().to_le_bytes();
    sum.into_iter().cycle().take(len).collect()
}

impl Cache {
    fn new(num_blocks: usize) -> Self {
        Self {
            blocks: BlockAllocator::new(num_blocks as u32),
            pool: pool(num_blocks, KvDType::F16),
        }
    }

    /// Runs a prompt to its end.
    fn run(&mut self, tenant: Option<&str>, tokens: &[u32]) {
        let table = self.start(tenant, tokens);
        self.blocks.release(table);
    }

    fn start(&mut self, tenant: Option<&str>, tokens: &[u32]) -> Vec<BlockId> {
        let salt = salt(tenant);
        let allocated = self.blocks.allocate_for(tokens, &salt).unwrap();
        let mut table = allocated.block_table;
        for at in allocated.num_cached_tokens / BLOCK_SIZE..tokens.len() / BLOCK_SIZE {
            let end = (at + 1) * BLOCK_SIZE;
            let bytes = content(self.pool.block_bytes(), tenant, &tokens[..end]);
            self.pool.write_block(table[at], &bytes).unwrap();
            let own = &tokens[at * BLOCK_SIZE..end];
            let prefix = self.blocks.prefix(&table, at, own, &salt).unwrap();
            self.blocks.share(&mut table, at, prefix);
        }
        table
    }

    /// How many blocks of a prompt are known; their bytes are checked.
    fn known(&mut self, tenant: Option<&str>, tokens: &[u32]) -> usize {
        let allocated = self.blocks.allocate_for(tokens, &salt(tenant)).unwrap();
        let known = allocated.num_cached_tokens / BLOCK_SIZE;
        let mut bytes = vec![0; self.pool.block_bytes()];
        for at in 0..known {
            let expected = content(bytes.len(), tenant, &tokens[..(at + 1) * BLOCK_SIZE]);
            let block = allocated.block_table[at];
            self.pool.read_block(block, &mut bytes).unwrap();
            assert_eq!(bytes, expected, "other keys and values");
        }
        self.blocks.release(allocated.block_table);
        known
    }

    fn save(&self, path: &Path) -> Result<SavedPrefixCache, PrefixCacheError> {
        save(path, &identity("a"), &self.blocks, &self.pool)
    }

    fn load(&mut self, path: &Path) -> Result<Option<Restored>, PrefixCacheError> {
        let restored = load(path, &identity("a"), &mut self.blocks, &mut self.pool);
        assert!(self.blocks.is_consistent());
        assert_eq!(self.blocks.num_free(), self.blocks.num_blocks());
        restored
    }
}

/// A file with what two tenants and nobody in particular said, and its bytes.
fn written(folder: &Path) -> (PathBuf, Vec<u8>) {
    let path = folder.join("cache");
    let mut cache = Cache::new(12);
    cache.run(None, &prompt(&[1, 2, 3]));
    cache.run(Some("x"), &prompt(&[1, 2]));
    cache.run(Some(""), &prompt(&[4]));
    let saved = cache.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let expected = SavedPrefixCache {
        blocks: 6,
        tokens: 6 * BLOCK_SIZE,
        bytes: bytes.len() as u64,
    };
    assert_eq!(saved, expected);
    (path, bytes)
}

#[test]
fn what_was_kept_is_found_by_its_own_tenant_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = written(folder.path());
    let mut cache = Cache::new(12);
    let restored = cache.load(&path).unwrap().unwrap();
    assert_eq!((restored.blocks, restored.damaged), (6, false));
    assert_eq!(cache.known(None, &prompt(&[1, 2, 3])), 3);
    assert_eq!(cache.known(Some("x"), &prompt(&[1, 2, 3])), 2);
    assert_eq!(cache.known(Some(""), &prompt(&[4])), 1);
    for (stranger, blocks) in [
        (Some("y"), [1]),
        (Some(""), [1]),
        (None, [4]),
        (Some("x"), [4]),
    ] {
        assert_eq!(cache.known(stranger, &prompt(&blocks)), 0, "{stranger:?}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "prompts are for their owner");
    }
}

#[test]
fn a_smaller_cache_takes_what_was_used_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let mut cache = Cache::new(12);
    for first in 1..=3 {
        cache.run(None, &prompt(&[first, 7, 8]));
    }
    cache.run(None, &prompt(&[2]));
    // One that is running has its blocks before all others.
    let table = cache.start(None, &prompt(&[1, 7]));
    cache.save(&path).unwrap();
    cache.blocks.release(table);
    let mut small = Cache::new(5);
    assert_eq!(small.load(&path).unwrap().unwrap().blocks, 5);
    let known = |blocks: &[u32]| {
        let mut copy = small.blocks.clone();
        let allocated = copy.allocate_for(&prompt(blocks), &salt(None)).unwrap();
        allocated.num_cached_tokens / BLOCK_SIZE
    };
    assert_eq!([known(&[1, 7, 8]), known(&[2, 7, 8])], [2, 1]);
    assert_eq!(
        known(&[3, 7, 8]),
        2,
        "what was used before that, from its beginning"
    );
}

#[test]
fn whatever_is_cut_off_or_changed_nothing_wrong_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = written(folder.path());
    let check = |damaged: &[u8]| {
        std::fs::write(&path, damaged).unwrap();
        let mut cache = Cache::new(12);
        let restored = cache.load(&path).ok().flatten();
        // `known` compares the bytes.
        let known = cache.known(None, &prompt(&[1, 2, 3]))
            + cache.known(Some("x"), &prompt(&[1, 2]))
            + cache.known(Some(""), &prompt(&[4]));
        let blocks = restored.map_or(0, |restored| restored.blocks);
        assert_eq!(known, blocks, "blocks that nobody wrote");
        restored
    };
    for len in 0..bytes.len() {
        let restored = check(&bytes[..len]);
        assert!(restored.is_none_or(|restored| restored.damaged), "{len}");
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let restored = check(&changed);
        assert!(restored.is_none_or(|restored| restored.damaged), "{at}");
    }
    assert!(!check(&[&bytes[..], b"more"].concat()).unwrap().damaged);
}

/// A file of these blocks, with sums that are right.
fn crafted(blocks: &[(Origin, u32)], count: usize) -> Vec<u8> {
    let mut out = Output::new(Vec::new());
    let header = Header {
        identity: identity("a"),
        blocks: count,
    };
    out.header(&header).unwrap();
    let bytes = vec![1; pool(1, KvDType::F16).block_bytes()];
    for (origin, token) in blocks {
        let known = KnownBlock {
            block: BlockId(0),
            origin: origin.clone(),
            tokens: [*token; BLOCK_SIZE],
        };
        out.block(&known, &bytes).unwrap();
    }
    out.file
}

#[test]
fn a_file_made_to_do_harm_does_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let start = || Origin::Start(salt(None));
    let cases = [
        // A block before that is not there, itself, one twice, and more than there are.
        (crafted(&[(start(), 1), (Origin::After(7), 2)], 2), 1),
        (crafted(&[(Origin::After(0), 1)], 1), 0),
        (crafted(&[(start(), 1), (start(), 1)], 2), 1),
        (crafted(&[(start(), 1)], usize::MAX), 1),
    ];
    for (bytes, blocks) in cases {
        std::fs::write(&path, bytes).unwrap();
        let restored = Cache::new(4).load(&path).unwrap().unwrap();
        assert_eq!((restored.blocks, restored.damaged), (blocks, true));
    }
    let magic = [&MAGIC[..], &[VERSION]].concat();
    let endless = [&magic[..], &[0xff; 64]].concat();
    std::fs::write(&path, endless).unwrap();
    assert!(matches!(
        Cache::new(4).load(&path),
        Err(PrefixCacheError::Damaged(_))
    ));
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut cache = Cache::new(4);
    for content in ["weights of somebody", "GLM"] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(
            cache.load(&path),
            Err(PrefixCacheError::NotOurs(_))
        ));
        assert!(matches!(
            cache.save(&path),
            Err(PrefixCacheError::NotOurs(_))
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    assert!(matches!(
        cache.save(folder.path()),
        Err(PrefixCacheError::NotOurs(_))
    ));
    assert!(matches!(
        cache.save(&folder.path().join("no/such")),
        Err(PrefixCacheError::Io {
            action: "write",
            ..
        })
    ));
    std::fs::write(&path, "").unwrap();
    assert!(cache.load(&path).unwrap().is_none(), "an empty file");
    assert!(cache.load(&folder.path().join("new")).unwrap().is_none());

    let (path, mut bytes) = written(folder.path());
    let other = load(&path, &identity("b"), &mut cache.blocks, &mut cache.pool);
    assert!(matches!(other, Err(PrefixCacheError::Mismatch { what, .. }) if what == "model"));
    bytes[MAGIC.len()] = 200;
    std::fs::write(&path, bytes).unwrap();
    let newer = cache.load(&path);
    assert!(matches!(
        newer,
        Err(PrefixCacheError::Version { found: 200, .. })
    ));
    cache.save(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_salt_without_end_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let mut cache = Cache::new(6);
    cache.run(Some(&"s".repeat(MAX_SALT_BYTES + 1)), &prompt(&[1, 2]));
    cache.run(Some(&"s".repeat(MAX_SALT_BYTES)), &prompt(&[1, 2]));
    assert_eq!(cache.save(&path).unwrap().blocks, 2);
    assert_eq!(Cache::new(6).load(&path).unwrap().unwrap().blocks, 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn everything_known_comes_back(
        texts in prop::collection::vec((0usize..3, prop::collection::vec(0u32..3, 1..4)), 1..12),
        num_blocks in 5usize..20,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let tenants = [None, Some("a"), Some("b")];
        let mut cache = Cache::new(num_blocks);
        for (tenant, text) in &texts {
            cache.run(tenants[*tenant], &prompt(text));
        }
        let saved = cache.save(&path).unwrap();
        prop_assert_eq!(saved.blocks, cache.blocks.num_cached());
        let mut again = Cache::new(num_blocks);
        let restored = again.load(&path).unwrap().unwrap();
        prop_assert_eq!(restored.blocks, saved.blocks);
        // What is forgotten next is the same, too: both caches lose the same blocks to a stranger.
        let known = [cache, again].map(|mut cache| {
            let stranger = cache.blocks.allocate(3).unwrap();
            cache.blocks.release(stranger);
            let known = |(tenant, text): &(usize, Vec<u32>)| {
                let mut copy = cache.blocks.clone();
                let allocated = copy.allocate_for(&prompt(text), &salt(tenants[*tenant]));
                allocated.unwrap().num_cached_tokens
            };
            texts.iter().map(known).collect::<Vec<_>>()
        });
        prop_assert_eq!(&known[0], &known[1]);
    }
}
