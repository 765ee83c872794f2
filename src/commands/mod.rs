//! The commands, a file each; every one reads as its story.

pub(crate) mod proxy;
