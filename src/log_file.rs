//! One file that records are appended to, whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::volume::{FilePath, OpenError, Volume};

/// An open file, and where its last whole record ends.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    /// Device and inode, to notice that the path leads elsewhere by now.
    id: (u64, u64),
    /// Set while half a record stands at the end: its start.
    torn: Option<u64>,
}

impl LogFile {
    /// Opens a file of the volume for appending.
    pub fn open(volume: &Volume, path: &FilePath) -> Result<Self, OpenError> {
        let file = volume.open_append(path)?;
        let status = file.metadata().map_err(OpenError::Io)?;
        Ok(Self { file, id: (status.dev(), status.ino()), torn: None })
    }

    /// Whether `path` still leads to this file: it may have been renamed or
    /// deleted under us.
    pub fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|status| (status.dev(), status.ino()) == self.id)
    }

    /// Appends requests that lie one behind the other in `bytes`, each up to
    /// one of `ends`. Returns how many are in the file whole, and what stopped
    /// the rest; of that nothing stays in the file.
    pub fn append(&mut self, bytes: &[u8], ends: &[usize]) -> (usize, io::Result<()>) {
        if let Err(error) = self.cut_back() {
            return (0, Err(error));
        }
        let (written, outcome) = self.write(bytes);
        let Err(error) = outcome else { return (ends.len(), Ok(())) };
        let whole = ends.partition_point(|end| *end <= written);
        let kept = whole.checked_sub(1).map_or(0, |last| ends[last]);
        let surplus = (written - kept) as u64;
        if surplus > 0 {
            self.torn = self.file.metadata().ok().map(|status| status.len().saturating_sub(surplus));
            // Tried now, so that nobody reads half a record; tried again before
            // the next append, should it fail.
            let _ = self.cut_back();
        }
        (whole, Err(error))
    }

    /// Writes until all is written or the system says no.
    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    fn cut_back(&mut self) -> io::Result<()> {
        if let Some(end) = self.torn {
            self.file.set_len(end)?;
            self.torn = None;
        }
        Ok(())
    }

    /// Puts what was written on disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
