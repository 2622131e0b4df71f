//! The directory of a zip archive whose entries are stored, as `torch.save` writes it (zip64 included).
//!
//! Layout: APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end).

use std::collections::HashMap;

use crate::error::LoadError;
use crate::source::SourceFile;

const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const END64_LOCATOR: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const END_BYTES: usize = 22;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: u64 = 30;
const ZIP64_EXTRA: u16 = 1;

/// The entries of an archive by name.
pub(super) struct Archive<'a> {
    file: &'a SourceFile,
    entries: HashMap<String, Entry>,
}

/// Where an entry's data lies in the file; checked to be inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl<'a> Archive<'a> {
    pub(super) fn read(file: &'a SourceFile) -> Result<Self, LoadError> {
        let (directory, mut count) = directory(file)?;
        let mut entries = HashMap::new();
        let mut rest = directory;
        while count > 0 {
            let (name, entry, after) = central_entry(file, rest)?;
            rest = after;
            count -= 1;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(error(
                    file,
                    &format!("zip entry `{name}`"),
                    "to appear once",
                    "there twice",
                ));
            }
        }
        Ok(Self { file, entries })
    }

    pub(super) fn entry(&self, name: &str) -> Option<Entry> {
        self.entries.get(name).copied()
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        let entry = self.entry(name)?;
        slice(self.file, entry.offset, entry.len)
    }

    /// The one entry whose name ends so.
    pub(super) fn only_entry_ending_with(&self, suffix: &str) -> Result<(&str, Entry), LoadError> {
        let mut found = self
            .entries
            .iter()
            .filter(|(name, _)| name.ends_with(suffix));
        match (found.next(), found.next()) {
            (Some((name, entry)), None) => Ok((name, *entry)),
            (first, _) => {
                let found = if first.is_some() { "several" } else { "none" };
                Err(error(
                    self.file,
                    &format!("zip entries named *{suffix}"),
                    "one",
                    found,
                ))
            }
        }
    }
}

/// The central directory's bytes and its number of entries.
fn directory(file: &SourceFile) -> Result<(&[u8], u64), LoadError> {
    let bytes = file.bytes();
    if !bytes.starts_with(&LOCAL.to_le_bytes()) {
        let found = bytes[..bytes.len().min(4)].escape_ascii().to_string();
        let expected = "`PK\\x03\\x04` (a zip archive, which torch.save writes since 1.6; load and save an older file again)";
        return Err(error(
            file,
            "the first bytes",
            expected,
            &format!("`{found}`"),
        ));
    }
    // The end record is followed by a comment of at most 65535 bytes.
    let tail_start = bytes.len().saturating_sub(END_BYTES + 0xffff);
    let tail = &bytes[tail_start..];
    let at = tail
        .windows(4)
        .rposition(|window| window == END.to_le_bytes())
        .map(|at| at + tail_start);
    let record = at.and_then(|at| bytes.get(at..at + END_BYTES));
    let (Some(at), Some(record)) = (at, record) else {
        return Err(LoadError::Truncated {
            file: file.path().to_path_buf(),
            what: "the zip directory (end record not found)".into(),
            expected: file.len() + 1,
            found: file.len(),
        });
    };
    let (mut count, mut len, mut offset) = (
        u64::from(u16_at(record, 10)),
        u64::from(u32_at(record, 12)),
        u64::from(u32_at(record, 16)),
    );
    let locator = at
        .checked_sub(20)
        .map(|start| &bytes[start..at])
        .filter(|locator| u32_at(locator, 0) == END64_LOCATOR);
    if let Some(locator) = locator {
        let end64 = slice(file, u64_at(locator, 8), 56).filter(|end64| u32_at(end64, 0) == END64);
        let end64 = end64.ok_or_else(|| {
            error(
                file,
                "the zip64 end record",
                "inside the file",
                "outside or damaged",
            )
        })?;
        (count, len, offset) = (u64_at(end64, 32), u64_at(end64, 40), u64_at(end64, 48));
    }
    let directory = slice(file, offset, len)
        .filter(|directory| count <= (directory.len() / CENTRAL_BYTES) as u64);
    let expected = format!("{count} entries in {len} bytes at {offset}");
    directory
        .map(|directory| (directory, count))
        .ok_or_else(|| {
            error(
                file,
                "the zip directory",
                &expected,
                &format!("a file of {} bytes", file.len()),
            )
        })
}

/// Parses the first entry of the central directory; returns its name, the place of its data and the rest.
fn central_entry<'a>(
    file: &SourceFile,
    directory: &'a [u8],
) -> Result<(String, Entry, &'a [u8]), LoadError> {
    let damaged = || {
        error(
            file,
            "a zip directory entry",
            "whole",
            "cut short or damaged",
        )
    };
    let fixed = directory
        .get(..CENTRAL_BYTES)
        .filter(|fixed| u32_at(fixed, 0) == CENTRAL)
        .ok_or_else(damaged)?;
    let (name_len, extra_len, comment_len) = (
        usize::from(u16_at(fixed, 28)),
        usize::from(u16_at(fixed, 30)),
        usize::from(u16_at(fixed, 32)),
    );
    let variable = &directory[CENTRAL_BYTES..];
    let name = variable.get(..name_len).ok_or_else(damaged)?;
    let extra = variable
        .get(name_len..name_len + extra_len)
        .ok_or_else(damaged)?;
    let rest = variable
        .get(name_len + extra_len + comment_len..)
        .ok_or_else(damaged)?;
    let name = String::from_utf8_lossy(name).into_owned();
    if u16_at(fixed, 10) != 0 {
        return Err(error(
            file,
            &format!("compression of zip entry `{name}`"),
            "0 (stored)",
            &u16_at(fixed, 10).to_string(),
        ));
    }
    let mut wide = zip64_fields(extra);
    let mut field = |at| match u32_at(fixed, at) {
        u32::MAX => wide.next().ok_or_else(damaged),
        narrow => Ok(u64::from(narrow)),
    };
    let (len, _compressed_len, header_offset) = (field(24)?, field(20)?, field(42)?);
    let header =
        slice(file, header_offset, LOCAL_BYTES).filter(|header| u32_at(header, 0) == LOCAL);
    let entry = header.and_then(|header| {
        let offset = header_offset
            + LOCAL_BYTES
            + u64::from(u16_at(header, 26))
            + u64::from(u16_at(header, 28));
        slice(file, offset, len).map(|_| Entry { offset, len })
    });
    let entry = entry.ok_or_else(|| LoadError::Truncated {
        file: file.path().to_path_buf(),
        what: format!("zip entry `{name}`"),
        expected: header_offset
            .saturating_add(LOCAL_BYTES)
            .saturating_add(len),
        found: file.len(),
    })?;
    Ok((name, entry, rest))
}

/// The 64-bit values of the zip64 extra field, which stand in for the 32-bit ones that are all ones.
fn zip64_fields(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut fields = Vec::new();
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(data) = extra.get(4..4 + len) else {
            break;
        };
        if id == ZIP64_EXTRA {
            fields = data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|chunk| u64::from_le_bytes(*chunk))
                .collect();
        }
        extra = &extra[4 + len..];
    }
    fields.into_iter()
}

fn slice(file: &SourceFile, offset: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    file.bytes().get(start..end)
}

/// The integer at a position that the caller has checked.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn error(file: &SourceFile, field: &str, expected: &str, found: &str) -> LoadError {
    LoadError::Header {
        file: file.path().to_path_buf(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}
