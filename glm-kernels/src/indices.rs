//! The whole numbers of a step: token ids, positions, slots, block tables.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::cuda::{CudaDevice, DeviceBuffer, DevicePtr};
use crate::sample::{Ids, SampledIds};
use crate::tensor::bytes_of;
use crate::{KernelError, PendingSample};

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
    /// Which of them a device knows only.
    drawn: OnceLock<Drawn>,
    /// What was copied to a device, and its address, which stays.
    copy: Mutex<Option<Arc<DeviceBuffer>>>,
    /// What operations found out before they used the lists.
    checked: Mutex<Vec<(Range<usize>, Bound)>>,
}

/// Numbers that are ids of tokens that a device draws.
struct Drawn {
    ids: SampledIds,
    /// Where the first one is; the others are behind it.
    start: usize,
    /// Of which row each is the token.
    rows: Vec<u32>,
}

impl Drawn {
    fn range(&self) -> Range<usize> {
        self.start..self.start + self.rows.len()
    }
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
            max: packed.max(&range),
            packed: Arc::clone(packed),
            range,
        }
    }

    /// The list, which was made just now, with ids that may not be known yet: number `i` becomes that of the token of row
    /// `rows[i]` of `sample`, and those behind stay. Lists that were packed with it go along.
    ///
    /// Where a device draws the tokens, the ids never come here: whoever looks at the list sees the numbers that it was made
    /// with, and kernels see the ids, or 0 for rows without a token. They are less than there are columns of logits, so an
    /// operation takes them if its table is as long.
    ///
    /// # Errors
    /// [`KernelError::Length`] if there are more rows than numbers, [`KernelError::Index`] for a row that is not there,
    /// [`KernelError::Shared`] if the list was used before or has such ids already.
    pub fn drawn_by(&self, sample: &PendingSample, rows: &[u32]) -> Result<Self, KernelError> {
        let op = "Indices::drawn_by";
        if rows.len() > self.len() {
            return Err(KernelError::Length {
                op,
                name: "rows",
                expected: self.len(),
                found: rows.len(),
            });
        }
        let ids = sample.ids();
        if let Some(row) = rows.iter().find(|row| **row as usize >= ids.rows()) {
            return Err(KernelError::Index {
                op,
                name: "row",
                index: *row as usize,
                len: ids.rows(),
            });
        }
        match ids {
            Ids::Known(tokens) => {
                let mut values = self.to_vec();
                for (value, row) in values.iter_mut().zip(rows) {
                    *value = tokens[*row as usize].id.unwrap_or(0);
                }
                Ok(values.into())
            }
            Ids::OnDevice(ids) => {
                let drawn = Drawn {
                    ids: ids.clone(),
                    start: self.range.start,
                    rows: rows.to_vec(),
                };
                let used = self.lock_copy().is_some();
                if used || self.packed.drawn.set(drawn).is_err() {
                    return Err(KernelError::Shared { op });
                }
                Ok(Self::part(&self.packed, self.range.clone()))
            }
        }
    }

    /// The largest number; it was looked for when the list was made. Of ids that are not known the largest that they could be.
    pub fn max(&self) -> Option<u32> {
        self.max
    }

    /// Where the numbers lie on `cuda`, after a copy if they are not there yet.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn cuda_ptr(&self, cuda: &CudaDevice) -> Result<DevicePtr, KernelError> {
        let mut copy = self.lock_copy();
        let there = copy.as_ref().filter(|buffer| cuda.owns(buffer));
        let start = match there {
            Some(buffer) => buffer.ptr(),
            None => {
                let mut buffer = cuda.allocate(self.packed_bytes())?;
                self.packed.copy_to(cuda, &mut buffer)?;
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
    pub(crate) fn place(
        &self,
        cuda: &CudaDevice,
        place: &mut Arc<DeviceBuffer>,
    ) -> Result<(), KernelError> {
        let op = "Indices::place";
        let buffer = Arc::get_mut(place).ok_or(KernelError::Shared { op })?;
        self.packed.copy_to(cuda, buffer)?;
        *self.lock_copy() = Some(Arc::clone(place));
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
        let known = self.iter().find(|number| **number as usize >= len);
        let index = known.copied().or(self.max);
        Err(KernelError::Index {
            op,
            name,
            index: index.map_or(0, |index| index as usize),
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

    fn lock_copy(&self) -> MutexGuard<'_, Option<Arc<DeviceBuffer>>> {
        self.packed
            .copy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_checked(&self) -> MutexGuard<'_, Vec<(Range<usize>, Bound)>> {
        self.packed
            .checked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Packed {
    /// The largest number of a list.
    fn max(&self, range: &Range<usize>) -> Option<u32> {
        let largest = |range: Range<usize>| self.values[range].iter().copied().max();
        let Some((drawn, inside)) = self.drawn_in(range) else {
            return largest(range.clone());
        };
        let known = largest(range.start..inside.start).max(largest(inside.end..range.end));
        known.max(Some(drawn.ids.end - 1))
    }

    /// The ids that are not known, and which numbers of a list they are, if it has any.
    fn drawn_in(&self, range: &Range<usize>) -> Option<(&Drawn, Range<usize>)> {
        let drawn = self.drawn.get()?;
        let all = drawn.range();
        let inside = all.start.max(range.start)..all.end.min(range.end);
        (!inside.is_empty()).then_some((drawn, inside))
    }

    /// Copies all lists to a device, where ids that it draws are put in their places behind that.
    fn copy_to(&self, cuda: &CudaDevice, buffer: &mut DeviceBuffer) -> Result<(), KernelError> {
        buffer.copy_in(0, bytes_of(&self.values))?;
        let Some(drawn) = self.drawn.get() else {
            return Ok(());
        };
        let offset = drawn.start * size_of::<u32>();
        buffer.copy_in(offset, bytes_of(&drawn.rows))?;
        let list = buffer.ptr().offset(offset);
        // SAFETY: the rows were checked when they were given, and were copied there just now; the buffer is nobody else's.
        unsafe { drawn.ids.put(cuda, list, drawn.rows.len()) }
    }
}

impl Layout {
    /// Whether all that was found out is true of `lists` and those that were packed with it.
    pub(crate) fn fits(&self, lists: &Indices) -> bool {
        let packed = &lists.packed;
        let holds = |(range, bound): &(Range<usize>, Bound)| match bound {
            Bound::Below(end) => packed.max(range).is_none_or(|max| (max as usize) < *end),
            Bound::Same => {
                packed.drawn_in(range).is_none()
                    && packed.values[range.clone()] == self.values[range.clone()]
            }
        };
        packed.values.len() == self.values.len() && self.bounds.iter().all(holds)
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
