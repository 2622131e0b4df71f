//! The keys and values of one layer, in blocks that sequences own one by one (arXiv:2309.06180).
//!
//! The blocks of a KV head follow each other, so that attention, which goes head by head, reads one
//! stretch of memory where a sequence's blocks have ids that follow each other. For each block and KV
//! head, keys lie as `[D, block_size]` and values as `[block_size, D]`. So both products of attention
//! run along contiguous memory with no sum across a vector: scores of a block's tokens side by side,
//! then outputs of a head's elements side by side.

mod e4m3;
mod q8_0;

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::cuda::DeviceBuffer;
use crate::memory::{Buffer, Element};
use crate::parallel::SharedMut;
use crate::{Device, Isa, KernelError};

pub(crate) use e4m3::E4m3;

const OP: &str = "KvLayer::new";

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvDType {
    /// 4 bytes per value, exact.
    F32,
    /// IEEE half precision; values beyond its range (±65504) are clamped to it.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 1 byte per value, and one f32 scale for each head and token.
    Q8_0,
    /// 1 byte per value: 4 bits of exponent and 3 of fraction (e4m3); values beyond its range (±448) are
    /// clamped to it.
    Fp8,
}

impl KvDType {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Fp8];

    /// The bytes that keys and values of one token take in one layer.
    pub fn bytes_per_token(self, num_kv_heads: usize, head_dim: usize) -> usize {
        2 * num_kv_heads * (head_dim * self.value_bytes() + self.scale_bytes())
    }

    /// The name that options take.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Fp8 => "fp8",
        }
    }

    fn value_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 | Self::Fp8 => 1,
        }
    }

    /// Bytes of scales per head and token.
    fn scale_bytes(self) -> usize {
        if self == Self::Q8_0 {
            size_of::<f32>()
        } else {
            0
        }
    }
}

impl std::fmt::Display for KvDType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for KvDType {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL
            .into_iter()
            .find(|dtype| dtype.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| KernelError::UnknownKvDType(name.to_owned()))
    }
}

/// Keys and values of one layer: `num_blocks` blocks of `block_size` tokens. Slot `s` is token `s %
/// block_size` of block `s / block_size`.
#[derive(Debug)]
pub struct KvLayer {
    device: Device,
    dtype: KvDType,
    num_blocks: usize,
    block_size: usize,
    num_kv_heads: usize,
    head_dim: usize,
    keys: Buffer,
    values: Buffer,
    key_scales: Buffer,
    value_scales: Buffer,
    /// Where keys and values are on a graphics processor; then nothing is in the buffers above.
    cuda: Option<CudaKv>,
}

/// Keys and values on a graphics processor, `[num_blocks, KVH, block_size, D]` each: a block is one
/// stretch of memory, and a token's key lies as its value does, as tensor cores want both.
#[derive(Debug)]
pub(crate) struct CudaKv {
    pub keys: DeviceBuffer,
    pub values: DeviceBuffer,
}

