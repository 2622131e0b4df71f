//! The whole numbers of a step: token ids, positions, slots, block tables.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

use crate::KernelError;
use crate::cuda::{CudaDevice, DeviceBuffer, DevicePtr};
use crate::tensor::bytes_of;

/// Lists that go to a device together start at multiples of so many numbers, 128 bytes: what a warp
/// reads at once.
const ALIGNMENT: usize = 32;

/// Numbers that an operation indexes with, on the host, and on a device when a kernel first asks.
///
/// A clone shares both. So the numbers of a step are copied to a device once, however many layers use
/// them, and all lists that were [packed](Indices::pack) together in one copy.
///
/// ```
/// use glm_kernels::Indices;
///
/// let rows = Indices::from([3, 1, 2]);
/// assert_eq!(rows.len(), 3);
/// assert_eq!(rows.max(), Some(3));
/// ```
#[derive(Clone)]
pub struct Indices {
    packed: Arc<Packed>,
    range: Range<usize>,
    max: Option<u32>,
}

/// Lists side by side.
#[derive(Default)]
struct Packed {
    values: Vec<u32>,
    /// What was copied to a device, and its address, which stays.
    copy: Mutex<Option<DeviceBuffer>>,
}

impl Indices {
    /// Lists that go to a device together.
    pub fn pack<const N: usize>(lists: [&[u32]; N]) -> [Self; N] {
        let mut values = Vec::with_capacity(lists.iter().map(|list| list.len() + ALIGNMENT).sum());
        let ranges = lists.map(|list| {
            let start = values.len();
            values.extend_from_slice(list);
            let range = start..values.len();
            values.resize(values.len().next_multiple_of(ALIGNMENT), 0);
            range
        });
        let packed = Arc::new(Packed {
            values,
            copy: Mutex::default(),
        });
        ranges.map(|range| Self::part(&packed, range))
    }

    fn part(packed: &Arc<Packed>, range: Range<usize>) -> Self {
        Self {
            max: packed.values[range.clone()].iter().copied().max(),
            packed: Arc::clone(packed),
            range,
        }
    }

    /// The largest number; it was looked for when the list was made.
    pub fn max(&self) -> Option<u32> {
        self.max
    }

    /// Where the numbers lie on `cuda`, after a copy if they are not there yet.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn cuda_ptr(&self, cuda: &CudaDevice) -> Result<DevicePtr, KernelError> {
        let mut copy = self
            .packed
            .copy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let there = copy.as_ref().filter(|buffer| cuda.owns(buffer));
        let start = match there {
            Some(buffer) => buffer.ptr(),
            None => {
                let values = &self.packed.values;
                let mut buffer = cuda.allocate(size_of_val(values.as_slice()))?;
                buffer.copy_in(0, bytes_of(values))?;
                copy.insert(buffer).ptr()
            }
        };
        Ok(start.offset(self.range.start * size_of::<u32>()))
    }
}

impl Deref for Indices {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.packed.values[self.range.clone()]
    }
}

impl From<Vec<u32>> for Indices {
    fn from(values: Vec<u32>) -> Self {
        let range = 0..values.len();
        let copy = Mutex::default();
        Self::part(&Arc::new(Packed { values, copy }), range)
    }
}

impl From<&[u32]> for Indices {
    fn from(values: &[u32]) -> Self {
        values.to_vec().into()
    }
}

impl<const N: usize> From<[u32; N]> for Indices {
    fn from(values: [u32; N]) -> Self {
        values.to_vec().into()
    }
}

impl Default for Indices {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl PartialEq for Indices {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Indices {}

impl std::fmt::Debug for Indices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_packed_are_those_that_were_given() {
        let long: Vec<u32> = (0..70).collect();
        let [a, b, c] = Indices::pack([&[5, 2], &[], &long]);
        assert_eq!((&*a, &*b, &*c), (&[5, 2][..], &[][..], &long[..]));
        assert_eq!((a.max(), b.max(), c.max()), (Some(5), None, Some(69)));
        assert_eq!(a, Indices::from([5, 2]));
    }
}
