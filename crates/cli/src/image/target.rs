//! An image outside, to be written: complete under its name or not there at all.
//!
//! The bytes go to `NAME.weft-part` beside it, are synced, and take the name by rename.

use super::qemu::{self, Serve, ServedImage};
use crate::failure::{Failure, Outcome, While};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    Raw,
    Qcow2,
}

pub struct Target {
    path: PathBuf,
    draft: PathBuf,
    /// `None` once the draft has become the image.
    writer: Option<Writer>,
}

enum Writer {
    Raw(File),
    Served(Box<ServedImage>),
}

impl Target {
    /// # Errors
    /// When the image exists already or cannot be made.
    pub fn create(path: &Path, format: Format, size_bytes: u64) -> Outcome<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Failure::input(format!("{} exists already: remove it or choose another name", path.display())));
        }
        let mut name =
            path.file_name().ok_or_else(|| Failure::input(format!("{} names no file", path.display())))?.to_owned();
        name.push(".weft-part");
        let draft = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&draft).map_err(|e| {
            Failure::input(format!("could not create {}: {e}; free the name or choose another one", draft.display()))
        })?;
        let mut target = Self { path: path.to_path_buf(), draft, writer: None };
        target.writer = Some(match format {
            Format::Raw => {
                file.set_len(size_bytes).doing(format!("set the size of {}", target.draft.display()))?;
                Writer::Raw(file)
            }
            Format::Qcow2 => {
                drop(file);
                qemu::create_qcow2(&target.draft, size_bytes)?;
                Writer::Served(Box::new(ServedImage::start(&target.draft, "qcow2", Serve::Writable)?))
            }
        });
        Ok(target)
    }

    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Outcome {
        let written = match &mut self.writer {
            Some(Writer::Raw(file)) => file.write_all_at(bytes, offset),
            Some(Writer::Served(served)) => served.connection.write(offset, bytes),
            None => return Err(Failure::failed("the image is finished already")),
        };
        written.map_err(|error| self.could_not("write", &error))
    }

    fn could_not(&self, what: &str, error: &std::io::Error) -> Failure {
        let path = self.path.display();
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Failure::failed(format!(
                "the file system of {path} is full and nothing was left on it: free some space, or export to another one"
            ));
        }
        Failure::failed(format!("could not {what} {path}: {error}"))
    }

    /// Syncs the draft and gives it its name.
    ///
    /// # Errors
    /// What the file system says; then nothing is left behind.
    pub fn finish(mut self) -> Outcome {
        let doing = format!("finish {}", self.draft.display());
        match self.writer.take() {
            Some(Writer::Raw(file)) => file.sync_all().map_err(|error| self.could_not("finish", &error))?,
            Some(Writer::Served(mut served)) => {
                served.connection.flush().map_err(|error| self.could_not("finish", &error))?;
                served.finish()?;
            }
            None => {}
        }
        fs::rename(&self.draft, &self.path).doing(&doing)?;
        let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|directory| directory.sync_all()).doing(doing)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // After a rename there is no draft any more; after a failure it must not stay.
        self.writer = None;
        let _ = fs::remove_file(&self.draft);
    }
}