impl KvLayer {
    /// Blocks of zeros.
    ///
    /// # Errors
    /// [`KernelError::Value`] if a size is 0, [`KernelError::ShapeOverflow`] or
    /// [`KernelError::OutOfMemory`] if they are too large together, [`KernelError::Value`] if there
    /// are more slots than a `u32` can name, [`KernelError::NotOnCuda`] for [`KvDType::Q8_0`] there.
    pub fn new(
        device: &Device,
        dtype: KvDType,
        num_blocks: usize,
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, KernelError> {
        let sizes = [
            ("num_blocks", num_blocks),
            ("block_size", block_size),
            ("num_kv_heads", num_kv_heads),
            ("head_dim", head_dim),
        ];
        if let Some((name, found)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(KernelError::Value {
                op: OP,
                name,
                found,
                rule: "at least 1",
            });
        }
        let shape = [num_blocks, num_kv_heads, block_size, head_dim];
        let overflow = || KernelError::ShapeOverflow(shape.to_vec());
        let slots = num_blocks.checked_mul(block_size).ok_or_else(overflow)?;
        if u32::try_from(slots).is_err() {
            return Err(KernelError::Value {
                op: OP,
                name: "number of slots",
                found: slots,
                rule: "below 2^32",
            });
        }
        let heads = slots.checked_mul(num_kv_heads).ok_or_else(overflow)?;
        let value_bytes = heads
            .checked_mul(head_dim)
            .and_then(|len| len.checked_mul(dtype.value_bytes()))
            .ok_or_else(overflow)?;
        let scale_bytes = heads
            .checked_mul(dtype.scale_bytes())
            .ok_or_else(overflow)?;
        let cuda = CudaKv::new(device, dtype, value_bytes)?;
        let (value_bytes, scale_bytes) = match cuda {
            Some(_) => (0, 0),
            None => (value_bytes, scale_bytes),
        };
        Ok(Self {
            device: device.clone(),
            dtype,
            num_blocks,
            block_size,
            num_kv_heads,
            head_dim,
            keys: device.allocate_zeroed(value_bytes)?,
            values: device.allocate_zeroed(value_bytes)?,
            key_scales: device.allocate_zeroed(scale_bytes)?,
            value_scales: device.allocate_zeroed(scale_bytes)?,
            cuda,
        })
    }

    /// Where the memory is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How values are stored.
    pub fn dtype(&self) -> KvDType {
        self.dtype
    }

    /// The number of blocks.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Tokens in all blocks.
    pub fn num_slots(&self) -> usize {
        self.num_blocks * self.block_size
    }

    /// Heads of keys and values, `KVH`.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// The size of a head, `D`.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The bytes that keys, values and scales take together.
    pub fn byte_len(&self) -> usize {
        let host = self.planes().map(Buffer::len).iter().sum::<usize>();
        let cuda = self.cuda.as_ref();
        host + cuda.map_or(0, |cuda| cuda.keys.len() + cuda.values.len())
    }

    /// The bytes of one block: keys, values and scales of all its tokens and heads.
    pub fn block_bytes(&self) -> usize {
        self.byte_len() / self.num_blocks
    }

    /// Copies a block out, bit for bit: on the CPU, head by head its keys, its values and, for
    /// [`KvDType::Q8_0`], the scales of both, in this machine's byte order; elsewhere in the device's own. [`KvLayer::write_block`]
    /// puts it back, into any block of a layer of the same type and sizes on the same kind of device.
    ///
    /// # Errors
    /// [`KernelError::Index`] for a block that is not there, [`KernelError::Length`] unless `out`
    /// has [`KvLayer::block_bytes`] bytes.
    pub fn read_block(&self, block: usize, out: &mut [u8]) -> Result<(), KernelError> {
        self.check_block("KvLayer::read_block", block, out.len())?;
        if let Some(cuda) = &self.cuda {
            return cuda.read_block(block, out);
        }
        let mut rest = out;
        for head in 0..self.num_kv_heads {
            for plane in self.planes() {
                let (part, after) = rest.split_at_mut(self.part_bytes(plane));
                part.copy_from_slice(&plane.as_bytes()[self.part(plane, block, head)]);
                rest = after;
            }
        }
        Ok(())
    }

    /// Overwrites a block with what [`KvLayer::read_block`] copied out.
    ///
    /// # Errors
    /// As [`KvLayer::read_block`].
    pub fn write_block(&mut self, block: usize, bytes: &[u8]) -> Result<(), KernelError> {
        self.check_block("KvLayer::write_block", block, bytes.len())?;
        if let Some(cuda) = &mut self.cuda {
            return cuda.write_block(block, bytes);
        }
        let mut rest = bytes;
        for head in 0..self.num_kv_heads {
            for plane in 0..self.planes().len() {
                let (part, after) = rest.split_at(self.part_bytes(self.planes()[plane]));
                let range = self.part(self.planes()[plane], block, head);
                self.planes_mut()[plane].as_bytes_mut()[range].copy_from_slice(part);
                rest = after;
            }
        }
        Ok(())
    }

    /// That `op` has no kernel for the type on a graphics processor.
    pub(crate) fn not_on_cuda(&self, op: &'static str) -> KernelError {
        not_on_cuda(op, self.dtype)
    }

    /// Keys and values on a graphics processor, if they are there.
    pub(crate) fn cuda(&self) -> Option<&CudaKv> {
        self.cuda.as_ref()
    }

    /// As [`KvLayer::cuda`], to write.
    pub(crate) fn cuda_mut(&mut self) -> Option<&mut CudaKv> {
        self.cuda.as_mut()
    }

    fn check_block(&self, op: &'static str, block: usize, len: usize) -> Result<(), KernelError> {
        if block >= self.num_blocks {
            return Err(KernelError::Index {
                op,
                name: "block",
                index: block,
                len: self.num_blocks,
            });
        }
        if len != self.block_bytes() {
            return Err(KernelError::Length {
                op,
                name: "bytes",
                expected: self.block_bytes(),
                found: len,
            });
        }
        Ok(())
    }

    /// What a block consists of; scales are empty but for [`KvDType::Q8_0`].
    fn planes(&self) -> [&Buffer; 4] {
        [
            &self.keys,
            &self.values,
            &self.key_scales,
            &self.value_scales,
        ]
    }

    fn planes_mut(&mut self) -> [&mut Buffer; 4] {
        [
            &mut self.keys,
            &mut self.values,
            &mut self.key_scales,
            &mut self.value_scales,
        ]
    }

    /// Bytes of one head of one block.
    fn part_bytes(&self, plane: &Buffer) -> usize {
        plane.len() / (self.num_blocks * self.num_kv_heads)
    }

    fn part(&self, plane: &Buffer, block: usize, head: usize) -> Range<usize> {
        let start = self.area(block, head) * self.part_bytes(plane);
        start..start + self.part_bytes(plane)
    }

    /// The keys of a block's head, `[D, block_size]`; `T` must be the stored type.
    pub(crate) fn keys<T: Element>(&self, block: usize, head: usize) -> &[T] {
        let len = self.head_dim * self.block_size;
        &self.keys.as_slice_of()[self.area(block, head) * len..][..len]
    }

    /// The values of a block's head, `[block_size, D]`; `T` must be the stored type.
    pub(crate) fn values<T: Element>(&self, block: usize, head: usize) -> &[T] {
        let len = self.head_dim * self.block_size;
        &self.values.as_slice_of()[self.area(block, head) * len..][..len]
    }

    /// The scales of a block's keys, `[block_size]`; only for [`KvDType::Q8_0`], as are those of
    /// the values.
    pub(crate) fn key_scales(&self, block: usize, head: usize) -> &[f32] {
        &self.key_scales.as_slice_of()[self.area(block, head) * self.block_size..]
            [..self.block_size]
    }

    /// The scales of a block's values, `[block_size]`.
    pub(crate) fn value_scales(&self, block: usize, head: usize) -> &[f32] {
        &self.value_scales.as_slice_of()[self.area(block, head) * self.block_size..]
            [..self.block_size]
    }

    /// One element of a key, widened: for the scalar reference.
    pub(crate) fn key(&self, block: usize, head: usize, offset: usize, d: usize) -> f32 {
        let index = d * self.block_size + offset;
        match self.dtype {
            KvDType::F32 => self.keys::<f32>(block, head)[index],
            KvDType::F16 => self.keys::<f16>(block, head)[index].to_f32(),
            KvDType::BF16 => self.keys::<bf16>(block, head)[index].to_f32(),
            KvDType::Fp8 => self.keys::<E4m3>(block, head)[index].to_f32(),
            KvDType::Q8_0 => {
                f32::from(self.keys::<i8>(block, head)[index])
                    * self.key_scales(block, head)[offset]
            }
        }
    }

    /// One element of a value, widened: for the scalar reference.
    pub(crate) fn value(&self, block: usize, head: usize, offset: usize, d: usize) -> f32 {
        let index = offset * self.head_dim + d;
        match self.dtype {
            KvDType::F32 => self.values::<f32>(block, head)[index],
            KvDType::F16 => self.values::<f16>(block, head)[index].to_f32(),
            KvDType::BF16 => self.values::<bf16>(block, head)[index].to_f32(),
            KvDType::Fp8 => self.values::<E4m3>(block, head)[index].to_f32(),
            KvDType::Q8_0 => {
                f32::from(self.values::<i8>(block, head)[index])
                    * self.value_scales(block, head)[offset]
            }
        }
    }

    /// Access for threads that write different heads.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        let planes = match self.dtype {
            KvDType::F32 => Planes::F32(
                SharedMut::new(self.keys.as_slice_of_mut()),
                SharedMut::new(self.values.as_slice_of_mut()),
            ),
            KvDType::F16 => Planes::F16(
                SharedMut::new(self.keys.as_slice_of_mut()),
                SharedMut::new(self.values.as_slice_of_mut()),
            ),
            KvDType::BF16 => Planes::BF16(
                SharedMut::new(self.keys.as_slice_of_mut()),
                SharedMut::new(self.values.as_slice_of_mut()),
            ),
            KvDType::Fp8 => Planes::Fp8(
                SharedMut::new(self.keys.as_slice_of_mut()),
                SharedMut::new(self.values.as_slice_of_mut()),
            ),
            KvDType::Q8_0 => Planes::Q8_0 {
                keys: SharedMut::new(self.keys.as_slice_of_mut()),
                values: SharedMut::new(self.values.as_slice_of_mut()),
                key_scales: SharedMut::new(self.key_scales.as_slice_of_mut()),
                value_scales: SharedMut::new(self.value_scales.as_slice_of_mut()),
            },
        };
        KvWriter {
            isa: self.device.isa(),
            planes,
            num_blocks: self.num_blocks,
            block_size: self.block_size,
            head_dim: self.head_dim,
        }
    }

    fn area(&self, block: usize, head: usize) -> usize {
        head * self.num_blocks + block
    }
}

