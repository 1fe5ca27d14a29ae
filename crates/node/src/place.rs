//! A node's directory and its configuration: what every entry point is given.

use crate::config::{ConfigError, NodeConfig};
use crate::layout::NodeLayout;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct Place {
    pub layout: NodeLayout,
    pub config: NodeConfig,
}

impl Place {
    /// Reads the configuration: the given file, which has to exist, or `node.toml` in the directory if there is one.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value is out of bounds.
    pub fn open(directory: &Path, config_file: Option<&Path>) -> Result<Self, ConfigError> {
        let layout = NodeLayout::new(directory);
        let config = match config_file {
            Some(path) if !path.exists() => {
                let source = std::io::ErrorKind::NotFound.into();
                return Err(ConfigError::Unreadable { path: path.to_owned(), source });
            }
            Some(path) => NodeConfig::load(path)?,
            None => NodeConfig::load(&layout.config_file())?,
        };
        Ok(Self { layout, config })
    }

    /// The directories of the disks.
    pub fn disks(&self) -> impl Iterator<Item = PathBuf> {
        self.config.disks.iter().map(|disk| self.layout.disk(disk))
    }
}
