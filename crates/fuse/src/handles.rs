//! File and directory handles that the kernel holds.

use crate::directories::DirectoryStream;
use crate::rollback::RollbackGuard;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::Mutex;
use weft_client::FileHandle;
use weft_types::{Attributes, ErrorKind, InodeNumber};

/// One open file of the kernel.
pub struct OpenFile {
    pub file: FileHandle,
    pub rollback: RefCell<RollbackGuard>,
    /// Size that the kernel believes in, as far as it was told one; shared by all handles of the inode.
    pub kernel_size: Rc<Cell<u64>>,
}

#[derive(Default)]
pub struct Handles {
    next: Cell<u64>,
    files: RefCell<HashMap<u64, Rc<OpenFile>>>,
    directories: RefCell<HashMap<u64, Rc<Mutex<DirectoryStream>>>>,
    kernel_sizes: RefCell<HashMap<InodeNumber, Rc<Cell<u64>>>>,
}

/// From so many files on the closed ones are looked for.
const MAX_KERNEL_SIZES: usize = 4096;

impl Handles {
    fn number(&self) -> u64 {
        let number = self.next.get() + 1;
        self.next.set(number);
        number
    }

    pub fn add_file(&self, file: FileHandle) -> fuser::FileHandle {
        let number = self.number();
        let kernel_size = {
            let mut sizes = self.kernel_sizes.borrow_mut();
            // Those of files that are closed everywhere go when there are many.
            if sizes.len() > MAX_KERNEL_SIZES {
                sizes.retain(|_, size| Rc::strong_count(size) > 1);
            }
            Rc::clone(sizes.entry(file.inode()).or_insert_with(|| Rc::new(Cell::new(file.size_bytes()))))
        };
        let open = OpenFile { file, rollback: RefCell::default(), kernel_size };
        self.files.borrow_mut().insert(number, Rc::new(open));
        fuser::FileHandle(number)
    }

    /// The kernel is told a size.
    pub fn told(&self, attributes: &Attributes) {
        if let Some(size) = self.kernel_sizes.borrow().get(&attributes.inode) {
            size.set(attributes.size_bytes);
        }
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