fn not_on_cuda(op: &'static str, dtype: KvDType) -> KernelError {
    KernelError::NotOnCuda {
        op,
        what: format!("KV cache of type {dtype}"),
        instead: "bf16, f16, fp8 or f32",
    }
}

impl CudaKv {
    /// Zeros, if the device is a graphics processor.
    fn new(device: &Device, dtype: KvDType, bytes: usize) -> Result<Option<Self>, KernelError> {
        let Some(cuda) = device.as_cuda() else {
            return Ok(None);
        };
        if dtype == KvDType::Q8_0 {
            return Err(not_on_cuda(OP, dtype));
        }
        let zeros = || {
            let mut buffer = cuda.allocate_long_lived(bytes)?;
            buffer.fill(0)?;
            Ok::<_, KernelError>(buffer)
        };
        Ok(Some(Self {
            keys: zeros()?,
            values: zeros()?,
        }))
    }

    fn read_block(&self, block: usize, out: &mut [u8]) -> Result<(), KernelError> {
        let (keys, values) = out.split_at_mut(out.len() / 2);
        self.keys.copy_out(block * keys.len(), keys)?;
        self.values.copy_out(block * values.len(), values)
    }

    fn write_block(&mut self, block: usize, bytes: &[u8]) -> Result<(), KernelError> {
        let (keys, values) = bytes.split_at(bytes.len() / 2);
        self.keys.copy_in(block * keys.len(), keys)?;
        self.values.copy_in(block * values.len(), values)
    }
}

