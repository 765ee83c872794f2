//! The commands, a file each; every one reads as its story.

pub(crate) mod config;
pub(crate) mod list;
pub(crate) mod proxy;
