use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// A salt and all tokens up to the end of a block: what its keys and values depend on.
type Content = (u8, Vec<u32>);

/// A sequence as the scheduler runs it: computes its tokens, makes full blocks known, writes only after them.
#[derive(Debug, Clone)]
struct Holder {
    salt: u8,
    tokens: Vec<u32>,
    table: Vec<BlockId>,
    /// Whether it takes part in sharing.
    shares: bool,
}

/// An allocator, its users, and what was really written to each block.
struct Model {
    blocks: BlockAllocator,
    holders: Vec<Holder>,
    written: HashMap<BlockId, Content>,
}

#[derive(Debug, Clone)]
enum Action {
    Start {
        salt: u8,
        tokens: Vec<u32>,
        shares: bool,
    },
    /// One more token for one of the holders.
    Grow(usize, u32),
    End(usize),
}

fn salt(salt: u8) -> CacheSalt {
    Some(format!("tenant {salt}")).filter(|_| salt > 0).into()
}

/// Prompts of few different blocks, so that they often begin alike, and end anywhere.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    (prop::collection::vec(0u32..3, 0..4), 1..=BLOCK_SIZE).prop_map(|(full, rest)| {
        let full = full.into_iter().flat_map(|token| [token; BLOCK_SIZE]);
        full.chain(vec![1; rest]).collect()
    })
}

fn action() -> impl Strategy<Value = Action> {
    let start = (0u8..2, prompt(), prop::bool::weighted(0.9)).prop_map(|(salt, tokens, shares)| {
        Action::Start {
            salt,
            tokens,
            shares,
        }
    });
    prop_oneof![
        2 => start,
        3 => (0usize..16, 0u32..2).prop_map(|(holder, token)| Action::Grow(holder, token)),
        2 => (0usize..16).prop_map(Action::End),
    ]
}

impl Model {
    fn new(num_blocks: u32) -> Self {
        Self {
            blocks: BlockAllocator::new(num_blocks),
            holders: Vec::new(),
            written: HashMap::new(),
        }
    }

    fn run(&mut self, action: Action) {
        let chosen =
            |i: usize, holders: &[Holder]| (!holders.is_empty()).then(|| i % holders.len().max(1));
        match action {
            Action::Start {
                salt,
                tokens,
                shares,
            } => self.start(salt, tokens, shares),
            Action::Grow(i, token) => {
                if let Some(i) = chosen(i, &self.holders) {
                    self.grow(i, token);
                }
            }
            Action::End(i) => {
                if let Some(i) = chosen(i, &self.holders) {
                    let holder = self.holders.swap_remove(i);
                    self.blocks.release(holder.table);
                }
            }
        }
    }

    fn start(&mut self, tenant: u8, tokens: Vec<u32>, shares: bool) {
        let free = self.blocks.num_free();
        let allocated = if shares {
            self.blocks.allocate_for(&tokens, &salt(tenant))
        } else {
            self.blocks
                .allocate(blocks_for(tokens.len()))
                .map(Allocated::fresh)
        };
        let Some(Allocated {
            block_table,
            num_cached_tokens,
        }) = allocated
        else {
            assert!(
                free < blocks_for(tokens.len()),
                "refused although {free} were free"
            );
            return;
        };
        assert_eq!(block_table.len(), blocks_for(tokens.len()));
        assert!(
            num_cached_tokens < tokens.len(),
            "no token is left to compute"
        );
        assert_eq!(num_cached_tokens % BLOCK_SIZE, 0);
        for (at, block) in block_table[..num_cached_tokens / BLOCK_SIZE]
            .iter()
            .enumerate()
        {
            let expected = (tenant, tokens[..(at + 1) * BLOCK_SIZE].to_vec());
            assert_eq!(
                self.written[block], expected,
                "a hit on other keys and values"
            );
        }
        for other in self
            .holders
            .iter()
            .filter(|other| shares && other.shares && other.salt == tenant)
        {
            let alike = tokens
                .iter()
                .zip(&other.tokens)
                .take_while(|(a, b)| a == b)
                .count();
            let reusable = alike.min(tokens.len() - 1) / BLOCK_SIZE * BLOCK_SIZE;
            assert!(
                num_cached_tokens >= reusable,
                "a block that is held was not found"
            );
        }
        let mut holder = Holder {
            salt: tenant,
            tokens,
            table: block_table,
            shares,
        };
        self.compute(&mut holder, num_cached_tokens);
        self.holders.push(holder);
    }

