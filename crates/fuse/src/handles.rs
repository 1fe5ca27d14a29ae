//! File and directory handles that the kernel holds.

use crate::directories::DirectoryStream;
use crate::rollback::RollbackGuard;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::Mutex;
use weft_client::FileHandle;
use weft_types::ErrorKind;

/// One open file of the kernel.
pub struct OpenFile {
    pub file: FileHandle,
    pub rollback: RefCell<RollbackGuard>,
}

#[derive(Default)]
pub struct Handles {
    next: Cell<u64>,
    files: RefCell<HashMap<u64, Rc<OpenFile>>>,
    directories: RefCell<HashMap<u64, Rc<Mutex<DirectoryStream>>>>,
}

impl Handles {
    fn number(&self) -> u64 {
        let number = self.next.get() + 1;
        self.next.set(number);
        number
    }

    pub fn add_file(&self, file: FileHandle) -> fuser::FileHandle {
        let number = self.number();
        let open = OpenFile { file, rollback: RefCell::default() };
        self.files.borrow_mut().insert(number, Rc::new(open));
        fuser::FileHandle(number)
    }

    /// # Errors
    /// `Stale` for a number that was never given out; the kernel does not ask for such.
    pub fn file(&self, handle: fuser::FileHandle) -> Result<Rc<OpenFile>, ErrorKind> {
        self.files.borrow().get(&handle.0).cloned().ok_or(ErrorKind::Stale)
    }

    pub fn remove_file(&self, handle: fuser::FileHandle) -> Option<Rc<OpenFile>> {
        self.files.borrow_mut().remove(&handle.0)
    }

    pub fn add_directory(&self, stream: DirectoryStream) -> fuser::FileHandle {
        let number = self.number();
        self.directories.borrow_mut().insert(number, Rc::new(Mutex::new(stream)));
        fuser::FileHandle(number)
    }

    /// # Errors
    /// As `file`.
    pub fn directory(&self, handle: fuser::FileHandle) -> Result<Rc<Mutex<DirectoryStream>>, ErrorKind> {
        self.directories.borrow().get(&handle.0).cloned().ok_or(ErrorKind::Stale)
    }

    pub fn remove_directory(&self, handle: fuser::FileHandle) {
        self.directories.borrow_mut().remove(&handle.0);
    }

    /// All files, for the end of the mount.
    pub fn take_files(&self) -> Vec<Rc<OpenFile>> {
        self.files.borrow_mut().drain().map(|(_, file)| file).collect()
    }
}