/// Stores keys and values; made by [`KvLayer::writer`].
pub(crate) struct KvWriter<'a> {
    isa: Isa,
    planes: Planes<'a>,
    num_blocks: usize,
    block_size: usize,
    head_dim: usize,
}

/// Keys and values in their stored type.
enum Planes<'a> {
    F32(SharedMut<'a, f32>, SharedMut<'a, f32>),
    F16(SharedMut<'a, f16>, SharedMut<'a, f16>),
    BF16(SharedMut<'a, bf16>, SharedMut<'a, bf16>),
    Fp8(SharedMut<'a, E4m3>, SharedMut<'a, E4m3>),
    Q8_0 {
        keys: SharedMut<'a, i8>,
        values: SharedMut<'a, i8>,
        key_scales: SharedMut<'a, f32>,
        value_scales: SharedMut<'a, f32>,
    },
}

/// Where one head of one token lies.
#[derive(Clone, Copy)]
struct Place {
    /// Counts the blocks of all heads.
    area: usize,
    /// The token within its block.
    offset: usize,
}

impl KvWriter<'_> {
    /// Stores the key and the value (`[D]` each) of one head at a slot.
    ///
    /// # Panics
    /// If the slot or the head is not there.
    ///
    /// # Safety
    /// No other thread may store to the same head at the same time.
    pub(crate) unsafe fn store(&self, slot: usize, head: usize, key: &[f32], value: &[f32]) {
        let place = Place {
            area: head * self.num_blocks + slot / self.block_size,
            offset: slot % self.block_size,
        };
        // SAFETY: areas of different heads are disjoint, and the caller promises that no other
        // thread has this head.
        unsafe {
            match &self.planes {
                Planes::F32(keys, values) => {
                    self.store_key(keys, place, key, |x, out| out.copy_from_slice(x));
                    self.store_value(values, place, value, |x, out| out.copy_from_slice(x));
                }
                Planes::F16(keys, values) => {
                    self.store_key(keys, place, key, narrow_to_f16);
                    self.store_value(values, place, value, narrow_to_f16);
                }
                Planes::BF16(keys, values) => {
                    self.store_key(keys, place, key, |x, out| out.convert_from_f32_slice(x));
                    self.store_value(values, place, value, |x, out| out.convert_from_f32_slice(x));
                }
                Planes::Fp8(keys, values) => {
                    self.store_key(keys, place, key, narrow_to_e4m3);
                    self.store_value(values, place, value, narrow_to_e4m3);
                }
                Planes::Q8_0 {
                    keys,
                    values,
                    key_scales,
                    value_scales,
                } => {
                    let scale_at = place.area * self.block_size + place.offset;
                    let scale = q8_0::scale(self.isa, key);
                    key_scales.slice(scale_at, 1)[0] = scale;
                    self.store_key(keys, place, key, |x, out| {
                        q8_0::to_bytes(self.isa, x, scale, out)
                    });
                    let scale = q8_0::scale(self.isa, value);
                    value_scales.slice(scale_at, 1)[0] = scale;
                    self.store_value(values, place, value, |x, out| {
                        q8_0::to_bytes(self.isa, x, scale, out)
                    });
                }
            }
        }
    }

    /// # Safety
    /// As [`KvWriter::store`].
    unsafe fn store_key<T: Copy + Default>(
        &self,
        keys: &SharedMut<'_, T>,
        place: Place,
        key: &[f32],
        narrow: impl Fn(&[f32], &mut [T]),
    ) {
        let len = self.head_dim * self.block_size;
        // SAFETY: the area belongs to one head, and the caller promises that no other thread has
        // it.
        let area = unsafe { keys.slice(place.area * len, len) };
        let mut narrowed = [T::default(); CHUNK];
        let rows = area.chunks_mut(CHUNK * self.block_size);
        for (rows, key) in rows.zip(key.chunks(CHUNK)) {
            let narrowed = &mut narrowed[..key.len()];
            narrow(key, narrowed);
            for (row, x) in rows.chunks_exact_mut(self.block_size).zip(narrowed) {
                row[place.offset] = *x;
            }
        }
    }

    /// # Safety
    /// As [`KvWriter::store`].
    unsafe fn store_value<T>(
        &self,
        values: &SharedMut<'_, T>,
        place: Place,
        value: &[f32],
        narrow: impl Fn(&[f32], &mut [T]),
    ) {
        let start = (place.area * self.block_size + place.offset) * self.head_dim;
        // SAFETY: the area belongs to one head, and the caller promises that no other thread has
        // it.
        let row = unsafe { values.slice(start, self.head_dim) };
        narrow(value, row);
    }
}

/// Values that are converted at once: what the conversions of `half` make vectors of, on the stack.
const CHUNK: usize = 64;

/// The nearest e4m3, which is finite for what is.
fn narrow_to_e4m3(x: &[f32], out: &mut [E4m3]) {
    for (x, out) in x.iter().zip(out) {
        *out = E4m3::from_f32(*x);
    }
}

/// The nearest f16; a finite value stays finite, since an infinite value of a later token would
/// turn the zero weight that an earlier query gives it into NaN.
fn narrow_to_f16(x: &[f32], out: &mut [f16]) {
    let largest = f32::from(f16::MAX);
    let mut finite = [0.0; CHUNK];
    for (x, out) in x.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let finite = &mut finite[..x.len()];
        for (finite, x) in finite.iter_mut().zip(x) {
            *finite = x.clamp(-largest, largest);
        }
        out.convert_from_f32_slice(finite);
    }
}

#[cfg(test)]
mod tests;
