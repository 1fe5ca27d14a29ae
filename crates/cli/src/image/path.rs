//! `VOLUME/PATH`, the name of a file inside a volume.

use crate::commands::check_name;
use crate::failure::{Failure, Outcome};
use weft_types::limits::MAX_NAME_BYTES;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImagePath {
    pub volume: String,
    /// Directories below the volume's root.
    pub directories: Vec<String>,
    pub name: String,
}

impl ImagePath {
    /// # Errors
    /// When there is no volume or no file name, or a name that cannot be.
    pub fn parse(text: &str) -> Outcome<Self> {
        let wrong = |why: &str| Failure::input(format!("`{text}` is no VOLUME/PATH: {why}, for example vms/disk.raw"));
        let Some((volume, path)) = text.split_once('/') else { return Err(wrong("it has no `/`")) };
        check_name("volume", volume)?;
        let mut names: Vec<String> = Vec::new();
        for name in path.split('/') {
            match name {
                "" => return Err(wrong("a name in it is empty")),
                "." | ".." => return Err(wrong("`.` and `..` are not resolved")),
                _ if name.len() > MAX_NAME_BYTES => return Err(wrong("a name in it has more than 255 bytes")),
                _ => names.push(name.to_owned()),
            }
        }
        let name = names.pop().ok_or_else(|| wrong("it names no file"))?;
        Ok(Self { volume: volume.to_owned(), directories: names, name })
    }

    /// The path below the volume's root.
    #[must_use]
    pub fn within_volume(&self) -> String {
        let mut names = self.directories.clone();
        names.push(self.name.clone());
        names.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_and_a_path_are_told_apart() {
        let path = ImagePath::parse("vms/a/b/disk.raw").unwrap();
        assert_eq!((path.volume.as_str(), path.name.as_str()), ("vms", "disk.raw"));
        assert_eq!(path.directories, ["a", "b"]);
        assert_eq!(path.within_volume(), "a/b/disk.raw");
        assert!(ImagePath::parse("vms/x").unwrap().directories.is_empty());
    }

    #[test]
    fn what_names_no_file_is_refused() {
        for bad in ["vms", "vms/", "/x", "vms//x", "vms/../x", "a b/x", &format!("vms/{}", "n".repeat(256))] {
            assert!(ImagePath::parse(bad).is_err(), "{bad}");
        }
    }
}