    fn grow(&mut self, i: usize, token: u32) {
        let mut holder = self.holders[i].clone();
        let computed = holder.tokens.len();
        holder.tokens.push(token);
        let missing = blocks_for(holder.tokens.len()) - holder.table.len();
        let Some(fresh) = self.blocks.allocate(missing) else {
            assert_eq!(self.blocks.num_free(), 0);
            return;
        };
        holder.table.extend(fresh);
        self.compute(&mut holder, computed);
        self.holders[i] = holder;
    }

    /// Writes every token from `computed` on, and makes what became full known.
    fn compute(&mut self, holder: &mut Holder, computed: usize) {
        let len = holder.tokens.len();
        for at in computed / BLOCK_SIZE..blocks_for(len) {
            let block = holder.table[at];
            let end = len.min((at + 1) * BLOCK_SIZE);
            self.written
                .insert(block, (holder.salt, holder.tokens[..end].to_vec()));
        }
        if holder.shares {
            for at in computed / BLOCK_SIZE..len / BLOCK_SIZE {
                let tokens = &holder.tokens[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE];
                share(
                    &mut self.blocks,
                    &mut holder.table,
                    at,
                    tokens,
                    &salt(holder.salt),
                );
            }
        }
    }

    fn check(&self) {
        assert!(self.blocks.is_consistent());
        let held: HashSet<_> = self
            .holders
            .iter()
            .flat_map(|holder| &holder.table)
            .collect();
        assert_eq!(
            self.blocks.num_free() + held.len(),
            self.blocks.num_blocks()
        );
        assert!(self.blocks.num_cached() <= self.blocks.num_free());
        for holder in &self.holders {
            for (at, block) in holder.table.iter().enumerate() {
                let end = holder.tokens.len().min((at + 1) * BLOCK_SIZE);
                let own = (holder.salt, holder.tokens[..end].to_vec());
                assert_eq!(
                    self.written[block], own,
                    "somebody wrote over a block that is held"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_block_is_lost_written_over_or_shared_by_mistake(
        num_blocks in 0u32..24,
        actions in prop::collection::vec(action(), 0..60),
    ) {
        let mut model = Model::new(num_blocks);
        for action in actions {
            model.run(action);
            model.check();
        }
        while !model.holders.is_empty() {
            model.run(Action::End(0));
        }
        model.check();
        prop_assert_eq!(model.blocks.num_free(), model.blocks.num_blocks());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_forecast_comes_true(
        num_blocks in 1u32..24,
        actions in prop::collection::vec(action(), 0..40),
        leaves in prop::collection::vec(any::<bool>(), 16),
        tokens in prompt(),
        tenant in prop::option::weighted(0.9, 0u8..2),
    ) {
        let mut model = Model::new(num_blocks);
        actions.into_iter().for_each(|action| model.run(action));
        let salt = tenant.map(salt);
        let mut forecast = model.blocks.forecast(&tokens, salt.as_ref());
        let mut blocks = model.blocks.clone();
        for (holder, _) in model.holders.iter().zip(leaves).filter(|(_, leaves)| *leaves) {
            forecast.release(&holder.table);
            blocks.release(holder.table.clone());
        }
        let starts = match &salt {
            Some(salt) => blocks.allocate_for(&tokens, salt).is_some(),
            None => blocks.allocate(blocks_for(tokens.len())).is_some(),
        };
        prop_assert_eq!(forecast.fits(), starts);
    }

    #[test]
    fn what_is_forgotten_is_not_found_and_the_rest_goes_on(actions in prop::collection::vec(action(), 0..40)) {
        let mut model = Model::new(16);
        let (before, after) = actions.split_at(actions.len() / 2);
        before.iter().cloned().for_each(|action| model.run(action));
        model.blocks.forget_all();
        model.check();
        prop_assert_eq!(model.blocks.num_cached(), 0);
        prop_assert!(model.blocks.known_blocks().is_empty());
        // Nothing follows what is forgotten, so these may not share any more.
        model.holders.iter_mut().for_each(|holder| holder.shares = false);
        for action in after {
            model.run(action.clone());
            model.check();
        }
    }
}

fn share(
    blocks: &mut BlockAllocator,
    table: &mut [BlockId],
    at: usize,
    tokens: &[u32],
    salt: &CacheSalt,
) {
    let prefix = blocks.prefix(table, at, tokens, salt).unwrap();
    blocks.share(table, at, prefix);
}

/// Runs a prompt to its end and returns how many of its tokens were known.
fn run(blocks: &mut BlockAllocator, tokens: &[u32], salt: &CacheSalt) -> usize {
    let mut allocated = blocks.allocate_for(tokens, salt).unwrap();
    for (at, tokens) in tokens.chunks_exact(BLOCK_SIZE).enumerate() {
        share(blocks, &mut allocated.block_table, at, tokens, salt);
    }
    blocks.release(allocated.block_table);
    allocated.num_cached_tokens
}

#[test]
fn what_was_used_longest_ago_is_forgotten_first_and_a_beginning_last() {
    let mut blocks = BlockAllocator::new(5);
    let salt = CacheSalt::default();
    let known = |blocks: &BlockAllocator, token| {
        let prompt = [token; 2 * BLOCK_SIZE];
        blocks.index.longest(&prompt, &salt).len()
    };
    let prompt = |token| [token; 2 * BLOCK_SIZE + 1];
    run(&mut blocks, &prompt(7)[..32], &salt);
    run(&mut blocks, &prompt(8)[..32], &salt);
    assert_eq!(run(&mut blocks, &prompt(7), &salt), 2 * BLOCK_SIZE);
    assert_eq!(
        (known(&blocks, 7), known(&blocks, 8), blocks.num_cached()),
        (2, 2, 4)
    );
    // The block nobody knows goes first, then the end of what was used before the other, then its beginning.
    let mut seen = Vec::new();
    let mut taken = Vec::new();
    for _ in 0..5 {
        taken.extend(blocks.allocate(1).unwrap());
        seen.push((known(&blocks, 7), known(&blocks, 8)));
        assert!(blocks.is_consistent());
    }
    assert_eq!(seen, [(2, 2), (2, 1), (2, 0), (1, 0), (0, 0)]);
    assert_eq!(blocks.allocate(1), None);
    blocks.release(taken);
    assert_eq!((blocks.num_free(), blocks.num_cached()), (5, 0));
}

#[test]
fn two_who_compute_the_same_at_once_end_up_with_one_copy() {
    let mut blocks = BlockAllocator::new(8);
    let salt = CacheSalt::default();
    let prompt = [3; 2 * BLOCK_SIZE + 1];
    let mut tables = [0, 1].map(|_| blocks.allocate_for(&prompt, &salt).unwrap().block_table);
    assert_eq!(blocks.num_free(), 2);
    for table in &mut tables {
        for at in 0..2 {
            share(&mut blocks, table, at, &prompt[..BLOCK_SIZE], &salt);
        }
    }
    assert_eq!(tables[0][..2], tables[1][..2]);
    assert_ne!(tables[0][2], tables[1][2]);
    assert_eq!(blocks.num_free(), 4);
    tables.into_iter().for_each(|table| blocks.release(table));
    assert!(blocks.is_consistent());
    assert_eq!((blocks.num_free(), blocks.num_cached()), (8, 2));
}

#[test]
fn tenants_do_not_see_each_other() {
    let mut blocks = BlockAllocator::new(8);
    let prompt = [3; BLOCK_SIZE + 1];
    let salts = [None, Some("a".to_owned()), Some("b".to_owned())].map(CacheSalt::from);
    for salt in &salts {
        assert_eq!(run(&mut blocks, &prompt, salt), 0, "{salt:?}");
    }
    for salt in &salts {
        assert_eq!(run(&mut blocks, &prompt, salt), BLOCK_SIZE, "{salt:?}");
    }
}

#[test]
#[should_panic(expected = "released twice")]
fn a_double_release_is_caught() {
    let mut blocks = BlockAllocator::new(1);
    let taken = blocks.allocate(1).unwrap();
    blocks.release(taken.clone());
    blocks.release(taken);
}

#[test]
fn a_partial_block_counts_as_one() {
    assert_eq!(
        [0, 1, BLOCK_SIZE, BLOCK_SIZE + 1].map(blocks_for),
        [0, 1, 1, 2]
    );
}
