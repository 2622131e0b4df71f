//! [`RotatingFile`]: a log that begins anew with every day, and when it has grown too large.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use time::{Date, OffsetDateTime};

use super::LogFile;

pub(super) struct RotatingFile {
    options: LogFile,
    file: File,
    len: u64,
    day: Date,
}

impl RotatingFile {
    /// Goes on with the file that is there, unless it is of another day.
    pub(super) fn open(options: &LogFile) -> io::Result<Self> {
        let today = OffsetDateTime::now_utc().date();
        let file = append(&options.path)?;
        let metadata = file.metadata()?;
        let written = metadata.modified().map(OffsetDateTime::from);
        Ok(Self {
            options: options.clone(),
            file,
            len: metadata.len(),
            day: written.map_or(today, OffsetDateTime::date),
        })
    }

    fn write_at(&mut self, today: Date, line: &[u8]) -> io::Result<()> {
        let is_too_large = self.len + line.len() as u64 > self.options.max_bytes;
        if self.len > 0 && (is_too_large || today != self.day) {
            // Where it cannot be moved, it goes on: a long log is better than none.
            let _ = self.rotate();
        }
        self.day = today;
        self.len += line.len() as u64;
        self.file.write_all(line)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.options.path;
        let numbered = (1_u64..).map(|number| suffixed(path, &format!(".{}.{number}", self.day)));
        let free = numbered.into_iter().find(|path| !path.exists());
        fs::rename(path, free.ok_or(io::ErrorKind::AlreadyExists)?)?;
        self.file = append(path)?;
        self.len = 0;
        self.forget_oldest()
    }

    fn forget_oldest(&self) -> io::Result<()> {
        let path = &self.options.path;
        let name = suffixed(Path::new(path.file_name().unwrap_or_default()), ".");
        let name = name.to_string_lossy().into_owned();
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        // By day, then by number: `.9` comes before `.10`.
        let order = |path: &Path| {
            let name_of = path.file_name()?.to_str()?;
            let (day, number) = name_of.strip_prefix(&name)?.split_once('.')?;
            Some((day.to_owned(), number.parse::<u64>().ok()?))
        };
        let mut earlier: Vec<_> = fs::read_dir(dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter_map(|path| order(&path).map(|order| (order, path)))
            .collect();
        earlier.sort();
        let surplus = earlier.len().saturating_sub(self.options.keep);
        earlier
            .iter()
            .take(surplus)
            .try_for_each(|(_, path)| fs::remove_file(path))
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_at(OffsetDateTime::now_utc().date(), line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_of_one_day_and_bounded_in_size_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let options = LogFile {
            path: dir.path().join("glm.log"),
            max_bytes: 10,
            keep: 3,
        };
        let first = Date::from_ordinal_date(2031, 1).unwrap();
        let second = Date::from_ordinal_date(2031, 2).unwrap();
        let mut log = RotatingFile::open(&options).unwrap();
        for (day, line) in [
            (first, "1\n"),
            (first, "2\n"),
            (first, "0123456789 too long for one\n"),
            (first, "3\n"),
            (second, "4\n"),
            (second, "0123456\n"),
            (second, "5\n"),
        ] {
            log.write_at(day, line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        assert_eq!(read("glm.log"), "5\n");
        assert_eq!(read("glm.log.2031-01-02.1"), "4\n0123456\n");
        assert_eq!(read("glm.log.2031-01-01.3"), "3\n");
        assert_eq!(
            read("glm.log.2031-01-01.2"),
            "0123456789 too long for one\n"
        );
        // The oldest is forgotten.
        assert_eq!(read("glm.log.2031-01-01.1"), "");
        // What is there is gone on with.
        drop(log);
        let mut log = RotatingFile::open(&options).unwrap();
        assert_eq!(log.len, 2);
        let today = log.day;
        log.write_at(today, b"6\n").unwrap();
        assert_eq!(read("glm.log"), "5\n6\n");
    }
}
