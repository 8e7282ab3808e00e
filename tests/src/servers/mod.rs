//! What tests start in temporary folders, and what is gone when dropped.

mod folder;

pub use self::folder::Folder;
