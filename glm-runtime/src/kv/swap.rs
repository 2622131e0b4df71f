//! Room in host memory for the blocks of preempted sequences: [`SwapSpace`] decides over slots, [`SwapStore`] owns the bytes.

use glm_kernels::{Buffer, Device, KernelError};

use super::{BlockId, KvPool};

/// Room for one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwapSlot(pub u32);

/// Who has which slot: free + taken = all.
#[derive(Debug, Clone, Default)]
pub struct SwapSpace {
    /// The next to be handed out last: the memory that was touched is touched again.
    free: Vec<SwapSlot>,
    num_slots: usize,
}

impl SwapSpace {
    /// Slots `0..num_slots`, all free.
    pub fn new(num_slots: u32) -> Self {
        Self {
            free: (0..num_slots).rev().map(SwapSlot).collect(),
            num_slots: num_slots as usize,
        }
    }

    /// Number of slots, free or not.
    pub fn num_slots(&self) -> usize {
        self.num_slots
    }

    /// Number of slots that nobody has.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` slots, or none at all if fewer are free.
    pub fn take(&mut self, count: usize) -> Option<Vec<SwapSlot>> {
        let rest = self.free.len().checked_sub(count)?;
        Some(self.free.split_off(rest))
    }

    /// Takes slots back.
    pub fn give_back(&mut self, slots: Vec<SwapSlot>) {
        self.free.extend(slots.into_iter().rev());
        debug_assert!(self.free.len() <= self.num_slots, "a slot was given twice");
    }
}

/// The copies that a step begins with, one after the other: first out, for what comes in may take the places of what went out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockCopies {
    /// From the KV cache to host memory.
    pub out: Vec<(BlockId, SwapSlot)>,
    /// And back.
    pub back: Vec<(SwapSlot, BlockId)>,
}

impl BlockCopies {
    /// Whether there is nothing to copy.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.back.is_empty()
    }

    /// How many blocks are copied.
    pub fn len(&self) -> usize {
        self.out.len() + self.back.len()
    }
}

/// The bytes of the slots. The system gives the memory page by page as it is written first.
#[derive(Debug)]
pub struct SwapStore {
    bytes: Buffer,
    block_bytes: usize,
}

impl SwapStore {
    /// Room for `num_slots` blocks of this pool.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`] if there is not so much.
    pub fn new(device: &Device, pool: &KvPool, num_slots: usize) -> Result<Self, KernelError> {
        let block_bytes = pool.block_bytes();
        let bytes = num_slots.saturating_mul(block_bytes);
        Ok(Self {
            bytes: device.allocate_zeroed(bytes)?,
            block_bytes,
        })
    }

    /// Copies blocks between the pool and the slots.
    ///
    /// # Errors
    /// [`KernelError`] if the device fails; what was to be written then is in doubt.
    pub fn copy(&mut self, copies: &BlockCopies, pool: &mut KvPool) -> Result<(), KernelError> {
        for &(block, slot) in &copies.out {
            pool.read_block(block, self.slot(slot))?;
        }
        for &(slot, block) in &copies.back {
            pool.write_block(block, self.slot(slot))?;
        }
        Ok(())
    }

    /// # Panics
    /// If the slot is not there.
    fn slot(&mut self, slot: SwapSlot) -> &mut [u8] {
        let start = slot.0 as usize * self.block_bytes;
        &mut self.bytes.as_bytes_mut()[start..][..self.block_bytes]
    }
}
