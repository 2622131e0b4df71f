//! The whole numbers of a step: token ids, positions, slots, block tables.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    copy: Mutex<Option<Arc<DeviceBuffer>>>,
    /// What operations found out before they used the lists.
    checked: Mutex<Vec<(Range<usize>, Bound)>>,
}

/// What the numbers of a list are, so that a kernel may use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// All below this.
    Below(usize),
    /// What they are, and no others.
    Same,
}

/// Lists as they were when launches were recorded that use them.
pub(crate) struct Layout {
    values: Vec<u32>,
    bounds: Vec<(Range<usize>, Bound)>,
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
            ..Packed::default()
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
                copy.insert(Arc::new(buffer)).ptr()
            }
        };
        Ok(start.offset(self.range.start * size_of::<u32>()))
    }

    /// Bytes that the list takes together with those that were packed with it.
    pub(crate) fn packed_bytes(&self) -> usize {
        size_of_val(self.packed.values.as_slice())
    }

    /// Copies the list, and those that were packed with it, to `place`, where kernels find them from now on.
    ///
    /// # Errors
    /// [`KernelError::Shared`] while other lists are there, [`KernelError::Index`] if there is no room; the device's.
    pub(crate) fn place(&self, place: &mut Arc<DeviceBuffer>) -> Result<(), KernelError> {
        let op = "Indices::place";
        let buffer = Arc::get_mut(place).ok_or(KernelError::Shared { op })?;
        buffer.copy_in(0, bytes_of(&self.packed.values))?;
        let mut copy = self
            .packed
            .copy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *copy = Some(Arc::clone(place));
        Ok(())
    }

    /// An error unless all numbers of this list, which the operation `op` calls `name`, are below `len`.
    ///
    /// # Errors
    /// [`KernelError::Index`].
    pub(crate) fn check_below(
        &self,
        op: &'static str,
        name: &'static str,
        len: usize,
    ) -> Result<(), KernelError> {
        if self.max.is_none_or(|max| (max as usize) < len) {
            self.checked(Bound::Below(len));
            return Ok(());
        }
        let index = self.iter().find(|number| **number as usize >= len);
        Err(KernelError::Index {
            op,
            name,
            index: index.map_or(0, |index| *index as usize),
            len,
        })
    }

    /// Notes what an operation has found out about the numbers: if its launches are recorded, they are repeated with
    /// such numbers only.
    pub(crate) fn checked(&self, bound: Bound) {
        let found = (self.range.clone(), bound);
        let mut checked = self.lock_checked();
        if !checked.contains(&found) {
            checked.push(found);
        }
    }

    /// What was found out about the list and those that were packed with it.
    pub(crate) fn layout(&self) -> Layout {
        Layout {
            values: self.packed.values.clone(),
            bounds: self.lock_checked().clone(),
        }
    }

    fn lock_checked(&self) -> MutexGuard<'_, Vec<(Range<usize>, Bound)>> {
        self.packed
            .checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layout {
    /// Whether all that was found out is true of `lists` and those that were packed with it.
    pub(crate) fn fits(&self, lists: &Indices) -> bool {
        let values = &lists.packed.values;
        let holds = |(range, bound): &(Range<usize>, Bound)| {
            let list = &values[range.clone()];
            match bound {
                Bound::Below(end) => list.iter().all(|value| (*value as usize) < *end),
                Bound::Same => *list == self.values[range.clone()],
            }
        };
        values.len() == self.values.len() && self.bounds.iter().all(holds)
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
        let packed = Packed {
            values,
            ..Packed::default()
        };
        Self::part(&Arc::new(packed), range)
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
